"""Descriptions of kernels: the types of their arguments, and how they are launched.

The source of a kernel is the Python function ``kernel``. It may use ``cuda`` and ``math``, casts named like ``f4``, and
dtypes of shared memory, ``f4_``. Its arguments are addresses (``"p"`` and a cast), integers (``"i8"``) and numbers of a
dtype.
"""

from typing import Any, Protocol

import numpy as np

Dtype = np.dtype[Any]

#: Name of the cast to a dtype in the source of a kernel.
CASTS = {
    np.dtype(name): cast
    for name, cast in (
        *(("int8", "i1"), ("int16", "i2"), ("int32", "i4"), ("int64", "i8")),
        *(("uint8", "u1"), ("uint16", "u2"), ("uint32", "u4"), ("uint64", "u8")),
        *(("float16", "f2"), ("float32", "f4"), ("float64", "f8")),
    )
}
#: Types of arguments that are addresses, with the dtype of the elements.
POINTERS = {"p" + cast: dtype for dtype, cast in CASTS.items()}
#: Types of arguments that are addresses of addresses.
TABLES = {"p" + kind: dtype for kind, dtype in POINTERS.items()}


class Launch(Protocol):
    """A kernel that is ready."""

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Run the kernel on a grid of blocks of threads."""


def pointer(dtype: Dtype) -> str:
    """Return the type of the address of elements; booleans are bytes."""
    return "pu1" if dtype.kind == "b" else "p" + CASTS[dtype]


def scalar(dtype: Dtype) -> str:
    """Return the type of a number of a dtype, as a kernel gets it."""
    if dtype.kind == "b":
        return "u1"
    return "f4" if dtype == np.float16 else CASTS[dtype]
