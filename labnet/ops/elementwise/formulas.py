"""Elementwise formulas that are composed of other ops."""

import math
from typing import Any

from labnet.ops.core.declaration import Sample
from labnet.ops.core.dtypes import finfo, in_floats
from labnet.ops.core.registry import FLOATS, NUMBERS, composed
from labnet.ops.elementwise.arithmetic import abs, clip, reciprocal, remainder, trunc
from labnet.ops.elementwise.elementary import (
    BINARY_SAMPLES,
    TERNARY_SAMPLES,
    UNARY_SAMPLES,
    divide,
    log,
    sqrt,
    subtract,
    where,
)
from labnet.ops.elementwise.exponential import log1p
from labnet.ops.elementwise.logic import equal, isfinite, isnan, less, less_equal, logical_and, logical_or
from labnet.tensor import Tensor


@composed(samples=UNARY_SAMPLES, dtypes=FLOATS, domain=(0.5, 3.0))
def rsqrt(x: Tensor, /) -> Tensor:
    """Return the reciprocal of the square root of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rsqrt(ln.asarray([4.0])).tolist()
    [0.5]
    """
    return reciprocal(sqrt(x))


@composed(samples=UNARY_SAMPLES, dtypes=FLOATS)
def frac(x: Tensor, /) -> Tensor:
    """Return the fraction of each element, with its sign.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.frac(ln.asarray([2.5, -0.25])).tolist()
    [0.5, -0.25]
    """
    return x - trunc(x)


@composed(samples=(*UNARY_SAMPLES, Sample(((3,),), {"eps": 0.3})), dtypes=FLOATS, domain=(0.1, 0.9))
def logit(x: Tensor, /, eps: float | None = None) -> Tensor:
    """Return the logarithm of the odds of each element, the inverse of `sigmoid`.

    Parameters
    ----------
    x : tensor
    eps : number, optional
        Clip the elements to [eps, 1 - eps] first.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logit(ln.asarray([0.5])).tolist()
    [0.0]
    """
    x = in_floats(x)
    p = x if eps is None else clip(x, eps, 1 - eps)
    return log(p) - log1p(-p)


@composed(samples=TERNARY_SAMPLES, gradients=(True, True, True), dtypes=FLOATS)
def lerp(start: Tensor, end: Tensor, weight: Tensor, /) -> Tensor:
    """Interpolate linearly between each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.lerp(ln.asarray([0.0]), ln.asarray([4.0]), 0.25).tolist()
    [1.0]
    """
    return start + weight * (end - start)


@composed(samples=BINARY_SAMPLES, gradients=(True, True), domain=(1.0, 5.0))
def fmod(x1: Tensor, x2: Tensor, /) -> Tensor:
    """Return the remainder of each division, with the sign of the dividend; `remainder` has that of the divisor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.fmod(ln.asarray([-5.0, 5.0]), 3.0).tolist()
    [-2.0, 2.0]
    """
    rest = remainder(abs(x1), abs(x2))
    return where(less(x1, 0), -rest, rest) if rest.dtype.kind != "u" else rest


@composed(samples=TERNARY_SAMPLES, gradients=(True, True, True), dtypes=FLOATS)
def addcmul(x: Tensor, x1: Tensor, x2: Tensor, /, *, value: float = 1.0) -> Tensor:
    """Return ``x + value * x1 * x2``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.addcmul(ln.asarray([1.0]), ln.asarray([2.0]), ln.asarray([3.0]), value=0.5).tolist()
    [4.0]
    """
    return x + value * x1 * x2


@composed(samples=TERNARY_SAMPLES, gradients=(True, True, True), dtypes=FLOATS, domain=(0.5, 3.0))
def addcdiv(x: Tensor, x1: Tensor, x2: Tensor, /, *, value: float = 1.0) -> Tensor:
    """Return ``x + value * x1 / x2``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.addcdiv(ln.asarray([1.0]), ln.asarray([6.0]), ln.asarray([3.0]), value=0.5).tolist()
    [2.0]
    """
    return x + value * divide(x1, x2)


@composed(samples=(*UNARY_SAMPLES, Sample(((3,),), {"nan": 1.0})), dtypes=FLOATS)
def nan_to_num(x: Tensor, /, nan: float = 0.0, posinf: float | None = None, neginf: float | None = None) -> Tensor:
    """Replace NaN, by 0 unless given, and infinities, by the limits of the dtype unless given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nan_to_num(ln.asarray([ln.nan, 2.0])).tolist()
    [0.0, 2.0]
    """
    if x.dtype.kind != "f":
        return x
    limits = finfo(x.dtype)
    high, low = limits.max if posinf is None else posinf, limits.min if neginf is None else neginf
    finite: Any = where(x == math.inf, high, where(x == -math.inf, low, x))
    return where(isnan(x), nan, finite)


@composed(samples=BINARY_SAMPLES, gradients=(False, False), dtypes=NUMBERS)
def isclose(x1: Tensor, x2: Tensor, /, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> Tensor:
    """Return whether elements are equal, or differ by at most ``atol + rtol * abs(x2)``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isclose(ln.asarray([1.0, 2.0]), ln.asarray([1.000001, 2.1])).tolist()
    [True, False]
    """
    distance = abs(subtract(x1, x2))
    close = logical_or(equal(x1, x2), logical_and(less_equal(distance, atol + rtol * abs(x2)), isfinite(distance)))
    return logical_or(close, logical_and(isnan(x1), isnan(x2))) if equal_nan else close
