"""Activation functions in torch's form, most of them composed of other ops.

`inplace` is accepted and makes no difference to the result: tensors of a graph are never overwritten.
"""

from typing import Any

from labnet import ops
from labnet.errors import ShapeError
from labnet.ops.core.creation import arange, rand
from labnet.ops.core.single_pass import rules_in_one_pass
from labnet.ops.custom import op, op_of
from labnet.ops.elementwise.elementary import kept
from labnet.tensor import DTypeLike, Tensor

_SELU_SCALE, _SELU_ALPHA = 1.0507009873554804934193349852946, 1.6732632423543772848170429916717


def relu(x: Tensor, inplace: bool = False) -> Tensor:
    """Return each element where it is positive, else 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.relu(ln.asarray([-1.0, 1.0]), inplace=True).tolist()
    [0.0, 1.0]
    """
    return ops.relu(x)


def relu6(x: Tensor, inplace: bool = False) -> Tensor:
    """Return each element, limited to [0, 6].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.relu6(ln.asarray([-1.0, 7.0])).tolist()
    [0.0, 6.0]
    """
    return ops.relu6(x)


def elu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return each element where it is positive, else ``alpha * (exp(x) - 1)``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.elu(ln.asarray([-100.0, 2.0])).tolist()
    [-1.0, 2.0]
    """
    return ops.elu(x, alpha=alpha)


def leaky_relu(x: Tensor, negative_slope: float = 0.01, inplace: bool = False) -> Tensor:
    """Return each element where it is positive, else `negative_slope` times it.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.leaky_relu(ln.asarray([-2.0, 2.0]), 0.5).tolist()
    [-1.0, 2.0]
    """
    return ops.leaky_relu(x, negative_slope=negative_slope)


def hardtanh(x: Tensor, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False) -> Tensor:
    """Return each element, limited to [`min_val`, `max_val`].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.hardtanh(ln.asarray([-3.0, 0.5])).tolist()
    [-1.0, 0.5]
    """
    return ops.hardtanh(x, min_val=min_val, max_val=max_val)


def threshold(x: Tensor, threshold: float, value: float, inplace: bool = False) -> Tensor:
    """Return each element where it is greater than `threshold`, else `value`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.threshold(ln.asarray([1.0, 3.0]), 2.0, 0.0).tolist()
    [0.0, 3.0]
    """
    return ops.threshold(x, threshold=threshold, value=value)


def softmax(x: Tensor, dim: int | None = None, *, axis: int = -1, dtype: DTypeLike | None = None) -> Tensor:
    """Return the exponentials divided by their sum along `dim`, or `axis`; first convert to `dtype`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.softmax(ln.zeros((1, 2)), dim=1).tolist()
    [[0.5, 0.5]]
    """
    return ops.softmax(x if dtype is None else x.astype(dtype), axis=axis if dim is None else dim)


def log_softmax(x: Tensor, dim: int | None = None, *, axis: int = -1, dtype: DTypeLike | None = None) -> Tensor:
    """Return the logarithm of `softmax`, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.log_softmax(ln.zeros(1), dim=0).tolist()
    [0.0]
    """
    return ops.log_softmax(x if dtype is None else x.astype(dtype), axis=axis if dim is None else dim)


def softmin(x: Tensor, dim: int | None = None, *, axis: int = -1) -> Tensor:
    """Return the `softmax` of the negative elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.softmin(ln.asarray([0.0, 1000.0])).tolist()
    [1.0, 0.0]
    """
    return softmax(-x, dim, axis=axis)


def silu(x: Tensor, inplace: bool = False, *, beta: float = 1.0) -> Tensor:
    """Return ``x * sigmoid(beta * x)``; with `beta` also known as swish.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.silu(ln.asarray([0.0, 100.0])).tolist(), ln.nn.silu(ln.asarray([100.0]), beta=2.0).tolist()
    ([0.0, 100.0], [100.0])
    """
    return ops.silu(x) if beta == 1 else x * ops.sigmoid(x * beta)


def softplus(x: Tensor, beta: float = 1.0, threshold: float = 20.0) -> Tensor:
    """Return ``log(1 + exp(beta * x)) / beta``, and `x` itself where ``beta * x`` exceeds `threshold`.

    Examples
    --------
    >>> import labnet as ln
    >>> [round(value, 4) for value in ln.nn.functional.softplus(ln.asarray([0.0, 100.0])).tolist()]
    [0.6931, 100.0]
    """
    return _softplus(x, beta=beta, threshold=threshold)


def _pull_softplus(g: Any, out: Any, x: Any, *, beta: float = 1.0, threshold: float = 20.0) -> Any:
    return g * ops.where(x * beta > threshold, 1, ops.sigmoid(x * beta))


_softplus = op(
    vjp=_pull_softplus,
    scalar="x if x * beta > threshold else (maximum(x * beta, 0) + log1p(exp(-abs(x * beta)))) / beta",
    name="softplus",
)(lambda x, *, beta=1.0, threshold=20.0: None)


def logsigmoid(x: Tensor) -> Tensor:
    """Return the logarithm of the logistic function, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.logsigmoid(ln.asarray([-1000.0])).tolist()
    [-1000.0]
    """
    return _logsigmoid(x)


_logsigmoid = op(
    vjp=lambda g, out, x: g * ops.sigmoid(-x),
    scalar="minimum(x, 0) - log1p(exp(-abs(x)))",
    name="logsigmoid",
)(lambda x: None)


def hardsigmoid(x: Tensor, inplace: bool = False) -> Tensor:
    """Return ``relu6(x + 3) / 6``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.hardsigmoid(ln.asarray([-4.0, 0.0, 4.0])).tolist()
    [0.0, 0.5, 1.0]
    """
    return _hardsigmoid(x)


_hardsigmoid = op(
    vjp=lambda g, out, x: kept(g, (x > -3) & (x < 3)) / 6,
    scalar="minimum(maximum(x + 3, 0), 6) / 6",
    name="hardsigmoid",
)(lambda x: None)


def hardswish(x: Tensor, inplace: bool = False) -> Tensor:
    """Return ``x * relu6(x + 3) / 6`` (Howard et al., 2019).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.hardswish(ln.asarray([0.0, 4.0])).tolist()
    [0.0, 4.0]
    """
    return _hardswish(x)


_hardswish = op(
    vjp=lambda g, out, x: g * (ops.relu6(x + 3) + kept(x, (x > -3) & (x < 3))) / 6,
    scalar="x * minimum(maximum(x + 3, 0), 6) / 6",
    name="hardswish",
)(lambda x: None)


def mish(x: Tensor, inplace: bool = False) -> Tensor:
    """Return ``x * tanh(softplus(x))`` (Misra, 2019).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.mish(ln.asarray([0.0, 30.0])).tolist()
    [0.0, 30.0]
    """
    return _mish(x)


def _pull_mish(g: Any, out: Any, x: Any) -> Any:
    bend = ops.tanh(ops.maximum(x, 0) + ops.log1p(ops.exp(-ops.abs(x))))
    return g * (bend + x * (1 - bend * bend) * ops.sigmoid(x))


_mish = op(vjp=_pull_mish, scalar="x * tanh(maximum(x, 0) + log1p(exp(-abs(x))))", name="mish")(lambda x: None)

for _function in (_softplus, _logsigmoid, _hardsigmoid, _hardswish, _mish):
    rules_in_one_pass(op_of(_function))


def celu(x: Tensor, alpha: float = 1.0, inplace: bool = False) -> Tensor:
    """Return each element where it is positive, else ``alpha * (exp(x / alpha) - 1)`` (Barron, 2017).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.celu(ln.asarray([-100.0, 2.0]), alpha=0.5).tolist()
    [-0.5, 2.0]
    """
    return ops.elu(x / alpha) * alpha


def selu(x: Tensor, inplace: bool = False) -> Tensor:
    """Return the scaled `elu` that keeps mean 0 and variance 1 (Klambauer et al., 2017).

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.selu(ln.asarray(1.0)).item(), 4)
    1.0507
    """
    return ops.elu(x, alpha=_SELU_ALPHA) * _SELU_SCALE


def glu(x: Tensor, dim: int = -1) -> Tensor:
    """Return the first half along `dim` times the logistic function of the second half (Dauphin et al., 2017).

    Raises
    ------
    ShapeError
        If the length is odd.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.glu(ln.asarray([4.0, 0.0])).tolist()
    [2.0]
    """
    length = x.shape[dim]
    if length % 2:
        raise ShapeError(f"glu: expected an even length of dimension {dim}, got shape {x.shape}")
    before = (slice(None),) * (dim % x.ndim)
    return x[(*before, slice(length // 2))] * ops.sigmoid(x[(*before, slice(length // 2, None))])


def prelu(x: Tensor, weight: Tensor) -> Tensor:
    """Return each element where it is positive, else `weight` times it: one number, or one per channel.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.prelu(ln.asarray([-2.0, 2.0]), ln.asarray([0.5])).tolist()
    [-1.0, 2.0]
    """
    if weight.size > 1:
        weight = weight.reshape((-1, *(1,) * (x.ndim - 2)))
    return ops.where(x > 0, x, weight * x)


def softsign(x: Tensor) -> Tensor:
    """Return ``x / (1 + |x|)``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.softsign(ln.asarray([-1.0, 3.0])).tolist()
    [-0.5, 0.75]
    """
    return x / (ops.abs(x) + 1)


def tanhshrink(x: Tensor) -> Tensor:
    """Return ``x - tanh(x)``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.tanhshrink(ln.zeros(1)).tolist()
    [0.0]
    """
    return x - ops.tanh(x)


def softshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Move each element by `lambd` towards 0, those closer to it to 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.softshrink(ln.asarray([-1.0, 0.25, 2.0])).tolist()
    [-0.5, 0.0, 1.5]
    """
    return ops.where(x > lambd, x - lambd, ops.where(x < -lambd, x + lambd, 0.0))


