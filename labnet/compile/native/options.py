"""Numba's options for steps and for the functions that they call."""

from typing import Any

#: A step lets other threads run, and divides by zero as NumPy does. Its arithmetic is rounded as written.
OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "boundscheck": False}
#: Functions of single numbers lie inside of what calls them; a product and a sum in them may be rounded once only.
EXACT: dict[str, Any] = {"error_model": "numpy", "boundscheck": False, "fastmath": {"contract"}}
EXACT |= {"forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
#: Products of matrices add up in any order.
INNER: dict[str, Any] = {**EXACT, "fastmath": {"reassoc", "contract"}}
