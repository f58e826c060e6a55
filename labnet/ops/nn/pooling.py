"""Pooling over windows of the last two dimensions, and its adjoints."""

from collections.abc import Iterator
from typing import Any

import numpy as np

from labnet import kernels
from labnet.kernels.device_dispatch import finished, is_on_gpu
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.registry import FLOATS, op
from labnet.ops.elementwise.elementary import kept
from labnet.ops.nn.windows import Pair, Windows, pair
from labnet.tensor import Tensor

Place = tuple[Any, ...]


def _places(windows: Windows) -> Iterator[Place]:
    """Yield, for each window element in row-major order, its index for all windows at once."""
    for start in np.ndindex(windows.kernel):
        yield (
            ...,
            *(
                slice(i * d, i * d + (out - 1) * s + 1, s)
                for i, d, s, out in zip(start, windows.dilation, windows.stride, windows.out, strict=True)
            ),
        )


def _windows(x: Array, kernel_size: Pair, stride: Pair | None, padding: Pair, dilation: Pair = 1) -> Windows:
    kernel, width = pair(kernel_size), pair(padding)
    if np.ndim(x) < 2 or any(2 * w > k for w, k in zip(width, kernel, strict=True)):
        raise ValueError("expected shape (..., H, W), and padding of at most half the window")
    steps = kernel if stride is None else pair(stride)
    return Windows.of(x.shape[-2:], kernel, stride=steps, padding=width, dilation=dilation)


def _are_tiles(windows: Windows) -> bool:
    """Return whether the windows are disjoint tiles without padding."""
    return windows.stride == windows.kernel and windows.dilation == (1, 1) and not any(windows.before)


def _padded(x: Array, windows: Windows, value: float) -> Array:
    if not any(windows.before):
        return x
    widths = [(0, 0)] * (x.ndim - 2) + [(before, before) for before in windows.before]
    return np.pad(x, widths, constant_values=value)


def _inside(padded: Array, windows: Windows) -> Array:
    (top, left), (rows, columns) = windows.before, windows.image
    return padded[..., top : top + rows, left : left + columns]


def _blank(shape: tuple[int, ...], windows: Windows, like: Array) -> Array:
    sides = [size + 2 * before for size, before in zip(windows.image, windows.before, strict=True)]
    return np.zeros((*shape[:-2], *sides), like.dtype, like=like)


def _greatest(x: Array, windows: Windows) -> Array:
    first, *others = _places(windows)
    if not others:
        return x[first].copy()
    out = np.maximum(x[first], x[others[0]])
    for place in others[1:]:
        np.maximum(out, x[place], out=out)
    return out


def _winners(x: Array, windows: Windows, greatest: Array | None) -> Iterator[tuple[Place, Array]]:
    """Yield each window element with a mask of the windows that have their first maximum there.

    NaN counts as greater than any number; padding is never the maximum, not even beside minus infinity.
    """
    inside = None
    if any(windows.before):
        inside = _padded(np.ones(windows.image, bool, like=x), windows, 0)
    x = _padded(x, windows, -np.inf)
    greatest = _greatest(x, windows) if greatest is None else greatest
    *places, last = _places(windows)
    in_place = not is_on_gpu(greatest)  # on a GPU this is fused into its consumer
    broken = not in_place or np.isnan(greatest).any()
    left = None
    for place in places:
        hit = x[place] == greatest
        if broken:
            hit = hit | np.isnan(x[place])
        if inside is not None:
            hit = hit & inside[place]
        if left is None:
            left = ~hit
        elif in_place:
            hit &= left
            left ^= hit
        else:
            hit = hit & left
            left = left ^ hit
        yield place, hit
    yield last, np.ones(greatest.shape, bool, like=greatest) if left is None else left


def _pull_max(g: Tensor, out: Tensor, x: Tensor, **static: Any) -> Tensor:
    known = None
    if current_tracer() is None:
        known = finished(out.array if isinstance(out, Tensor) else out)
    return max_pool2d_input(g, x, greatest=known, **static)


