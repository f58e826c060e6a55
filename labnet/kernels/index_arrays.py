"""Lists in an index, as arrays of NumPy, and the check of their bounds."""

from typing import Any

import numpy as np


def index_of(part: Any) -> Any:
    """Return a part of an index as an array of NumPy; an empty list is an array of integers.

    Examples
    --------
    >>> index_of([]).dtype.kind, index_of([0, 2]).tolist()
    ('i', [0, 2])
    """
    array = np.asarray(part)
    return array if array.size or isinstance(part, np.ndarray) else array.astype(np.intp)


def are_within(indices: Any, length: int) -> bool:
    """Return whether all integers of an array, which may lie on a GPU, are in [0, length).

    Examples
    --------
    >>> are_within(np.array([0, 2]), 3), are_within(np.array([0, -1]), 3)
    (True, False)
    """
    if not indices.size:
        return True
    if type(indices) is np.ndarray:  # one pass: negative numbers become great ones
        return bool(np.maximum.reduce(indices.astype(np.intp, copy=False).view(np.uintp), axis=None) < length)
    return bool(np.all((indices >= 0) & (indices < length)))
