"""Initialisation of parameters: functions from a shape to a new parameter, and torch's functions that fill a tensor."""

import math
from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.nn.sizes import size
from labnet.ops.core.axes import Shape
from labnet.ops.core.creation import rand, randn
from labnet.tensor import Tensor

#: Factor that preserves the variance through each nonlinearity, as in torch.
GAINS = {"linear": 1.0, "conv2d": 1.0, "sigmoid": 1.0, "tanh": 5 / 3, "relu": math.sqrt(2), "selu": 0.75}


def uniform(shape: Shape, *, bound: float) -> Tensor:
    """Draw a parameter from the uniform distribution over [-bound, bound).

    Examples
    --------
    >>> uniform((2, 3), bound=0.1).requires_grad
    True
    """
    return Tensor((rand(shape, device="cpu").numpy() * 2 - 1) * bound, dtype="float32", requires_grad=True)


def normal(shape: Shape, *, std: float = 1.0) -> Tensor:
    """Draw a parameter from the normal distribution with mean 0.

    Examples
    --------
    >>> normal((2, 3), std=0.1).requires_grad
    True
    """
    return Tensor(randn(shape, device="cpu").numpy() * std, dtype="float32", requires_grad=True)


def fan_in_uniform(shape: Shape, *, fan_in: int) -> Tensor:
    """Draw a parameter as torch's layers do: uniform with bound ``1 / sqrt(fan_in)``.

    That is Kaiming's uniform initialisation with ``a = sqrt(5)`` (He et al., 2015, equation 10).

    Examples
    --------
    >>> bool(fan_in_uniform((2, 4), fan_in=4).numpy().max() < 0.5)
    True
    """
    return uniform(shape, bound=1 / math.sqrt(fan_in) if fan_in else 0.0)


def fans(shape: tuple[int, ...]) -> tuple[int, int]:
    """Return the fan-in and fan-out of a weight of shape (out, in, ...).

    Raises
    ------
    ShapeError
        If there are fewer than two dimensions.

    Examples
    --------
    >>> fans((8, 3, 5, 5))
    (75, 200)
    """
    if len(shape) < 2:
        raise ShapeError(f"init: expected the shape of a weight, with at least two dimensions, got {shape}")
    for length in shape:
        size("init", "each length of the shape", length, least=0)
    window = math.prod(shape[2:])
    return shape[1] * window, shape[0] * window


def gain(nonlinearity: str, a: float = 0.0) -> float:
    """Return the factor for weights before a nonlinearity; `a` is the negative slope of ``"leaky_relu"``.

    Raises
    ------
    ValueError
        If the nonlinearity is unknown.

    Examples
    --------
    >>> gain("linear")
    1.0
    """
    if nonlinearity == "leaky_relu":
        return math.sqrt(2 / (1 + a * a))
    if nonlinearity not in GAINS:
        raise ValueError(f"init: unknown nonlinearity {nonlinearity!r}; expected leaky_relu, {', '.join(GAINS)}")
    return GAINS[nonlinearity]


def _kaiming_std(shape: tuple[int, ...], a: float, mode: str, nonlinearity: str) -> float:
    if mode not in ("fan_in", "fan_out"):
        raise ValueError(f"init: expected mode 'fan_in' or 'fan_out', got {mode!r}")
    return gain(nonlinearity, a) / math.sqrt(max(1, fans(shape)[mode == "fan_out"]))


def xavier_uniform(shape: tuple[int, ...], gain: float = 1.0) -> Tensor:
    """Draw a weight uniformly, with variance ``2 / (fan_in + fan_out)`` (Glorot and Bengio, 2010, equation 16).

    Examples
    --------
    >>> bool(xavier_uniform((2, 4)).numpy().max() < 1.0)
    True
    """
    return uniform(shape, bound=gain * math.sqrt(6 / max(1, sum(fans(shape)))))


def xavier_normal(shape: tuple[int, ...], gain: float = 1.0) -> Tensor:
    """Draw a weight from the normal distribution with variance ``2 / (fan_in + fan_out)``.

    Examples
    --------
    >>> xavier_normal((2, 4)).shape
    (2, 4)
    """
    return normal(shape, std=gain * math.sqrt(2 / max(1, sum(fans(shape)))))


