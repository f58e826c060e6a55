"""Stable sorting of rows, with NaN last, and binary search in sorted rows.

A block of threads sorts a tile by counting: the rank of an element is the number of elements before it. Then runs are
merged in pairs: each element finds its position by binary search in the other run. So each element is written by one
thread, no length has to be a power of two, and the host is not waited for. A row of n elements takes log2(n / tile)
launches after the first, of n log2(n) steps each.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen.iteration import grid_for
from labnet.kernels.cuda.codegen.scalars import load_source, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

INT64 = np.dtype("int64")
_kernels: dict[Any, Launch] = {}


def sort(x: DeviceArray, axis: int | None = -1, **_: Any) -> DeviceArray:
    """Return the elements sorted along a dimension; equal ones keep their order."""
    return _along(x, axis)[0]


def argsort(x: DeviceArray, axis: int | None = -1, **_: Any) -> DeviceArray:
    """Return the positions that sort the elements along a dimension."""
    return _along(x, axis)[1]


def _along(x: DeviceArray, axis: int | None) -> list[DeviceArray]:
    if axis is None:
        x, axis = x.reshape(-1), 0
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    rows = x.materialize().view_of(np.moveaxis(x.layout, axis, -1))
    found = sort_rows(rows.contiguous())
    return [part.view_of(np.moveaxis(part.layout, -1, axis)) for part in found]


def sort_rows(rows: DeviceArray, positions: DeviceArray | None = None) -> tuple[DeviceArray, DeviceArray]:
    """Return contiguous rows sorted, and the position that each element had in its row.

    Parameters
    ----------
    rows : array
    positions : array of int64, optional
        Contiguous, of the shape of `rows`: memory for the positions.
    """
    gpu, dtype = current_gpu(), rows.dtype
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
    launch = _kernel(_tiles_source, dtype)
    launch((-(-tiles // high),), (tile, high), tiles, each, length, tile, rows.address, keys.address, order.address)
    for left in reversed(range(passes)):
        new = DeviceArray.empty(rows.shape, dtype)
        new_order = DeviceArray.empty(rows.shape, INT64) if positions is None or left else positions
        _kernel(_merge_source, dtype)(
            (grid_for(rows.size, gpu.threads),),
            (gpu.threads,),
            *(rows.size, length, tile),
            *(keys.address, order.address, new.address, new_order.address),
        )
        keys, order, tile = new, new_order, 2 * tile
    return keys, order


def _kernel(kernel_source: Any, dtype: Dtype) -> Launch:
    key = kernel_source, dtype
    launch = _kernels.get(key)
    if launch is None:
        gpu = current_gpu()
        launch = _kernels[key] = gpu.kernel(
            *kernel_source(np.dtype("uint8") if dtype.kind == "b" else dtype, gpu.threads)
        )
    return launch


def _before(a: str, b: str, dtype: Dtype) -> str:
    """Return the source of the comparison by which one element comes before another."""
    return f"({a} < {b} or ({b} != {b} and {a} == {a}))" if dtype.kind == "f" else f"{a} < {b}"


def _tiles_source(dtype: Dtype, threads: int) -> tuple[str, list[str]]:
    """Return the source of the kernel that sorts tiles, and the types of its arguments."""
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
        f"        mine = {load_source('x[first + here]', dtype)}",
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
        f"        keys[first + rank] = {store_source('mine', dtype)}",
        "        order[first + rank] = start + here",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 4 + [pointer(dtype)] * 2 + ["pi8"]


def _merge_source(dtype: Dtype, _: int) -> tuple[str, list[str]]:
    """Return the source of the kernel that merges two runs of `width` elements each, and the types of its arguments."""
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
        f"        mine = {load_source('keys[i]', dtype)}",
        "        while low < high:",
        "            half = (low + high) // 2",
        f"            other = {load_source('keys[first + half]', dtype)}",
        f"            ahead = {_before('other', 'mine', dtype)}",
        "            if not is_left:",
        f"                ahead = not {_before('mine', 'other', dtype)}",
        "            if ahead:",
        "                low = half + 1",
        "            else:",
        "                high = half",
        "        place = first + at + low - middle",
        f"        new_keys[place] = {store_source('mine', dtype)}",
        "        new_order[place] = order[i]",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 3 + [pointer(dtype), "pi8"] * 2


def searchsorted(ordered: DeviceArray, x: Any, side: str = "left", sorter: Any = None) -> DeviceArray:
    """Return the positions that keep a row sorted: before equal elements, or after them (``side="right"``)."""
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
    if not isinstance(x, DeviceArray):  # a number or a list
        x = DeviceArray.upload(np.asarray(x))
    dtype = np.result_type(ordered.dtype, x.dtype)
    row, wanted = (part.astype(dtype, copy=False).contiguous() for part in (ordered, x))
    out = DeviceArray.empty(wanted.shape, INT64)
    if out.size:
        gpu = current_gpu()
        _kernel(_search_source, dtype)(
            (grid_for(out.size, gpu.threads),),
            (gpu.threads,),
            *(out.size, row.size, int(side == "right")),
            *(row.address, wanted.address, out.address),
        )
    return out


def _search_source(dtype: Dtype, _: int) -> tuple[str, list[str]]:
    """Return the source of the kernel for binary search, and the types of its arguments."""
    lines = [
        "def kernel(n, length, right, row, x, out):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        f"        mine = {load_source('x[i]', dtype)}",
        "        low = i8(0)",
        "        high = length",
        "        while low < high:",
        "            half = (low + high) // 2",
        f"            other = {load_source('row[half]', dtype)}",
        f"            if {_before('other', 'mine', dtype)} or (right != 0 and not {_before('mine', 'other', dtype)}):",
        "                low = half + 1",
        "            else:",
        "                high = half",
        "        out[i] = low",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 3 + [pointer(dtype)] * 2 + ["pi8"]
