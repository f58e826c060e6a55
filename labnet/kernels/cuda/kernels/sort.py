"""Order along rows: stable sorting with NaN last, and searching in what is in order.

A block of threads puts a tile in order: each element counts those that come before it. Then runs are merged, two and
two: each element finds by halving how many of the other run come before it, which is where it goes. So every place is
written by one thread, nothing has to be a power of two, and nobody waits for the host: n elements of a row take
log2(n / tile) launches after the first, of n log2(n) steps each.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen.iteration import grid_for
from labnet.kernels.cuda.codegen.scalars import loaded, stored, working
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

INT64 = np.dtype("int64")
_kernels: dict[Any, Launch] = {}


def sort(x: DeviceArray, axis: int | None = -1, **_: Any) -> DeviceArray:
    """Return the elements in order along a dimension; equal ones stay as they are."""
    return _along(x, axis)[0]


def argsort(x: DeviceArray, axis: int | None = -1, **_: Any) -> DeviceArray:
    """Return the positions that put the elements in order along a dimension."""
    return _along(x, axis)[1]


def _along(x: DeviceArray, axis: int | None) -> list[DeviceArray]:
    if axis is None:
        x, axis = x.reshape(-1), 0
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    rows = x.settle().view_of(np.moveaxis(x.layout, axis, -1))
    found = in_order(rows.in_rows())
    return [part.view_of(np.moveaxis(part.layout, -1, axis)) for part in found]


def in_order(rows: DeviceArray, positions: DeviceArray | None = None) -> tuple[DeviceArray, DeviceArray]:
    """Return contiguous rows in order, and for each place the position that the element had in its row.

    Parameters
    ----------
    rows : array
    positions : array of int64, optional
        Contiguous, of the shape of `rows`: where the positions are to be put.
    """
    gpu, dtype = machine(), rows.dtype
    keys = DeviceArray.empty(rows.shape, dtype)
    length = rows.shape[-1] if rows.size else 1
    tile = gpu.threads
    while tile // 2 >= length:
        tile //= 2
    passes = max(0, (-(-length // tile) - 1).bit_length())
    order = DeviceArray.empty(rows.shape, INT64) if positions is None or passes else positions
    if not rows.size:
        return keys, order
    each = -(-length // tile)
    tiles, high = rows.size // length * each, gpu.threads // tile
    launch = _kernel(_tiles_text, dtype)
    launch((-(-tiles // high),), (tile, high), tiles, each, length, tile, rows.address, keys.address, order.address)
    for left in reversed(range(passes)):
        new = DeviceArray.empty(rows.shape, dtype)
        places = DeviceArray.empty(rows.shape, INT64) if positions is None or left else positions
        _kernel(_merge_text, dtype)(
            (grid_for(rows.size, gpu.threads),),
            (gpu.threads,),
            *(rows.size, length, tile),
            *(keys.address, order.address, new.address, places.address),
        )
        keys, order, tile = new, places, 2 * tile
    return keys, order


def _kernel(text_of: Any, dtype: Dtype) -> Launch:
    key = text_of, dtype
    launch = _kernels.get(key)
    if launch is None:
        gpu = machine()
        launch = _kernels[key] = gpu.kernel(*text_of(np.dtype("uint8") if dtype.kind == "b" else dtype, gpu.threads))
    return launch


def _before(a: str, b: str, dtype: Dtype) -> str:
    """Return the text that tells whether one element comes before another one."""
    return f"({a} < {b} or ({b} != {b} and {a} == {a}))" if dtype.kind == "f" else f"{a} < {b}"


def _tiles_text(dtype: Dtype, threads: int) -> tuple[str, list[str]]:
    """Return the text of the kernel that puts tiles in order, and the types of its arguments."""
    work = CASTS[working(dtype)]
    ahead = f"{_before('other', 'mine', dtype)} or (j < here and not {_before('mine', 'other', dtype)})"
    lines = [
        "def kernel(tiles, each, length, tile, x, keys, order):",
        f"    shared = cuda.shared.array({threads}, {work}_)",
        "    here = i8(cuda.threadIdx.x)",
        "    base = i8(cuda.threadIdx.y) * tile",
        "    which = i8(cuda.blockIdx.x) * i8(cuda.blockDim.y) + i8(cuda.threadIdx.y)",
        "    start = which % each * tile",
        "    first = which // each * length + start",
        "    count = min(tile, length - start) if which < tiles else i8(0)",
        f"    mine = {work}(0)",
        "    if here < count:",
        f"        mine = {loaded('x[first + here]', dtype)}",
        "        shared[base + here] = mine",
        "    cuda.syncthreads()",
        "    if here < count:",
        "        rank = i8(0)",
        "        j = i8(0)",
        "        while j < count:",
        "            other = shared[base + j]",
        f"            if {ahead}:",
        "                rank += 1",
        "            j += 1",
        f"        keys[first + rank] = {stored('mine', dtype)}",
        "        order[first + rank] = start + here",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 4 + [pointer(dtype)] * 2 + ["pi8"]


def _merge_text(dtype: Dtype, _: int) -> tuple[str, list[str]]:
    """Return the text of the kernel that merges two runs of `width` elements each, and the types of its arguments."""
    lines = [
        "def kernel(n, length, width, keys, order, new_keys, new_order):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        "        at = i % length",
        "        first = i - at",
        "        start = at // (2 * width) * (2 * width)",
        "        middle = min(start + width, length)",
        "        is_left = at < middle",
        "        low = middle if is_left else start",
        "        high = min(start + 2 * width, length) if is_left else middle",
        f"        mine = {loaded('keys[i]', dtype)}",
        "        while low < high:",
        "            half = (low + high) // 2",
        f"            other = {loaded('keys[first + half]', dtype)}",
        f"            ahead = {_before('other', 'mine', dtype)}",
        "            if not is_left:",
        f"                ahead = not {_before('mine', 'other', dtype)}",
        "            if ahead:",
        "                low = half + 1",
        "            else:",
        "                high = half",
        "        place = first + at + low - middle",
        f"        new_keys[place] = {stored('mine', dtype)}",
        "        new_order[place] = order[i]",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 3 + [pointer(dtype), "pi8"] * 2


def searchsorted(ordered: DeviceArray, x: Any, side: str = "left", sorter: Any = None) -> DeviceArray:
    """Return where elements keep a row in order: before equal ones, or after them (``side="right"``)."""
    if side not in ("left", "right"):
        raise ValueError(f"search side must be one of 'left' or 'right' (got {side!r})")
    if ordered.ndim != 1:
        raise ValueError("object too deep for desired array" if ordered.ndim else "object of too small depth")
    if sorter is not None:
        if getattr(sorter, "shape", None) != ordered.shape:
            raise ValueError("sorter.size must equal len(a)")
        ordered = ordered[sorter]
    if not isinstance(ordered, DeviceArray) or (isinstance(x, np.ndarray) and x.ndim):
        raise mixed(x if isinstance(ordered, DeviceArray) else ordered)
    if not isinstance(x, DeviceArray):  # a number, or several
        x = DeviceArray.upload(np.asarray(x))
    dtype = np.result_type(ordered.dtype, x.dtype)
    row, wanted = (part.astype(dtype, copy=False).in_rows() for part in (ordered, x))
    out = DeviceArray.empty(wanted.shape, INT64)
    if out.size:
        gpu = machine()
        _kernel(_search_text, dtype)(
            (grid_for(out.size, gpu.threads),),
            (gpu.threads,),
            *(out.size, row.size, int(side == "right")),
            *(row.address, wanted.address, out.address),
        )
    return out


def _search_text(dtype: Dtype, _: int) -> tuple[str, list[str]]:
    """Return the text of the kernel that searches by halving, and the types of its arguments."""
    lines = [
        "def kernel(n, length, right, row, x, out):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        f"        mine = {loaded('x[i]', dtype)}",
        "        low = i8(0)",
        "        high = length",
        "        while low < high:",
        "            half = (low + high) // 2",
        f"            other = {loaded('row[half]', dtype)}",
        f"            if {_before('other', 'mine', dtype)} or (right != 0 and not {_before('mine', 'other', dtype)}):",
        "                low = half + 1",
        "            else:",
        "                high = half",
        "        out[i] = low",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 3 + [pointer(dtype)] * 2 + ["pi8"]
