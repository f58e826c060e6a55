"""Diagonals of matrices, and sliding windows."""

from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.creation import zeros
from labnet.ops.core.declaration import Sample
from labnet.ops.core.registry import EVERY, composed
from labnet.ops.layout.shape import moveaxis
from labnet.ops.selection.indexing import getitem, setitem
from labnet.tensor import Tensor


def _places(rows: int, columns: int, k: int) -> tuple[Any, Any]:
    """Return the positions on diagonal `k` of a matrix."""
    count = max(min(rows + min(k, 0), columns - max(k, 0)), 0)
    return np.arange(count) - min(k, 0), np.arange(count) + max(k, 0)


@composed(
    samples=(
        Sample(((3, 4),)),
        Sample(((3, 4),), {"k": -1}),
        Sample(((2, 3, 4),), {"k": 1, "axis1": 1, "axis2": 2}),
        Sample(((2, 2),), {"k": 5}),
    ),
    dtypes=EVERY,
)
def diagonal(x: Tensor, /, k: int = 0, axis1: int = 0, axis2: int = 1) -> Tensor:
    """Return the elements on diagonal `k` of two dimensions, as the last dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.diagonal(ln.asarray([[1, 2], [3, 4]])).tolist()
    [1, 4]
    """
    first, second = (normalize_axis("diagonal", axis, x.shape) for axis in (axis1, axis2))
    if first == second:
        raise ShapeError(f"diagonal: expected two dimensions of shape {x.shape}, got {axis1} and {axis2}")
    last = moveaxis(x, (first, second), (-2, -1))
    return getitem(last, (..., *_places(last.shape[-2], last.shape[-1], k)))


@composed(samples=(Sample(((3,),)), Sample(((3,),), {"k": -1}), Sample(((3, 4),), {"k": 1})), dtypes=EVERY)
def diag(x: Tensor, /, k: int = 0) -> Tensor:
    """Return diagonal `k` of a matrix, or the matrix with a vector on diagonal `k` and zeros elsewhere.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.diag(ln.asarray([1, 2])).tolist()
    [[1, 0], [0, 2]]
    """
    if x.ndim == 2:
        return diagonal(x, k)
    if x.ndim != 1:
        raise ShapeError(f"diag: expected one or two dimensions, got shape {x.shape}")
    side = x.size + abs(k)
    return setitem(zeros((side, side), dtype=x.dtype, device=x.device), x, _places(side, side, k))


@composed(
    samples=(
        Sample(((7,),), {"axis": 0, "size": 3, "step": 2}),
        Sample(((2, 5, 2),), {"axis": 1, "size": 2, "step": 1}),
    ),
    dtypes=EVERY,
)
def unfold(x: Tensor, /, axis: int, size: int, step: int) -> Tensor:
    """Return all windows of a length along `axis`, each as the last dimension.

    Parameters
    ----------
    x : tensor
    axis : int
    size, step : int
        Length of a window, and the distance between two of them.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unfold(ln.arange(5), 0, 3, 2).tolist()
    [[0, 1, 2], [2, 3, 4]]
    """
    along = normalize_axis("unfold", axis, x.shape)
    if not (0 < size <= x.shape[along] and step > 0):
        raise ShapeError(f"unfold: windows of {size} with step {step} do not fit axis {axis} of shape {x.shape}")
    starts = np.arange(0, x.shape[along] - size + 1, step)
    windows = getitem(x, (slice(None),) * along + (starts[:, None] + np.arange(size),))
    return moveaxis(windows, along + 1, -1)
