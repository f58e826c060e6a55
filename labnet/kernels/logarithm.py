"""The logarithm of 1 + x written as arithmetic, where NumPy has no vector loop: kernels compute the same bits."""

from typing import Any

import numpy as np

from labnet.kernels.exponential import LOG_2, LOG_2_REST, ROUND, SINGLE, Functions, by_arithmetic, pairs
from labnet.kernels.scalar_program import HALF, exponent, power_of_two

#: A shift of exponents, so that they are those of normal numbers.
_SHIFT = 64
# Polynomial of the least maximum error, by Lawson's iteration: of (log(1 + x) - x + x**2 / 2) / x**3, on
# [sqrt(1/2) - 1, sqrt(2) - 1].
_SERIES = (
    0.3333333134651184, -0.2500081956386566, 0.20001226663589478, -0.16623356938362122, 0.14201755821704865,
    -0.13160187005996704, 0.12761594355106354, -0.07634507864713669,
)  # fmt: skip


def _log1p(x: Any) -> Any:
    """Return ``n log(2) + log(1 + r)`` of elements, with 1 + x = 2**n (1 + r) and the rest of r that is rounded."""
    whole = x + 1.0
    n = exponent(whole * 2.0**0.5)
    scale = power_of_two((ROUND + _SHIFT) - n) * 2.0**-_SHIFT
    first, second = x * scale, scale - 1.0
    r = first + second
    rest = n * LOG_2_REST + (first - (r - second))
    square = r * r
    found = n * LOG_2 + (r - (square * 0.5 - (pairs(r, square, _SERIES) * (square * r) + rest)))
    edge = np.where(whole == 0, -np.inf, x * np.inf * 0.0)  # NaN
    found = np.where(whole > 0, np.copysign(found, x), edge)
    return np.where(x < np.inf, found, x)


_LOG1P: Functions = {SINGLE: _log1p, HALF: np.log1p}


def log1p(x: Any) -> Any:
    """Return ``log(1 + x)`` of each element of an array, or of a stand-in for one, accurate near 0.

    It is exact to 1 unit in the last place in float32, where it does not warn of -1 and smaller numbers, as a sum of
    the logarithms of a power of 2 and of a number near 1 (Cody and Waite, Software Manual for the Elementary Functions,
    1980); for other dtypes and on a GPU it is `np.log1p`.

    Examples
    --------
    >>> log1p(np.array([-1.0, 1e-10, 1.0], "float32"))
    array([        -inf, 1.000000e-10, 6.931472e-01], dtype=float32)
    """
    return by_arithmetic(_LOG1P, np.log1p, x)
