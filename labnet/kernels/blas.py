"""NumPy's own BLAS for compiled code: the same library, so the same bits and no second thread pool.

The functions have the names of NumPy's wheels. Under other names, kernels that need BLAS are not available. Imports
LLVM only where code is linked.
"""

import contextlib
import ctypes
import functools
import os
import threading
from collections.abc import Callable, Iterator

from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

#: Symbols of the functions in compiled code; all sizes are 64-bit integers.
SGEMM, SGEMV, SDOT, DGEMM = "labnet_sgemm", "labnet_sgemv", "labnet_sdot", "labnet_dgemm"
_PATTERNS = ("scipy_cblas_{}64_", "cblas_{}64_")
_PREFIXES = ("scipy_openblas_", "openblas_")


def library() -> ctypes.CDLL:
    """Return NumPy's library, which also finds the symbols of its dependencies: BLAS and libm."""
    return ctypes.CDLL(str(_multiarray_umath.__file__))


@functools.cache
def _function(name: str) -> Callable[..., int] | None:
    """Return a function of OpenBLAS; None if NumPy has another BLAS."""
    found = (getattr(library(), f"{prefix}{name}64_", None) for prefix in _PREFIXES)
    return next(filter(None, found), None)


def threads() -> int:
    """Return the number of threads that a product of NumPy runs in; 0 if it is not known."""
    function = _function("get_num_threads")
    return 0 if function is None else function()


class _OneThread(contextlib.ContextDecorator):
    """Has products run in one thread, in a block or a function; several threads of Python may be inside."""

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._restore_after_fork)

    def _forget(self) -> None:
        self._lock, self._inside, self._number = threading.RLock(), 0, 1

    def _restore_after_fork(self) -> None:
        """Restore the number: the threads that were inside do not exist in a forked process."""
        number = self._number
        self._forget()
        if number > 1:
            _set(number)

    def __enter__(self) -> None:
        with self._lock:
            if not self._inside:
                self._number = threads()
                if self._number > 1:
                    _set(1)
            self._inside += 1

    def __exit__(self, *exception: object) -> None:
        with self._lock:
            self._inside -= 1
            if not self._inside and self._number > 1:
                _set(self._number)
                self._number = 1

    @contextlib.contextmanager
    def changing(self) -> Iterator[None]:
        """Let the number of threads be changed in a block; it holds from the end of `one_thread` on."""
        with self._lock:
            if self._inside and self._number > 1:
                _set(self._number)
            try:
                yield
            finally:
                if self._inside:
                    self._number = threads()
                    if self._number > 1:
                        _set(1)


def _set(number: int) -> None:
    function = _function("set_num_threads")
    if function is not None:
        function(number)


#: A block, or a function, in which products run in one thread. Several small products at once, each in a thread that
#: computes a part, are faster than one after the other in several threads, and have the same bits for any number.
one_thread = _OneThread()


def link() -> bool:
    """Define the symbols for compiled code, and return whether NumPy has the functions."""
    import llvmlite.binding as llvm  # type: ignore[import-untyped]

    functions = library()
    for pattern in _PATTERNS:
        names = [pattern.format(name) for name in ("sgemm", "sgemv", "sdot", "dgemm")]
        if all(hasattr(functions, name) for name in names):
            for symbol, name in zip((SGEMM, SGEMV, SDOT, DGEMM), names, strict=True):
                function = getattr(functions, name)
                llvm.add_symbol(symbol, ctypes.cast(function, ctypes.c_void_p).value)
            return True
    return False
