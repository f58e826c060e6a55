"""Compile rules of reductions."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.compile.ir.values import DType, Shape, Value
from labnet.compile.trace.rules.elementwise import Rule, Static, map_value
from labnet.compile.trace.rules.views import reshape_value
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.ops.aggregation.reduction import of_number
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure


def reduction(kind: str) -> Rule:
    """Return the rule of a reduction."""

    def rule(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
        x = operands[0]
        whole = np.broadcast_to(np.zeros((), x.dtype), x.shape)
        try:
            found = np.asarray(op.forward(whole, **static))
        except (ValueError, IndexError, TypeError) as error:
            raise failure(op.name, (whole,), static, error) from None
        axis = of_number(x, static.get("axis"))
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        value = reduce_value(trace, kind, x.value, tuple(sorted(a % x.ndim for a in axes)), found.dtype)
        return trace.stand_in(reshape_value(trace, value, found.shape))

    return rule


def reduce_value(trace: Trace, kind: str, value: Value, axes: Shape, dtype: DType) -> Value:
    """Reduce a value over some dimensions."""
    if not axes:
        copy = trace.stand_in(
            map_value(trace, "copy", [trace.stand_in(value)], shape=value.shape, dtype=dtype, work=dtype)
        )
        return trace.lift(copy + 0.0).value if kind == "sum" and dtype.kind == "f" else copy.value  # the sum of -0 is 0
    shape = tuple(length for axis, length in enumerate(value.shape) if axis not in axes)
    return trace.builder.make("reduce", [value], shape=shape, dtype=dtype, name=kind, axes=axes)


def sum_to(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Sum over the dimensions that a broadcast has added or stretched."""
    x, shape = operands[0], tuple(static["shape"])
    added = x.ndim - len(shape)
    axes = tuple(a for a in range(x.ndim) if a < added or (shape[a - added] == 1 != x.shape[a]))
    if not axes:
        return trace.stand_in(x.value)
    return trace.stand_in(reshape_value(trace, reduce_value(trace, "sum", x.value, axes, x.dtype), shape))
