"""NumPy's own BLAS for compiled code: the same library, so the same bits and no second thread pool.

The functions have the names of NumPy's wheels. Under other names, kernels that need BLAS are not available.
"""

import ctypes

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

#: Symbols of the functions in compiled code; all sizes are 64-bit integers.
SGEMM, SGEMV, SDOT, DGEMM = "labnet_sgemm", "labnet_sgemv", "labnet_sdot", "labnet_dgemm"
_PATTERNS = ("scipy_cblas_{}64_", "cblas_{}64_")


def library() -> ctypes.CDLL:
    """Return NumPy's library, which also finds the symbols of its dependencies: BLAS and libm."""
    return ctypes.CDLL(str(_multiarray_umath.__file__))


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
