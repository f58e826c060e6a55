"""Functions that change shapes, and join or split tensors."""

import builtins
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from labnet.ops.layout.joining import broadcast_arrays, concat, meshgrid, stack, unstack
from labnet.ops.layout.shape import (
    astype,
    broadcast_to,
    expand_dims,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    squeeze,
)
from labnet.ops.methods import pad
from labnet.ops.numpy_api.table import FUNCTIONS, as_tensor, need, of
from labnet.ops.selection.rearrangement import flip, repeat, roll, tile, tril, triu
from labnet.tensor import Tensor

# Shapes


@of(np.reshape)
def _reshape(a: Any, /, shape: Any, order: str = "C", *, copy: bool | None = None) -> Any:
    need(order in ("C", "F"))
    if order == "C":
        return reshape(a, shape, copy=copy)
    turned = (shape,) if isinstance(shape, int) else tuple(shape)[::-1]
    return _transpose(reshape(_transpose(a), turned, copy=copy))


@of(np.ravel)
def _ravel(a: Any, order: str = "C") -> Any:
    need(order in ("C", "F"))
    return reshape(a if order == "C" else _transpose(a), (-1,))


@of(np.transpose)
def _transpose(a: Any, axes: Any = None) -> Any:
    x = as_tensor(a)
    return permute_dims(x, tuple(range(x.ndim))[::-1] if axes is None else axes)


@of(np.swapaxes)
def _swapaxes(a: Any, axis1: int, axis2: int) -> Any:
    x = as_tensor(a)
    order = list(range(x.ndim))
    order[axis1], order[axis2] = order[axis2], order[axis1]
    return permute_dims(x, order)


@of(np.moveaxis)
def _moveaxis(a: Any, source: Any, destination: Any) -> Any:
    return moveaxis(a, source, destination)


@of(np.expand_dims)
def _expand_dims(a: Any, axis: Any) -> Any:
    return expand_dims(a, axis)


@of(np.squeeze)
def _squeeze(a: Any, axis: Any = None) -> Any:
    return squeeze(a, axis)


@of(np.broadcast_to)
def _broadcast_to(array: Any, shape: Any, subok: bool = False) -> Any:
    return broadcast_to(array, (shape,) if isinstance(shape, int) else tuple(shape))


FUNCTIONS[np.broadcast_arrays] = lambda *args, subok=False: tuple(broadcast_arrays(*args))
FUNCTIONS[np.matrix_transpose] = FUNCTIONS[np.linalg.matrix_transpose] = lambda x, /: matrix_transpose(x)


def _at_least(ndim: int, before: int) -> Callable[..., Any]:
    """Return a function that inserts dimensions of length one before a number of trailing ones."""

    def one(a: Any) -> Tensor:
        x = as_tensor(a)
        missing = builtins.max(ndim - x.ndim, 0)
        behind = 1 if ndim == 3 and x.ndim in (1, 2) else 0
        front = missing - behind if missing else 0
        return reshape(x, (1,) * front + x.shape + (1,) * (missing - front)) if missing else x

    def function(*arys: Any) -> Any:
        found = tuple(map(one, arys))
        return found[0] if len(found) == 1 else found

    return function


FUNCTIONS[np.atleast_1d], FUNCTIONS[np.atleast_2d] = _at_least(1, 0), _at_least(2, 0)
FUNCTIONS[np.atleast_3d] = _at_least(3, 1)


@of(np.flip)
def _flip(m: Any, axis: Any = None) -> Any:
    return flip(m, axis=axis)


FUNCTIONS[np.flipud], FUNCTIONS[np.fliplr] = lambda m: flip(m, axis=0), lambda m: flip(m, axis=1)


@of(np.rot90)
def _rot90(m: Any, k: int = 1, axes: Sequence[int] = (0, 1)) -> Any:
    x = as_tensor(m)
    for _ in range(k % 4):
        x = flip(_swapaxes(x, *axes), axis=axes[0])
    return x


@of(np.roll)
def _roll(a: Any, shift: Any, axis: Any = None) -> Any:
    return roll(a, shift, axis=axis)


@of(np.tile)
def _tile(A: Any, reps: Any) -> Any:  # noqa: N803  (NumPy's name)
    return tile(A, (reps,) if isinstance(reps, int) else tuple(reps))


