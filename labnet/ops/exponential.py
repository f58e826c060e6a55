"""Exponentials and logarithms to other bases or near zero, and the error function."""

import math

import numpy as np

from labnet.ops.elementwise import binary, exp, sigmoid, unary, where
from labnet.ops.logic import isinf
from labnet.ops.registry import FLOATS, Array
from labnet.tensor import Tensor


@unary(lambda g, out, x: g * (out + 1), ufunc=np.expm1)
def expm1(x: Array, /) -> Array:
    """``exp(x) - 1`` for each element, accurate near zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.expm1(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / (1 + x), ufunc=np.log1p, domain=(-0.5, 2.0))
def log1p(x: Array, /) -> Array:
    """``log(1 + x)`` for each element, accurate near zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log1p(ln.asarray([0.0])).tolist()
    [0.0]
    """


@unary(lambda g, out, x: g / (x * math.log(2)), ufunc=np.log2, domain=(0.5, 3.0))
def log2(x: Array, /) -> Array:
    """Logarithm to base 2 of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log2(ln.asarray([8.0])).tolist()
    [3.0]
    """


@unary(lambda g, out, x: g / (x * math.log(10)), ufunc=np.log10, domain=(0.5, 3.0))
def log10(x: Array, /) -> Array:
    """Logarithm to base 10 of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log10(ln.asarray([1.0])).tolist()
    [0.0]
    """


def _weight(x1: Tensor, x2: Tensor) -> Tensor:
    """Share of `x1` in the sum of exponentials, also where both are the same infinity."""
    return sigmoid(where((x1 == x2) & isinf(x1), 0, x1 - x2))


@binary(
    lambda g, out, x1, x2: g * _weight(x1, x2),
    lambda g, out, x1, x2: g * _weight(x2, x1),
    ufunc=np.logaddexp,
    dtypes=FLOATS,
)
def logaddexp(x1: Array, x2: Array, /) -> Array:
    """``log(exp(x1) + exp(x2))`` for each pair of elements, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logaddexp(ln.asarray([0.0], dtype="float64"), -1000.0).tolist()
    [0.0]
    """


#: Coefficients of the rational approximations of erf and erfc, from W. J. Cody, "Rational Chebyshev
#: approximations for the error function", Mathematics of Computation 23 (1969), highest power first.
_NEAR = (
    (
        1.85777706184603153e-1,
        3.16112374387056560e0,
        1.13864154151050156e2,
        3.77485237685302021e2,
        3.20937758913846947e3,
    ),
    (1.0, 2.36012909523441209e1, 2.44024637934444173e2, 1.28261652607737228e3, 2.84423683343917062e3),
)
_MIDDLE = (
    (
        *(2.15311535474403846e-8, 5.64188496988670089e-1, 8.88314979438837594e0, 6.61191906371416295e1),
        *(2.98635138197400131e2, 8.81952221241769090e2, 1.71204761263407058e3, 2.05107837782607147e3),
        1.23033935479799725e3,
    ),
    (
        *(1.0, 1.57449261107098347e1, 1.17693950891312499e2, 5.37181101862009858e2, 1.62138957456669019e3),
        *(3.29079923573345963e3, 4.36261909014324716e3, 3.43936767414372164e3, 1.23033935480374942e3),
    ),
)


def _ratio(coefficients: tuple[tuple[float, ...], tuple[float, ...]], x: Array) -> Array:
    numerator, denominator = coefficients
    return np.polyval(numerator, x) / np.polyval(denominator, x)


@unary(lambda g, out, x: g * (2 / math.sqrt(math.pi)) * exp(-x * x))
def erf(x: Array, /) -> Array:
    """Error function of each element, to about the precision of float64.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.erf(ln.asarray([0.0, 10.0])).tolist()
    [0.0, 1.0]
    """
    size = np.minimum(np.abs(x.astype(np.float64)), 6.0)  # erf(6) is 1 in float64
    near = size * _ratio(_NEAR, np.minimum(size, 0.5) ** 2)
    far = 1 - np.exp(-size * size) * _ratio(_MIDDLE, size)
    return np.copysign(np.where(size <= 0.5, near, far), x).astype(x.dtype)
