"""Compile rules of convolution and its adjoints.

In float32 on the CPU an intrinsic convolves without copying windows. Otherwise windows are copied into a matrix.
"""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.intrinsics.correlation import Correlation
from labnet.compile.ir.values import Shape
from labnet.compile.trace.rules.elementwise import Rule, Static
from labnet.compile.trace.rules.ordering import call_intrinsic
from labnet.compile.trace.rules.views import layout_in, make_view, put
from labnet.compile.trace.rules.windows import Geometry, geometry_of
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CPU
from labnet.kernels.machine_code.processor import registers
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure


def _fits(op: Op, images: Shape, weight: Shape, groups: int, operands: Sequence[Any], static: Static) -> None:
    if len(images) == len(weight) == 4 and groups >= 1 and images[1] == weight[1] * groups and not weight[0] % groups:
        return
    error = ValueError(f"images of shape {images} and weights of shape {weight} do not fit {groups} groups")
    raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error)


def _columns(trace: Trace, x: Any, groups: int, geometry: Geometry) -> Any:
    """Copy the windows of images into matrices (N, groups, C / groups * kernel, windows)."""
    padded = trace.lift(geometry.pad(x)).value
    padded = trace.copied(padded) if padded.kind in ("view", "splat") else padded
    count, channels = x.shape[:2]
    apart = (count, groups, channels // groups, *geometry.padded)
    shape = (*apart[:3], *geometry.kernel, *geometry.out)
    windows = make_view(trace, padded, 0, geometry.strides(apart), shape)
    inner = channels // groups * math.prod(geometry.kernel)
    return trace.stand_in(trace.copied(windows)).reshape((count, groups, inner, math.prod(geometry.out)))


# Intrinsics


def _has_intrinsic(operands: Sequence[Any]) -> bool:
    """Return whether the convolution intrinsics support these operands."""
    return all(x.dtype == np.dtype("float32") and x.size and x.device == CPU for x in operands)


def _sizes_of(images: Shape, filters: int, groups: int, geometry: Geometry) -> Correlation:
    """Return the sizes of a convolution."""
    before = geometry.sides[0][0], geometry.sides[1][0]
    sizes = (geometry.image, geometry.kernel, geometry.stride, geometry.dilation, before, geometry.out, registers())
    return Correlation(images[0], images[1], filters, groups, *sizes)


def _workspace(trace: Trace, length: int) -> Traced:
    return call_intrinsic(trace, "workspace", [], shape=(length,), dtype=np.dtype("float32"), numbers=())


def _correlate(trace: Trace, x: Any, weight: Any, bias: Any, shape: Correlation) -> Traced:
    """Correlate images with filters (K, C / groups, rows, columns), and add a bias (K,)."""
    return call_intrinsic(
        trace,
        "correlate",
        [x, weight, bias, _workspace(trace, shape.workspace)],
        shape=(shape.samples, shape.filters, *shape.out),
        dtype=x.dtype,
        numbers=(shape.numbers,),
        flops=shape.flops,
    )


def _filter_gradient(trace: Trace, x: Any, y: Any, shape: Correlation) -> Traced:
    """Return the gradient of the filters, (K, inner), from that of the result."""
    return call_intrinsic(
        trace,
        "filter_gradient",
        [x, y, _workspace(trace, shape.gradient_workspace)],
        shape=(shape.filters, shape.inner),
        dtype=x.dtype,
        numbers=(shape.numbers,),
        flops=shape.flops,
    )


def _adjoint_filters(weight: Any, groups: int) -> Any:
    """Return the filters of the adjoint: channels and filters of each group swapped, kernels reversed."""
    filters, channels, *kernel = weight.shape
    apart = weight.reshape((groups, filters // groups, channels, *kernel))
    turned = ops.flip(ops.permute_dims(apart, (0, 2, 1, 3, 4)), axis=(3, 4))
    return turned.reshape((groups * channels, filters // groups, *kernel))


# Rules


def conv2d(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Convolve: multiply the filters by the matrix of windows, or call the intrinsic."""
    x, weight, bias = operands
    groups = static.get("groups", 1)
    _fits(op, x.shape, weight.shape, groups, (x, weight), static)
    geometry = geometry_of(op, x.shape[2:], weight.shape[2:], static, (x, weight))
    bias = trace.lift(bias, x.dtype)
    if bias.shape not in ((), weight.shape[:1]):
        error = ValueError("expected one number of the bias per filter")
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), v.shape) for v in operands), static, error)
    if _has_intrinsic((x, weight)):
        shape = _sizes_of(x.shape, weight.shape[0], groups, geometry)
        return _correlate(trace, x, weight, ops.broadcast_to(bias, weight.shape[:1]), shape)
    filters = weight.reshape((1, groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    out = filters @ _columns(trace, x, groups, geometry)
    out = out.reshape((x.shape[0], weight.shape[0], *geometry.out))
    return trace.lift(out + (bias.reshape((-1, 1, 1)) if bias.ndim else bias))  # type: ignore[no-any-return]


def conv2d_input(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compute the gradient of the images: a convolution with the adjoint filters, or a sum of windows."""
    y, weight = operands
    shape, groups = tuple(static["shape"]), static.get("groups", 1)
    _fits(op, shape, weight.shape, groups, (y, weight), static)
    geometry = geometry_of(op, shape[2:], weight.shape[2:], static, (y, weight))
    adjoint = geometry.adjoint()
    if adjoint is not None and _has_intrinsic((y, weight)):
        none = trace.stand_in(trace.builder.splat(0, shape[1:2], y.dtype))
        return _correlate(
            trace, y, _adjoint_filters(weight, groups), none, _sizes_of(y.shape, shape[1], groups, adjoint)
        )
    filters = weight.reshape((1, groups, weight.shape[0] // groups, math.prod(weight.shape[1:])))
    flat = y.reshape((y.shape[0], groups, weight.shape[0] // groups, math.prod(geometry.out)))
    columns = ops.matrix_transpose(filters) @ flat
    apart = (shape[0], groups, shape[1] // groups)
    columns = columns.reshape((*apart, *geometry.kernel, *geometry.out))
    whole = (*apart, *geometry.padded)
    parts = [columns[:, :, :, i, j] for i, j in np.ndindex(geometry.kernel)]
    blank = np.empty(whole, y.dtype)
    places = [layout_in(blank, blank[place]) for place in geometry.places()]
    padded: Any = trace.stand_in(put(trace, parts, places, whole)).reshape((*shape[:2], *geometry.padded))
    return trace.lift(geometry.inside(padded))  # type: ignore[no-any-return]


def conv2d_weight(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Compute the gradient of the filters: multiply that of the result by the matrix of windows."""
    x, y = operands
    shape, groups = tuple(static["shape"]), static.get("groups", 1)
    _fits(op, x.shape, shape, groups, (x, y), static)
    geometry = geometry_of(op, x.shape[2:], shape[2:], static, (x, y))
    if _has_intrinsic((x, y)):
        gradient: Any = _filter_gradient(trace, x, y, _sizes_of(x.shape, shape[0], groups, geometry))
        return trace.lift(gradient.reshape(shape))  # type: ignore[no-any-return]
    flat = y.reshape((y.shape[0], groups, shape[0] // groups, math.prod(geometry.out)))
    products = _columns(trace, x, groups, geometry) @ ops.matrix_transpose(flat)
    return trace.lift(ops.matrix_transpose(ops.sum(products, axis=0)).reshape(shape))  # type: ignore[no-any-return]


RULES: dict[str, Rule] = {"conv2d": conv2d, "conv2d_input": conv2d_input, "conv2d_weight": conv2d_weight}
