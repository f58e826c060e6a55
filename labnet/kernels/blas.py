"""NumPy's own BLAS, for compiled code: the same library, so the same bits and no second pool of threads.

Knows how NumPy's wheels name the functions. Where they have other names the kernels that need BLAS are left out.
"""

import ctypes

import llvmlite.binding as llvm  # type: ignore[import-untyped]
from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

#: Names under which compiled code finds the functions; all sizes are 64-bit integers.
SGEMM, SGEMV, SDOT, DGEMM = "labnet_sgemm", "labnet_sgemv", "labnet_sdot", "labnet_dgemm"
_PATTERNS = ("scipy_cblas_{}64_", "cblas_{}64_")


def library() -> ctypes.CDLL:
    """Return NumPy's own library, and with it what it depends on: BLAS, and the mathematics of C."""
    return ctypes.CDLL(str(_multiarray_umath.__file__))


def link() -> bool:
    """Make the functions known to compiled code, and tell whether that was possible."""
    functions = library()
    for pattern in _PATTERNS:
        names = [pattern.format(name) for name in ("sgemm", "sgemv", "sdot", "dgemm")]
        if all(hasattr(functions, name) for name in names):
            for symbol, name in zip((SGEMM, SGEMV, SDOT, DGEMM), names, strict=True):
                function = getattr(functions, name)
                llvm.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
            return True
    return False
