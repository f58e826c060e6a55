"""Order, search and sets."""

from typing import Any, Literal, NamedTuple

import numpy as np

from labnet.errors import ShapeError
from labnet.kernels.device_dispatch import device_of, moved
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import EVERY, NUMBERS, composed, op
from labnet.ops.selection.indexing import getitem, plain_key, take_along_axis
from labnet.ops.selection.lookup import along_axis
from labnet.ops.selection.order_statistics import MANY, argselect, order
from labnet.tensor import Tensor, tell, wrap

_SAMPLES = (
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 0}),
    Sample(((7,),), {"descending": True}),
    Sample(((0, 2),)),
)


def _unsort(g: Any, out: Any, x: Any, *, axis: int = -1, **order: Any) -> Any:
    places = argsort(x, axis=axis, **order)
    if type(g) is not np.ndarray:
        return take_along_axis(g, argsort(places, axis=axis), axis=axis)
    found = np.empty_like(g)
    np.put_along_axis(found, places.array, g, axis)
    return found


@op(_unsort, samples=_SAMPLES, reads="x")
def sort(x: Array, /, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """Return the elements in order along `axis`; NaN comes last, or first when descending.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sort(ln.asarray([3, 1, 2])).tolist()
    [1, 2, 3]
    """
    if type(x) is np.ndarray and x.dtype == np.float32 and x.ndim and x.size >= MANY:
        ordered = np.take_along_axis(x, order(x, axis), axis)
    else:
        ordered = np.sort(x, axis=axis, stable=stable)
    return np.flip(ordered, axis) if descending else ordered


@op(samples=_SAMPLES)
def argsort(x: Array, /, axis: int = -1, descending: bool = False, stable: bool = True) -> Array:
    """Return the positions that put the elements in order along `axis`; equal ones keep their order if `stable`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.argsort(ln.asarray([3, 1, 2])).tolist()
    [1, 2, 0]
    """
    x = x if x.ndim else x.reshape(1)  # as NumPy does
    return order(x, axis, descending=descending, stable=stable)


@op(
    samples=(Sample(((5,), (2, 3)), {"side": "left"}), Sample(((5,), ()), {"side": "right"}), Sample(((0,), (2,)))),
    inputs=2,
    dtypes=NUMBERS,
)
def searchsorted(
    x1: Array, x2: Array, /, *, side: Literal["left", "right"] = "left", sorter: Tensor | None = None
) -> Array:
    """Return the positions in the ordered `x1` at which the elements of `x2` keep it in order.

    Parameters
    ----------
    x1 : one-dimensional tensor
        In ascending order, unless `sorter` is given.
    x2 : tensor
    side : {"left", "right"}
        Before or after elements that are equal.
    sorter : integer tensor, optional
        Positions that put `x1` in order, as from `argsort`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.searchsorted(ln.asarray([1, 3, 5]), ln.asarray([3, 4])).tolist()
    [1, 2]
    """
    return np.searchsorted(x1, x2, side, None if sorter is None else moved(plain_key(sorter), device_of(x1)))


class Chosen(NamedTuple):
    """Elements and their positions along a dimension."""

    values: Tensor
    indices: Tensor


@composed(
    samples=(Sample(((3, 4),), {"k": 2}), Sample(((3, 4),), {"k": 2, "axis": 0, "largest": False})), dtypes=NUMBERS
)
def topk(x: Tensor, /, k: int, axis: int = -1, largest: bool = True, sorted: bool = True) -> Chosen:
    """Return the `k` greatest or smallest elements along `axis` in order, and their positions.

    Examples
    --------
    >>> import labnet as ln
    >>> values, indices = ln.topk(ln.asarray([1.0, 3.0, 2.0]), 2)
    >>> values.tolist(), indices.tolist()
    ([3.0, 2.0], [1, 2])
    """
    along = normalize_axis("topk", axis, x.shape)
    if not 0 <= k <= x.shape[along]:
        raise ShapeError(f"topk: k must be from 0 to {x.shape[along]}, the length of axis {axis}, got {k}")
    indices = argselect(x, 0, k, axis=along, descending=largest)
    return Chosen(getitem(x, along_axis(indices, along, indices.shape)), indices)


def _elements(x: Tensor) -> Array:
    """Return the elements for value-dependent results, which cannot be traced."""
    tell("numpy", x)
    return x.array


@composed(samples=(Sample(((3, 4),)), Sample(((0,),))), gradients=(False,), dtypes=EVERY)
def nonzero(x: Tensor, /) -> tuple[Tensor, ...]:
    """Return the positions of the elements that are not zero, one tensor of positions per dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.tolist() for part in ln.nonzero(ln.asarray([[0, 1], [2, 0]]))]
    [[0, 1], [1, 0]]
    """
    if not x.ndim:
        raise ShapeError("nonzero: expected at least one dimension, got shape ()")
    return tuple(map(wrap, np.nonzero(_elements(x))))


class UniqueAll(NamedTuple):
    """Result of `unique_all`."""

    values: Tensor
    indices: Tensor
    inverse_indices: Tensor
    counts: Tensor


class UniqueCounts(NamedTuple):
    """Result of `unique_counts`."""

    values: Tensor
    counts: Tensor


class UniqueInverse(NamedTuple):
    """Result of `unique_inverse`."""

    values: Tensor
    inverse_indices: Tensor


class _Tally(NamedTuple):
    """Integers that are close together, counted.

    Attributes
    ----------
    values : array
        The distinct ones, in order.
    distances : array of int64
        Of each element from the least.
    counts, present : array of int64
        How often each distance occurs, and those that do.
    """

    values: Array
    distances: Array
    counts: Array
    present: Array


def _tally(x: Array) -> _Tally | None:
    """Count integers; None if they are far apart, or other elements."""
    if type(x) is not np.ndarray or x.dtype.kind not in "biu" or x.dtype == np.uint64 or not x.size:
        return None
    low, high = int(x.min()), int(x.max())
    if high - low > 4 * x.size:
        return None
    distances = x.reshape(-1).astype(np.int64) - low
    counts = np.bincount(distances)
    present = np.flatnonzero(counts)
    return _Tally((present + low).astype(x.dtype), distances, counts, present)


def _first(tally: _Tally) -> Array:
    """Return where each value occurs first."""
    first, backwards = np.empty_like(tally.counts), tally.distances[::-1]
    first[backwards] = np.arange(len(backwards))[::-1]  # of several at one place, the last remains
    return first[tally.present]


def _inverse(tally: _Tally, shape: tuple[int, ...]) -> Array:
    """Return which value each element is."""
    return (np.cumsum(tally.counts > 0) - 1)[tally.distances].reshape(shape)


def _float_values(x: Array) -> Array:
    """Return the distinct elements in order; of the two zeros, the first."""
    values = np.unique(x, equal_nan=False)
    zero = np.searchsorted(values, 0)
    if zero < len(values) and values[zero] == 0:
        values[zero] = x.reshape(-1)[(x == 0).argmax()]
    return values


_SETS = (Sample(((3, 4),)), Sample(((0,),)), Sample(((),)))


@composed(samples=_SETS, gradients=(False,), dtypes=EVERY)
def unique_all(x: Tensor, /) -> UniqueAll:
    """Return the distinct elements in order, where each occurs first, which one each element is, and how often.

    Every NaN counts as distinct.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unique_all(ln.asarray([2, 1, 2])).counts.tolist()
    [1, 2]
    """
    array = _elements(x)
    if (tally := _tally(array)) is None:
        return UniqueAll(*map(wrap, np.unique_all(array)))
    parts = tally.values, _first(tally), _inverse(tally, x.shape), tally.counts[tally.present]
    return UniqueAll(*map(wrap, parts))


@composed(samples=_SETS, gradients=(False,), dtypes=EVERY)
def unique_counts(x: Tensor, /) -> UniqueCounts:
    """Return the distinct elements in order, and how often each occurs.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unique_counts(ln.asarray([2, 1, 2])).counts.tolist()
    [1, 2]
    """
    array = _elements(x)
    if (tally := _tally(array)) is None:
        return UniqueCounts(*map(wrap, np.unique_counts(array)))
    return UniqueCounts(wrap(tally.values), wrap(tally.counts[tally.present]))


@composed(samples=_SETS, gradients=(False,), dtypes=EVERY)
def unique_inverse(x: Tensor, /) -> UniqueInverse:
    """Return the distinct elements in order, and which of them each element is.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unique_inverse(ln.asarray([2, 1, 2])).inverse_indices.tolist()
    [1, 0, 1]
    """
    array = _elements(x)
    if (tally := _tally(array)) is None:
        return UniqueInverse(*map(wrap, np.unique_inverse(array)))
    return UniqueInverse(wrap(tally.values), wrap(_inverse(tally, x.shape)))


@composed(samples=_SETS, gradients=(False,), dtypes=EVERY)
def unique_values(x: Tensor, /) -> Tensor:
    """Return the distinct elements in order.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unique_values(ln.asarray([2, 1, 2])).tolist()
    [1, 2]
    """
    array = _elements(x)
    if (tally := _tally(array)) is not None:
        return wrap(tally.values)
    if type(array) is np.ndarray and array.dtype.kind == "f":
        return wrap(_float_values(array))
    return unique_all(x).values
