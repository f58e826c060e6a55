"""Ops that move elements or change the shape without computing."""

from collections.abc import Sequence

import numpy as np

from labnet.device import check_device
from labnet.kernels.device_dispatch import finished
from labnet.ops.core.axes import Shape
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.core.registry import EVERY, op
from labnet.tensor import DTypeLike, Tensor, as_dtype

Axes = int | tuple[int, ...]


@op(
    lambda g, out, x, **_: g.reshape(x.shape),
    samples=(Sample(((2, 3),), {"shape": (3, 2)}), Sample(((2, 3),), {"shape": (-1,)}), Sample(((1,),), {"shape": ()})),
    dtypes=EVERY,
    view=True,
)
def reshape(x: Array, /, shape: Shape, *, copy: bool | None = None) -> Array:
    """Return the same elements, in row-major order, with another shape.

    Parameters
    ----------
    x : tensor
    shape : int or tuple of int
        New shape; one entry may be -1, which is inferred.
    copy : bool, optional
        True for a copy, False for an error if a view is not possible.

    Raises
    ------
    ShapeError
        If the number of elements differs.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.reshape(ln.arange(4), (2, 2)).tolist()
    [[0, 1], [2, 3]]
    """
    return np.reshape(x, shape, copy=copy)


def _unbroadcast(g: Tensor, out: Tensor, x: Tensor, **_: object) -> Tensor:
    return sum_to(g, x.shape)


@op(
    _unbroadcast,
    samples=(
        Sample(((3,),), {"shape": (2, 3)}),
        Sample(((2, 1),), {"shape": (4, 2, 3)}),
        Sample(((),), {"shape": (2,)}),
    ),
    dtypes=EVERY,
    view=True,
)
def broadcast_to(x: Array, /, shape: tuple[int, ...]) -> Array:
    """Return the tensor repeated, without a copy, until it has `shape`; a view where nothing is repeated.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.broadcast_to(ln.asarray([1, 2]), (2, 2)).tolist()
    [[1, 2], [1, 2]]
    """
    wanted = (shape,) if isinstance(shape, int) else tuple(shape)
    if (1,) * (len(wanted) - x.ndim) + x.shape == wanted:
        return np.reshape(x, wanted)
    return np.broadcast_to(x, shape)


@op(
    lambda g, out, x, **_: broadcast_to(g, x.shape),
    samples=(
        Sample(((2, 3),), {"shape": (3,)}),
        Sample(((4, 2, 3),), {"shape": (2, 1)}),
        Sample(((2,),), {"shape": ()}),
    ),
    public=False,
    reads="",
)
def sum_to(x: Array, /, shape: tuple[int, ...]) -> Array:
    """Return the sum over the dimensions along which `shape` would be broadcast; the adjoint of `broadcast_to`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.sum_to(ln.ones((2, 3)), (3,)).tolist()
    [2.0, 2.0, 2.0]
    """
    return _sum_array(x, shape)


def _sum_array(x: Array, shape: tuple[int, ...]) -> Array:
    if x.dtype is HALF:
        return _sum_array(x.astype(SINGLE), shape).astype(HALF)
    added = x.ndim - len(shape)
    if added == 1 and x.shape[1:] == shape:  # for example the gradient of a bias
        return finished(np.add.reduce(x, dtype=x.dtype))
    axes = tuple(range(added))
    for axis, length in enumerate(shape, start=added):
        if axis < 0 or x.shape[axis] != length:
            if axis < 0 or length != 1:
                raise ValueError(f"{shape} cannot be broadcast to {x.shape}")
            axes += (axis,)
    return np.add.reduce(x, axis=axes, dtype=x.dtype).reshape(shape) if axes else x


def _permute_back(g: Tensor, out: Tensor, x: Tensor, *, axes: Sequence[int]) -> Tensor:
    return permute_dims(g, tuple(int(i) for i in np.argsort([axis % x.ndim for axis in axes])))


