"""Reading, writing and adding at an index.

Slices and integers are views. Integer and boolean arrays become places in memory, worked out on the host: a place that
is out of bounds is an error there and then, and of several values for one place the last one stays, as in NumPy.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.array import DeviceArray, as_operand, layout_at
from labnet.kernels.cuda.elementwise import (
    Space,
    address,
    grid_for,
    parts_text,
    place_text,
    strides_in,
    without_branches,
)
from labnet.kernels.cuda.expressions import CASTS, Dtype, cast, loaded, stored, working
from labnet.kernels.cuda.machine import machine
from labnet.kernels.cuda.overwriting import settle_readers
from labnet.kernels.cuda.overwriting import write as write_expression
from labnet.kernels.cuda.texts import Launch, pointer

Host = np.ndarray[Any, Any]

_kernels: dict[Any, Launch] = {}
_BASIC = (int, np.integer, slice, type(None), type(...))


def _parts(key: Any) -> tuple[Any, ...]:
    parts = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    for part in parts:
        if isinstance(part, DeviceArray):
            plain.append(part.host() if part.ndim or part.dtype.kind == "b" else int(part.host()))
        elif isinstance(part, bool | np.bool_):
            plain.append(np.asarray(part))
        elif isinstance(part, _BASIC):
            plain.append(part)
        else:
            plain.append(np.asarray(part))
    return tuple(plain)


def _is_basic(parts: tuple[Any, ...]) -> bool:
    return all(isinstance(part, _BASIC) for part in parts)


def _view(layout: Host, parts: tuple[Any, ...]) -> Host:
    """Return the view of a layout at a basic index; never an element, which would be read."""
    if not any(part is ... for part in parts):
        parts = (*parts, ...)
    found: Host = layout[parts]
    return found


@dataclass
class Places:
    """Elements that an index with arrays names.

    Attributes
    ----------
    starts : array of int64
        Where each place of the arrays' common shape begins, in elements from the first one.
    rest : layout
        The dimensions that are taken as they are, from the first element.
    before : int
        How many of them come before those of the arrays in the result.
    """

    starts: Host
    rest: Host
    before: int

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the result, the dimensions of the arrays first."""
        return (*self.starts.shape, *self.rest.shape)

    def moved(self, layout: Host) -> Host:
        """Put the dimensions of the arrays where NumPy has them."""
        ndim = self.starts.ndim
        return np.moveaxis(layout, range(ndim), range(self.before, self.before + ndim)) if ndim else layout

    def in_front(self, layout: Host) -> Host:
        """Undo `moved`."""
        ndim = self.starts.ndim
        return np.moveaxis(layout, range(self.before, self.before + ndim), range(ndim)) if ndim else layout


def _dimensions_of(part: Any) -> int:
    """Return how many dimensions of the array a part of an index is for."""
    if part is None or part is ...:
        return 0
    return part.ndim if isinstance(part, np.ndarray) and part.dtype.kind == "b" else 1


