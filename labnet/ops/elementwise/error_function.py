"""The error function on arrays, which NumPy lacks."""

import math
from typing import Any

import numpy as np

from labnet.kernels.device_dispatch import is_on_gpu

Array = np.ndarray[Any, Any]

#: Points per unit, and the last point, of the grid of exact values of the error function.
_DENSITY, _LAST = 64, 6
#: Elements per block, so that every pass over a block stays in the cache.
_BLOCK = 8192


def _erf_series(terms: int) -> Array:
    """Return the Taylor coefficients of erf around each point of the grid, one row per power.

    The derivatives follow Hermite's recurrence ``f''(a) = -2 a f'(a)`` and so on (DLMF 7.10.1).
    """
    points = np.arange(_LAST * _DENSITY + 1) / _DENSITY
    rows = [np.array([math.erf(point) for point in points])]
    before, derivative = np.zeros_like(points), 2 / math.sqrt(math.pi) * np.exp(-points * points)
    for power in range(1, terms):
        rows.append(derivative / math.factorial(power))
        before, derivative = derivative, -2 * points * derivative - 2 * (power - 1) * before
    return np.array(rows)


_ERF_SERIES = {np.dtype("float64"): _erf_series(9), np.dtype("float32"): _erf_series(4).astype("float32")}


def erf_of_array(x: Any) -> Any:
    """Return the error function of each element of a floating array.

    A short Taylor series around the nearest point of a grid of 64 points per unit: exact to about 2e-16 in
    float64 and 1e-7 in float32. It is 1 to the last bit beyond 6.

    Examples
    --------
    >>> abs(float(erf_of_array(np.float64(0.5))) - math.erf(0.5)) < 1e-15
    True
    """
    if is_on_gpu(x):
        from labnet.kernels.cuda.protocols.numpy_functions import error_function

        return error_function(x)
    x = np.asarray(x)
    series = _ERF_SERIES[np.dtype("float64" if x.dtype == np.float64 else "float32")]
    flat = x.reshape(-1)
    out = np.empty_like(flat)
    for start in range(0, flat.size, _BLOCK):
        part = flat[start : start + _BLOCK]
        distance = np.fmin(np.abs(part), _LAST).astype(series.dtype, copy=False)
        nearest = (distance * _DENSITY + 0.5).astype(np.intp)
        offset = distance - nearest.astype(series.dtype) / _DENSITY
        value = series[-1].take(nearest)
        for row in series[-2::-1]:
            value *= offset
            value += row.take(nearest)
        out[start : start + _BLOCK] = np.where(np.isnan(part), part, np.copysign(value, part))
    return out.reshape(x.shape)
