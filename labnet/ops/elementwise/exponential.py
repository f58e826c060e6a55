"""Exponentials and logarithms to other bases or near zero, and the error function."""

import math

import numpy as np

from labnet.kernels import exponential, logarithm
from labnet.ops.core.declaration import Array
from labnet.ops.core.registry import FLOATS
from labnet.ops.elementwise.elementary import binary, sigmoid, unary, where
from labnet.ops.elementwise.error_function import erf_of_array
from labnet.ops.elementwise.logic import isinf
from labnet.tensor import Tensor


@unary(lambda g, out, x: g * (out + 1), ufunc=np.expm1, scalar="math.expm1(x)", elementwise=True, reads="out")
def expm1(x: Array, /) -> Array:
    """Return ``exp(x) - 1`` for each element, accurate near zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.expm1(ln.asarray([0.0])).tolist()
    [0.0]
    """
    return exponential.expm1(x)


@unary(
    lambda g, out, x: g / (1 + x),
    ufunc=np.log1p,
    domain=(-0.5, 2.0),
    scalar="math.log1p(x)",
    elementwise=True,
    reads="x",
)
def log1p(x: Array, /) -> Array:
    """Return ``log(1 + x)`` for each element, accurate near zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log1p(ln.asarray([0.0])).tolist()
    [0.0]
    """
    return logarithm.log1p(x)


@unary(lambda g, out, x: g / (x * math.log(2)), ufunc=np.log2, domain=(0.5, 3.0), scalar="math.log2(x)", reads="x")
def log2(x: Array, /) -> Array:
    """Return the logarithm to base 2 of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log2(ln.asarray([8.0])).tolist()
    [3.0]
    """


@unary(lambda g, out, x: g / (x * math.log(10)), ufunc=np.log10, domain=(0.5, 3.0), scalar="math.log10(x)", reads="x")
def log10(x: Array, /) -> Array:
    """Return the logarithm to base 10 of each element.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.log10(ln.asarray([1.0])).tolist()
    [0.0]
    """


def _weight(x1: Tensor, x2: Tensor) -> Tensor:
    """Return the share of `x1` in the sum of exponentials, also where both are the same infinity."""
    return sigmoid(where((x1 == x2) & isinf(x1), 0, x1 - x2))


@binary(
    lambda g, out, x1, x2: g * _weight(x1, x2),
    lambda g, out, x1, x2: g * _weight(x2, x1),
    ufunc=np.logaddexp,
    dtypes=FLOATS,
    scalar="x1 + 0.6931471805599453 if x1 == x2 else maximum(x1, x2) + log1p(exp(-abs(x1 - x2)))",
    reads="x1 x2",
)
def logaddexp(x1: Array, x2: Array, /) -> Array:
    """Return ``log(exp(x1) + exp(x2))`` for each pair of elements, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logaddexp(ln.asarray([0.0], dtype="float64"), -1000.0).tolist()
    [0.0]
    """


@unary(
    lambda g, out, x: g * (2 / math.sqrt(math.pi)) * exponential.exponential(-x * x), scalar="math.erf(x)", reads="x"
)
def erf(x: Array, /) -> Array:
    """Return the error function of each element, to the precision of its dtype.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.erf(ln.asarray([0.0, 10.0])).tolist()
    [0.0, 1.0]
    """
    return erf_of_array(x if x.dtype.kind == "f" else x.astype(np.float64))
