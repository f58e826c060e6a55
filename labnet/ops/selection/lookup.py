"""Reading and adding at positions along one dimension: the two indices by arrays that are common enough to be fast.

An index is looked at here, and the array is seen as (outer, length, inner). Any other index is left to NumPy, which
also raises the errors.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet import kernels
from labnet.ops.core.declaration import Array

#: Positions below which NumPy's own index is faster.
_FEW = 64


class AlongAxis(tuple[Any, ...]):
    """An index with a position along one dimension for every place in the others.

    Attributes
    ----------
    axis : int
    """

    axis: int

    def __new__(cls, parts: Iterable[Any], axis: int | None = None) -> Any:
        """Make an index of its parts, the one at `axis` being the positions; a tuple if that is not known."""
        if axis is None:
            return tuple(parts)
        key = super().__new__(cls, parts)
        key.axis = axis
        return key

    def __reduce__(self) -> Any:
        """Return what makes a copy."""
        return AlongAxis, (tuple(self), self.axis)


def along_axis(positions: Any, axis: int, shape: Sequence[int]) -> AlongAxis:
    """Return the index of positions along a dimension, with the own places in the others, whose lengths are `shape`'s.

    Examples
    --------
    >>> x = np.asarray([[3, 1, 2], [6, 5, 4]])
    >>> x[along_axis(np.asarray([[1], [2]]), 1, x.shape)].tolist()
    [[1], [4]]
    """
    grid = [np.arange(n).reshape(n, *(1,) * (len(shape) - i - 1)) for i, n in enumerate(shape)]
    key: AlongAxis = AlongAxis((*grid[:axis], positions, *grid[axis + 1 :]), axis)
    return key


@dataclass(frozen=True, slots=True)
class Lookup:
    """Positions in the middle dimension of (outer, length, inner).

    Attributes
    ----------
    axis, outer, length, count, inner : int
        The dimension, the number of elements before it, in it, read of it, and after it.
    is_shared : bool
        Whether there are `count` positions for all of outer and inner, rather than one per element.
    positions : array of int64
    shape : tuple of int
        Of what is read.
    """

    axis: int
    outer: int
    length: int
    count: int
    inner: int
    is_shared: bool
    positions: Array
    shape: tuple[int, ...]

    def run(self, kernel: kernels.Kernel, source: Array, target: Array, *flags: int) -> bool:
        """Return whether a kernel has read or added."""
        compiled = kernel.ready(source.dtype, self.positions.size)
        if compiled is None or source.dtype not in kernel.dtypes:
            return False
        together = (source, self.positions, target)
        if compiled(together, self.outer, self.length, self.count, self.inner, *flags):
            return True
        target.fill(0)  # up to the position that is out of bounds, it has added
        return False

    def places(self) -> Array:
        """Return the position of each element in the flattened array.

        Raises
        ------
        IndexError
            If one is out of bounds.
        """
        found, length = self.positions, self.length
        low, high = found.min(), found.max()
        if low < -length or high >= length:
            wrong = low if low < -length else high
            raise IndexError(f"index {wrong} is out of bounds for axis {self.axis} with size {length}")
        if low < 0:
            found = np.where(found < 0, found + length, found)
        rows = found.reshape((1, -1, 1) if self.is_shared else (self.outer, self.count, self.inner))
        starts = np.arange(0, self.outer * length * self.inner, length * self.inner).reshape(-1, 1, 1)
        within = np.arange(self.inner)
        return (starts + within + rows * self.inner if self.inner > 1 else rows + starts).reshape(-1)


def lookup(key: Any, shape: tuple[int, ...]) -> Lookup | None:
    """Return the positions that an index of arrays reads in an array of `shape`; None for any other index.

    Examples
    --------
    >>> lookup((slice(None), np.arange(64) % 3), (4, 3)).shape
    (4, 64)
    """
    if own := type(key) is AlongAxis:
        axis, index = key.axis, key[key.axis]
    else:
        *before, index = key if type(key) is tuple and key else (key,)
        axis = len(before)
        if any(type(part) is not slice or part != slice(None) for part in before):
            return None
    if type(index) is not np.ndarray or index.dtype.kind not in "iu" or index.size < _FEW or axis >= len(shape):
        return None
    front, length, back = shape[:axis], shape[axis], shape[axis + 1 :]
    outer, inner = math.prod(front), math.prod(back)
    if not outer * length * inner or index.dtype == np.uint64:
        return None
    positions = np.ascontiguousarray(index, np.int64)
    if not own:
        is_shared = outer * inner > 1
        return Lookup(axis, outer, length, index.size, inner, is_shared, positions, (*front, *index.shape, *back))
    if index.shape[:axis] != front or index.shape[axis + 1 :] != back:
        return None
    return Lookup(axis, outer, length, index.shape[axis], inner, False, positions, index.shape)


def read(x: Array, found: Lookup) -> Array:
    """Return the elements of a C-contiguous array at positions."""
    if found.is_shared:
        return x.take(found.positions, found.axis)
    out = np.empty(found.shape, x.dtype)
    if not found.run(kernels.gather, x, out):
        x.reshape(-1).take(found.places(), out=out.reshape(-1), mode="clip")
    return out


def add(x: Array, found: Lookup, out: Array) -> None:
    """Add the elements of `x` at positions of a C-contiguous array of zeros, in the order of the positions."""
    x = np.ascontiguousarray(x)
    if not found.run(kernels.scatter_add, x, out, int(found.is_shared)):
        np.add.at(out.reshape(-1), found.places(), x.reshape(-1))
