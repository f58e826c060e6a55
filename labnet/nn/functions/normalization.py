"""Normalisation of vectors, layers and groups of channels."""

import functools
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels, ops
from labnet.autograd import Node, Run, is_recording
from labnet.errors import ShapeError
from labnet.kernels.device_dispatch import Deferred, materialize
from labnet.nn.functions import channel_statistics
from labnet.nn.sizes import number, sizes
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.half_precision import HALF, SINGLE, wider
from labnet.ops.nn.normalization import standardized_gradients
from labnet.tensor import Tensor, wrap


def normalize(x: Tensor, p: float = 2.0, axis: int = 1, eps: float = 1e-12, *, dim: int | None = None) -> Tensor:
    """Divide by the p-norm along `axis`, or by `eps` where the norm is smaller.

    Parameters
    ----------
    x : tensor, floating
    p : float
        Order of the norm, positive; ``math.inf`` for the greatest absolute value.
    axis : int
    eps : float
    dim : int, optional
        The same as `axis`.

    Raises
    ------
    ValueError
        If `p` is not positive.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.normalize(ln.asarray([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    if not number("normalize", "p", p) > 0:
        raise ValueError(f"normalize: expected p > 0, got {p}")
    number("normalize", "eps", eps, least=0)
    axis = axis if dim is None else dim
    p, eps = float(p), float(eps)  # NumPy scalars would decide the dtype
    if x.dtype == HALF:
        return normalize(x.astype(SINGLE), p, axis, eps).astype(HALF)
    if p == 2:  # the square root has no derivative at 0, so clamp first
        return x / ops.sqrt(ops.maximum(ops.sum(x * x, axis=axis, keepdims=True), eps * eps))
    size = ops.abs(x)
    if p == math.inf:
        return x / ops.maximum(ops.max(size, axis=axis, keepdims=True), eps)
    total = ops.sum(size**p, axis=axis, keepdims=True)
    none = total == 0
    return x / ops.maximum(ops.where(none, 0.0, ops.where(none, 1.0, total) ** (1 / p)), eps)


def layer_norm(
    x: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions to mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : tensor of shape ``(..., *normalized_shape)``
    normalized_shape : int or tuple of int
    weight, bias : tensors of shape `normalized_shape`, optional
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        If `x` does not end in `normalized_shape`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.layer_norm(ln.asarray([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    shape = normalized_shape
    if type(shape) is not tuple or {*map(type, shape)} != {int} or min(shape) < 1:  # others are checked, and refused
        shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: expected an input of shape (..., {', '.join(map(str, shape))}), got {x.shape}")
    if weight is not None and (found := scaled(x, weight, bias, len(shape), eps)) is not None:
        return found
    with Deferred():
        y = ops.standardize(x, dims=len(shape), eps=eps)
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
    if current_tracer() is None:
        materialize(y.array)
    return y


def scaled(
    x: Tensor, weight: Tensor, bias: Tensor | None, dims: int, eps: float, centered: bool = True
) -> Tensor | None:
    """Compute ``standardize(x) * weight + bias`` as one step, with the bits of the three ops.

    Parameters
    ----------
    x, weight, bias, dims, eps
        As for `layer_norm`; weight and bias have `dims` dimensions.
    centered : bool
        Whether to subtract the mean before the division by the root mean square.

    Returns
    -------
    tensor of the shape of `x`, or None
        None without any effect for what the step does not take: a traced computation, or arrays that are not all of the
        same dtype on the CPU.

    Examples
    --------
    >>> import labnet as ln
    >>> scaled(ln.asarray([[1.0, 3.0]]), ln.ones(2), ln.ones(2), 1, 0.0).tolist()
    [[0.0, 2.0]]
    """
    if current_tracer() is not None or not isinstance(weight, Tensor) or not isinstance(bias, Tensor | None):
        return None
    array, factor, shift = x.array, weight.array, None if bias is None else bias.array
    shape, dtype = array.shape[-dims:], array.dtype
    for one in (factor,) if shift is None else (factor, shift):
        if type(one) is not np.ndarray or one.dtype != dtype or one.shape != shape:
            return None
    width = math.prod(shape)
    if type(array) is not np.ndarray or dtype.char not in "fd" or not array.size:
        return None
    if array.ndim == dims or width == 1:  # NumPy adds in another order
        return None
    moments = np.empty((array.size // width, 2), dtype)
    out = kernels.standardize.compute(array.shape, array, factor, shift, moments, numbers=(width, int(centered), eps))
    if out is None:
        rows = array.reshape(-1, width)
        moments[:, 0] = np.mean(rows, axis=-1) if centered else 0
        out = rows - moments[:, :1]
        moments[:, 1] = np.sqrt(np.mean(out * out, axis=-1) + eps)
        out /= moments[:, 1:]
        out = out.reshape(array.shape)
        out *= factor
        if shift is not None:
            out += shift
    parents = (x.node, weight.node, None if bias is None else bias.node)
    if is_recording() and any(parents):
        return wrap(out, Scaled(parents, (array, factor, shift, moments), eps, centered))
    return wrap(out)


class Scaled(Node):
    """The node of a scaled standardization, with its saved values."""

    __slots__ = ("arrays", "centered", "eps")

    def __init__(self, parents: tuple[Node | None, ...], arrays: tuple[Any, ...], eps: float, centered: bool):
        self.parents = parents
        #: Input, weight, bias or None, and the mean and deviation of each row.
        self.arrays = arrays
        self.eps, self.centered = eps, centered

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of input, weight and bias; None where not needed."""
        parents, (x, weight, bias, moments), eps = self.parents, self.arrays, self.eps
        assert parents is not None, "check_kept() refuses freed nodes"
        if run.create_graph:
            inputs = (x, weight) if bias is None else (x, weight, bias)
            composed = functools.partial(_scaled, eps=eps, centered=self.centered)
            return [*ops.replay(composed, inputs, parents[: len(inputs)], gradient), None][:3]
        wanted = [parent is not None for parent in parents]
        named = {"dims": weight.ndim, "eps": eps, "centered": self.centered}
        return standardized_gradients(np.asarray(gradient), x, weight, moments, wanted, **named)

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = None
        self.arrays = ()

    @property
    def saved(self) -> Sequence[Any]:
        """Input, weight, bias, and the mean and deviation of each row."""
        return self.arrays


