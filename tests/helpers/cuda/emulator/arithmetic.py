"""The arithmetic of PTX on arrays: roundings, saturation and shifts that NumPy does otherwise.

After the PTX ISA, https://docs.nvidia.com/cuda/parallel-thread-execution/. What a GPU approximates (``ex2.approx`` and
the like) is rounded correctly here.
"""

import numpy as np

FLOATS = {"f2": np.float16, "f4": np.float32, "f8": np.float64}


def two_sum(a, b):
    """Return the rounded sum, and what was rounded off (Knuth 1969)."""
    total = a + b
    part = total - a
    return total, (a - (total - part)) + (b - part)


def two_product(a, b):
    """Return the rounded product, and what was rounded off (Dekker 1971)."""
    product = a * b

    def halves(x):
        scaled = x * 134217729.0
        high = scaled - (scaled - x)
        return high, x - high

    (a1, a2), (b1, b2) = halves(a), halves(b)
    rest = ((a1 * b1 - product) + a1 * b2 + a2 * b1) + a2 * b2
    return product, np.where(np.isfinite(rest), rest, 0.0)


def odd_sum(a, b):
    """Return the sum, rounded to the neighbour whose last bit is one: rounding that again rounds the exact sum."""
    total, rest = two_sum(a, b)
    total = np.asarray(total)
    bits = total.view(np.int64)
    inexact = (rest != 0) & np.isfinite(rest) & np.isfinite(total) & ((bits & 1) == 0)
    away = (rest > 0) == (total > 0)
    return np.where(inexact, np.where(away, bits + 1, bits - 1), bits).view(np.float64)


def rounded(value, kind, how):
    """Round double precision to a narrower type: to nearest "rn", towards zero "rz", down "rm" or up "rp"."""
    value = np.asarray(value, np.float64)
    near = value.astype(FLOATS[kind])
    if how == "rn":
        return near
    back = near.astype(np.float64)
    down = np.nextafter(near, FLOATS[kind](-np.inf))
    up = np.nextafter(near, FLOATS[kind](np.inf))
    if how == "rm":
        return np.where(back > value, down, near)
    if how == "rp":
        return np.where(back < value, up, near)
    return np.where((back > value) & (value > 0), down, np.where((back < value) & (value < 0), up, near))


def fma(a, b, c, kind, how="rn"):
    """Return ``a * b + c``, rounded once."""
    if kind == "f4":
        exact = np.asarray(a, np.float64) * np.asarray(b, np.float64)
        return rounded(odd_sum(exact, np.asarray(c, np.float64)), kind, how)
    if how != "rn":
        raise NotImplementedError(f"fma.{how}.f64")
    plain = a * b + c
    high, low = two_product(a, b)
    inner, rest = two_sum(c, low)
    outer, more = two_sum(high, inner)  # Boldo and Melquiond 2008
    found = outer + odd_sum(rest, more)
    return np.where(np.isfinite(found) & np.isfinite(plain) & (a != 0) & (b != 0), found, plain)


def binary(name, a, b, kind, how):
    """Return a sum, difference, product or quotient with a rounding."""
    function = {"add": np.add, "sub": np.subtract, "mul": np.multiply, "div": np.divide}[name]
    if how == "rn" or kind == "f8":
        return function(a, b)
    wide = [np.asarray(x, np.float64) for x in (a, b)]
    if name in ("add", "sub"):
        return rounded(odd_sum(wide[0], -wide[1] if name == "sub" else wide[1]), kind, how)
    return rounded(function(*wide), kind, how)


def flushed(value, flush):
    """Make subnormal numbers zero, where the instruction says so."""
    if not flush:
        return value
    return np.where(np.abs(value) < np.finfo(value.dtype).tiny, np.copysign(value.dtype.type(0), value), value)


def coarse(value):
    """Keep the upper half of the bits of a double: approximations of them know no others."""
    return (np.asarray(value, np.float64).view(np.uint64) & np.uint64(0xFFFFFFFF00000000)).view(np.float64)


def sum_and_carry(a, b, carry):
    """Return a sum of unsigned numbers with a carry, and what is carried on."""
    first = a + b
    total = first + np.asarray(carry).astype(first.dtype)
    return total, (first < a) | (total < first)


def difference_and_borrow(a, b, borrow):
    """Return a difference of unsigned numbers less a borrow, and what is borrowed on."""
    first = a - b
    return first - np.asarray(borrow).astype(first.dtype), (a < b) | (np.asarray(borrow) & (first == 0))


