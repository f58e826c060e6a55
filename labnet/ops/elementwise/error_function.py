"""The error function and the normal distribution on arrays, which NumPy lacks."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from labnet.kernels.device_dispatch import is_on_gpu
from labnet.kernels.exponential import in_blocks
from labnet.kernels.scalar_program import Symbol

#: Elements per block, so that every pass over a block stays in the cache.
_BLOCK = 8192
# Polynomials of the least maximum error, by Lawson's iteration: of erf(x) / x - 1 in x**2 on [0, 1], and of the
# fourth root of 1 - erf(x) in x - 1.5, on [1, 4] for float32 and on [1, 6] for float64.
_SMALL_SINGLE = (
    0.128379166, -0.376126271, 0.112836001, -0.0268544433, 0.00518953309, -0.000802082231, 7.88905767e-05,
)  # fmt: skip
_LARGE_SINGLE = (
    0.429075234, -0.376384535, 0.0693301483, 0.0329465296, -0.0124992068, -0.00156610432, 0.00124327921,
    -9.18944162e-05, -2.14937523e-05,
)  # fmt: skip
_SMALL_DOUBLE = (
    0.12837916709551256, -0.3761263890318355, 0.1128379167094525, -0.026866170643275823,
    0.0052239776074207815, -0.0008548325989584066, 0.00012055295317512282, -1.4924744612447203e-05,
    1.6447517118436833e-06, -1.6209172084183032e-07, 1.3722961438969649e-08, -7.801164033383109e-10,
)  # fmt: skip
_LARGE_DOUBLE = (
    0.42907522645363616, -0.3763848746510624, 0.06932998074409609, 0.03295383740837684,
    -0.01249581830735874, -0.0016049134734758832, 0.0012489422950922203, -2.672258789428315e-05,
    -7.43449113954272e-05, 8.35330549320489e-06, 2.7798790356773893e-06, -5.169136064622889e-07,
    -8.50256141115826e-08, 2.3214130959428833e-08, 2.4192871598714437e-09, -1.0198565847017483e-09,
    -4.520161776123043e-11, 5.506661986684881e-11, -9.614600737567338e-12, 7.555457716263457e-13,
    -2.3633683377102185e-14,
)  # fmt: skip
# For float32, with P the distribution function: (P(x) - 1/2) / x by powers of x**2 on [0, 1.4], and the fourth root of
# P(-x) by powers of x - 2.7 on [1.4, 5.9].
_CENTRAL = (0.398942202, -0.0664892495, 0.009968834, -0.00117882725, 0.000107877306, -6.08616347e-06)
_TAIL = (
    0.242653936, -0.182342023, 0.0406327881, 0.00341431564, -0.00269475998, 0.000156235299, 8.70899166e-05,
    -1.15101957e-05,
)  # fmt: skip
#: There the tail is less than half of a unit in the last place of 1/2.
_LAST = 5.9


class _Series(NamedTuple):
    small: tuple[float, ...]
    large: tuple[float, ...]
    last: float


_SERIES = {"f": _Series(_SMALL_SINGLE, _LARGE_SINGLE, 4.0), "d": _Series(_SMALL_DOUBLE, _LARGE_DOUBLE, 6.0)}


def _polynomial(x: Any, coefficients: tuple[float, ...]) -> Any:
    """Evaluate a polynomial by Horner's rule."""
    value = x * coefficients[-1] + coefficients[-2]
    for coefficient in coefficients[-3::-1]:
        value = value * x + coefficient
    return value


def _erf(x: Any) -> Any:
    """Return the error function of an array of float32 or float64, or of a stand-in for one."""
    small, large, last = _SERIES[x.dtype.char]
    size = np.abs(x)
    bounded = np.where(size > last, last, size)  # NaN stays
    near = x * _polynomial(bounded * bounded, small) + x
    root = _polynomial(bounded - 1.5, large)
    square = root * root
    return np.where(size < 1, near, np.copysign(1 - square * square, x))


def erf_of_array(x: Any) -> Any:
    """Return the error function of each element of a floating array.

    It is exact to 2 units in the last place of its dtype; float16 is computed in float32.

    Examples
    --------
    >>> abs(float(erf_of_array(np.float64(0.5))) - 0.5204998778130465) < 1e-15
    True
    """
    if type(x) is Symbol:
        return _erf(x.astype(np.float32)).astype(x.dtype) if x.dtype == np.float16 else _erf(x)
    if is_on_gpu(x):
        from labnet.kernels.cuda.protocols.numpy_functions import error_function

        return error_function(x)
    return _in_blocks(_erf, np.asarray(x))


def _in_blocks(function: Callable[[Any], Any], x: Any) -> Any:
    """Apply a function to parts of an array, float16 converted to float32."""
    work = np.float32 if x.dtype == np.float16 else x.dtype
    with np.errstate(all="ignore"):
        return in_blocks(lambda part: function(part.astype(work, copy=False)), x, _BLOCK)


def _normal(x: Any) -> Any:
    """Return the distribution function of an array of float32, or of a stand-in for one."""
    size = np.abs(x)
    central = x * _polynomial(x * x, _CENTRAL)
    root = _polynomial(np.where(size > _LAST, _LAST, size) - 2.7, _TAIL)
    square = root * root
    return np.where(size < 1.4, central, np.copysign(0.5 - square * square, x)) + 0.5


def ndtr_of_array(x: Any) -> Any:
    """Return the distribution function of the standard normal of each element of a floating array.

    In float32 it is exact to 2**-23.

    Examples
    --------
    >>> ndtr_of_array(np.float64(0.0))
    np.float64(0.5)
    """
    if getattr(x, "dtype", None) == np.float32:
        if type(x) is Symbol:
            return _normal(x)
        if not is_on_gpu(x):
            return _in_blocks(_normal, np.asarray(x))
    return 0.5 * (1 + erf_of_array(x * math.sqrt(0.5)))
