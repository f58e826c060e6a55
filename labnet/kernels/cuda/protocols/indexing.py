"""Reading, writing and adding at an index of NumPy."""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import materialize_readers
from labnet.kernels.cuda.array.hazards import write as write_expression
from labnet.kernels.cuda.array.operands import as_operand
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.driver.kernel import Dtype
from labnet.kernels.cuda.kernels import scatter
from labnet.kernels.cuda.kernels.scatter import Selection
from labnet.kernels.cuda.protocols.index_parsing import is_basic, is_copied, is_mask, parse_index, select_elements, view


def read(x: DeviceArray, key: Any) -> DeviceArray:
    """Return ``x[key]``."""
    parts = parse_index(key)
    if is_basic(parts):
        found = x.view_of(view(x.layout, parts))
        return found.copy() if is_copied(key, found.ndim) else found
    selection = select_elements(x.layout, parts)
    out = DeviceArray.empty(selection.shape, x.dtype)
    if out.size:
        scatter.run("read", x, selection, out)
    return out.view_of(selection.moved(out.layout)) if selection.before else out


def write(x: DeviceArray, key: Any, value: Any) -> None:
    """Write ``x[key] = value``."""
    parts = parse_index(key)
    if type(value) is int:
        np.asarray(value, x.dtype)  # raises OverflowError if it is out of range
    if isinstance(value, np.ndarray) and value.ndim:
        value = DeviceArray.upload(value)
    if is_basic(parts):
        target = x.view_of(view(x.layout, parts)) if parts != (...,) else x
        _assign(target, value)
        return
    if _fills(x, parts, value):
        return
    selection = select_elements(x.layout, parts)
    values = _values(value, selection, x.dtype)
    if values.size:
        x.materialize()
        materialize_readers(x.block)
        scatter.run("write", x, selection, values)


def _fills(x: DeviceArray, parts: tuple[Any, ...], value: Any) -> bool:
    """Write one value, or one row, at a mask without counting its elements; return whether that is the case."""
    mask, *more = (part for part in parts if part is not ...)
    if more or parts[0] is ... or not isinstance(mask, DeviceArray) or not is_mask(mask) or not mask.ndim:
        return False
    shape, rest = getattr(value, "shape", ()), x.shape[mask.ndim :]
    if mask.shape != x.shape[: mask.ndim] or len(shape) > len(rest) or np.broadcast_shapes(shape, rest) != rest:
        return False
    nodes = [
        as_operand(operand, x.shape)
        for operand in (mask.reshape(mask.shape + (1,) * len(rest)), value, x.materialize())
    ]
    write_expression(x, Node("where", x.dtype, (nodes[0], cast(nodes[1], x.dtype), nodes[2])))
    return True


def _assign(target: DeviceArray, value: Any) -> None:
    shape: tuple[int, ...] = getattr(value, "shape", ())
    while len(shape) > target.ndim and shape[0] == 1:  # NumPy drops leading dimensions of length 1
        value = value[0]
        shape = value.shape
    if np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"could not broadcast input array from shape {shape} into shape {target.shape}")
    if isinstance(value, DeviceArray) and value.shape != target.shape:
        value = value.materialize()
    node = (
        value.materialize().node()
        if isinstance(value, DeviceArray) and value.expression is None
        else as_operand(value, shape)
    )
    write_expression(target, cast(node, target.dtype))


def _values(value: Any, selection: Selection, dtype: Dtype) -> DeviceArray:
    """Return one value for each selected element, the dimensions of the arrays first."""
    shape = selection.moved(np.broadcast_to(np.empty((), bool), selection.shape)).shape
    if not isinstance(value, DeviceArray):
        return DeviceArray.filled(selection.shape, as_operand(value, ()).payload, dtype)
    value = value.materialize()
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value.reshape(value.shape[1:])
    whole = selection.in_front(np.broadcast_to(value.layout, shape))
    found: DeviceArray = value.view_of(whole).astype(dtype, copy=False).copy()
    return found


def add_at(x: DeviceArray, key: Any, value: Any) -> None:
    """Compute ``np.add.at(x, key, value)``; the values of an element are added in their order."""
    parts = parse_index(key)
    if is_basic(parts):
        target: Any = x.view_of(view(x.layout, parts))
        target += value
        return
    selection = select_elements(x.layout, parts)
    values = _values(value, selection, x.dtype)
    if not values.size:
        return
    materialize_readers(x.block)
    scatter.run("add", x, selection, values)
