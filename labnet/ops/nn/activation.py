"""Activation functions, each as one op with its own rule; `relu`, `sigmoid` and `tanh` are in `elementary`."""

import math
from typing import Any

import numpy as np

from labnet import kernels
from labnet.kernels.device_dispatch import finished
from labnet.kernels.exponential import expm1, exponential
from labnet.ops.aggregation.reduction import greatest, is_last, negative_exp, sum
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.registry import FLOATS, op
from labnet.ops.elementwise.elementary import blocked, kept, sigmoid, tanh, unary, where
from labnet.ops.elementwise.error_function import ndtr_of_array
from labnet.tensor import Tensor

_SHAPES = ((3, 4),), ((),), ((0, 2),)


def _samples(**static: Any) -> tuple[Sample, ...]:
    """Return samples of an elementwise op, with and without its static arguments."""
    return (*(Sample(shapes) for shapes in _SHAPES), Sample(_SHAPES[0], static))


# Functions of the normal distribution


def _normal_density(x: Any) -> Any:
    return exponential(x * x * -0.5) * (1 / math.sqrt(2 * math.pi))


@unary(lambda g, out, x: g * _normal_density(x), scalar="0.5 * (1 + erf(x * sqrt(0.5)))", reads="x")
def ndtr(x: Array, /) -> Array:
    """Return the distribution function of the standard normal, ``(1 + erf(x / sqrt(2))) / 2``, of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.ndtr(ln.asarray([0.0, 10.0])).tolist()
    [0.5, 1.0]
    """
    return ndtr_of_array(x)


# Activations

_GELU_SCALE, _GELU_CUBIC = math.sqrt(2 / math.pi), 0.044715


def _pull_gelu(g: Any, out: Any, x: Any, *, approximate: str = "none") -> Any:
    if approximate == "none":
        return g * (ndtr(x) + x * _normal_density(x))
    square = x * x
    bend = tanh(x * (square * _GELU_CUBIC + 1) * _GELU_SCALE)
    slope = (square * (3 * _GELU_CUBIC) + 1) * _GELU_SCALE
    return g * ((bend + 1) * 0.5 + x * (1 - bend * bend) * slope * 0.5)


@op(_pull_gelu, samples=_samples(approximate="tanh"), dtypes=FLOATS, wide=True, elementwise=True, reads="x")
def gelu(x: Array, /, *, approximate: str = "none") -> Array:
    """Return each element times the normal distribution function of it (Hendrycks and Gimpel, 2016).

    Parameters
    ----------
    x : tensor, floating
    approximate : str
        ``"none"``, or ``"tanh"`` for the paper's approximation.

    Raises
    ------
    ShapeError
        If `approximate` is neither.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.gelu(ln.asarray([0.0, 10.0])).tolist()
    [0.0, 10.0]
    """
    if approximate == "none":
        return x * ndtr_of_array(x)
    if approximate != "tanh":
        raise ValueError("approximate must be 'none' or 'tanh'")
    return 0.5 * x * (1 + np.tanh(_GELU_SCALE * (x + _GELU_CUBIC * x * x * x)))


