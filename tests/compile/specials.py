"""Numbers at which implementations of a function tend to differ, and the comparison of what two of them return."""

import numpy as np

BOOLEAN, SIGNED = ("bool",), ("int8", "int16", "int32", "int64")
UNSIGNED, FLOATING = ("uint8", "uint16", "uint32", "uint64"), ("float16", "float32", "float64")
DTYPES = (*BOOLEAN, *SIGNED, *UNSIGNED, *FLOATING)

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
        whole = (limits.smallest_subnormal, limits.smallest_normal, limits.eps, 1 - limits.epsneg, limits.max, np.inf)
        positive = np.array([*_FRACTIONS, *whole], dtype)
        return np.concatenate([positive, -positive, np.array([np.nan], dtype)])
    limits, near = np.iinfo(dtype), (0, 1, 2, 3, 7, 8, 9)
    numbers = {limits.min, limits.min + 1, *near, limits.max - 1, limits.max, *(-n for n in near if limits.min)}
    return np.array(sorted(numbers), dtype)


def pairs(left, right):
    """Return two arrays that hold each special number of one dtype beside each of another."""
    first, second = np.meshgrid(special(left), special(right), indexing="ij")
    return first.ravel(), second.ravel()


def steps_apart(got, expected):
    """Return how many of the numbers of their dtype lie between floating arrays, at most; infinite if NaN, infinities
    or the sign of zero differ.

    Examples
    --------
    >>> float(steps_apart(np.array([1.0, -0.0]), np.array([1.0, -0.0])))
    0.0
    >>> float(steps_apart(np.array([0.0]), np.array([-0.0])))
    inf
    """
    return np.max(_steps(got, expected), initial=0.0)


def _steps(got, expected):
    special = ~np.isfinite(expected) | ~np.isfinite(got) | (expected == 0) & (got == 0)
    same = np.where(np.isnan(expected), np.isnan(got), (got == expected) & (np.signbit(got) == np.signbit(expected)))
    with np.errstate(all="ignore"):
        size = np.spacing(np.maximum(np.abs(expected), np.finfo(expected.dtype).smallest_normal)).astype("float64")
        apart = np.abs(got.astype("float64") - expected.astype("float64")) / size
    return np.where(special, np.where(same, 0.0, np.inf), apart)


def difference(got, expected, bound, operands=()):
    """Return what differs between two arrays by more than so many steps of their dtype, as text; "" if nothing does."""
    if (got.shape, got.dtype) != (expected.shape, expected.dtype):
        return f"{got.dtype}{list(got.shape)} instead of {expected.dtype}{list(expected.shape)}"
    wrong = _steps(got, expected) > bound if expected.dtype.kind == "f" else got != expected
    if not np.any(wrong):
        return ""
    shown = [(*(x[wrong][:4] for x in operands if x.shape == wrong.shape), got[wrong][:4], expected[wrong][:4])]
    return f"{np.count_nonzero(wrong)} of {wrong.size} elements, such as (operands, compiled, eager) {shown}"
