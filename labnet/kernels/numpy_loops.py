"""NumPy's own inner loops for compiled code: the same functions on blocks of an array, so the same bits.

A universal function has one loop per combination of dtypes, a C function of pointers, a count and strides. Each is
given to compiled code as a symbol: the address of a pair of the function and the data that it is called with.
"""

import ctypes
import functools
import re
from collections.abc import Iterable

import llvmlite.binding as llvm  # type: ignore[import-untyped]
import numpy as np

_PREFIX = "labnet_loop_"
_SYMBOL = re.compile(_PREFIX + "([a-z?]+)_(.+)")
#: Offsets of fields in a universal function: numbers of inputs and operands, loops, their data, number, and types.
_HEAD = object.__basicsize__
_INPUTS, _OPERANDS, _FUNCTIONS, _DATA, _COUNT, _TYPES = (_HEAD + offset for offset in (0, 8, 16, 24, 32, 48))


class _Loop(ctypes.Structure):
    _fields_ = [("function", ctypes.c_void_p), ("data", ctypes.c_void_p)]


def symbol(name: str, types: str) -> str:
    """Return the symbol of a loop, of a universal function and the characters of the dtypes of its operands.

    Examples
    --------
    >>> symbol("exp", "ff")
    'labnet_loop_ff_exp'
    """
    return f"{_PREFIX}{types}_{name}"


@functools.cache
def _loop(name: str, types: str) -> _Loop | None:
    """Return the loop that NumPy runs for these dtypes; None if it has none, or has it in another place."""
    ufunc = getattr(np, name, None)
    if not isinstance(ufunc, np.ufunc) or type(ufunc).__basicsize__ < _TYPES + 8:
        return None
    start = id(ufunc)
    numbers = [ctypes.c_int.from_address(start + field).value for field in (_INPUTS, _OPERANDS, _COUNT)]
    if numbers != [ufunc.nin, ufunc.nargs, ufunc.ntypes]:
        return None
    functions, data, kinds = [
        ctypes.c_void_p.from_address(start + field).value for field in (_FUNCTIONS, _DATA, _TYPES)
    ]
    known = bytes(np.dtype(one).num for text in ufunc.types for one in text.replace("->", ""))
    signature = f"{types[: ufunc.nin]}->{types[ufunc.nin :]}"
    if not functions or not kinds or ctypes.string_at(kinds, len(known)) != known or signature not in ufunc.types:
        return None
    offset = ctypes.sizeof(ctypes.c_void_p) * ufunc.types.index(signature)
    function = ctypes.c_void_p.from_address(functions + offset).value
    return _Loop(function, ctypes.c_void_p.from_address(data + offset).value if data else None) if function else None


def link(symbols: Iterable[str]) -> None:
    """Define those symbols that are loops of NumPy, for compiled code."""
    for one in symbols:
        if (found := _SYMBOL.fullmatch(one)) and (loop := _loop(found[2], found[1])):
            llvm.add_symbol(one, ctypes.addressof(loop))