def _scaled(x: Tensor, weight: Tensor, bias: Tensor | None = None, *, eps: float, centered: bool) -> Tensor:
    """Compute `scaled` in ops, for higher derivatives."""
    if not centered:
        return rms_norm(x, weight.shape, eps=eps) * weight
    y: Tensor = ops.standardize(x, dims=weight.ndim, eps=eps) * weight
    return y if bias is None else y + bias


def rms_norm(
    x: Tensor, normalized_shape: int | Sequence[int], weight: Tensor | None = None, eps: float | None = None
) -> Tensor:
    """Divide by the root mean square over the last dimensions, then scale (Zhang and Sennrich, 2019).

    Parameters
    ----------
    x : tensor of shape ``(..., *normalized_shape)``
    normalized_shape : int or tuple of int
    weight : tensor of shape `normalized_shape`, optional
    eps : float, optional
        Added to the mean square; the machine epsilon of the dtype by default.

    Raises
    ------
    ShapeError
        If `x` does not end in `normalized_shape`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.rms_norm(ln.asarray([[3.0, -3.0]]), 2).tolist()
    [[1.0, -1.0]]
    """
    shape = sizes("rms_norm", "normalized_shape", normalized_shape)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"rms_norm: expected an input of shape (..., {', '.join(map(str, shape))}), got {x.shape}")
    added = float(np.finfo(x.dtype).eps) if eps is None else eps
    if weight is not None and (found := scaled(x, weight, None, len(shape), added, centered=False)) is not None:
        return found
    (wide,) = wider([x])  # squares overflow float16
    square = ops.mean(wide * wide, axis=tuple(range(-len(shape), 0)), keepdims=True)
    y: Tensor = (wide / ops.sqrt(square + added)).astype(x.dtype)
    return y if weight is None else y * weight


