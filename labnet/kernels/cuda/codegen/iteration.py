"""Iteration spaces: dimensions and strides of a kernel, and the source that finds an element from its index.

Dimensions that follow each other in all arrays are joined. An array is flat if element i of the result needs its
element i; else it has strides, and i is taken apart into one index per dimension.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.driver.gpu import machine

#: Blocks per multiprocessor: more have nothing to run on.
_BLOCKS = 32


@dataclass(frozen=True)
class Space:
    """Where the elements of a result and of its arrays lie.

    Attributes
    ----------
    lengths : tuple of int
        Of the dimensions, after those that can be were joined.
    strides : tuple of tuple of int
        For each array one stride per dimension, in elements.
    """

    lengths: tuple[int, ...]
    strides: tuple[tuple[int, ...], ...]

    @classmethod
    def of(cls, shape: Sequence[int], strides: Sequence[Sequence[int]]) -> "Space":
        """Join the dimensions of `shape` that are one in all arrays, given their strides."""
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
        """Return for each array how it is read: "flat", "one" element, or which dimensions it has steps in."""
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
    """Return the strides, in elements, of an array that is broadcast to a shape."""
    size = layout.itemsize
    own = [0 if length == 1 else stride // size for length, stride in zip(layout.shape, layout.strides, strict=True)]
    return (*[0] * (len(shape) - len(own)), *own)


def parts_text(index: str, count: int, name: str = "n", prefix: str = "k") -> list[str]:
    """Return statements that take an index apart into the places along `count` dimensions."""
    lines, rest = [], index
    for axis in range(count - 1, 0, -1):
        lines.append(f"{prefix}{axis} = i8(u4({rest}) % u4({name}{axis})) if narrow else {rest} % {name}{axis}")
        lines.append(f"{prefix}r{axis} = i8(u4({rest}) // u4({name}{axis})) if narrow else {rest} // {name}{axis}")
        rest = f"{prefix}r{axis}"
    lines.append(f"{prefix}0 = {rest}")
    return lines


def place_text(kind: str, which: int, index: str, prefix: str = "k", stride: str = "s") -> str:
    """Return the text of the place of an element of array `which`."""
    if kind == "flat":
        return index
    if kind == "one":
        return "0"
    return " + ".join(f"{prefix}{axis} * {stride}{which}_{axis}" for axis, moves in enumerate(kind) if moves == "1")


def without_branches(lines: list[str], *, narrow: bool) -> list[str]:
    """Settle in the text how wide an index is."""
    chosen = []
    for line in lines:
        name, _, rest = line.partition(" = ")
        if " if narrow else " in rest:
            rest = rest.split(" if narrow else ")[0 if narrow else 1]
        chosen.append(f"{name} = {rest}")
    return chosen


def grid_for(elements: int, threads: int) -> int:
    """Return a number of blocks that keeps the GPU busy, and no more."""
    most: int = machine().multiprocessors * _BLOCKS
    return max(1, min(-(-elements // threads), most))


def arguments_of(space: Space, kinds: tuple[str, ...]) -> list[int]:
    """Return the lengths and strides that a kernel for these kinds gets."""
    if all(kind in ("flat", "one") for kind in kinds):
        return []
    found = list(space.lengths[1:])
    for kind, own in zip(kinds, space.strides, strict=True):
        if kind not in ("flat", "one"):
            found += [step for step, moves in zip(own, kind, strict=True) if moves == "1"]
    return found