@of(np.repeat)
def _repeat(a: Any, repeats: Any, axis: Any = None) -> Any:
    return repeat(a, repeats, axis=axis)


@of(np.pad)
def _pad(array: Any, pad_width: Any, mode: Any = "constant", **named: Any) -> Any:
    need(not named.keys() - {"constant_values"} and not isinstance(pad_width, dict))
    need(isinstance(mode, str) and mode in ("constant", "reflect", "symmetric", "edge", "wrap"))
    value = named.get("constant_values", 0)
    need(isinstance(value, int | float))
    return pad(array, pad_width, mode, constant_values=value)


FUNCTIONS[np.tril], FUNCTIONS[np.triu] = lambda m, k=0: tril(m, k=k), lambda m, k=0: triu(m, k=k)


# Joining and splitting


def _cast(x: Any, dtype: Any, casting: Any) -> Any:
    if dtype is None:
        return x
    need(np.can_cast(x.dtype, dtype, casting))
    return astype(x, dtype)


@of(np.concatenate)
def _concatenate(
    arrays: Sequence[Any], /, axis: int | None = 0, out: Any = None, *, dtype: Any = None, casting: Any = "same_kind"
) -> Any:
    need(out is None)
    return _cast(concat(list(arrays), axis=axis), dtype, casting)


@of(np.stack)
def _stack(
    arrays: Sequence[Any], axis: int = 0, out: Any = None, *, dtype: Any = None, casting: Any = "same_kind"
) -> Any:
    need(out is None)
    return _cast(stack(list(arrays), axis=axis), dtype, casting)


def _piled(prepare: Callable[[Any], Any], axis: int) -> Callable[..., Any]:
    def function(tup: Sequence[Any], *, dtype: Any = None, casting: Any = "same_kind") -> Any:
        parts = [prepare(part) for part in tup]
        along = 0 if axis == 1 and prepare is _line and parts[0].ndim == 1 else axis
        return _cast(concat(parts, axis=along), dtype, casting)

    return function


_line = FUNCTIONS[np.atleast_1d]
FUNCTIONS[np.vstack] = _piled(FUNCTIONS[np.atleast_2d], 0)
FUNCTIONS[np.hstack] = _piled(_line, 1)
FUNCTIONS[np.dstack] = _piled(FUNCTIONS[np.atleast_3d], 2)


@of(np.column_stack)
def _column_stack(tup: Sequence[Any]) -> Any:
    parts = [as_tensor(part) for part in tup]
    return concat([part if part.ndim > 1 else reshape(part, (-1, 1)) for part in parts], axis=1)


@of(np.append)
def _append(arr: Any, values: Any, axis: int | None = None) -> Any:
    return concat([arr, values], axis=axis)


@of(np.array_split)
def _array_split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    x = as_tensor(ary)
    bounds = np.array_split(np.arange(x.shape[axis]), indices_or_sections)
    before = (slice(None),) * (axis % x.ndim)
    starts = np.cumsum([0, *map(len, bounds)])
    if not isinstance(indices_or_sections, int):
        return [x[(*before, slice(int(part[0]), int(part[-1]) + 1) if len(part) else slice(0, 0))] for part in bounds]
    return [x[(*before, slice(int(a), int(b)))] for a, b in pairwise(starts)]


@of(np.split)
def _split(ary: Any, indices_or_sections: Any, axis: int = 0) -> list[Any]:
    if isinstance(indices_or_sections, int) and as_tensor(ary).shape[axis] % indices_or_sections:
        raise ValueError("array split does not result in an equal division")
    return list(_array_split(ary, indices_or_sections, axis))


FUNCTIONS[np.vsplit] = lambda ary, indices_or_sections: _split(ary, indices_or_sections, 0)
FUNCTIONS[np.hsplit] = lambda ary, indices_or_sections: _split(ary, indices_or_sections, 1 if ary.ndim > 1 else 0)
FUNCTIONS[np.dsplit] = lambda ary, indices_or_sections: _split(ary, indices_or_sections, 2)
FUNCTIONS[np.unstack] = lambda x, /, *, axis=0: unstack(x, axis=axis)


@of(np.meshgrid)
def _meshgrid(*xi: Any, copy: bool = True, sparse: bool = False, indexing: Any = "xy") -> Any:
    need(not sparse)
    return tuple(meshgrid(*(reshape(as_tensor(x), (-1,)) for x in xi), indexing=indexing))
