"""Convolutions of signals, images and volumes, and their transposes."""

from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn.functions.padding import pad
from labnet.ops.nn.windows import Padding, Pair, pair
from labnet.tensor import Tensor


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlate images with filters and add a bias per filter.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W), or (C, H, W) for one image
    weight : tensor of shape (K, C / groups, rows, columns)
    bias : tensor of shape (K,), optional
    stride, padding, dilation, groups
        As for `labnet.ops.conv2d`.

    Returns
    -------
    tensor of shape (N, K, H', W') or (K, H', W')

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.conv2d(ln.ones((1, 3, 8, 8)), ln.ones((4, 3, 3, 3)), ln.zeros(4), padding=1).shape
    (1, 4, 8, 8)
    """
    if x.ndim == 3:
        return conv2d(ops.expand_dims(x, axis=0), weight, bias, stride, padding, dilation, groups)[0]
    shift = 0 if bias is None else bias
    return ops.conv2d(x, weight, shift, stride=stride, padding=padding, dilation=dilation, groups=groups)


def conv1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int | str = 0,
    dilation: int = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlate signals with filters and add a bias per filter.

    Parameters
    ----------
    x : tensor of shape (N, C, L), or (C, L) for one signal
    weight : tensor of shape (K, C / groups, width)
    bias : tensor of shape (K,), optional
    stride, padding, dilation, groups
        As for `conv2d`, for the last dimension.

    Returns
    -------
    tensor of shape (N, K, L') or (K, L')

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.conv1d(ln.ones((1, 1, 4)), ln.ones((1, 1, 2))).tolist()
    [[[2.0, 2.0, 2.0]]]
    """
    margin: Padding = padding if isinstance(padding, str) else (0, padding)
    rows, filters = ops.expand_dims(x, axis=-2), ops.expand_dims(weight, axis=-2)
    return ops.squeeze(conv2d(rows, filters, bias, (1, stride), margin, (1, dilation), groups), axis=-2)


def conv_transpose2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    output_padding: Pair = 0,
    groups: int = 1,
    dilation: Pair = 1,
) -> Tensor:
    """Apply the transpose of `conv2d`: spread each element over a window of a larger image.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W), or (C, H, W) for one image
    weight : tensor of shape (C, K / groups, rows, columns)
    bias : tensor of shape (K,), optional
    stride, padding, groups, dilation
        Those of the convolution whose transpose this is.
    output_padding : int or (int, int)
        Rows and columns added to the result at one side, fewer than the stride.

    Returns
    -------
    tensor of shape (N, K, H', W') or (K, H', W')
        ``H' = (H - 1) stride - 2 padding + dilation (rows - 1) + output_padding + 1``, W' likewise.

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.conv_transpose2d(ln.ones((1, 1, 1, 2)), ln.ones((1, 1, 1, 2)), stride=2).tolist()
    [[[[1.0, 1.0, 1.0, 1.0]]]]
    """
    if x.ndim == 3:
        whole = conv_transpose2d(
            ops.expand_dims(x, axis=0), weight, bias, stride, padding, output_padding, groups, dilation
        )
        return whole[0]
    if x.ndim != 4 or weight.ndim != 4 or x.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"conv_transpose2d: expected (N, C, H, W) and a weight (C, K / groups, rows, columns), got {x.shape} and "
            f"{weight.shape}"
        )
    sides = zip(x.shape[2:], weight.shape[2:], *map(pair, (stride, padding, output_padding, dilation)), strict=True)
    image = [(n - 1) * step - 2 * margin + gap * (k - 1) + more + 1 for n, k, step, margin, more, gap in sides]
    shape = (x.shape[0], weight.shape[1] * groups, *image)
    y = ops.conv2d_input(x, weight, shape=shape, stride=stride, padding=padding, dilation=dilation, groups=groups)
    return y if bias is None else y + bias.reshape((-1, 1, 1))


def conv_transpose1d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: int = 1,
    padding: int = 0,
    output_padding: int = 0,
    groups: int = 1,
    dilation: int = 1,
) -> Tensor:
    """Apply the transpose of `conv1d`; arguments are as for `conv_transpose2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.conv_transpose1d(ln.ones((1, 1, 2)), ln.ones((1, 1, 2))).tolist()
    [[[1.0, 2.0, 1.0]]]
    """
    rows, filters = ops.expand_dims(x, axis=-2), ops.expand_dims(weight, axis=-2)
    y = conv_transpose2d(rows, filters, bias, (1, stride), (0, padding), (0, output_padding), groups, (1, dilation))
    return ops.squeeze(y, axis=-2)


#: One number for three dimensions, or one for (depth, rows, columns).
Triple = int | tuple[int, int, int]


def triple(value: Any) -> tuple[int, int, int]:
    """Return (depth, rows, columns) for a number or three.

    Examples
    --------
    >>> triple(3), triple([1, 2, 3])
    ((3, 3, 3), (1, 2, 3))
    """
    depth, rows, columns = value if isinstance(value, list | tuple) else (value,) * 3
    return int(depth), int(rows), int(columns)


