"""Reading and writing at positions along one dimension, and at masks, under torch's names."""

import math
from typing import Any, Literal

import numpy as np

from labnet.errors import ShapeError
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.creation import arange, full, zeros_like
from labnet.ops.core.declaration import Sample
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.forms import form
from labnet.ops.core.registry import EVERY, composed
from labnet.ops.elementwise.arithmetic import minimum
from labnet.ops.elementwise.elementary import divide, maximum, where
from labnet.ops.elementwise.logic import equal
from labnet.ops.layout.shape import astype, broadcast_to, expand_dims
from labnet.ops.selection.indexing import getitem, setitem
from labnet.ops.selection.indexing import scatter_add as added_at
from labnet.ops.selection.lookup import along_axis
from labnet.ops.selection.sorting import argsort
from labnet.tensor import Tensor

_INDEX = [[0, 2, 1], [1, 1, 0]]
Reduction = Literal["sum", "mean", "amax", "amin"]


def _places(op: str, x: Tensor, axis: int, index: Any) -> tuple[Any, ...]:
    """Return the index of the places with positions `index` along `axis` and their own in the other dimensions."""
    positions = index if isinstance(index, Tensor) else np.asarray(index)
    if positions.ndim != x.ndim:
        raise ShapeError(f"{op}: x has shape {x.shape}, index has shape {positions.shape}: expected as many dimensions")
    return along_axis(positions, normalize_axis(op, axis, x.shape), positions.shape)


def _part(value: Any, key: tuple[Any, ...]) -> Any:
    """Return the leading part of values that an index has places for; a number itself."""
    if not isinstance(value, Tensor) or not value.ndim:
        return value
    return value[tuple(slice(n) for n in np.broadcast_shapes(*(part.shape for part in key)))]


def written(x: Tensor, key: tuple[Any, ...], value: Any) -> Tensor:
    """Return `x` with values at an index; one number also compiles for an index that only a call knows."""
    if current_tracer() is None or (isinstance(value, Tensor) and value.ndim):
        return setitem(x, value, key)
    is_written = added_at(getitem(zeros_like(x, dtype="float32") + 1, key), key, x.shape) > 0
    return where(is_written, value, x)


@composed(
    samples=(
        Sample(((3, 4),), {"axis": 0, "index": _INDEX}),
        Sample(((3, 4),), {"axis": -1, "index": [[3], [0], [0]]}),
    ),
    dtypes=EVERY,
)
def gather(x: Tensor, /, axis: int, index: Any) -> Tensor:
    """Return the elements at positions along `axis`, one per element of `index`.

    Parameters
    ----------
    x : tensor
    axis : int
    index : integer tensor
        As many dimensions as `x`, and not longer in the others than `axis`.

    Raises
    ------
    ShapeError
        If the numbers of dimensions differ.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.gather(ln.asarray([[1, 2], [3, 4]]), 1, [[0], [1]]).tolist()
    [[1], [4]]
    """
    return getitem(x, _places("gather", x, axis, index))


@form
def scatter(x: Tensor, /, axis: int, index: Any, value: Any) -> Tensor:
    """Return `x` with values written at positions along `axis`; of several at one place, the last remains.

    Parameters
    ----------
    x : tensor
    axis : int
    index : integer tensor
    value : tensor or number
        At least as long as `index` in each dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros((2, 3)).scatter(1, [[2], [0]], 1.0).tolist()
    [[0.0, 0.0, 1.0], [1.0, 0.0, 0.0]]
    """
    key = _places("scatter", x, axis, index)
    return written(x, key, _part(value, key))


