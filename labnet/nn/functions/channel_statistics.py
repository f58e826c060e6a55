"""Standardization of channels over a batch as one recorded step; a compiled kernel computes the bits of NumPy."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels, ops
from labnet.autograd import Node, Run, is_recording
from labnet.ops.core.dispatch import current_tracer
from labnet.tensor import Tensor, wrap

Values = np.ndarray[Any, Any]


def standardize_channels(
    x: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Subtract the mean of each channel and divide by its deviation, then scale and shift.

    Parameters
    ----------
    x : tensor of shape (N, C, ...)
    weight, bias : tensors of shape (C,), optional, both or none
    eps : float
        Added to the variance.

    Returns
    -------
    y, mean, variance : tensors of shape (N, C, ...), (C,) and (C,); or None
        Mean and variance have no gradient. None without any effect for a traced computation, or arrays that are not all
        of the same floating dtype on the CPU.

    Examples
    --------
    >>> import labnet as ln
    >>> standardize_channels(ln.asarray([[1.0], [3.0]]), None, None, 0.0)[0].tolist()
    [[-1.0], [1.0]]
    """
    given = [x] if weight is None or bias is None else [x, weight, bias]
    if current_tracer() is not None or (weight is None) != (bias is None):
        return None
    if not all(isinstance(one, Tensor) for one in given) or x.dtype.char not in "fd":
        return None
    arrays, dtype = [one.array for one in given], x.dtype
    if any(type(one) is not np.ndarray or one.dtype != dtype for one in arrays) or not x.size or x.ndim < 2:
        return None
    if any(one.shape != x.shape[1:2] for one in arrays[1:]):
        return None
    channels = Channels(*arrays, eps=eps)
    out = channels.forward()
    parents = tuple([one.node for one in given])
    recorded = is_recording() and any(parents)
    mean, variance, _ = channels.moments
    return wrap(out, ChannelStatistics(parents, channels) if recorded else None), wrap(mean), wrap(variance)


class Channels:
    """The values of standardized channels that the backward needs.

    Attributes
    ----------
    inputs : tuple of arrays
        x, and weight and bias if there are any.
    moments : array of shape (3, C)
        Mean, variance and deviation of each channel.
    """

    def __init__(self, x: Values, *scale: Values, eps: float):
        self.inputs = (x, *scale)
        self.eps = eps
        self.moments = np.empty((3, x.shape[1]), x.dtype)

    def forward(self) -> Values:
        """Compute the moments, and return the output."""
        x, *scale = self.inputs
        rows, eps = _rows(x), self.eps
        weight, bias = scale or (None, None)
        numbers = eps, 0, rows.shape[1]
        out = kernels.channels.compute(rows.shape, rows, weight, bias, self.moments, numbers=numbers)
        if out is None:
            mean, variance, deviation = self.moments
            np.mean(rows, axis=(0, 2), out=mean)
            out = rows - mean[:, None]
            np.mean(out * out, axis=(0, 2), out=variance)
            np.sqrt(variance + eps, out=deviation)
            out /= deviation[:, None]
            if weight is not None and bias is not None:
                out *= weight[:, None]
                out += bias[:, None]
        found: Values = out.reshape(x.shape)
        return found

    def back(self, gradient: Values, *, by_input: bool) -> list[Values | None]:
        """Return the gradients of x, if it is wanted, and of weight and bias."""
        x, *scale = self.inputs
        rows, g, weight = _rows(x), _rows(gradient), scale[0] if scale else None
        sums = np.empty((2, x.shape[1]), x.dtype)
        by_x = np.empty(rows.shape, x.dtype) if by_input else None
        compiled = kernels.channels_backward.ready(x.dtype, x.size)
        together = (g, rows, weight, self.moments, sums, by_x)
        if compiled is None or not compiled(together, 0, x.shape[1]):
            mean, _, deviation = self.moments
            y = rows - mean[:, None]
            y /= deviation[:, None]
            np.sum(g * y, axis=(0, 2), out=sums[0])
            np.sum(g, axis=(0, 2), out=sums[1])
            if by_x is not None:
                count = x.dtype.type(rows.size // rows.shape[1])
                np.subtract(g, (sums[1] / count)[:, None], out=by_x)
                y *= (sums[0] / count)[:, None]
                by_x -= y
                by_x *= ((1 if weight is None else weight) / deviation)[:, None]
        return [None if by_x is None else by_x.reshape(x.shape), *sums][: len(self.inputs)]


def _rows(x: Values) -> Values:
    """Return an array of shape (N, C, ...) as (N, C, S), in order of memory; one channel as (1, 1, S)."""
    shape = (len(x), x.shape[1], -1) if x.shape[1] > 1 else (1, 1, -1)
    return np.ascontiguousarray(x).reshape(shape)


class ChannelStatistics(Node):
    """The node of standardized channels."""

    __slots__ = ("channels",)

    def __init__(self, parents: tuple[Node | None, ...], channels: Channels):
        super().__init__(parents)
        self.channels: Channels | None = channels

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of x, weight and bias; None where not needed."""
        channels, parents = self.channels, self.parents
        assert channels is not None, "check_kept() refuses freed nodes"
        assert parents is not None
        if run.create_graph:
            eps = channels.eps
            return ops.replay(lambda *given: _composed(*given, eps=eps), channels.inputs, parents, gradient)
        found = channels.back(np.asarray(gradient), by_input=parents[0] is not None)
        return [None if parent is None else each for parent, each in zip(parents, found, strict=True)]

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = self.channels = None

    @property
    def saved(self) -> Sequence[Any]:
        """Input, weight, bias, and the mean, variance and deviation of each channel."""
        return () if self.channels is None else (*self.channels.inputs, self.channels.moments)


def _composed(x: Tensor, *scale: Tensor, eps: float) -> Tensor:
    """Compute `standardize_channels` in ops, for higher derivatives."""
    axes, shape = (0, *range(2, x.ndim)), (-1, *(1,) * (x.ndim - 2))
    centered = x - ops.mean(x, axis=axes, keepdims=True)
    y: Tensor = centered / ops.sqrt(ops.mean(centered * centered, axis=axes, keepdims=True) + eps)
    return y * scale[0].reshape(shape) + scale[1].reshape(shape) if scale else y
