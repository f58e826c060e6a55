"""Pooling in torch's form: rounding up, one dimension, and windows that adapt to the size of the result."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.ops.core.creation import asarray
from labnet.ops.nn.windows import Pair, pair
from labnet.tensor import Tensor

#: Sizes of a result; None for the size of the input.
Sizes = int | None | tuple[int | None, ...] | list[int | None]


def _overhang(size: int, kernel: int, stride: int, padding: int, dilation: int = 1) -> int:
    """Return the elements that the last window lacks behind the padding if the number of windows is rounded up.

    No window starts in the padding behind the image.
    """
    reach = dilation * (kernel - 1) + 1
    count = -(-(size + 2 * padding - reach) // stride) + 1
    count -= (count - 1) * stride >= size + padding
    return max((count - 1) * stride + reach - size - 2 * padding, 0)


def _margins(x: Tensor, *geometry: Pair) -> list[tuple[int, int]]:
    """Return the padding before and behind each of the last two dimensions, rounded up."""
    sides = zip(x.shape[-2:], *map(pair, geometry), strict=True)
    return [(side[3], side[3] + _overhang(*side)) for side in sides]


def _padded(x: Tensor, margins: list[tuple[int, int]], value: float) -> Tensor:
    return ops.pad(x, ((0, 0),) * (x.ndim - 2) + tuple(margins), constant_values=value)


def max_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    dilation: Pair = 1,
    ceil_mode: bool = False,
) -> Tensor:
    """Return the greatest element of each window; see `labnet.ops.max_pool2d`.

    Parameters
    ----------
    x : tensor of shape (..., H, W)
    kernel_size, stride, padding, dilation : int or (int, int)
    ceil_mode : bool
        Round the number of windows up, so that the last ones may exceed the image.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.max_pool2d(ln.asarray([[1.0, 2.0, 3.0]]), (1, 2), ceil_mode=True).tolist()
    [[2.0, 3.0]]
    """
    if ceil_mode:
        x = _padded(x, _margins(x, kernel_size, kernel_size if stride is None else stride, padding, dilation), -np.inf)
        padding = 0
    return ops.max_pool2d(x, kernel_size, stride, padding, dilation)


def avg_pool2d(
    x: Tensor,
    kernel_size: Pair,
    stride: Pair | None = None,
    padding: Pair = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window; see `labnet.ops.avg_pool2d`.

    Parameters
    ----------
    x : tensor of shape (..., H, W)
    kernel_size, stride, padding : int or (int, int)
    ceil_mode : bool
        Round the number of windows up; what exceeds image and padding does not count.
    count_include_pad : bool
        Whether the zeros of the padding count.
    divisor_override : int, optional
        Divide the sum of each window by this number.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.avg_pool2d(ln.asarray([[1.0, 2.0, 3.0]]), (1, 2), ceil_mode=True).tolist()
    [[1.5, 3.0]]
    """
    if not ceil_mode and divisor_override is None:
        return ops.avg_pool2d(x, kernel_size, stride, padding, count_include_pad=count_include_pad)
    kernel, steps = pair(kernel_size), pair(kernel_size if stride is None else stride)
    widths = pair(padding)
    margins = _margins(x, kernel, steps, widths) if ceil_mode else [(width, width) for width in widths]
    sums = ops.avg_pool2d(_padded(x, margins, 0.0), kernel, steps) * (kernel[0] * kernel[1])
    if divisor_override is not None:
        return sums / divisor_override
    counts = []
    for size, k, step, width, count in zip(x.shape[-2:], kernel, steps, widths, sums.shape[-2:], strict=True):
        first = np.arange(count) * step - width
        least, most = (-width, size + width) if count_include_pad else (0, size)
        counts.append(np.minimum(first + k, most) - np.maximum(first, least))
    return sums * asarray(1 / np.outer(*counts), dtype=x.dtype, device=x.device)


def _of_rows(pool: Callable[..., Tensor], x: Tensor, *sizes: Any, **named: Any) -> Tensor:
    """Pool the last dimension with a function for the last two; each size becomes (neutral, size)."""
    neutral = (1, 1, 0, 1)
    pairs = [None if size is None else (one, size) for one, size in zip(neutral, sizes, strict=False)]
    return ops.squeeze(pool(ops.expand_dims(x, axis=-2), *pairs, **named), axis=-2)


