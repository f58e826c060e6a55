"""Pooling in torch's form: rounding up, one dimension, and windows that adapt to the size of the result."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn.functions.convolution import Triple, triple
from labnet.ops.core.creation import asarray, zeros
from labnet.ops.nn.windows import Pair, pair
from labnet.ops.selection.scatter import scatter_reduce
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
    return_indices: bool = False,
) -> Any:
    """Return the greatest element of each window; see `labnet.ops.max_pool2d`.

    Parameters
    ----------
    x : tensor of shape (..., H, W)
    kernel_size, stride, padding, dilation : int or (int, int)
    ceil_mode : bool
        Round the number of windows up, so that the last ones may exceed the image.
    return_indices : bool
        Whether to return the positions in the flattened image too.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.max_pool2d(ln.asarray([[1.0, 2.0, 3.0]]), (1, 2), ceil_mode=True).tolist()
    [[2.0, 3.0]]
    """
    places = _positions(x, 2) if return_indices else None
    values, found = _max_pool(x, places, kernel_size, stride, padding, dilation, ceil_mode=ceil_mode)
    return values if found is None else (values, found.astype("int64"))


def _positions(x: Tensor, dims: int) -> Tensor:
    """Return the position of each element in its last `dims` dimensions, as float64."""
    shape = x.shape[-dims:]
    return ops.broadcast_to(
        asarray(np.arange(math.prod(shape), dtype="float64").reshape(shape), device=x.device), x.shape
    )


def _max_pool(
    x: Tensor, places: Tensor | None, kernel: Any, stride: Any, padding: Any, dilation: Any, *, ceil_mode: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the greatest element of each window, and what `places` has there."""
    if ceil_mode:
        margins = _margins(x, kernel, kernel if stride is None else stride, padding, dilation)
        x, padding = _padded(x, margins, -np.inf), 0
        places = None if places is None else _padded(places, margins, 0.0)
    geometry = (kernel, stride, padding, dilation)
    found = None if places is None else ops.max_pool2d_pick(places, x.detach(), *geometry)
    return ops.max_pool2d(x, *geometry), found


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


def _of_rows(pool: Callable[..., Any], x: Tensor, *sizes: Any, **named: Any) -> Any:
    """Pool the last dimension with a function for the last two; each size becomes (neutral, size)."""
    neutral = (1, 1, 0, 1)
    given = [size[0] if isinstance(size, list | tuple) else size for size in sizes]
    pairs = [None if size is None else (one, size) for one, size in zip(neutral, given, strict=False)]
    found = pool(ops.expand_dims(x, axis=-2), *pairs, **named)
    if isinstance(found, tuple):
        return tuple([ops.squeeze(part, axis=-2) for part in found])
    return ops.squeeze(found, axis=-2)


def _by_depth(x: Tensor) -> Tensor:
    """Return (..., D, H, W) as (..., D, H W), whose second last dimension is then pooled."""
    return x.reshape((*x.shape[:-2], x.shape[-2] * x.shape[-1]))


def _sizes3(kernel_size: Any, stride: Any, padding: Any, dilation: Any = 1) -> tuple[Any, Any]:
    """Return each size for rows and columns, and for the depth with the neutral size of the other dimension."""
    triples = [*map(triple, (kernel_size, kernel_size if stride is None else stride, padding, dilation))]
    return [each[1:] for each in triples], [(each[0], one) for each, one in zip(triples, (1, 1, 0, 1), strict=True)]


