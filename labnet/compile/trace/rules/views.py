"""Compile rules of ops that move elements: views, concatenation and padding."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import Shape, Value, contiguous, placed
from labnet.compile.trace.rules.elementwise import Static
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.core.registry import REGISTRY


def is_basic(key: Any) -> bool:
    """Return whether an index consists of numbers, slices, ``...`` and None."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | np.integer | slice | type(None) | type(...)) for part in parts)


def as_view_key(key: Any) -> tuple[Any, ...]:
    """Append ``...`` to an index, so that NumPy returns a view rather than a scalar."""
    parts = key if isinstance(key, tuple) else (key,)
    return parts if any(part is ... for part in parts) else (*parts, ...)


def view(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Make a view, whose strides NumPy computes; copy if a view is impossible."""
    wanted = {key: value for key, value in static.items() if key != "copy" or value is False}
    value = view_by(trace, operands[0].value, lambda array: op.forward(array, **wanted), op, static)
    return trace.stand_in(trace.copied(value) if static.get("copy") else value)


def view_by(trace: Trace, value: Value, look: Callable[[Any], Any], op: Op, static: Static) -> Value:
    """Return the view that `look` makes of an array with the memory layout of a value."""
    base, offset, strides = placed(value)
    if value.kind == "splat" or not value.size:
        try:
            shape = look(np.broadcast_to(np.zeros((), value.dtype), value.shape)).shape
        except (ValueError, IndexError) as error:
            raise failure(op.name, (np.broadcast_to(np.zeros(()), value.shape),), static, error) from None
        return trace.builder.splat(value.attributes.get("number", 0), shape, value.dtype)
    memory = np.empty(base.size, base.dtype)
    item = base.dtype.itemsize
    array = np.ndarray(value.shape, base.dtype, memory, offset * item, tuple(step * item for step in strides))
    try:
        found = look(array)
        found = found if isinstance(found, np.ndarray) else array  # a 0-d array, for which NumPy returned a scalar
    except (ValueError, IndexError, TypeError) as error:
        raise failure(op.name, (array,), static, error) from None
    if found.size and not np.may_share_memory(found, memory):
        return view_by(trace, trace.copied(value), look, op, static)
    start = (found.ctypes.data - memory.ctypes.data) // item if found.size else 0
    return make_view(trace, base, start, tuple(step // item for step in found.strides), found.shape)


def make_view(trace: Trace, base: Value, offset: int, strides: Shape, shape: Shape) -> Value:
    """Make a view of a value; return the value itself if the view has its shape and strides."""
    strides = tuple(0 if length == 1 else step for length, step in zip(shape, strides, strict=True))
    plain = tuple(0 if length == 1 else step for length, step in zip(shape, contiguous(shape), strict=True))
    if shape == base.shape and offset == 0 and strides == plain:
        return base
    strides = tuple(
        own if length == 1 else step for length, step, own in zip(shape, strides, contiguous(shape), strict=True)
    )
    return trace.builder.make("view", [base], shape=shape, dtype=base.dtype, offset=offset, strides=strides)


def reshape_value(trace: Trace, value: Value, shape: Shape) -> Value:
    """Reshape a value in row-major order."""
    return view_by(trace, value, lambda array: array.reshape(shape), REGISTRY["reshape"], {"shape": shape})


def layout_in(memory: Any, part: Any) -> tuple[int, Shape]:
    """Return the offset and strides, in elements, of a view in the memory of an array."""
    offset = (part.ctypes.data - memory.ctypes.data) // memory.itemsize if part.size else 0
    return offset, tuple(step // memory.itemsize for step in part.strides)


def put(trace: Trace, parts: Sequence[Any], places: Sequence[tuple[int, Shape]], shape: Shape) -> Value:
    """Add parts at offsets and strides into zeros."""
    values = [trace.lift(part).value for part in parts]
    return trace.builder.make("put", values, shape=tuple(shape), dtype=values[0].dtype, places=tuple(places))


def concat(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Concatenate tensors along a dimension."""
    axis = static.get("axis", 0)
    arrays = [np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in operands]
    try:
        whole = np.empty_like(op.forward(arrays, axis=axis))
    except ValueError as error:
        raise failure(op.name, tuple(arrays), static, error) from None
    parts = [ops.astype(x if axis is not None else x.reshape((-1,)), whole.dtype) for x in operands]
    along, start, places = (axis or 0) % whole.ndim, 0, []
    for part in parts:
        stop = start + part.shape[along]
        places.append(layout_in(whole, whole[(slice(None),) * along + (slice(start, stop),)]))
        start = stop
    return trace.stand_in(put(trace, parts, places, whole.shape))


def pad(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Pad a tensor with zeros or another number."""
    x = operands[0]
    value = static.get("constant_values", 0)
    whole = np.empty(op.forward(np.zeros(x.shape, x.dtype), **static).shape, x.dtype)
    before = np.broadcast_to(np.asarray(static["pad_width"]), (x.ndim, 2))[:, 0]
    inside = whole[tuple(slice(int(b), int(b) + n) for b, n in zip(before, x.shape, strict=True))]
    padded = trace.stand_in(put(trace, [x], [layout_in(whole, inside)], whole.shape))
    if value == 0 and not np.signbit(value):
        return padded
    outside = op.forward(np.zeros(x.shape, bool), **{**static, "constant_values": True})
    return trace.lift(ops.where(outside, np.asarray(value, x.dtype), padded))  # type: ignore[no-any-return]


def triangle(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Keep the elements on one side of a diagonal."""
    x = operands[0]
    kept = trace.constant(op.forward(np.ones(x.shape[-2:], bool), **static))
    return trace.lift(ops.where(kept, x, np.zeros((), x.dtype)))  # type: ignore[no-any-return]