def _places(layout: Host, parts: tuple[Any, ...]) -> Places:
    """Work out which elements an index with arrays names."""
    spread: list[Any] = []
    for part in parts:
        if isinstance(part, np.ndarray) and part.dtype.kind == "b" and not part.ndim:
            raise IndexError("a single truth value as an index is not supported on 'cuda'")
        spread.append(part)
    taken = sum(
        p.ndim if isinstance(p, np.ndarray) and p.dtype.kind == "b" else p is not None and p is not ... for p in spread
    )
    if taken > layout.ndim:
        raise IndexError(f"too many indices for array: array is {layout.ndim}-dimensional, but {taken} were indexed")
    if not any(part is ... for part in spread):
        spread.append(...)
    at = next(i for i, part in enumerate(spread) if part is ...)
    spread[at : at + 1] = [slice(None)] * (layout.ndim - taken)
    basic: list[Any] = []
    arrays: list[tuple[int, Host]] = []  # axis after the slices, and index
    order: list[bool] = []
    axis, source = 0, 0
    for part in spread:
        if part is None:
            basic.append(None)
            axis += 1
            order.append(False)
        elif isinstance(part, slice):
            basic.append(part)
            axis += 1
            source += 1
            order.append(False)
        else:
            index = np.asarray(part)
            if index.dtype.kind == "b":
                if index.shape != layout.shape[source : source + index.ndim]:
                    raise IndexError(
                        f"boolean index did not match indexed array along axis {source}: "
                        f"the index has shape {index.shape}, the array {layout.shape}"
                    )
                found = index.nonzero()
            elif index.dtype.kind in "iu" or not index.size:
                found = (index.astype(np.int64),)
            else:
                raise IndexError("arrays used as indices must be of integer (or boolean) type")
            for one in found:
                basic.append(slice(None))
                arrays.append((axis, one))
                axis += 1
                source += 1
                order.append(True)
    view = _view(layout, tuple(basic))
    shape = np.broadcast_shapes(*(index.shape for _, index in arrays))
    starts = np.zeros(shape, np.int64)
    for place, index in arrays:
        length = view.shape[place]
        if index.size and (index.min() < -length or index.max() >= length):
            wrong = index[(index < -length) | (index >= length)].ravel()[0]
            raise IndexError(f"index {wrong} is out of bounds for axis {place} with size {length}")
        starts = starts + np.where(index < 0, index + length, index) * (view.strides[place] // view.itemsize)
    first, last = order.index(True), len(order) - order[::-1].index(True)
    together = all(order[first:last])
    kept = [(n, s) for n, s, is_taken in zip(view.shape, view.strides, order, strict=True) if not is_taken]
    rest = layout_at(address(view), tuple(n for n, _ in kept), view.dtype, tuple(s for _, s in kept))
    begin = address(view) - address(layout)
    return Places(np.asarray(starts + begin // layout.itemsize), rest, first if together else 0)


def read(x: DeviceArray, key: Any) -> DeviceArray:
    """Return what ``x[key]`` of NumPy is."""
    parts = _parts(key)
    if _is_basic(parts):
        return x.view_of(_view(x.layout, parts))
    places = _places(x.layout, parts)
    out = DeviceArray.empty(places.shape, x.dtype)
    if out.size:
        _run("read", x, places, out)
    return out.view_of(places.moved(out.layout)) if places.before else out


def write(x: DeviceArray, key: Any, value: Any) -> None:
    """Carry out ``x[key] = value``."""
    parts = _parts(key)
    if isinstance(value, np.ndarray) and value.ndim and not isinstance(value, DeviceArray):
        value = DeviceArray.upload(value)
    if _is_basic(parts):
        target = x.view_of(_view(x.layout, parts)) if parts != (...,) else x
        _assign(target, value)
        return
    places = _places(x.layout, parts)
    if not places.starts.size:
        return
    values = _values(value, places, x.dtype)
    starts, kept = _last_of_each(places.starts)
    if kept is not None:
        flat = values.reshape((places.starts.size, *places.rest.shape))
        values = read(flat, kept).copy()
        places = Places(starts, places.rest, 0)
    x.settle()
    settle_readers(x._block)
    if values.size:
        _run("write", x, places, values)


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


def _last_of_each(starts: Host) -> tuple[Host, Host | None]:
    """Return the places without repetitions, and which ones stayed, or None for all."""
    flat = starts.ravel()
    unique, back = np.unique(flat[::-1], return_index=True)
    if unique.size == flat.size:
        return starts, None
    return unique, flat.size - 1 - back


def add_at(x: DeviceArray, key: Any, value: Any) -> None:
    """Carry out ``np.add.at(x, key, value)``: what goes to one place is added up in its order."""
    parts = _parts(key)
    if _is_basic(parts):
        view: Any = read(x, key)
        view += value
        return
    places = _places(x.layout, parts)
    values = _values(value, places, x.dtype)
    if not values.size:
        return
    flat = places.starts.ravel()
    order = np.argsort(flat, kind="stable")
    unique, first = np.unique(flat[order], return_index=True)
    bounds = np.append(first, flat.size)
    settle_readers(x._block)
    _run("add", x, Places(unique, places.rest, 0), values, order, bounds)


def _run(mode: str, x: DeviceArray, places: Places, other: DeviceArray, *tables: Host) -> None:
    """Read, write or add the elements at places, between `x` and `other`, which is contiguous."""
    gpu = machine()
    space = Space.of(places.rest.shape, [strides_in(places.rest, places.rest.shape)])
    dims = max(1, len(space.lengths))
    kind = "".join("01"[step != 0] for step in space.strides[0])
    each = places.rest.size
    size = places.starts.size * each
    key = mode, kind, dims, x.dtype
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*text_of(mode, kind, dims, x.dtype))
    uploaded = [DeviceArray.upload(np.asarray(table, np.int64)) for table in (places.starts.ravel(), *tables)]
    lengths, steps = space.lengths[1:], [s for s in space.strides[0] if s]
    launch(
        (grid_for(size, gpu.threads),),
        (gpu.threads,),
        *(size, each, *lengths, *steps),
        *[table.address for table in uploaded],
        x.address,
        other.address,
    )


def text_of(mode: str, kind: str, dims: int, dtype: Dtype) -> tuple[str, list[str]]:
    """Return the text of the kernel that reads, writes or adds at places, and the types of its arguments."""
    lengths = [f"n{axis}" for axis in range(1, dims)]
    steps = [f"s0_{axis}" for axis, moves in enumerate(kind) if moves == "1"]
    tables = ["starts", "order", "bounds"] if mode == "add" else ["starts"]
    lines = [
        f"def kernel({', '.join(['n', 'each', *lengths, *steps, *tables, 'x', 'other'])}):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        "        which = i // each",
        "        rest = i % each",
    ]
    inner = without_branches(parts_text("rest", dims), narrow=False)
    inner.append(f"at = starts[which] + {place_text(kind, 0, 'rest') if steps else '0'}")
    work = working(dtype)
    if mode == "read":
        inner.append("other[i] = x[at]")
    elif mode == "write":
        inner.append("x[at] = other[i]")
    elif dtype.kind == "b":
        inner += ["total = x[at] != 0", "j = bounds[which]", "while j < bounds[which + 1]:"]
        inner += [
            "    total = total or other[order[j] * each + rest] != 0",
            "    j += 1",
            "x[at] = u1(1 if total else 0)",
        ]
    else:
        cast_name = CASTS[work]
        inner += [f"total = {cast_name}({loaded('x[at]', dtype)})", "j = bounds[which]", "while j < bounds[which + 1]:"]
        value = loaded("other[order[j] * each + rest]", dtype)
        inner += [f"    total = {cast_name}(total + {value})", "    j += 1", f"x[at] = {stored('total', dtype)}"]
    inner.append("i += step")
    lines += ["        " + line for line in inner]
    types = ["i8"] * (2 + len(lengths) + len(steps)) + ["pi8"] * len(tables) + [pointer(dtype)] * 2
    return "\n".join(lines) + "\n", types


def along(mode: str, x: DeviceArray, indices: Any, axis: int, other: DeviceArray) -> None:
    """Read or write the element that an index names along one dimension, for all others in step.

    `x` and the indices may have any strides, `other` is contiguous and has the shape of the indices. Indices beyond the
    ends are taken as the nearest end: who calls has checked them.
    """
    if not isinstance(indices, DeviceArray):
        indices = DeviceArray.upload(np.asarray(indices))
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    indices = indices.astype(np.int64, copy=False).settle()
    layout = x.layout
    own = [
        stride // layout.itemsize if length > 1 else 0
        for length, stride in zip(layout.shape, layout.strides, strict=True)
    ]
    step, own[axis] = own[axis], 0
    _step_along(mode, x, indices, other, x.shape[axis], step, own)


def _step_along(
    mode: str, x: DeviceArray, indices: DeviceArray, other: DeviceArray, length: int, step: int, own: Sequence[int]
) -> None:
    """Read or write ``x[index * step + ...]`` for all indices, where the dots are the strides `own` of each place."""
    gpu, shape = machine(), other.shape
    space = Space.of(shape, [strides_in(indices.layout, shape), own])
    dims = max(1, len(space.lengths))
    kinds = tuple("".join("01"[s != 0] for s in strides) for strides in space.strides)
    key = "along", mode, kinds, dims, x.dtype
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*along_text(mode, kinds, dims, x.dtype))
    steps = [s for strides in space.strides for s in strides if s]
    launch(
        (grid_for(other.size, gpu.threads),),
        (gpu.threads,),
        *(other.size, length, step, *space.lengths[1:], *steps),
        indices.address,
        x.address,
        other.address,
    )


def gather(x: DeviceArray, places: DeviceArray, shape: tuple[int, ...], within: Sequence[int]) -> DeviceArray:
    """Return elements of a contiguous array at places that another one holds.

    Parameters
    ----------
    x : array
    places : array of int64
        Positions of elements, in a shape that broadcasts to `shape`.
    shape : tuple of int
    within : sequence of int
        Elements to step from a place along the last dimensions.
    """
    out = DeviceArray.empty(shape, x.dtype)
    if out.size:
        before = len(shape) - len(within)
        own = [0] * before + [0 if n == 1 else step for n, step in zip(shape[before:], within, strict=True)]
        _step_along("read", x, places, out, max(1, x.size), 1, own)
    return out


def along_text(mode: str, kinds: tuple[str, ...], dims: int, dtype: Dtype) -> tuple[str, list[str]]:
    """Return the text of the kernel of `along`, and the types of its arguments."""
    lengths = [f"n{axis}" for axis in range(1, dims)]
    steps = [f"s{i}_{axis}" for i, kind in enumerate(kinds) for axis, moves in enumerate(kind) if moves == "1"]
    lines = [
        f"def kernel({', '.join(['n', 'length', 'stride', *lengths, *steps, 'indices', 'x', 'other'])}):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
    ]
    inner = without_branches(parts_text("i", dims), narrow=False)
    inner += [f"which = indices[{place_text(kinds[0], 0, 'i') if '1' in kinds[0] else '0'}]"]
    inner += ["which = which + length if which < 0 else which", "which = max(i8(0), min(which, length - 1))"]
    inner.append(f"at = which * stride + {place_text(kinds[1], 1, 'i') if '1' in kinds[1] else '0'}")
    inner += ["other[i] = x[at]" if mode == "read" else "x[at] = other[i]", "i += step"]
    lines += ["        " + line for line in inner]
    types = ["i8"] * (3 + len(lengths) + len(steps)) + ["pi8"] + [pointer(dtype)] * 2
    return "\n".join(lines) + "\n", types
