"""Elementwise functions, creation of tensors, and inspection."""

import math
import operator
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.ops.aggregation.reduction import sum
from labnet.ops.core.creation import empty_like, full_like, ones_like, zeros_like
from labnet.ops.elementwise.arithmetic import clip, trunc
from labnet.ops.elementwise.arithmetic import round as rounded
from labnet.ops.elementwise.elementary import where
from labnet.ops.elementwise.formulas import nan_to_num
from labnet.ops.layout.shape import (
    astype,
    broadcast_to,
)
from labnet.ops.numpy_api.table import FUNCTIONS, MISSING, as_tensor, need, of
from labnet.ops.selection.sorting import (
    nonzero,
)
from labnet.tensor import Tensor

# Element by element


@of(np.clip)
def _clip(a: Any, a_min: Any = MISSING, a_max: Any = MISSING, out: Any = None, **named: Any) -> Any:
    need(out is None and not named.keys() - {"min", "max"})
    low, high = named.get("min", a_min), named.get("max", a_max)
    return clip(a, None if low is MISSING else low, None if high is MISSING else high)


@of(np.round, np.around)
def _round(a: Any, decimals: int = 0, out: Any = None) -> Any:
    x = as_tensor(a)
    need(out is None and (not decimals or x.dtype.kind == "f"))
    if decimals < 0:
        return rounded(x / 10**-decimals) * 10**-decimals
    return rounded(x * 10**decimals) / 10**decimals if decimals else rounded(x)


@of(np.where)
def _where_of(condition: Any, x: Any = MISSING, y: Any = MISSING, /) -> Any:
    if x is MISSING and y is MISSING:
        return nonzero(condition)
    return where(condition, x, y)


_where = where


@of(np.select)
def _select(condlist: Sequence[Any], choicelist: Sequence[Any], default: Any = 0) -> Any:
    need(len(condlist) == len(choicelist) > 0)
    out = default
    for condition, choice in zip(reversed(condlist), reversed(choicelist), strict=True):
        out = where(condition, choice, out)
    return out


@of(np.nan_to_num)
def _nan_to_num(x: Any, copy: bool = True, nan: float = 0.0, posinf: Any = None, neginf: Any = None) -> Any:
    y = as_tensor(x)
    need(copy)
    return nan_to_num(y, nan, posinf, neginf) if y.dtype.kind == "f" else +y


@of(np.fix)
def _fix(x: Any, out: Any = None) -> Any:
    need(out is None)
    return trunc(x)


FUNCTIONS[np.real] = as_tensor
FUNCTIONS[np.imag] = lambda val: zeros_like(as_tensor(val))


@of(np.astype)
def _astype(x: Any, dtype: Any, /, *, copy: bool = True, device: Any = None) -> Any:
    return astype(x, dtype, copy=copy)


@of(np.copy)
def _copy(a: Any, order: str = "K", subok: bool = False) -> Any:
    return +as_tensor(a)


# Creation


def _like(create: Callable[..., Any]) -> Callable[..., Any]:
    def function(
        a: Any, dtype: Any = None, order: str = "K", subok: bool = True, shape: Any = None, *, device: Any = None
    ) -> Any:
        x = as_tensor(a)
        if shape is None:
            return create(x, dtype=dtype)
        return create(
            broadcast_to(zeros_like(x[(0,) * x.ndim] if x.size else sum(x)), _shape(shape)), dtype=dtype or x.dtype
        )

    return function


def _shape(shape: Any) -> tuple[int, ...]:
    return (operator.index(shape),) if not isinstance(shape, list | tuple) else tuple(shape)


FUNCTIONS[np.zeros_like], FUNCTIONS[np.ones_like] = _like(zeros_like), _like(ones_like)
FUNCTIONS[np.empty_like] = _like(empty_like)


@of(np.full_like)
def _full_like(
    a: Any,
    fill_value: Any,
    dtype: Any = None,
    order: str = "K",
    subok: bool = True,
    shape: Any = None,
    *,
    device: Any = None,
) -> Any:
    return _like(lambda x, dtype: full_like(x, fill_value, dtype=dtype))(a, dtype, shape=shape)


# Inspection

FUNCTIONS[np.shape] = lambda a: a.shape
FUNCTIONS[np.ndim] = lambda a: a.ndim


@of(np.size)
def _size(a: Any, axis: Any = None) -> int:
    axes = range(a.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
    return math.prod(a.shape[i] for i in axes)


FUNCTIONS[np.iscomplexobj], FUNCTIONS[np.isrealobj] = lambda x: False, lambda x: True
FUNCTIONS[np.result_type] = lambda *given: np.result_type(*(x.dtype if isinstance(x, Tensor) else x for x in given))
