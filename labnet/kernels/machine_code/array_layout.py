"""Where CPython's tuples and NumPy's arrays have their fields, which machine code reads."""

import ctypes
import functools

import numpy as np

#: Offsets in bytes: of the items of a tuple, and of the fields of an array.
ITEMS, HEAD = tuple.__basicsize__, object.__basicsize__
DATA, NDIM, SHAPE, DTYPE, FLAGS = HEAD, HEAD + 8, HEAD + 16, HEAD + 40, HEAD + 48
#: Flags of an array that is C-contiguous and aligned.
READ = 0x101
#: How the dtypes of float32 and int64 begin: kind, type code and byte order, a character each.
FLOAT32 = int.from_bytes(b"ff=", "little")
INT64 = int.from_bytes(f"i{np.dtype('int64').char}=".encode(), "little")


@functools.cache
def is_known() -> bool:
    """Return whether arrays and tuples have this layout; the check cannot crash."""
    array = np.zeros((2, 3), "float32")
    words = ctypes.c_int64.from_address
    shape = words(words(id(array) + SHAPE).value).value
    dtype = words(words(id(array) + DTYPE).value + HEAD + 8).value & 0xFFFFFF
    flags = words(id(array) + FLAGS).value & 0xFFFFFFFF
    seen = (words(id(array) + DATA).value, words(id(array) + NDIM).value & 0xFFFFFFFF, shape, dtype, flags)
    pair = (array, None)
    items = words(id(pair) + ITEMS).value, words(id(pair) + HEAD).value
    return seen == (array.ctypes.data, 2, 2, FLOAT32, array.flags.num) and items == (id(array), 2)
