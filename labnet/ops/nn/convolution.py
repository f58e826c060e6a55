"""Two-dimensional convolution and its two adjoints, which are each other's gradient rules.

A convolution is a matrix product with the matrix of all windows; see `labnet.ops.nn.windows`.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels
from labnet.kernels import blas
from labnet.kernels.device_dispatch import is_on_gpu
from labnet.ops.aggregation.reduction import sum
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import FLOATS, op
from labnet.ops.nn import depthwise
from labnet.ops.nn.windows import Padding, Pair, Windows
from labnet.tensor import Tensor

#: Elements of a window from which on transposing its gradients first takes less time than it saves in BLAS.
_WORTH_TURNING = 32
#: Multiplications of a product that take as long as one element of other ops.
_PRODUCTS = 32


def _channels_fit(images: tuple[int, ...], weight: tuple[int, ...], groups: int) -> None:
    if len(images) != 4 or len(weight) != 4:
        raise ValueError("expected images of shape (N, C, H, W) and weights of shape (K, C / groups, rows, columns)")
    if groups < 1 or images[1] != weight[1] * groups or weight[0] % groups:
        raise ValueError(f"{images[1]} channels and {weight} weights do not fit {groups} groups")


def _is_depthwise(like: Array, weight: Sequence[int], groups: int) -> bool:
    """Return whether each channel has its own filter, and the arrays are not on a GPU."""
    return groups == weight[0] > 1 == weight[1] and not is_on_gpu(like)


def _windows(
    like: Array,
    images: Sequence[int],
    weight: Sequence[int],
    groups: int,
    *,
    stride: Pair,
    padding: Padding,
    dilation: Pair,
) -> Windows:
    """Return the window geometry, for arrays on the device of `like`."""
    return Windows.of(
        tuple(images[2:]),
        tuple(weight[2:]),
        stride=stride,
        padding=padding,
        dilation=dilation,
        joined=not is_on_gpu(like) and not _is_depthwise(like, weight, groups),
    )


def _contiguous(x: Array) -> Array:
    """Return an array whose elements lie one after the other, so that BLAS is called in the same way for all."""
    return x if is_on_gpu(x) else np.ascontiguousarray(x)


def _gradients_fit(y: Array, images: Sequence[int], filters: int, windows: Windows) -> None:
    expected = (images[0], filters, *windows.out)
    if y.shape != expected:
        raise ValueError(f"expected gradients of shape {expected}, got {y.shape}")


def _computed(
    kernel: kernels.Kernel,
    shape: tuple[int, ...] | None,
    dtype: np.dtype[Any],
    windows: Windows,
    filters: Array,
    *arrays: Array,
    numbers: tuple[int, ...] = (),
) -> Array | None:
    """Return what a kernel computes, in a new array or in the last one; None if it did not.

    Parameters
    ----------
    filters : array of shape (groups, K / groups, inner) or (groups, inner, K / groups)
    """
    images = len(arrays[0])
    work = images * filters.size * windows.out[0] * windows.row // _PRODUCTS
    if is_on_gpu(arrays[0]) or (compiled := kernel.ready(dtype, work)) is None:
        return None
    out = arrays[-1] if shape is None else np.empty(shape, dtype)
    together = (windows.sizes(), *map(np.ascontiguousarray, arrays), *(() if shape is None else (out,)))
    return out if compiled(together, images, windows.tile(*filters.shape[1:]), *numbers) else None


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
    flops=lambda out, x, weight, bias, **_: 2 * out.size * math.prod(weight.shape[1:]),
    wide=True,
    reads=("weight", "x", ""),
)
@blas.in_one_thread
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
    """Cross-correlate images with filters, as torch does, and add a bias, which is optional in `labnet.nn.conv2d`.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W)
    weight : tensor of shape (K, C / groups, rows, columns)
    bias : tensor of shape (K,), or a number
    stride, dilation : int or (int, int)
        Steps between windows, and between the elements of a window.
    padding : int, (int, int), "valid" or "same"
        Zeros around the image.
    groups : int
        The k-th group of filters reads the k-th group of channels only.

    Returns
    -------
    tensor of shape (N, K, H', W')
        ``H' = (H + 2 padding - dilation (rows - 1) - 1) // stride + 1``, W' likewise.

    Raises
    ------
    ShapeError
        If the shapes do not match; the message contains both.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.conv2d(ln.ones((1, 1, 3, 3)), ln.ones((1, 1, 2, 2)), 0).tolist()
    [[[[4.0, 4.0], [4.0, 4.0]]]]
    """
    _channels_fit(x.shape, weight.shape, groups)
    if np.shape(bias) not in ((), weight.shape[:1]):
        raise ValueError("expected one number of the bias per filter")
    windows = _windows(x, x.shape, weight.shape, groups, stride=stride, padding=padding, dilation=dilation)
    dtype = np.result_type(x, weight, bias)
    numbers = bias
    if not np.ndim(bias) and not is_on_gpu(x):
        numbers = np.full(len(weight), bias, None if isinstance(bias, np.ndarray) else x.dtype)
    if _is_depthwise(x, weight.shape, groups):
        return depthwise.correlate(x, weight[:, 0], numbers, windows)
    filters = _contiguous(weight).reshape(groups, len(weight) // groups, -1)
    shape = len(x), len(weight), *windows.out
    if (found := _computed(kernels.convolve, shape, dtype, windows, filters, x, filters, numbers)) is not None:
        return found
    shift = np.reshape(bias, (*filters.shape[:2], 1)) if np.ndim(bias) else bias
    out = np.empty((len(x), *filters.shape[:2], windows.out[0] * windows.row), dtype, like=x)
    memory = windows.memory(x, x.shape[1], groups, x.dtype)
    tiles = windows.tiles(x, *filters.shape[1:])
    for part in windows.parts(x, x.shape[1]):
        columns = windows.columns(_contiguous(x[part]), groups, memory)
        for tile in tiles:
            np.matmul(filters, columns[..., tile], out=out[part][..., tile])
        out[part] += shift
    out = out.reshape(len(x), len(weight), windows.out[0], windows.row)[..., : windows.out[1]]
    return out if windows.row == windows.out[1] else np.ascontiguousarray(out)


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
    flops=lambda out, y, weight, **_: 2 * y.size * math.prod(weight.shape[1:]),
    wide=True,
    reads=("weight", "y"),
)
@blas.in_one_thread
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
    """Return the adjoint of `conv2d` in the images: its gradient, or a transposed convolution.

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
    windows = _windows(y, shape, weight.shape, groups, stride=stride, padding=padding, dilation=dilation)
    _gradients_fit(y, shape, len(weight), windows)
    if _is_depthwise(y, weight.shape, groups):
        return depthwise.correlate_input(y, weight[:, 0], windows)
    filters = _contiguous(np.swapaxes(weight.reshape(groups, len(weight) // groups, -1), 1, 2))
    dtype = np.result_type(y, weight)
    if (found := _computed(kernels.convolve_input, shape, dtype, windows, filters, y, filters)) is not None:
        return found
    out = np.empty(shape, dtype, like=y)
    memory = windows.memory(y, shape[1], groups, dtype)
    tiles = windows.tiles(y, *filters.shape[1:])
    for part in windows.parts(y, shape[1]):
        wide = windows.widen(_contiguous(y[part]), groups)
        if memory is None:
            columns = np.empty((len(wide), *filters.shape[:2], wide.shape[-1]), dtype, like=y)
        else:
            columns = memory[: len(wide), ..., : wide.shape[-1]]
        for tile in tiles:
            np.matmul(filters, wide[..., tile], out=columns[..., tile])
        out[part] = windows.back(columns, shape[1])
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
    flops=lambda out, x, y, **_: 2 * y.size * math.prod(out.shape[1:]),
    wide=True,
    reads=("y", "x"),
)
@blas.in_one_thread
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
    """Return the adjoint of `conv2d` in the filters, which is their gradient.

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
    windows = _windows(x, x.shape, shape, groups, stride=stride, padding=padding, dilation=dilation)
    _gradients_fit(y, x.shape, shape[0], windows)
    if _is_depthwise(x, shape, groups):
        return depthwise.correlate_weight(x, y, windows).reshape(shape)
    if not is_on_gpu(x) and np.may_share_memory(x, y):  # NumPy multiplies a matrix with itself in another way
        y = y.copy()
    out = np.zeros((groups, math.prod(shape[1:]), shape[0] // groups), np.result_type(x, y), like=x)
    is_turned = out.shape[1] >= _WORTH_TURNING and not is_on_gpu(x)
    if _computed(kernels.convolve_weight, None, out.dtype, windows, out, x, y, out, numbers=(is_turned,)) is not None:
        return np.swapaxes(out, 1, 2).reshape(shape)
    memory = windows.memory(x, x.shape[1], groups, x.dtype)
    tiles = windows.tiles(x, *out.shape[1:])
    for part in windows.parts(x, x.shape[1]):  # BLAS is faster with the larger factor on the left
        columns = windows.columns(_contiguous(x[part]), groups, memory)
        turned = np.swapaxes(windows.widen(_contiguous(y[part]), groups), 2, 3)
        if is_on_gpu(x):
            out += np.matmul(columns, turned).sum(axis=0)
            continue
        for image, gradient in zip(columns, turned, strict=True):
            for tile in tiles:
                right = gradient[:, tile]
                out += np.matmul(image[..., tile], np.ascontiguousarray(right) if is_turned else right)
    return np.swapaxes(out, 1, 2).reshape(shape)
