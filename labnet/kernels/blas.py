"""NumPy's own BLAS for compiled code: the same library, so the same bits and no second thread pool.

The functions have the names of NumPy's wheels. Under other names, kernels that need BLAS are not available.
"""

import ctypes
import functools
from collections.abc import Callable

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

#: Symbols of the functions in compiled code; all sizes are 64-bit integers.
SGEMM, SGEMV, SDOT, DGEMM = "labnet_sgemm", "labnet_sgemv", "labnet_sdot", "labnet_dgemm"
_PATTERNS = ("scipy_cblas_{}64_", "cblas_{}64_")
_THREADS = ("scipy_openblas_get_num_threads64_", "openblas_get_num_threads64_")


def library() -> ctypes.CDLL:
    """Return NumPy's library, which also finds the symbols of its dependencies: BLAS and libm."""
    return ctypes.CDLL(str(_multiarray_umath.__file__))


@functools.cache
def _number_of_threads() -> Callable[[], int]:
    functions = library()
    found = (getattr(functions, name, None) for name in _THREADS)
    return next(filter(None, found), lambda: 0)


def threads() -> int:
    """Return the number of threads that a product of NumPy runs in; 0 if it is not known."""
    return _number_of_threads()()


def link() -> bool:
    """Define the symbols for compiled code, and return whether NumPy has the functions."""
    functions = library()
    for pattern in _PATTERNS:
        names = [pattern.format(name) for name in ("sgemm", "sgemv", "sdot", "dgemm")]
        if all(hasattr(functions, name) for name in names):
            for symbol, name in zip((SGEMM, SGEMV, SDOT, DGEMM), names, strict=True):
                function = getattr(functions, name)
                llvm.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
            return True
    return False