def kaiming_uniform(
    shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw a weight uniformly, with variance ``gain^2 / fan`` (He et al., 2015).

    Parameters
    ----------
    shape : tuple of int
        (out, in, ...).
    a : float
        Negative slope of the leaky ReLU that follows.
    mode : str
        ``"fan_in"`` keeps the variance forward, ``"fan_out"`` backward.
    nonlinearity : str
        The nonlinearity that follows; see `gain`.

    Examples
    --------
    >>> kaiming_uniform((2, 4)).shape
    (2, 4)
    """
    return uniform(shape, bound=math.sqrt(3) * _kaiming_std(shape, a, mode, nonlinearity))


def kaiming_normal(
    shape: tuple[int, ...], a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu"
) -> Tensor:
    """Draw a weight from the normal distribution with variance ``gain^2 / fan``; see `kaiming_uniform`.

    Examples
    --------
    >>> kaiming_normal((2, 4)).shape
    (2, 4)
    """
    return normal(shape, std=_kaiming_std(shape, a, mode, nonlinearity))


# Functions that fill a tensor and return it, under torch's names


def _filled(tensor: Tensor, values: Any) -> Tensor:
    return tensor.assign(Tensor(np.broadcast_to(values, tensor.shape), dtype=tensor.dtype, device=tensor.device))


def constant_(tensor: Tensor, val: float) -> Tensor:
    """Fill a tensor with a number.

    Examples
    --------
    >>> import labnet as ln
    >>> constant_(ln.ones(2), 3.0).tolist()
    [3.0, 3.0]
    """
    return _filled(tensor, val)


def zeros_(tensor: Tensor) -> Tensor:
    """Fill a tensor with zeros.

    Examples
    --------
    >>> import labnet as ln
    >>> zeros_(ln.ones(2)).tolist()
    [0.0, 0.0]
    """
    return _filled(tensor, 0)


def ones_(tensor: Tensor) -> Tensor:
    """Fill a tensor with ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ones_(ln.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return _filled(tensor, 1)


def eye_(tensor: Tensor) -> Tensor:
    """Fill a matrix with ones on the diagonal and zeros elsewhere.

    Examples
    --------
    >>> import labnet as ln
    >>> eye_(ln.ones((2, 2))).tolist()
    [[1.0, 0.0], [0.0, 1.0]]
    """
    return _filled(tensor, np.eye(tensor.shape[0], tensor.shape[1]))


def uniform_(tensor: Tensor, a: float = 0.0, b: float = 1.0) -> Tensor:
    """Fill a tensor from the uniform distribution over [a, b).

    Examples
    --------
    >>> import labnet as ln
    >>> bool((uniform_(ln.zeros(9), 2.0, 3.0).numpy() >= 2).all())
    True
    """
    return _filled(tensor, rand(tensor.shape, device="cpu").numpy() * (b - a) + a)


def normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """Fill a tensor from a normal distribution.

    Examples
    --------
    >>> import labnet as ln
    >>> normal_(ln.zeros(2), mean=5.0, std=0.0).tolist()
    [5.0, 5.0]
    """
    return _filled(tensor, randn(tensor.shape, device="cpu").numpy() * std + mean)


def trunc_normal_(tensor: Tensor, mean: float = 0.0, std: float = 1.0, a: float = -2.0, b: float = 2.0) -> Tensor:
    """Fill a tensor from a normal distribution, drawing again what is outside of [a, b].

    Examples
    --------
    >>> import labnet as ln
    >>> bool((abs(trunc_normal_(ln.zeros(99)).numpy()) <= 2).all())
    True
    """
    values = randn(tensor.shape, device="cpu").numpy() * std + mean
    while (outside := (values < a) | (values > b)).any():
        values = np.where(outside, randn(tensor.shape, device="cpu").numpy() * std + mean, values)
    return _filled(tensor, values)


def xavier_uniform_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill a weight as `xavier_uniform` does.

    Examples
    --------
    >>> import labnet as ln
    >>> bool(xavier_uniform_(ln.zeros((2, 4))).numpy().max() < 1)
    True
    """
    return _filled(tensor, xavier_uniform(tensor.shape, gain).numpy())


def xavier_normal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill a weight as `xavier_normal` does.

    Examples
    --------
    >>> import labnet as ln
    >>> xavier_normal_(ln.zeros((2, 4))).shape
    (2, 4)
    """
    return _filled(tensor, xavier_normal(tensor.shape, gain).numpy())


def kaiming_uniform_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill a weight as `kaiming_uniform` does.

    Examples
    --------
    >>> import labnet as ln
    >>> kaiming_uniform_(ln.zeros((2, 4)), nonlinearity="relu").shape
    (2, 4)
    """
    return _filled(tensor, kaiming_uniform(tensor.shape, a, mode, nonlinearity).numpy())


def kaiming_normal_(tensor: Tensor, a: float = 0.0, mode: str = "fan_in", nonlinearity: str = "leaky_relu") -> Tensor:
    """Fill a weight as `kaiming_normal` does.

    Examples
    --------
    >>> import labnet as ln
    >>> kaiming_normal_(ln.zeros((2, 4))).shape
    (2, 4)
    """
    return _filled(tensor, kaiming_normal(tensor.shape, a, mode, nonlinearity).numpy())


def orthogonal_(tensor: Tensor, gain: float = 1.0) -> Tensor:
    """Fill a weight, as a matrix of its first dimension by the others, with orthogonal rows or columns.

    Saxe et al., 2014.

    Examples
    --------
    >>> import labnet as ln
    >>> rows = orthogonal_(ln.zeros((2, 4))).numpy()
    >>> bool(abs(rows @ rows.T - np.eye(2)).max() < 1e-5)
    True
    """
    rows = tensor.shape[0]
    columns = tensor.size // rows
    drawn = randn((max(rows, columns), min(rows, columns)), device="cpu", dtype="float64").numpy()
    q, r = np.linalg.qr(drawn)
    q = q * np.sign(np.diag(r))
    return _filled(tensor, (gain * (q.T if rows < columns else q)).reshape(tensor.shape))


calculate_gain = gain