@form
def scatter_reduce(
    x: Tensor, /, axis: int, index: Any, value: Tensor, reduce: Reduction = "sum", include_self: bool = True
) -> Tensor:
    """Return `x` with values combined at positions along `axis`.

    Parameters
    ----------
    x : tensor
    axis : int
    index : integer tensor
    value : tensor
    reduce : {"sum", "mean", "amax", "amin"}
        The last two sort the values, and cannot be compiled.
    include_self : bool
        Whether the elements of `x` are combined too, where there are values.

    Raises
    ------
    ValueError
        If there is no such reduction.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(2).scatter_reduce(0, [0, 0, 1], ln.asarray([1.0, 2.0, 3.0]), "sum").tolist()
    [3.0, 3.0]
    """
    key = _places("scatter_reduce", x, axis, index)
    part = _part(value, key)
    if reduce == "sum" and include_self:
        return x + added_at(part, key, x.shape)
    counts = added_at(astype(zeros_like(part) + 1, x.dtype), key, x.shape)
    if reduce in ("amax", "amin"):
        low = -math.inf if reduce == "amax" else math.inf
        combine = maximum if reduce == "amax" else minimum
        order = argsort(part, axis=axis, descending=reduce == "amin")
        ordered, places = gather(part, axis, order), gather(_as_tensor(index, x), axis, order)
        extremes = scatter(full(x.shape, low, dtype=x.dtype, device=x.device), axis, places, ordered)
        return where(equal(counts, 0), x, combine(x, extremes) if include_self else extremes)
    if reduce not in ("sum", "mean"):
        raise ValueError(f"scatter_reduce: reduce must be 'sum', 'mean', 'amax' or 'amin', got {reduce!r}")
    own = x if include_self else where(equal(counts, 0), x, 0)
    total = own + added_at(part, key, x.shape)
    if reduce == "sum":
        return total
    return divide(total, maximum(counts + int(include_self), 1))


def _as_tensor(index: Any, like: Tensor) -> Tensor:
    return index if isinstance(index, Tensor) else Tensor(np.asarray(index), device=like.device)


@form
def scatter_add(x: Tensor, /, axis: int, index: Any, value: Tensor) -> Tensor:
    """Return `x` with values added at positions along `axis`; see `scatter`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.scatter_add(ln.zeros(2), 0, [0, 0, 1], ln.asarray([1.0, 2.0, 3.0])).tolist()
    [3.0, 3.0]
    """
    return scatter_reduce(x, axis, index, value)


@form
def index_add(x: Tensor, /, axis: int, index: Any, value: Tensor, *, alpha: float = 1.0) -> Tensor:
    """Return `x` with slices added at positions along `axis`.

    Parameters
    ----------
    x : tensor
    axis : int
    index : one-dimensional integer tensor
    value : tensor
    alpha : number
        Factor of `value`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(3).index_add(0, [0, 0, 2], ln.asarray([1.0, 2.0, 3.0])).tolist()
    [3.0, 0.0, 3.0]
    """
    key = (slice(None),) * normalize_axis("index_add", axis, x.shape) + (index,)
    return x + added_at(value if alpha == 1 else value * alpha, key, x.shape)


@form
def masked_fill(x: Tensor, /, mask: Any, value: Any) -> Tensor:
    """Return `x` with a number written where a mask is true.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.masked_fill(ln.asarray([1.0, 2.0]), ln.asarray([True, False]), 0.0).tolist()
    [0.0, 2.0]
    """
    return where(mask, value, x)


@form
def masked_select(x: Tensor, /, mask: Any) -> Tensor:
    """Return the elements where a mask is true, as one dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.masked_select(ln.asarray([1, 2, 3]), ln.asarray([True, False, True])).tolist()
    [1, 3]
    """
    chosen = mask if isinstance(mask, Tensor) else Tensor(mask)
    shape = np.broadcast_shapes(x.shape, chosen.shape)
    return getitem(broadcast_to(x, shape), broadcast_to(chosen, shape))


@composed(
    samples=(Sample(((3,),), {"num_classes": 4}), Sample(((2, 2),), {"num_classes": 3})),
    gradients=(False,),
    dtypes=("int64", "uint8"),
    domain=(0.0, 2.0),
)
def one_hot(x: Tensor, /, num_classes: int = -1) -> Tensor:
    """Return rows of zeros with a one at the position of each class; int64, as torch's.

    Parameters
    ----------
    x : integer tensor
    num_classes : int
        Length of a row; by default the greatest class plus one.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.one_hot(ln.asarray([1, 0]), 3).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    count = int(x.max().item()) + 1 if num_classes < 0 else num_classes
    return astype(equal(expand_dims(x, axis=-1), arange(count, device=x.device)), "int64")
