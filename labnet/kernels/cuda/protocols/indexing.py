"""Reading, writing and adding at an index.

Places that several values go to are put in order first, stably: so one thread has all that goes to an element, adds it
up in its order or takes the last of it, and the same values give the same bits.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import settle_readers
from labnet.kernels.cuda.array.hazards import write as write_expression
from labnet.kernels.cuda.array.operands import as_operand
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.driver.kernel import Dtype
from labnet.kernels.cuda.kernels import scatter
from labnet.kernels.cuda.kernels.scatter import Places
from labnet.kernels.cuda.protocols.index_parsing import is_basic, is_copied, is_mask, parts_of, places_of, view


def read(x: DeviceArray, key: Any) -> DeviceArray:
    """Return what ``x[key]`` of NumPy is."""
    parts = parts_of(key)
    if is_basic(parts):
        found = x.view_of(view(x.layout, parts))
        return found.copy() if is_copied(key, found.ndim) else found
    places = places_of(x.layout, parts)
    out = DeviceArray.empty(places.shape, x.dtype)
    if out.size:
        scatter.run("read", x, places, out)
    return out.view_of(places.moved(out.layout)) if places.before else out


def write(x: DeviceArray, key: Any, value: Any) -> None:
    """Carry out ``x[key] = value``."""
    parts = parts_of(key)
    if type(value) is int:
        np.asarray(value, x.dtype)  # which complains where it is beyond
    if isinstance(value, np.ndarray) and value.ndim:
        value = DeviceArray.upload(value)
    if is_basic(parts):
        target = x.view_of(view(x.layout, parts)) if parts != (...,) else x
        _assign(target, value)
        return
    if _fills(x, parts, value):
        return
    places = places_of(x.layout, parts)
    values = _values(value, places, x.dtype)
    if values.size:
        x.settle()
        settle_readers(x._block)
        scatter.run("write", x, places, values)


def _fills(x: DeviceArray, parts: tuple[Any, ...], value: Any) -> bool:
    """Write what every place of a mask gets, which takes no question how many they are; tell whether it is that."""
    mask, *more = (part for part in parts if part is not ...)
    if more or parts[0] is ... or not isinstance(mask, DeviceArray) or not is_mask(mask) or not mask.ndim:
        return False
    shape, rest = getattr(value, "shape", ()), x.shape[mask.ndim :]
    if mask.shape != x.shape[: mask.ndim] or len(shape) > len(rest) or np.broadcast_shapes(shape, rest) != rest:
        return False
    nodes = [
        as_operand(operand, x.shape) for operand in (mask.reshape(mask.shape + (1,) * len(rest)), value, x.settle())
    ]
    write_expression(x, Node("where", x.dtype, (nodes[0], cast(nodes[1], x.dtype), nodes[2])))
    return True


def _assign(target: DeviceArray, value: Any) -> None:
    shape: tuple[int, ...] = getattr(value, "shape", ())
    while len(shape) > target.ndim and shape[0] == 1:  # NumPy drops leading dimensions of length one
        value = value[0]
        shape = value.shape
    if np.broadcast_shapes(shape, target.shape) != target.shape:
        raise ValueError(f"could not broadcast input array from shape {shape} into shape {target.shape}")
    if isinstance(value, DeviceArray) and value.shape != target.shape:
        value = value.settle()
    node = value.settle().node() if isinstance(value, DeviceArray) and value._node is None else as_operand(value, shape)
    write_expression(target, cast(node, target.dtype))


def _values(value: Any, places: Places, dtype: Dtype) -> DeviceArray:
    """Return the values of a write, one for each element, the dimensions of the arrays first."""
    shape = places.moved(np.broadcast_to(np.empty((), bool), places.shape)).shape
    if not isinstance(value, DeviceArray):
        return DeviceArray.filled(places.shape, as_operand(value, ()).payload, dtype)
    value = value.settle()
    while value.ndim > len(shape) and value.shape[0] == 1:
        value = value.reshape(value.shape[1:])
    whole = places.in_front(np.broadcast_to(value.layout, shape))
    found: DeviceArray = value.view_of(whole).astype(dtype, copy=False).copy()
    return found


def add_at(x: DeviceArray, key: Any, value: Any) -> None:
    """Carry out ``np.add.at(x, key, value)``: what goes to one place is added up in its order."""
    parts = parts_of(key)
    if is_basic(parts):
        target: Any = x.view_of(view(x.layout, parts))
        target += value
        return
    places = places_of(x.layout, parts)
    values = _values(value, places, x.dtype)
    if not values.size:
        return
    settle_readers(x._block)
    scatter.run("add", x, places, values)
