"""Reductions over dimensions."""

from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np

from labnet import kernels
from labnet.kernels.exponential import exponential
from labnet.kernels.total import total
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.core.registry import EVERY, FLOATS, NUMBERS, op
from labnet.ops.elementwise.elementary import exp, kept
from labnet.ops.layout.shape import broadcast_to
from labnet.tensor import DTypeLike, Tensor, as_dtype

Axis = int | tuple[int, ...] | None
A = TypeVar("A")

SAMPLES = (
    Sample(((3, 4),)),
    Sample(((3, 4),), {"axis": 0}),
    Sample(((2, 3, 4),), {"axis": (-1, 0)}),
    Sample(((3, 4),), {"axis": -1, "keepdims": True}),
    Sample(((),)),
)
#: What `np.sum` and `np.mean` call, without their overhead.
_sum: Any = np.add.reduce
EMPTY_SAMPLE = Sample(((0, 3),), {"axis": 0})


def _kept(shape: tuple[int, ...], axis: Axis) -> tuple[int, ...]:
    """Return the shape after a reduction over `axis` that keeps the reduced dimensions."""
    axes = range(len(shape)) if axis is None else (axis,) if isinstance(axis, int) else axis
    reduced = {a % len(shape) for a in axes} if shape else set()
    return tuple(1 if i in reduced else length for i, length in enumerate(shape))


def of_number(x: Array, axis: A) -> A | None:
    """Accept axis 0 and -1 for 0-d arrays, in reductions where NumPy does not."""
    return None if axis in (0, -1) and not x.ndim else axis


def beside(g: Tensor, x: Tensor, axis: Axis) -> Tensor:
    """Return a reduction of `x` over `axis` with length one for the reduced dimensions."""
    return g.reshape(_kept(x.shape, axis))


def spread(g: Tensor, x: Tensor, axis: Axis) -> Tensor:
    """Broadcast a reduction over `axis` back to the shape of `x`."""
    if axis is None and isinstance(g, np.ndarray):
        return np.full(x.shape, g.reshape(()), g.dtype)
    return broadcast_to(beside(g, x, axis), x.shape)


def _pull_sum(g: Any, out: Any, x: Any, *, axis: Axis = None, dtype: Any = None, keepdims: bool = False) -> Any:
    found = spread(g, x, axis)
    is_new = axis is None and isinstance(g, np.ndarray) and found.dtype == x.dtype
    return found if is_new else found.astype(x.dtype)


@op(
    _pull_sum,
    samples=(*SAMPLES, EMPTY_SAMPLE),
    dtypes=NUMBERS,
    reads="",
)
def sum(x: Array, /, axis: Axis = None, *, dtype: DTypeLike | None = None, keepdims: bool = False) -> Array:
    """Return the sum of the elements, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.sum(ln.asarray([[1, 2], [3, 4]]), axis=0).tolist()
    [4, 6]
    """
    if dtype is None and x.dtype is HALF:
        return np.sum(x, axis=axis, dtype=SINGLE, keepdims=keepdims).astype(HALF)
    if x.size >= _LARGE and dtype is None and (found := _sums_in_kernel(x, axis, keepdims)) is not None:
        return found
    wanted = None if dtype is None else as_dtype(dtype)
    if type(x) is np.ndarray:
        return _sum(x, axis, wanted, keepdims=keepdims)
    return np.sum(x, axis=axis, dtype=wanted, keepdims=keepdims)


