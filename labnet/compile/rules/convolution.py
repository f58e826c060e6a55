"""Compile rules of convolution and its adjoints.

In float32 with neighbouring windows a routine multiplies windows where they lie; else they are copied into a matrix.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.blocks import FILTERS, PLACES, SLOPES
from labnet.compile.ir import Shape
from labnet.compile.rules.elementwise import Rule, Static
from labnet.compile.rules.ordering import called
from labnet.compile.rules.views import put, seen, viewed
from labnet.compile.rules.windows import Geometry, geometry_of
from labnet.compile.trace import Trace
from labnet.compile.traced import Traced
from labnet.device import CPU
from labnet.ops.dispatch import failure
from labnet.ops.registry import Op


def _fits(op: Op, images: Shape, weight: Shape, groups: int, operands: Sequence[Any], static: Static) -> None:
    if len(images) == len(weight) == 4 and groups >= 1 and images[1] == weight[1] * groups and not weight[0] % groups:
        return
    error = ValueError(f"images of shape {images} and weights of shape {weight} do not fit {groups} groups")
    raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error)


def _columns(trace: Trace, x: Any, groups: int, geometry: Geometry) -> Any:
    """Return the windows of images as matrices (N, groups, C / groups * kernel, windows)."""
    padded = trace.lift(geometry.pad(x)).value
    padded = trace.copied(padded) if padded.kind in ("view", "splat") else padded
    count, channels = x.shape[:2]
    apart = (count, groups, channels // groups, *geometry.padded)
    shape = (*apart[:3], *geometry.kernel, *geometry.out)
    windows = viewed(trace, padded, 0, geometry.strides(apart), shape)
    inner = channels // groups * math.prod(geometry.kernel)
    return trace.stand_in(trace.copied(windows)).reshape((count, groups, inner, math.prod(geometry.out)))


# Windows where they lie

#: Windows that a routine works on at a time.
_BLOCK = 16


def _is_quick(operands: Sequence[Any], geometry: Geometry, groups: int) -> bool:
    """Tell whether routines for windows where they lie do it."""
    plain = all(x.dtype == np.dtype("float32") and x.size for x in operands)
    return plain and groups == 1 and geometry.stride == (1, 1) and operands[0].device == CPU


def _plane(geometry: Geometry) -> int:
    """Return the number of windows of an image as if its rows went on, rounded up."""
    (rows, columns), pitch = geometry.out, geometry.padded[1]
    return -(-((rows - 1) * pitch + columns) // _BLOCK) * _BLOCK


def _flat(trace: Trace, x: Any, geometry: Geometry) -> Traced:
    """Return padded images row by row, with some room behind the last one."""
    whole = np.empty((*x.shape[:2], *geometry.padded), x.dtype)
    (top, _), (left, _) = geometry.sides
    inside = whole[:, :, top : top + x.shape[2], left : left + x.shape[3]]
    return trace.stand_in(put(trace, [x], [seen(whole, inside)], (whole.size + _BLOCK,)))


def _steps(trace: Trace, channels: int, geometry: Geometry) -> Traced:
    """Return where the elements of a window lie."""
    (rows, columns), pitch = geometry.kernel, geometry.padded[1]
    image = math.prod(geometry.padded)
    down, right = geometry.dilation
    grid = np.ix_(np.arange(channels) * image, np.arange(rows) * down * pitch, np.arange(columns) * right)
    return trace.constant((grid[0] + grid[1] + grid[2]).astype("int64").reshape(-1))


def _first(sizes: Sequence[int], number: int) -> int:
    """Return the first size that divides a number."""
    return next(size for size in sizes if number % size == 0)


def _correlated(trace: Trace, x: Any, weight: Any, geometry: Geometry) -> Traced:
    """Apply filters (K, C, rows, columns) to images."""
    filters, plane = weight.shape[0], _plane(geometry)
    rows = weight.reshape((filters, math.prod(weight.shape[1:])))
    numbers = (x.shape[0], x.shape[1] * math.prod(geometry.padded), rows.shape[1], filters, plane)
    wide = called(
        trace,
        f"correlate{_first(FILTERS, filters)}",
        [_flat(trace, x, geometry), ops.matrix_transpose(rows), _steps(trace, x.shape[1], geometry)],
        shape=(x.shape[0], filters, plane),
        dtype=x.dtype,
        numbers=numbers,
        flops=2 * x.shape[0] * filters * math.prod(geometry.out) * rows.shape[1],
    )
    strides = (filters * plane, plane, geometry.padded[1], 1)
    return trace.stand_in(viewed(trace, wide.value, 0, strides, (x.shape[0], filters, *geometry.out)))


def _slid(trace: Trace, x: Any, y: Any, geometry: Geometry) -> Traced:
    """Multiply the slopes of each filter by all windows: (K, C, rows, columns)."""
    samples, filters = y.shape[:2]
    plane = _plane(geometry)
    whole = np.empty((samples, filters, plane), x.dtype)
    strides = (*whole.strides[:2], geometry.padded[1] * x.dtype.itemsize, x.dtype.itemsize)
    place = seen(whole, np.ndarray(y.shape, x.dtype, whole, 0, strides))
    wide = trace.stand_in(put(trace, [y], [place], whole.shape))
    inner = x.shape[1] * math.prod(geometry.kernel)
    found = called(
        trace,
        f"slopes{_first(SLOPES, filters)}x{_first(PLACES, inner)}",
        [_flat(trace, x, geometry), wide, _steps(trace, x.shape[1], geometry)],
        shape=(filters, inner),
        dtype=x.dtype,
        numbers=(samples, x.shape[1] * math.prod(geometry.padded), inner, filters, plane),
        flops=2 * y.size * inner,
    )
    return trace.lift(found.reshape((filters, x.shape[1], *geometry.kernel)))  # type: ignore[no-any-return]


# Rules


def conv2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Multiply the filters by the matrix of all windows."""
    x, weight, bias = operands
    groups = static.get("groups", 1)
    _fits(op, x.shape, weight.shape, groups, (x, weight), static)
    geometry = geometry_of(op, x.shape[2:], weight.shape[2:], static, (x, weight))
    bias = trace.lift(bias, x.dtype)
    if bias.shape not in ((), weight.shape[:1]):
        error = ValueError("expected one number of the bias per filter")
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), v.shape) for v in operands), static, error)
    if _is_quick((x, weight), geometry, groups):
        out: Any = _correlated(trace, x, weight, geometry)
    else:
        filters = weight.reshape((1, groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
        out = filters @ _columns(trace, x, groups, geometry)
        out = out.reshape((x.shape[0], weight.shape[0], *geometry.out))
    return trace.lift(out + (bias.reshape((-1, 1, 1)) if bias.ndim else bias))  # type: ignore[no-any-return]


def conv2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Add up the windows that the filters make of each element."""
    y, weight = operands
    shape, groups = tuple(static["shape"]), static.get("groups", 1)
    _fits(op, shape, weight.shape, groups, (y, weight), static)
    geometry = geometry_of(op, shape[2:], weight.shape[2:], static, (y, weight))
    around = geometry.turned()
    if around is not None and _is_quick((y, weight), geometry, groups):
        turned = ops.flip(ops.permute_dims(weight, (1, 0, 2, 3)), axis=(2, 3))
        return _correlated(trace, y, turned, around)
    filters = weight.reshape((1, groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    flat = y.reshape((y.shape[0], groups, weight.shape[0] // groups, math.prod(geometry.out)))
    columns = ops.matrix_transpose(filters) @ flat
    apart = (shape[0], groups, shape[1] // groups)
    columns = columns.reshape((*apart, *geometry.kernel, *geometry.out))
    whole = (*apart, *geometry.padded)
    parts = [columns[:, :, :, i, j] for i, j in np.ndindex(geometry.kernel)]
    blank = np.empty(whole, y.dtype)
    places = [seen(blank, blank[place]) for place in geometry.places()]
    padded: Any = trace.stand_in(put(trace, parts, places, whole)).reshape((*shape[:2], *geometry.padded))
    return trace.lift(geometry.inside(padded))  # type: ignore[no-any-return]


def conv2d_weight(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Multiply the result by the matrix of all windows."""
    x, y = operands
    shape, groups = tuple(static["shape"]), static.get("groups", 1)
    _fits(op, x.shape, shape, groups, (x, y), static)
    geometry = geometry_of(op, x.shape[2:], shape[2:], static, (x, y))
    if _is_quick((x, y), geometry, groups):
        return _slid(trace, x, y, geometry)
    flat = y.reshape((y.shape[0], groups, shape[0] // groups, math.prod(geometry.out)))
    products = _columns(trace, x, groups, geometry) @ ops.matrix_transpose(flat)
    return trace.lift(ops.matrix_transpose(ops.sum(products, axis=0)).reshape(shape))  # type: ignore[no-any-return]


RULES: dict[str, Rule] = {"conv2d": conv2d, "conv2d_input": conv2d_input, "conv2d_weight": conv2d_weight}
