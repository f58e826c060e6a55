"""Compile rules: what each op of the registry is in the small operations of the intermediate representation.

Elementwise ops come from the table in `labnet.compile.scalars`. Ops that NumPy computes in several passes are
written here in other ops once more, because passes cost nothing where they are fused.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir import DType, Shape, Value, contiguous, leading, placed
from labnet.compile.scalars import ARITHMETIC, EXPRESSIONS, FLOATING
from labnet.compile.trace import Trace, Traced, refuse
from labnet.ops.dispatch import failure
from labnet.ops.likelihood import one_of
from labnet.ops.registry import REGISTRY, Op
from labnet.tensor import as_dtype

Static = dict[str, Any]
Rule = Callable[..., Traced]


def sample(x: Any) -> Any:
    """Return a small array that has the dtype and the number of dimensions of an operand."""
    return np.ones((1,) * x.ndim, x.dtype) if isinstance(x, Traced) else x


def _is_basic(key: Any) -> bool:
    """Tell whether an index consists of numbers, slices, ``...`` and None."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | np.integer | slice | type(None) | type(...)) for part in parts)


def _viewing(key: Any) -> tuple[Any, ...]:
    """Return the index in the form that gives a view of a single element too, rather than a number."""
    parts = key if isinstance(key, tuple) else (key,)
    return parts if any(part is ... for part in parts) else (*parts, ...)


# Elementwise


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


def copied(trace: Trace, value: Value) -> Value:
    """Return the elements of a value in row-major order in memory of their own."""
    return trace.builder.make("map", [value], shape=value.shape, dtype=value.dtype, name="copy", work=value.dtype)


# Views


