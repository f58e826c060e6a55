"""Running sums and products along a dimension: one block per row, which goes through it in strips."""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array import DeviceArray
from labnet.kernels.cuda.expressions import CASTS, Dtype, loaded, stored, working
from labnet.kernels.cuda.machine import machine
from labnet.kernels.cuda.texts import Launch, pointer

_kernels: dict[Any, Launch] = {}


def scan(name: str, x: DeviceArray, axis: int, dtype: Any) -> DeviceArray:
    """Return the running sum (``"add"``) or product (``"multiply"``) along a dimension."""
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    kept = np.dtype(dtype) if dtype is not None else np.add.reduce(np.empty(0, x.dtype)).dtype
    source = x.astype(kept, copy=False)
    moved = source.view_of(np.moveaxis(source.layout, axis, -1)).copy()
    out = DeviceArray.empty(moved.shape, kept)
    if out.size:
        gpu = machine()
        length = moved.shape[-1]
        key = name, kept
        launch = _kernels.get(key)
        if launch is None:
            launch = _kernels[key] = gpu.kernel(*text_of(name, kept, gpu.threads))
        launch((out.size // length,), (gpu.threads,), length, moved.address, out.address)
    return out.view_of(np.moveaxis(out.layout, -1, axis))


def text_of(name: str, dtype: Dtype, threads: int) -> tuple[str, list[str]]:
    """Return the text of the kernel, and the types of its arguments.

    Within a strip, partial results double their reach in each step (Hillis and Steele, 1986).
    """
    work = CASTS[working(dtype)]
    sign, start = ("+", f"{work}(0)") if name == "add" else ("*", f"{work}(1)")
    lines = [
        "def kernel(length, x, out):",
        f"    shared = cuda.shared.array({threads}, {work}_)",
        "    here = i8(cuda.threadIdx.x)",
        "    first = i8(cuda.blockIdx.x) * length",
        f"    carried = {start}",
        "    strip = i8(0)",
        "    while strip < length:",
        "        at = strip + here",
        f"        value = {start}",
        "        if at < length:",
        f"            value = {loaded('x[first + at]', dtype)}",
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
        "        if at < length:",
        f"            out[first + at] = {stored(total, dtype)}",
        f"        carried = {work}(carried {sign} shared[{threads - 1}])",
        "        cuda.syncthreads()",
        f"        strip += {threads}",
    ]
    return "\n".join(lines) + "\n", ["i8", pointer(dtype), pointer(dtype)]
