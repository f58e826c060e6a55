"""Order of elements: positions by sorting, and those of given ranks without sorting everything."""

from typing import Any

import numpy as np

from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import op

#: Elements of a row from which ranks are searched for between two elements of a sample, and the size of the sample.
_LONG, _SAMPLE = 1 << 14, 1 << 12
#: Elements of the ordered sample on each side of a rank: three standard deviations.
_MARGIN = 96


#: Elements from which numbers that hold an element and its position are sorted faster than positions.
MANY = 2048


def order(x: Array, axis: int, *, descending: bool = False, stable: bool = True) -> Array:
    """Return the positions that sort an array; equal elements keep their order if `stable`.

    Examples
    --------
    >>> order(np.asarray([3.0, 1.0, 2.0]), 0).tolist()
    [1, 2, 0]
    """
    if descending:
        return np.flip(x.shape[axis] - 1 - order(np.flip(x, axis), axis, stable=stable), axis)
    if type(x) is not np.ndarray or x.dtype != np.float32 or x.size < MANY:
        return np.argsort(x, axis=axis, stable=stable)
    rows = np.moveaxis(x, axis, -1) + np.float32(0)  # without negative zeros
    bits = rows.view(np.int32)
    keys = (bits ^ ((bits >> 31) & 0x7FFFFFFF)).astype(np.int64)  # in the order of the numbers
    keys[np.isnan(rows)] = 0x7FFFFFFF
    keys <<= 32
    keys |= np.arange(keys.shape[-1])
    keys.sort(axis=-1)
    keys &= 0xFFFFFFFF
    return np.moveaxis(keys, -1, axis)


@op(
    samples=(
        Sample(((3, 9),), {"start": 0, "stop": 2, "descending": True}),
        Sample(((9, 3),), {"start": 4, "stop": 6, "axis": 0}),
        Sample(((0,),), {"start": 0, "stop": 0}),
    ),
    public=False,
)
def argselect(x: Array, /, start: int, stop: int, axis: int = -1, descending: bool = False) -> Array:
    """Return the positions from `start` to `stop` of those that `argsort` would return, equal elements in their order.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.argselect(ln.asarray([3, 1, 2]), 0, 2).tolist()
    [1, 2]
    """
    along = normalize_axis("argselect", axis, x.shape)
    if type(x) is np.ndarray and 0 < stop - start < x.shape[along] // 2 and (not start or not descending):
        rows = np.ascontiguousarray(np.moveaxis(x, along, -1))
        shape = (*rows.shape[:-1], stop - start)
        found = _selected(rows.reshape(-1, rows.shape[-1]), start, stop, descending)
        if found is not None:
            return np.ascontiguousarray(np.moveaxis(found.reshape(shape), -1, along))
    places = order(x, along, descending=descending)
    return places[(slice(None),) * along + (slice(start, stop),)]


def _selected(rows: Array, start: int, stop: int, descending: bool) -> Array | None:
    """Return the positions in each row; None if it is empty, or has NaN and the order is ascending."""
    if not rows.size:
        return None
    if descending:
        return _in_order(rows, ~(rows < _outer(rows, stop, descending)), 0, stop, descending)
    length = rows.shape[1]
    if start == length - 1:
        return length - 1 - rows[:, ::-1].argmax(axis=1, keepdims=True)
    if rows.dtype.kind == "f" and np.isnan(rows.max()):
        return None
    if not start and stop <= length // 8:
        return _in_order(rows, rows <= _outer(rows, stop, descending), 0, stop, descending)
    low, high = _extremes(rows, start, stop)
    before = start - np.count_nonzero(rows < low, axis=1)
    return _in_order(rows, (rows >= low) & (rows <= high), before, stop - start, descending)


def _outer(rows: Array, count: int, is_greatest: bool) -> Array:
    """Return a bound per row that at least `count` elements reach: the `count`-th of the extremes of blocks."""
    length, width = rows.shape[1], max(64, 8 * count)
    if length >= 4 * width:
        whole = length - length % width
        blocks = rows[:, :whole].reshape(len(rows), -1, width)
        rows = blocks.max(axis=1) if is_greatest else blocks.min(axis=1)
    place = rows.shape[1] - count if is_greatest else count - 1
    return np.partition(rows, place, axis=1)[:, place, None]


def _extremes(rows: Array, start: int, stop: int) -> tuple[Array, Array]:
    """Return the elements of the first and the last rank of each row, as columns."""
    if rows.shape[1] < _LONG:
        return _between(rows, start, stop)
    found = []
    for row in rows:
        before, near = _near(row, start, stop)
        found.append(_between(near[None], start - before, stop - before))
    return np.concatenate([low for low, _ in found]), np.concatenate([high for _, high in found])


def _between(rows: Array, start: int, stop: int) -> tuple[Array, Array]:
    part = np.partition(rows, start, axis=1)[:, start:]
    last = stop - start - 1
    return part[:, :1], np.partition(part, last, axis=1)[:, last : last + 1]


def _near(row: Array, start: int, stop: int) -> tuple[int, Array]:
    """Return elements among which the ranks lie, and the number of smaller ones (Floyd and Rivest, 1975)."""
    sample = np.sort(row[:: row.size // _SAMPLE])
    first = start * sample.size // row.size - _MARGIN
    last = stop * sample.size // row.size + _MARGIN
    low = sample[first] if first >= 0 else row.min()
    high = sample[last] if last < sample.size else row.max()
    before, near = int(np.count_nonzero(row < low)), row[(row >= low) & (row <= high)]
    return (before, near) if before <= start and stop <= before + near.size else (0, row)


def _in_order(rows: Array, is_candidate: Array, skipped: Any, count: int, descending: bool) -> Array:
    """Return the positions of `count` candidates of each row in their order, after the `skipped` first ones."""
    places = np.flatnonzero(is_candidate)
    values = rows.reshape(-1)[places]
    if descending:
        order = (len(places) - 1 - np.argsort(values[::-1], stable=True))[::-1]
    else:
        order = np.argsort(values, stable=True)
    places = places[order]
    row = (places // rows.shape[1]).astype(np.min_scalar_type(len(rows)))
    if len(rows) > 1:
        by_row = np.argsort(row, stable=True)
        places, row = places[by_row], row[by_row]
    numbers = np.arange(len(rows))
    starts = np.searchsorted(row, numbers.astype(row.dtype)) + skipped
    return places[starts[:, None] + np.arange(count)] - (numbers * rows.shape[1])[:, None]
