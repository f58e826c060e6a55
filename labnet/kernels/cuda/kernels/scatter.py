"""Reading, writing and adding at the elements that an index selects.

Elements that get several values are sorted first, stably. So one thread has all values of an element, and adds them in
their order or writes the last of them: the same values give the same bits.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.codegen.iteration import (
    Space,
    grid_for,
    index_source,
    offset_source,
    strides_in,
    with_index_width,
)
from labnet.kernels.cuda.codegen.scalars import load_source, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer
from labnet.kernels.cuda.kernels import sort

Host = np.ndarray[Any, Any]
Index = Host | DeviceArray
_kernels: dict[Any, Launch] = {}
#: Values that a thread reads before it adds them up.
_AHEAD = 4


@dataclass
class Selection:
    """The elements that an index with arrays selects.

    Attributes
    ----------
    starts : array of int64, on the GPU or on the host
        Offset, in elements, of each position of the arrays' common shape.
    rest : layout
        Layout of the dimensions without an array, from the first element.
    before : int
        Number of those dimensions before the ones of the arrays in the result.
    distinct : bool
        No element is selected twice.
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
        """Move the dimensions of the arrays from the front to where NumPy has them."""
        ndim = self.starts.ndim
        return np.moveaxis(layout, range(ndim), range(self.before, self.before + ndim)) if ndim else layout

    def in_front(self, layout: Host) -> Host:
        """Move the dimensions of the arrays to the front."""
        ndim = self.starts.ndim
        return np.moveaxis(layout, range(self.before, self.before + ndim), range(ndim)) if ndim else layout


def scatter_add(values: DeviceArray, starts: DeviceArray, shape: tuple[int, ...]) -> DeviceArray:
    """Return zeros with values added at offsets.

    Parameters
    ----------
    values : array
        Contiguous, the same number of elements for each offset.
    starts : array of int64
        Contiguous offsets, in elements of the result.
    shape : tuple of int
        Shape of the result.
    """
    out = DeviceArray.filled(shape, 0, values.dtype)
    if values.size:
        rest = layout_at(out.address, (values.size // starts.size,), values.dtype)
        run("add", out, Selection(starts, rest, 0), values)
    return out


def run(mode: str, x: DeviceArray, selection: Selection, other: DeviceArray) -> None:
    """Read selected elements of `x` into `other`, or write or add those of `other`, which is contiguous."""
    gpu = current_gpu()
    space = Space.of(selection.rest.shape, [strides_in(selection.rest, selection.rest.shape)])
    dims = max(1, len(space.lengths))
    kind = "".join("01"[step != 0] for step in space.strides[0])
    each = selection.rest.size
    size = selection.starts.size * each
    in_order = mode != "read" and not selection.distinct
    key = mode, kind, dims, x.dtype, in_order
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(mode, kind, dims, x.dtype, in_order=in_order))
    tables = _sorted(selection.starts) if in_order else [_there(selection.starts)]
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
    return table.materialize() if isinstance(table, DeviceArray) else DeviceArray.upload(table)


def _sorted(starts: Index) -> list[DeviceArray]:
    """Return offsets in ascending order, sorted stably, and the positions that they had."""
    if isinstance(starts, DeviceArray):
        return list(sort.sort_rows(starts.reshape(-1)))
    flat = starts.ravel()
    order = np.argsort(flat, kind="stable")
    return [DeviceArray.upload(flat[order]), DeviceArray.upload(order.astype(np.int64, copy=False))]


def _added(one: str, other: str, dtype: Dtype) -> str:
    """Return the source of a sum of two values, in the dtype that is computed in."""
    return f"({one} or {other})" if dtype.kind == "b" else f"{CASTS[working(dtype)]}({one} + {other})"


def _adding(dtype: Dtype) -> list[str]:
    """Return statements that add all values of an element in order, and read some ahead."""

    def value(ahead: int) -> str:
        place = f"which + {ahead}" if ahead else "which"
        return load_source(f"other[order[{place}] * each + rest]", dtype)

    first = load_source("x[at]", dtype)
    lines = [f"total = {first if dtype.kind == 'b' else f'{CASTS[working(dtype)]}({first})'}"]
    lines.append(f"while which + {_AHEAD - 1} < count and starts[which + {_AHEAD - 1}] == start:")
    lines += [f"    value{ahead} = {value(ahead)}" for ahead in range(_AHEAD)]
    lines += [f"    total = {_added('total', f'value{ahead}', dtype)}" for ahead in range(_AHEAD)]
    lines += [f"    which += {_AHEAD}", "while which < count and starts[which] == start:"]
    lines += [f"    total = {_added('total', value(0), dtype)}", "    which += 1"]
    return [*lines, f"x[at] = {store_source('total', dtype)}"]


def kernel_source(mode: str, kind: str, dims: int, dtype: Dtype, *, in_order: bool) -> tuple[str, list[str]]:
    """Return the source of the kernel that reads, writes or adds at offsets, and the types of its arguments.

    With `in_order` the offsets are sorted, since an element may get several values: of equal offsets, the last one
    writes and the first one adds all values.
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
    inner = with_index_width(index_source("rest", dims), narrow=False)
    inner.append(f"at = start + {offset_source(kind, 0, 'rest') if steps else '0'}")
    if mode == "read":
        inner.append("other[i] = x[at]")
    elif not in_order:
        both = load_source("x[at]", dtype), load_source("other[i]", dtype)
        inner.append(f"x[at] = {'other[i]' if mode == 'write' else store_source(_added(*both, dtype), dtype)}")
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
