"""Indexing: read and replace elements, and the adjoint of reading."""

import math
from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.kernels.device_dispatch import copied, device_of, is_on_gpu, moved
from labnet.kernels.index_arrays import index_of
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample, no_flops
from labnet.ops.core.registry import EVERY, FLOATS, composed, op
from labnet.ops.elementwise.elementary import kept
from labnet.ops.layout.shape import fit
from labnet.ops.selection.lookup import AlongAxis, add, along_axis, lookup, read
from labnet.tensor import Tensor, wrap

_KEYS = (
    1,
    -1,
    slice(0, 2),
    (slice(None), 1),
    (..., None, 0),
    (slice(None, None, -2), 2),
    ([0, 0, 2],),
    ([2, 0], [1, 1]),
    ([[True, False, True, True]] * 3,),
)


def plain_key(key: Any) -> Any:
    """Convert tensors and lists in an index to arrays."""
    if isinstance(key, tuple):
        parts = tuple(plain_key(part) for part in key)
        return AlongAxis(parts, key.axis) if type(key) is AlongAxis else parts
    if isinstance(key, Tensor):
        return key.array
    return index_of(key) if isinstance(key, list) else key


def _is_basic(key: Any) -> bool:
    """Return whether an index selects each element at most once."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | np.integer | slice | type(None) | type(...)) for part in parts)


def _put_back(g: Tensor, out: Tensor, x: Tensor, *, key: Any) -> Tensor:
    return scatter_add(g, key, x.shape)


@op(_put_back, samples=tuple(Sample(((3, 4),), {"key": key}) for key in _KEYS), dtypes=EVERY, view=True, public=False)
def getitem(x: Array, /, key: Any) -> Array:
    """Return the elements at an index: integers, slices, ``...``, None, boolean or integer arrays, as in NumPy.

    Raises
    ------
    IndexError
        If the index is out of bounds or has too many parts.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asarray([[1, 2], [3, 4]])[:, 1].tolist()
    [2, 4]
    """
    return x[key] if type(key) is int or type(key) is slice else _read(x, plain_key(key))


def _read(x: Array, key: Any) -> Array:
    if type(x) is np.ndarray and x.flags.c_contiguous and (found := lookup(key, x.shape)):
        return read(x, found)
    return x[key]


@op(
    lambda g, out, x, *, key, shape: g[key] if isinstance(g, Tensor) else _read(g, plain_key(key)),
    samples=(
        Sample(((2, 4),), {"key": slice(0, 2), "shape": (3, 4)}),
        Sample(((3,),), {"key": ([0, 0, 2],), "shape": (4,)}),
    ),
    dtypes=FLOATS,
    flops=no_flops,
    wide=True,
    public=False,
    reads="",
)
def scatter_add(x: Array, /, key: Any, shape: tuple[int, ...]) -> Array:
    """Return zeros of `shape` with the elements of `x` added at an index; the adjoint of reading there.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.scatter_add(ln.asarray([1.0, 2.0]), ([0, 0],), (3,)).tolist()
    [3.0, 0.0, 0.0]
    """
    out = np.zeros(shape, x.dtype, like=x)
    key = plain_key(key)
    if _is_basic(key):
        out[key] = x
    elif type(out) is np.ndarray and (found := lookup(key, shape)) and x.shape == found.shape:
        add(x, found, out)
    else:
        np.add.at(out, key, x)
    return out


def _blank(g: Tensor, out: Tensor, x: Tensor, value: Tensor, *, key: Any) -> Tensor:
    return fit(setitem(g, 0, key), x)


def _stays(key: Any, shape: tuple[int, ...], read: tuple[int, ...]) -> Array:
    """Return a mask of the values of shape `read` that remain after a write: the last one per element."""
    parts = key if isinstance(key, tuple) else (key,)
    like = next((part for part in parts if is_on_gpu(part)), None)
    places, order = np.full(shape, -1, like=like), np.arange(math.prod(read), like=like).reshape(read)
    places[key] = order
    return places[key] == order


def _pull_value(g: Tensor, out: Tensor, x: Tensor, value: Tensor, *, key: Any) -> Tensor:
    read = getitem(g, key)
    if not _is_basic(key):  # the last value written to an element remains
        stays = _stays(plain_key(key), x.shape, read.shape)
        read = kept(read, wrap(moved(stays, read.device if isinstance(read, Tensor) else device_of(read))))
    leading = value.ndim - read.ndim  # NumPy drops leading dimensions of length one
    if leading > 0:
        read = read.reshape((1,) * leading + read.shape)
    return fit(read, value)


@op(
    _blank,
    _pull_value,
    samples=(
        *(Sample(((3, 4), ()), {"key": key}) for key in _KEYS),
        Sample(((3, 4), (2, 1)), {"key": slice(0, 2)}),
        Sample(((3, 4), (1, 4)), {"key": 1}),
        Sample(((4,), (3,)), {"key": ([0, 0, 2],)}),
        Sample(((0, 2), (2,)), {"key": ...}),
    ),
    inputs=2,
    dtypes=EVERY,
    flops=no_flops,
    public=False,
    reads="",
)
def setitem(x: Array, value: Array, /, key: Any) -> Array:
    """Return a copy of `x` with `value`, broadcast, at an index; what ``x[key] = value`` leaves behind.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.setitem(ln.zeros(3), 5.0, slice(0, 2)).tolist()
    [5.0, 5.0, 0.0]
    """
    out = copied(x)
    out[plain_key(key)] = value
    return out


@composed(
    samples=(
        Sample(((4,),), {"indices": [0, 0, 2]}),
        Sample(((3, 4),), {"indices": [2, -1], "axis": 0}),
        Sample(((3, 4),), {"indices": [1], "axis": -1}),
    ),
    dtypes=EVERY,
)
def take(x: Tensor, /, indices: Any, axis: int | None = None) -> Tensor:
    """Return the elements at positions along `axis`, which is optional for a one-dimensional tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.take(ln.asarray([[1, 2], [3, 4]]), ln.asarray([1, 1, 0]), axis=1).tolist()
    [[2, 2, 1], [4, 4, 3]]
    """
    if axis is None and x.ndim != 1:
        raise ShapeError(f"take: a tensor of shape {x.shape} needs axis=, only a one-dimensional one does not")
    return getitem(x, (slice(None),) * normalize_axis("take", axis or 0, x.shape) + (indices,))


@composed(
    samples=(
        Sample(((3, 4),), {"indices": [[0, 0, 2, -1], [1, 1, 1, 1]], "axis": 0}),
        Sample(((3, 4),), {"indices": [[3], [0], [1]]}),
    ),
    dtypes=EVERY,
)
def take_along_axis(x: Tensor, /, indices: Any, axis: int = -1) -> Tensor:
    """Return the elements at positions along `axis`, with other positions for each place in the other dimensions.

    Parameters
    ----------
    x : tensor
    indices : integer tensor
        As many dimensions as `x`, of its lengths or 1, except along `axis`.
    axis : int

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[3, 1, 2]])
    >>> ln.take_along_axis(x, ln.argsort(x)).tolist()
    [[1, 2, 3]]
    """
    places = indices if isinstance(indices, Tensor) else np.asarray(indices)
    if places.ndim != x.ndim:
        raise ShapeError(f"take_along_axis: x has shape {x.shape}, indices have shape {places.shape}")
    return getitem(x, along_axis(places, normalize_axis("take_along_axis", axis, x.shape), x.shape))
