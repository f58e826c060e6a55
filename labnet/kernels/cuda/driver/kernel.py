"""What is said of a kernel besides its text: the types of what it is given, and how it is launched.

A kernel is the Python function ``kernel`` of a text. It may use ``cuda`` and ``math``, casts named like ``f4``, and
dtypes of shared memory, ``f4_``. Its arguments are addresses (``"p"`` and a cast), whole numbers (``"i8"``) and numbers
of a dtype.
"""

from typing import Any, Protocol

import numpy as np

from labnet.kernels.cuda.codegen.expressions import CASTS

#: Types of arguments that are addresses, with the dtype that lies there.
POINTERS = {"p" + cast: dtype for dtype, cast in CASTS.items()}
#: Types of arguments that are addresses of addresses.
TABLES = {"p" + kind: dtype for kind, dtype in POINTERS.items()}


class Launch(Protocol):
    """A kernel that is ready."""

    def __call__(self, grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
        """Run it on a grid of blocks of threads."""


def pointer(dtype: np.dtype[Any]) -> str:
    """Return the type of the address of elements; truths are bytes."""
    return "pu1" if dtype.kind == "b" else "p" + CASTS[dtype]


def scalar(dtype: np.dtype[Any]) -> str:
    """Return the type of a number of a dtype, as a kernel gets it."""
    if dtype.kind == "b":
        return "u1"
    return "f4" if dtype == np.float16 else CASTS[dtype]
