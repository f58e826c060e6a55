"""The offsets of the slots of tensors and leaves, which compiled steps read.

They are measured on known objects, so that another Python version cannot cause a crash.
"""

import ctypes
import functools
from typing import Any

import numpy as np

from labnet.autograd import Leaf
from labnet.tensor import wrap

_word = ctypes.c_int64.from_address


def word(address: int) -> int:
    """Return the eight bytes at an address as an integer."""
    return _word(address).value


def _slot(found: Any, name: str) -> int:
    """Return the distance of a slot from the beginning of an object."""
    marker = object()
    before = getattr(found, name)
    type(found).__dict__[name].__set__(found, marker)
    places = [place for place in range(16, type(found).__basicsize__, 8) if word(id(found) + place) == id(marker)]
    type(found).__dict__[name].__set__(found, before)
    if len(places) != 1:
        raise RuntimeError(f"slot {name!r} of {type(found).__name__} is not where it can be found")
    return places[0]


@functools.cache
def slots() -> tuple[int, int, int]:
    """Return the distances of ``array`` and ``node`` in a tensor, and of ``grad`` in a leaf."""
    tensor = wrap(np.zeros(1))
    return _slot(tensor, "array"), _slot(tensor, "node"), _slot(Leaf(tensor), "grad")
