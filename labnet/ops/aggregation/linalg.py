"""Products of matrices and vectors."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.errors import AxisError, ShapeError
from labnet.ops.aggregation.reduction import sum
from labnet.ops.core.axes import integer, integers, normalize_axis
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.core.registry import FLOATS, composed, op
from labnet.ops.layout.shape import astype, fit, moveaxis, permute_dims, reshape
from labnet.ops.selection.diagonals import diagonal
from labnet.ops.selection.rearrangement import roll
from labnet.tensor import Tensor


def _as_matrices(g: Tensor, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Add the dimension of length one to vectors that `matmul` assumes."""
    left = x1.reshape((1, -1)) if x1.ndim == 1 else x1
    right = x2.reshape((-1, 1)) if x2.ndim == 1 else x2
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return g.reshape((*batch, left.shape[-2], right.shape[-1])), left, right


def _pull_left(g: Tensor, out: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    if x1.ndim == x2.ndim == 2:
        found = g @ x2.T
        return found if found.dtype is x1.dtype else fit(found, x1)
    g, left, right = _as_matrices(g, x1, x2)
    return fit(g @ right.mT, left).reshape(x1.shape)


def _pull_right(g: Tensor, out: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    if x1.ndim == x2.ndim == 2:
        found = x1.T @ g
        return found if found.dtype is x2.dtype else fit(found, x2)
    g, left, right = _as_matrices(g, x1, x2)
    if right.ndim == 2 and left.ndim > 2:  # one large product instead of a sum of many
        left, g = _rows(left), _rows(g)
    return fit(left.mT @ g, right).reshape(x2.shape)


@op(
    _pull_left,
    _pull_right,
    samples=(
        Sample(((3, 4), (4, 2))),
        Sample(((4,), (4,))),
        Sample(((4,), (4, 2))),
        Sample(((3, 4), (4,))),
        Sample(((2, 3, 4), (4, 5))),
        Sample(((2, 1, 3, 4), (5, 4, 2))),
        Sample(((5, 3, 4), (4,))),
        Sample(((4,), (5, 4, 3))),
    ),
    inputs=2,
    dtypes=("int64", *FLOATS),
    ufunc=np.matmul,
    flops=lambda out, x1, x2: 2 * out.size * x1.shape[-1],
    reads=("x2", "x1"),
)
def matmul(x1: Array, x2: Array, /) -> Array:
    """Return the matrix product over the last two dimensions; the others broadcast, vectors count as matrices.

    Raises
    ------
    ShapeError
        If the inner dimensions differ; the message holds both shapes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.matmul(ln.asarray([[1.0, 2.0]]), ln.asarray([[3.0], [4.0]])).tolist()
    [[11.0]]
    """


def _summed(x1: Tensor, x2: Tensor, axes: Any) -> tuple[list[int], list[int]]:
    """Return the non-negative dimensions of each operand that `tensordot` sums over."""
    if isinstance(axes, np.ndarray | Sequence) and not isinstance(axes, str) and len(axes) == 2:
        left, right = [integers("tensordot", "each of the two axes", each) for each in axes]
    else:
        count = integer("tensordot", "axes, unless it is two tuples,", axes)
        if not 0 <= count <= min(x1.ndim, x2.ndim):
            raise AxisError(f"tensordot: axes={count}: so many dimensions are not in {x1.shape} and {x2.shape}")
        left, right = tuple(range(x1.ndim - count, x1.ndim)), tuple(range(count))
    return _normalized(left, x1.shape), _normalized(right, x2.shape)


def _normalized(axes: Sequence[int], shape: tuple[int, ...]) -> list[int]:
    return [normalize_axis("tensordot", axis, shape) for axis in axes]


@composed(
    samples=(
        Sample(((2, 3, 4), (3, 4, 5))),
        Sample(((2, 3), (3, 2)), {"axes": ((0, 1), (1, 0))}),
        Sample(((2,), (3,)), {"axes": 0}),
        Sample(((2, 3), (3, 4)), {"axes": ((-1,), (0,))}),
    ),
    gradients=(True, True),
    dtypes=("int64", *FLOATS),
)
def tensordot(x1: Tensor, x2: Tensor, /, *, axes: int | tuple[Sequence[int], Sequence[int]] = 2) -> Tensor:
    """Return the sum of products over several dimensions.

    Parameters
    ----------
    x1, x2 : tensors
    axes : int, or a pair of sequences of int
        Number of trailing dimensions of `x1` and leading ones of `x2`; or the dimensions of each.

    Raises
    ------
    ShapeError
        If the summed dimensions differ in length or do not exist.
    DTypeError
        If `axes` is neither.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tensordot(ln.ones((2, 3)), ln.ones((3, 4)), axes=1).shape
    (2, 4)
    """
    left, right = _summed(x1, x2, axes)
    if [x1.shape[a] for a in left] != [x2.shape[a] for a in right]:
        raise ShapeError(f"tensordot: lengths differ along axes {left} of {x1.shape} and {right} of {x2.shape}")
    free1 = [a for a in range(x1.ndim) if a not in left]
    free2 = [a for a in range(x2.ndim) if a not in right]
    shape1, shape2 = tuple(x1.shape[a] for a in free1), tuple(x2.shape[a] for a in free2)
    inner = math.prod(x1.shape[a] for a in left)
    rows = reshape(permute_dims(x1, (*free1, *left)), (math.prod(shape1), inner))
    columns = reshape(permute_dims(x2, (*right, *free2)), (inner, math.prod(shape2)))
    return reshape(matmul(rows, columns), shape1 + shape2)


@composed(
    samples=(
        Sample(((3, 4), (3, 4))),
        Sample(((3, 4), (4,))),
        Sample(((3, 4), (3, 1)), {"axis": -2}),
    ),
    gradients=(True, True),
)
def vecdot(x1: Tensor, x2: Tensor, /, *, axis: int = -1) -> Tensor:
    """Return the sum of products along one dimension, the others broadcast.

    Raises
    ------
    ShapeError
        If the lengths along `axis` differ.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.vecdot(ln.asarray([1.0, 2.0]), ln.asarray([3.0, 4.0])).item()
    11.0
    """
    if not -min(x1.ndim, x2.ndim) <= axis < 0 or x1.shape[axis] != x2.shape[axis]:
        raise ShapeError(
            f"vecdot: expected axis, counted from the end, of one length in both, got axis={axis} "
            f"for {x1.shape} and {x2.shape}"
        )
    if x1.dtype == x2.dtype == HALF:
        return astype(vecdot(astype(x1, SINGLE), astype(x2, SINGLE), axis=axis), HALF)
    product = moveaxis(x1, axis, -1) * moveaxis(x2, axis, -1)
    return sum(product, axis=-1, dtype=product.dtype)


def _rows(x: Tensor) -> Tensor:
    """Flatten all dimensions but the last, for one large product instead of many."""
    return x if x.ndim == 2 else x.reshape((math.prod(x.shape[:-1]), x.shape[-1]))


@op(
    lambda g, out, x, weight, bias: fit(g @ weight, x),
    lambda g, out, x, weight, bias: fit(_rows(g).mT @ _rows(x), weight),
    lambda g, out, x, weight, bias: fit(g, bias),
    samples=(
        Sample(((3, 4), (2, 4), (2,))),
        Sample(((4,), (2, 4), (2,))),
        Sample(((2, 3, 4), (5, 4), (5,))),
        Sample(((0, 4), (2, 4), (2,))),
    ),
    inputs=3,
    dtypes=FLOATS,
    flops=lambda out, x, weight, bias: out.size * (2 * weight.shape[-1] + (bias is not None)),
    public=False,
    reads=("weight", "x", ""),
)
def linear(x: Array, weight: Array, bias: Array, /) -> Array:
    """Return the affine map ``x @ weight.T + bias`` of the last dimension, in one step.

    Parameters
    ----------
    x : tensor of shape (..., in_features)
    weight : tensor of shape (out_features, in_features)
    bias : tensor of shape (out_features,), or None

    Raises
    ------
    ShapeError
        If the shapes do not fit together.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.linear(ln.ones((1, 2)), ln.ones((1, 2)), ln.ones(1)).tolist()
    [[3.0]]
    """
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        raise ValueError("expected weight of shape (out_features, in_features) and bias of shape (out_features,)")
    out = np.matmul(x, weight.T) if x.ndim < 3 else np.matmul(_rows(x), weight.T).reshape(*x.shape[:-1], len(weight))
    if bias is None:
        return out
    return np.add(out, bias, out=out) if out.dtype == bias.dtype else out + bias


@composed(samples=(Sample(((3,), (4,))),), gradients=(True, True), dtypes=("int64", *FLOATS))
def outer(x1: Tensor, x2: Tensor, /) -> Tensor:
    """Return the products of each element of a vector with each of another.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.outer(ln.asarray([1, 2]), ln.asarray([3, 4])).tolist()
    [[3, 4], [6, 8]]
    """
    return reshape(x1, (-1, 1)) * reshape(x2, (-1,))


@composed(
    samples=(Sample(((3,), (3,))), Sample(((2, 3), (2, 3))), Sample(((3, 2), (3, 1)), {"axis": 0})),
    gradients=(True, True),
    dtypes=("int64", *FLOATS),
)
def cross(x1: Tensor, x2: Tensor, /, axis: int = -1) -> Tensor:
    """Return the vector product along a dimension of length three.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cross(ln.asarray([1, 0, 0]), ln.asarray([0, 1, 0])).tolist()
    [0, 0, 1]
    """
    if {x.shape[axis] if -x.ndim <= axis < x.ndim else 0 for x in (x1, x2)} != {3}:
        raise ShapeError(f"cross: expected length 3 along axis {axis}, got shapes {x1.shape} and {x2.shape}")
    return roll(x1, -1, axis) * roll(x2, -2, axis) - roll(x1, -2, axis) * roll(x2, -1, axis)


@composed(samples=(Sample(((3, 4),)), Sample(((3, 3),), {"k": 1})), dtypes=("int64", *FLOATS))
def trace(x: Tensor, /, k: int = 0) -> Tensor:
    """Return the sum of diagonal `k` of a matrix.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.trace(ln.asarray([[1, 2], [3, 4]])).item()
    5
    """
    return sum(diagonal(x, k), axis=-1)
