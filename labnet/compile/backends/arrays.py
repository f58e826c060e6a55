"""Arrays of the host on their way into compiled code and out of it."""

from typing import Any

import numpy as np

from labnet import memory
from labnet.tensor import Tensor

Array = np.ndarray[Any, Any]


def c_contiguous(array: Array) -> Array:
    """Return an array as compiled code reads it: C-contiguous and aligned; the array itself if it is both."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def write_back(target: Any, array: Array) -> None:
    """Write new elements into a tensor or an array that a function has written into."""
    if isinstance(target, Tensor):
        memory.overwrite(target, array)
    else:
        target[...] = array
