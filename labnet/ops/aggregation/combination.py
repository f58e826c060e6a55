"""Products, statistics and diagonals of several tensors under torch's names, each a few ops."""

import itertools
from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.ops.aggregation.linalg import matmul, outer
from labnet.ops.aggregation.reduction import mean, sum
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.creation import arange
from labnet.ops.core.forms import form
from labnet.ops.elementwise.elementary import where
from labnet.ops.elementwise.logic import equal, greater, less
from labnet.ops.layout.joining import concat
from labnet.ops.layout.shape import broadcast_to, expand_dims, moveaxis, reshape
from labnet.ops.selection.indexing import getitem, setitem
from labnet.ops.selection.indexing import scatter_add as added_at
from labnet.ops.selection.sorting import sort
from labnet.tensor import Tensor


@form
def addmv(x: Tensor, /, matrix: Any, vector: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return ``beta * x + alpha * matrix @ vector``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.addmv(ln.ones(1), ln.ones((1, 2)), ln.ones(2)).tolist()
    [3.0]
    """
    return beta * x + alpha * matmul(matrix, vector)


@form
def addr(x: Tensor, /, left: Any, right: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return ``beta * x + alpha * outer(left, right)``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.addr(ln.ones((1, 1)), ln.ones(1), ln.ones(1)).tolist()
    [[2.0]]
    """
    return beta * x + alpha * outer(left, right)


@form
def cov(x: Tensor, /, *, correction: float = 1) -> Tensor:
    """Return the covariances of the rows, each a variable.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cov(ln.asarray([[1.0, 3.0], [0.0, 2.0]])).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    rows = x if x.ndim == 2 else reshape(x, (1, -1))
    centred = rows - mean(rows, axis=1, keepdims=True)
    found = matmul(centred, centred.mT) / (rows.shape[1] - correction)
    return found if x.ndim == 2 else reshape(found, ())


@form
def corrcoef(x: Tensor, /) -> Tensor:
    """Return the correlation coefficients of the rows.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.corrcoef(ln.asarray([[1.0, 3.0], [2.0, 0.0]])).round().tolist()
    [[1.0, -1.0], [-1.0, 1.0]]
    """
    found = cov(x if x.ndim == 2 else reshape(x, (1, -1)))
    scale = getitem(found, (np.arange(found.shape[0]),) * 2) ** 0.5
    out = found / outer(scale, scale)
    return out if x.ndim == 2 else reshape(out, ())


@form
def trapezoid(y: Tensor, /, x: Any = None, *, dx: float = 1.0, axis: int = -1) -> Tensor:
    """Return the integral along a dimension by the trapezoidal rule.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.trapezoid(ln.asarray([1.0, 3.0, 5.0])).item()
    6.0
    """
    last = moveaxis(y, axis, -1)
    steps: Any = dx
    if x is not None:
        places = x if isinstance(x, Tensor) else Tensor(x)
        places = moveaxis(places, axis, -1) if places.ndim == y.ndim else places
        steps = places[..., 1:] - places[..., :-1]
    return sum((last[..., 1:] + last[..., :-1]) * steps, axis=-1) / 2


@form
def diag_embed(x: Tensor, /, k: int = 0, axis1: int = -2, axis2: int = -1) -> Tensor:
    """Return matrices with the vectors of the last dimension on a diagonal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.diag_embed(ln.asarray([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    length, side = x.shape[-1], x.shape[-1] + abs(k)
    key = (..., np.arange(length) + max(-k, 0), np.arange(length) + max(k, 0))
    return moveaxis(added_at(x, key, (*x.shape[:-1], side, side)), (-2, -1), (axis1, axis2))


@form
def index_copy(x: Tensor, /, axis: int, index: Any, source: Tensor) -> Tensor:
    """Return `x` with slices along `axis` replaced.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(3).index_copy(0, [0, 2], ln.asarray([1.0, 2.0])).tolist()
    [1.0, 0.0, 2.0]
    """
    return setitem(x, source, (slice(None),) * normalize_axis("index_copy", axis, x.shape) + (index,))


@form
def masked_scatter(x: Tensor, /, mask: Any, source: Tensor) -> Tensor:
    """Return `x` with the first elements of `source` where a mask is true, in order.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(3).masked_scatter(ln.asarray([True, False, True]), ln.asarray([1.0, 2.0])).tolist()
    [1.0, 0.0, 2.0]
    """
    chosen = broadcast_to(mask if isinstance(mask, Tensor) else Tensor(mask), x.shape)
    count = int(sum(chosen.long()).item())
    if count > source.size:
        raise ShapeError(f"masked_scatter: the mask has {count} true elements, source has shape {source.shape}")
    return setitem(x, reshape(source, (-1,))[:count], chosen)


@form
def isin(x: Tensor, /, test_elements: Any) -> Tensor:
    """Return for each element whether it is one of others.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isin(ln.asarray([1, 2]), ln.asarray([2, 3])).tolist()
    [False, True]
    """
    others = test_elements if isinstance(test_elements, Tensor) else Tensor(test_elements)
    return equal(expand_dims(x, axis=-1), reshape(others, (-1,))).any(axis=-1)


@form
def histc(x: Tensor, /, bins: int = 100, min: float = 0, max: float = 0) -> Tensor:
    """Count the elements in equal bins from `min` to `max`, or from the smallest to the greatest if these are equal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.histc(ln.asarray([0.0, 1.0, 1.0, 2.0]), bins=2).tolist()
    [1.0, 3.0]
    """
    low, high = (x.min().item(), x.max().item()) if min == max else (min, max)
    low, high = (low - 1, high + 1) if low == high else (low, high)
    flat = reshape(x.detach(), (-1,))
    place = ((flat - low) * (bins / (high - low))).long()
    place = where(greater(place, bins - 1), bins - 1, place)
    outside = less(flat, low) | greater(flat, high)
    return sum(
        equal(expand_dims(where(outside, -1, place), axis=-1), arange(bins, device=x.device)).astype(x.dtype), axis=0
    )


@form
def msort(x: Tensor, /) -> Tensor:
    """Return the elements in order along the first dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.msort(ln.asarray([3, 1, 2])).tolist()
    [1, 2, 3]
    """
    return sort(x, axis=0)


@form
def tensor_split(x: Tensor, /, indices_or_sections: Any, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a dimension into a number of parts that differ by at most one in length, or at positions.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.shape for part in ln.tensor_split(ln.zeros(5), 2)]
    [(3,), (2,)]
    """
    along = normalize_axis("tensor_split", axis, x.shape)
    length, before = x.shape[along], (slice(None),) * along
    if isinstance(indices_or_sections, int):
        each, more = divmod(length, indices_or_sections)
        sizes = [each + (i < more) for i in range(indices_or_sections)]
        ends = np.cumsum([0, *sizes]).tolist()
    else:
        ends = [0, *map(int, indices_or_sections), length]
    return tuple(x[(*before, slice(start, end))] for start, end in itertools.pairwise(ends))


def broadcast_tensors(*tensors: Tensor) -> tuple[Tensor, ...]:
    """Return tensors broadcast to one shape.

    Examples
    --------
    >>> import labnet as ln
    >>> [x.shape for x in ln.broadcast_tensors(ln.zeros(2), ln.zeros((3, 1)))]
    [(3, 2), (3, 2)]
    """
    shape = np.broadcast_shapes(*(x.shape for x in tensors))
    return tuple(broadcast_to(x, shape) for x in tensors)


def cartesian_prod(*tensors: Tensor) -> Tensor:
    """Return all combinations of elements of vectors, one per row.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cartesian_prod(ln.asarray([1, 2]), ln.asarray([3])).tolist()
    [[1, 3], [2, 3]]
    """
    if len(tensors) == 1:
        return tensors[0]
    lengths = tuple(x.shape[0] for x in tensors)
    columns = []
    for place, x in enumerate(tensors):
        shaped = reshape(x, tuple(-1 if i == place else 1 for i in range(len(tensors))))
        columns.append(reshape(broadcast_to(shaped, lengths), (-1, 1)))
    return concat(columns, axis=1)


def block_diag(*tensors: Tensor) -> Tensor:
    """Return a matrix with matrices along its diagonal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.block_diag(ln.ones((1, 1)), ln.ones((1, 2))).tolist()
    [[1.0, 0.0, 0.0], [0.0, 1.0, 1.0]]
    """
    blocks = [reshape(x, (1, -1)) if x.ndim < 2 else x for x in tensors]
    shape = tuple(int(np.sum([x.shape[dim] for x in blocks])) for dim in (0, 1))
    found, row, column = None, 0, 0
    for x in blocks:
        key = (slice(row, row + x.shape[0]), slice(column, column + x.shape[1]))
        part = added_at(x, key, shape)
        found, row, column = part if found is None else found + part, row + x.shape[0], column + x.shape[1]
    if found is None:
        raise ShapeError("block_diag: expected at least one matrix")
    return found
