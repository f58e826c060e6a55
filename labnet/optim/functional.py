"""Stateless functions of gradients."""

import math
from typing import Any

import numpy as np

from labnet.autograd import Gradients
from labnet.ops import clip, minimum, sqrt
from labnet.ops.aggregation.reduction import squares_of_array
from labnet.ops.core import dispatch
from labnet.optim.algorithms import SGD
from labnet.optim.optimizer import check_gradients


def sgd(gradients: Gradients, lr: float = 1e-3) -> None:
    """Take one step of plain gradient descent on every parameter of the gradients.

    Raises
    ------
    GradientError
        If the gradients were not awaited or are no result of a backward.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([1.0], requires_grad=True)
    >>> ln.optim.sgd((weight * weight).sum().backward(), lr=0.25)
    >>> weight.tolist()
    [0.5]
    """
    SGD(lr)(gradients)


def clip_norm(gradients: Gradients, max_norm: float) -> Gradients:
    """Scale gradients down to a total norm of at most `max_norm`.

    Parameters
    ----------
    gradients : Gradients
        The result of a backward; it is not changed.
    max_norm : float
        Maximum Euclidean norm over all elements.

    Returns
    -------
    Gradients
        Scaled by ``max_norm / (norm + 1e-6)`` if that is less than 1, as in torch.

    Raises
    ------
    GradientError
        If the gradients were not awaited or are no result of a backward.
    ValueError
        If `max_norm` is not positive.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([3.0, 4.0], requires_grad=True)
    >>> gradients = (weight * weight).sum().backward()
    >>> [round(value, 4) for value in ln.optim.clip_norm(gradients, 1.0)[weight].tolist()]
    [0.6, 0.8]
    """
    check_gradients("clip_norm", gradients, "clip_norm(await loss.backward(), ...)")
    if not max_norm > 0:
        raise ValueError(f"clip_norm: expected max_norm > 0, got {max_norm}")
    with np.errstate(all="ignore"):  # non-finite gradients are valid results
        return _clipped(gradients, max_norm)


#: Sums of squares in float32 beyond which single squares may be lost.
_LEAST, _MOST = 1e-20, 1e37


def _sum_of_squares(gradient: Any) -> float:
    """Return the sum of the squares of a gradient, in float64 where float32 could overflow or lose them."""
    array = gradient.array
    if type(array) is not np.ndarray:
        wide = gradient.detach().astype("float64")
        return float((wide * wide).sum())
    if array.dtype == np.float32 and _LEAST < (found := float(squares_of_array(array))) < _MOST:
        return found
    return float(squares_of_array(array.astype(np.float64, copy=False)))


def clip_value(gradients: Gradients, value: float) -> Gradients:
    """Limit each element of the gradients to [-value, value].

    Raises
    ------
    GradientError
        If the gradients were not awaited or are no result of a backward.
    ValueError
        If `value` is not positive.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([0.25, 4.0], requires_grad=True)
    >>> gradients = (weight * weight).sum().backward()
    >>> ln.optim.clip_value(gradients, 1.0)[weight].tolist()
    [0.5, 1.0]
    """
    check_gradients("clip_value", gradients, "clip_value(await loss.backward(), ...)")
    if not value > 0:
        raise ValueError(f"clip_value: expected value > 0, got {value}")
    return Gradients((tensor, clip(gradient, -value, value)) for tensor, gradient in gradients.items())


def _clipped(gradients: Gradients, max_norm: float) -> Gradients:
    if dispatch.current_tracer() is not None:
        values = [gradient.detach().astype("float64") for gradient in gradients.values()]
        total: Any = sum((value * value).sum() for value in values)
        scale = minimum(max_norm / (sqrt(total) + 1e-6), 1.0)
        return Gradients((tensor, gradient * scale.astype(gradient.dtype)) for tensor, gradient in gradients.items())
    squares = [_sum_of_squares(gradient) for gradient in gradients.values()]
    factor = max_norm / (math.sqrt(math.fsum(squares)) + 1e-6)
    factor = 1.0 if factor > 1 else factor  # NaN in one gradient makes all of them NaN
    return Gradients((tensor, gradient * factor) for tensor, gradient in gradients.items())
