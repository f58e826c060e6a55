"""Trigonometric and hyperbolic functions, and their inverses; angles in radians."""

import numpy as np

from labnet.ops.core.declaration import Array
from labnet.ops.core.registry import FLOATS
from labnet.ops.elementwise.elementary import binary, blocked, sqrt, unary
from labnet.tensor import Tensor

# Trigonometric


def _pull_sin(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    return g * cos(x)


@unary(_pull_sin, ufunc=np.sin, scalar="math.sin(x)", reads="x")
def sin(x: Array, /) -> Array:
    """Return the sine of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sin(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: -g * sin(x), ufunc=np.cos, scalar="math.cos(x)", reads="x")
def cos(x: Array, /) -> Array:
    """Return the cosine of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cos(ln.asarray([0.0])).tolist()
    [1.0]
    """


@unary(lambda g, out, x: g * (1 + out * out), ufunc=np.tan, domain=(-1.0, 1.0), scalar="math.tan(x)", reads="out")
def tan(x: Array, /) -> Array:
    """Return the tangent of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tan(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / sqrt(1 - x * x), ufunc=np.asin, domain=(-0.9, 0.9), scalar="math.asin(x)", reads="x")
def asin(x: Array, /) -> Array:
    """Return the inverse sine of each element of [-1, 1], in [-pi/2, pi/2].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asin(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: -g / sqrt(1 - x * x), ufunc=np.acos, domain=(-0.9, 0.9), scalar="math.acos(x)", reads="x")
def acos(x: Array, /) -> Array:
    """Return the inverse cosine of each element of [-1, 1], in [0, pi].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.acos(ln.asarray([1.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / (1 + x * x), ufunc=np.atan, scalar="math.atan(x)", reads="x")
def atan(x: Array, /) -> Array:
    """Return the inverse tangent of each element, in [-pi/2, pi/2].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.atan(ln.asarray([0.0])).tolist()
    [0.0]
    """


@binary(
    lambda g, out, x1, x2: blocked(g * x2 / (x1 * x1 + x2 * x2), (x1 == 0) & (x2 == 0)),
    lambda g, out, x1, x2: blocked(-g * x1 / (x1 * x1 + x2 * x2), (x1 == 0) & (x2 == 0)),
    ufunc=np.atan2,
    dtypes=FLOATS,
    domain=(0.2, 2.0),
    scalar="math.atan2(x1, x2)",
    reads="x1 x2",
)
def atan2(x1: Array, x2: Array, /) -> Array:
    """Return the angle of each point with abscissa `x2` and ordinate `x1`, in [-pi, pi].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.atan2(ln.asarray([0.0]), ln.asarray([1.0])).tolist()
    [0.0]
    """


# Hyperbolic


def _pull_sinh(g: Tensor, out: Tensor, x: Tensor) -> Tensor:
    return g * cosh(x)


@unary(_pull_sinh, ufunc=np.sinh, scalar="math.sinh(x)", reads="x")
def sinh(x: Array, /) -> Array:
    """Return the hyperbolic sine of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sinh(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g * sinh(x), ufunc=np.cosh, scalar="math.cosh(x)", reads="x")
def cosh(x: Array, /) -> Array:
    """Return the hyperbolic cosine of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cosh(ln.asarray([0.0])).tolist()
    [1.0]
    """


@unary(lambda g, out, x: g / sqrt(x * x + 1), ufunc=np.asinh, scalar="math.asinh(x)", reads="x")
def asinh(x: Array, /) -> Array:
    """Return the inverse hyperbolic sine of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asinh(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / sqrt(x * x - 1), ufunc=np.acosh, domain=(1.2, 3.0), scalar="math.acosh(x)", reads="x")
def acosh(x: Array, /) -> Array:
    """Return the inverse hyperbolic cosine of each element of [1, inf).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.acosh(ln.asarray([1.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / (1 - x * x), ufunc=np.atanh, domain=(-0.9, 0.9), scalar="math.atanh(x)", reads="x")
def atanh(x: Array, /) -> Array:
    """Return the inverse hyperbolic tangent of each element of [-1, 1].

    Examples
    --------
    >>> import labnet as ln
    >>> ln.atanh(ln.asarray([0.0])).tolist()
    [0.0]
    """
