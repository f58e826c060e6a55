"""Resizing of signals and images, and their windows as columns."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn.functions.padding import pad
from labnet.nn.functions.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d
from labnet.ops.core.creation import asarray
from labnet.ops.nn.windows import Pair, pair
from labnet.tensor import Tensor


def _coordinates(size: int, out: int, scale: float, align_corners: bool) -> Any:
    """Return the place in the input of each element of the result."""
    places: Any = np.arange(out)
    if align_corners:
        return places * ((size - 1) / (out - 1) if out > 1 else 0.0)
    return np.maximum((places + 0.5) * scale - 0.5, 0)


def interpolate(
    x: Tensor,
    size: int | Sequence[int] | None = None,
    scale_factor: float | Sequence[float] | None = None,
    mode: str = "nearest",
    align_corners: bool | None = None,
) -> Tensor:
    """Resize the dimensions behind batch and channels.

    Parameters
    ----------
    x : tensor of shape (N, C, L) or (N, C, H, W)
    size : int or sequence of int, optional
        Size of the result; or else `scale_factor`, a factor per dimension.
    mode : "nearest", "nearest-exact", "linear", "bilinear" or "area"
    align_corners : bool, optional
        Whether the outermost elements of input and result coincide in linear modes, rather than their outer edges.

    Raises
    ------
    ValueError
        If the mode is unknown, or not one of `size` and `scale_factor` is given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.interpolate(ln.asarray([[[1.0, 2.0]]]), scale_factor=2).tolist()
    [[[1.0, 1.0, 2.0, 2.0]]]
    """
    if mode not in ("nearest", "nearest-exact", "linear", "bilinear", "area"):
        raise ValueError(f"interpolate: expected mode nearest, nearest-exact, linear, bilinear or area, got {mode!r}")
    if (size is None) == (scale_factor is None):
        raise ValueError("interpolate: expected either size or scale_factor")
    dims = x.ndim - 2
    if size is not None:
        outs = list(size) if isinstance(size, Sequence) else [size] * dims
        scales = [before / out for before, out in zip(x.shape[2:], outs, strict=True)]
    else:
        factors = list(scale_factor) if isinstance(scale_factor, Sequence) else [scale_factor or 1.0] * dims
        outs = [math.floor(before * factor) for before, factor in zip(x.shape[2:], factors, strict=True)]
        scales = [1 / factor for factor in factors]
    if mode == "area":
        return (adaptive_avg_pool1d if dims == 1 else adaptive_avg_pool2d)(x, tuple(outs))
    for axis, (out, scale) in enumerate(zip(outs, scales, strict=True), start=2):
        last = x.shape[axis] - 1
        if mode.startswith("nearest"):
            places = np.floor((np.arange(out) + (0.5 if mode == "nearest-exact" else 0)) * scale)
            x = ops.take(x, np.minimum(places, last).astype("int64"), axis=axis)
            continue
        places = _coordinates(last + 1, out, scale, bool(align_corners))
        low = np.minimum(np.floor(places), last).astype("int64")
        share = (places - low).reshape((-1, *(1,) * (x.ndim - axis - 1)))
        shares = [asarray(part, dtype=x.dtype, device=x.device) for part in (1 - share, share)]
        both = [ops.take(x, place, axis=axis) for place in (low, np.minimum(low + 1, last))]
        x = both[0] * shares[0] + both[1] * shares[1]
    return x


def pixel_shuffle(x: Tensor, upscale_factor: int) -> Tensor:
    """Move channels into rows and columns: (N, C r^2, H, W) becomes (N, C, H r, W r) (Shi et al., 2016).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.pixel_shuffle(ln.asarray([[[[1.0]], [[2.0]], [[3.0]], [[4.0]]]]), 2).tolist()
    [[[[1.0, 2.0], [3.0, 4.0]]]]
    """
    r, (samples, channels, rows, columns) = upscale_factor, x.shape
    if channels % (r * r):
        raise ShapeError(f"pixel_shuffle: expected channels in multiples of {r * r}, got shape {x.shape}")
    parts = x.reshape((samples, channels // (r * r), r, r, rows, columns))
    return ops.permute_dims(parts, (0, 1, 4, 2, 5, 3)).reshape((samples, channels // (r * r), rows * r, columns * r))


def pixel_unshuffle(x: Tensor, downscale_factor: int) -> Tensor:
    """Move rows and columns into channels, the inverse of `pixel_shuffle`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.pixel_unshuffle(ln.asarray([[[[1.0, 2.0], [3.0, 4.0]]]]), 2).tolist()
    [[[[1.0]], [[2.0]], [[3.0]], [[4.0]]]]
    """
    r, (samples, channels, rows, columns) = downscale_factor, x.shape
    if rows % r or columns % r:
        raise ShapeError(f"pixel_unshuffle: expected rows and columns in multiples of {r}, got shape {x.shape}")
    parts = x.reshape((samples, channels, rows // r, r, columns // r, r))
    return ops.permute_dims(parts, (0, 1, 3, 5, 2, 4)).reshape((samples, channels * r * r, rows // r, columns // r))


def channel_shuffle(x: Tensor, groups: int) -> Tensor:
    """Interleave the channels of groups (Zhang et al., 2018).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.channel_shuffle(ln.arange(4.0).reshape((1, 4, 1, 1)), 2).reshape(-1).tolist()
    [0.0, 2.0, 1.0, 3.0]
    """
    if x.shape[1] % groups:
        raise ShapeError(f"channel_shuffle: expected channels in multiples of {groups}, got shape {x.shape}")
    return ops.moveaxis(x.reshape((x.shape[0], groups, -1, *x.shape[2:])), 1, 2).reshape(x.shape)


def _columns(image: Sequence[int], kernel: Pair, dilation: Pair, padding: Pair, stride: Pair) -> tuple[Any, Any]:
    """Return the rows (k, 1, out, 1) and the columns (1, k, 1, out) of all window elements in the padded image."""
    sides = zip(image, *map(pair, (kernel, dilation, padding, stride)), strict=True)
    rows, columns = (
        np.arange(k)[:, None] * gap + np.arange((n + 2 * margin - gap * (k - 1) - 1) // step + 1) * step
        for n, k, gap, margin, step in sides
    )
    return rows[:, None, :, None], columns[None, :, None, :]


def unfold(x: Tensor, kernel_size: Pair, dilation: Pair = 1, padding: Pair = 0, stride: Pair = 1) -> Tensor:
    """Return the windows of images (N, C, H, W) as columns (N, C rows columns, windows).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.unfold(ln.asarray([[[[1.0, 2.0, 3.0]]]]), (1, 2)).tolist()
    [[[1.0, 2.0], [2.0, 3.0]]]
    """
    if x.ndim == 3:
        return unfold(ops.expand_dims(x, axis=0), kernel_size, dilation, padding, stride)[0]
    rows, columns = _columns(x.shape[-2:], kernel_size, dilation, padding, stride)
    high, wide = pair(padding)
    windows = pad(x, (wide, wide, high, high))[:, :, rows, columns]
    return windows.reshape((x.shape[0], x.shape[1] * rows.shape[0] * columns.shape[1], -1))


def fold(
    x: Tensor, output_size: Pair, kernel_size: Pair, dilation: Pair = 1, padding: Pair = 0, stride: Pair = 1
) -> Tensor:
    """Add up columns (N, C rows columns, windows) to images ``(N, C, *output_size)``; the adjoint of `unfold`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.fold(ln.ones((1, 2, 2)), (1, 3), (1, 2)).tolist()
    [[[[1.0, 2.0, 1.0]]]]
    """
    if x.ndim == 2:
        return fold(ops.expand_dims(x, axis=0), output_size, kernel_size, dilation, padding, stride)[0]
    (height, width), (high, wide) = pair(output_size), pair(padding)
    rows, columns = _columns((height, width), kernel_size, dilation, padding, stride)
    shape = (rows.shape[0], columns.shape[1], rows.shape[2], columns.shape[3])
    channels = x.shape[1] // (shape[0] * shape[1])
    if x.shape[1:] != (channels * shape[0] * shape[1], shape[2] * shape[3]):
        expected = f"(N, C * {shape[0] * shape[1]}, {shape[2] * shape[3]})"
        raise ShapeError(f"fold: expected columns of shape {expected}, got {x.shape}")
    padded = (x.shape[0], channels, height + 2 * high, width + 2 * wide)
    windows = x.reshape((x.shape[0], channels, *shape))
    whole = ops.scatter_add(windows, (slice(None), slice(None), rows, columns), padded)
    return whole[:, :, high : high + height, wide : wide + width]
