"""The GPU of this process: its driver, memory, clock, compiler of kernels, and the simulator that stands in for it."""
