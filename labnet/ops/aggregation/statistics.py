"""Statistics: products, variance, median and norms."""

import builtins
import math
from typing import Any

import numpy as np

from labnet import kernels
from labnet.device import CPU
from labnet.errors import DTypeError, ShapeError
from labnet.kernels.device_dispatch import is_on_gpu
from labnet.ops.aggregation.reduction import (
    EMPTY_SAMPLE,
    SAMPLES,
    Axis,
    beside,
    max,
    mean,
    min,
    of_number,
    spread,
    squares_of_array,
    sum,
)
from labnet.ops.aggregation.scans import products_before
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.core.registry import FLOATS, NUMBERS, composed, op
from labnet.ops.elementwise.arithmetic import abs, sign
from labnet.ops.elementwise.elementary import exp, is_differentiated, kept, log, where
from labnet.ops.elementwise.logic import isfinite, isnan
from labnet.ops.layout.shape import astype, moveaxis, reshape
from labnet.ops.selection.indexing import take_along_axis
from labnet.ops.selection.order_statistics import argselect
from labnet.ops.selection.rearrangement import flip
from labnet.ops.selection.sorting import sort
from labnet.tensor import DTypeLike, Tensor, as_dtype

#: Elements of a row that are multiplied side by side; the kernel refuses any other number.
_LANES = 128


def _axes(op: str, x: Tensor, axis: Axis) -> tuple[int, ...]:
    """Return the non-negative dimensions to reduce."""
    if (axis := of_number(x, axis)) is None:
        return tuple(range(x.ndim))
    axes = tuple(normalize_axis(op, a, x.shape) for a in ((axis,) if isinstance(axis, int) else axis))
    if len(set(axes)) < len(axes):
        raise ShapeError(f"{op}: a dimension of shape {x.shape} is twice in axis={axis}")
    return axes


def _gathered(x: Tensor, axes: tuple[int, ...]) -> Tensor:
    """Merge the dimensions in `axes` into one, the last."""
    last = moveaxis(x, axes, tuple(range(x.ndim - len(axes), x.ndim)))
    kept = last.shape[: x.ndim - len(axes)]
    return reshape(last, (*kept, math.prod(last.shape[len(kept) :])))


def _kept(out: Tensor, x: Tensor, axes: tuple[int, ...], keepdims: bool) -> Tensor:
    """Restore the reduced dimensions with length one if `keepdims` is set."""
    return reshape(out, tuple(1 if i in axes else n for i, n in enumerate(x.shape))) if keepdims else out


def _are_normal(products: Array) -> bool:
    """Return whether products have no factor of zero, and neither too small nor too large a size to be divided."""
    size = np.abs(products)
    return products.dtype.kind == "f" and bool(
        (size >= np.finfo(products.dtype).tiny).all() and np.isfinite(size).all()
    )


def _vjp_prod(
    g: Any, out: Any, x: Any, *, axis: Axis = None, dtype: DTypeLike | None = None, keepdims: bool = False
) -> Any:
    axes = _axes("prod", x, axis)
    if type(x) is np.ndarray and type(g) is np.ndarray and out.dtype == x.dtype and _are_normal(out):
        shape = tuple(1 if i in axes else n for i, n in enumerate(x.shape))
        slope: Any = np.divide(out.reshape(shape), x, out=np.empty_like(x))
        return np.multiply(g.reshape(shape), slope, out=slope)
    flat = _gathered(x, axes)
    others = products_before(flat) * flip(products_before(flip(flat, axis=-1)), axis=-1)
    lengths = [n for i, n in enumerate(x.shape) if i not in axes]
    apart = reshape(others, (*lengths, *(x.shape[a] for a in axes)))
    slope = moveaxis(apart, tuple(range(len(lengths), x.ndim)), axes)
    found: Tensor = spread(g, x, axis) * slope
    return (found if is_differentiated(x) else kept(found, slope != 0)).astype(x.dtype)


def _last_axes(x: Array, axis: Axis) -> int:
    """Return how many dimensions a reduction has if they are the last ones of contiguous floats, else 0."""
    if x.dtype.kind != "f" or not x.flags.c_contiguous:
        return 0
    axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    found = {a + x.ndim if a < 0 else a for a in axes}
    return len(found) if found == set(range(x.ndim - len(axes), x.ndim)) else 0


