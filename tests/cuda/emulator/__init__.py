"""A GPU made of NumPy: runs the PTX that a real one gets, behind the functions of ``libcuda.so.1``.

Numba's simulator runs the text of a kernel in Python. This runs what was compiled of it, launched by the same calls of
the driver: how arguments are packed, what was fused, graphs, copies that are still under way. Every access to memory is
checked: bounds, alignment, races between threads, and barriers that not all threads of a block reach.
"""

import functools
from typing import Any


def install() -> Any:
    """Have this process find the emulated GPU in the place of a driver, and return it."""
    from labnet.kernels.cuda.driver import driver
    from labnet.kernels.cuda.driver.gpu import current_gpu
    from labnet.kernels.cuda.kernels import matmul
    from tests.cuda.emulator.cublas import Cublas
    from tests.cuda.emulator.libcuda import Library

    library = Library()
    driver._library = lambda: library  # type: ignore[assignment,return-value]
    blas = functools.cache(lambda: matmul.Cublas(Cublas(library), current_gpu().stream))
    matmul._cublas = blas  # type: ignore[assignment]
    return library
