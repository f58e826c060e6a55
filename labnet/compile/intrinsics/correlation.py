"""The memory layout of a convolution in float32, shared by its rule and the code that computes it.

Some channels of an image at a time are copied, with their padding, into a workspace that fits the nearest caches. The
copy splits each channel into one plane per offset within the stride, so that neighbouring windows are adjacent in a
plane. Sums are computed for vectors of windows.

If the rows of the result are whole vectors, each row is a line of windows. Otherwise all windows of an image are one
line. By default the rows of a plane are longer than those of the result, and the windows that wrap around the edge are
computed but not used. With many filters, each column of a window gets planes of its own, whose rows are as long as
those of the result: more is copied, less is computed. Lines that are longer than the result are computed in the
workspace.
"""

import itertools
import math
from dataclasses import astuple, dataclass
from functools import cached_property

from labnet.compile.intrinsics.tiling import evenly, most_filters, part_of_a_window, widest

Pair = tuple[int, ...]
#: Length from which on channels lie on separate pages, and the number of pages that the TLB holds.
_LONG, _FAR = 2048, 48
#: Minimum number of windows per sum of lanes.
_WORTH = 512


@dataclass(frozen=True)
class Correlation:
    """The sizes of a convolution; pairs are (rows, columns).

    Attributes
    ----------
    samples, channels, filters, groups : int
    image, kernel, stride, dilation, out : (int, int)
    before : (int, int)
        Padding above, and to the left.
    registers : (int, int)
        Number of vector registers, and lanes of each.
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
        """All sizes in one tuple."""
        single, pairs = astuple(self)[:4], astuple(self)[4:]
        return (*single, *itertools.chain.from_iterable(pairs))

    @classmethod
    def of(cls, *numbers: int) -> "Correlation":
        """Return the convolution from its `numbers`."""
        pairs = [numbers[i : i + 2] for i in range(4, len(numbers), 2)]
        samples, channels, filters, groups = numbers[:4]
        return cls(samples, channels, filters, groups, *pairs)

    @property
    def inner(self) -> int:
        """Elements of a window per filter."""
        return self.channels // self.groups * math.prod(self.kernel)

    @property
    def flops(self) -> int:
        """Floating-point operations of all windows."""
        return 2 * self.samples * self.filters * math.prod(self.out) * self.inner

    @property
    def parts(self) -> list[tuple[int, int, int]]:
        """Parts of a group's channels that are processed at a time, as `evenly` returns them."""
        most = max(part_of_a_window(self.registers[0]) // math.prod(self.kernel), 1)
        return evenly(self.channels // self.groups, min(most, _FAR) if self.channel > _LONG else most)

    # The workspace

    @cached_property
    def _reach(self) -> Pair:
        """Rows and columns from the first to the last element of a window in a plane."""
        return tuple((k - 1) * d // s for k, d, s in zip(self.kernel, self.dilation, self.stride, strict=True))

    @cached_property
    def apart(self) -> bool:
        """Whether each column of a window has its own planes, because that saves more work than it copies."""
        saved = self._reach[1] * self.filters // self.groups * self.kernel[0]
        return self.out[1] % self.lanes != 0 and saved > self.out[1] * self.kernel[1]

    @cached_property
    def sides(self) -> Pair:
        """Rows and columns of a plane."""
        return self.out[0] + self._reach[0], self.out[1] + (0 if self.apart else self._reach[1])

    @property
    def _columns(self) -> list[int]:
        """First column of each plane in the padded image."""
        return [j * self.dilation[1] for j in range(self.kernel[1])] if self.apart else [*range(self.stride[1])]

    @property
    def channel(self) -> int:
        """Length of a channel in the workspace, with zeros at its end that the last vector of windows may read."""
        return self.stride[0] * len(self._columns) * math.prod(self.sides) + self.lanes

    @property
    def steps(self) -> tuple[int, ...]:
        """Offsets of the elements of a window of some channels from its first element."""
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
        """Lanes of a vector."""
        return self.registers[1]

    def wide(self) -> int:
        """Return the number of vectors of windows per register tile."""
        return widest(self.filters // self.groups, self.registers[0])

    def high(self, wide: int) -> list[tuple[int, int, int]]:
        """Return parts of the filters of a group whose sums fit the registers for a number of vectors."""
        return evenly(self.filters // self.groups, most_filters(wide, self.registers[0]))

    @property
    def by_rows(self) -> bool:
        """Whether the rows of the result are whole vectors, so that each is a line."""
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
        """Elements in the workspace from one line of windows to the next."""
        return self.sides[1]

    @property
    def plane(self) -> int:
        """Windows of an image."""
        return self.lines * self.length

    @property
    def is_direct(self) -> bool:
        """Whether the computed windows are exactly those of the result."""
        return self.plane == math.prod(self.out)

    # Lengths

    @property
    def padded(self) -> int:
        """Length in the workspace of the channels that are processed at a time."""
        return self.parts[0][1] * self.channel

    @property
    def workspace(self) -> int:
        """Length of the workspace of a convolution."""
        windows = 0 if self.is_direct else self.filters // self.groups * self.plane
        return self.padded + windows

    @property
    def together(self) -> int:
        """Images whose gradients are accumulated before the lanes of a sum are added."""
        return min(self.samples, -(-_WORTH // self.plane))

    @property
    def gradient_workspace(self) -> int:
        """Length of the workspace for the gradient of the filters."""
        gradients = 0 if self.is_direct else self.filters * self.plane
        return self.together * (self.padded + gradients)

    # What is copied

    def copies(self) -> list[tuple[int, int, int, int]]:
        """Return the copies from a channel to its planes: (target offset, rows, source offset, columns).

        Elements are `stride` apart in the image, and adjacent in the workspace.
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
        """Return the first position in a plane that the image fills, the position in the image, and the count."""
        step, before = self.stride[axis], self.before[axis]
        first = max(-(-(before - start) // step), 0)
        last = min((self.image[axis] + before - 1 - start) // step, self.sides[axis] - 1)
        return first, first * step + start - before, last - first + 1
