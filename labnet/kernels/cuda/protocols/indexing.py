"""Reading, writing and adding at an index.

Places that several values go to are put in order first, stably: so one thread has all that goes to an element, adds it
up in its order or takes the last of it, and the same values give the same bits.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.array.hazards import settle_readers
from labnet.kernels.cuda.array.hazards import write as write_expression
from labnet.kernels.cuda.array.operands import as_operand
from labnet.kernels.cuda.codegen.elementwise import (
    Space,
    grid_for,
    parts_text,
    place_text,
    strides_in,
    without_branches,
)
from labnet.kernels.cuda.codegen.expressions import Node, cast, loaded, stored, working
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer
from labnet.kernels.cuda.kernels import sort
from labnet.kernels.cuda.protocols.index_parsing import (
    Index,
    Places,
    is_basic,
    is_copied,
    is_mask,
    parts_of,
    places_of,
    view,
)

_kernels: dict[Any, Launch] = {}
#: Values that a thread reads before it adds them up.
_AHEAD = 4


def read(x: DeviceArray, key: Any) -> DeviceArray:
    """Return what ``x[key]`` of NumPy is."""
    parts = parts_of(key)
    if is_basic(parts):
        found = x.view_of(view(x.layout, parts))
        return found.copy() if is_copied(key, found.ndim) else found
    places = places_of(x.layout, parts)
    out = DeviceArray.empty(places.shape, x.dtype)
    if out.size:
        _run("read", x, places, out)
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
        _run("write", x, places, values)


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
    _run("add", x, places, values)


def scattered(values: DeviceArray, starts: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """Return zeros with values added at the places where they belong.

    Parameters
    ----------
    values : array
        Contiguous, the same number of elements for each place.
    starts : array of int64
        Contiguous: where each place begins, in elements of the result.
    shape : tuple of int
        Of the result.
    """
    out = DeviceArray.filled(shape, 0, values.dtype)
    if values.size:
        rest = layout_at(out.address, (values.size // starts.size,), values.dtype)
        _run("add", out, Places(starts, rest, 0), values)
    return out


def _run(mode: str, x: DeviceArray, places: Places, other: DeviceArray) -> None:
    """Read, write or add the elements at places, between `x` and `other`, which is contiguous."""
    gpu = machine()
    space = Space.of(places.rest.shape, [strides_in(places.rest, places.rest.shape)])
    dims = max(1, len(space.lengths))
    kind = "".join("01"[step != 0] for step in space.strides[0])
    each = places.rest.size
    size = places.starts.size * each
    in_order = mode != "read" and not places.distinct
    key = mode, kind, dims, x.dtype, in_order
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*text_of(mode, kind, dims, x.dtype, in_order=in_order))
    tables = _in_order(places.starts) if in_order else [_there(places.starts)]
    lengths, steps = space.lengths[1:], [s for s in space.strides[0] if s]
    launch(
        (grid_for(size, gpu.threads),),
        (gpu.threads,),
        *(size, each, *lengths, *steps),
        *[table.address for table in tables],
        x.address,
        other.address,
    )


def _there(table: Index) -> DeviceArray:
    return table.settle() if isinstance(table, DeviceArray) else DeviceArray.upload(table)


def _in_order(starts: Index) -> list[DeviceArray]:
    """Return places in ascending order, and for each which one it was: equal ones stay in theirs."""
    if isinstance(starts, DeviceArray):
        return list(sort.in_order(starts.reshape(-1)))
    flat = starts.ravel()
    order = np.argsort(flat, kind="stable")
    return [DeviceArray.upload(flat[order]), DeviceArray.upload(order.astype(np.int64, copy=False))]


def _added(one: str, other: str, dtype: Dtype) -> str:
    """Return the text of a sum of two values, in the dtype that is computed in."""
    return f"({one} or {other})" if dtype.kind == "b" else f"{CASTS[working(dtype)]}({one} + {other})"


def _adding(dtype: Dtype) -> list[str]:
    """Return statements that add what goes to one place, in order; some is read ahead, since each waits for memory."""

    def value(ahead: int) -> str:
        place = f"which + {ahead}" if ahead else "which"
        return loaded(f"other[order[{place}] * each + rest]", dtype)

    first = loaded("x[at]", dtype)
    lines = [f"total = {first if dtype.kind == 'b' else f'{CASTS[working(dtype)]}({first})'}"]
    lines.append(f"while which + {_AHEAD - 1} < count and starts[which + {_AHEAD - 1}] == start:")
    lines += [f"    value{ahead} = {value(ahead)}" for ahead in range(_AHEAD)]
    lines += [f"    total = {_added('total', f'value{ahead}', dtype)}" for ahead in range(_AHEAD)]
    lines += [f"    which += {_AHEAD}", "while which < count and starts[which] == start:"]
    lines += [f"    total = {_added('total', value(0), dtype)}", "    which += 1"]
    return [*lines, f"x[at] = {stored('total', dtype)}"]


def text_of(mode: str, kind: str, dims: int, dtype: Dtype, *, in_order: bool) -> tuple[str, list[str]]:
    """Return the text of the kernel that reads, writes or adds at places, and the types of its arguments.

    Where several values may go to one place it gets the places in order: the last of equal ones is written, the first
    adds up all of them.
    """
    lengths = [f"n{axis}" for axis in range(1, dims)]
    steps = [f"s0_{axis}" for axis, moves in enumerate(kind) if moves == "1"]
    tables = ["starts", "order"] if in_order else ["starts"]
    lines = [
        f"def kernel({', '.join(['n', 'each', *lengths, *steps, *tables, 'x', 'other'])}):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    count = n // each",
        "    while i < n:",
        "        which = i // each",
        "        rest = i % each",
        "        start = starts[which]",
    ]
    inner = without_branches(parts_text("rest", dims), narrow=False)
    inner.append(f"at = start + {place_text(kind, 0, 'rest') if steps else '0'}")
    if mode == "read":
        inner.append("other[i] = x[at]")
    elif not in_order:
        both = loaded("x[at]", dtype), loaded("other[i]", dtype)
        inner.append(f"x[at] = {'other[i]' if mode == 'write' else stored(_added(*both, dtype), dtype)}")
    elif mode == "write":
        inner += [
            "if which + 1 == count or starts[which + 1] != start:",
            "    x[at] = other[order[which] * each + rest]",
        ]
    else:
        inner.append("if which == 0 or starts[which - 1] != start:")
        inner += ["    " + line for line in _adding(dtype)]
    inner.append("i += step")
    lines += ["        " + line for line in inner]
    types = ["i8"] * (2 + len(lengths) + len(steps)) + ["pi8"] * len(tables) + [pointer(dtype)] * 2
    return "\n".join(lines) + "\n", types
