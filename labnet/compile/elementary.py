"""What generated code calls for functions of single numbers, as NumPy has them."""

# mypy: ignore-errors
# Numba finds the types.

import math

import numpy as np
from llvmlite import ir
from numba import boolean, float32, int32, njit, types, uint64
from numba.extending import intrinsic, overload

from labnet.compile.options import INNER
from labnet.compile.pointers import made


@intrinsic
def _bits_of(context, number):
    """Take the bits of an int32 for those of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return float32(int32), generate


@intrinsic
def _bits(context, number):
    """Take the bits of a float32 for those of an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return int32(float32), generate


def _rounding(name):
    @intrinsic
    def rounded(context, number):
        def generate(context, builder, signature, arguments):
            if isinstance(number, types.Integer | types.Boolean):
                return arguments[0]
            function = builder.module.declare_intrinsic(f"llvm.{name}", [arguments[0].type])
            return builder.call(function, arguments)

        return number(number), generate

    return rounded


_floor, _ceil, _trunc, _rint = (_rounding(name) for name in ("floor", "ceil", "trunc", "rint"))


@njit(**INNER)
def _shifted_left(a, b):
    """Shift as C does, but by as many places as there are bits, or more, to 0."""
    return a << b if uint64(b) < uint64(64) else a & 0


@njit(**INNER)
def _shifted_right(a, b):
    """Shift as C does, but by as many places as there are bits, or more, to the sign."""
    return a >> (b if uint64(b) < uint64(63) else 63)


def _inverted(a):
    raise NotImplementedError("compiled only")


@overload(_inverted, inline="always")
def _compile_inverted(a):
    return (lambda a: not a) if a == boolean else (lambda a: ~a)


def _quotient(a, b):
    raise NotImplementedError("compiled only")


@overload(_quotient)
def _compile_quotient(a, b):
    if isinstance(a, types.Float):
        return _float_quotient
    return lambda a, b: a // b if b != 0 else a & 0


def _float_quotient(a, b):
    """Quotient rounded down as NumPy has it, with infinite ones as in the standard."""
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


def _rest(a, b):
    raise NotImplementedError("compiled only")


@overload(_rest)
def _compile_rest(a, b):
    if isinstance(a, types.Float):
        return _float_rest
    return lambda a, b: a % b if b != 0 else a & 0


def _float_rest(a, b):
    """Remainder with the sign of the divisor, as NumPy has it."""
    rest = np.fmod(a, b)
    if rest != 0:
        return rest + b if (b < 0) != (rest < 0) else rest
    return math.copysign(rest, b)


def _chosen(name, sign):
    """Return the function that chooses one of two numbers, or NaN where there is one."""

    @intrinsic
    def chosen(context, a, b):
        def emit(builder, a, b):
            if isinstance(kind, types.Float):
                first = builder.or_(builder.fcmp_ordered(sign, a, b), builder.fcmp_unordered("!=", a, a))
            elif getattr(kind, "signed", False):
                first = builder.icmp_signed(sign, a, b)
            else:
                first = builder.icmp_unsigned(sign, a, b)
            return builder.select(first, a, b)

        kind = types.unliteral(a)
        return made(kind(kind, kind), emit)

    return chosen


_greater, _smaller = _chosen("greater", ">"), _chosen("smaller", "<")


def _loosely(comparison):
    """Return what chooses one of two numbers that are no NaN; for such ones the result is never used."""

    @intrinsic
    def chosen(context, a, b):
        def generate(context, builder, signature, arguments):
            a, b = arguments
            loose = ("nnan", "nsz")
            return builder.select(builder.fcmp_ordered(comparison, a, b, flags=loose), a, b, flags=loose)

        return a(a, a), generate

    return chosen


_greater_number, _smaller_number = _loosely(">"), _loosely("<")


@njit(**INNER)
def _exp32(x):
    """Exponential in float32, to 1e-7: 2**n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes, expf)."""
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
    above = float32(math.inf) if x > float32(88.72283) else value
    return x if x != x else above


@njit(**INNER)
def _log32(x):
    """Natural logarithm in float32 (Cephes, logf), subnormal numbers included."""
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
    value = m + value + power * float32(0.693359375)
    value = x if x == float32(math.inf) else value
    value = float32(-math.inf) if x == float32(0) else value
    return float32(math.nan) if x < float32(0) or x != x else value


@njit(**INNER)
def _tanh32(x):
    """Hyperbolic tangent in float32, to 3e-7: x times a quotient of polynomials of its square, which is 1 from 9.02 on.

    They were fitted to be off by as little as possible everywhere, to 2e-8.
    """
    high = float32(9.02) if x > float32(9.02) else x
    low = float32(-9.02) if high < float32(-9.02) else high
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


@njit(**INNER)
def _sigmoid32(x):
    return float32(1) / (float32(1) + _exp32(-x))


@njit(**INNER)
def _erf32(x):
    """Error function in float32, to 2e-7: a polynomial times x near 0, elsewhere 1 - exp(-polynomial).

    Both polynomials were fitted to be off by as little as possible everywhere, to 1.3e-9 and 1.1e-9.
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


@njit(**INNER)
def _log1p32(x):
    """Logarithm of 1 + x in float32: what is lost in the sum is made up for (Higham, Accuracy, 1.14.1)."""
    whole = float32(1) + x
    found = _log32(whole) * (x / (whole - float32(1)))
    found = x if whole == float32(1) else found
    return x if x == float32(math.inf) else found


@njit(**INNER)
def _expm132(x):
    """Exponential less 1 in float32, by the same means as `_log1p32`."""
    power = _exp32(x)
    less = power - float32(1)
    found = less * (x / _log32(power))
    found = x if less == float32(0) else found
    return less if less == float32(-1) or power > float32(1e7) or x != x else found


@njit(**INNER)
def _erf64(x):
    return math.erf(x)


@njit(**INNER)
def _log1p64(x):
    return math.log1p(x)


@njit(**INNER)
def _expm164(x):
    return math.expm1(x)


@njit(**INNER)
def _exp64(x):
    return math.exp(x)


@njit(**INNER)
def _log64(x):
    if x > 0.0:
        return math.log(x)
    return -math.inf if x == 0.0 else math.nan


@njit(**INNER)
def _tanh64(x):
    return math.tanh(x)


@njit(**INNER)
def _sigmoid64(x):
    small = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