@op(
    _permute_back,
    samples=(Sample(((2, 3, 4),), {"axes": (2, 0, 1)}), Sample(((2, 3),), {"axes": (-1, 0)})),
    dtypes=EVERY,
    view=True,
)
def permute_dims(x: Array, /, axes: Sequence[int]) -> Array:
    """Return the tensor with its dimensions in another order, without a copy.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.permute_dims(ln.ones((2, 3)), (1, 0)).shape
    (3, 2)
    """
    return np.transpose(x, axes)


@op(
    lambda g, out, x: g.mT,
    samples=(Sample(((2, 3),)), Sample(((4, 2, 3),))),
    dtypes=EVERY,
    view=True,
)
def matrix_transpose(x: Array, /) -> Array:
    """Swap the last two dimensions, without a copy.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.matrix_transpose(ln.ones((4, 2, 3))).shape
    (4, 3, 2)
    """
    if x.ndim < 2:
        raise ValueError("expected at least two dimensions")
    return np.swapaxes(x, -2, -1)


@op(
    lambda g, out, x, **_: g.reshape(x.shape),
    samples=(Sample(((2, 3),), {"axis": 0}), Sample(((2, 3),), {"axis": (-1, 0)})),
    dtypes=EVERY,
    view=True,
)
def expand_dims(x: Array, /, axis: int | tuple[int, ...] = 0) -> Array:
    """Insert a dimension of length one at `axis`, or several.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.expand_dims(ln.ones(3), axis=-1).shape
    (3, 1)
    """
    return np.expand_dims(x, axis)


@op(
    lambda g, out, x, **_: g.reshape(x.shape),
    samples=(Sample(((2, 1, 3),), {"axis": 1}), Sample(((1, 2, 1),), {"axis": (0, -1)}), Sample(((1, 2, 1),))),
    dtypes=EVERY,
    view=True,
)
def squeeze(x: Array, /, axis: int | tuple[int, ...] | None = None) -> Array:
    """Remove dimensions of length one: those in `axis`, or all there are.

    Raises
    ------
    ShapeError
        If a dimension in `axis` is longer.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.squeeze(ln.ones((1, 3, 1)), axis=(0, -1)).shape
    (3,)
    """
    return np.squeeze(x, axis)[...]


def _move_back(g: Tensor, out: Tensor, x: Tensor, *, source: Axes, destination: Axes) -> Tensor:
    return moveaxis(g, destination, source)


@op(
    _move_back,
    samples=(
        Sample(((2, 3, 4),), {"source": 0, "destination": -1}),
        Sample(((2, 3, 4),), {"source": (0, -1), "destination": (1, 0)}),
    ),
    dtypes=EVERY,
    view=True,
)
def moveaxis(x: Array, /, source: Axes, destination: Axes) -> Array:
    """Return the tensor with some dimensions at other places, the others in their order, without a copy.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.moveaxis(ln.ones((2, 3, 4)), 0, -1).shape
    (3, 4, 2)
    """
    return np.moveaxis(x, source, destination)


@op(
    lambda g, out, x, **_: g.astype(x.dtype),
    samples=(Sample(((2, 3),), {"dtype": "float64"}), Sample(((2, 3),), {"dtype": "int32"})),
    dtypes=EVERY,
    domain=(0.0, 5.0),
    view=True,
)
def astype(x: Array, /, dtype: DTypeLike, *, copy: bool = True, device: str | None = None) -> Array:
    """Return the elements in another dtype.

    Parameters
    ----------
    x : tensor
    dtype : dtype
    copy : bool
        With False, the result is a view if `x` already has the dtype. Otherwise the tensors do not share later writes.
    device : str, optional
        The device that the tensor is on.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.astype(ln.asarray([1.7, -1.7]), "int32").tolist()
    [1, -1]
    """
    check_device(device)
    wanted = as_dtype(dtype)
    return x[...] if not copy and x.dtype == wanted else x.astype(wanted, copy=False)


def fit(gradient: Tensor, like: Tensor) -> Tensor:
    """Reduce the gradient of a broadcast, promoted operand to the operand's shape and dtype."""
    if gradient.dtype != like.dtype:
        gradient = gradient.astype(like.dtype)
    if gradient.shape == like.shape:
        return gradient
    return sum_to(gradient, like.shape) if isinstance(gradient, Tensor) else _sum_array(gradient, like.shape)
