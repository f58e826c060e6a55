"""Iteration spaces: dimensions and strides of a kernel, and the source that finds an element from its index.

Dimensions that follow each other in all arrays are joined. An array is flat if element i of the result needs its
element i; else it has strides, and i is taken apart into one index per dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.driver.gpu import current_gpu

#: Blocks per multiprocessor that keep it busy.
_BLOCKS = 32


@dataclass(frozen=True)
class Space:
    """Dimensions of a result, and the strides of each array along them.

    Attributes
    ----------
    lengths : tuple of int
        Lengths of the dimensions, joined where possible.
    strides : tuple of tuple of int
        For each array one stride per dimension, in elements.
    """

    lengths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> "Space":
        """Join the dimensions of `shape` that are contiguous to each other in all arrays, given their strides."""
        lengths: list[int] = []
        steps: list[list[int]] = [[] for _ in strides]
        for axis, length in enumerate(shape):
            if length == 1:
                continue
            if lengths and all(own[-1] == length * given[axis] for own, given in zip(steps, strides, strict=True)):
                lengths[-1] *= length
                for own, given in zip(steps, strides, strict=True):
                    own[-1] = given[axis]
            else:
                lengths.append(length)
                for own, given in zip(steps, strides, strict=True):
                    own.append(given[axis])
        return cls(tuple(lengths), tuple(map(tuple, steps)))

    def kinds(self) -> tuple[str, ...]:
        """Return for each array "flat", "one" (element), or a digit per dimension: 1 if its stride is not zero."""
        flat = []
        step = 1
        for length in reversed(self.lengths):
            flat.append(step)
            step *= length
        whole = tuple(reversed(flat))
        return tuple(
            "flat" if own == whole else "one" if not any(own) else "".join("01"[step != 0] for step in own)
            for own in self.strides
        )


def strides_in(layout: np.ndarray[Any, Any], shape: Sequence[int]) -> tuple[int, ...]:
    """Return the strides, in elements, of an array broadcast to a shape."""
    size = layout.itemsize
    own = [0 if length == 1 else stride // size for length, stride in zip(layout.shape, layout.strides, strict=True)]
    return (*[0] * (len(shape) - len(own)), *own)


def index_source(index: str, count: int, name: str = "n", prefix: str = "k") -> list[str]:
    """Return statements that split a flat index into one index per dimension, as ``np.unravel_index`` does."""
    lines, rest = [], index
    for axis in range(count - 1, 0, -1):
        lines.append(f"{prefix}{axis} = i8(u4({rest}) % u4({name}{axis})) if narrow else {rest} % {name}{axis}")
        lines.append(f"{prefix}r{axis} = i8(u4({rest}) // u4({name}{axis})) if narrow else {rest} // {name}{axis}")
        rest = f"{prefix}r{axis}"
    lines.append(f"{prefix}0 = {rest}")
    return lines


def offset_source(kind: str, which: int, index: str, prefix: str = "k", stride: str = "s") -> str:
    """Return the source of the offset of an element in array `which`."""
    if kind == "flat":
        return index
    if kind == "one":
        return "0"
    return " + ".join(f"{prefix}{axis} * {stride}{which}_{axis}" for axis, moves in enumerate(kind) if moves == "1")


def with_index_width(lines: list[str], *, narrow: bool) -> list[str]:
    """Choose 32-bit or 64-bit division in the statements of `index_source`."""
    chosen = []
    for line in lines:
        name, _, rest = line.partition(" = ")
        if " if narrow else " in rest:
            rest = rest.split(" if narrow else ")[0 if narrow else 1]
        chosen.append(f"{name} = {rest}")
    return chosen


def grid_for(elements: int, threads: int) -> int:
    """Return the smallest number of blocks that keeps the GPU busy."""
    most: int = current_gpu().multiprocessors * _BLOCKS
    return max(1, min(-(-elements // threads), most))


def arguments_of(space: Space, kinds: tuple[str, ...]) -> list[int]:
    """Return the lengths and strides that are arguments of a kernel for these kinds."""
    if all(kind in ("flat", "one") for kind in kinds):
        return []
    found = list(space.lengths[1:])
    for kind, own in zip(kinds, space.strides, strict=True):
        if kind not in ("flat", "one"):
            found += [step for step, moves in zip(own, kind, strict=True) if moves == "1"]
    return found
