"""The memory layout of a convolution in float32, shared by its rule and the code that computes it.

Channels of an image are copied, some at a time, into a room in the nearest caches: with their padding, and in planes
of rows and columns that are as many apart as windows are, so that neighbouring windows lie side by side. Sums are
computed for vectors of windows. Where the rows of the result are whole vectors, each row is a line of windows. Else all
windows of an image are one line. Either rows of the room are longer than those of the result, and windows that reach
around the edge are computed in vain; or, where many filters make it worth to copy more, each column of a window has its
own planes, whose rows are as long as those of the result. Lines longer than the result are computed in the room
too.
"""

import itertools
import math
from dataclasses import astuple, dataclass
from functools import cached_property

from labnet.compile.intrinsics.tiling import evenly, most_filters, part_of_a_window, widest

Pair = tuple[int, ...]
#: Length from which on channels lie on pages of their own, and how many of these are found quickly at the same time.
_LONG, _FAR = 2048, 48
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
    registers : (int, int)
        How many vector registers there are, and how many numbers each one holds.
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
    registers: Pair

    @property
    def numbers(self) -> tuple[int, ...]:
        """All sizes, one after the other."""
        single, pairs = astuple(self)[:4], astuple(self)[4:]
        return (*single, *itertools.chain.from_iterable(pairs))

    @classmethod
    def of(cls, *numbers: int) -> "Correlation":
        """Return the convolution with these `numbers`."""
        pairs = [numbers[i : i + 2] for i in range(4, len(numbers), 2)]
        samples, channels, filters, groups = numbers[:4]
        return cls(samples, channels, filters, groups, *pairs)

    @property
    def inner(self) -> int:
        """Elements of a window that a filter sees."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def flops(self) -> int:
        """Multiplications and sums of all windows."""
        return 2 * self.samples * self.filters * math.prod(self.out) * self.inner

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """Channels that are worked on at a time, of those that a filter sees, as `evenly` returns parts."""
        most = max(part_of_a_window(self.registers[0]) // math.prod(self.kernel), 1)
        return evenly(self.channels // self.groups, min(most, _FAR) if self.channel > _LONG else most)

    # The room

    @cached_property
    def _reach(self) -> Pair:
        """Rows and columns between neighbouring windows' first elements and their last ones, in a plane."""
        return tuple((k - 1) * d // s for k, d, s in zip(self.kernel, self.dilation, self.stride, strict=True))

    @cached_property
    def apart(self) -> bool:
        """Whether each column of a window has its own planes: what is copied more is less than what is saved."""
        saved = self._reach[1] * self.filters // self.groups * self.kernel[0]
        return self.out[1] % self.lanes != 0 and saved > self.out[1] * self.kernel[1]

    @cached_property
    def sides(self) -> Pair:
        """Rows and columns of a plane."""
        return self.out[0] + self._reach[0], self.out[1] + (0 if self.apart else self._reach[1])

    @property
    def _columns(self) -> list[int]:
        """Where the first columns of the planes are in the padded image."""
        return [j * self.dilation[1] for j in range(self.kernel[1])] if self.apart else [*range(self.stride[1])]

    @property
    def channel(self) -> int:
        """Length of a channel in the room, and of zeros behind it, which the last vector of windows may reach."""
        return self.stride[0] * len(self._columns) * math.prod(self.sides) + self.lanes

    @property
    def steps(self) -> tuple[int, ...]:
        """Where the elements of a window of some channels lie, counted from the first one of the first window."""
        return tuple(
            self._place(*each) for each in itertools.product(range(self.parts[0][1]), *map(range, self.kernel))
        )

    def _place(self, channel: int, i: int, j: int) -> int:
        rows, columns = self.sides
        along, high = divmod(i * self.dilation[0], self.stride[0])
        right, wide = (0, j) if self.apart else divmod(j * self.dilation[1], self.stride[1])
        return channel * self.channel + ((high * len(self._columns) + wide) * rows + along) * columns + right

    # The windows

    @property
    def lanes(self) -> int:
        """Numbers of a vector."""
        return self.registers[1]

    def wide(self) -> int:
        """Return how many vectors have their sums in registers, of a tile of all filters or of as many as fit."""
        return widest(self.filters // self.groups, self.registers[0])

    def high(self, wide: int) -> list[tuple[int, int, int]]:
        """Return parts of the filters of a group whose sums fit the registers for so many vectors."""
        return evenly(self.filters // self.groups, most_filters(wide, self.registers[0]))

    @property
    def by_rows(self) -> bool:
        """Whether each row of the result is a line of whole vectors."""
        return self.out[1] % self.lanes == 0

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
        return -(-windows // self.lanes) * self.lanes

    @property
    def down(self) -> int:
        """Elements in the room from the windows of a line to those of the next one."""
        return self.sides[1]

    @property
    def plane(self) -> int:
        """Windows of an image."""
        return self.lines * self.length

    @property
    def is_direct(self) -> bool:
        """Whether the windows of an image are those of the result and no others."""
        return self.plane == math.prod(self.out)

    # Lengths

    @property
    def padded(self) -> int:
        """Length in the room of as many channels as are worked on at a time."""
        return self.parts[0][1] * self.channel

    @property
    def room(self) -> int:
        """Length of the room that images are convolved in."""
        windows = 0 if self.is_direct else self.filters // self.groups * self.plane
        return self.padded + windows

    @property
    def together(self) -> int:
        """Images whose windows are multiplied by slopes before the lanes of a sum are added to each other."""
        return min(self.samples, -(-_WORTH // self.plane))

    @property
    def room_for_slopes(self) -> int:
        """Length of the room that slopes of filters are computed in."""
        slopes = 0 if self.is_direct else self.filters * self.plane
        return self.together * (self.padded + slopes)

    # What is copied

    def copies(self) -> list[tuple[int, int, int, int]]:
        """Return which elements of a channel belong to which plane: (to, rows, from, columns), first ones and counts.

        Rows and columns are as many apart in the image as `stride` says, and side by side in the room.
        """
        found = []
        for plane, starts in enumerate(itertools.product(range(self.stride[0]), self._columns)):
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