def _layers(x: Tensor, kernel: int, stride: int, dilation: int) -> Tensor:
    """Return the windows along the depth of (N, C, D, H, W) as images (N D', C kernel, H, W)."""
    count = (x.shape[2] - dilation * (kernel - 1) - 1) // stride + 1
    if count < 1:
        raise ShapeError(f"conv3d: the window covers a depth of {dilation * (kernel - 1) + 1}, got shape {x.shape}")
    windows = x[:, :, np.arange(count)[:, None] * stride + np.arange(kernel) * dilation]
    n, c, _, _, rows, columns = windows.shape
    return ops.permute_dims(windows, (0, 2, 1, 3, 4, 5)).reshape((n * count, c * kernel, rows, columns))


def _stacked(images: Tensor, samples: int) -> Tensor:
    """Return images (N D, C, H, W) as volumes (N, C, D, H, W)."""
    return ops.permute_dims(images.reshape((samples, -1, *images.shape[1:])), (0, 2, 1, 3, 4))


def conv3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = 1,
    padding: Triple | str = 0,
    dilation: Triple = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlate volumes with filters and add a bias per filter: `conv2d` with the depths as channels.

    Parameters
    ----------
    x : tensor of shape (N, C, D, H, W), or (C, D, H, W) for one volume
    weight : tensor of shape (K, C / groups, depth, rows, columns)
    bias : tensor of shape (K,), optional
    stride, padding, dilation, groups
        As for `conv2d`, for three dimensions.

    Returns
    -------
    tensor of shape (N, K, D', H', W') or (K, D', H', W')

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.conv3d(ln.ones((1, 1, 2, 2, 2)), ln.ones((1, 1, 2, 2, 2))).tolist()
    [[[[[8.0]]]]]
    """
    if x.ndim == 4:
        return conv3d(ops.expand_dims(x, axis=0), weight, bias, stride, padding, dilation, groups)[0]
    if x.ndim != 5 or weight.ndim != 5:
        raise ShapeError(
            f"conv3d: expected (N, C, D, H, W) and a weight (K, C / groups, depth, rows, columns), got {x.shape} and "
            f"{weight.shape}"
        )
    (depth, *steps), (gap, *gaps), kernel = triple(stride), triple(dilation), weight.shape[2]
    total = gap * (kernel - 1) * (padding == "same")
    above, margin = (total // 2, padding) if isinstance(padding, str) else (triple(padding)[0], triple(padding)[1:])
    below = total - above if isinstance(padding, str) else above
    images = _layers(pad(x, (0, 0, 0, 0, above, below)) if above or below else x, kernel, depth, gap)
    filters = weight.reshape((weight.shape[0], weight.shape[1] * kernel, *weight.shape[3:]))
    return _stacked(conv2d(images, filters, bias, tuple(steps), margin, tuple(gaps), groups), x.shape[0])  # type: ignore[arg-type]


def conv_transpose3d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Triple = 1,
    padding: Triple = 0,
    output_padding: Triple = 0,
    groups: int = 1,
    dilation: Triple = 1,
) -> Tensor:
    """Apply the transpose of `conv3d`; arguments are as for `conv_transpose2d`, for three dimensions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.conv_transpose3d(ln.ones((1, 1, 1, 1, 1)), ln.ones((1, 1, 2, 1, 1))).tolist()
    [[[[[1.0]], [[1.0]]]]]
    """
    if x.ndim == 4:
        whole = ops.expand_dims(x, axis=0)
        return conv_transpose3d(whole, weight, bias, stride, padding, output_padding, groups, dilation)[0]
    if x.ndim != 5 or weight.ndim != 5 or x.shape[1] != weight.shape[0]:
        raise ShapeError(
            f"conv_transpose3d: expected (N, C, D, H, W) and a weight (C, K / groups, depth, rows, columns), got "
            f"{x.shape} and {weight.shape}"
        )
    sizes = [triple(each) for each in (stride, padding, output_padding, dilation)]
    (step, margin, more, gap), kernel, (n, c, length, *image) = [each[0] for each in sizes], weight.shape[2], x.shape
    if step > 1:  # zeros between the layers
        apart = pad(ops.expand_dims(x, axis=3), (0, 0, 0, 0, 0, step - 1))
        x = apart.reshape((n, c, length * step, *image))[:, :, : (length - 1) * step + 1]
    reach = gap * (kernel - 1) - margin
    images = _layers(pad(x, (0, 0, 0, 0, reach, reach + more)), kernel, 1, gap)
    turned = ops.permute_dims(weight[:, :, ::-1], (0, 2, 1, 3, 4)).reshape(
        (c * kernel, *weight.shape[1:2], *weight.shape[3:])
    )
    step2, margin2, more2, gap2 = (each[1:] for each in sizes)
    return _stacked(conv_transpose2d(images, turned, bias, step2, margin2, more2, groups, gap2), n)
