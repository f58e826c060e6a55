"""Sliding windows over images: their geometry, and images as a matrix of windows (im2col).

For short rows, the matrix is taken from the flattened image across row ends: it then consists of long runs that are
copied or added at once. The few windows that wrap around an edge are computed and discarded.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from numbers import Integral
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from labnet.kernels.device_dispatch import is_on_gpu
from labnet.ops.core.declaration import Array

#: One number for both dimensions, or one for (rows, columns).
Pair = int | tuple[int, int]
#: Zeros around the image: a `Pair`, ``"valid"`` for none, or ``"same"`` to keep the size.
Padding = Pair | str
#: Elements of the matrix of windows per part, so that a part stays in the cache.
_PART = 1 << 17
#: The same on a GPU, where small parts have no benefit: a gigabyte.
_PART_ELSEWHERE = 1 << 28
#: Multiplications of a product whose factors BLAS takes where they lie, on processors with AVX-512.
_SMALL = 1_000_000
#: Windows per row below which rows are merged.
_SHORT = 16


def pair(value: Pair) -> tuple[int, int]:
    """Return (rows, columns) for a number or a pair.

    Examples
    --------
    >>> pair(3), pair((1, 2))
    ((3, 3), (1, 2))
    """
    if type(value) is int:
        return value, value
    parts = tuple(value) if isinstance(value, list | tuple) else (value, value)
    if len(parts) != 2 or any(isinstance(part, bool) or not isinstance(part, Integral) for part in parts):
        raise ValueError(f"expected an integer, or one for rows and one for columns, got {value!r:.40}")
    rows, columns = parts
    return int(rows), int(columns)


def margins(
    padding: Padding, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return the padding on each side as ((above, below), (left, right))."""
    if isinstance(padding, str):
        if padding not in ("same", "valid"):
            raise ValueError("padding must be numbers, 'same' or 'valid'")
        if padding == "same" and stride != (1, 1):
            raise ValueError("padding='same' needs stride 1")
        totals = [d * (k - 1) * (padding == "same") for k, d in zip(kernel, dilation, strict=True)]
        return tuple((total // 2, total - total // 2) for total in totals)
    return tuple((width, width) for width in pair(padding))


@dataclass(frozen=True, slots=True)
class Windows:
    """The geometry of a convolution's windows in an image.

    Attributes
    ----------
    image, padded, kernel, out : (rows, columns)
        Sizes without and with padding, of the window, and of the result.
    stride, dilation : (int, int)
        Steps between windows and within a window.
    before : (int, int)
        Padding above and to the left.
    row : int
        Windows computed per row of the result, of which the first `out[1]` are used.
    """

    image: tuple[int, ...]
    padded: tuple[int, ...]
    kernel: tuple[int, ...]
    out: tuple[int, ...]
    stride: tuple[int, ...]
    dilation: tuple[int, ...]
    before: tuple[int, ...]
    row: int

    @classmethod
    def of(
        cls,
        image: tuple[int, ...],
        kernel: tuple[int, ...],
        *,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        joined: bool = True,
    ) -> "Windows":
        """Compute the sizes.

        Raises
        ------
        ValueError
            If the window exceeds the padded image, or a number is out of range.
        """
        steps, spread = pair(stride), pair(dilation)
        if min(*steps, *spread, *kernel) < 1:
            raise ValueError("kernel, stride and dilation must be at least 1")
        sides = margins(padding, kernel, steps, spread)
        padded = [size + above + below for size, (above, below) in zip(image, sides, strict=True)]
        if min(side for both in sides for side in both) < 0:
            raise ValueError("padding must not be negative")
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, spread, strict=True)]
        if padded[0] < reach[0] or padded[1] < reach[1]:
            raise ValueError(f"the window covers {tuple(reach)}, the padded image is only {tuple(padded)}")
        out = ((padded[0] - reach[0]) // steps[0] + 1, (padded[1] - reach[1]) // steps[1] + 1)
        row = padded[1] if joined and steps == (1, 1) and out[1] < _SHORT else out[1]
        if row > out[1]:
            padded[0] += 1  # the elements beyond the last row that the last windows read
        size = (padded[0], padded[1])
        return cls(image, size, kernel, out, steps, spread, (sides[0][0], sides[1][0]), row)

    def _inside(self, padded: Array) -> Array:
        (top, left), (rows, columns) = self.before, self.image
        return padded[:, :, top : top + rows, left : left + columns]

    def _view(self, padded: Array, *, writeable: bool = False) -> Array:
        """View a padded image of shape (N, C, *padded) as windows of shape (N, C, *kernel, out[0], row)."""
        n, c, rows, columns = padded.strides
        shape = (*padded.shape[:2], *self.kernel, self.out[0], self.row)
        strides = (n, c, rows * self.dilation[0], columns * self.dilation[1], rows * self.stride[0])
        return as_strided(padded, shape, (*strides, columns * self.stride[1]), writeable=writeable)

    def _part(self, x: Array, channels: int) -> int:
        """Return the number of images of a part."""
        each = channels * self.kernel[0] * self.kernel[1] * self.out[0] * self.row
        return max(1, (_PART_ELSEWHERE if is_on_gpu(x) else _PART) // max(1, each))

    def parts(self, x: Array, channels: int) -> Iterator[slice]:
        """Split a batch into parts with a bounded number of windows."""
        count = self._part(x, channels)
        return (slice(start, start + count) for start in range(0, len(x), count))

    def tile(self, filters: int, inner: int) -> int:
        """Return the number of windows to multiply at a time, for filters of `inner` elements.

        Their matrix stays in the cache. BLAS does not copy the factors of a small product.
        """
        count, near = self.out[0] * self.row, max(_PART // max(inner, 1), 256)
        small = _SMALL // max(filters * inner, 1)
        most = min(small, near) if small >= 128 else near
        return count if count <= most else most // 64 * 64

    def tiles(self, x: Array, filters: int, inner: int) -> list[slice]:
        """Return the windows of an image that are multiplied at a time; on a GPU, all of them."""
        count = self.out[0] * self.row
        step = count if is_on_gpu(x) else self.tile(filters, inner)
        return [slice(start, min(start + step, count)) for start in range(0, count, step)]

    def sizes(self) -> Array:
        """Return the sizes as a kernel of the CPU reads them."""
        return _geometry(self)[0]

    def geometry(self) -> tuple[Array, Array]:
        """Return the sizes as a kernel of the CPU reads them, and memory for an image with padding."""
        sizes, size = _geometry(self)
        return sizes, np.empty(size, np.float32)

    @property
    def _is_matrix(self) -> bool:
        """Whether images already are matrices of windows, which have one element each."""
        return self.kernel == self.stride == (1, 1) and self.padded == self.image

    def memory(self, x: Array, channels: int, groups: int, dtype: np.dtype[Any]) -> Array | None:
        """Return memory for the matrix of windows of each part; None if it takes none.

        Its rows do not all begin in the same line of the cache.
        """
        if is_on_gpu(x) or self._is_matrix:
            return None
        count, inner = self.out[0] * self.row, channels // groups * self.kernel[0] * self.kernel[1]
        images = min(len(x), self._part(x, channels))
        return np.empty((images, groups, inner, count if count % 256 else count + 16), dtype)

    def columns(self, x: Array, groups: int, memory: Array | None) -> Array:
        """Return the windows of images (N, C, H, W) as a matrix (N, groups, C / groups * kernel, windows)."""
        shape = x.shape[0], groups, x.shape[1] // groups * self.kernel[0] * self.kernel[1], self.out[0] * self.row
        if is_on_gpu(x):
            from labnet.kernels.cuda.kernels import im2col

            return im2col.im2col(x, self._sizes()).reshape(shape)
        if memory is None:
            return x.reshape(shape)
        out = memory[: len(x), ..., : shape[-1]]
        view = self.view(x)
        out.reshape(view.shape, copy=False)[...] = view
        return out

    def view(self, x: Array) -> Array:
        """View images (N, C, H, W) with padding as windows of shape (N, C, *kernel, out[0], row)."""
        padded = x
        if self.padded != self.image:
            padded = np.zeros((*x.shape[:2], *self.padded), x.dtype)
            self._inside(padded)[...] = x
        return self._view(np.ascontiguousarray(padded))

    def back(self, columns: Array, channels: int) -> Array:
        """Sum the windows that `columns` returns into images (N, channels, H, W); the adjoint of `columns`."""
        if is_on_gpu(columns):
            from labnet.kernels.cuda.kernels import im2col

            return im2col.col2im(columns.reshape(len(columns), channels, *self.kernel, *self.out), self._sizes())
        if self._is_matrix:
            return columns.reshape(len(columns), channels, *self.image)
        parts = columns.reshape((len(columns), channels, *self.kernel, self.out[0], self.row), copy=False)
        if self.stride[0] == 1 and self.row == self.padded[1]:  # the rows are then consecutive and are added as one
            padded = np.zeros((len(columns), channels, *self.padded), columns.dtype)
            runs = padded.reshape(len(columns), channels, self.padded[0] * self.row)
            length = self.out[0] * self.row
            for i, j in np.ndindex(self.kernel):
                start = i * self.dilation[0] * self.row + j * self.dilation[1]
                runs[:, :, start : start + length] += parts[:, :, i, j].reshape(len(columns), channels, length)
            return self._inside(padded)
        found = (parts[:, :, i, j] for i, j in np.ndindex(self.kernel))
        return self.overlap(found, len(columns), channels, columns.dtype)

    def overlap(self, parts: Iterable[Array], images: int, channels: int, dtype: np.dtype[Any]) -> Array:
        """Sum, into images (N, channels, H, W), what all windows have at each of their elements."""
        padded = np.zeros((images, channels, *self.padded), dtype)
        target = self._view(padded, writeable=True)
        for (i, j), part in zip(np.ndindex(self.kernel), parts, strict=True):
            target[:, :, i, j] += part
        return self._inside(padded)

    def _sizes(self) -> tuple[int, ...]:
        """Return the sizes as an array for a kernel."""
        return (*self.image, *self.kernel, *self.out, *self.stride, *self.dilation, *self.before)

    def widen(self, g: Array, groups: int) -> Array:
        """Return (N, K, *out) as (N, groups, K / groups, windows), with zeros for unused windows."""
        if self.row != self.out[1]:
            wide = np.zeros((*g.shape[:2], self.out[0], self.row), g.dtype)
            wide[..., : self.out[1]] = g
            g = wide
        return g.reshape(len(g), groups, g.shape[1] // groups, self.out[0] * self.row)


@functools.lru_cache(maxsize=256)
def _geometry(windows: Windows) -> tuple[Array, int]:
    """Return the sizes as `labnet.kernels.cpu.convolution` reads them, and the elements of an image with padding."""
    (rows, columns), (down, across), step = windows.padded, windows.dilation, windows.stride[1]
    plane = -(-columns // step)  # of neighbours along a row, which neighbouring windows read
    places = [j * across % step * plane + j * across // step for j in range(windows.kernel[1])]
    taps = [i * down * plane * step + place for i in range(windows.kernel[0]) for place in places]
    sizes = *windows.image, *windows.padded, *windows.kernel, windows.out[0], windows.row, *windows.stride
    sizes = *sizes, *windows.dilation, *windows.before, windows.out[1], *taps
    return np.asarray(sizes, np.int64), rows * plane * step