def max_pool3d(
    x: Tensor,
    kernel_size: Triple,
    stride: Triple | None = None,
    padding: Triple = 0,
    dilation: Triple = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the greatest element of each window of (..., D, H, W): over rows and columns, then over the depth.

    Arguments are as for `max_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_pool3d(ln.arange(8.0).reshape((1, 2, 2, 2)), 2).tolist()
    [[[[7.0]]]]
    """
    places = _positions(x, 3) if return_indices else None
    (*flat,), (*deep,) = _sizes3(kernel_size, stride, padding, dilation)
    values, found = _max_pool(x, places, *flat, ceil_mode=ceil_mode)
    below = None if found is None else _by_depth(found)
    out, last = _max_pool(_by_depth(values), below, *deep, ceil_mode=ceil_mode)
    shape = (*out.shape[:-1], *values.shape[-2:])
    return out.reshape(shape) if last is None else (out.reshape(shape), last.reshape(shape).astype("int64"))


def avg_pool3d(
    x: Tensor,
    kernel_size: Triple,
    stride: Triple | None = None,
    padding: Triple = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Tensor:
    """Return the mean of each window of (..., D, H, W): over rows and columns, then over the depth.

    Arguments are as for `avg_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.avg_pool3d(ln.arange(8.0).reshape((1, 2, 2, 2)), 2).tolist()
    [[[[3.5]]]]
    """
    flat, deep = (sizes[:3] for sizes in _sizes3(kernel_size, stride, padding))
    named: Any = {"ceil_mode": ceil_mode, "count_include_pad": count_include_pad}
    named["divisor_override"] = None if divisor_override is None else 1
    over = avg_pool2d(x, *flat, **named)
    out = avg_pool2d(_by_depth(over), *deep, **named).reshape((*x.shape[:-3], -1, *over.shape[-2:]))
    return out if divisor_override is None else out / divisor_override


def lp_pool2d(
    x: Tensor, norm_type: float, kernel_size: Pair, stride: Pair | None = None, ceil_mode: bool = False
) -> Tensor:
    """Return the `norm_type`-th root of the sum of powers of each window.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.lp_pool2d(ln.asarray([[3.0, 4.0]]), 2, (1, 2)).tolist()
    [[5.0]]
    """
    total = avg_pool2d(x**norm_type, kernel_size, stride, 0, ceil_mode) * math.prod(pair(kernel_size))
    return (ops.sign(total) * ops.relu(ops.abs(total))) ** (1 / norm_type)


def lp_pool1d(
    x: Tensor, norm_type: float, kernel_size: int, stride: int | None = None, ceil_mode: bool = False
) -> Tensor:
    """Return the `norm_type`-th root of the sum of powers of each window of the last dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.lp_pool1d(ln.asarray([[3.0, 4.0]]), 2, 2).tolist()
    [[5.0]]
    """
    rows = ops.expand_dims(x, axis=-2)
    return ops.squeeze(lp_pool2d(rows, norm_type, (1, kernel_size), stride and (1, stride), ceil_mode), axis=-2)


def _unpool(
    dims: int, x: Tensor, indices: Tensor, kernel_size: Any, stride: Any, padding: Any, output_size: Any
) -> Tensor:
    given = (kernel_size, kernel_size if stride is None else stride, padding)
    each = [tuple(one) if isinstance(one, list | tuple) else (one,) * dims for one in given]
    usual = [(n - 1) * s - 2 * p + k for n, k, s, p in zip(x.shape[-dims:], *each, strict=True)]
    image, lead = list(usual if output_size is None else output_size)[-dims:], x.shape[:-dims]
    blank = zeros((*lead, math.prod(image)), dtype=x.dtype, device=x.device)
    flat = (indices.reshape((*lead, -1)), x.reshape((*lead, -1)))  # equal elements of windows that overlap
    return scatter_reduce(blank, -1, *flat, "mean", include_self=False).reshape((*lead, *image))


def max_unpool2d(
    x: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Return zeros with the elements at the positions that `max_pool2d` returned.

    Parameters
    ----------
    x, indices : tensors of shape (..., H, W)
    kernel_size, stride, padding
        Those of the pooling.
    output_size : sequence of int, optional
        Rows and columns of its input, where several lead to one result.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_unpool2d(ln.asarray([[3.0]]), ln.asarray([[1]]), (1, 2)).tolist()
    [[0.0, 3.0]]
    """
    return _unpool(2, x, indices, kernel_size, stride, padding, output_size)


def max_unpool1d(
    x: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Return zeros with the elements at the positions that `max_pool1d` returned; arguments are as for `max_unpool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_unpool1d(ln.asarray([[3.0]]), ln.asarray([[1]]), 2).tolist()
    [[0.0, 3.0]]
    """
    return _unpool(1, x, indices, kernel_size, stride, padding, output_size)


def max_unpool3d(
    x: Tensor, indices: Tensor, kernel_size: Any, stride: Any = None, padding: Any = 0, output_size: Any = None
) -> Tensor:
    """Return zeros with the elements at the positions that `max_pool3d` returned; arguments are as for `max_unpool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_unpool3d(ln.asarray([[[3.0]]]), ln.asarray([[[1]]]), (1, 1, 2)).tolist()
    [[[0.0, 3.0]]]
    """
    return _unpool(3, x, indices, kernel_size, stride, padding, output_size)


def max_pool1d(
    x: Tensor,
    kernel_size: int,
    stride: int | None = None,
    padding: int = 0,
    dilation: int = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    """Return the greatest element of each window of the last dimension; arguments are as for `max_pool2d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.max_pool1d(ln.asarray([[1.0, 3.0, 2.0, 0.0]]), 2).tolist()
    [[3.0, 2.0]]
    """
    named = {"ceil_mode": ceil_mode, "return_indices": return_indices}
    return _of_rows(max_pool2d, x, kernel_size, stride, padding, dilation, **named)


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
    return _of_rows(avg_pool2d, x, kernel_size, stride, padding, **named)  # type: ignore[no-any-return]


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
            x = ops.moveaxis(ops.moveaxis(x, dim, -1) @ ops.matrix_transpose(weights), -1, dim)
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


def _adaptive_max(name: str, x: Tensor, output_size: Sizes, dims: int, return_indices: bool) -> Any:
    wanted = _wanted(name, x, output_size, dims)
    if not return_indices and all(size % want == 0 for size, want in wanted):
        pool: Any = (max_pool1d, max_pool2d, max_pool3d)[dims - 1]
        kernel = tuple(size // want for size, want in wanted)
        return pool(x, kernel[0] if dims == 1 else kernel)
    lengths, places = [size for size, _ in wanted], np.zeros((1,) * 2 * dims, "int64")
    for dim, (size, want) in enumerate(wanted):
        starts, ends = np.array(_bounds(size, want)).T
        inside = np.minimum(starts[:, None] + np.arange((ends - starts).max()), ends[:, None] - 1)
        shape = [want if axis == dim else inside.shape[1] if axis == dim + dims else 1 for axis in range(2 * dims)]
        places = places * size + inside.reshape(shape)
    places = places.reshape((*places.shape[:dims], -1))
    windows = x.reshape((*x.shape[:-dims], math.prod(lengths)))[..., places]
    best = ops.argmax(windows, axis=-1, keepdims=True)
    values = ops.take_along_axis(windows, best, axis=-1)[..., 0]
    if not return_indices:
        return values
    return values, ops.take_along_axis(ops.broadcast_to(asarray(places, device=x.device), windows.shape), best)[..., 0]


def adaptive_max_pool1d(x: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Return the greatest elements of windows of the last dimension that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_max_pool1d(ln.asarray([[1.0, 2.0, 3.0]]), 2).tolist()
    [[2.0, 3.0]]
    """
    return _adaptive_max("adaptive_max_pool1d", x, output_size, 1, return_indices)


def adaptive_max_pool2d(x: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Return the greatest elements of windows that give a result of `output_size`, and perhaps their positions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_max_pool2d(ln.asarray([[[1.0, 2.0], [3.0, 4.0]]]), (1, 2)).tolist()
    [[[3.0, 4.0]]]
    """
    return _adaptive_max("adaptive_max_pool2d", x, output_size, 2, return_indices)


def adaptive_max_pool3d(x: Tensor, output_size: Sizes, return_indices: bool = False) -> Any:
    """Return the greatest elements of windows of volumes that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_max_pool3d(ln.arange(8.0).reshape((1, 2, 2, 2)), 1).item()
    7.0
    """
    return _adaptive_max("adaptive_max_pool3d", x, output_size, 3, return_indices)


def adaptive_avg_pool3d(x: Tensor, output_size: Sizes) -> Tensor:
    """Return the means of windows of volumes that give a result of `output_size`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.adaptive_avg_pool3d(ln.arange(8.0).reshape((1, 2, 2, 2)), 1).item()
    3.5
    """
    return _adaptive_avg(x, _wanted("adaptive_avg_pool3d", x, output_size, 3))
