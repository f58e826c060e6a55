"""Numbers at which implementations of a function tend to differ, and the comparison of what two of them return."""

import numpy as np

SIGNED, UNSIGNED = ("int8", "int16", "int32", "int64"), ("uint8", "uint16", "uint32", "uint64")
FLOATING = ("float16", "float32", "float64")
DTYPES = ("bool", *SIGNED, *UNSIGNED, *FLOATING)

_FRACTIONS = (0.0, 1e-3, 0.1, 0.25, 0.5, 0.75, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5, 7.0, 8.0, 10.0, 12.0, 64.0, 100.0, 1000.0)


def special(dtype):
    """Return numbers of a dtype: both zeros, subnormal ones, the extremes, infinities and NaN among them.

    Examples
    --------
    >>> special("int8").tolist()
    [-128, -127, -9, -8, -7, -3, -2, -1, 0, 1, 2, 3, 7, 8, 9, 126, 127]
    """
    dtype = np.dtype(dtype)
    if dtype.kind == "b":
        return np.array([False, True])
    if dtype.kind == "f":
        limits = np.finfo(dtype)
        edges = (limits.smallest_subnormal, limits.smallest_normal, limits.eps, 1 - limits.epsneg, limits.max, np.inf)
        positive = np.array([*_FRACTIONS, *edges], dtype)
        return np.concatenate([positive, -positive, np.array([np.nan], dtype)])
    limits, near = np.iinfo(dtype), (0, 1, 2, 3, 7, 8, 9)
    numbers = {limits.min, limits.min + 1, *near, limits.max - 1, limits.max, *(-n for n in near if limits.min)}
    return np.array(sorted(numbers), dtype)


def tame(dtype):
    """Return those special numbers whose sums and products are the same in any order, or nearly."""
    numbers = special(dtype)
    if numbers.dtype.kind != "f":
        return numbers
    size = np.abs(numbers)
    return numbers[~np.isfinite(numbers) | (size == 0) | (size >= 0.25) & (size <= 3.5)]


def pairs(left, right):
    """Return two arrays that hold each special number of one dtype beside each of another.

    Examples
    --------
    >>> [part.tolist() for part in pairs("bool", "bool")]
    [[False, False, True, True], [False, True, False, True]]
    """
    first, second = np.meshgrid(special(left), special(right), indexing="ij")
    return first.ravel(), second.ravel()


def steps_apart(got, expected, scale=0.0):
    """Return how many steps of their dtype floating arrays are apart; infinite where NaN, infinities or zeros differ.

    Steps are those at the magnitude of the expected number, or at `scale` where that is greater.

    Examples
    --------
    >>> steps_apart(np.array([1.0, -0.0]), np.array([1.0, 0.0])).tolist()
    [0.0, inf]
    """
    exact = ~np.isfinite(expected) | ~np.isfinite(got) | (expected == 0) & (got == 0)
    alike = np.where(np.isnan(expected), np.isnan(got), (got == expected) & (np.signbit(got) == np.signbit(expected)))
    least = np.maximum(np.float64(np.finfo(expected.dtype).smallest_normal), np.minimum(scale, 1e4)).astype(got.dtype)
    with np.errstate(all="ignore"):
        step = np.spacing(np.maximum(np.abs(expected), least)).astype("float64")
        apart = np.abs(got.astype("float64") - expected.astype("float64")) / step
    return np.where(exact, np.where(alike, 0.0, np.inf), apart)


def difference(got, expected, bound, operands=(), scale=0.0):
    """Return what differs between two arrays by more than so many steps of their dtype, as text; "" if nothing does."""
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return f"{got.dtype}{list(got.shape)} instead of {expected.dtype}{list(expected.shape)}"
    wrong = steps_apart(got, expected, scale) > bound if expected.dtype.kind == "f" else got != expected
    if not np.any(wrong):
        return ""
    shown = [x[wrong][:4].tolist() for x in operands if x.shape == wrong.shape]
    some = f"{got[wrong][:4].tolist()} instead of {expected[wrong][:4].tolist()}"
    return f"{np.count_nonzero(wrong)} of {wrong.size} elements: {some}" + (f" for {shown}" if shown else "")
