"""Initialisation of parameters: functions from a shape to a new float32 tensor that requires gradients."""

import math

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
