"""Sharing of memory between tensors: views, and when an array may be overwritten.

The `family` of a view is its base tensor; that of a base is the set of its live views; otherwise it is None. A write
goes to the family's memory if there is no other reference to it. If a graph, a detached tensor or an exported array
refers to it, the family first moves to a copy. So every view sees a write, recorded graphs do not, and exported arrays
never change.

Works on any object with `array`, `node` and `family`; independent of arithmetic.
"""

import weakref
from collections.abc import Callable, Iterator
from sys import getrefcount
from typing import Any

import numpy as np

from labnet.kernels.device_dispatch import copied, is_on_gpu

#: An array of the host or of a GPU.
Array = Any
_ndarray = np.ndarray
#: Bytes from which on new memory takes longer than to find out whether there is some.
LARGE = 1 << 12


def _references(array: Array) -> int:
    return getrefcount(array)


#: Reference count of an array with a single local reference; depends on the version of Python.
ALONE = _references(np.empty(0))


def add(total: Any, more: Any, *, others: int = 0) -> Any:
    """Return the sum of two gradients, in the memory of the first if the caller passes the only reference to it.

    `others` is the number of further references that may exist.

    Examples
    --------
    >>> add(np.ones(2), np.ones(2))
    array([2., 2.])
    """
    if (
        type(total) is _ndarray
        and total.nbytes >= LARGE
        and getrefcount(total) == ALONE + others
        and type(more) is _ndarray
    ):
        own, fits = total.flags, more.dtype is total.dtype and more.shape == total.shape
        if fits and own.owndata and own.writeable and own.c_contiguous and more.flags.c_contiguous:
            total += more
            return total
    return total + more


def owner_of(array: Any) -> Any:
    """Return the base of a view, or the array itself if it is no view.

    Examples
    --------
    >>> x = np.ones((2, 3))
    >>> owner_of(x[0]) is x
    True
    """
    base = getattr(array, "base", None)
    return base if type(base) is type(array) else array


def link(view: Any, source: Any) -> None:
    """Register `view` as a view of `source` if they share memory.

    An op that returns its input array makes no view: both tensors keep the array until one is written.
    """
    array, origin, family = view.array.base, source.array, source.family
    if array is None or view.array is origin or (array is not origin and array is not origin.base):
        return
    if 0 in view.array.strides and view.array.size > source.array.size:
        return  # repeated elements are treated as values
    if family is None:
        if 0 in origin.strides:  # a repeated element has no single place to write to
            return
        base, views = source, set[weakref.ref[Any]]()
        source.family = views
    elif type(family) is set:
        base, views = source, family
    else:
        base, views = family, family.family
    view.family = base
    views.add(weakref.ref(view, views.discard))


def rows(source: Any, make: Callable[[Array], Any]) -> Iterator[Any]:
    """Yield the rows of a tensor as views of it; `make` makes tensors of arrays."""
    base: Any = None
    views: Any = None
    add: Any = None
    discard: Any = None
    for index in range(len(source.array)):
        row = make(source.array[index])
        if base is not None and base.family is views and (source is base or source.family is base):
            row.family = base
            add(weakref.ref(row, discard))
        else:  # the first row, or the source has left its family
            link(row, source)
            if (base := row.family) is not None:
                views = base.family
                add, discard = views.add, views.discard
        yield row


def unlink(view: Any) -> None:
    """Detach `view` from its family; memory stays shared until one side writes."""
    base = base_of(view)
    if base is not view:
        base.family.discard(next(reference for reference in list(base.family) if reference() is view))
        view.family = None


def base_of(tensor: Any) -> Any:
    """Return the base tensor of a view; any other tensor itself."""
    family = tensor.family
    return tensor if family is None or type(family) is set else family


def views_of(base: Any) -> list[Any]:
    """Return the live views of a tensor."""
    references = list(base.family or ())
    return [view for reference in references if (view := reference()) is not None]


def prepare_write(tensor: Any) -> None:
    """Ensure that `tensor` has exclusive memory, so that its elements may be overwritten.

    Views that were recorded for a backward leave the family and keep their values.
    """
    base = base_of(tensor)
    views = views_of(base)
    kept = [view for view in views if view is tensor or view.node is None]
    for view in views:
        if view is not tensor and view.node is not None:
            unlink(view)
    if len(kept) < len(views) or not _exclusive([base.array, *(view.array for view in kept)]):
        move(base, kept)


def is_alone(tensor: Any) -> bool:
    """Return whether a tensor has no views, and nothing else refers to its memory."""
    return base_of(tensor) is tensor and not views_of(tensor) and _exclusive([tensor.array])


def overwrite(tensor: Any, array: Array) -> None:
    """Overwrite `tensor` and its family with the values of a new array of its shape and dtype."""
    if tensor.family is None or (base_of(tensor) is tensor and not views_of(tensor)):
        tensor.array = array
    else:
        prepare_write(tensor)
        tensor.array[...] = array


def move(base: Any, views: list[Any]) -> None:
    """Move a tensor and its views to new memory with the same values."""
    origin = base.array
    if not views:
        base.array = copied(origin)
        return
    if is_on_gpu(origin):
        for tensor, array in zip((base, *views), origin.moved([view.array for view in views]), strict=True):
            tensor.array = array
        return
    ascending = origin[(*(slice(None, None, -1 if stride < 0 else 1) for stride in origin.strides), ...)]
    span = 1 + sum((n - 1) * s for n, s in zip(ascending.shape, ascending.strides, strict=True)) // origin.itemsize
    start = _address(ascending)
    memory = np.lib.stride_tricks.as_strided(ascending, (span if origin.size else 0,), (origin.itemsize,)).copy()
    for tensor in (base, *views):
        old = tensor.array
        offset = _address(old) - start if old.size else 0
        tensor.array = np.ndarray(old.shape, old.dtype, memory, offset, old.strides)


def positions(view: Array, base: Array) -> Array:
    """Return the position of each element of `view` in the flattened `base`; the arrays share memory."""
    if is_on_gpu(base):
        view, base = view.layout, base.layout
    addresses = _addresses(base).ravel()
    order = np.argsort(addresses)
    return order[np.searchsorted(addresses, _addresses(view), sorter=order)]


def _addresses(array: Array) -> Array:
    out = np.full(array.shape, _address(array), dtype=np.int64)
    for axis, (length, stride) in enumerate(zip(array.shape, array.strides, strict=True)):
        out += (np.arange(length) * stride).reshape([length if i == axis else 1 for i in range(array.ndim)])
    return out


def _address(array: Array) -> int:
    address: int = array.ctypes.data
    return address


def _exclusive(arrays: list[Array]) -> bool:
    """Return whether only the tensors of these arrays, the owner first, refer to their memory.

    Counts references (guarded by tests/tensors/test_writing.py): its tensor, the list and the counting call refer to an
    array. An extra reference costs a copy; a missing one cannot occur.
    """
    if arrays[0].base is None:
        expected = 3 + sum(array.base is arrays[0] for array in arrays)
        if not arrays[0].flags.owndata or getrefcount(arrays[0]) > expected:
            return False
        rest = range(1, len(arrays))
    else:
        owner = arrays[0].base
        if not isinstance(owner, type(arrays[0])) or owner.base is not None or not owner.flags.owndata:
            return False
        if getrefcount(arrays[0].base) > 2 + sum(array.base is owner for array in arrays):
            return False
        rest = range(len(arrays))
    return arrays[0].flags.writeable and all(getrefcount(arrays[i]) <= 3 for i in rest)
