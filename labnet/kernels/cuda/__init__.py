"""NVIDIA GPUs: arrays in their memory that NumPy's own functions work on.

The body of an op is written once, in NumPy. An array of `array.DeviceArray` answers NumPy's protocols, so the same
body runs on a GPU: what it computes element by element is collected as an expression (`expressions`), and carried
out by one generated kernel where its values are needed (`elementwise`), or on the way into a sum (`reductions`).
Kernels are Python text that Numba compiles for the GPU, or that Numba's simulator runs where there is none.
"""
