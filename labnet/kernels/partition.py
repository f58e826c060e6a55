"""Division of kernel calls into independent parts, each a call with views of the arrays.

Results do not depend on the number of parts: no sum is divided, except where its order stays the same.
"""

import itertools
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

_FLOAT32 = np.dtype("float32")
#: Columns of a part, at least.
_SIDE_BY_SIDE = 2048
#: The arguments of a call of a kernel: a tuple of arrays and None, then numbers.
Call = tuple[Any, ...]
#: Divides a call into at most so many parts; returns none if it cannot.
Divide = Callable[[int, Call], Sequence[Call]]


def _bounds(items: int, parts: int) -> Iterator[tuple[int, int]]:
    ends = [items * i // parts for i in range(parts + 1)]
    return itertools.pairwise(ends)


def _items_of(array: Any, items: int) -> Any:
    """Return a contiguous array of any shape as one whose first dimension is `items`, the dimensions behind kept."""
    count = 1
    for axis, length in enumerate(array.shape):
        count *= length
        if count == items:
            return array.reshape(items, *array.shape[axis + 1 :])
    return array.reshape(items, -1)


@dataclass(frozen=True)
class Items:
    """Divides calls between items that lie one after the other in memory, such as the rows of a matrix.

    Attributes
    ----------
    count : callable
        Returns the number of items from the arguments of a call; less than 2 if it cannot be divided.
    shared, scratch : tuple of int
        Positions of arrays that every part reads, and of memory of which each part needs its own.
    is_counted : bool
        Whether the first number of the call is the number of items.
    """

    count: Callable[..., int]
    shared: tuple[int, ...] = ()
    scratch: tuple[int, ...] = ()
    is_counted: bool = False

    def __call__(self, most: int, call: Call) -> list[Call]:
        """Divide a call."""
        together, *numbers = call
        items = self.count(*call)
        if items < 2:
            return []
        cut: dict[int, Any] = {}
        for position, array in enumerate(together):
            if array is not None and position not in self.shared and position not in self.scratch:
                if not array.flags.c_contiguous or array.size % items:
                    return []
                cut[position] = _items_of(array, items)
        parts = []
        for start, end in _bounds(items, min(most, items)):
            arrays = list(together)
            for position, array in cut.items():
                arrays[position] = array[start:end]
            for position in self.scratch if start else ():
                arrays[position] = np.empty_like(arrays[position])
            parts.append((tuple(arrays), *((end - start, *numbers[1:]) if self.is_counted else numbers)))
        return parts


def ranges(most: int, call: Call) -> list[Call]:
    """Divide the range of a call whose last two numbers are its bounds."""
    *rest, first, last = call
    count = min(most, last - first)
    return [(*rest, first + start, first + end) for start, end in _bounds(last - first, count)] if count > 1 else []


def elements(most: int, call: Call) -> list[Call]:
    """Divide a call for arrays of one shape, computed element by element, and a last array that all parts read."""
    ((*arrays, numbers),) = call
    first = arrays[0]
    if not first.flags.c_contiguous:
        arrays = [array.T for array in arrays]
    for array in arrays:
        if not array.flags.c_contiguous or array.shape != arrays[0].shape:
            return []
    flat = [array.reshape(-1) for array in arrays]
    pieces = _bounds(first.size, min(most, first.size))
    return [((*[array[start:end] for array in flat], numbers),) for start, end in pieces]


def parameters(groups: int) -> Divide:
    """Return the division of an optimizer's call by elements; corresponding arrays of all groups are cut alike.

    States are overwritten, so a call is divided only if the kernel takes all of its arrays.
    """

    def divide(most: int, call: Call) -> list[Call]:
        together, *numbers = call
        count = len(together) // groups
        columns = [together[i::count] for i in range(count)]
        for arrays in columns:
            for group, array in enumerate(arrays):
                flags = array.flags
                fits = flags.carray if group > 1 else flags.c_contiguous and flags.aligned
                if not fits or array.dtype != _FLOAT32 or array.size != arrays[0].size:
                    return []
        total, parts = sum(arrays[0].size for arrays in columns), []
        for start, end in _bounds(total, most):
            chosen, place = [], 0
            for arrays in columns:
                size = arrays[0].size
                first, last = max(start - place, 0), min(end - place, size)
                place += size
                if first < last:
                    whole = last - first == size
                    chosen.append(arrays if whole else [array.reshape(-1)[first:last] for array in arrays])
            if chosen:
                parts.append((tuple([array for group in zip(*chosen, strict=True) for array in group]), *numbers))
        return parts if len(parts) > 1 else []

    return divide


def _rows(position: int) -> Items:
    """Return the division of a call by the rows of the array at a position."""

    def count(arrays: Any, *numbers: Any) -> int:
        x = arrays[position]
        return x.size // x.shape[-1] if x.size and x.ndim else 0

    return Items(count)


def _standardized(most: int, call: Call) -> Sequence[Call]:
    """Divide the gradients of standardized rows: one part sums those of weight and bias, others have rows of x's."""
    (*given, by_x, by_weight, by_bias), *numbers = call
    if by_x is None:
        return []
    rows = Items(lambda arrays, width, *_: arrays[1].size // (width or 1), shared=(2,))
    parts = rows(most, ((*given, by_x, None, None), *numbers)) if numbers[0] else []
    if not parts or (by_weight is None and by_bias is None):
        return parts
    return [((*given, None, by_weight, by_bias), *numbers), *parts]


def _matrices(arrays: Any, *numbers: Any) -> int:
    """Return the number of matrices that are multiplied."""
    return len(arrays[0])


def _columns(most: int, call: Call) -> Sequence[Call]:
    """Divide sums of columns, if many lie side by side: rows are read as fast as memory gives them."""
    return ranges(min(most, call[2] // _SIDE_BY_SIDE), call)


_images = Items(lambda _, images, *__: images, shared=(0,), scratch=(1,), is_counted=True)
_tiles = Items(lambda arrays, *_: math.prod(arrays[0].shape[:-2]))
#: What divides the calls of kernels, by name; others are never divided.
KERNELS: dict[str, Divide] = {
    "tile_max": _tiles,
    "tile_max_backward": _tiles,
    "convolve": replace(_images, shared=(0, 2, 3), scratch=()),
    "convolve_input": replace(_images, shared=(0, 2), scratch=()),
    "depthwise": replace(_images, shared=(0, 3, 4)),
    "depthwise_input": replace(_images, shared=(0, 3)),
    "gather": Items(lambda _, outer, *__: outer, is_counted=True),
    "scatter_add": Items(lambda _, outer, *numbers: 0 if numbers[-1] else outer, is_counted=True),
    "scan": Items(lambda _, outer, *__: outer, is_counted=True),
    "prod": Items(lambda _, rows, __: rows, scratch=(1,), is_counted=True),
    "sgd": parameters(3),
    "sgd_with_momentum": parameters(4),
    "adam": parameters(5),
    "row_sums": Items(lambda arrays, width: arrays[0].size // width),
    "column_sums": _columns,
    "softmax": _rows(0),
    "softmax_backward": _rows(1),
    "cross_entropy": _rows(0),
    "cross_entropy_backward": _rows(1),
    "standardize": Items(lambda arrays, width, *_: arrays[0].size // width if width else 0, shared=(1, 2)),
    "standardize_backward": _standardized,
    "channels": ranges,
    "channels_backward": ranges,
    "attention": Items(_matrices, shared=(3,)),
    "attention_backward": Items(_matrices, shared=(4,)),
}
