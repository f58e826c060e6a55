"""The exponential of numbers up to 0 in float32, written as arithmetic: kernels compute the same bits without a call.

Activations and softmax need it, for numbers of which the greatest is subtracted, or that are negative anyway.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.kernels.scalar_program import Symbol, power_of_two

SINGLE = np.dtype("float32")
#: Elements per block, so that every pass over a block stays in the cache.
_BLOCK = 16384
#: The exponential of this and smaller numbers is 0, since it is nearer to 0 than to 2**-149.
_LEAST = -104.0
# log(2) in two parts, of which the first has so few digits that its products with the exponents are exact.
_LOG2_E, _LOG_2, _LOG_2_REST = 1.4426950216293335, 0.693145751953125, 1.428606765330187e-06
#: Rounds to an integer n: the lowest bits of the sum are n + 64 + 127, of which 127 is the bias of exponents.
_ROUND = 1.5 * 2**23 + 64 + 127
# Polynomial of the least maximum error, by Lawson's iteration: of (exp(x) - 1 - x) / x**2, on [-log(2)/2, log(2)/2].
_2, _3, _4, _5, _6 = (
    0.4999999403953552, 0.1666652113199234, 0.04166838899254799, 0.00836874544620514, 0.0013814540579915047,
)  # fmt: skip


def _arithmetic(x: Any) -> Any:
    """Return ``2**n * exp(x - n log(2))`` of elements, with n so that the polynomial is of a small number."""
    x = np.where(x < _LEAST, _LEAST, x)  # NaN stays
    rounded = x * _LOG2_E + _ROUND
    n = rounded - _ROUND
    x = x - n * _LOG_2 - n * _LOG_2_REST
    square = x * x
    found = (square * _6 + (x * _5 + _4)) * square + (x * _3 + _2)
    found = found * square + x + 1.0
    return found * power_of_two(rounded) * 2.0**-64  # the last product rounds results below 2**-126


def exponential(x: Any) -> Any:
    """Return ``exp(x)`` of each element of an array of floats, or of a stand-in for one, that is not positive.

    It is exact to 1 unit in the last place in float32, and meaningless for positive numbers; for other dtypes and on a
    GPU it is `np.exp`.

    Examples
    --------
    >>> exponential(np.array([-np.inf, -1.0, 0.0], "float32"))
    array([0.        , 0.36787945, 1.        ], dtype=float32)
    """
    if getattr(x, "dtype", None) != SINGLE:
        return np.exp(x)
    if type(x) is Symbol:
        return _arithmetic(x)
    if not isinstance(x, np.ndarray | np.float32):
        return np.exp(x)
    with np.errstate(all="ignore"):
        return in_blocks(_arithmetic, np.asarray(x), _BLOCK) if x.size > _BLOCK else _arithmetic(x)


def in_blocks(function: Callable[[Any], Any], x: np.ndarray[Any, Any], length: int) -> np.ndarray[Any, Any]:
    """Apply a function to parts of an array, and return the results in the order of memory that NumPy gives them."""
    out = x.astype(x.dtype)
    flat = out.ravel(order="K")  # a view, since a copy has no gaps
    for start in range(0, flat.size, length):
        flat[start : start + length] = function(flat[start : start + length])
    return out
