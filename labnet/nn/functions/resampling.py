"""Resizing of signals and images."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn.functions.pooling import adaptive_avg_pool1d, adaptive_avg_pool2d
from labnet.ops.core.creation import asarray
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