def max_pool1d(
    x: Tensor, kernel_size: int, stride: int | None = None, padding: int = 0, dilation: int = 1, ceil_mode: bool = False
) -> Tensor:
    """Return the greatest element of each window of the last dimension; arguments are as for `max_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_pool1d(ln.asarray([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """
    return _of_rows(max_pool2d, x, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)


def avg_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
) -> Tensor:
    """Return the mean of each window of the last dimension; arguments are as for `avg_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.avg_pool1d(ln.asarray([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[2.0, 1.0]]
    """
    named = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    return _of_rows(avg_pool2d, x, kernel_size, stride, padding, **named)


def _wanted(name: str, x: Tensor, output_size: Sizes, dims: int) -> list[tuple[int, int]]:
    """Return (size, size of the result) of each of the last `dims` dimensions."""
    given = list(output_size) if isinstance(output_size, list | tuple) else [output_size] * dims
    if len(given) != dims or x.ndim < dims:
        raise ShapeError(f"{name}: expected {dims} sizes of the result and an input of as many dimensions, got {given}")
    return [(size, size if want is None else want) for size, want in zip(x.shape[-dims:], given, strict=True)]


def _bounds(size: int, want: int) -> list[tuple[int, int]]:
    """Return start and end of each of `want` windows that cover `size` elements."""
    return [(i * size // want, -(-(i + 1) * size // want)) for i in range(want)]


def _adaptive_avg(x: Tensor, wanted: list[tuple[int, int]]) -> Tensor:
    for dim, (size, want) in zip(range(-len(wanted), 0), wanted, strict=True):
        if want == 1:
            x = ops.mean(x, axis=dim, keepdims=True)
        elif size % want == 0:
            place = dim % x.ndim
            x = ops.mean(x.reshape((*x.shape[:place], want, size // want, *x.shape[place + 1 :])), axis=place + 1)
        else:
            shares = np.zeros((want, size))
            for row, (start, end) in zip(shares, _bounds(size, want), strict=True):
                row[start:end] = 1 / (end - start)
            weights = asarray(shares, dtype=x.dtype, device=x.device)
            x = weights @ x if dim == -2 else x @ ops.matrix_transpose(weights)
    return x


def adaptive_avg_pool2d(x: Tensor, output_size: Sizes) -> Tensor:
    """Return the means of windows that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_avg_pool2d(ln.asarray([[[1.0, 2.0], [3.0, 4.0]]]), 1).tolist()
    [[[2.5]]]
    """
    return _adaptive_avg(x, _wanted("adaptive_avg_pool2d", x, output_size, 2))


def adaptive_avg_pool1d(x: Tensor, output_size: Sizes) -> Tensor:
    """Return the means of windows of the last dimension that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_avg_pool1d(ln.asarray([[1.0, 2.0, 3.0]]), 2).tolist()
    [[1.5, 2.5]]
    """
    return _adaptive_avg(x, _wanted("adaptive_avg_pool1d", x, output_size, 1))


def _adaptive_max(x: Tensor, wanted: list[tuple[int, int]]) -> Tensor:
    if all(size % want == 0 for size, want in wanted):
        return max_pool2d(x, tuple(size // want for size, want in wanted))  # type: ignore[arg-type]
    for dim, (size, want) in zip((-2, -1), wanted, strict=True):
        before = (slice(None),) * (dim % x.ndim)
        parts = [x[(*before, slice(start, end))] for start, end in _bounds(size, want)]
        x = ops.concat([ops.max(part, axis=dim, keepdims=True) for part in parts], axis=dim)
    return x


def adaptive_max_pool2d(x: Tensor, output_size: Sizes) -> Tensor:
    """Return the greatest elements of windows that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_max_pool2d(ln.asarray([[[1.0, 2.0], [3.0, 4.0]]]), (1, 2)).tolist()
    [[[3.0, 4.0]]]
    """
    return _adaptive_max(x, _wanted("adaptive_max_pool2d", x, output_size, 2))


def adaptive_max_pool1d(x: Tensor, output_size: Sizes) -> Tensor:
    """Return the greatest elements of windows of the last dimension that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_max_pool1d(ln.asarray([[1.0, 2.0, 3.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    wanted = _wanted("adaptive_max_pool1d", x, output_size, 1)
    return ops.squeeze(_adaptive_max(ops.expand_dims(x, axis=-2), [(1, 1), *wanted]), axis=-2)
