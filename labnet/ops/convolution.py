"""Two-dimensional convolution and its two adjoints, each the others' gradient rule.

A convolution is a matrix product with the matrix of all windows. Where windows overlap along a row that matrix
is cut from the image as if rows went on without end: it then consists of long runs that are copied, or added,
at once. The few windows that reach around the edge are computed in vain and left out of the result.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import as_strided

from labnet.ops.reduction import sum
from labnet.ops.registry import FLOATS, Array, Sample, op
from labnet.tensor import Tensor

#: One number for both dimensions, or one for (rows, columns).
Pair = int | tuple[int, int]
#: Zeros around the image: as `Pair`, or ``"valid"`` for none, or ``"same"`` to keep the size.
Padding = Pair | str
#: Elements of the matrix of windows that are worked on at a time, so that they stay in the cache.
_PART = 1 << 17
#: Windows per row below which rows are taken together.
_SHORT = 16


def pair(value: Pair) -> tuple[int, int]:
    """Return (rows, columns) for a number or a pair.

    Examples
    --------
    >>> pair(3), pair((1, 2))
    ((3, 3), (1, 2))
    """
    rows, columns = (value, value) if isinstance(value, int) else value
    return int(rows), int(columns)


def margins(
    padding: Padding, kernel: tuple[int, ...], stride: tuple[int, int], dilation: tuple[int, int]
) -> tuple[tuple[int, int], ...]:
    """Return ((above, below), (left, right)): the width of the padding on each side."""
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
    """Where the windows of a convolution lie in an image.

    Attributes
    ----------
    image, padded, kernel, out : (rows, columns)
        Sizes without and with padding, of the window, and of the result.
    stride, dilation : (int, int)
        Steps between windows, and inside one.
    before : (int, int)
        Padding above and to the left.
    row : int
        Windows computed per row of the result: the first `out[1]` of them count.
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
    ) -> "Windows":
        """Work out the sizes.

        Raises
        ------
        ValueError
            If the window is larger than the padded image, or a number is out of range.
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
        row = padded[1] if steps == (1, 1) and out[1] < _SHORT else out[1]
        if row > out[1]:
            padded[0] += 1  # what the last windows see beyond the last row
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

    def parts(self, images: int, channels: int) -> Iterator[slice]:
        """Cut a batch into parts whose windows are few enough to be worked on at a time."""
        each = channels * self.kernel[0] * self.kernel[1] * self.out[0] * self.row
        count = max(1, _PART // max(1, each))
        return (slice(start, start + count) for start in range(0, images, count))

    def columns(self, x: Array, groups: int) -> Array:
        """Return the windows of images (N, C, H, W) as a matrix (N, groups, C / groups * kernel, windows)."""
        padded = x
        if self.padded != self.image:
            padded = np.zeros((*x.shape[:2], *self.padded), x.dtype)
            self._inside(padded)[...] = x
        view = self._view(np.ascontiguousarray(padded))
        inner = x.shape[1] // groups * self.kernel[0] * self.kernel[1]
        return view.reshape(x.shape[0], groups, inner, self.out[0] * self.row)

    def add_up(self, columns: Array, channels: int) -> Array:
        """Add a matrix as of `columns` up to images (N, channels, H, W); the adjoint of `columns`."""
        parts = columns.reshape(len(columns), channels, *self.kernel, self.out[0], self.row)
        padded = np.zeros((len(columns), channels, *self.padded), columns.dtype)
        if (
            self.stride[0] == 1 and self.row == self.padded[1]
        ):  # then the rows follow each other without a gap, and add up as one
            runs = padded.reshape(len(columns), channels, self.padded[0] * self.row)
            length = self.out[0] * self.row
            for i, j in np.ndindex(self.kernel):
                start = i * self.dilation[0] * self.row + j * self.dilation[1]
                runs[:, :, start : start + length] += parts[:, :, i, j].reshape(len(columns), channels, length)
        else:
            target = self._view(padded, writeable=True)
            for i, j in np.ndindex(self.kernel):
                target[:, :, i, j] += parts[:, :, i, j]
        return self._inside(padded)

    def widen(self, g: Array, groups: int) -> Array:
        """Return (N, K, *out) as (N, groups, K / groups, windows), with zeros for the windows that do not count."""
        if self.row != self.out[1]:
            wide = np.zeros((*g.shape[:2], self.out[0], self.row), g.dtype)
            wide[..., : self.out[1]] = g
            g = wide
        return g.reshape(len(g), groups, g.shape[1] // groups, self.out[0] * self.row)


def _channels_fit(images: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    if len(images) != 4 or len(weight) != 4:
        raise ValueError("expected images of shape (N, C, H, W) and weights of shape (K, C / groups, rows, columns)")
    if groups < 1 or images[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"{images[1]} channels and {weight} weights do not fit {groups} groups")


def _pull_images(g: Tensor, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, **static: Any) -> Tensor:
    return conv2d_input(g, weight, shape=x.shape, **static)


def _pull_weight(g: Tensor, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, **static: Any) -> Tensor:
    return conv2d_weight(x, g, shape=weight.shape, **static)


def _pull_bias(g: Tensor, out: Tensor, x: Tensor, weight: Tensor, bias: Tensor, **static: Any) -> Tensor:
    return sum(g, axis=(0, 2, 3)) if bias.ndim else sum(g)


@op(
    _pull_images,
    _pull_weight,
    _pull_bias,
    inputs=3,
    dtypes=FLOATS,
    samples=(
        Sample(((2, 3, 5, 6), (4, 3, 3, 2), (4,))),
        Sample(((1, 2, 5, 5), (2, 2, 1, 1), ())),
        Sample(((2, 4, 7, 6), (6, 2, 3, 3), (6,)), {"stride": (2, 1), "padding": (1, 2), "groups": 2}),
        Sample(((1, 2, 7, 7), (2, 1, 2, 3), (2,)), {"dilation": (1, 2), "padding": 1, "groups": 2}),
        Sample(((1, 1, 4, 5), (2, 1, 2, 3), (2,)), {"padding": "same"}),
        Sample(((0, 2, 4, 4), (3, 2, 3, 3), (3,))),
    ),
)
def conv2d(
    x: Array,
    weight: Array,
    bias: Array,
    /,
    *,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Cross-correlate images with filters, as torch does, and add a bias; `labnet.nn.conv2d` can do without.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W)
    weight : tensor of shape (K, C / groups, rows, columns)
    bias : tensor of shape (K,), or a number
    stride, dilation : int or (int, int)
        Steps between windows, and between the elements of one.
    padding : int, (int, int), "valid" or "same"
        Zeros around the image.
    groups : int
        The k-th part of the filters sees the k-th part of the channels only.

    Returns
    -------
    tensor of shape (N, K, H', W')
        ``H' = (H + 2 padding - dilation (rows - 1) - 1) // stride + 1``, W' likewise.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other; the message holds both.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.conv2d(ln.ones((1, 1, 3, 3)), ln.ones((1, 1, 2, 2)), 0).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    _channels_fit(x.shape, weight.shape, groups)
    if np.shape(bias) not in ((), weight.shape[:1]):
        raise ValueError("expected one number of the bias per filter")
    windows = Windows.of(x.shape[2:], weight.shape[2:], stride=stride, padding=padding, dilation=dilation)
    filters = weight.reshape(groups, len(weight) // groups, -1)
    shift = np.reshape(bias, (*filters.shape[:2], 1)) if np.ndim(bias) else bias
    out = np.empty((len(x), *filters.shape[:2], windows.out[0] * windows.row), np.result_type(x, weight, bias))
    for part in windows.parts(*x.shape[:2]):
        np.matmul(filters, windows.columns(x[part], groups), out=out[part])
        out[part] += shift
    return out.reshape(len(x), len(weight), windows.out[0], windows.row)[..., : windows.out[1]]


def _pull_weight_of_input(g: Tensor, out: Tensor, y: Tensor, weight: Tensor, *, shape: Any, **static: Any) -> Tensor:
    return conv2d_weight(g, y, shape=weight.shape, **static)


@op(
    lambda g, out, y, weight, *, shape, **static: conv2d(g, weight, 0, **static),
    _pull_weight_of_input,
    inputs=2,
    dtypes=FLOATS,
    samples=(
        Sample(((2, 4, 3, 5), (4, 3, 3, 2)), {"shape": (2, 3, 5, 6)}),
        Sample(((1, 2, 2, 2), (2, 1, 2, 3)), {"shape": (1, 2, 5, 4), "stride": 2, "padding": (0, 1), "groups": 2}),
    ),
)
def conv2d_input(
    y: Array,
    weight: Array,
    /,
    *,
    shape: tuple[int, ...],
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Adjoint of `conv2d` in the images: its gradient, or a transposed convolution.

    Parameters
    ----------
    y : tensor of shape (N, K, H', W')
    weight : tensor of shape (K, C / groups, rows, columns)
    shape : (N, C, H, W)
        Shape of the images; the others are as for `conv2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.conv2d_input(ln.ones((1, 1, 1, 2)), ln.ones((1, 1, 1, 2)), shape=(1, 1, 1, 3)).tolist()
    [[[[1.0, 2.0, 1.0]]]]
    """
    _channels_fit(shape, weight.shape, groups)
    windows = Windows.of(shape[2:], weight.shape[2:], stride=stride, padding=padding, dilation=dilation)
    filters = np.swapaxes(weight.reshape(groups, len(weight) // groups, -1), 1, 2)
    out = np.empty(shape, np.result_type(y, weight))
    for part in windows.parts(*shape[:2]):
        out[part] = windows.add_up(np.matmul(filters, windows.widen(y[part], groups)), shape[1])
    return out


@op(
    lambda g, out, x, y, *, shape, **static: conv2d_input(y, g, shape=x.shape, **static),
    lambda g, out, x, y, *, shape, **static: conv2d(x, g, 0, **static),
    inputs=2,
    dtypes=FLOATS,
    samples=(
        Sample(((2, 3, 5, 6), (2, 4, 3, 5)), {"shape": (4, 3, 3, 2)}),
        Sample(((1, 2, 5, 4), (1, 2, 2, 2)), {"shape": (2, 1, 2, 3), "stride": 2, "padding": (0, 1), "groups": 2}),
    ),
)
def conv2d_weight(
    x: Array,
    y: Array,
    /,
    *,
    shape: tuple[int, ...],
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Array:
    """Adjoint of `conv2d` in the filters, which is their gradient.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W)
    y : tensor of shape (N, K, H', W')
    shape : (K, C / groups, rows, columns)
        Shape of the filters; the others are as for `conv2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.conv2d_weight(ln.ones((1, 1, 1, 3)), ln.ones((1, 1, 1, 2)), shape=(1, 1, 1, 2)).tolist()
    [[[[2.0, 2.0]]]]
    """
    _channels_fit(x.shape, shape, groups)
    windows = Windows.of(x.shape[2:], shape[2:], stride=stride, padding=padding, dilation=dilation)
    out = np.zeros((groups, math.prod(shape[1:]), shape[0] // groups), np.result_type(x, y))
    for part in windows.parts(*x.shape[:2]):  # BLAS is faster with the larger factor on the left
        out += np.matmul(windows.columns(x[part], groups), np.swapaxes(windows.widen(y[part], groups), 2, 3)).sum(
            axis=0
        )
    return np.swapaxes(out, 1, 2).reshape(shape)