def saturated(value, saturate):
    """Bring numbers into [0, 1], NaN to 0, where the instruction says so."""
    if not saturate:
        return value
    return np.where(value > 0, np.minimum(value, value.dtype.type(1)), value.dtype.type(0))


def whole(value, how):
    """Round to integers: nearest even "rni", zero "rzi", down "rmi", up "rpi"."""
    return {"rni": np.rint, "rzi": np.trunc, "rmi": np.floor, "rpi": np.ceil}[how](value)


def to_integer(value, kind, how):
    """Round to an integer type; what is beyond it becomes its limit, NaN what the ISA says."""
    dtype = np.dtype(kind)
    limits = np.iinfo(dtype)
    wide = whole(np.asarray(value), how).astype(np.float64)
    nan = 0 if np.asarray(value).dtype != np.float64 and dtype.itemsize < 8 else 1 << (8 * dtype.itemsize - 1)
    bits = np.array(nan, np.uint64).astype(f"u{dtype.itemsize}").view(dtype)
    high, low = wide >= float(limits.max), wide <= float(limits.min)
    inside = np.where(high | low | np.isnan(wide), 0.0, wide)
    found = np.where(high, dtype.type(limits.max), np.where(low, dtype.type(limits.min), inside.astype(dtype)))
    return np.where(np.isnan(wide), bits, found)


def left(a, b):
    """Shift left; a shift by the width or more leaves zero."""
    width = 8 * a.dtype.itemsize
    return np.where(b >= width, a.dtype.type(0), a << np.minimum(b, width - 1).astype(a.dtype))


def right(a, b):
    """Shift right; a shift by the width or more leaves zero, or copies of the sign."""
    width = 8 * a.dtype.itemsize
    shifted = a >> np.minimum(b, width - 1).astype(a.dtype)
    return shifted if a.dtype.kind == "i" else np.where(b >= width, a.dtype.type(0), shifted)


def leading_zeros(a):
    """Count the zeros above the highest one of unsigned numbers."""
    filled = a
    for shift in (1, 2, 4, 8, 16, 32)[: a.dtype.itemsize.bit_length() + 2]:
        filled = filled | filled >> a.dtype.type(shift)
    return (8 * a.dtype.itemsize - np.bitwise_count(filled)).astype(np.uint32)


def quotient(a, b):
    """Divide integers, towards zero; all bits are set where the divisor is zero."""
    safe = np.where(b == 0, b.dtype.type(1), b)
    if a.dtype.kind == "i":
        minus = safe == -1
        other = np.where(minus, safe.dtype.type(1), safe)
        exact = np.where(minus, -a, (a - np.fmod(a, other)) // other)
    else:
        exact = a // safe
    return np.where(b == 0, (~a.dtype.type(0)).astype(a.dtype), exact).astype(a.dtype)


def remainder(a, b):
    """Return what is left of a division towards zero."""
    safe = np.where((b == 0) | (b == b.dtype.type(-1) if b.dtype.kind == "i" else b == 0), b.dtype.type(1), b)
    return np.where(b == 0, a, np.fmod(a, safe)).astype(a.dtype)


def high_product(a, b):
    """Return the upper half of the bits of a product of integers."""
    if a.dtype.itemsize < 8:
        wide = np.dtype(f"{a.dtype.kind}{2 * a.dtype.itemsize}")
        return (a.astype(wide) * b.astype(wide) >> wide.type(8 * a.dtype.itemsize)).astype(a.dtype)
    x, y = np.asarray(a).view(np.uint64), np.asarray(b).view(np.uint64)
    half, low = np.uint64(32), np.uint64(0xFFFFFFFF)
    crossed = (x & low) * (y & low) >> half
    first = (x >> half) * (y & low) + crossed
    second = (x & low) * (y >> half) + (first & low)
    found = ((x >> half) * (y >> half) + (first >> half) + (second >> half)).view(a.dtype)
    if a.dtype.kind == "u":
        return found
    return found - np.where(a < 0, b, 0) - np.where(b < 0, a, 0)


def smallest(a, b):
    """Return the lesser; a number where the other is NaN, and -0 before 0."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where((a < b) | ((a == b) & np.signbit(a)), a, b)))


def largest(a, b):
    """Return the greater; a number where the other is NaN, and 0 before -0."""
    return np.where(np.isnan(a), b, np.where(np.isnan(b), a, np.where((a > b) | ((a == b) & ~np.signbit(a)), a, b)))
