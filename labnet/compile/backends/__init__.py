"""The backends that run a traced program: machine code on the CPU, and kernels on a GPU."""
