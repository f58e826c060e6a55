"""Batches of data."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.tensor import Tensor, as_array


class Batches:
    """Batches of arrays, in order or in a new random order each time they are iterated over; see `batches`."""

    def __init__(self, arrays: tuple[Any, ...], size: int, *, shuffle: bool, seed: int | None, drop_last: bool):
        self._arrays = [x if isinstance(x, Tensor) else Tensor(as_array(x)) for x in arrays]
        lengths = [x.shape[0] if x.ndim else None for x in self._arrays]
        if len(set(lengths)) != 1 or None in lengths:
            raise ShapeError(f"batches: lengths differ: {' and '.join(str(x.shape) for x in self._arrays)}")
        if size < 1:
            raise ShapeError(f"batches: expected at least one row per batch, got size={size}")
        self._rows, self._size, self._drop_last = self._arrays[0].shape[0], size, drop_last
        self._order = np.random.default_rng(seed) if shuffle else None

    def __len__(self) -> int:
        return self._rows // self._size if self._drop_last else -(-self._rows // self._size)

    def __iter__(self) -> Iterator[Any]:
        order = None if self._order is None else self._order.permutation(self._rows)
        for start in range(0, len(self) * self._size, self._size):
            rows: Any = slice(start, start + self._size)
            found = tuple([x[rows if order is None else order[rows]] for x in self._arrays])
            yield found if len(found) > 1 else found[0]


def batches(
    *arrays: Any, size: int | None = None, shuffle: bool = False, seed: int | None = None, drop_last: bool = False
) -> Batches:
    """Return batches of rows of arrays that belong together, for a ``for`` loop per epoch.

    Parameters
    ----------
    *arrays : array-likes of one length
        After them, the size may stand: ``batches(x, y, 32)``.
    size : int
        Rows per batch; the last batch has the rest.
    shuffle : bool
        Whether each loop goes through the rows in a new random order.
    seed : int, optional
        Makes these orders reproducible.
    drop_last : bool
        Leave out a last batch with fewer rows.

    Returns
    -------
    Batches
        Yields a tuple of tensors, or a tensor for a single array; has a length.

    Raises
    ------
    ShapeError
        If the lengths differ, or `size` is not positive.

    Examples
    --------
    >>> import labnet as ln
    >>> x, y = ln.arange(5), ln.arange(5) * 10
    >>> [(a.tolist(), b.tolist()) for a, b in ln.batches(x, y, 3)]
    [([0, 1, 2], [0, 10, 20]), ([3, 4], [30, 40])]
    """
    if size is None:
        *rest, size = arrays
        arrays = tuple(rest)
    if isinstance(size, bool) or not isinstance(size, int) or not arrays:
        raise TypeError(f"batches: expected arrays and then a number of rows, got size {type(size).__name__}")
    return Batches(arrays, size, shuffle=shuffle, seed=seed, drop_last=drop_last)
