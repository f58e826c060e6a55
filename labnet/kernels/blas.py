"""NumPy's own BLAS for compiled code: the same library, so the same bits and no second thread pool.

The functions have the names of NumPy's wheels. Under other names, kernels that need BLAS are not available. Imports
LLVM only where code is linked.
"""

import contextlib
import ctypes
import functools
import os
from collections.abc import Callable, Iterator
from typing import ParamSpec, TypeVar

from numpy._core import _multiarray_umath  # type: ignore[attr-defined]

P = ParamSpec("P")
T = TypeVar("T")
#: Symbols of the functions in compiled code; all sizes are 64-bit integers.
SGEMM, SGEMV, SDOT, DGEMM = "labnet_sgemm", "labnet_sgemv", "labnet_sdot", "labnet_dgemm"
_PATTERNS = ("scipy_cblas_{}64_", "cblas_{}64_")
_PREFIXES = ("scipy_openblas_", "openblas_")


def library() -> ctypes.CDLL:
    """Return NumPy's library, which also finds the symbols of its dependencies: BLAS and libm."""
    return ctypes.CDLL(str(_multiarray_umath.__file__))


@functools.cache
def _function(name: str) -> Callable[..., int]:
    """Return a function of OpenBLAS, called with Python's lock; where NumPy has another BLAS, one that returns 0."""
    functions = ctypes.PyDLL(str(_multiarray_umath.__file__))
    found = (getattr(functions, f"{prefix}{name}64_", None) for prefix in _PREFIXES)
    return next(filter(None, found), lambda *_: 0)


def threads() -> int:
    """Return the number of threads that a product of NumPy runs in; 0 if it is not known."""
    return _function("get_num_threads")()


#: The calls of functions that run `in_one_thread`, and the number of threads that holds after the last of them.
_inside: dict[object, None] = {}
_chosen = [1]


def in_one_thread(function: Callable[P, T]) -> Callable[P, T]:
    """Have the products of a function run in one thread; several threads of Python may call it.

    Several small products at once, each in a thread that computes a part, are faster than one after the other in
    several threads, and have the same bits for any number. An interrupt, which Python raises after a call of a
    function, never comes between the end of the function and the restoring of the number.
    """
    number, choose = _function("get_num_threads"), _function("set_num_threads")

    @functools.wraps(function)
    def run(*args: P.args, **named: P.kwargs) -> T:
        call = object()
        try:
            _inside[call] = None
            found = number()
            if found > 1:
                _chosen[0] = found
                choose(1)
            return function(*args, **named)
        finally:
            if call in _inside:
                del _inside[call]  # noqa: RUF051 - an interrupt may come after a call of `pop`
            if not _inside and (found := _chosen[0]) > 1:
                _chosen[0] = 1
                choose(found)

    return run


@contextlib.contextmanager
def changing() -> Iterator[Callable[[int], int]]:
    """Let the number of threads be changed in a block, which gets a function for it; see `in_one_thread`."""
    choose = _function("set_num_threads")
    if _inside:
        choose(_chosen[0])
    try:
        yield choose
    finally:
        if _inside:
            _chosen[0] = threads() or 1
            choose(1)
        else:
            _chosen[0] = 1


def _restore_after_fork() -> None:
    """Restore the number in a forked process, where the threads that were inside do not exist."""
    if _inside:
        _inside.clear()
        _function("set_num_threads")(_chosen[0])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_restore_after_fork)


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