_MAX_STATIC: tuple[dict[str, Any], ...] = (
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
    {"kernel_size": 2, "stride": 1, "dilation": (1, 2)},
)


@op(_pull_max, samples=tuple(Sample(((2, 2, 5, 6),), static) for static in _MAX_STATIC), dtypes=FLOATS, reads="out x")
def max_pool2d(
    x: Array, /, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1
) -> Array:
    """Return the greatest element of each window; the first of equal ones gets the gradient, as in torch.

    Parameters
    ----------
    x : tensor of shape (..., H, W)
    kernel_size : int or (int, int)
        Size of the window.
    stride : int or (int, int), optional
        Steps between windows; by default they lie side by side.
    padding : int or (int, int)
        Elements around the image that are smaller than any other.
    dilation : int or (int, int)
        Steps inside a window.

    Returns
    -------
    tensor of shape (..., H', W')

    Raises
    ------
    ShapeError
        If the window does not fit into the image.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.max_pool2d(ln.asarray([[1.0, 2.0], [4.0, 3.0]]), 2).tolist()
    [[4.0]]
    """
    windows = _windows(x, kernel_size, stride, padding, dilation)
    if _are_tiles(windows) and not is_on_gpu(x) and (compiled := kernels.tile_max.ready(x.dtype, x.size)):
        out = np.empty((*x.shape[:-2], *windows.out), x.dtype)
        together = (x, out)
        if compiled(together, *windows.kernel):
            return out
    return _greatest(_padded(x, windows, -np.inf), windows)


def _pull_put(g: Tensor, out: Tensor, y: Tensor, x: Tensor, **static: Any) -> Tensor:
    return max_pool2d_pick(g, x, **static)


@op(
    _pull_put,
    None,
    inputs=2,
    samples=tuple(
        Sample((shape, (1, 2, 5, 6)), static)
        for shape, static in zip([(1, 2, 2, 3), (1, 2, 3, 7), (1, 2, 4, 4)], _MAX_STATIC, strict=True)
    ),
    dtypes=FLOATS,
    wide=True,
    reads=("x", ""),
)
def max_pool2d_input(
    y: Array,
    x: Array,
    /,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    *,
    greatest: Array | None = None,
) -> Array:
    """Put each element of `y` where the greatest element of that window of `x` lies; the adjoint of `max_pool2d`.

    Parameters are those of `max_pool2d`, and `greatest`: its result as an array, if known.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.max_pool2d_input(ln.asarray([[9.0]]), ln.asarray([[1.0, 2.0], [4.0, 3.0]]), 2).tolist()
    [[0.0, 0.0], [9.0, 0.0]]
    """
    windows = _windows(x, kernel_size, stride, padding, dilation)
    out = _blank(x.shape, windows, y)
    fits = greatest is not None and _are_tiles(windows) and not is_on_gpu(x)
    if fits and (compiled := kernels.tile_max_backward.ready(x.dtype, x.size)):
        together = (y, x, greatest, out)
        if compiled(together, *windows.kernel):
            return out
    apart = all(k <= s for k, s in zip(windows.kernel, windows.stride, strict=True)) and windows.dilation == (1, 1)
    for place, hit in _winners(x, windows, greatest):
        if apart:
            out[place] = kept(y, hit)
        else:
            out[place] += kept(y, hit)
    return _inside(out, windows)


