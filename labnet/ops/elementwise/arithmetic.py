"""Arithmetic, element by element: absolute values, rounding, division with remainder, bounds."""

import builtins
import math
from typing import Any

import numpy as np

from labnet.device import CPU
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dispatch import PYTHON, current_tracer
from labnet.ops.core.registry import FLOATS, NUMBERS, composed, op
from labnet.ops.elementwise.elementary import binary, blocked, kept, no_slope, share, unary, where
from labnet.ops.elementwise.logic import isnan, less
from labnet.ops.layout.shape import astype
from labnet.tensor import Tensor


def _pull_abs(g: Any, out: Any, x: Any) -> Any:
    return kept(g, x > 0) - kept(g, x < 0)


@unary(_pull_abs, ufunc=np.abs, dtypes=NUMBERS, scalar="math.fabs(x)", reads="x")
def abs(x: Array, /) -> Array:
    """Return the absolute value of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.abs(ln.asarray([-1, 2])).tolist()
    [1, 2]
    """


@unary(lambda g, out, x: g, ufunc=np.positive, dtypes=NUMBERS, scalar="x", reads="")
def positive(x: Array, /) -> Array:
    """Return each element, unchanged.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.positive(ln.asarray([1, -2])).tolist()
    [1, -2]
    """


@unary(no_slope, ufunc=np.sign, dtypes=NUMBERS, scalar="1 if x > 0 else (-1 if x < 0 else x + 0)", reads="")
def sign(x: Array, /) -> Array:
    """Return -1, 0 or 1 for each element, as its sign is; NaN for NaN. The gradient is zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sign(ln.asarray([-3.0, 0.0, 2.0])).tolist()
    [-1.0, 0.0, 1.0]
    """


@unary(lambda g, out, x: 2 * g * x, ufunc=np.square, dtypes=NUMBERS, scalar="x * x", reads="x")
def square(x: Array, /) -> Array:
    """Return the square of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.square(ln.asarray([3, -2])).tolist()
    [9, 4]
    """


@unary(lambda g, out, x: -g * out * out, ufunc=np.reciprocal, domain=(0.5, 3.0), scalar="1 / x", reads="out")
def reciprocal(x: Array, /) -> Array:
    """Return the reciprocal of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.reciprocal(ln.asarray([4.0])).tolist()
    [0.25]
    """


@binary(
    lambda g, out, x1, x2: blocked(g * x1 / where(out == 0, 1, out), out == 0),
    lambda g, out, x1, x2: blocked(g * x2 / where(out == 0, 1, out), out == 0),
    ufunc=np.hypot,
    dtypes=FLOATS,
    scalar="math.hypot(x1, x2)",
    reads=("out x1", "out x2"),
)
def hypot(x1: Array, x2: Array, /) -> Array:
    """Return the square root of ``x1**2 + x2**2``, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.hypot(ln.asarray([3.0]), ln.asarray([4.0])).tolist()
    [5.0]
    """


# Rounding, with zero gradient


@unary(no_slope, ufunc=np.floor, dtypes=NUMBERS, scalar="math.floor(x)", reads="")
def floor(x: Array, /) -> Array:
    """Return the greatest integer that is not above each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.floor(ln.asarray([1.7, -1.2])).tolist()
    [1.0, -2.0]
    """


@unary(no_slope, ufunc=np.ceil, dtypes=NUMBERS, scalar="math.ceil(x)", reads="")
def ceil(x: Array, /) -> Array:
    """Return the smallest integer that is not below each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ceil(ln.asarray([1.2, -1.7])).tolist()
    [2.0, -1.0]
    """


@unary(no_slope, ufunc=np.trunc, dtypes=NUMBERS, scalar="math.trunc(x)", reads="")
def trunc(x: Array, /) -> Array:
    """Return the integer part of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.trunc(ln.asarray([1.7, -1.7])).tolist()
    [1.0, -1.0]
    """


@unary(no_slope, dtypes=NUMBERS, scalar="round(x)", elementwise=False, reads="")
def round(x: Array, /) -> Array:
    """Return the nearest integer to each element; halves go to the even one.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.round(ln.asarray([0.5, 1.5, -1.7])).tolist()
    [0.0, 2.0, -2.0]
    """
    return np.round(x)


# Division with remainder


@binary(no_slope, no_slope, dtypes=FLOATS, domain=(0.5, 2.0), scalar="x1 // x2", reads="")
def floor_divide(x1: Array, x2: Array, /) -> Array:
    """Return the floor of each quotient, with the standard's rules for infinities; the gradient is zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.floor_divide(ln.asarray([7, -7]), 2).tolist()
    [3, -4]
    """
    out = np.floor_divide(x1, x2)
    if out.dtype.kind != "f":
        return out
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(np.isinf(x1) != np.isinf(x2), np.floor(np.divide(x1, x2)), out)


@binary(
    lambda g, out, x1, x2: g,
    lambda g, out, x1, x2: -g * floor_divide(x1, x2),
    ufunc=np.remainder,
    dtypes=FLOATS,
    domain=(0.5, 2.0),
    scalar="x1 % x2",
    reads=("", "x1 x2"),
)
def remainder(x1: Array, x2: Array, /) -> Array:
    """Return the remainder of each division, with the sign of the divisor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.remainder(ln.asarray([7, -7]), 3).tolist()
    [1, 2]
    """