def hardshrink(x: Tensor, lambd: float = 0.5) -> Tensor:
    """Return each element, 0 where its absolute value is at most `lambd`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.hardshrink(ln.asarray([-1.0, 0.25, 2.0])).tolist()
    [-1.0, 0.0, 2.0]
    """
    return ops.where(ops.abs(x) > lambd, x, 0.0)


def gumbel_softmax(logits: Tensor, tau: float = 1.0, hard: bool = False, eps: float = 1e-10, dim: int = -1) -> Tensor:
    """Return a random sample from the classes of logits, softened by `tau` (Jang et al., 2017).

    Parameters
    ----------
    logits : tensor
    tau : float
        Temperature.
    hard : bool
        Whether the result is one-hot; the gradient is that of the soft one.
    dim : int

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.gumbel_softmax(ln.zeros((4, 3)), hard=True).sum(axis=-1).tolist()
    [1.0, 1.0, 1.0, 1.0]
    """
    noise = rand(logits.shape, device=logits.device).astype(logits.dtype)
    gumbel = -ops.log(-ops.log(ops.maximum(noise, 1e-20)) + 1e-20)
    soft = ops.softmax((logits + gumbel) / tau, axis=dim)
    if not hard:
        return soft
    places = arange(soft.shape[dim], device=soft.device).reshape((-1, *(1,) * (soft.ndim - 1 - dim % soft.ndim)))
    best: Tensor = (places == ops.argmax(soft, axis=dim, keepdims=True)).astype(soft.dtype)
    return best - soft.detach() + soft


def rrelu(
    x: Tensor, lower: float = 1 / 8, upper: float = 1 / 3, training: bool = False, inplace: bool = False
) -> Tensor:
    """Return `leaky_relu` with the mean of two slopes, in training with a random one between them per element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.rrelu(ln.asarray([-8.0, 2.0]), 0.25, 0.75).tolist()
    [-4.0, 2.0]
    """
    if not training:
        return ops.leaky_relu(x, negative_slope=(lower + upper) / 2)
    slopes = rand(x.shape, device=x.device).astype(x.dtype) * (upper - lower) + lower
    return ops.where(x >= 0, x, x * slopes)
