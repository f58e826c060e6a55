"""Selection by value: elements that are not zero, and distinct elements.

The cumulative sum of booleans is the position of each selected element in the result. Only their number is waited for.
"""

from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.iteration import grid_for
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer
from labnet.kernels.cuda.kernels import gather, scan, sort

INT32, INT64 = np.dtype("int32"), np.dtype("int64")
_kernels: dict[Any, Launch] = {}


def nonzero(x: DeviceArray) -> tuple[DeviceArray, ...]:
    """Return the indices of elements that are not zero, one array per dimension."""
    if not x.ndim:
        np.nonzero(np.zeros(()))  # raises the error of NumPy
    rest, found = _true_positions(_booleans(x)), []
    for length in reversed(x.shape[1:]):
        found.append((rest % length).materialize())
        rest = (rest // length).materialize()
    return (rest, *reversed(found))


def _booleans(x: DeviceArray) -> DeviceArray:
    return x.astype(bool, copy=False).reshape(-1).contiguous()


def _true_positions(booleans: DeviceArray, running: DeviceArray | None = None) -> DeviceArray:
    """Return the positions of the true elements of a contiguous array of one dimension, by their running count."""
    if not booleans.size:
        return DeviceArray.empty((0,), INT64)
    gpu = current_gpu()
    if running is None:
        running = running_count(booleans)
    out = DeviceArray.empty((int(running[-1:].host()[0]),), INT64)
    if out.size:
        launch = _kernels.get(running.dtype)
        if launch is None:
            launch = _kernels[running.dtype] = gpu.kernel(*kernel_source(running.dtype))
        size = booleans.size
        launch((grid_for(size, gpu.threads),), (gpu.threads,), size, booleans.address, running.address, out.address)
    return out


def running_count(booleans: DeviceArray) -> DeviceArray:
    """Return the number of true elements up to and including each element of a contiguous array of one dimension."""
    return scan.scan("add", booleans, 0, INT32 if booleans.size <= np.iinfo(INT32).max else INT64)


def kernel_source(count: Dtype) -> tuple[str, list[str]]:
    """Return the source of the kernel that writes the positions of true elements, and the types of its arguments."""
    lines = [
        "def kernel(n, booleans, running, out):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
        "        if booleans[i] != 0:",
        "            out[i8(running[i]) - 1] = i",
        "        i += step",
    ]
    return "\n".join(lines) + "\n", ["i8", "pu1", pointer(count), "pi8"]


def unique(x: DeviceArray) -> tuple[DeviceArray, DeviceArray, DeviceArray, DeviceArray]:
    """Return what ``np.unique_all`` does: sorted distinct elements, first positions, inverse indices and counts.

    Every NaN is distinct.
    """
    flat = x.reshape(-1).contiguous()
    if not flat.size:
        none = DeviceArray.empty((0,), INT64)
        return flat.copy(), none, none.reshape(x.shape), none.copy()
    keys, order = sort.sort_rows(flat)
    first = DeviceArray.empty(keys.shape, np.dtype("bool"))
    first[:1] = True
    first[1:] = keys[1:] != keys[:-1]
    running = running_count(first)
    starts = _true_positions(first, running)
    values, indices = (gather.gather(part, starts, starts.shape, ()) for part in (keys, order))
    inverse = DeviceArray.empty(keys.shape, INT64)
    gather.put_along_axis(inverse, order, running - 1, 0)
    counts = DeviceArray.empty(starts.shape, INT64)
    counts[:-1] = starts[1:] - starts[:-1]
    counts[-1:] = keys.size - starts[-1:]
    return values, indices, inverse.reshape(x.shape), counts
