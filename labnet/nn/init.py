"""How parameters start."""

import math

from labnet.ops.creation import rand
from labnet.ops.shape import Shape
from labnet.tensor import Tensor


def uniform(shape: Shape, *, bound: float) -> Tensor:
    """Draw a parameter from the uniform distribution over [-bound, bound).

    Examples
    --------
    >>> uniform((2, 3), bound=0.1).requires_grad
    True
    """
    return Tensor((rand(shape).numpy() * 2 - 1) * bound, dtype="float32", requires_grad=True)


def fan_in_uniform(shape: Shape, *, fan_in: int) -> Tensor:
    """Draw a parameter as torch's layers do: uniform with bound ``1 / sqrt(fan_in)``.

    That is Kaiming's uniform initialisation with ``a = sqrt(5)`` (He et al., 2015, equation 10).

    Examples
    --------
    >>> bool(fan_in_uniform((2, 4), fan_in=4).numpy().max() < 0.5)
    True
    """
    return uniform(shape, bound=1 / math.sqrt(fan_in) if fan_in else 0.0)
