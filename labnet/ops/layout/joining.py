"""Joining and splitting of tensors."""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from labnet.errors import ShapeError
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample, no_flops
from labnet.ops.core.dispatch import as_tensors
from labnet.ops.core.registry import EVERY, composed, op
from labnet.ops.layout.shape import astype, broadcast_to, expand_dims, reshape
from labnet.tensor import Tensor


def _cut(g: Tensor, out: Tensor, *inputs: Tensor, position: int, axis: int | None = 0) -> Tensor:
    x = inputs[position]
    if axis is None:
        start = sum(other.size for other in inputs[:position])
        return reshape(g[start : start + x.size], x.shape).astype(x.dtype)
    along = axis % x.ndim
    start = sum(other.shape[along] for other in inputs[:position])
    part: Tensor = g[(slice(None),) * along + (slice(start, start + x.shape[along]),)]
    return part.astype(x.dtype)


@op(
    _cut,
    samples=(
        Sample(((2, 3), (1, 3), (0, 3))),
        Sample(((2, 3), (2, 1)), {"axis": -1}),
        Sample(((2, 3), (4,)), {"axis": None}),
    ),
    dtypes=EVERY,
    variadic=True,
    flops=no_flops,
    reads="",
)
def concat(arrays: Sequence[Array], /, axis: int | None = 0) -> Array:
    """Join tensors along a dimension that exists; with ``axis=None``, join them flattened.

    Raises
    ------
    ShapeError
        If they differ in another dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.concat([ln.asarray([1, 2]), ln.asarray([3])]).tolist()
    [1, 2, 3]
    """
    return np.concatenate(arrays, axis)


@composed(
    samples=(Sample(((2, 3), (2, 3))), Sample(((2, 3), (2, 3)), {"axis": -1}), Sample(((), ()))),
    gradients=(True, True),
    dtypes=EVERY,
    variadic=True,
)
def stack(arrays: Sequence[Tensor], /, axis: int = 0) -> Tensor:
    """Join tensors of one shape along a new dimension.

    Raises
    ------
    ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.stack([ln.asarray([1, 2]), ln.asarray([3, 4])]).tolist()
    [[1, 2], [3, 4]]
    """
    tensors = [x if isinstance(x, Tensor) else Tensor(x) for x in as_tensors(arrays)]
    if len({x.shape for x in tensors}) > 1:
        raise ShapeError(f"stack: shapes differ: {' and '.join(str(x.shape) for x in tensors)}")
    if tensors:
        normalize_axis("stack", axis, (*tensors[0].shape, len(tensors)))
    return concat([expand_dims(x, axis=axis) for x in tensors], axis=axis)


@composed(samples=(Sample(((2, 3),)), Sample(((2, 3),), {"axis": -1})), dtypes=EVERY)
def unstack(x: Tensor, /, axis: int = 0) -> tuple[Tensor, ...]:
    """Take a tensor apart along a dimension, without a copy.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.tolist() for part in ln.unstack(ln.asarray([[1, 2], [3, 4]]), axis=1)]
    [[1, 3], [2, 4]]
    """
    before = (slice(None),) * normalize_axis("unstack", axis, x.shape)
    return tuple(x[(*before, i)] for i in range(x.shape[axis]))


@composed(
    samples=(Sample(((2, 1), (3,))), Sample(((), (0, 2)))),
    gradients=(True, True),
    dtypes=EVERY,
)
def broadcast_arrays(*arrays: Tensor) -> list[Tensor]:
    """Repeat tensors, without a copy, until all have one shape.

    Examples
    --------
    >>> import labnet as ln
    >>> [x.shape for x in ln.broadcast_arrays(ln.ones((2, 1)), ln.ones(3))]
    [(2, 3), (2, 3)]
    """
    arrays = tuple(x if isinstance(x, Tensor) else Tensor(x) for x in arrays)
    try:
        shape = np.broadcast_shapes(*(x.shape for x in arrays))
    except ValueError:
        shapes = " and ".join(str(x.shape) for x in arrays)
        raise ShapeError(f"broadcast_arrays: shapes do not fit: {shapes}") from None
    return [broadcast_to(x, shape) for x in arrays]


@composed(
    samples=(Sample(((2,), (3,))), Sample(((2,), (3,)), {"indexing": "ij"}), Sample(((2,), (3,), (1,)))),
    gradients=(True, True, True),
)
def meshgrid(*arrays: Tensor, indexing: Literal["xy", "ij"] = "xy") -> list[Tensor]:
    """Return the coordinates of a grid, given the coordinates along each dimension.

    Parameters
    ----------
    *arrays : one-dimensional tensors
    indexing : {"xy", "ij"}
        ``"ij"`` for dimensions in the order of `arrays`, ``"xy"`` with the first two swapped.

    Examples
    --------
    >>> import labnet as ln
    >>> x, y = ln.meshgrid(ln.asarray([1, 2]), ln.asarray([3, 4]))
    >>> x.tolist(), y.tolist()
    ([[1, 2], [1, 2]], [[3, 3], [4, 4]])
    """
    if indexing not in ("xy", "ij"):
        raise ValueError(f"meshgrid: indexing must be 'xy' or 'ij', got {indexing!r}")
    order = list(range(len(arrays)))
    if indexing == "xy" and len(arrays) > 1:
        order[:2] = 1, 0
    columns = [
        reshape(astype(x, x.dtype), tuple(-1 if i == place else 1 for i in range(len(arrays))))  # no view of `x`
        for x, place in zip(arrays, order, strict=True)
    ]
    return broadcast_arrays(*columns)