def _row_products(rows: Array) -> Array:
    """Multiply the elements of each row side by side in lanes, and these pairwise: one product waits for few others."""
    (count, length), lanes = rows.shape, _LANES
    if compiled := kernels.prod.ready(rows.dtype, rows.size):
        out = np.empty(count, rows.dtype)
        together = (rows, np.empty(lanes, rows.dtype), out)
        if compiled(together, count, length):
            return out
    whole = length - length % lanes
    parts = np.multiply.reduce(rows[:, :whole].reshape(count, -1, lanes), axis=1)
    parts[:, : length - whole] *= rows[:, whole:]
    while parts.shape[1] > 1:
        half = parts.shape[1] // 2
        parts = parts[:, :half] * parts[:, half:]
    return parts[:, 0]


@op(_vjp_prod, samples=(*SAMPLES, EMPTY_SAMPLE), dtypes=NUMBERS, wide=True, reads="out x")
def prod(x: Array, /, axis: Axis = None, *, dtype: DTypeLike | None = None, keepdims: bool = False) -> Array:
    """Return the product of the elements, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.prod(ln.asarray([[1, 2], [3, 4]]), axis=0).tolist()
    [3, 8]
    """
    last = _last_axes(x, axis) if dtype is None and type(x) is np.ndarray and x.size >= 2 * _LANES else 0
    if last and (length := math.prod(x.shape[-last:])) >= 2 * _LANES:
        return _row_products(x.reshape(-1, length)).reshape(x.shape[:-last] + (1,) * (last if keepdims else 0))
    return np.prod(x, axis=axis, dtype=None if dtype is None else as_dtype(dtype), keepdims=keepdims)


def _centred(x: Tensor, axis: Axis) -> Tensor:
    return x - mean(x, axis=axis, keepdims=True)


