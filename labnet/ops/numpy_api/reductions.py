"""Reductions, and cumulative sums and products."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.ops.aggregation.missing_values import nanargmax, nanargmin, nanmax, nanmin
from labnet.ops.aggregation.reduction import argmax, argmin, count_nonzero, max, mean, min, sum
from labnet.ops.aggregation.scans import cumulative_prod, cumulative_sum, diff
from labnet.ops.aggregation.statistics import median, std, var
from labnet.ops.elementwise.elementary import divide
from labnet.ops.layout.shape import (
    astype,
    broadcast_to,
    moveaxis,
    reshape,
)
from labnet.ops.numpy_api.table import FUNCTIONS, MISSING, as_tensor, kept, need, of
from labnet.ops.numpy_api.ufuncs import REDUCTIONS
from labnet.tensor import Tensor

# Reductions


def _total(ufunc: Any) -> Callable[..., Any]:
    def function(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: Any = None,
        keepdims: Any = False,
        initial: Any = MISSING,
        where: Any = True,
    ) -> Any:
        return REDUCTIONS[ufunc](a, axis, dtype, out, keepdims, initial, where)

    return function


FUNCTIONS[np.sum], FUNCTIONS[np.prod] = _total(np.add), _total(np.multiply)


def _extreme(ufunc: Any) -> Callable[..., Any]:
    def function(
        a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, initial: Any = MISSING, where: Any = True
    ) -> Any:
        return REDUCTIONS[ufunc](a, axis, None, out, keepdims, initial, where)

    return function


FUNCTIONS |= dict.fromkeys((np.max, np.amax), _extreme(np.maximum))
FUNCTIONS |= dict.fromkeys((np.min, np.amin), _extreme(np.minimum))


def _truth(ufunc: Any) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True) -> Any:
        return REDUCTIONS[ufunc](a, axis, None, out, keepdims, MISSING, where)

    return function


FUNCTIONS[np.all], FUNCTIONS[np.any] = _truth(np.logical_and), _truth(np.logical_or)


@of(np.mean)
def _mean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True
) -> Any:
    need(out is None)
    x = as_tensor(a) if dtype is None else astype(as_tensor(a), dtype)
    if where is True:
        return mean(x, axis=axis, keepdims=kept(keepdims))
    counted = broadcast_to(as_tensor(where), x.shape)
    total = FUNCTIONS[np.sum](x, axis, keepdims=keepdims, where=counted)
    return total / astype(sum(counted, axis=axis, keepdims=kept(keepdims)), total.dtype)


def _spread(op: Callable[..., Any]) -> Callable[..., Any]:
    def function(
        a: Any,
        axis: Any = None,
        dtype: Any = None,
        out: Any = None,
        ddof: float = 0,
        keepdims: Any = False,
        *,
        where: Any = True,
        mean: Any = MISSING,
        correction: Any = MISSING,
    ) -> Any:
        need(out is None and where is True and mean is MISSING)
        x = as_tensor(a) if dtype is None else astype(as_tensor(a), dtype)
        return op(x, axis=axis, keepdims=kept(keepdims), correction=ddof if correction is MISSING else correction)

    return function


FUNCTIONS[np.var], FUNCTIONS[np.std] = _spread(var), _spread(std)


@of(np.median)
def _median(a: Any, axis: Any = None, out: Any = None, overwrite_input: bool = False, keepdims: Any = False) -> Any:
    need(out is None)
    return median(as_tensor(a), axis=axis, keepdims=kept(keepdims))


@of(np.ptp)
def _ptp(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    need(out is None)
    static = {"axis": axis, "keepdims": kept(keepdims)}
    return max(as_tensor(a), **static) - min(as_tensor(a), **static)


@of(np.average)
def _average(a: Any, axis: Any = None, weights: Any = None, returned: bool = False, *, keepdims: Any = False) -> Any:
    x = as_tensor(a)
    need(not returned)
    if weights is None:
        return mean(x, axis=axis, keepdims=kept(keepdims))
    w = as_tensor(weights)
    need(w.shape == x.shape or (w.ndim == 1 and isinstance(axis, int)))
    if w.shape != x.shape:
        w = broadcast_to(moveaxis(reshape(w, (1,) * (x.ndim - 1) + (-1,)), -1, axis), x.shape)
    total, scale = (sum(y, axis=axis, keepdims=kept(keepdims)) for y in (x * w, w))
    return divide(total, scale)


def _position(op: Callable[..., Any]) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, out: Any = None, *, keepdims: Any = False) -> Any:
        need(out is None)
        return op(a, axis=axis, keepdims=kept(keepdims))

    return function


FUNCTIONS[np.argmax], FUNCTIONS[np.argmin] = _position(argmax), _position(argmin)


@of(np.count_nonzero)
def _count_nonzero(a: Any, axis: Any = None, *, keepdims: Any = False) -> Any:
    return count_nonzero(a, axis=axis, keepdims=kept(keepdims))


@of(np.nansum)
def _nansum(
    a: Any,
    axis: Any = None,
    dtype: Any = None,
    out: Any = None,
    keepdims: Any = False,
    initial: Any = MISSING,
    where: Any = True,
) -> Any:
    x = as_tensor(a)
    return FUNCTIONS[np.sum](x, axis, dtype, out, keepdims, initial, where=(x == x) & where)


@of(np.nanmean)
def _nanmean(
    a: Any, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False, *, where: Any = True
) -> Any:
    x = as_tensor(a)
    return _mean(x, axis, dtype, out, keepdims, where=(x == x) & where)


def _skipping(op: Callable[..., Any]) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        need(out is None)
        return op(as_tensor(a), axis=axis, keepdims=kept(keepdims))

    return function


FUNCTIONS[np.nanmax], FUNCTIONS[np.nanmin] = _skipping(nanmax), _skipping(nanmin)
FUNCTIONS[np.nanargmax], FUNCTIONS[np.nanargmin] = _position(nanargmax), _position(nanargmin)


# Cumulative sums and products, differences


def _running(op: Callable[..., Any]) -> Callable[..., Any]:
    def function(a: Any, axis: Any = None, dtype: Any = None, out: Any = None) -> Any:
        need(out is None)
        x = as_tensor(a)
        return op(reshape(x, (-1,)) if axis is None else x, axis=0 if axis is None else axis, dtype=dtype)

    return function


FUNCTIONS[np.cumsum], FUNCTIONS[np.cumprod] = _running(cumulative_sum), _running(cumulative_prod)


def _cumulative(op: Callable[..., Any]) -> Callable[..., Any]:
    def function(
        x: Any, /, *, axis: Any = None, dtype: Any = None, out: Any = None, include_initial: bool = False
    ) -> Any:
        need(out is None)
        return op(x, axis=axis, dtype=dtype, include_initial=include_initial)

    return function


FUNCTIONS[np.cumulative_sum] = _cumulative(cumulative_sum)
FUNCTIONS[np.cumulative_prod] = _cumulative(cumulative_prod)


@of(np.diff)
def _diff(a: Any, n: int = 1, axis: int = -1, prepend: Any = MISSING, append: Any = MISSING) -> Any:
    x = as_tensor(a)
    before, after = (None if end is MISSING else _end(as_tensor(end), x, axis) for end in (prepend, append))
    return diff(x, axis=axis, n=n, prepend=before, append=after)


def _end(end: Tensor, x: Tensor, axis: int) -> Tensor:
    """Return the values that `diff` adds at an end; one number is broadcast."""
    return end if end.ndim else broadcast_to(end, tuple(1 if i == axis % x.ndim else n for i, n in enumerate(x.shape)))
