"""How Numba compiles a step and what it calls."""

from typing import Any

#: A step lets other threads run, and divides by zero as NumPy does; sums may be taken in another order.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "boundscheck": False,
    "fastmath": {"reassoc", "contract"},
}
#: What a step calls lies inside of it, and nobody calls it from Python.
INNER: dict[str, Any] = {name: value for name, value in OPTIONS.items() if name != "nogil"}
INNER |= {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
