"""Elementary functions of single numbers for generated code, with NumPy's results for special values."""

# mypy: ignore-errors
# Numba finds the types.

import math

import numpy as np
from numba import float32, float64, int32, types, uint16

from labnet.compile.intrinsics.arithmetic import *  # noqa: F403
from labnet.compile.intrinsics.arithmetic import (
    _bits,
    _bits_of,
    _floor,
    _from_half,
    _halved,
    _is_odd,
    _one,
    _times,
    _to_half,
    _whole_quotient,
    _whole_rest,
)
from labnet.compile.native.callee import callee, chosen_callee
from labnet.compile.native.options import EXACT


@chosen_callee(**EXACT)
def _quotient(a, b):
    def whole(a, b):
        return _whole_quotient(a, b)

    return _float_quotient if isinstance(a, types.Float) else whole


def _float_quotient(a, b):
    """Return NumPy's quotient rounded down; infinite operands as in the array API standard."""
    if math.isinf(a) != math.isinf(b):
        return _floor(a / b)
    if b == 0:
        return a / b
    rest = np.fmod(a, b)
    quotient = (a - rest) / b
    if rest != 0 and (b < 0) != (rest < 0):
        quotient -= 1
    if quotient == 0:
        return math.copysign(quotient, a / b)
    below = _floor(quotient)
    return below + 1 if quotient - below > 0.5 else below


@chosen_callee(**EXACT)
def _rest(a, b):
    def whole(a, b):
        return _whole_rest(a, b)

    return _float_rest if isinstance(a, types.Float) else whole


def _float_rest(a, b):
    """Return NumPy's remainder, with the sign of the divisor."""
    rest = np.fmod(a, b)
    if rest != 0:
        return rest + b if (b < 0) != (rest < 0) else rest
    return math.copysign(rest, b)


@chosen_callee(**EXACT)
def _power(a, b):
    def power(a, b):
        return a**b

    return power if isinstance(a, types.Float) else _whole_power


def _whole_power(a, b):
    """Compute a power of integers by squaring; it wraps around. Exponents are not negative."""
    found = a if _is_odd(b) else _one(a)
    while b > 1:
        b = _halved(b)
        a = _times(a, a)
        if _is_odd(b):
            found = _times(found, a)
    return found


# Exponentials and logarithms in float32


@callee(**EXACT)
def _exp32(x):
    """Compute the exponential in float32, to 1e-7: 2**n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes, expf)."""
    high = float32(88.72283) if x > float32(88.72283) else x
    low = float32(-103.97208) if high < float32(-103.97208) else high
    whole = _floor(low * float32(1.44269504) + float32(0.5))
    rest = low - whole * float32(0.693359375) - whole * float32(-2.12194440e-4)
    series = float32(1.9875691500e-4)
    series = series * rest + float32(1.3981999507e-3)
    series = series * rest + float32(8.3334519073e-3)
    series = series * rest + float32(4.1665795894e-2)
    series = series * rest + float32(1.6666665459e-1)
    series = series * rest + float32(5.0000001201e-1)
    value = series * rest * rest + rest + float32(1)
    half = int32(whole) >> int32(1)  # two steps, so that neither 2**128 nor a subnormal result overflows
    value = value * _bits_of((half + int32(127)) << int32(23))
    value = value * _bits_of((int32(whole) - half + int32(127)) << int32(23))
    value = float32(math.inf) if x > float32(88.72283) else value
    value = float32(0) if x < float32(-103.97208) else value
    return x if x != x else value


@callee(**EXACT)
def _edged32(x, found):
    """Return a logarithm, with its special values at 0, infinity, NaN and negative numbers."""
    value = x if x == float32(math.inf) else found
    value = float32(-math.inf) if x == float32(0) else value
    return float32(math.nan) if x < float32(0) or x != x else value


@callee(**EXACT)
def _log32(x):
    """Compute the natural logarithm in float32 (Cephes, logf), subnormal numbers included."""
    small = x < float32(1.17549435e-38)
    scaled = x * float32(8388608.0) if small else x
    bits = _bits(scaled)
    power = float32((bits >> int32(23)) - int32(126)) - (float32(23) if small else float32(0))
    part = _bits_of((bits & int32(0x007FFFFF)) | int32(0x3F000000))
    below = part < float32(0.70710678)
    power = power - float32(1) if below else power
    m = part + part - float32(1) if below else part - float32(1)
    square = m * m
    series = float32(7.0376836292e-2)
    series = series * m + float32(-1.1514610310e-1)
    series = series * m + float32(1.1676998740e-1)
    series = series * m + float32(-1.2420140846e-1)
    series = series * m + float32(1.4249322787e-1)
    series = series * m + float32(-1.6668057665e-1)
    series = series * m + float32(2.0000714765e-1)
    series = series * m + float32(-2.4999993993e-1)
    series = series * m + float32(3.3333331174e-1)
    value = m * square * series + power * float32(-2.12194440e-4) - float32(0.5) * square
    return _edged32(x, m + value + power * float32(0.693359375))


