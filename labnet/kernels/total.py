"""The sum of a large array, of which each thread sums a part."""

import itertools
from typing import Any

import numpy as np

from labnet.kernels.board import MOST_PARTS
from labnet.kernels.threads import LEAST, SHARE, THREADS, Compiled


def total(x: Any, compiled: Compiled | None) -> np.ndarray[Any, Any] | None:
    """Return the sum of the elements of an array of float32, in an array of one element; None where one thread does it.

    NumPy halves what has more than 128 elements, the first half a multiple of eight, and adds the sums of both.
    Here each thread sums halves of halves, so the bits are those of `np.sum`.

    Parameters
    ----------
    x : array
    compiled : callable or None
        The kernel of sums of rows, if it is loaded.
    """
    number = min(THREADS.number, x.size // SHARE, MOST_PARTS // 2)
    if x.size < LEAST or number < 2 or compiled is None:
        return None
    if type(x) is not np.ndarray or x.dtype != np.float32 or not x.flags.c_contiguous:
        return None
    flat, ends = x.reshape(-1), [0, x.size]
    while len(ends) <= 2 * number:
        ends = sorted([*ends, *(start + (end - start) // 16 * 8 for start, end in itertools.pairwise(ends))])
    sums = np.empty(len(ends) - 1, x.dtype)
    parts = [((flat[a:b], sums[i : i + 1]), b - a) for i, (a, b) in enumerate(itertools.pairwise(ends))]
    if not THREADS.run(compiled, parts):
        return None
    with np.errstate(all="ignore"):  # one thread does not warn either
        while len(sums) > 1:
            sums = sums[::2] + sums[1::2]
    return sums
