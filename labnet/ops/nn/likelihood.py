"""Losses as single ops, which are fast, and exact where exponentials would overflow."""

from typing import Any

import numpy as np

from labnet import kernels
from labnet.device import CPU
from labnet.kernels.device_dispatch import device_of, moved
from labnet.kernels.exponential import exponential
from labnet.kernels.logarithm import log1p
from labnet.ops.aggregation.reduction import is_last, mean_of_array, negative_exp
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.core.registry import FLOATS, op
from labnet.ops.elementwise.elementary import binary, sigmoid
from labnet.ops.elementwise.logic import equal
from labnet.ops.layout.shape import astype, expand_dims
from labnet.ops.nn.activation import softmax
from labnet.tensor import Tensor, wrap


@binary(
    lambda g, out, z, y: g * (sigmoid(z) - y),
    lambda g, out, z, y: -(g * z),
    dtypes=FLOATS,
    scalar="maximum(z, 0) - z * y + log1p(exp(-abs(z)))",
    reads=("z y", "z"),
)
def binary_cross_entropy_with_logits(z: Array, y: Array, /) -> Array:
    """Return the negative log-likelihood of each `y` in [0, 1] if its probability is ``sigmoid(z)``.

    That is ``max(z, 0) - z y + log(1 + exp(-|z|))``, which neither overflows nor cancels.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.binary_cross_entropy_with_logits(ln.asarray([-1000.0, 1000.0]), 1.0).tolist()
    [1000.0, 0.0]
    """
    z, y = in_floats(z), in_floats(y)
    return np.maximum(z, 0) - z * y + log1p(exponential(-np.abs(z)))


@op(
    lambda g, out, x1, x2: (x1 - x2) * (g * (2 / max(x1.size, 1))),
    lambda g, out, x1, x2: (x2 - x1) * (g * (2 / max(x1.size, 1))),
    samples=(Sample(((3, 4), (3, 4))), Sample(((), ()))),
    inputs=2,
    dtypes=FLOATS,
    reads="x1 x2",
)
def mean_squared_error(x1: Array, x2: Array, /) -> Array:
    """Return the mean of the squared differences of two tensors of the same shape.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.mean_squared_error(ln.asarray([1.0, 2.0]), ln.asarray([1.0, 4.0])).item()
    2.0
    """
    difference = np.subtract(x1 if x1.dtype.kind == "f" else x1.astype("float64"), x2)
    if difference.dtype is HALF:
        difference = difference.astype(SINGLE)
        return np.mean(difference * difference).astype(HALF)
    difference *= difference
    return mean_of_array(difference)


def one_of(labels: Any, shape: tuple[int, ...], axis: int) -> Tensor:
    """Return a one-hot boolean mask of the labels, with the classes along `axis`."""
    classes = np.arange(shape[axis]).reshape([-1 if i == axis % len(shape) else 1 for i in range(len(shape))])
    labels = labels if isinstance(labels, Tensor) else wrap(labels)
    return equal(expand_dims(labels, axis=axis), wrap(moved(classes, labels.device)))


def _pull_logits(g: Any, out: Any, x: Any, *, labels: Array, axis: int = -1) -> Any:
    place = x.device if isinstance(x, Tensor) else device_of(x)
    if isinstance(labels, Tensor) or place != CPU:  # as in the compiled op; one kernel on a GPU
        labels = labels if isinstance(labels, Tensor) else moved(labels, place)
        return expand_dims(g, axis=axis) * (softmax(x, axis=axis) - astype(one_of(labels, x.shape, axis), x.dtype))
    if is_last(axis, x):
        found = kernels.cross_entropy_backward.compute(x.shape, g, x, labels)
        if found is not None:
            return found
    one_hot = np.zeros(x.shape, x.dtype)
    np.put_along_axis(one_hot, np.expand_dims(labels, axis), 1, axis)
    return expand_dims(g, axis=axis) * (softmax(x, axis=axis) - wrap(one_hot))


@op(
    _pull_logits,
    samples=(
        Sample(((3, 4),), {"labels": np.array([0, 3, 1])}),
        Sample(((2, 3, 2),), {"labels": np.array([[0, 2], [1, 1]]), "axis": 1}),
    ),
    dtypes=FLOATS,
    wide=True,
    reads="x",
)
def cross_entropy_with_logits(x: Array, /, *, labels: Array, axis: int = -1) -> Array:
    """Return the negative log-likelihood of integer labels under softmax of `x` along `axis`.

    Parameters
    ----------
    x : tensor, floating
    labels : integer array of the shape of `x` without `axis`; not negative
    axis : int
        Dimension of the classes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.cross_entropy_with_logits(ln.asarray([[0.0, 1000.0]]), labels=ln.asarray([0]).numpy()).tolist()
    [1000.0]
    """
    if is_last(axis, x) and (found := kernels.cross_entropy.compute(x.shape[:-1], x, labels)) is not None:
        return found
    most = np.max(x, axis=axis, keepdims=True)
    chosen = np.take_along_axis(x, np.expand_dims(labels, axis), axis) - most
    return np.squeeze(np.log(np.sum(negative_exp(axis, x)(x - most), axis=axis, keepdims=True)) - chosen, axis)
