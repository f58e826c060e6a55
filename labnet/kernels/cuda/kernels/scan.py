"""Cumulative sums and products along a dimension: one block per row, strip by strip.

Several blocks share a long row: each scans a part, and then the total of the parts before is added. The parts depend on
the length of the row alone, so the same values give the same bits. Products of floating-point numbers have no parts,
since the product of a part may overflow although that of the row does not.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.scalars import load_source, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

_kernels: dict[Any, Launch] = {}
_FUNCTIONS: dict[str, Any] = {"add": np.add, "multiply": np.multiply}
#: Length of a row from which on several blocks share it, and the length of their parts.
SHARED_FROM, PART = 8192, 4096


def scan(name: str, x: DeviceArray, axis: int, dtype: Any) -> DeviceArray:
    """Return the cumulative sum (``"add"``) or product (``"multiply"``) along a dimension."""
    x = x if x.ndim else x.reshape(1)  # as NumPy does
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    kept = np.dtype(dtype) if dtype is not None else np.add.reduce(np.empty(0, x.dtype)).dtype
    if kept.kind == "b":  # any, or all
        counts: Any = scan(name, x.astype(kept, copy=False), axis, np.int64)
        found: DeviceArray = (counts != 0).materialize()
        return found
    parted = x.shape[axis] >= SHARED_FROM and (name == "add" or kept.kind != "f")
    source = x.astype(working(kept) if parted else kept, copy=False)
    rows = source.view_of(np.moveaxis(source.layout, axis, -1)).contiguous()
    out = DeviceArray.empty(rows.shape, rows.dtype)
    if out.size:
        _run(name, rows, out, PART if parted else rows.shape[-1])
    return out.view_of(np.moveaxis(out.layout, -1, axis)).astype(kept, copy=False).materialize()


def _run(name: str, x: DeviceArray, out: DeviceArray, part: int) -> None:
    """Scan contiguous rows in parts of a length."""
    gpu, length = current_gpu(), x.shape[-1]
    parts = -(-length // part)
    key = name, out.dtype
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(name, out.dtype, gpu.threads))
    rows = x.size // length
    launch((rows * parts,), (gpu.threads,), length, part, parts, x.address, out.address)
    if parts > 1:
        _join(name, out.reshape(rows, length), part, parts)


def _join(name: str, rows: DeviceArray, part: int, parts: int) -> None:
    """Add the total of the parts before to each part of the rows."""
    last = (parts - 1) * part  # start of the last part, which may be shorter
    before = scan(name, rows[:, part - 1 : last : part], 1, rows.dtype)
    whole, rest = rows[:, part:last].reshape(len(rows), parts - 2, part), rows[:, last:]
    function = _FUNCTIONS[name]
    function(whole, before[:, :-1, None], out=whole)
    function(rest, before[:, -1:], out=rest)


def kernel_source(name: str, dtype: Dtype, threads: int) -> tuple[str, list[str]]:
    """Return the source of the kernel, and the types of its arguments.

    Within a strip, partial results double their reach in each step (Hillis and Steele, 1986).
    """
    work = CASTS[working(dtype)]
    sign, start = ("+", f"{work}(0)") if name == "add" else ("*", f"{work}(1)")
    lines = [
        "def kernel(length, part, parts, x, out):",
        f"    shared = cuda.shared.array({threads}, {work}_)",
        "    here = i8(cuda.threadIdx.x)",
        "    row = i8(cuda.blockIdx.x) // parts",
        "    start = (i8(cuda.blockIdx.x) - row * parts) * part",
        "    count = min(part, length - start)",
        "    first = row * length + start",
        f"    carried = {start}",
        "    strip = i8(0)",
        "    while strip < count:",
        "        at = strip + here",
        f"        value = {start}",
        "        if at < count:",
        f"            value = {load_source('x[first + at]', dtype)}",
        "        shared[here] = value",
        "        cuda.syncthreads()",
    ]
    reach = 1
    while reach < threads:
        lines += [
            f"        before = {start}",
            f"        if here >= {reach}:",
            f"            before = shared[here - {reach}]",
            "        cuda.syncthreads()",
            f"        value = {work}(before {sign} value)",
            "        shared[here] = value",
            "        cuda.syncthreads()",
        ]
        reach *= 2
    total = f"{work}(carried {sign} value)"
    lines += [
        "        if at < count:",
        f"            out[first + at] = {store_source(total, dtype)}",
        f"        carried = {work}(carried {sign} shared[{threads - 1}])",
        "        cuda.syncthreads()",
        f"        strip += {threads}",
    ]
    return "\n".join(lines) + "\n", ["i8"] * 3 + [pointer(dtype)] * 2
