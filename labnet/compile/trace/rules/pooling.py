"""Compile rules of pooling: one view per position in the window; their adjoint adds them up."""

import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import Shape
from labnet.compile.trace.rules.elementwise import Rule, Static
from labnet.compile.trace.rules.ordering import call_intrinsic
from labnet.compile.trace.rules.views import layout_in, put
from labnet.compile.trace.rules.windows import Geometry, geometry_of
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CPU
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.nn.windows import pair


def _pooling(op: Op, shape: Shape, static: Static, operands: Sequence[Any]) -> Geometry:
    kernel, width = pair(static["kernel_size"]), pair(static.get("padding", 0))
    steps = kernel if static.get("stride") is None else static["stride"]
    if len(shape) < 2 or any(2 * w > k for w, k in zip(width, kernel, strict=True)):
        error = ValueError("expected shape (..., H, W), and padding of at most half the window")
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error)
    return geometry_of(op, shape[-2:], kernel, {**static, "stride": steps}, operands)


def _has_intrinsic(operands: Sequence[Any], geometry: Geometry) -> bool:
    """Return whether the pooling intrinsics support it: windows that neither overlap nor include padding."""
    apart = geometry.stride == geometry.kernel and geometry.dilation == (1, 1) and not any(map(any, geometry.sides))
    return apart and all(x.dtype == np.dtype("float32") and x.size and x.device == CPU for x in operands)


def _call_pooling(trace: Trace, name: str, inputs: Sequence[Any], shape: Shape, geometry: Geometry) -> Traced:
    """Call a function of `labnet.compile.intrinsics.pooling`; the last input is the images."""
    x = inputs[-1]
    numbers = (math.prod(x.shape[:-2]), *x.shape[-2:], *geometry.kernel)
    return call_intrinsic(trace, name, inputs, shape=shape, dtype=x.dtype, numbers=(numbers,), flops=x.size)


def max_pool2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compute the maximum over the views of the window positions."""
    x = operands[0]
    geometry = _pooling(op, x.shape, static, operands)
    if _has_intrinsic((x,), geometry):
        return _call_pooling(trace, "max_pool", [x], (*x.shape[:-2], *geometry.out), geometry)
    return trace.lift(_maximum(geometry.pad(x, -math.inf), geometry))  # type: ignore[no-any-return]


def _maximum(padded: Any, geometry: Geometry) -> Any:
    first, *others = geometry.places()
    out = padded[first]
    for place in others:
        out = ops.maximum(out, padded[place])
    return out


def _maximum_masks(x: Any, geometry: Geometry) -> list[tuple[tuple[Any, ...], Any]]:
    """Return each window position but the last, with a mask of the windows that have their maximum or NaN there.

    Padding is never the maximum, so a window in no mask has its maximum at the last position.
    """
    padded = geometry.pad(x, -math.inf)
    greatest, inside = _maximum(padded, geometry), _inside(geometry)
    found = []
    for place in list(geometry.places())[:-1]:
        hit = ops.logical_or(padded[place] == greatest, ops.isnan(padded[place]))
        found.append((place, hit if inside[place].all() else ops.logical_and(hit, inside[place])))
    return found


def _first_maximum_masks(x: Any, geometry: Geometry) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Yield each window position with a mask of the windows whose first maximum lies there.

    The masks compare an int32 position, which is as wide as a float32 and thus faster than combining masks.
    """
    hits = list(enumerate(_maximum_masks(x, geometry)))
    first: Any = np.int32(len(hits))
    for number, (_, hit) in reversed(hits):
        first = ops.where(hit, np.int32(number), first)
    for number, place in enumerate(geometry.places()):
        yield place, ops.equal(first, np.int32(number))


def _inside(geometry: Geometry) -> Any:
    """Return a NumPy mask of the elements of a padded image that are not padding."""
    (top, _), (left, _) = geometry.sides
    inside = np.zeros(geometry.padded, bool)
    rows, columns = (size - sum(side) for size, side in zip(geometry.padded, geometry.sides, strict=True))
    inside[top : top + rows, left : left + columns] = True
    return inside


def _sum_parts(trace: Trace, parts: Sequence[Any], geometry: Geometry, shape: Shape) -> Traced:
    """Add one part per window position up to images."""
    whole = np.empty((*shape[:-2], *geometry.padded), parts[0].dtype)
    places = [layout_in(whole, whole[place]) for place in geometry.places()]
    padded = trace.stand_in(put(trace, parts, places, whole.shape))
    return trace.lift(geometry.inside(padded))  # type: ignore[no-any-return]


def max_pool2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Scatter the gradient of each window to its first maximum."""
    y, x = operands
    geometry = _pooling(op, x.shape, static, operands)
    if _has_intrinsic((y, x), geometry):
        return _call_pooling(trace, "max_pool_back", [y, x], x.shape, geometry)
    parts, rest = [], y
    for _, hit in _maximum_masks(x, geometry):
        parts.append(ops.where(hit, rest, 0.0))
        rest = ops.where(hit, 0.0, rest)
    return _sum_parts(trace, [*parts, rest], geometry, x.shape)


def max_pool2d_pick(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Gather elements at the first maximum of each window."""
    y, x = operands
    geometry = _pooling(op, x.shape, static, operands)
    padded, out = geometry.pad(y), None
    for place, hit in _first_maximum_masks(x, geometry):
        out = padded[place] if out is None else ops.where(hit, padded[place], out)
    return trace.lift(out)  # type: ignore[no-any-return]


def _divisors(trace: Trace, geometry: Geometry, dtype: Any, static: Static) -> Any:
    """Return the divisor of each window."""
    if static.get("count_include_pad", True):
        return math.prod(geometry.kernel)
    inside = _inside(geometry)
    return trace.constant(np.sum([inside[place] for place in geometry.places()], axis=0, dtype=dtype))


def avg_pool2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compute the mean over the views of the window positions."""
    x = operands[0]
    geometry = _pooling(op, x.shape, static, operands)
    padded, out = geometry.pad(x), None
    for place in geometry.places():
        out = padded[place] if out is None else out + padded[place]
    return trace.lift(out / _divisors(trace, geometry, x.dtype, static))  # type: ignore[no-any-return]


def avg_pool2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Distribute the gradient of each window evenly over its elements."""
    y, shape = operands[0], tuple(static["shape"])
    geometry = _pooling(op, shape, static, operands)
    part = y / _divisors(trace, geometry, y.dtype, static)
    return _sum_parts(trace, [part] * math.prod(geometry.kernel), geometry, shape)


RULES: dict[str, Rule] = {
    "max_pool2d": max_pool2d,
    "max_pool2d_input": max_pool2d_input,
    "max_pool2d_pick": max_pool2d_pick,
    "avg_pool2d": avg_pool2d,
    "avg_pool2d_input": avg_pool2d_input,
}
