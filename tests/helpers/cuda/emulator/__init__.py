"""A GPU made of NumPy: runs the PTX that a real one gets, behind the functions of ``libcuda.so.1``.

Numba's simulator runs the source of a kernel in Python. This emulator runs the compiled kernel, launched by the calls
of the driver: packed arguments, fused operations, graphs, copies under way. Every access to memory is checked: bounds,
alignment, races between threads, and barriers that not all threads of a block reach.
"""

import functools
from typing import Any


def install() -> Any:
    """Have this process find the emulated GPU in the place of a driver, and return it."""
    from labnet.kernels.cuda.driver import driver
    from labnet.kernels.cuda.driver.gpu import current_gpu
    from labnet.kernels.cuda.kernels import matmul
    from tests.helpers.cuda.emulator.cublas import Cublas
    from tests.helpers.cuda.emulator.libcuda import Library

    library = Library()
    driver._library = lambda: library  # type: ignore[assignment,return-value]
    blas = functools.cache(lambda: matmul.Cublas(Cublas(library), current_gpu().stream))
    matmul._cublas = blas  # type: ignore[assignment]
    return library
