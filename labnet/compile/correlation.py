"""How a convolution in float32 is laid out in memory: what its rule and the code that computes it agree on.

Images are copied, one after the other, into a room in the nearest caches: with their padding, and, where windows are
several steps apart, in planes of elements that are as many steps apart, so that neighbouring windows lie side by side.
Sums are computed for vectors of windows. Where the rows of the result are whole vectors, each row is a line of windows.
Else all windows of an image are one line, counted as if its rows went on without end; those that reach around the edge
are computed in vain, and the others are copied out of the room.
"""

import itertools
import math
from dataclasses import astuple, dataclass
from functools import cached_property

from labnet.compile.blocks import floats

Pair = tuple[int, ...]
#: Windows that make it worth to add up the lanes of a sum.
_WORTH = 512


@dataclass(frozen=True)
class Correlation:
    """Sizes of a convolution, each along rows and columns where it is a pair.

    Attributes
    ----------
    samples, channels, filters, groups : int
    image, kernel, stride, dilation, out : (int, int)
    before : (int, int)
        Padding above, and to the left.
    """

    samples: int
    channels: int
    filters: int
    groups: int
    image: Pair
    kernel: Pair
    stride: Pair
    dilation: Pair
    before: Pair
    out: Pair

    @property
    def numbers(self) -> tuple[int, ...]:
        """All sizes, one after the other."""
        single, pairs = astuple(self)[:4], astuple(self)[4:]
        return (*single, *itertools.chain.from_iterable(pairs))

    @classmethod
    def of(cls, *numbers: int) -> "Correlation":
        """Return the convolution with these `numbers`."""
        image, kernel, stride, dilation, before, out = (numbers[i : i + 2] for i in range(4, 16, 2))
        samples, channels, filters, groups = numbers[:4]
        return cls(samples, channels, filters, groups, image, kernel, stride, dilation, before, out)

    @property
    def inner(self) -> int:
        """Elements of a window that a filter sees."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def flops(self) -> int:
        """Multiplications and sums of all windows."""
        return 2 * self.samples * self.filters * math.prod(self.out) * self.inner

    @cached_property
    def sides(self) -> Pair:
        """Rows and columns of a plane in the room."""
        reach = [(k - 1) * d // s for k, d, s in zip(self.kernel, self.dilation, self.stride, strict=True)]
        seen = [out + further for out, further in zip(self.out, reach, strict=True)]
        return seen[0], seen[1]

    @property
    def channel(self) -> int:
        """Length of a channel in the room."""
        return math.prod(self.stride) * math.prod(self.sides)

    @property
    def steps(self) -> tuple[int, ...]:
        """Where the elements of a window lie in the room, counted from the first one of the first window."""
        positions = itertools.product(range(self.channels // self.groups), *map(range, self.kernel))
        return tuple(self._place(channel, i * self.dilation[0], j * self.dilation[1]) for channel, i, j in positions)

    def _place(self, channel: int, row: int, column: int) -> int:
        (down, right), (rows, columns) = self.stride, self.sides
        plane = row % down * right + column % right
        return channel * self.channel + plane * rows * columns + row // down * columns + column // right

    @property
    def by_rows(self) -> bool:
        """Whether each row of the result is a line of whole vectors."""
        return self.out[1] % floats() == 0

    @property
    def lines(self) -> int:
        """Lines of windows of an image."""
        return self.out[0] if self.by_rows else 1

    @property
    def length(self) -> int:
        """Windows of a line, rounded up to whole vectors."""
        if self.by_rows:
            return self.out[1]
        windows = (self.out[0] - 1) * self.sides[1] + self.out[1]
        return -(-windows // floats()) * floats()

    @property
    def down(self) -> int:
        """Elements in the room from the windows of a line to those of the next one."""
        return self.sides[1]

    @property
    def plane(self) -> int:
        """Windows of an image."""
        return self.lines * self.length

    @property
    def padded(self) -> int:
        """Length of an image in the room."""
        return self.channels * self.channel

    @property
    def windows_apart(self) -> int:
        """Length of the windows of an image in the room: none where they are lines of the result."""
        return 0 if self.by_rows else self.filters * self.plane

    @property
    def room(self) -> int:
        """Length of the room that images are convolved in; vectors reach a little further than an image."""
        return self.padded + floats() + self.windows_apart

    @property
    def together(self) -> int:
        """Images whose windows are multiplied by slopes before the lanes of a sum are added to each other."""
        return min(self.samples, -(-_WORTH // self.plane))

    @property
    def room_for_slopes(self) -> int:
        """Length of the room that slopes of filters are computed in."""
        return self.together * (self.padded + self.windows_apart) + floats()

    def copies(self) -> list[tuple[int, int, int, int]]:
        """Return which elements of a channel belong to which plane: (to, rows, from, columns), first ones and counts.

        Rows and columns are as many apart in the image as `stride` says, and side by side in the room.
        """
        found = []
        for plane, starts in enumerate(itertools.product(*map(range, self.stride))):
            (u, first_row, rows), (v, first_column, columns) = (
                self._along(axis, start) for axis, start in enumerate(starts)
            )
            if rows > 0 and columns > 0:
                to = plane * math.prod(self.sides) + u * self.sides[1] + v
                found.append((to, rows, first_row * self.image[1] + first_column, columns))
        return found

    def _along(self, axis: int, start: int) -> tuple[int, int, int]:
        """Return the first place in a plane with an element of the image, which one that is, and how many there are."""
        step, before = self.stride[axis], self.before[axis]
        first = max(-(-(before - start) // step), 0)
        last = min((self.image[axis] + before - 1 - start) // step, self.sides[axis] - 1)
        return first, first * step + start - before, last - first + 1