def _pull_silu(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    share = sigmoid(x)
    return g * (share + out * (1 - share))


@unary(_pull_silu, scalar="x * sigmoid(x)", reads="out x")
def silu(x: Array, /) -> Array:
    """Return each element times its logistic function, ``x / (1 + exp(-x))``; also known as swish.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.silu(ln.asarray([0.0, 100.0])).tolist()
    [0.0, 100.0]
    """
    x = in_floats(x)
    small = exponential(-np.abs(x))
    return x * np.where(x >= 0, 1, small) / (1 + small)


def _pull_elu(g: Tensor, out: Tensor, x: Tensor, *, alpha: float = 1.0) -> Tensor:
    curved = blocked(out, x == 0)  # the second derivative is discontinuous at 0, where it is 0 as in torch
    return g * where(x <= 0, curved + alpha, 1)


@op(
    _pull_elu,
    samples=_samples(alpha=0.5),
    dtypes=FLOATS,
    scalar="x if x > 0 else expm1(minimum(x, 0)) * alpha",
    reads="out x",
)
def elu(x: Array, /, alpha: float = 1.0) -> Array:
    """Return each element where it is positive, else ``alpha * (exp(x) - 1)`` (Clevert et al., 2016).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.elu(ln.asarray([-100.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    return np.where(x > 0, x, alpha * expm1(np.minimum(x, 0)))


@op(
    lambda g, out, x, *, negative_slope=0.01: where(x > 0, g, g * negative_slope),
    samples=_samples(negative_slope=0.25),
    dtypes=FLOATS,
    scalar="x if x > 0 else x * negative_slope",
    reads="x",
)
def leaky_relu(x: Array, /, negative_slope: float = 0.01) -> Array:
    """Return each element where it is positive, else `negative_slope` times it.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.leaky_relu(ln.asarray([-2.0, 2.0]), 0.5).tolist()
    [-1.0, 2.0]
    """
    return np.where(x > 0, x, negative_slope * x)


def _pull_hardtanh(g: Any, out: Any, x: Any, *, min_val: float = -1.0, max_val: float = 1.0) -> Any:
    return kept(g, (x > min_val) & (x < max_val))


@op(
    _pull_hardtanh,
    samples=_samples(min_val=-0.5, max_val=1.5),
    dtypes=FLOATS,
    scalar="minimum(maximum(x, min_val), max_val)",
    reads="x",
)
def hardtanh(x: Array, /, min_val: float = -1.0, max_val: float = 1.0) -> Array:
    """Return each element, limited to [`min_val`, `max_val`]; the gradient is 0 at and beyond the limits, as in torch.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.hardtanh(ln.asarray([-3.0, 0.5, 3.0])).tolist()
    [-1.0, 0.5, 1.0]
    """
    return np.minimum(np.maximum(x, min_val), max_val)


@unary(
    lambda g, out, x: _pull_hardtanh(g, out, x, min_val=0.0, max_val=6.0),
    domain=(-5.0, 9.0),
    scalar="minimum(maximum(x, 0), 6)",
    reads="x",
)
def relu6(x: Array, /) -> Array:
    """Return each element, limited to [0, 6].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.relu6(ln.asarray([-3.0, 3.0, 9.0])).tolist()
    [0.0, 3.0, 6.0]
    """
    return np.minimum(np.maximum(x, 0), 6)


@op(
    lambda g, out, x, *, threshold, value: blocked(g, x <= threshold),
    samples=tuple(Sample(shapes, {"threshold": 0.5, "value": -3.0}) for shapes in _SHAPES),
    dtypes=FLOATS,
    scalar="value if x <= threshold else x",
    reads="x",
)
def threshold(x: Array, /, threshold: float, value: float) -> Array:
    """Return each element where it is greater than `threshold`, else `value`; NaN stays.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.threshold(ln.asarray([1.0, 3.0]), 2.0, 0.0).tolist()
    [0.0, 3.0]
    """
    return np.where(x <= threshold, value, x)


def _pull_softmax(g: Any, out: Any, x: Any, *, axis: int = -1) -> Any:
    if is_last(axis, x) and (found := kernels.softmax_backward.compute(x.shape, g, out, numbers=(0,))) is not None:
        return found
    return out * (g - sum(g * out, axis=axis, keepdims=True))


@op(
    _pull_softmax,
    samples=(Sample(((3, 4),)), Sample(((3, 4),), {"axis": 0}), Sample(((0, 2),))),
    dtypes=FLOATS,
    wide=True,
    reads="out",
)
def softmax(x: Array, /, axis: int = -1) -> Array:
    """Return the exponentials divided by their sum along `axis`, computed without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.softmax(ln.asarray([1000.0, 1000.0])).tolist()
    [0.5, 0.5]
    """
    if is_last(axis, x) and (found := kernels.softmax.compute(x.shape, x, numbers=(0,))) is not None:
        return found
    x, power = in_floats(x), negative_exp(axis, x)
    out = finished(x - greatest(x, axis))
    out = np.exp(out, out=out) if power is np.exp else power(out)
    out /= np.sum(out, axis=axis, keepdims=True)
    return out
