"""Elementwise functions that torch has beside those of the standard, each a few ops."""

import math
from typing import Any

from labnet.ops.core.forms import form
from labnet.ops.elementwise.elementary import exp, log, where
from labnet.ops.elementwise.exponential import erf
from labnet.ops.elementwise.logic import equal, greater_equal, isnan, less_equal, logical_or
from labnet.ops.elementwise.trigonometry import sin
from labnet.tensor import Tensor


def _tensor(value: Any, like: Tensor) -> Tensor:
    return value if isinstance(value, Tensor) else Tensor(value, dtype=like.dtype, device=like.device)


@form
def exp2(x: Tensor, /) -> Tensor:
    """Return 2 to the power of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.exp2(ln.asarray([0.0, 3.0])).tolist()
    [1.0, 8.0]
    """
    return exp(x * math.log(2.0))


@form
def erfc(x: Tensor, /) -> Tensor:
    """Return one minus `erf` of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.erfc(ln.asarray([0.0])).tolist()
    [1.0]
    """
    return 1 - erf(x)


@form
def sinc(x: Tensor, /) -> Tensor:
    """Return ``sin(pi x) / (pi x)`` of each element, 1 at 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sinc(ln.asarray([0.0])).tolist()
    [1.0]
    """
    at_zero = equal(x, 0)
    angle = where(at_zero, 1, x) * math.pi
    return where(at_zero, 1, sin(angle) / angle)


@form
def xlogy(x: Tensor, /, other: Any) -> Tensor:
    """Return ``x * log(other)`` of each pair of elements, 0 where `x` is 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.xlogy(ln.asarray([0.0, 2.0]), ln.asarray([0.0, 1.0])).tolist()
    [0.0, 0.0]
    """
    y = _tensor(other, x)
    none = equal(x, 0)
    return where(none, where(isnan(y), y, 0), x * log(where(none, 1, y)))


@form
def fmax(x: Tensor, /, other: Any) -> Tensor:
    """Return the greater of each pair of elements; of one NaN and a number the number.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.fmax(ln.asarray([1.0, ln.nan]), ln.asarray([2.0, 3.0])).tolist()
    [2.0, 3.0]
    """
    y = _tensor(other, x)
    return where(logical_or(greater_equal(x, y), isnan(y)), x, y)


@form
def fmin(x: Tensor, /, other: Any) -> Tensor:
    """Return the smaller of each pair of elements; of one NaN and a number the number.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.fmin(ln.asarray([1.0, ln.nan]), ln.asarray([2.0, 3.0])).tolist()
    [1.0, 3.0]
    """
    y = _tensor(other, x)
    return where(logical_or(less_equal(x, y), isnan(y)), x, y)


@form
def clamp_min(x: Tensor, /, min: Any) -> Tensor:
    """Return each element, at least `min`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.clamp_min(ln.asarray([-1.0, 2.0]), 0.0).tolist()
    [0.0, 2.0]
    """
    return x.clip(min)


@form
def clamp_max(x: Tensor, /, max: Any) -> Tensor:
    """Return each element, at most `max`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.clamp_max(ln.asarray([-1.0, 2.0]), 0.0).tolist()
    [-1.0, 0.0]
    """
    return x.clip(None, max)


@form
def deg2rad(x: Tensor, /) -> Tensor:
    """Convert degrees to radians.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.deg2rad(ln.asarray([0.0])).tolist()
    [0.0]
    """
    return x * (math.pi / 180)


@form
def rad2deg(x: Tensor, /) -> Tensor:
    """Convert radians to degrees.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rad2deg(ln.asarray([0.0])).tolist()
    [0.0]
    """
    return x * (180 / math.pi)
