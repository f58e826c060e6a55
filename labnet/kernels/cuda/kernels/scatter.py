"""Reading, writing and adding elements at given places of an array.

Places that several values go to are sorted first, stably. So one thread has all values of an element, and adds them up
in their order or writes the last of them: the same values give the same bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.codegen.iteration import Space, grid_for, parts_text, place_text, strides_in, without_branches
from labnet.kernels.cuda.codegen.scalars import loaded, stored, working
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer
from labnet.kernels.cuda.kernels import sort

Host = np.ndarray[Any, Any]
Index = Host | DeviceArray
_kernels: dict[Any, Launch] = {}
#: Values that a thread reads before it adds them up.
_AHEAD = 4


@dataclass
class Places:
    """Elements that an index with arrays names.

    Attributes
    ----------
    starts : array of int64, on the GPU or on the host
        Where each place of the arrays' common shape begins, in elements from the first one.
    rest : layout
        The dimensions that are taken as they are, from the first element.
    before : int
        How many of them come before those of the arrays in the result.
    distinct : bool
        It is known that no place is there twice.
    """

    starts: Index
    rest: Host
    before: int
    distinct: bool = False

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
        run("add", out, Places(starts, rest, 0), values)
    return out


def run(mode: str, x: DeviceArray, places: Places, other: DeviceArray) -> None:
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
