"""Index parsing: an index of NumPy becomes a view, or a selection of elements by their offsets.

Slices and integers select views. Offsets are computed on the device of the arrays in the index. Two results are waited
for: whether a position on the GPU is out of bounds, and the number of elements that a mask selects.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.codegen.elementwise import address
from labnet.kernels.cuda.kernels.scatter import Host, Index, Selection
from labnet.kernels.cuda.kernels.select import nonzero
from labnet.kernels.index_arrays import index_of

_BASIC = (int, np.integer, slice, type(None), type(...))


def parse_index(key: Any) -> tuple[Any, ...]:
    """Return the parts of an index: integers, slices, None and ``...`` unchanged, everything else as arrays."""
    parts = key if isinstance(key, tuple) else (key,)
    plain: list[Any] = []
    for part in parts:
        if isinstance(part, DeviceArray):
            plain.append(part if part.ndim or part.dtype.kind not in "iu" else int(part.host()))
        elif isinstance(part, bool | np.bool_):
            plain.append(np.asarray(part))
        elif isinstance(part, _BASIC):
            plain.append(part)
        else:
            plain.append(index_of(part))
    return tuple(plain)


def is_copied(key: Any, ndim: int) -> bool:
    """Return whether NumPy copies at a basic index: a single element, or an integer that is an array."""
    parts = key if isinstance(key, tuple) else (key,)
    return not (ndim or any(part is ... for part in parts)) or any(
        isinstance(part, np.ndarray | DeviceArray) for part in parts
    )


def is_basic(parts: tuple[Any, ...]) -> bool:
    """Return whether an index selects a view."""
    return all(isinstance(part, _BASIC) for part in parts)


def is_mask(part: Any) -> bool:
    """Return whether a part of an index is a boolean mask."""
    return isinstance(part, np.ndarray | DeviceArray) and part.dtype.kind == "b"


def view(layout: Host, parts: tuple[Any, ...]) -> Host:
    """Return the view of a layout at a basic index, never a scalar, which would be read."""
    if not any(part is ... for part in parts):
        parts = (*parts, ...)
    found: Host = layout[parts]
    return found


def select_elements(layout: Host, parts: tuple[Any, ...]) -> Selection:
    """Return the elements that an index with arrays selects.

    Raises
    ------
    IndexError
        If the index does not fit the array, as NumPy does.
    """
    basic: list[Any] = []
    arrays: list[tuple[int, Index]] = []  # axis after the slices, and index
    unsure: list[tuple[int, Index]] = []  # may be out of bounds
    order: list[bool] = []
    source = 0
    for part in _spread(layout, parts):
        if part is None or isinstance(part, slice):
            basic.append(part)
            order.append(False)
            source += part is not None
        else:
            for one in _indices(part, layout, source):
                basic.append(slice(None))
                arrays.append((len(order), one))
                unsure += [] if is_mask(part) else arrays[-1:]
                source += 1
                order.append(True)
    seen = view(layout, tuple(basic))
    try:
        shape = np.broadcast_shapes(*(index.shape for _, index in arrays))
    except ValueError:
        shapes = " ".join(str(index.shape) for _, index in arrays)
        raise IndexError(
            f"shape mismatch: indexing arrays could not be broadcast together with shapes {shapes} "
        ) from None
    _check(layout, parts, [(index, seen.shape[axis]) for axis, index in unsure])
    steps = [seen.strides[axis] // seen.itemsize for axis, _ in arrays]
    lengths = [seen.shape[axis] for axis, _ in arrays]
    begin = (address(seen) - address(layout)) // layout.itemsize
    starts = _starts([index for _, index in arrays], lengths, steps, begin, shape)
    first, last = order.index(True), len(order) - order[::-1].index(True)
    kept = [(n, s) for n, s, is_taken in zip(seen.shape, seen.strides, order, strict=True) if not is_taken]
    rest = layout_at(address(seen), tuple(n for n, _ in kept), seen.dtype, tuple(s for _, s in kept))
    chosen = [part for part in parts if isinstance(part, np.ndarray | DeviceArray)]
    distinct = len(chosen) == 1 and is_mask(chosen[0])
    return Selection(starts, rest, first if all(order[first:last]) else 0, distinct)


def _spread(layout: Host, parts: tuple[Any, ...]) -> list[Any]:
    """Return the parts of an index with ``...`` replaced by slices."""
    for part in parts:
        if is_mask(part) and not part.ndim:
            raise IndexError("a single boolean as an index is not supported on 'cuda'")
    taken = sum(part.ndim if is_mask(part) else part is not None and part is not ... for part in parts)
    if taken > layout.ndim:
        raise IndexError(f"too many indices for array: array is {layout.ndim}-dimensional, but {taken} were indexed")
    spread = list(parts) if any(part is ... for part in parts) else [*parts, ...]
    at = next(i for i, part in enumerate(spread) if part is ...)
    spread[at : at + 1] = [slice(None)] * (layout.ndim - taken)
    return spread


def _indices(part: Any, layout: Host, axis: int) -> tuple[Index, ...]:
    """Return the arrays of int64 that a part of an index is equivalent to."""
    index: Index = part if isinstance(part, DeviceArray) else np.asarray(part)
    if index.dtype.kind == "b":
        if index.shape != layout.shape[axis : axis + index.ndim]:
            raise IndexError(
                f"boolean index did not match indexed array along axis {axis}: "
                f"the index has shape {index.shape}, the array {layout.shape}"
            )
        return nonzero(index) if isinstance(index, DeviceArray) else index.nonzero()
    if index.dtype.kind not in "iu":
        raise IndexError("arrays used as indices must be of integer (or boolean) type")
    return (index.astype(np.int64, copy=False),)


def _check(layout: Host, parts: tuple[Any, ...], arrays: Sequence[tuple[Index, int]]) -> None:
    """Raise the error of NumPy if a position is out of bounds; one byte is read from the GPU."""
    on_host = [(index, length) for index, length in arrays if isinstance(index, np.ndarray)]
    wrong = any(index.size and (index.min() < -length or index.max() >= length) for index, length in on_host)
    flags = [
        np.any((index < -length) | (index >= length))
        for index, length in arrays
        if isinstance(index, DeviceArray) and index.size
    ]
    if wrong or (flags and bool(functools.reduce(np.logical_or, flags))):
        np.broadcast_to(np.zeros((), bool), layout.shape)[
            tuple(part.host() if isinstance(part, DeviceArray) else part for part in parts)
        ]


def _starts(
    indices: Sequence[Index], lengths: Sequence[int], steps: Sequence[int], begin: int, shape: tuple[int, ...]
) -> Index:
    """Return the offsets for the broadcast shape of all arrays."""
    if all(isinstance(index, np.ndarray) for index in indices):
        starts = np.full(shape, begin, np.int64)
        for index, length, step in zip(indices, lengths, steps, strict=True):
            starts += np.where(index < 0, index + length, index) * step
        return starts
    total: Any = begin
    for index, length, step in zip(indices, lengths, steps, strict=True):
        there = index if isinstance(index, DeviceArray) else DeviceArray.upload(index)
        total = np.where(there < 0, there + length, there) * step + total
    found: DeviceArray = total.materialize()
    return found
