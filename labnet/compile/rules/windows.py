"""Compile rules of convolution and pooling: windows are views, and adding them up is the adjoint of a view."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir import Shape, contiguous
from labnet.compile.rules.elementwise import Rule, Static
from labnet.compile.rules.views import put, seen, viewed
from labnet.compile.trace import Trace
from labnet.compile.traced import Traced
from labnet.ops.dispatch import failure
from labnet.ops.registry import Op
from labnet.ops.windows import margins, pair


class Geometry:
    """Where the windows of a convolution or a pooling lie in padded images.

    Attributes
    ----------
    kernel, stride, dilation, out, padded : (int, int)
        Sizes of a window, steps between and inside windows, number of windows, size of the padded image.
    sides : ((int, int), (int, int))
        Padding above and below, to the left and to the right.
    """

    def __init__(self, image: Shape, kernel: Shape, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1):
        self.kernel, self.stride, self.dilation = kernel, pair(stride), pair(dilation)
        self.sides = margins(padding, kernel, self.stride, self.dilation)
        self.padded = tuple(size + sum(side) for size, side in zip(image, self.sides, strict=True))
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        if min(*self.stride, *self.dilation, *kernel) < 1 or min(map(min, self.sides)) < 0:
            raise ValueError("kernel, stride and dilation must be at least 1, and padding not negative")
        if any(size < needed for size, needed in zip(self.padded, reach, strict=True)):
            raise ValueError(f"the window covers {tuple(reach)}, the padded image is only {self.padded}")
        self.out = tuple((p - r) // s + 1 for p, r, s in zip(self.padded, reach, self.stride, strict=True))

    def pad(self, x: Any, value: float = 0.0) -> Any:
        """Return images with their padding."""
        if not any(map(any, self.sides)):
            return x
        widths = ((0, 0),) * (x.ndim - 2) + self.sides
        whole = ops.pad(x, widths)
        if value == 0:
            return whole
        inside = np.pad(np.ones(x.shape[-2:], bool), self.sides)
        return ops.where(inside, whole, value)

    def inside(self, padded: Any) -> Any:
        """Return padded images without their padding."""
        (top, bottom), (left, right) = self.sides
        rows, columns = padded.shape[-2:]
        return padded[..., top : rows - bottom, left : columns - right]

    def places(self) -> Iterator[tuple[Any, ...]]:
        """Yield, for each element of the window in reading order, the index of it in all windows at once."""
        for start in np.ndindex(self.kernel):
            yield (
                ...,
                *(
                    slice(i * d, i * d + (n - 1) * s + 1, s)
                    for i, d, s, n in zip(start, self.dilation, self.stride, self.out, strict=True)
                ),
            )

    def strides(self, shape: Shape) -> Shape:
        """Return how windows (N, groups, C, *kernel, *out) of padded images (N, groups, C, H, W) lie in memory."""
        *leading, row, column = contiguous(shape)
        return (
            *leading,
            *(row * self.dilation[0], column * self.dilation[1]),
            *(row * self.stride[0], column * self.stride[1]),
        )


def _geometry(op: Op, image: Shape, kernel: Any, static: Static, operands: Sequence[Any]) -> Geometry:
    known = {key: static[key] for key in ("stride", "padding", "dilation") if key in static}
    try:
        return Geometry(image, tuple(kernel), **known)
    except ValueError as error:
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error) from None


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


def conv2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Multiply the filters by the matrix of all windows."""
    x, weight, bias = operands
    groups = static.get("groups", 1)
    _fits(op, x.shape, weight.shape, groups, (x, weight), static)
    geometry = _geometry(op, x.shape[2:], weight.shape[2:], static, (x, weight))
    bias = trace.lift(bias, x.dtype)
    if bias.shape not in ((), weight.shape[:1]):
        error = ValueError("expected one number of the bias per filter")
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), v.shape) for v in operands), static, error)
    filters = weight.reshape((1, groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    out = filters @ _columns(trace, x, groups, geometry)
    out = out.reshape((x.shape[0], weight.shape[0], *geometry.out))
    return trace.lift(out + (bias.reshape((-1, 1, 1)) if bias.ndim else bias))  # type: ignore[no-any-return]


def conv2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Add up the windows that the filters make of each element."""
    y, weight = operands
    shape, groups = tuple(static["shape"]), static.get("groups", 1)
    _fits(op, shape, weight.shape, groups, (y, weight), static)
    geometry = _geometry(op, shape[2:], weight.shape[2:], static, (y, weight))
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
    geometry = _geometry(op, x.shape[2:], shape[2:], static, (x, y))
    flat = y.reshape((y.shape[0], groups, shape[0] // groups, math.prod(geometry.out)))
    products = _columns(trace, x, groups, geometry) @ ops.matrix_transpose(flat)
    return trace.lift(ops.matrix_transpose(ops.sum(products, axis=0)).reshape(shape))  # type: ignore[no-any-return]


# Pooling


def _pooling(op: Op, shape: Shape, static: Static, operands: Sequence[Any]) -> Geometry:
    kernel, width = pair(static["kernel_size"]), pair(static.get("padding", 0))
    steps = kernel if static.get("stride") is None else static["stride"]
    if len(shape) < 2 or any(2 * w > k for w, k in zip(width, kernel, strict=True)):
        error = ValueError("expected shape (..., H, W), and padding of at most half the window")
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error)
    return _geometry(op, shape[-2:], kernel, {**static, "stride": steps}, operands)


def max_pool2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Take the greatest of the elements at each place of the window."""
    x = operands[0]
    geometry = _pooling(op, x.shape, static, operands)
    return trace.lift(_greatest(geometry.pad(x, -math.inf), geometry))  # type: ignore[no-any-return]


def _greatest(padded: Any, geometry: Geometry) -> Any:
    first, *others = geometry.places()
    out = padded[first]
    for place in others:
        out = ops.maximum(out, padded[place])
    return out


def _winners(x: Any, geometry: Geometry) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each place with a mask of the windows whose greatest element, or the first of several, lies there."""
    padded = geometry.pad(x, -math.inf)
    greatest = _greatest(padded, geometry)
    *places, last = geometry.places()
    left: Any = None
    for place in places:
        hit = padded[place] == greatest
        yield place, (hit if left is None else ops.logical_and(hit, left))
        left = ops.logical_not(hit) if left is None else ops.logical_and(left, ops.logical_not(hit))
    yield last, (ops.equal(greatest, greatest) if left is None else left)


def _added(trace: Trace, parts: Sequence[Any], geometry: Geometry, shape: Shape) -> Traced:
    """Return images in which parts were added, one per place of the window."""
    whole = np.empty((*shape[:-2], *geometry.padded), parts[0].dtype)
    places = [seen(whole, whole[place]) for place in geometry.places()]
    padded = trace.stand_in(put(trace, parts, places, whole.shape))
    return trace.lift(geometry.inside(padded))  # type: ignore[no-any-return]


def max_pool2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Put elements where the greatest of each window lies."""
    y, x = operands
    geometry = _pooling(op, x.shape, static, operands)
    parts = [ops.where(hit, y, 0.0) for _, hit in _winners(x, geometry)]
    return _added(trace, parts, geometry, x.shape)


def max_pool2d_pick(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Read elements where the greatest of each window lies."""
    y, x = operands
    geometry = _pooling(op, x.shape, static, operands)
    padded, out = geometry.pad(y), None
    for place, hit in _winners(x, geometry):
        out = padded[place] if out is None else ops.where(hit, padded[place], out)
    return trace.lift(out)  # type: ignore[no-any-return]


def _shares(trace: Trace, geometry: Geometry, dtype: Any, static: Static) -> Any:
    """Return what each window is divided by."""
    if static.get("count_include_pad", True):
        return math.prod(geometry.kernel)
    (top, _), (left, _) = geometry.sides
    inside = np.zeros(geometry.padded, dtype)
    rows, columns = (size - sum(side) for size, side in zip(geometry.padded, geometry.sides, strict=True))
    inside[top : top + rows, left : left + columns] = 1
    return trace.constant(np.sum([inside[place] for place in geometry.places()], axis=0, dtype=dtype))


def avg_pool2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Add up the elements at all places of the window, and divide."""
    x = operands[0]
    geometry = _pooling(op, x.shape, static, operands)
    padded, out = geometry.pad(x), None
    for place in geometry.places():
        out = padded[place] if out is None else out + padded[place]
    return trace.lift(out / _shares(trace, geometry, x.dtype, static))  # type: ignore[no-any-return]


def avg_pool2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Share each element among its window."""
    y, shape = operands[0], tuple(static["shape"])
    geometry = _pooling(op, shape, static, operands)
    part = y / _shares(trace, geometry, y.dtype, static)
    return _added(trace, [part] * math.prod(geometry.kernel), geometry, shape)


RULES: dict[str, Rule] = {
    "conv2d": conv2d,
    "conv2d_input": conv2d_input,
    "conv2d_weight": conv2d_weight,
    "max_pool2d": max_pool2d,
    "max_pool2d_input": max_pool2d_input,
    "max_pool2d_pick": max_pool2d_pick,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_input": avg_pool2d_input,
}