def view(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Find out by NumPy itself which elements a view shows; copy where it cannot be one."""
    return trace.stand_in(view_by(trace, operands[0].value, lambda array: op.forward(array, **static), op, static))


def view_by(trace: Trace, value: Value, look: Callable[[Any], Any], op: Op, static: Static) -> Value:
    """Return what `look` makes of an array that lies where the value does."""
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
    except (ValueError, IndexError, TypeError) as error:
        raise failure(op.name, (array,), static, error) from None
    if found.size and not np.may_share_memory(found, memory):
        return view_by(trace, copied(trace, value), look, op, static)
    start = (found.ctypes.data - memory.ctypes.data) // item if found.size else 0
    return viewed(trace, base, start, tuple(step // item for step in found.strides), found.shape)


def viewed(trace: Trace, base: Value, offset: int, strides: Shape, shape: Shape) -> Value:
    """Return a view of a value that is none, or the value itself if that is what it shows."""
    strides = tuple(0 if length == 1 else step for length, step in zip(shape, strides, strict=True))
    plain = tuple(0 if length == 1 else step for length, step in zip(shape, contiguous(shape), strict=True))
    if shape == base.shape and offset == 0 and strides == plain:
        return base
    strides = tuple(
        own if length == 1 else step for length, step, own in zip(shape, strides, contiguous(shape), strict=True)
    )
    return trace.builder.make("view", [base], shape=shape, dtype=base.dtype, offset=offset, strides=strides)


def reshaped(trace: Trace, value: Value, shape: Shape) -> Value:
    """Return the elements in row-major order with another shape."""
    return view_by(trace, value, lambda array: array.reshape(shape), REGISTRY["reshape"], {"shape": shape})


def getitem(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Read at an index that names places by numbers and slices."""
    if not _is_basic(static["key"]):
        refuse("an index that is a tensor or a list: use ln.where, or index outside of the compiled function")
    return view(trace, op, operands, {"key": _viewing(static["key"])})


def scatter_add(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Put elements where an index reads them."""
    x, key, shape = operands[0], static["key"], static["shape"]
    if not _is_basic(key):
        refuse("the gradient of an index that is a tensor or a list: index outside of the compiled function")
    blank = np.empty(shape, x.dtype)
    part = blank[_viewing(key)]
    return trace.stand_in(put(trace, [ops.broadcast_to(x, part.shape)], [seen(blank, part)], shape))


def seen(memory: Any, part: Any) -> tuple[int, Shape]:
    """Return offset and strides, in elements, of a view of an array."""
    offset = (part.ctypes.data - memory.ctypes.data) // memory.itemsize if part.size else 0
    return offset, tuple(step // memory.itemsize for step in part.strides)


def put(trace: Trace, parts: Sequence[Any], places: Sequence[tuple[int, Shape]], shape: Shape) -> Value:
    """Return zeros with parts added at offsets and strides."""
    values = [trace.lift(part).value for part in parts]
    return trace.builder.make("put", values, shape=tuple(shape), dtype=values[0].dtype, places=tuple(places))


def concat(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Put tensors one after the other."""
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
        places.append(seen(whole, whole[(slice(None),) * along + (slice(start, stop),)]))
        start = stop
    return trace.stand_in(put(trace, parts, places, whole.shape))


def pad(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Surround a tensor with zeros."""
    x = operands[0]
    if static.get("constant_values", 0) != 0:
        refuse("pad with something else than 0: put tensors together with ln.concat")
    whole = np.empty(op.forward(np.zeros(x.shape, x.dtype), **static).shape, x.dtype)
    before = np.broadcast_to(np.asarray(static["pad_width"]), (x.ndim, 2))[:, 0]
    inside = whole[tuple(slice(int(b), int(b) + n) for b, n in zip(before, x.shape, strict=True))]
    return trace.stand_in(put(trace, [x], [seen(whole, inside)], whole.shape))


def triangle(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Keep the elements on one side of a diagonal."""
    x = operands[0]
    kept = trace.constant(op.forward(np.ones(x.shape[-2:], bool), **static))
    return trace.lift(ops.where(kept, x, 0))  # type: ignore[no-any-return]


# Reductions


def reduction(kind: str) -> Rule:
    """Return the rule of an op that takes all elements along some dimensions together."""

    def rule(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
        x = operands[0]
        whole = np.broadcast_to(np.zeros((), x.dtype), x.shape)
        try:
            found = np.asarray(op.forward(whole, **static))
        except (ValueError, IndexError, TypeError) as error:
            raise failure(op.name, (whole,), static, error) from None
        axis = static.get("axis")
        axes = range(x.ndim) if axis is None else (axis,) if isinstance(axis, int) else axis
        value = reduced(trace, kind, x.value, tuple(sorted(a % x.ndim for a in axes)), found.dtype)
        return trace.stand_in(reshaped(trace, value, found.shape))

    return rule


def reduced(trace: Trace, kind: str, value: Value, axes: Shape, dtype: DType) -> Value:
    """Return the reduction of a value over some dimensions."""
    if not axes:
        return mapped(trace, "copy", [trace.stand_in(value)], shape=value.shape, dtype=dtype, work=dtype)
    shape = tuple(length for axis, length in enumerate(value.shape) if axis not in axes)
    return trace.builder.make("reduce", [value], shape=shape, dtype=dtype, name=kind, axes=axes)


def sum_to(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Sum over the dimensions along which a shape was broadcast."""
    x, shape = operands[0], tuple(static["shape"])
    added = x.ndim - len(shape)
    axes = tuple(a for a in range(x.ndim) if a < added or (shape[a - added] == 1 != x.shape[a]))
    if not axes:
        return trace.stand_in(x.value)
    return trace.stand_in(reshaped(trace, reduced(trace, "sum", x.value, axes, x.dtype), shape))


# Products


def matmul(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Multiply matrices; vectors become matrices, batches are broadcast."""
    left, right = operands
    try:
        shape = op.forward(*(np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in operands)).shape
        dtype = np.result_type(left.dtype, right.dtype)
    except ValueError as error:
        arrays = tuple(np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in operands)
        raise failure(op.name, arrays, static, error) from None
    if dtype.kind != "f" or dtype == np.dtype("float16"):
        refuse(f"matmul of dtype {dtype}: convert to float32 or float64")
    a, b = (trace.lift(ops.astype(x, dtype)) for x in operands)
    a = a if a.ndim > 1 else ops.expand_dims(a, axis=0)
    b = b if b.ndim > 1 else ops.expand_dims(b, axis=1)
    if a.ndim > 2 and b.ndim == 2:  # one large product instead of many
        a = a.reshape((-1, a.shape[-1]))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    values = [
        as_matrices(trace, trace.lift(ops.broadcast_to(x, (*batch, *x.shape[-2:])) if batch else x).value)
        for x in (a, b)
    ]
    if worth_turning(values[1], a.shape[-2]):
        values[1] = copied(trace, values[1])
    whole = (*batch, a.shape[-2], b.shape[-1])
    if a.shape[-1] == 0:
        return trace.stand_in(trace.builder.splat(0, shape, dtype))
    product = trace.builder.make("matmul", values, shape=whole, dtype=dtype)
    return trace.stand_in(reshaped(trace, product, shape))


def worth_turning(right: Value, rows: int) -> bool:
    """Tell whether a matrix that lies transposed is copied first: products are faster then where it is small."""
    found = leading(right)
    return bool(found and found[0]) and len(right.shape) == 2 and right.size <= 8192 and rows >= 8


def as_matrices(trace: Trace, value: Value) -> Value:
    """Return a value whose last two dimensions lie in memory as BLAS wants them."""
    if value.kind == "splat" or leading(value) is None:
        return copied(trace, value)
    return value


# Ops written in others


def written(function: Callable[..., Any]) -> Rule:
    """Return the rule of an op that other ops compute."""

    def rule(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
        found: Traced = function(*operands, **static)
        return found

    return rule


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        error = ValueError("expected weight of shape (out_features, in_features) and bias of shape (out_features,)")
        raise failure("linear", tuple(np.empty(v.shape) for v in (x, weight, bias) if v is not None), {}, error)
    out = x @ weight.T
    return out if bias is None else out + bias


def _mean(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    total = ops.sum(x, axis=axis, keepdims=keepdims)
    return total / (x.size // (total.size or 1))


def _mean_squared_error(x1: Any, x2: Any) -> Any:
    difference = x1 - x2
    return _mean(difference * difference)


def _shifted(x: Any, axis: int) -> Any:
    return x - ops.max(x, axis=axis, keepdims=True)


def _softmax(x: Any, *, axis: int = -1) -> Any:
    out = ops.exp(_shifted(x, axis))
    return out / ops.sum(out, axis=axis, keepdims=True)


def _log_softmax(x: Any, *, axis: int = -1) -> Any:
    shifted = _shifted(x, axis)
    return shifted - ops.log(ops.sum(ops.exp(shifted), axis=axis, keepdims=True))


def _cross_entropy(x: Any, *, labels: Any, axis: int = -1) -> Any:
    chosen = ops.sum(ops.where(one_of(labels, x.shape, axis), x, 0.0), axis=axis)
    greatest = ops.max(x, axis=axis, keepdims=True)
    total = ops.sum(ops.exp(x - greatest), axis=axis)
    return ops.log(total) - (chosen - greatest.reshape(chosen.shape))


def _binary_cross_entropy(z: Any, y: Any) -> Any:
    return ops.maximum(z, 0) - z * y + ops.log1p(ops.exp(-ops.abs(z)))


def _standardize(x: Any, *, dims: int = 1, eps: float = 1e-5) -> Any:
    axes = tuple(range(-dims, 0))
    out = x - ops.mean(x, axis=axes, keepdims=True)
    return out / ops.sqrt(ops.mean(out * out, axis=axes, keepdims=True) + eps)


def _var(x: Any, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    centered = x - ops.mean(x, axis=axis, keepdims=True)
    total = ops.sum(centered * centered, axis=axis, keepdims=keepdims)
    return total / (x.size // (total.size or 1) - correction)


def _gelu(x: Any, *, approximate: str = "none") -> Any:
    if approximate == "none":
        return x * (ops.erf(x * math.sqrt(0.5)) + 1) * 0.5
    return x * (ops.tanh((x * x * x * 0.044715 + x) * math.sqrt(2 / math.pi)) + 1) * 0.5


def _any(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return ops.max(ops.astype(x != 0, "uint8"), axis=axis, keepdims=keepdims) != 0


def _all(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return ops.min(ops.astype(x != 0, "uint8"), axis=axis, keepdims=keepdims) != 0


WRITTEN: dict[str, Callable[..., Any]] = {
    "linear": _linear,
    "mean": _mean,
    "mean_squared_error": _mean_squared_error,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "cross_entropy_with_logits": _cross_entropy,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
    "standardize": _standardize,
    "gelu": _gelu,
    "var": _var,
    "std": lambda x, **static: ops.sqrt(_var(x, **static)),
    "all": _all,
    "any": _any,
    "count_nonzero": lambda x, **static: ops.sum(ops.astype(x != 0, "int64"), **static),
    "silu": lambda x: x * ops.sigmoid(x),
    "elu": lambda x, *, alpha=1.0: ops.where(x > 0, x, ops.expm1(ops.minimum(x, 0)) * alpha),
    "leaky_relu": lambda x, *, negative_slope=0.01: ops.where(x > 0, x, x * negative_slope),
    "hardtanh": lambda x, *, min_val=-1.0, max_val=1.0: ops.minimum(ops.maximum(x, min_val), max_val),
    "relu6": lambda x: ops.minimum(ops.maximum(x, 0), 6),
    "threshold": lambda x, *, threshold, value: ops.where(x > threshold, x, value),
    "ndtr": lambda x: (ops.erf(x * math.sqrt(0.5)) + 1) * 0.5,
    "logaddexp": lambda x1, x2: ops.maximum(x1, x2) + ops.log1p(ops.exp(-ops.abs(x1 - x2))),
}

_VIEWS = ("reshape", "permute_dims", "matrix_transpose", "expand_dims", "squeeze", "moveaxis", "flip", "broadcast_to")

RULES: dict[str, Rule] = {
    **dict.fromkeys(EXPRESSIONS, elementwise),
    **dict.fromkeys(_VIEWS, view),
    **{name: written(function) for name, function in WRITTEN.items()},
    "astype": convert,
    "sum": reduction("sum"),
    "prod": reduction("prod"),
    "max": reduction("max"),
    "min": reduction("min"),
    "sum_to": sum_to,
    "matmul": matmul,
    "getitem": getitem,
    "scatter_add": scatter_add,
    "concat": concat,
    "pad": pad,
    "tril": triangle,
    "triu": triangle,
}
del RULES["copy"]
