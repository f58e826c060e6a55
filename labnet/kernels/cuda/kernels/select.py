"""Which elements are not zero, and which are distinct: how many there are is known once they have been counted.

A running sum of truths tells each element that is kept where it goes. Only their number is waited for.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.iteration import grid_for
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer
from labnet.kernels.cuda.kernels import gather, scan, sort

INT32, INT64 = np.dtype("int32"), np.dtype("int64")
_kernels: dict[Any, Launch] = {}


def nonzero(x: DeviceArray) -> tuple[DeviceArray, ...]:
    """Return what NumPy's function does."""
    if not x.ndim:
        np.nonzero(np.zeros(()))  # which complains
    rest, found = _kept(_truths(x)), []
    for length in reversed(x.shape[1:]):
        found.append((rest % length).settle())
        rest = (rest // length).settle()
    return (rest, *reversed(found))


def _truths(x: DeviceArray) -> DeviceArray:
    return x.astype(bool, copy=False).reshape(-1).in_rows()


def _kept(truths: DeviceArray, running: DeviceArray | None = None) -> DeviceArray:
    """Return the positions of what is true in a contiguous array of one dimension, given how many are up to each."""
    if not truths.size:
        return DeviceArray.empty((0,), INT64)
    gpu = machine()
    if running is None:
        running = counted(truths)
    out = DeviceArray.empty((int(running[-1:].host()[0]),), INT64)
    if out.size:
        launch = _kernels.get(running.dtype)
        if launch is None:
            launch = _kernels[running.dtype] = gpu.kernel(*text_of(running.dtype))
        size = truths.size
        launch((grid_for(size, gpu.threads),), (gpu.threads,), size, truths.address, running.address, out.address)
    return out


def counted(truths: DeviceArray) -> DeviceArray:
    """Return for each element of a contiguous array of one dimension how many are true up to there, itself included."""
    return scan.scan("add", truths, 0, INT32 if truths.size <= np.iinfo(INT32).max else INT64)


def text_of(count: Dtype) -> tuple[str, list[str]]:
    """Return the text of the kernel that writes positions where they go, and the types of its arguments."""
    lines = [
        "def kernel(n, truths, running, out):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        "        if truths[i] != 0:",
        "            out[i8(running[i]) - 1] = i",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8", "pu1", pointer(count), "pi8"]


def unique(x: DeviceArray) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """Return what ``np.unique_all`` does: distinct elements in order, where each is first, which each is, how often.

    Every NaN is distinct.
    """
    flat = x.reshape(-1).in_rows()
    if not flat.size:
        nowhere = DeviceArray.empty((0,), INT64)
        return flat.copy(), nowhere, nowhere.reshape(x.shape), nowhere.copy()
    keys, order = sort.in_order(flat)
    first = DeviceArray.empty(keys.shape, np.dtype("bool"))
    first[:1] = True
    first[1:] = keys[1:] != keys[:-1]
    running = counted(first)
    starts = _kept(first, running)
    values, indices = (gather.gather(part, starts, starts.shape, ()) for part in (keys, order))
    inverse = DeviceArray.empty(keys.shape, INT64)
    gather.put_along_axis(inverse, order, running - 1, 0)
    counts = DeviceArray.empty(starts.shape, INT64)
    counts[:-1] = starts[1:] - starts[:-1]
    counts[-1:] = keys.size - starts[-1:]
    return values, indices, inverse.reshape(x.shape), counts
