"""Compile rules of sorting, binary search, and cumulative sums and products."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import DType, Shape
from labnet.compile.trace.rules.elementwise import Rule, Static, sample
from labnet.compile.trace.rules.indexing import take_at
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CPU
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure

#: Arguments of an intrinsic besides arrays: numbers, or one tuple of numbers.
Numbers = tuple[int, ...] | tuple[tuple[int, ...]]


def call_intrinsic(
    trace: Trace, name: str, inputs: Sequence[Any], *, shape: Shape, dtype: DType, numbers: Numbers, flops: int = 0
) -> Traced:
    """Call an intrinsic on whole arrays."""
    values = [trace.lift(x).value for x in inputs]
    values = [trace.copied(value) if value.kind in ("view", "splat") else value for value in values]
    return trace.stand_in(
        trace.builder.make("call", values, shape=shape, dtype=dtype, name=name, numbers=tuple(numbers), flops=flops)
    )


def _rows(op: Op, x: Any, axis: int | None, static: Static) -> Any:
    """Move a dimension to the end."""
    if axis is None and x.ndim == 1:
        axis = 0
    if axis is None or not -x.ndim <= axis < x.ndim:
        error = IndexError("an axis of the tensor is needed, which only a one-dimensional one can do without")
        raise failure(op.name, (np.broadcast_to(np.zeros((), x.dtype), x.shape),), static, error)
    return ops.moveaxis(x, axis, -1)


def _as_row(x: Any) -> Any:
    """Convert a 0-d tensor to one dimension, as NumPy does in cumulative sums and argsort."""
    return x if x.ndim else ops.reshape(x, (1,))


def _sort_positions(trace: Trace, rows: Any) -> Traced:
    """Return the positions that sort rows stably in ascending order."""
    rows = ops.astype(rows, "float32") if rows.dtype == np.dtype("float16") else rows
    length = rows.shape[-1]
    count = rows.size // max(length, 1)
    passes = (max(length, 1) - 1).bit_length()
    both = call_intrinsic(
        trace, "argsort", [rows], shape=(2, *rows.shape), dtype=np.dtype("int64"), numbers=(count, length)
    )
    return trace.lift(both[passes % 2])  # type: ignore[no-any-return]


def argsort(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Return the positions that sort a tensor; equal elements keep their order, also when descending."""
    axis = static.get("axis", -1)
    rows = _rows(op, _as_row(operands[0]), axis, static)
    if not static.get("descending"):
        return trace.lift(ops.moveaxis(_sort_positions(trace, rows), -1, axis))  # type: ignore[no-any-return]
    backwards = _sort_positions(trace, ops.flip(rows, axis=-1))
    found = ops.flip(rows.shape[-1] - 1 - backwards, axis=-1)
    return trace.lift(ops.moveaxis(found, -1, axis))  # type: ignore[no-any-return]


def sort(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Sort the elements: gather them at their sorted positions."""
    axis = static.get("axis", -1)
    rows = _rows(op, operands[0], axis, static)
    starts = np.arange(math.prod(rows.shape[:-1])).reshape((*rows.shape[:-1], 1)) * rows.shape[-1]
    places = trace.lift(_sort_positions(trace, rows) + trace.constant(starts))
    ordered: Any = trace.stand_in(take_at(trace, trace.lift(rows).value, places, rows.shape))
    ordered = ops.flip(ordered, axis=-1) if static.get("descending") else ordered
    return trace.lift(ops.moveaxis(ordered, -1, axis))  # type: ignore[no-any-return]


def searchsorted(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Find insertion positions by binary search."""
    ordered, x = operands
    sorter = static.get("sorter")
    ordered = ordered if sorter is None else ops.take(ordered, sorter, axis=0)
    dtype = np.result_type(ordered.dtype, x.dtype, *["float32"] * (ordered.dtype.kind == "f"))
    inputs = [ops.astype(ordered, dtype), ops.astype(x, dtype)]
    numbers = (ordered.size, x.size, int(static.get("side", "left") == "right"))
    return call_intrinsic(trace, "searchsorted", inputs, shape=x.shape, dtype=np.dtype("int64"), numbers=numbers)


def cumulative(name: str, start: int) -> Rule:
    """Return the rule of a cumulative op."""

    def rule(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
        axis = static.get("axis")
        rows = _rows(op, operands[0] if axis is None else _as_row(operands[0]), axis, static)
        dtype = np.asarray(op.forward(sample(operands[0]), **static)).dtype
        rows = ops.astype(rows, dtype)
        numbers = (rows.size // max(rows.shape[-1], 1), rows.shape[-1])
        intrinsic = f"{name}_of_halves" if dtype == np.dtype("float16") and trace.device == CPU else name
        out: Any = call_intrinsic(trace, intrinsic, [rows], shape=rows.shape, dtype=dtype, numbers=numbers)
        if static.get("include_initial"):
            first = trace.stand_in(trace.builder.splat(start, (*rows.shape[:-1], 1), dtype))
            out = ops.concat([first, out], axis=-1)
        return trace.lift(ops.moveaxis(out, -1, 0 if axis is None else axis))  # type: ignore[no-any-return]

    return rule
