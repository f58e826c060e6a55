"""Compile rules of elementwise ops: one operation, or the operations of a scalar expression."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import DType, Shape, Value
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced, refuse
from labnet.device import CPU
from labnet.errors import DTypeError
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.core.registry import compute_scalar
from labnet.tensor import as_dtype

_HALF = np.dtype("float16")
Static = dict[str, Any]
Rule = Callable[..., Traced]


def sample(x: Any) -> Any:
    """Return a one-element array with the dtype and the number of dimensions of an operand."""
    return np.ones((1,) * x.ndim, x.dtype) if isinstance(x, Traced) else x


def compare(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compare integers exactly, also int64 with uint64 and with numbers out of range, which have no common dtype."""
    for x, number in (operands, operands[::-1]):
        if isinstance(x, Traced) and x.dtype.kind in "iu" and isinstance(number, int) and not _holds(x.dtype, number):
            found = op.forward(*(part if part is number else 0 for part in operands))
            return trace.stand_in(trace.builder.splat(found, x.shape, np.dtype(bool)))
    kinds = [x.dtype.kind if isinstance(x, Traced) else "" for x in operands]
    if sorted(kinds) != ["i", "u"] or np.result_type(*(x.dtype for x in operands)).kind != "f":
        return elementwise(trace, op, operands, static)
    whole = op.function(*(ops.astype(x, "uint64") for x in operands))
    below = op.forward(*(-1 if kind == "i" else 0 for kind in kinds))
    return trace.lift(ops.where(operands[kinds.index("i")] < 0, below, whole))  # type: ignore[no-any-return]


def _holds(dtype: DType, number: int) -> bool:
    limits = np.iinfo(dtype)
    return bool(limits.min <= number <= limits.max)


def power(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Raise to powers; each call checks that integers get no negative exponents."""
    out, exponent = elementwise(trace, op, operands, static), operands[1]
    if out.dtype.kind == "i" and isinstance(exponent, Traced):
        message = "pow: Integers to negative integer powers are not allowed."
        trace.check_within(ops.astype(exponent < 0, "int8"), 1, message, DTypeError)
    return out


def elementwise(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Apply a scalar expression to each element, in the dtype that NumPy computes in."""
    shapes = [x.shape for x in operands if isinstance(x, Traced)]
    kinds = tuple((x.ndim, x.dtype) if isinstance(x, Traced) else (type(x), x) for x in operands)
    try:
        shape = shapes[0] if len({*shapes}) == 1 else np.broadcast_shapes(*shapes)
        dtype, work = (_dtypes.__wrapped__ if op.is_custom else _dtypes)(op, kinds)
    except (ValueError, TypeError) as error:
        stand_ins = tuple(np.broadcast_to(np.ones((), x.dtype), x.shape) for x in operands if isinstance(x, Traced))
        raise failure(op.name, stand_ins, static, error) from None
    return trace.stand_in(map_value(trace, op.name, operands, shape=shape, dtype=dtype, work=work))


@functools.lru_cache(1024)
def _dtypes(op: Op, kinds: tuple[tuple[Any, Any], ...]) -> tuple[DType, DType]:
    """Return the dtype of a result, and the one that NumPy computes in.

    An operand is its number of dimensions with its dtype, or the type of a number with the number.
    """
    operands = [np.ones((1,) * kind, x) if isinstance(kind, int) else x for kind, x in kinds]
    with np.errstate(all="ignore"):
        dtype = np.asarray(op.forward(*operands)).dtype
        is_test = dtype.kind == "b" and op.name != "where"
        return dtype, np.result_type(*operands) if is_test else dtype


def composed(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Apply the ops of a scalar expression; fusion makes one loop of them."""
    return trace.lift(compute_scalar(op, operands, static, lambda each: each.function))  # type: ignore[no-any-return]


def map_value(trace: Trace, name: str, operands: Sequence[Any], *, shape: Shape, dtype: DType, work: DType) -> Value:
    """Make the value of an elementwise op; numbers become operands of dtype `work`."""
    if _HALF in (dtype, work) and trace.device != CPU:
        refuse(f"{name} in float16: convert with astype('float32')")
    if name == "where":  # integers of operands wrap around as in NumPy; others are refused
        operands = [np.asarray(x).astype(work) if isinstance(x, int) else x for x in operands]
    values = [x.value if isinstance(x, Traced) else trace.builder.splat(x, (), work) for x in operands]
    return trace.builder.make("map", values, shape=shape, dtype=dtype, name=name, work=work)


def convert(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Convert to another dtype."""
    x, dtype = operands[0], as_dtype(static["dtype"])
    if dtype == x.dtype:
        return trace.stand_in(x.value)
    return trace.stand_in(map_value(trace, "copy", [x], shape=x.shape, dtype=dtype, work=dtype))
