"""Products of matrices and vectors, diagonals and norms."""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.ops.aggregation.einsum import einsum
from labnet.ops.aggregation.linalg import cross, matmul, outer, tensordot, vecdot
from labnet.ops.aggregation.reduction import sum
from labnet.ops.aggregation.statistics import vector_norm
from labnet.ops.layout.shape import (
    astype,
    reshape,
)
from labnet.ops.numpy_api.table import FUNCTIONS, as_tensor, need, of
from labnet.ops.selection.diagonals import diag, diagonal


@of(np.dot)
def _dot(a: Any, b: Any, out: Any = None) -> Any:
    need(out is None)
    x, y = as_tensor(a), as_tensor(b)
    if not (x.ndim and y.ndim):
        return x * y
    return matmul(x, y) if y.ndim == 1 or x.ndim == y.ndim == 2 else tensordot(x, y, axes=((-1,), (-2,)))


@of(np.inner)
def _inner(a: Any, b: Any, /) -> Any:
    x, y = as_tensor(a), as_tensor(b)
    return tensordot(x, y, axes=((-1,), (-1,))) if x.ndim and y.ndim else x * y


@of(np.outer)
def _outer(a: Any, b: Any, out: Any = None) -> Any:
    need(out is None)
    return outer(as_tensor(a), as_tensor(b))


@of(np.vdot)
def _vdot(a: Any, b: Any, /) -> Any:
    return matmul(reshape(as_tensor(a), (-1,)), reshape(as_tensor(b), (-1,)))


@of(np.tensordot)
def _tensordot(a: Any, b: Any, axes: Any = 2) -> Any:
    if not isinstance(axes, int):
        axes = tuple((each,) if isinstance(each, int) else tuple(each) for each in axes)
    return tensordot(a, b, axes=axes)


FUNCTIONS[np.linalg.matmul] = lambda x1, x2, /: matmul(x1, x2)
FUNCTIONS[np.linalg.vecdot] = lambda x1, x2, /, *, axis=-1: vecdot(x1, x2, axis=axis)
FUNCTIONS[np.linalg.tensordot] = lambda x1, x2, /, *, axes=2: _tensordot(x1, x2, axes)
FUNCTIONS[np.linalg.outer] = lambda x1, x2, /: _outer(x1, x2)


@of(np.linalg.multi_dot)
def _multi_dot(arrays: Sequence[Any], *, out: Any = None) -> Any:
    need(out is None)
    return functools.reduce(_dot, arrays)


@of(np.diagonal)
def _diagonal(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1) -> Any:
    return diagonal(as_tensor(a), offset, axis1, axis2)


@of(np.trace)
def _trace(a: Any, offset: int = 0, axis1: int = 0, axis2: int = 1, dtype: Any = None, out: Any = None) -> Any:
    need(out is None)
    return sum(_diagonal(a, offset, axis1, axis2), axis=-1, dtype=dtype)


FUNCTIONS[np.linalg.diagonal] = lambda x, /, *, offset=0: _diagonal(x, offset, -2, -1)
FUNCTIONS[np.linalg.trace] = lambda x, /, *, offset=0, dtype=None: _trace(x, offset, -2, -1, dtype)


@of(np.diag)
def _diag(v: Any, k: int = 0) -> Any:
    x = as_tensor(v)
    need(x.ndim in (1, 2))
    return diag(x, k)


@of(np.einsum)
def _einsum(subscripts: str, /, *operands: Any, out: Any = None, optimize: Any = False) -> Any:
    need(out is None and isinstance(subscripts, str))
    return einsum(*map(as_tensor, operands), subscripts=subscripts)


@of(np.cross)
def _cross(a: Any, b: Any, axisa: int = -1, axisb: int = -1, axisc: int = -1, axis: int | None = None) -> Any:
    x, y = as_tensor(a), as_tensor(b)
    need(axisa == axisb == axisc == -1 and x.shape[-1:] == y.shape[-1:] == (3,) and axis in (None, -1))
    return cross(x, y)


@of(np.linalg.norm)
def _norm(x: Any, ord: Any = None, axis: Any = None, keepdims: bool = False) -> Any:
    y = as_tensor(x)
    pair = axis if isinstance(axis, tuple) else tuple(range(y.ndim)) if axis is None and y.ndim == 2 else ()
    if ord == "fro" and len(pair) == 2:
        return _vector_norm(y, axis=pair, keepdims=keepdims)
    need(ord is None or (isinstance(ord, int | float) and (isinstance(axis, int) or (axis is None and y.ndim == 1))))
    return _vector_norm(y, axis=axis, keepdims=keepdims, ord=2 if ord is None else ord)


@of(np.linalg.vector_norm)
def _vector_norm(x: Any, /, *, axis: Any = None, keepdims: bool = False, ord: Any = 2) -> Any:
    y = as_tensor(x)
    y = y if y.dtype.kind == "f" else astype(y, "float64")
    return vector_norm(y, axis=axis, keepdims=keepdims, ord=ord)


@of(np.linalg.matrix_norm)
def _matrix_norm(x: Any, /, *, keepdims: bool = False, ord: Any = "fro") -> Any:
    need(ord == "fro")
    return _vector_norm(x, axis=(-2, -1), keepdims=keepdims)
