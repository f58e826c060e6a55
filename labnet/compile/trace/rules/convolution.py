"""Compile rules of convolution and its adjoints.

In float32 with neighbouring windows a routine multiplies windows where they lie; else they are copied into a matrix.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.intrinsics.correlation import Correlation
from labnet.compile.ir.values import Shape
from labnet.compile.native.processor import registers
from labnet.compile.trace.rules.elementwise import Rule, Static
from labnet.compile.trace.rules.ordering import called
from labnet.compile.trace.rules.views import put, seen, viewed
from labnet.compile.trace.rules.windows import Geometry, geometry_of
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CPU
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure


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


def _is_quick(operands: Sequence[Any]) -> bool:
    """Return whether routines for windows where they lie do it."""
    return all(x.dtype == np.dtype("float32") and x.size and x.device == CPU for x in operands)


def _shape_of(images: Shape, filters: int, groups: int, geometry: Geometry) -> Correlation:
    """Return the sizes of a convolution."""
    before = geometry.sides[0][0], geometry.sides[1][0]
    sizes = (geometry.image, geometry.kernel, geometry.stride, geometry.dilation, before, geometry.out, registers())
    return Correlation(images[0], images[1], filters, groups, *sizes)


def _room(trace: Trace, length: int) -> Traced:
    return called(trace, "room", [], shape=(length,), dtype=np.dtype("float32"), numbers=())


def _correlated(trace: Trace, x: Any, weight: Any, bias: Any, shape: Correlation) -> Traced:
    """Apply filters (K, C / groups, rows, columns) to images, and add a bias (K,)."""
    return called(
        trace,
        "correlate",
        [x, weight, bias, _room(trace, shape.room)],
        shape=(shape.samples, shape.filters, *shape.out),
        dtype=x.dtype,
        numbers=(shape.numbers,),
        flops=shape.flops,
    )


def _slid(trace: Trace, x: Any, y: Any, shape: Correlation) -> Traced:
    """Multiply slopes of the result by the windows that they come from: (K, inner)."""
    return called(
        trace,
        "slopes",
        [x, y, _room(trace, shape.room_for_slopes)],
        shape=(shape.filters, shape.inner),
        dtype=x.dtype,
        numbers=(shape.numbers,),
        flops=shape.flops,
    )


def _turned(weight: Any, groups: int) -> Any:
    """Return the filters of the adjoint: of each group of channels, backwards."""
    filters, channels, *kernel = weight.shape
    apart = weight.reshape((groups, filters // groups, channels, *kernel))
    turned = ops.flip(ops.permute_dims(apart, (0, 2, 1, 3, 4)), axis=(3, 4))
    return turned.reshape((groups * channels, filters // groups, *kernel))


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
    if _is_quick((x, weight)):
        shape = _shape_of(x.shape, weight.shape[0], groups, geometry)
        return _correlated(trace, x, weight, ops.broadcast_to(bias, weight.shape[:1]), shape)
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
    if around is not None and _is_quick((y, weight)):
        none = trace.stand_in(trace.builder.splat(0, shape[1:2], y.dtype))
        return _correlated(trace, y, _turned(weight, groups), none, _shape_of(y.shape, shape[1], groups, around))
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
    if _is_quick((x, y)):
        slopes: Any = _slid(trace, x, y, _shape_of(x.shape, shape[0], groups, geometry))
        return trace.lift(slopes.reshape(shape))  # type: ignore[no-any-return]
    flat = y.reshape((y.shape[0], groups, shape[0] // groups, math.prod(geometry.out)))
    products = _columns(trace, x, groups, geometry) @ ops.matrix_transpose(flat)
    return trace.lift(ops.matrix_transpose(ops.sum(products, axis=0)).reshape(shape))  # type: ignore[no-any-return]


RULES: dict[str, Rule] = {"conv2d": conv2d, "conv2d_input": conv2d_input, "conv2d_weight": conv2d_weight}
