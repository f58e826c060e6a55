"""Compile rules of matrix products."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import DType, Shape, Value, leading
from labnet.compile.trace.rules.elementwise import Static
from labnet.compile.trace.rules.reductions import reduce_value
from labnet.compile.trace.rules.views import reshape_value
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure


def matmul(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Multiply matrices; vectors become matrices, and batches are broadcast."""
    left, right = operands
    try:
        shape = _shape(op, left, right)
        dtype = np.result_type(left.dtype, right.dtype)
    except ValueError as error:
        arrays = tuple(np.broadcast_to(np.zeros((), x.dtype), x.shape) for x in operands)
        raise failure(op.name, arrays, static, error) from None
    if dtype == np.dtype("float16"):  # NumPy sums float16 products in float32, starting from 0
        wide = ops.astype(left, "float32") @ ops.astype(right, "float32")
        return trace.lift(ops.astype(wide + 0.0, dtype))  # type: ignore[no-any-return]
    if dtype.kind != "f":
        return trace.stand_in(reshape_value(trace, _by_sums(trace, left, right, dtype), shape))
    a, b = (trace.lift(ops.astype(x, dtype)) for x in operands)
    a = a if a.ndim > 1 else ops.expand_dims(a, axis=0)
    b = b if b.ndim > 1 else ops.expand_dims(b, axis=1)
    if a.ndim > 2 and b.ndim == 2:  # one large product instead of many
        a = a.reshape((math.prod(a.shape[:-1]), a.shape[-1]))
    batch = np.broadcast_shapes(a.shape[:-2], b.shape[:-2])
    values = [
        as_matrices(trace, trace.lift(ops.broadcast_to(x, (*batch, *x.shape[-2:])) if batch else x).value)
        for x in (a, b)
    ]
    if should_copy_transposed(values[1], a.shape[-2]):
        values[1] = trace.copied(values[1])
    whole = (*batch, a.shape[-2], b.shape[-1])
    if a.shape[-1] == 0:
        return trace.stand_in(trace.builder.splat(0, shape, dtype))
    product = trace.builder.make("matmul", values, shape=whole, dtype=dtype)
    return trace.stand_in(reshape_value(trace, product, shape))


def _shape(op: Op, left: Any, right: Any) -> Shape:
    """Return the shape of a product, from NumPy's product of one row and one column."""
    a, b = left.shape, right.shape
    rows, columns = a[-2:-1], b[-1:] if len(b) > 1 else ()
    thin = ((*a[:-2], *(1 for _ in rows), *a[-1:]), (*b[:-1], *(1 for _ in columns)) if columns else b)
    found = op.forward(*(np.zeros(shape, x.dtype) for shape, x in zip(thin, (left, right), strict=True))).shape
    return (*found[: len(found) - len(rows) - len(columns)], *rows, *columns)


def _by_sums(trace: Trace, left: Any, right: Any, dtype: DType) -> Value:
    """Return a product of integers, which BLAS does not support, as a sum of products."""
    a, b = (ops.astype(x, dtype) for x in (left, right))
    a = a if a.ndim > 1 else ops.expand_dims(a, axis=0)
    b = b if b.ndim > 1 else ops.expand_dims(b, axis=1)
    products = trace.lift(ops.expand_dims(a, axis=-1) * ops.expand_dims(b, axis=-3))
    return reduce_value(trace, "sum", products.value, (products.ndim - 2,), dtype)


def should_copy_transposed(right: Value, rows: int) -> bool:
    """Return whether to copy a transposed matrix before a product, which is faster for small ones."""
    found = leading(right)
    return bool(found and found[0]) and len(right.shape) == 2 and right.size <= 8192 and rows >= 8


def as_matrices(trace: Trace, value: Value) -> Value:
    """Return a value whose last two dimensions have a memory layout that BLAS accepts."""
    if value.kind == "splat" or leading(value) is None:
        return trace.copied(value)
    return value