def group_norm(
    x: Tensor, num_groups: int, weight: Tensor | None = None, bias: Tensor | None = None, eps: float = 1e-5
) -> Tensor:
    """Normalise each group of channels to mean 0 and variance 1, then scale and shift (Wu and He, 2018).

    Parameters
    ----------
    x : tensor of shape (N, C, ...)
    num_groups : int
        Divides C.
    weight, bias : tensors of shape (C,), optional
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        If the groups do not fit.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.group_norm(ln.asarray([[1.0, 3.0, 5.0, 9.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0, -1.0, 1.0]]
    """
    if x.ndim < 2 or x.shape[1] % num_groups:
        raise ShapeError(f"group_norm: expected shape (N, C, ...) with C in multiples of {num_groups}, got {x.shape}")
    y = ops.standardize(x.reshape((x.shape[0], num_groups, -1)), eps=eps).reshape(x.shape)
    shape = (-1, *(1,) * (x.ndim - 2))
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def local_response_norm(x: Tensor, size: int, alpha: float = 1e-4, beta: float = 0.75, k: float = 1.0) -> Tensor:
    """Divide by a power of the mean square over neighbouring channels (Krizhevsky et al., 2012).

    Parameters
    ----------
    x : tensor of shape (N, C, ...)
    size : int
        Number of channels in a mean.
    alpha, beta, k : float
        The divisor is ``(k + alpha * mean)**beta``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.local_response_norm(ln.asarray([[1.0, 2.0]]), 1, alpha=1.0, beta=1.0).tolist()
    [[0.5, 0.4000000059604645]]
    """
    squares = ops.pad((x * x).reshape((*x.shape[:2], -1)), ((0, 0), (size // 2, (size - 1) // 2), (0, 0)))
    means = ops.avg_pool2d(squares, (size, 1), 1).reshape(x.shape)
    return x / (means * alpha + k) ** beta


def batch_norm(
    x: Tensor,
    running_mean: Tensor | None = None,
    running_var: Tensor | None = None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise each channel over the batch in training, with the running statistics otherwise.

    Parameters
    ----------
    x : tensor of shape (N, C, ...)
    running_mean, running_var : tensors of shape (C,), optional
        Updated in training.
    weight, bias : tensors of shape (C,), optional
    training : bool
        Take the statistics of the batch.
    momentum : float
        Share of the batch in the running statistics.
    eps : float
        Added to the variance.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.batch_norm(ln.asarray([[1.0], [3.0]]), training=True, eps=0.0).tolist()
    [[-1.0], [1.0]]
    """
    axes, shape = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    found = None
    if training or running_mean is None or running_var is None:
        found = channel_statistics.standardize_channels(x, weight, bias, eps)
        mean, variance = (ops.mean(x, axis=axes), ops.var(x, axis=axes)) if found is None else found[1:]
        count = x.size // x.shape[1]
        if training and running_mean is not None and running_var is not None:
            unbiased = variance.detach() * (count / max(count - 1, 1))
            for running, new in ((running_mean, mean.detach()), (running_var, unbiased)):
                running.assign(running * (1 - momentum) + new * momentum)
    else:
        mean, variance = running_mean, running_var
    if found is not None:
        return found[0]
    y = (x - mean.reshape(shape)) / ops.sqrt(variance.reshape(shape) + eps)
    y = y if weight is None else y * weight.reshape(shape)
    return y if bias is None else y + bias.reshape(shape)


def instance_norm(x: Tensor, weight: Tensor | None = None, bias: Tensor | None = None, *, eps: float = 1e-5) -> Tensor:
    """Normalise each channel of each sample, as `group_norm` with one channel per group.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.instance_norm(ln.asarray([[[1.0, 3.0]]]), eps=0.0).tolist()
    [[[-1.0, 1.0]]]
    """
    return group_norm(x, x.shape[1], weight, bias, eps)
