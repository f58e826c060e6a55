"""Conversion of host arrays to the layout of compiled code, and writes back."""

from typing import Any

import numpy as np

from labnet import memory
from labnet.tensor import Tensor

Array = np.ndarray[Any, Any]


def c_contiguous(array: Array) -> Array:
    """Return an array C-contiguous and aligned, as compiled code requires; the array itself if it is both."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def write_back(target: Any, array: Array) -> None:
    """Write new elements into a tensor or array that a compiled function updates."""
    if isinstance(target, Tensor):
        memory.overwrite(target, array)
    else:
        target[...] = array