# Bounds and signs

_BOUNDS = (int, float, type(None))


@binary(
    lambda g, out, x1, x2: share(g, x2, x1),
    lambda g, out, x1, x2: share(g, x1, x2),
    ufunc=np.minimum,
    scalar="minimum(x1, x2)",
    reads="x1 x2",
)
def minimum(x1: Array, x2: Array, /) -> Array:
    """Return the smaller of each pair of elements; where they are equal, each gets half of the gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.minimum(ln.asarray([-1, 2]), 0).tolist()
    [-1, 0]
    """


def _within(bound: Any, dtype: np.dtype[Any]) -> Any:
    """Return a bound of `clip` in the dtype of the tensor."""
    if type(bound) not in PYTHON and not isinstance(bound, Tensor):
        bound = Tensor(bound)
    if not isinstance(bound, Tensor):
        if dtype.kind not in "iu" or isinstance(bound, bool) or not isinstance(bound, int):
            return bound
        return builtins.min(builtins.max(bound, int(np.iinfo(dtype).min)), int(np.iinfo(dtype).max))
    if dtype.kind not in "iu":
        return astype(bound, dtype)
    if bound.dtype.kind == "f":
        return bound
    if not np.can_cast(bound.dtype, dtype):
        ends, own = np.iinfo(dtype), np.iinfo(bound.dtype)
        bound = clip(bound, builtins.max(int(ends.min), int(own.min)), builtins.min(int(ends.max), int(own.max)))
    return astype(bound, dtype)


def _pull_between(g: Any, out: Any, x: Any, *, lower: float = -math.inf, upper: float = math.inf) -> Any:
    return kept(g, (x == x) & ~((x < lower) | (x > upper)))  # NaN is not within the bounds


@op(
    _pull_between,
    samples=(Sample(((3, 4),), {"lower": -0.5}), Sample(((2,),), {"lower": -0.5, "upper": 1.0}), Sample(((0, 2),))),
    dtypes=FLOATS,
    scalar="upper if (lower if x < lower else x) > upper else (lower if x < lower else x)",
    public=False,
    reads="x",
)
def clip_between(x: Array, /, lower: float = -math.inf, upper: float = math.inf) -> Array:
    """Return each element, or the number that it exceeds; `clip` takes tensors as bounds too.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.clip_between(ln.asarray([-2.0, 0.5, 2.0]), 0.0, 1.0).tolist()
    [0.0, 0.5, 1.0]
    """
    bounded = np.where(x < lower, lower, x)
    return np.where(bounded > upper, upper, bounded)


@composed(
    samples=(Sample(((3, 4), (), ())), Sample(((3, 4), (4,), (3, 1))), Sample(((0, 2), (), ()))),
    gradients=(True, True, True),
)
def clip(x: Array, /, min: Array = None, max: Array = None) -> Tensor:
    """Return each element, or the bound that it exceeds; elements within the bounds get the gradient.

    Parameters
    ----------
    x : tensor
    min, max : tensor, number or None
        Bounds, broadcast against `x` and converted to its dtype; None for no bound. Integers beyond the range of an
        integer dtype are the end of it; where integers have floating bounds, the result is floating.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.clip(ln.asarray([-2.0, 0.5, 2.0]), 0, 1).tolist()
    [0.0, 0.5, 1.0]
    """
    out = x if isinstance(x, Tensor) else Tensor(x)
    if type(min) in _BOUNDS and type(max) in _BOUNDS and out.dtype.kind == "f":
        return clip_between(out, -math.inf if min is None else min, math.inf if max is None else max)
    for bound, lower in ((min, True), (max, False)):
        if bound is not None:
            limit = _within(bound, out.dtype)
            out = where(less(out, limit) if lower else less(limit, out), limit, out)
    if out.requires_grad and (current_tracer() is not None or out.device != CPU or np.isnan(out.array).any()):
        out = where(isnan(out), math.nan, out)  # NaN is not within the bounds
    return out


@binary(
    lambda g, out, x1, x2: blocked(g * sign(x1) * sign(out), x1 == 0),
    no_slope,
    ufunc=np.copysign,
    dtypes=FLOATS,
    scalar="math.copysign(x1, x2)",
    reads=("out x1", ""),
)
def copysign(x1: Array, x2: Array, /) -> Array:
    """Return the magnitude of the first with the sign of the second of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.copysign(ln.asarray([1.0, 2.0]), -0.0).tolist()
    [-1.0, -2.0]
    """


@binary(ufunc=np.nextafter, dtypes=FLOATS, scalar="nextafter(x1, x2)")
def nextafter(x1: Array, x2: Array, /) -> Array:
    """Return the next number from the first towards the second of each pair, in their dtype.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nextafter(ln.asarray([0.0], dtype="float64"), 1.0).tolist()
    [5e-324]
    """


@unary(ufunc=np.signbit, scalar="signbit(x)")
def signbit(x: Array, /) -> Array:
    """Return whether the sign of each element is set, that of -0.0 included.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.signbit(ln.asarray([-0.0, 1.0])).tolist()
    [True, False]
    """
