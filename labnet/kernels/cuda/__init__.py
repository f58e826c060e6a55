"""NVIDIA GPUs: arrays in their memory that NumPy's own functions work on.

The body of an op is written once, in NumPy. A `DeviceArray` answers NumPy's protocols, so the same body runs on a GPU.
Elementwise operations are collected as an expression (`codegen.expressions`). One generated kernel computes it where
its values are needed (`codegen.elementwise`), or on the way into a sum (`kernels.reduce`). Kernels are Python source
that Numba compiles for the GPU, or that Numba's simulator runs where there is none.

From low to high: `driver`, `codegen`, `array`, `kernels`, `protocols`. Each imports only what stands before it.
"""

from labnet.kernels.cuda.array.array import PROTOCOLS
from labnet.kernels.cuda.protocols import indexing, numpy_functions, numpy_ufuncs

PROTOCOLS.update(ufunc=numpy_ufuncs.call, function=numpy_functions.call, read=indexing.read, write=indexing.write)