@op(
    lambda g, out, x, *, axis=None, keepdims=False: spread(g, x, axis) / (x.size // (out.size or 1)),
    samples=SAMPLES,
    dtypes=FLOATS,
    reads="",
)
def mean(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Return the arithmetic mean of the elements, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.mean(ln.asarray([[1.0, 2.0], [3.0, 4.0]]), axis=-1).tolist()
    [1.5, 3.5]
    """
    if axis is None and not keepdims:
        return mean_of_array(x)
    along = of_number(x, axis)
    if type(x) is np.ndarray and 0 < x.size <= _COUNTED and x.dtype.char in "fd":
        total = _sum(x, along, keepdims=keepdims)
        return total / x.dtype.type(x.size // total.size)
    return np.mean(x, axis=along, keepdims=keepdims)


#: Elements whose number is exact in float32.
_COUNTED = 1 << 24
#: Elements from which a kernel sums faster than NumPy.
_LARGE = 4096
#: Columns from which a kernel adds rows faster than NumPy; of a single one, NumPy adds in another order.
_COLUMNS = 8
#: Elements per inner product: few enough for BLAS to take one thread, and for float32 to stay exact.
_BLOCK = 4096


def squares_of_array(x: Array) -> Array:
    """Return the sum of the squares of all elements, by inner products of blocks.

    Examples
    --------
    >>> squares_of_array(np.asarray([3.0, 4.0]))
    np.float64(25.0)
    """
    flat = x.reshape(-1)
    whole = flat.size - flat.size % _BLOCK
    blocks, rest = flat[:whole].reshape(-1, _BLOCK), flat[whole:]
    last = np.dot(rest, rest)
    return np.add.reduce(np.vecdot(blocks, blocks)) + last if whole else last


def _sums_in_kernel(x: Array, axis: Axis, keepdims: bool) -> Array | None:
    """Return the sum of all elements, or along the first or last dimension, as NumPy adds; None without a kernel."""
    if axis is not None and not (isinstance(axis, int) and is_last(axis, x)):
        return _sums_of_columns(x, keepdims) if axis in (0, (0,)) else None
    shape = _kept(x.shape, axis) if keepdims else () if axis is None else x.shape[:-1]
    if axis is None and (number := total(x, kernels.row_sums.compiled)) is not None:
        return number.reshape(shape)
    found: Array | None = kernels.row_sums.compute(shape, x, numbers=(x.size if axis is None else x.shape[-1],))
    return found


def _sums_of_columns(x: Array, keepdims: bool) -> Array | None:
    """Return the sum along the first dimension of several; None without a kernel."""
    rows, columns = len(x), x.size // len(x)
    if columns < _COLUMNS or x.size < 2 * _LARGE:
        return None
    shape = (1, *x.shape[1:]) if keepdims else x.shape[1:]
    found: Array | None = kernels.column_sums.compute(shape, x, numbers=(rows, columns, 0, columns))
    return found


def mean_of_array(x: Array) -> Array:
    """Return the mean of all elements as `np.mean`, without its overhead if possible."""
    if x.size >= _LARGE and (found := _sums_in_kernel(x, None, keepdims=False)) is not None:
        return found / x.dtype.type(x.size)
    if x.size and x.dtype.char in "fd":
        return np.add.reduce(x, axis=None) / x.dtype.type(x.size)
    return np.mean(x)


def _vjp_extreme(g: Any, out: Any, x: Any, *, axis: Axis = None, keepdims: bool = False) -> Any:
    """Divide the gradient equally among the extreme elements of each group, or its NaNs."""
    kept_shape = _kept(x.shape, axis)
    hits = (x == out.reshape(kept_shape)) | (x != x)
    return kept(g.reshape(kept_shape) / sum(hits.astype(x.dtype), axis=axis, keepdims=True), hits)


@op(
    _vjp_extreme,
    samples=SAMPLES,
    dtypes=NUMBERS,
    reads="out x",
)
def max(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Return the greatest element, over all dimensions or those in `axis`; equal ones share the gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.max(ln.asarray([[1, 2], [4, 3]]), axis=1).tolist()
    [2, 4]
    """
    return np.max(x, axis=axis, keepdims=keepdims)


@op(
    _vjp_extreme,
    samples=SAMPLES,
    dtypes=NUMBERS,
    reads="out x",
)
def min(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Return the smallest element, over all dimensions or those in `axis`; equal ones share the gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.min(ln.asarray([[1, 2], [4, 3]]), axis=1).tolist()
    [1, 3]
    """
    return np.min(x, axis=axis, keepdims=keepdims)


_PLACES = (Sample(((3, 4),)), Sample(((3, 4),), {"axis": -1}), Sample(((3, 4),), {"axis": 0, "keepdims": True}))


@op(samples=_PLACES)
def argmax(x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Return the position of the greatest element along `axis`, or in the flattened tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.argmax(ln.asarray([[1, 2], [4, 3]]), axis=1).tolist()
    [1, 0]
    """
    return np.argmax(x, axis=axis, keepdims=keepdims)


@op(samples=_PLACES)
def argmin(x: Array, /, axis: int | None = None, *, keepdims: bool = False) -> Array:
    """Return the position of the smallest element along `axis`, or in the flattened tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.argmin(ln.asarray([[1, 2], [4, 3]]), axis=1).tolist()
    [0, 1]
    """
    return np.argmin(x, axis=axis, keepdims=keepdims)


@op(samples=(*SAMPLES, EMPTY_SAMPLE), dtypes=EVERY)
def all(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Return whether all elements are true, or not zero, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.all(ln.asarray([[True, False], [True, True]]), axis=1).tolist()
    [False, True]
    """
    return np.all(x, axis=axis, keepdims=keepdims)


@op(samples=(*SAMPLES, EMPTY_SAMPLE), dtypes=EVERY)
def any(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Return whether any element is true, or not zero, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.any(ln.asarray([[True, False], [False, False]]), axis=1).tolist()
    [True, False]
    """
    return np.any(x, axis=axis, keepdims=keepdims)


@op(samples=(*SAMPLES, EMPTY_SAMPLE), dtypes=EVERY)
def count_nonzero(x: Array, /, axis: Axis = None, *, keepdims: bool = False) -> Array:
    """Count the elements that are not zero, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.count_nonzero(ln.asarray([[0, 1], [2, 3]]), axis=1).tolist()
    [1, 2]
    """
    return np.count_nonzero(x, axis=axis, keepdims=keepdims)


def greatest(x: Array, axis: int) -> Array:
    """Return the maximum to subtract before exponentials, so that none overflows; 0 without elements."""
    return (np.max if x.size else np.sum)(x, axis=axis, keepdims=True)


def is_last(axis: int, x: Any) -> bool:
    """Return whether an axis is the last one, along which there are kernels."""
    return axis in (-1, x.ndim - 1)


def negative_exp(axis: int, *arrays: Any) -> Callable[[Any], Any]:
    """Return the exponential that kernels of rows compute, of numbers up to 0, or NumPy's for what none computes."""
    for x in arrays:
        if type(x) is not np.ndarray or x.dtype != SINGLE:
            return np.exp
        if not (x.flags.c_contiguous and x.flags.aligned and is_last(axis, x)):
            return np.exp
    return exponential


def _pull_log_softmax(g: Any, out: Any, x: Any, *, axis: int = -1) -> Any:
    if is_last(axis, x) and (found := kernels.softmax_backward.compute(x.shape, g, out, numbers=(1,))) is not None:
        return found
    power = negative_exp(axis, out, g)
    return g - (exp if power is np.exp else power)(out) * sum(g, axis=axis, keepdims=True)


@op(
    _pull_log_softmax,
    samples=(Sample(((3, 4),)), Sample(((3, 4),), {"axis": 0})),
    dtypes=FLOATS,
    wide=True,
    public=False,
    reads="out",
)
def log_softmax(x: Array, /, axis: int = -1) -> Array:
    """Return the logarithm of softmax along `axis`, computed without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.log_softmax(ln.asarray([1000.0, 1000.0])).tolist()
    [-0.6931471824645996, -0.6931471824645996]
    """
    if is_last(axis, x) and (found := kernels.softmax.compute(x.shape, x, numbers=(1,))) is not None:
        return found
    x, power = in_floats(x), negative_exp(axis, x)
    shifted = x - greatest(x, axis)
    if not x.size:
        return np.exp(shifted)
    return shifted - np.log(np.sum(power(shifted), axis=axis, keepdims=True))