@op(
    lambda g, out, y, x, **static: max_pool2d_input(g, x, **static),
    None,
    inputs=2,
    samples=tuple(Sample(((1, 2, 5, 6), (1, 2, 5, 6)), static) for static in _MAX_STATIC),
    dtypes=FLOATS,
    reads=("x", ""),
)
def max_pool2d_pick(
    y: Array,
    x: Array,
    /,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    *,
    greatest: Array | None = None,
) -> Array:
    """Return the elements of `y` at the maxima of the windows of `x`; the adjoint of the adjoint.

    Parameters are those of `max_pool2d_input`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.max_pool2d_pick(ln.asarray([[5.0, 6.0], [7.0, 8.0]]), ln.asarray([[1.0, 2.0], [4.0, 3.0]]), 2).tolist()
    [[7.0]]
    """
    windows = _windows(x, kernel_size, stride, padding, dilation)
    y = _padded(y, windows, 0)
    out = np.zeros((*x.shape[:-2], *windows.out), y.dtype, like=y)
    for place, hit in _winners(x, windows, greatest):
        np.copyto(out, y[place], where=hit)
    return out


def _counts(windows: Windows, like: Array, *, count_include_pad: bool) -> Array:
    """Return the divisor of each window's average: all elements, or those without padding."""
    if count_include_pad:
        return np.asarray(windows.kernel[0] * windows.kernel[1], like.dtype)
    inside = _padded(np.ones(windows.image, like.dtype, like=like), windows, 0)
    total = np.zeros(windows.out, like.dtype, like=like)
    for place in _places(windows):
        total += inside[place]
    return total


_AVERAGE_STATIC: tuple[dict[str, Any], ...] = (
    {"kernel_size": 2},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": 1},
    {"kernel_size": 3, "padding": 1, "count_include_pad": False},
)


def _pull_average(g: Tensor, out: Tensor, x: Tensor, **static: Any) -> Tensor:
    return avg_pool2d_input(g, shape=x.shape, **static)


@op(
    _pull_average,
    samples=tuple(Sample(((2, 2, 5, 6),), static) for static in _AVERAGE_STATIC),
    dtypes=FLOATS,
    wide=True,
    reads="",
)
def avg_pool2d(
    x: Array,
    /,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    count_include_pad: bool = True,
) -> Array:
    """Return the mean of each window.

    Parameters
    ----------
    x : tensor of shape (..., H, W)
    kernel_size, stride, padding
        As for `max_pool2d`; padding is zeros.
    count_include_pad : bool
        Whether the zeros of the padding count.

    Returns
    -------
    tensor of shape (..., H', W')

    Raises
    ------
    ShapeError
        If the window does not fit into the image.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.avg_pool2d(ln.asarray([[1.0, 2.0], [4.0, 3.0]]), 2).tolist()
    [[2.5]]
    """
    windows = _windows(x, kernel_size, stride, padding)
    x = _padded(x, windows, 0)
    out = np.zeros((*x.shape[:-2], *windows.out), x.dtype, like=x)
    for place in _places(windows):
        out += x[place]
    return out / _counts(windows, x, count_include_pad=count_include_pad)


@op(
    lambda g, out, y, *, shape, **static: avg_pool2d(g, **static),
    samples=tuple(
        Sample((out,), {"shape": (1, 2, 5, 6), **static})
        for out, static in zip([(1, 2, 2, 3), (1, 2, 3, 7), (1, 2, 2, 2)], _AVERAGE_STATIC, strict=True)
    ),
    dtypes=FLOATS,
    wide=True,
    reads="",
)
def avg_pool2d_input(
    y: Array,
    /,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    *,
    shape: tuple[int, ...],
    count_include_pad: bool = True,
) -> Array:
    """Share each element of `y` among its window in an image of `shape`; the adjoint of `avg_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.avg_pool2d_input(ln.asarray([[8.0]]), 2, shape=(2, 2)).tolist()
    [[2.0, 2.0], [2.0, 2.0]]
    """
    windows = _windows(np.broadcast_to(np.zeros((), y.dtype), shape), kernel_size, stride, padding)
    share = y / _counts(windows, y, count_include_pad=count_include_pad)
    out = _blank(shape, windows, y)
    for place in _places(windows):
        out[place] += share
    return _inside(out, windows)
