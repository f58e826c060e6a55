"""Exponentials written as arithmetic, where NumPy has no vector loops: kernels compute the same bits without a call.

Activations and softmax need them, mostly for numbers up to 0: of which the greatest is subtracted, or that are
negative anyway.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.kernels.scalar_program import HALF, Symbol, power_of_two

#: What computes elements of each dtype.
Functions = dict[Any, Callable[[Any], Any]]

SINGLE, DOUBLE = np.dtype("float32"), np.dtype("float64")
#: Bytes per block, so that every pass over a block stays in the cache.
_BLOCK = 65536
#: The exponential of this and smaller numbers is 0, since it is nearer to 0 than to 2**-149; and of this and greater
#: ones infinite. exp(x) - 1 is -1 from the last one down.
_LEAST, _MOST, _LEAST_LESS_ONE = -104.0, 89.0, -18.0
# log(2) in two parts, of which the first has so few digits that its products with the exponents are exact.
_LOG2_E, LOG_2, LOG_2_REST = 1.4426950216293335, 0.693145751953125, 1.428606765330187e-06
#: Rounds to an integer n: the lowest bits of the sum are n + 127, of which 127 is the bias of exponents.
ROUND = 1.5 * 2**23 + 127
#: A shift of exponents, so that they are those of normal numbers; the last product rounds results below 2**-126.
_SHIFT = 64
# Polynomials of the least maximum error, by Lawson's iteration: of (exp(x) - 1 - x) / x**2, on [-log(2)/2, log(2)/2];
# the second is exact enough for exp(x) - 1.
_SERIES = (
    0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814540579915047,
)  # fmt: skip
_LONGER = (
    0.5, 0.1666666716337204, 0.04166635498404503, 0.008333273231983185, 0.0013941008364781737, 0.00019914170843549073,
)  # fmt: skip
# The same for float64, where numbers from the first one down have the exponential 0.
_LEAST_DOUBLE, _ROUND_DOUBLE = -746.0, 1.5 * 2**52 + 1023 + _SHIFT
_LOG2_E_DOUBLE, _LOG_2_DOUBLE, _LOG_2_REST_DOUBLE = 1.4426950408889634, 0.6931471805592082, 7.371002565167799e-13
_SERIES_DOUBLE = (
    0.5000000000000012, 0.166666666666667, 0.04166666666651542, 0.008333333333307264, 0.0013888888947016485,
    0.00019841269917242544, 2.4801489942150274e-05, 2.7557216440935322e-06, 2.763128020522857e-07,
    2.5117812261617944e-08,
)  # fmt: skip


def _power(x: Any, shift: Any) -> Any:
    """Return ``2**n * exp(x - n log(2))`` of elements, with n so that the polynomial is of a small number.

    It is multiplied by the power of 2 whose exponent `shift` adds to the bias.
    """
    _2, _3, _4, _5, _6 = _SERIES
    rounded = x * _LOG2_E + shift
    n = rounded - shift
    x = x - n * LOG_2 - n * LOG_2_REST
    square = x * x
    found = (square * _6 + (x * _5 + _4)) * square + (x * _3 + _2)
    found = found * square + x + 1.0
    return found * power_of_two(rounded)


def _negative(x: Any) -> Any:
    return _power(np.where(x < _LEAST, _LEAST, x), ROUND + _SHIFT) * 2.0**-_SHIFT  # NaN stays


def _negative_double(x: Any) -> Any:
    x = np.where(x < _LEAST_DOUBLE, _LEAST_DOUBLE, x)
    rounded = x * _LOG2_E_DOUBLE + _ROUND_DOUBLE
    n = rounded - _ROUND_DOUBLE
    x = x - n * _LOG_2_DOUBLE - n * _LOG_2_REST_DOUBLE
    square = x * x
    found = pairs(x, square, _SERIES_DOUBLE) * square + x + 1.0
    return found * power_of_two(rounded) * 2.0**-_SHIFT


def _unbounded(x: Any) -> Any:
    x, below = np.where(x < _LEAST, _LEAST, np.where(x > _MOST, _MOST, x)), x < 0
    shift = np.where(below, np.float32(ROUND + _SHIFT), np.float32(ROUND - _SHIFT))
    return _power(x, shift) * np.where(below, np.float32(2.0**-_SHIFT), np.float32(2.0**_SHIFT))


def _less_one(x: Any) -> Any:
    """Return ``2**n * (exp(r) - 1) + (2**n - 1)`` with r = x - n log(2), of which the rests are added too."""
    given = x
    x = np.where(x < _LEAST_LESS_ONE, _LEAST_LESS_ONE, np.where(x > _MOST, _MOST, x))
    rounded = x * _LOG2_E + (ROUND - 1)  # half of 2**n, which does not overflow
    n = rounded - (ROUND - 1)
    far = x - n * LOG_2
    less = n * LOG_2_REST
    x = far - less
    square = x * x
    tail = pairs(x, square, _LONGER) * square + ((far - x) - less)
    half = power_of_two(rounded)
    first, second = half - 0.5, x * half
    total = first + second
    found = (total + (tail * half + (second - (total - first)))) * 2.0
    return np.copysign(np.where(np.abs(given) < 0.34, tail + x, found), given)  # -0.0 and subnormal numbers stay


_NEGATIVE: Functions = {SINGLE: _negative, DOUBLE: _negative_double}
# Kernels of float16 call NumPy's loops, which do not warn either.
_UNBOUNDED: Functions = {SINGLE: _unbounded, HALF: np.exp}
_LESS_ONE: Functions = {SINGLE: _less_one, HALF: np.expm1}


def pairs(x: Any, square: Any, coefficients: tuple[float, ...]) -> Any:
    """Evaluate a polynomial with an even number of coefficients, two at a time: a processor need not wait as often."""
    value = x * coefficients[-1] + coefficients[-2]
    for i in range(len(coefficients) - 4, -1, -2):
        value = value * square + (x * coefficients[i + 1] + coefficients[i])
    return value


def exponential(x: Any) -> Any:
    """Return ``exp(x)`` of each element of an array of floats, or of a stand-in for one, that is not positive.

    It is exact to 1 unit in the last place in float32, to 1.03 in float64, and meaningless for positive numbers; for
    other dtypes and on a GPU it is `np.exp`. Outside of kernels it takes longer than that.

    Examples
    --------
    >>> exponential(np.array([-np.inf, -1.0, 0.0], "float32"))
    array([0.        , 0.36787945, 1.        ], dtype=float32)
    """
    return by_arithmetic(_NEGATIVE, np.exp, x)


def exp(x: Any) -> Any:
    """Return ``exp(x)`` of each element of an array, or of a stand-in for one.

    It is exact to 1 unit in the last place in float32, where it does not warn of overflow, by the reduction of Cody and
    Waite (Software Manual for the Elementary Functions, 1980); for other dtypes and on a GPU it is `np.exp`.

    Examples
    --------
    >>> exp(np.array([-np.inf, 1.0, 100.0], "float32"))
    array([0.       , 2.7182817,       inf], dtype=float32)
    """
    return by_arithmetic(_UNBOUNDED, np.exp, x)


def expm1(x: Any) -> Any:
    """Return ``exp(x) - 1`` of each element of an array, or of a stand-in for one, accurate near 0.

    It is exact to 1.08 units in the last place in float32, by the reduction of `exp`; for other dtypes and on a GPU it
    is `np.expm1`.

    Examples
    --------
    >>> expm1(np.array([-np.inf, 1e-10, 100.0], "float32"))
    array([-1.e+00,  1.e-10,     inf], dtype=float32)
    """
    return by_arithmetic(_LESS_ONE, np.expm1, x)


def by_arithmetic(functions: Functions, otherwise: Callable[[Any], Any], x: Any) -> Any:
    """Apply the function of a dtype to an array of NumPy, in blocks, or to a stand-in; another one to other arrays."""
    function = functions.get(getattr(x, "dtype", None))
    if function is None:
        return otherwise(x)
    if type(x) is Symbol:
        return function(x)
    if not isinstance(x, np.ndarray | np.floating):
        return otherwise(x)
    length = _BLOCK // x.itemsize
    with np.errstate(all="ignore"):
        return in_blocks(function, np.asarray(x), length) if x.size > length else function(x)


def in_blocks(function: Callable[[Any], Any], x: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """Apply a function to parts of an array, and return the results in the order of memory that NumPy gives them."""
    out: np.ndarray[Any, Any] = np.asarray(np.positive(x))  # a number for an array without dimensions
    flat = out.ravel(order="K")  # a view, since a copy has no gaps
    for start in range(0, flat.size, length):
        flat[start : start + length] = function(flat[start : start + length])
    return out
