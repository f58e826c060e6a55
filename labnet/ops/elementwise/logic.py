"""Comparisons, logic, bits and tests of single elements; none of them has a gradient."""

import numpy as np

from labnet.ops.core.declaration import Array
from labnet.ops.core.registry import EVERY, INTEGERS, NUMBERS
from labnet.ops.elementwise.elementary import binary, unary

_BITS = ("bool", *INTEGERS)


# Comparison


@binary(ufunc=np.equal, dtypes=EVERY, scalar="x1 == x2")
def equal(x1: Array, x2: Array, /) -> Array:
    """Return whether each pair of elements is equal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.equal(ln.asarray([1, 2]), 2).tolist()
    [False, True]
    """


@binary(ufunc=np.not_equal, dtypes=EVERY, scalar="x1 != x2")
def not_equal(x1: Array, x2: Array, /) -> Array:
    """Return whether each pair of elements differs.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.not_equal(ln.asarray([1, 2]), 2).tolist()
    [True, False]
    """


@binary(ufunc=np.greater, scalar="x1 > x2")
def greater(x1: Array, x2: Array, /) -> Array:
    """Return whether the first of each pair of elements is greater.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.greater(ln.asarray([1, 3]), 2).tolist()
    [False, True]
    """


@binary(ufunc=np.greater_equal, scalar="x1 >= x2")
def greater_equal(x1: Array, x2: Array, /) -> Array:
    """Return whether the first of each pair of elements is greater or equal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.greater_equal(ln.asarray([1, 2]), 2).tolist()
    [False, True]
    """


@binary(ufunc=np.less, scalar="x1 < x2")
def less(x1: Array, x2: Array, /) -> Array:
    """Return whether the first of each pair of elements is smaller.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.less(ln.asarray([1, 3]), 2).tolist()
    [True, False]
    """


@binary(ufunc=np.less_equal, scalar="x1 <= x2")
def less_equal(x1: Array, x2: Array, /) -> Array:
    """Return whether the first of each pair of elements is smaller or equal.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.less_equal(ln.asarray([1, 2]), 2).tolist()
    [True, True]
    """


# Logic


@binary(ufunc=np.logical_and, dtypes=("bool",), scalar="x1 and x2")
def logical_and(x1: Array, x2: Array, /) -> Array:
    """Return whether both elements of each pair are true.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logical_and(ln.asarray([True, False]), True).tolist()
    [True, False]
    """


@binary(ufunc=np.logical_or, dtypes=("bool",), scalar="x1 or x2")
def logical_or(x1: Array, x2: Array, /) -> Array:
    """Return whether any element of each pair is true.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logical_or(ln.asarray([True, False]), False).tolist()
    [True, False]
    """


@binary(ufunc=np.logical_xor, dtypes=("bool",), scalar="logical_xor(x1, x2)")
def logical_xor(x1: Array, x2: Array, /) -> Array:
    """Return whether exactly one element of each pair is true.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logical_xor(ln.asarray([True, False]), True).tolist()
    [False, True]
    """


@unary(ufunc=np.logical_not, dtypes=("bool",), scalar="not x")
def logical_not(x: Array, /) -> Array:
    """Return whether each element is false.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logical_not(ln.asarray([True, False])).tolist()
    [False, True]
    """


# Bits


@binary(ufunc=np.bitwise_and, dtypes=_BITS, scalar="x1 & x2")
def bitwise_and(x1: Array, x2: Array, /) -> Array:
    """Return the bits that are set in both of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_and(ln.asarray([6, 5]), 4).tolist()
    [4, 4]
    """


@binary(ufunc=np.bitwise_or, dtypes=_BITS, scalar="x1 | x2")
def bitwise_or(x1: Array, x2: Array, /) -> Array:
    """Return the bits that are set in any of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_or(ln.asarray([6, 5]), 1).tolist()
    [7, 5]
    """


@binary(ufunc=np.bitwise_xor, dtypes=_BITS, scalar="x1 ^ x2")
def bitwise_xor(x1: Array, x2: Array, /) -> Array:
    """Return the bits that are set in exactly one of each pair of elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_xor(ln.asarray([6, 5]), 4).tolist()
    [2, 1]
    """


@unary(ufunc=np.bitwise_invert, dtypes=_BITS, scalar="~x")
def bitwise_invert(x: Array, /) -> Array:
    """Return each element with all bits inverted.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_invert(ln.asarray([0, 5])).tolist()
    [-1, -6]
    """


@binary(ufunc=np.bitwise_left_shift, dtypes=INTEGERS, domain=(0.0, 3.0), scalar="x1 << x2")
def bitwise_left_shift(x1: Array, x2: Array, /) -> Array:
    """Return the bits of the first moved up by the number in the second.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_left_shift(ln.asarray([1, 3]), 2).tolist()
    [4, 12]
    """


@binary(ufunc=np.bitwise_right_shift, dtypes=INTEGERS, domain=(0.0, 3.0), scalar="x1 >> x2")
def bitwise_right_shift(x1: Array, x2: Array, /) -> Array:
    """Return the bits of the first moved down by the number in the second; the sign stays.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bitwise_right_shift(ln.asarray([4, -8]), 2).tolist()
    [1, -2]
    """


# Tests


@unary(ufunc=np.isnan, dtypes=NUMBERS, scalar="x != x")
def isnan(x: Array, /) -> Array:
    """Return whether each element is not a number.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isnan(ln.asarray([float("nan"), 1.0])).tolist()
    [True, False]
    """


@unary(ufunc=np.isinf, dtypes=NUMBERS, scalar="abs(x) == inf")
def isinf(x: Array, /) -> Array:
    """Return whether each element is infinite.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isinf(ln.asarray([float("inf"), 1.0])).tolist()
    [True, False]
    """


@unary(ufunc=np.isfinite, dtypes=NUMBERS, scalar="abs(x) < inf")
def isfinite(x: Array, /) -> Array:
    """Return whether each element is neither infinite nor NaN.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.isfinite(ln.asarray([float("inf"), 1.0])).tolist()
    [False, True]
    """
