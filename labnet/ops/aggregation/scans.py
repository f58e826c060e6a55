"""Scans: ops in which each element depends on those before it."""

import math
from typing import Any

import numpy as np

from labnet import kernels
from labnet.errors import ShapeError
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.creation import zeros
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import NUMBERS, composed, op
from labnet.ops.elementwise.elementary import kept, subtract
from labnet.ops.elementwise.logic import isfinite, logical_or, not_equal
from labnet.ops.layout.joining import concat
from labnet.ops.layout.shape import moveaxis, reshape
from labnet.ops.selection.rearrangement import flip
from labnet.tensor import DTypeLike, Tensor, as_dtype

_SAMPLES = (
    Sample(((5,),)),
    Sample(((3, 4),), {"axis": -1}),
    Sample(((3, 4),), {"axis": 0, "include_initial": True}),
    Sample(((0,),)),
)


def _along(x: Array, axis: int | None) -> int:
    if axis is None and x.ndim != 1:
        raise ValueError("a tensor that is not one-dimensional needs axis=")
    return 0 if axis is None else axis


def _accumulated(ufunc: np.ufunc, x: Array, axis: int, *, is_reversed: bool = False) -> Array:
    """Accumulate a sum or product along a dimension of an array of NumPy, also from its end."""
    if -x.ndim <= axis < x.ndim and (compiled := kernels.scan.ready(x.dtype, x.size)):
        shape, along, rows, out = x.shape, axis % x.ndim, np.ascontiguousarray(x), np.empty(x.shape, x.dtype)
        together = (rows, out)
        sizes = math.prod(shape[:along]), shape[along], math.prod(shape[along + 1 :])
        if compiled(together, *sizes, int(ufunc is np.multiply), int(is_reversed)):
            return out
    found = np.flip(ufunc.accumulate(np.flip(x, axis), axis), axis) if is_reversed else ufunc.accumulate(x, axis)
    return np.ascontiguousarray(found)  # as the kernel's result


def _initial(out: Array, axis: int, value: int) -> Array:
    shape = list(out.shape)
    shape[axis] = 1
    return np.concatenate([np.full(shape, value, out.dtype, like=out), out], axis)


def _from_end(x: Any, axis: int) -> Any:
    if type(x) is np.ndarray:
        return _accumulated(np.add, x, axis, is_reversed=True)
    return flip(cumulative_sum(flip(x, axis=axis), axis=axis), axis=axis)


def _without_initial(g: Tensor, axis: int, include_initial: bool) -> Tensor:
    return g[(slice(None),) * (axis % g.ndim) + (slice(1, None),)] if include_initial else g


def _pull_sum(
    g: Tensor,
    out: Tensor,
    x: Tensor,
    *,
    axis: int | None = None,
    dtype: DTypeLike | None = None,
    include_initial: bool = False,
) -> Tensor:
    along = _along(x, axis)
    found = reshape(_from_end(_without_initial(g, along, include_initial), along), x.shape)
    return found if found.dtype == x.dtype else found.astype(x.dtype)


