"""NumPy's universal functions on arrays of the GPU: calls, reductions, and adding at an index."""

import functools
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import write_out
from labnet.kernels.cuda.array.operands import as_operand, mixed, promotion_type
from labnet.kernels.cuda.codegen import expressions
from labnet.kernels.cuda.codegen.scalars import NotInKernels
from labnet.kernels.cuda.kernels import matmul, reduce
from labnet.kernels.cuda.protocols import indexing
from labnet.kernels.cuda.protocols.host_fallback import on_host

#: Functions that `kernels.reduce` computes.
_REDUCING = {"add", "multiply", "maximum", "minimum", "logical_and", "logical_or"}


def call(ufunc: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Answer ``__array_ufunc__``."""
    if method == "__call__":
        if ufunc is not np.matmul:
            return _call(ufunc, inputs, named)
        found = matmul.matmul(*inputs)
        return _into(found, named.pop("out")) if named else found
    if method == "reduce" and ufunc.__name__ in _REDUCING:
        return reduce.reduce(ufunc, *inputs, **named)
    if method == "at" and ufunc is np.add:
        return indexing.add_at(*inputs)
    return on_host(getattr(ufunc, method), inputs, named)


_broadcast = functools.lru_cache(4096)(np.broadcast_shapes)


def _call(ufunc: Any, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    target = None
    if named:
        out = named.pop("out", None)
        target = out[0] if isinstance(out, tuple) else out
        if named.pop("where", True) is not True or named:
            return _into(on_host(ufunc, inputs, named), target)
    shapes = []
    for value in inputs:
        if type(value) is DeviceArray:
            shapes.append(value.shape)
            continue
        shape = getattr(value, "shape", ())
        if shape and not isinstance(value, DeviceArray):
            raise mixed(value)
        shapes.append(shape)
    shape = shapes[0]
    for other in shapes[1:]:
        if other != shape:
            shape = _broadcast(*shapes)
            break
    try:
        types = tuple([value.dtype if type(value) is DeviceArray else promotion_type(value) for value in inputs])
        node = expressions.apply(ufunc, tuple([as_operand(value, shape) for value in inputs]), types)
    except NotInKernels:
        return _into(on_host(ufunc, inputs, named), target)
    if target is None:
        return DeviceArray.pending(node, shape)
    return write_out(target, node, shape)


def _into(result: Any, out: Any) -> Any:
    target = out[0] if isinstance(out, tuple) else out
    return result if target is None else write_out(target, result.operand(result.shape), result.shape)
