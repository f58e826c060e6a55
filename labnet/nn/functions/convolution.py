"""Convolutions of signals and images, and their transposes."""

from labnet import ops
from labnet.errors import ShapeError
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