@op(_pull_sum, samples=_SAMPLES, wide=True, reads="")
def cumulative_sum(
    x: Array, /, axis: int | None = None, *, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Array:
    """Add up the elements along `axis`, up to each one.

    Parameters
    ----------
    x : tensor
    axis : int, optional
        Optional for one dimension. A 0-d tensor counts as a tensor of one element.
    dtype : dtype, optional
        dtype of the result; small integers become int64 or uint64 otherwise.
    include_initial : bool
        Prepend a 0 to the result.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cumulative_sum(ln.asarray([1, 2, 3])).tolist()
    [1, 3, 6]
    """
    along = _along(x, axis)
    if dtype is None and type(x) is np.ndarray and x.dtype.kind == "f" and x.ndim:
        out = _accumulated(np.add, x, along)
    else:
        out = np.cumsum(x, axis=along, dtype=None if dtype is None else as_dtype(dtype))
    return _initial(out, along, 0) if include_initial else out


def products_before(x: Tensor) -> Tensor:
    """Return the exclusive cumulative product along the last dimension."""
    return cumulative_prod(x, axis=-1, include_initial=True)[..., :-1]


def _later(x: Tensor, places: int) -> Tensor:
    """Shift the elements towards the front along the last dimension, filling with zeros."""
    rest = x[..., places:]
    nothing = zeros((*x.shape[:-1], x.shape[-1] - rest.shape[-1]), dtype=x.dtype, device=x.device)
    return concat([rest, nothing], axis=-1)


def _scaled(slope: Tensor, factor: Tensor) -> Tensor:
    """Multiply, with 0 for a factor of zero even beside infinity or NaN."""
    found: Tensor = kept(slope, logical_or(factor != 0, isfinite(slope))) * factor
    return found


def _are_divisible(products: Array, factors: Array) -> bool:
    """Return whether there are finite products only, and no factor is zero."""
    return bool(factors.size and factors.all() and np.isfinite(products.max()) and np.isfinite(products.min()))


def _vjp_prod(
    g: Any,
    out: Any,
    x: Any,
    *,
    axis: int | None = None,
    dtype: DTypeLike | None = None,
    include_initial: bool = False,
) -> Any:
    """Compute the vjp without a division, so that zeros need no special case; arrays without zeros are divided.

    The derivative at i is the product before i times s[i] = g[i] + x[i+1] * s[i+1]; this recurrence is solved in a
    logarithmic number of steps (Hillis and Steele, "Data parallel algorithms", 1986).
    """
    along = _along(x, axis)
    is_plain = type(x) is np.ndarray and type(g) is np.ndarray and x.ndim > 0 and not include_initial
    if is_plain and out.dtype == x.dtype and _are_divisible(out, x):
        totals: Array = _from_end(g * out, along)
        return np.divide(totals, x, out=totals)
    values = moveaxis(x if x.ndim else reshape(x, (1,)), along, -1).astype(out.dtype)
    slope = moveaxis(_without_initial(g, along, include_initial), along, -1)
    factor, places = _later(values, 1), 1
    while places < values.shape[-1]:
        slope = slope + _scaled(_later(slope, places), factor)
        factor = factor * _later(factor, places)
        places *= 2
    return reshape(moveaxis(_scaled(slope, products_before(values)), -1, along), x.shape).astype(x.dtype)


@op(_vjp_prod, samples=_SAMPLES, wide=True, reads="out x")
def cumulative_prod(
    x: Array, /, axis: int | None = None, *, dtype: DTypeLike | None = None, include_initial: bool = False
) -> Array:
    """Multiply the elements along `axis`, up to each one; the parameters are those of `cumulative_sum`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cumulative_prod(ln.asarray([1, 2, 3, 4])).tolist()
    [1, 2, 6, 24]
    """
    along = _along(x, axis)
    if dtype is None and type(x) is np.ndarray and x.dtype.kind == "f" and x.ndim:
        out = _accumulated(np.multiply, x, along)
    else:
        out = np.cumprod(x, axis=along, dtype=None if dtype is None else as_dtype(dtype))
    return _initial(out, along, 1) if include_initial else out


@composed(
    samples=(
        Sample(((5,),)),
        Sample(((3, 4),), {"axis": 0, "n": 2}),
        Sample(((3, 4),), {"n": 0}),
        Sample(((3, 1),), {"n": 3}),
    ),
    dtypes=("bool", *NUMBERS),
)
def diff(
    x: Tensor, /, *, axis: int = -1, n: int = 1, prepend: Tensor | None = None, append: Tensor | None = None
) -> Tensor:
    """Return the differences of neighbours along `axis`, taken `n` times.

    Parameters
    ----------
    x : tensor
        For bools, the result says whether neighbours differ.
    axis, n : int
    prepend, append : tensor, optional
        Values to prepend and append to `x` first, unless `n` is 0.

    Raises
    ------
    AxisError, ShapeError
        If there is no such dimension, or `n` is negative.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.diff(ln.asarray([1, 4, 9])).tolist()
    [3, 5]
    """
    before = (slice(None),) * normalize_axis("diff", axis, x.shape)
    if n < 0:
        raise ShapeError(f"diff: n must not be negative, got {n}")
    if not n:
        return x
    parts = [part for part in (prepend, x, append) if part is not None]
    out = concat(parts, axis=axis) if len(parts) > 1 else x
    for _ in range(n):
        later, earlier = out[(*before, slice(1, None))], out[(*before, slice(None, -1))]
        out = not_equal(later, earlier) if out.dtype.kind == "b" else subtract(later, earlier)
    return out
