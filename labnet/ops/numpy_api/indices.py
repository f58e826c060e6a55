"""Functions that read elements by index, order them and find distinct ones."""

from typing import Any

import numpy as np

from labnet.ops.layout.joining import stack
from labnet.ops.layout.shape import (
    reshape,
)
from labnet.ops.numpy_api.table import FUNCTIONS, as_tensor, need, of
from labnet.ops.selection.indexing import take, take_along_axis
from labnet.ops.selection.sorting import (
    argsort,
    nonzero,
    searchsorted,
    sort,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)


@of(np.take)
def _take(a: Any, indices: Any, axis: int | None = None, out: Any = None, mode: str = "raise") -> Any:
    need(out is None and mode == "raise")
    x = as_tensor(a)
    return take(reshape(x, (-1,)) if axis is None else x, indices, axis=axis or 0)


@of(np.take_along_axis)
def _take_along_axis(arr: Any, indices: Any, axis: int | None = -1) -> Any:
    x = as_tensor(arr)
    return take_along_axis(reshape(x, (-1,)) if axis is None else x, indices, axis=0 if axis is None else axis)


@of(np.sort)
def _sort(a: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    need(order is None)
    return sort(_flat(a, axis), axis=-1 if axis is None else axis)


@of(np.argsort)
def _argsort(a: Any, axis: int | None = -1, kind: Any = None, order: Any = None, *, stable: Any = None) -> Any:
    need(order is None)
    return argsort(_flat(a, axis), axis=-1 if axis is None else axis)


def _flat(a: Any, axis: Any) -> Any:
    return reshape(as_tensor(a), (-1,)) if axis is None else a


@of(np.searchsorted)
def _searchsorted(a: Any, v: Any, side: Any = "left", sorter: Any = None) -> Any:
    return searchsorted(a, v, side=side, sorter=sorter)


FUNCTIONS[np.nonzero] = nonzero
FUNCTIONS[np.flatnonzero] = lambda a: nonzero(reshape(as_tensor(a), (-1,)))[0]
FUNCTIONS[np.argwhere] = lambda a: stack(nonzero(a), axis=1)
for _name, _own in {
    np.unique_all: unique_all,
    np.unique_counts: unique_counts,
    np.unique_inverse: unique_inverse,
    np.unique_values: unique_values,
}.items():
    FUNCTIONS[_name] = _own


@of(np.compress)
def _compress(condition: Any, a: Any, axis: int | None = None, out: Any = None) -> Any:
    need(out is None)
    return _take(a, np.flatnonzero(np.asarray(condition)), axis)


@of(np.extract)
def _extract(condition: Any, arr: Any) -> Any:
    return reshape(as_tensor(arr), (-1,))[np.ravel(np.asarray(condition)).astype(bool)]
