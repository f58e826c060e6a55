"""Lists in an index, as arrays of NumPy."""

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