def _pull_var(
    g: Tensor, out: Tensor, x: Tensor, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    count = x.size // (out.size or 1)
    factor = 2 / builtins.max(count - correction, 0) if count > correction else math.nan
    return beside(g, x, axis) * _centred(x, axis) * factor


#: Elements for which the calls take longer than the computation.
_SMALL = 4096
_SPREADS = (*SAMPLES[:-1], Sample(((3, 4),), {"axis": -1, "correction": 1}))


@op(_pull_var, samples=_SPREADS, dtypes=FLOATS, wide=True, reads="x")
def var(x: Array, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Return the mean squared distance from the mean, over all dimensions or those in `axis`.

    Parameters
    ----------
    x : tensor
    axis : int, tuple of int or None
    correction : number
        Subtracted from the number of elements in the divisor; 1 for the unbiased estimate.
    keepdims : bool

    Examples
    --------
    >>> import labnet as ln
    >>> ln.var(ln.asarray([1.0, 3.0])).item()
    1.0
    """
    return _variance(x, of_number(x, axis), correction, keepdims)


def _variance(x: Array, axis: Axis, correction: float, keepdims: bool) -> Array:
    """Return NumPy's variance; of small arrays in less time, by the same operations."""
    count = 0
    if type(x) is np.ndarray and x.dtype.char in "fd" and x.size <= _SMALL:
        if axis is None:
            count = x.size
        elif type(axis) is int and x.ndim == 2 and -2 <= axis < 2:
            count = x.shape[axis]
    if not count or count <= correction:
        return np.var(x, axis=axis, ddof=correction, keepdims=keepdims)
    distance = x - np.add.reduce(x, axis, keepdims=True) / x.dtype.type(count)
    distance *= distance
    total: Array = np.add.reduce(distance, axis, keepdims=True) if keepdims else np.add.reduce(distance, axis)
    return total / x.dtype.type(count - correction)


def _pull_std(
    g: Tensor, out: Tensor, x: Tensor, *, axis: Axis = None, correction: float = 0.0, keepdims: bool = False
) -> Tensor:
    at_zero = out == 0  # all elements equal: not differentiable, 0 is a subgradient
    chosen: Any = where if isinstance(g, Tensor) or isinstance(out, Tensor) else np.where
    scaled = chosen(at_zero, 0, g / chosen(at_zero, 1, 2 * out))
    return _pull_var(scaled, out, x, axis=axis, correction=correction, keepdims=keepdims)


@op(_pull_std, samples=_SPREADS, dtypes=FLOATS, wide=True, reads="out x")
def std(x: Array, /, axis: Axis = None, correction: float = 0.0, keepdims: bool = False) -> Array:
    """Return the square root of `var`: the standard deviation, over all dimensions or those in `axis`.

    Parameters
    ----------
    x : tensor
    axis : int, tuple of int or None
    correction : number
        Subtracted from the number of elements in the divisor; 1 for the unbiased estimate of the variance.
    keepdims : bool

    Examples
    --------
    >>> import labnet as ln
    >>> ln.std(ln.asarray([1.0, 3.0])).item()
    1.0
    """
    if type(x) is np.ndarray and x.size <= _SMALL:
        return np.sqrt(_variance(x, of_number(x, axis), correction, keepdims))
    return np.std(x, axis=of_number(x, axis), ddof=correction, keepdims=keepdims)


@composed(samples=(*SAMPLES, Sample(((5,),))), dtypes=FLOATS)
def median(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the median of the elements, the mean of the middle two for an even number; NaN if any is NaN.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.median(ln.asarray([3.0, 1.0, 2.0, 10.0])).item()
    2.5
    """
    axes = _axes("median", x, axis)
    flat = _gathered(x, axes)
    count = flat.shape[-1]
    middle = builtins.max(count - 1, 0) // 2, count // 2 + 1
    if count and current_tracer() is None and flat.device == CPU:
        values = take_along_axis(flat, argselect(flat, *middle))
        greatest = take_along_axis(flat, argselect(flat, count - 1, count))
    else:  # one sort is compiled, and computed on a GPU, faster than two selections
        ordered = sort(flat)
        values, greatest = ordered[..., slice(*middle)], ordered[..., count - 1 :]
    out = mean(values, axis=-1)
    if count:  # NaN is sorted last
        out = where(isnan(greatest[..., 0]), greatest[..., 0], out)
    return _kept(out, x, axes, keepdims)


@op(
    lambda g, out, x: x * (g * 2),
    samples=(Sample(((3, 4),)), Sample(((),)), Sample(((0, 3),))),
    dtypes=FLOATS,
    wide=True,
    public=False,
    reads="x",
)
def sum_of_squares(x: Array, /) -> Array:
    """Return the sum of the squares of all elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.sum_of_squares(ln.asarray([3.0, 4.0])).item()
    25.0
    """
    return np.sum(x * x) if is_on_gpu(x) or x.dtype.kind != "f" else squares_of_array(x)


@composed(
    samples=(
        *SAMPLES,
        *(Sample(((3, 4),), {"axis": 1, "ord": ord}) for ord in (0, 1, 2, 3, math.inf, -math.inf)),
    ),
    dtypes=FLOATS,
)
def vector_norm(x: Tensor, /, *, axis: Axis = None, keepdims: bool = False, ord: float = 2) -> Tensor:
    """Return the length of vectors, over all dimensions or those in `axis`.

    Parameters
    ----------
    x : tensor
    axis : int, tuple of int or None
    keepdims : bool
    ord : number
        ``sum(abs(x)**ord)**(1/ord)``; ``inf`` for the greatest, ``-inf`` for the smallest magnitude, 0 for
        the number of elements that are not zero.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.vector_norm(ln.asarray([3.0, 4.0])).item()
    5.0
    """
    if x.dtype.kind != "f":
        raise DTypeError(f"vector_norm: expected a floating dtype, got {x.dtype}; convert it with astype")
    if x.dtype == HALF:
        return astype(vector_norm(astype(x, SINGLE), axis=axis, keepdims=keepdims, ord=ord), HALF)
    size = x if ord == 2 else abs(x)
    if ord == math.inf:
        return max(size, axis=axis, keepdims=keepdims)
    if ord == -math.inf:
        return min(size, axis=axis, keepdims=keepdims)
    if ord == 0:
        return sum(where(isnan(size), 1, sign(size)), axis=axis, keepdims=keepdims)
    if ord == 1:
        return sum(size, axis=axis, keepdims=keepdims)
    if ord == 2 and axis is None and not keepdims:
        total = sum_of_squares(x)
    else:
        total = sum(x * x if ord == 2 else size**ord, axis=axis, keepdims=keepdims)
    flat = total == 0  # not differentiable at zero, 0 is a subgradient
    return where(flat, 0, where(flat, 1, total) ** (1 / ord)) if ord > 0 else total ** (1 / ord)


@composed(samples=SAMPLES, dtypes=FLOATS)
def logsumexp(x: Tensor, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Return the logarithm of the sum of exponentials, over all dimensions or those in `axis`, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logsumexp(ln.asarray([1000.0, 1000.0]), axis=0).item()
    1000.6931762695312
    """
    x = in_floats(x)
    greatest = max(x, axis=axis, keepdims=True).detach()
    shift = where(isfinite(greatest), greatest, 0)
    out = log(sum(exp(x - shift), axis=axis, keepdims=True)) + shift
    return out if keepdims else reshape(out, sum(shift, axis=axis).shape)
