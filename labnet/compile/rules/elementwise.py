"""Compile rules of elementwise ops: the table in `labnet.compile.scalars` says what each is at one place."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.compile.ir import DType, Shape, Value
from labnet.compile.scalars import ARITHMETIC, FLOATING
from labnet.compile.trace import Trace
from labnet.compile.traced import Traced, refuse
from labnet.ops.dispatch import failure
from labnet.ops.registry import Op
from labnet.tensor import as_dtype

Static = dict[str, Any]
Rule = Callable[..., Traced]


def sample(x: Any) -> Any:
    """Return a small array that has the dtype and the number of dimensions of an operand."""
    return np.ones((1,) * x.ndim, x.dtype) if isinstance(x, Traced) else x


def elementwise(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compute each element on its own, in the dtype that NumPy would take."""
    shapes = [x.shape for x in operands if isinstance(x, Traced)]
    try:
        shape = np.broadcast_shapes(*shapes)
        with np.errstate(all="ignore"):
            dtype = np.asarray(op.forward(*map(sample, operands))).dtype
    except (ValueError, TypeError) as error:
        stand_ins = tuple(np.broadcast_to(np.ones((), x.dtype), x.shape) for x in operands if isinstance(x, Traced))
        raise failure(op.name, stand_ins, static, error) from None
    if op.name in ARITHMETIC or op.name in FLOATING:
        work = dtype
    else:
        with np.errstate(all="ignore"):
            work = np.result_type(*map(sample, operands))
    return trace.stand_in(mapped(trace, op.name, operands, shape=shape, dtype=dtype, work=work))


def mapped(trace: Trace, name: str, operands: Sequence[Any], *, shape: Shape, dtype: DType, work: DType) -> Value:
    """Return the value of an elementwise op; numbers become operands of the dtype that is computed in."""
    if np.dtype("float16") in (dtype, work):
        refuse(f"{name} in float16: convert with astype('float32')")
    values = [x.value if isinstance(x, Traced) else trace.builder.splat(x, (), work) for x in operands]
    return trace.builder.make("map", values, shape=shape, dtype=dtype, name=name, work=work)


def convert(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Convert to another dtype."""
    x, dtype = operands[0], as_dtype(static["dtype"])
    if dtype == x.dtype:
        return trace.stand_in(x.value)
    return trace.stand_in(mapped(trace, "copy", [x], shape=x.shape, dtype=dtype, work=dtype))
