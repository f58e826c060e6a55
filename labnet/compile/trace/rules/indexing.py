"""Compile rules of ops that read or write at an index: basic, arrays, or computed positions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import Shape, Value, contiguous
from labnet.compile.trace.rules.elementwise import Static
from labnet.compile.trace.rules.views import as_view_key, is_basic, layout_in, put, view
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced, refuse
from labnet.errors import ShapeError
from labnet.kernels.index_arrays import index_of
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.tensor import Tensor

Array = np.ndarray[Any, Any]


def getitem(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Read at an index: a view for a basic index, else a gather."""
    x, key = operands[0], static["key"]
    if is_basic(key):
        return view(trace, op, operands, {"key": as_view_key(key)})
    places, shape = positions(trace, op, key, x.shape)
    return trace.stand_in(take_at(trace, x.value, places, shape))


def scatter_add(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Add elements at an index into zeros: the adjoint of reading there."""
    x, key, shape = operands[0], static["key"], tuple(static["shape"])
    if is_basic(key):
        whole = np.empty(shape, x.dtype)
        part = whole[as_view_key(key)]
        return trace.stand_in(put(trace, [ops.broadcast_to(x, part.shape)], [layout_in(whole, part)], shape))
    places, wanted = positions(trace, op, key, shape)
    wide = trace.lift(ops.broadcast_to(x, wanted))
    within = contiguous(wanted)[len(places.shape) :]
    aligned = trace.lift(places.reshape((*places.shape, *(1 for _ in within))))
    return trace.stand_in(
        trace.builder.make("scatter", [wide.value, aligned.value], shape=shape, dtype=x.dtype, within=within)
    )


def take_at(trace: Trace, value: Value, places: Traced, shape: Shape) -> Value:
    """Gather elements of a value at positions; trailing dimensions that these lack are read whole."""
    within = contiguous(shape)[len(places.shape) :]
    base = trace.copied(value) if value.kind in ("view", "splat") else value
    aligned = trace.lift(places.reshape((*places.shape, *(1 for _ in within))))
    return trace.builder.make("take", [base, aligned.value], shape=shape, dtype=value.dtype, within=within)


def positions(trace: Trace, op: Op, key: Any, shape: Shape) -> tuple[Traced, Shape]:
    """Return the flat int64 positions that an index of an array of `shape` reads, and the shape of the result.

    NumPy computes them with zeros in place of traced positions, which are added afterwards. Trailing dimensions that
    the index does not touch are left out of the positions.
    """
    parts = _expand(trace, key, len(shape))
    known = [np.zeros(part.shape, np.int64) if isinstance(part, Traced) else part for part in parts]
    touched = sum(part is not None for part in parts)
    front, tail = shape[:touched], shape[touched:]
    steps = tuple(step * math.prod(tail) for step in contiguous(front))
    try:
        grid = (np.arange(math.prod(front)) * math.prod(tail)).reshape(front)[tuple(known)]
    except (IndexError, ValueError) as error:
        raise failure(op.name, (np.broadcast_to(np.zeros(()), shape),), {"key": key}, error) from None
    found = trace.constant(grid)
    axis = 0
    for part in parts:
        if isinstance(part, Traced):
            inside = _check(trace, part, front[axis])
            found = found + _align(inside, parts, grid.ndim) * steps[axis]
        axis += part is not None
    return trace.lift(found), (*grid.shape, *tail)


def _expand(trace: Trace, key: Any, ndim: int) -> list[Any]:
    """Expand ``...`` in an index, and convert masks and lists to arrays of positions."""
    parts: list[Any] = []
    for part in key if isinstance(key, tuple) else (key,):
        found = part
        if isinstance(part, Tensor):
            found = trace.lift(part)
            if found.dtype.kind == "f":
                raise IndexError("arrays used as indices must be of integer (or boolean) type")
            if found.dtype.kind == "b":
                refuse("an index by a mask: its number of elements is only known when it runs; use ln.where")
        elif isinstance(part, list | np.ndarray):
            found = index_of(part) if isinstance(part, list) else part
        parts += found.nonzero() if isinstance(found, np.ndarray) and found.dtype.kind == "b" else [found]
    for place, part in enumerate(parts):
        if part is ...:
            count = ndim - sum(other is not None and other is not ... for other in parts)
            parts[place : place + 1] = [slice(None)] * count
            break
    while parts and isinstance(parts[-1], slice) and parts[-1] == slice(None):
        parts.pop()
    return parts


def _check(trace: Trace, part: Traced, length: int) -> Traced:
    """Normalize negative positions; each call checks that they are in bounds."""
    whole = ops.astype(part, "int64")
    inside: Traced = trace.lift(ops.where(whole < 0, whole + length, whole))
    trace.check_within(inside, length, f"index out of bounds: positions must lie in [-{length}, {length})")
    return inside


def _align(part: Traced, parts: list[Any], ndim: int) -> Any:
    """Reshape positions to broadcast with the result, whose array dimensions NumPy puts together."""
    arrays = [i for i, other in enumerate(parts) if isinstance(other, Traced | np.ndarray | int | np.integer)]
    together = arrays[-1] - arrays[0] + 1 == len(arrays)
    wide = max(parts[i].ndim if isinstance(parts[i], Traced) else np.ndim(parts[i]) for i in arrays)
    before = arrays[0] if together else 0
    shape = (*(1 for _ in range(wide - part.ndim)), *part.shape, *(1 for _ in range(ndim - before - wide)))
    return part.reshape(shape)


def setitem(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Replace elements at a constant index; the last write to an element wins."""
    x, value = operands
    value = trace.lift(value, x.dtype)
    parts = _expand(trace, static["key"], x.ndim)
    if any(isinstance(part, Traced) for part in parts):
        refuse("setitem at positions that are only known when it runs: use ln.where")
    chosen = np.full(x.shape, -1)
    key = tuple(parts)
    try:
        read = chosen[key].shape
        extra = max(value.ndim - len(read), 0)
        wide = ops.broadcast_to(value.reshape(value.shape[extra:]), read)
        chosen[key] = np.arange(math.prod(read)).reshape(read)
    except (IndexError, ValueError, ShapeError) as error:
        arrays = tuple(np.broadcast_to(np.zeros((), part.dtype), part.shape) for part in operands)
        raise failure(op.name, arrays, static, error) from None
    if not math.prod(read):
        return trace.stand_in(x.value)
    flat = trace.lift(ops.astype(wide, x.dtype).reshape((-1,)))
    written = take_at(trace, flat.value, trace.constant(np.maximum(chosen, 0)), x.shape)
    return trace.lift(ops.where(trace.constant(chosen >= 0), trace.stand_in(written), x))  # type: ignore[no-any-return]


def roll(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Shift elements cyclically along some dimensions, or in the flattened tensor."""
    x, axis, shift = operands[0], static.get("axis"), static["shift"]
    if axis is None:
        total = shift if isinstance(shift, int) else sum(shift)
        return trace.lift(_roll(x.reshape((-1,)), total, 0).reshape(x.shape))  # type: ignore[no-any-return]
    try:
        shifts, axes = np.broadcast_arrays(np.atleast_1d(shift), np.atleast_1d(axis))
    except ValueError as error:
        raise failure(op.name, (np.broadcast_to(np.zeros((), x.dtype), x.shape),), static, error) from None
    for places, along in zip(shifts.tolist(), axes.tolist(), strict=True):
        x = _roll(x, places, normalize_axis(op.name, along, x.shape))
    return trace.lift(x)  # type: ignore[no-any-return]


def _roll(x: Any, places: int, axis: int) -> Any:
    first = places % x.shape[axis] if x.shape[axis] else 0
    if not first:
        return x
    before = (slice(None),) * axis
    return ops.concat([x[(*before, slice(-first, None))], x[(*before, slice(None, -first))]], axis=axis)
