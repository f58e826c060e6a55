"""Convolution with one filter per channel: sums of shifted images, which are faster than small matrix products.

The order of additions is that of the elements of a filter, with and without a kernel.
"""

from dataclasses import replace

import numpy as np

from labnet import kernels
from labnet.ops.core.declaration import Array
from labnet.ops.nn.windows import Windows


def correlate(x: Array, filters: Array, bias: Array, windows: Windows) -> Array:
    """Return the correlation of images (N, C, H, W) with filters (C, rows, columns) plus a bias (C,): (N, C, H', W').

    Examples
    --------
    >>> x, filters = np.arange(9.0).reshape(1, 1, 3, 3), np.ones((1, 2, 2))
    >>> correlate(x, filters, np.zeros(1), Windows.of((3, 3), (2, 2), joined=False)).tolist()
    [[[[8.0, 12.0], [20.0, 24.0]]]]
    """
    out = np.empty((*x.shape[:2], *windows.out), np.result_type(x, filters, bias))
    if compiled := kernels.depthwise.ready(out.dtype, out.size):
        together = (*windows.geometry(), *map(np.ascontiguousarray, (x, filters, bias)), out)
        if compiled(together, *x.shape[:2]):
            return out
    view = windows.view(x)
    for i, j in np.ndindex(windows.kernel):
        factor = filters[:, i, j, None, None]
        if i + j:
            out += view[:, :, i, j] * factor
        else:
            np.multiply(view[:, :, i, j], factor, out=out)
    out += bias[:, None, None]
    return out


def correlate_input(y: Array, filters: Array, windows: Windows) -> Array:
    """Return the adjoint of `correlate` in the images: (N, C, H, W) from (N, C, H', W')."""
    reach = [d * (k - 1) for d, k in zip(windows.dilation, windows.kernel, strict=True)]
    if windows.stride == (1, 1) and all(r >= b for r, b in zip(reach, windows.before, strict=True)):
        before = [r - b for r, b in zip(reach, windows.before, strict=True)]
        padded = [size + r for size, r in zip(windows.image, reach, strict=True)]
        flipped = replace(
            windows,
            image=windows.out,
            padded=tuple(padded),
            out=windows.image,
            before=tuple(before),
            row=windows.image[1],
        )
        return correlate(y, filters[:, ::-1, ::-1], np.zeros(len(filters), filters.dtype), flipped)
    dtype = np.result_type(y, filters)
    if compiled := kernels.depthwise_input.ready(dtype, y.size):
        out = np.empty((*y.shape[:2], *windows.image), dtype)
        together = (*windows.geometry(), *map(np.ascontiguousarray, (y, filters)), out)
        if compiled(together, *y.shape[:2]):
            return out
    parts = (y * filters[:, i, j, None, None] for i, j in np.ndindex(windows.kernel))
    return np.ascontiguousarray(windows.overlap(parts, y.shape[0], y.shape[1], dtype))  # as the kernel's result


def correlate_weight(x: Array, y: Array, windows: Windows) -> Array:
    """Return the adjoint of `correlate` in the filters: (C, rows, columns).

    Products are added along the rows of an image first, then over images, then along columns.
    """
    channels, columns = x.shape[1], windows.out[1]
    sums = np.zeros((channels, *windows.kernel, columns), np.result_type(x, y))
    if compiled := kernels.depthwise_weight.ready(sums.dtype, y.size):
        own = np.empty((*windows.kernel, columns), sums.dtype)
        together = (*windows.geometry(), own, np.ascontiguousarray(x), np.ascontiguousarray(y), sums)
        if compiled(together, *x.shape[:2]):
            return sums.sum(axis=-1)
    view = windows.view(x)
    for image, gradient in zip(view, y, strict=True):
        for i, j in np.ndindex(windows.kernel):
            sums[:, i, j] += np.add.reduce(image[:, i, j] * gradient, axis=1)
    return sums.sum(axis=-1)
