"""Compile rules of recurrences: one intrinsic runs all steps, another one their backward."""

import math
from collections.abc import Sequence
from typing import Any

from labnet import ops
from labnet.compile.ir.values import Shape, contiguous
from labnet.compile.trace.rules.elementwise import Static
from labnet.compile.trace.rules.ordering import call_intrinsic
from labnet.compile.trace.rules.views import make_view
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced, refuse
from labnet.ops.core.declaration import Op


def _part(trace: Trace, whole: Any, offset: int, shape: Shape) -> Traced:
    """Return a contiguous part of an array as a view."""
    value = trace.lift(whole).value
    return trace.stand_in(make_view(trace, value, offset, contiguous(shape), shape))


def _values(trace: Trace, inputs: Sequence[Any]) -> tuple[Traced, Shape]:
    """Return the gates and states of all steps in one array, and (T, N, H)."""
    gates, weight, hidden, cell = inputs
    if gates.dtype.name not in ("float32", "float64") or any(x.dtype != gates.dtype for x in inputs):
        refuse(f"an LSTM of dtypes {', '.join(str(x.dtype) for x in inputs)}: convert all to float32 or float64")
    steps, (samples, width) = gates.shape[0], hidden.shape
    size = samples * width
    numbers = (steps, samples, width)
    shape = (steps * 4 * size + 2 * (steps + 1) * size,)
    given = [gates, ops.matrix_transpose(weight), hidden, cell]
    work = steps * size * (8 * width + 10)
    return call_intrinsic(trace, "lstm", given, shape=shape, dtype=gates.dtype, numbers=numbers, flops=work), numbers


def recur(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Return the hidden and cell states of all steps, concatenated along the last dimension."""
    values, (steps, samples, width) = _values(trace, operands)
    size = samples * width
    after = steps * 4 * size
    states = (_part(trace, values, after + i * (steps + 1) * size + size, (steps, samples, width)) for i in range(2))
    return trace.lift(ops.concat(list(states), axis=-1))  # type: ignore[no-any-return]


def recur_back(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Return the gradient of one of the four inputs."""
    gradient, *inputs = operands
    weight = inputs[1]
    values, numbers = _values(trace, inputs)
    steps, samples, width = numbers
    size = samples * width
    shape = (steps * 4 * size + 2 * size,)
    found = call_intrinsic(
        trace,
        "lstm_back",
        [gradient, values, weight],
        shape=shape,
        dtype=gradient.dtype,
        numbers=(steps, samples, width),
    )
    gates = _part(trace, found, 0, (steps, samples, 4 * width))
    if static["position"] == 1:
        before = _part(trace, values, steps * 4 * size, (steps * samples, width))
        return trace.lift(ops.matrix_transpose(gates.reshape((-1, 4 * width))) @ before)  # type: ignore[no-any-return]
    if static["position"] == 0:
        return gates
    offset = math.prod(gates.shape) + (size if static["position"] == 3 else 0)
    return _part(trace, found, offset, (samples, width))