@callee(**EXACT)
def _split32(x):
    """Split a float32 into its exponent and the logarithm of its mantissa, in float64, to 1e-11.

    The mantissa is a number m in [sqrt(1/2), sqrt(2)), and 2 artanh((m - 1) / (m + 1)) (Abramowitz and Stegun, 4.1.27).
    """
    small = x < float32(1.17549435e-38)
    bits = _bits(x * float32(8388608.0) if small else x)
    part = _bits_of((bits & int32(0x007FFFFF)) | int32(0x3F000000))
    below = part < float32(0.70710678)
    power = (bits >> int32(23)) - int32(127 if below else 126) - int32(23 if small else 0)
    m = float64(part + part if below else part)
    s = (m - 1.0) / (m + 1.0)
    square = s * s
    series = 2.0 / 13.0
    series = series * square + 2.0 / 11.0
    series = series * square + 2.0 / 9.0
    series = series * square + 2.0 / 7.0
    series = series * square + 2.0 / 5.0
    series = series * square + 2.0 / 3.0
    series = series * square + 2.0
    return float64(power), series * s


@callee(**EXACT)
def _log232(x):
    """Compute the logarithm to base 2 in float32, exact for powers of 2."""
    power, rest = _split32(x)
    return _edged32(x, float32(power + rest * 1.4426950408889634))


@callee(**EXACT)
def _log1032(x):
    """Compute the logarithm to base 10 in float32, exact for powers of 10."""
    power, rest = _split32(x)
    return _edged32(x, float32(power * 0.30102999566398120 + rest * 0.4342944819032518))


@callee(**EXACT)
def _tanh32(x):
    """Compute tanh in float32, to 3e-7: x times a rational function of x**2; 1 from 9.03 on.

    Both are minimax fits, to 2e-8; at the bound they round to 1 or above.
    """
    high = float32(9.03) if x > float32(9.03) else x
    low = float32(-9.03) if high < float32(-9.03) else high
    square = low * low
    above = float32(1.33194131e-08)
    above = above * square + float32(2.05837496e-05)
    above = above * square + float32(3.49405198e-03)
    above = above * square + float32(1.33797333e-01)
    above = above * square + float32(1)
    below = float32(7.76216552e-07)
    below = below * square + float32(3.28312046e-04)
    below = below * square + float32(2.58711390e-02)
    below = below * square + float32(4.67130482e-01)
    below = below * square + float32(1)
    value = low * above / below
    value = float32(1) if value > float32(1) else value
    return float32(-1) if value < float32(-1) else value


@callee(**EXACT)
def _sigmoid32(x):
    small = _exp32(-abs(x))
    return (float32(1) if x >= float32(0) else small) / (float32(1) + small)


@callee(**EXACT)
def _erf32(x):
    """Compute the error function in float32, to 2e-7: a polynomial times x near 0, elsewhere 1 - exp(-polynomial).

    Both polynomials are minimax fits, to 1.3e-9 and 1.1e-9.
    """
    size, square = abs(x), x * x
    series = float32(7.857702e-05)
    series = series * square + float32(-8.0101925e-04)
    series = series * square + float32(5.1883276e-03)
    series = series * square + float32(-2.68538119e-02)
    series = series * square + float32(1.128358515e-01)
    series = series * square + float32(-3.761262582e-01)
    series = series * square + float32(1.128379166)
    near = series * x
    far = float32(4) if size > float32(4) else size
    series = float32(-1.8638008e-04)
    series = series * far + float32(2.9476668e-03)
    series = series * far + float32(-2.18380970e-02)
    series = series * far + float32(1.031068213e-01)
    series = series * far + float32(6.381447582e-01)
    series = series * far + float32(1.127089234)
    series = series * far + float32(3.415125982e-04)
    tail = float32(1) - _exp32(-series)
    tail = -tail if x < float32(0) else tail
    return near if size < float32(1) else tail


@callee(**EXACT)
def _log1p32(x):
    """Compute log(1 + x) in float32, corrected for the rounding of the sum (Higham, Accuracy, 1.14.1)."""
    whole = float32(1) + x
    found = _log32(whole) * (x / (whole - float32(1)))
    found = x if whole == float32(1) else found
    return x if x == float32(math.inf) else found


@callee(**EXACT)
def _expm132(x):
    """Compute exp(x) - 1 in float32, with the correction of `_log1p32`."""
    power = _exp32(x)
    less = power - float32(1)
    found = less * (x / _log32(power))
    found = x if less == float32(0) else found
    return less if less == float32(-1) or power > float32(1e7) or x != x else found


#: The C library's functions. Numba's own are in a module that a process without Numba does not have.
_next32 = types.ExternalFunction("nextafterf", float32(float32, float32))
_next64 = types.ExternalFunction("nextafter", float64(float64, float64))


@callee(**EXACT)
def _next_half(a, b):
    """Return the next float16 after one number towards another."""
    if a != a or b != b:
        return float32(math.nan)
    if a == b:
        return a
    if a == float32(0):
        return math.copysign(float32(2.0**-24), b)
    bits = int32(_to_half(a))
    return _from_half(uint16(bits + 1 if (b > a) == (a > float32(0)) else bits - 1))


@callee(**EXACT)
def _erf64(x):
    return math.erf(x)


@callee(**EXACT)
def _log1p64(x):
    return math.log1p(x)


@callee(**EXACT)
def _expm164(x):
    return math.expm1(x)


@callee(**EXACT)
def _exp64(x):
    return math.exp(x)


@callee(**EXACT)
def _log64(x):
    if x > 0.0:
        return math.log(x)
    return -math.inf if x == 0.0 else math.nan


@callee(**EXACT)
def _log264(x):
    return np.log2(x)


@callee(**EXACT)
def _log1064(x):
    return np.log10(x)


@callee(**EXACT)
def _tanh64(x):
    return math.tanh(x)


@callee(**EXACT)
def _sigmoid64(x):
    small = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
