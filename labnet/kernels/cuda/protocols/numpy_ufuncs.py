"""NumPy's universal functions on arrays of the GPU: calls, reductions, and adding at an index."""

import functools
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray, as_operand, given, mixed
from labnet.kernels.cuda.array.hazards import write
from labnet.kernels.cuda.codegen import expressions
from labnet.kernels.cuda.codegen.expressions import Node, NotInKernels
from labnet.kernels.cuda.kernels import matmul, reduce

#: Functions that a block of `reductions` stands for.
_REDUCING = {"add", "multiply", "maximum", "minimum", "logical_and", "logical_or"}


def call(ufunc: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Carry out what ``__array_ufunc__`` was asked for."""
    if method == "__call__":
        if ufunc is not np.matmul:
            return _call(ufunc, inputs, named)
        found = matmul.matmul(*inputs)
        return _into(found, named.pop("out")) if named else found
    if method == "reduce" and ufunc.__name__ in _REDUCING:
        return reduce.reduce(ufunc, *inputs, **named)
    if method == "at" and ufunc is np.add:
        from labnet.kernels.cuda.protocols import indexing

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
        types = tuple([value.dtype if type(value) is DeviceArray else given(value) for value in inputs])
        node = expressions.apply(ufunc, tuple([as_operand(value, shape) for value in inputs]), types)
    except NotInKernels:
        return _into(on_host(ufunc, inputs, named), target)
    if target is None:
        return DeviceArray.pending(node, shape)
    return put(target, node, shape)


def put(target: Any, node: Node, shape: tuple[int, ...]) -> Any:
    """Write an expression into an array: at once, or where that is pending itself, in its place."""
    if not isinstance(target, DeviceArray):
        raise mixed(target)
    if np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"non-broadcastable output operand with shape {target.shape} for the shape {shape}")
    if not np.can_cast(node.dtype, target.dtype, "same_kind"):
        raise TypeError(f"cannot cast output from {node.dtype!r} to {target.dtype!r} with casting rule 'same_kind'")
    if target._node is not None and shape == target.shape:
        target._node = expressions.cast(node, target.dtype)
        if target._node.size > 48:
            target.settle()
    else:
        write(target, node)
    return target


def _into(result: Any, out: Any) -> Any:
    target = out[0] if isinstance(out, tuple) else out
    return result if target is None else put(target, result.operand(result.shape), result.shape)


def to_host(value: Any) -> Any:
    """Return a value with every array of the GPU replaced by a copy on the host."""
    if isinstance(value, DeviceArray):
        return value.host()
    if isinstance(value, tuple | list):
        return type(value)(map(to_host, value))
    return value


def to_device(value: Any) -> Any:
    """Return a value with every array of the host replaced by a copy on the GPU."""
    if isinstance(value, np.ndarray | np.generic):
        return DeviceArray.upload(np.asarray(value))
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(to_device, value))
    if isinstance(value, tuple | list):
        return type(value)(map(to_device, value))
    return value


def on_host(function: Any, args: Any, named: dict[str, Any]) -> Any:
    """Have NumPy do what no kernel does: the values go to the host and back."""
    with np.errstate(all="ignore"):
        found = function(*map(to_host, args), **{name: to_host(value) for name, value in named.items()})
    return to_device(found)
