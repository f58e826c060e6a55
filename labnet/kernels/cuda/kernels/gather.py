"""Gathering and scattering along one dimension, and gathering at offsets."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import materialize_readers
from labnet.kernels.cuda.codegen.iteration import (
    Space,
    grid_for,
    index_source,
    offset_source,
    strides_in,
    with_index_width,
)
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer

_kernels: dict[Any, Launch] = {}


def take_along_axis(x: DeviceArray, indices: Any, axis: int) -> DeviceArray:
    """Return the elements that indices within bounds name along a dimension, as NumPy's function does."""
    out = DeviceArray.empty(indices.shape, x.dtype)
    if out.size:
        _access_axis("read", x, indices, axis, out)
    return out


def put_along_axis(x: DeviceArray, indices: Any, values: Any, axis: int) -> None:
    """Write the elements that indices within bounds name along a dimension, as NumPy's function does."""
    if isinstance(values, DeviceArray):
        spread = values.view_of(np.broadcast_to(values.layout, indices.shape))
        wide = spread.astype(x.dtype, copy=False).copy()
    else:
        wide = DeviceArray.filled(indices.shape, values, x.dtype)
    if wide.size:
        materialize_readers(x.block)
        _access_axis("write", x, indices, axis, wide)


def _access_axis(mode: str, x: DeviceArray, indices: Any, axis: int, other: DeviceArray) -> None:
    """Read or write the elements that indices name along one dimension.

    `x` and the indices may have any strides; `other` is contiguous and has the shape of the indices. Indices out of
    bounds are clamped.
    """
    if not isinstance(indices, DeviceArray):
        indices = DeviceArray.upload(np.asarray(indices))
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    indices = indices.astype(np.int64, copy=False).materialize()
    layout = x.layout
    own = [
        stride // layout.itemsize if length > 1 else 0
        for length, stride in zip(layout.shape, layout.strides, strict=True)
    ]
    step, own[axis] = own[axis], 0
    _access(mode, x, indices, other, x.shape[axis], step, own)


def _access(
    mode: str, x: DeviceArray, indices: DeviceArray, other: DeviceArray, length: int, step: int, own: Sequence[int]
) -> None:
    """Read or write ``x[index * step + offset]`` for all indices; each offset follows from the strides `own`."""
    gpu, shape = current_gpu(), other.shape
    space = Space.of(shape, [strides_in(indices.layout, shape), own])
    dims = max(1, len(space.lengths))
    kinds = tuple("".join("01"[s != 0] for s in strides) for strides in space.strides)
    key = mode, kinds, dims, x.dtype
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(mode, kinds, dims, x.dtype))
    steps = [s for strides in space.strides for s in strides if s]
    launch(
        (grid_for(other.size, gpu.threads),),
        (gpu.threads,),
        *(other.size, length, step, *space.lengths[1:], *steps),
        indices.address,
        x.address,
        other.address,
    )


def gather(x: DeviceArray, offsets: DeviceArray, shape: tuple[int, ...], within: Sequence[int]) -> DeviceArray:
    """Return elements of a contiguous array at offsets.

    Parameters
    ----------
    x : array
    offsets : array of int64
        Offsets of elements, in a shape that broadcasts to `shape`.
    shape : tuple of int
    within : sequence of int
        Strides, in elements, from an offset along the last dimensions.
    """
    out = DeviceArray.empty(shape, x.dtype)
    if out.size:
        before = len(shape) - len(within)
        own = [0] * before + [0 if n == 1 else step for n, step in zip(shape[before:], within, strict=True)]
        _access("read", x, offsets, out, max(1, x.size), 1, own)
    return out


def kernel_source(mode: str, kinds: tuple[str, ...], dims: int, dtype: Dtype) -> tuple[str, list[str]]:
    """Return the source of the kernel of `_access`, and the types of its arguments."""
    lengths = [f"n{axis}" for axis in range(1, dims)]
    steps = [f"s{i}_{axis}" for i, kind in enumerate(kinds) for axis, moves in enumerate(kind) if moves == "1"]
    lines = [
        f"def kernel({', '.join(['n', 'length', 'stride', *lengths, *steps, 'indices', 'x', 'other'])}):",
        "    step = i8(cuda.gridsize(1))",
        "    i = i8(cuda.grid(1))",
        "    while i < n:",
    ]
    inner = with_index_width(index_source("i", dims), narrow=False)
    inner += [f"which = indices[{offset_source(kinds[0], 0, 'i') if '1' in kinds[0] else '0'}]"]
    inner += ["which = which + length if which < 0 else which", "which = max(i8(0), min(which, length - 1))"]
    inner.append(f"at = which * stride + {offset_source(kinds[1], 1, 'i') if '1' in kinds[1] else '0'}")
    inner += ["other[i] = x[at]" if mode == "read" else "x[at] = other[i]", "i += step"]
    lines += ["        " + line for line in inner]
    types = ["i8"] * (3 + len(lengths) + len(steps)) + ["pi8"] + [pointer(dtype)] * 2
    return "\n".join(lines) + "\n", types
