"""Reading elements by index, and its adjoint."""

from typing import Any

import numpy as np

from labnet.ops.registry import EVERY, FLOATS, Array, Sample, op
from labnet.tensor import Tensor

_KEYS = (
    1,
    -1,
    slice(0, 2),
    (slice(None), 1),
    (..., None, 0),
    (slice(None, None, -2), 2),
    ([0, 0, 2],),
    ([2, 0], [1, 1]),
)


def _plain(key: Any) -> Any:
    """Replace tensors in an index by their arrays, and lists by arrays."""
    if isinstance(key, tuple):
        return tuple(_plain(part) for part in key)
    if isinstance(key, Tensor):
        return key._array
    return np.asarray(key) if isinstance(key, list) else key


def _is_basic(key: Any) -> bool:
    """Tell whether an index names each element at most once."""
    parts = key if isinstance(key, tuple) else (key,)
    return all(isinstance(part, int | np.integer | slice | type(None) | type(...)) for part in parts)


def _put_back(g: Tensor, out: Tensor, x: Tensor, *, key: Any) -> Tensor:
    return scatter_add(g, key, x.shape)


@op(
    _put_back,
    samples=tuple(Sample(((3, 4),), {"key": key}) for key in _KEYS),
    dtypes=EVERY,
)
def getitem(x: Array, /, key: Any) -> Array:
    """Elements at an index: integers, slices, ``...``, None, boolean or integer arrays, as in NumPy.

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
    return x[_plain(key)]


@op(
    lambda g, out, x, *, key, shape: g[key],
    samples=(
        Sample(((2, 4),), {"key": slice(0, 2), "shape": (3, 4)}),
        Sample(((3,),), {"key": ([0, 0, 2],), "shape": (4,)}),
    ),
    dtypes=FLOATS,
)
def scatter_add(x: Array, /, key: Any, shape: tuple[int, ...]) -> Array:
    """Zeros of `shape` with the elements of `x` added at an index; the adjoint of reading there.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.scatter_add(ln.asarray([1.0, 2.0]), ([0, 0],), (3,)).tolist()
    [3.0, 0.0, 0.0]
    """
    out = np.zeros(shape, x.dtype)
    key = _plain(key)
    if _is_basic(key):
        out[key] = x
    else:
        np.add.at(out, key, x)
    return out
