"""The ops whose arguments name dimensions, called with any such argument."""

import numpy as np

import labnet as ln
from labnet.ops.core.registry import REGISTRY

OPS = {name: op for name, op in REGISTRY.items() if op.axes and name != "cross_entropy_with_logits"}
SHAPES = [(), (3,), (2, 3), (0,), (2, 0, 3)]
#: What an argument that names dimensions may be given: None and integers, several ones, too many and too large ones.
AXES = [None, 0, -1, 1, 2, -3, (), (0, 1), (1, 0), (0, 0), (0, 3)]


def numbers(shape):
    return np.arange(np.prod(shape, dtype=int), dtype="float64").reshape(shape) * 0.7 + 0.3


def call(name, x, axis):
    """Call an op with one value for all its arguments that name dimensions; several outputs are stacked."""
    op = OPS[name]
    given = dict.fromkeys(op.axes, axis)
    if name in ("take", "take_along_axis"):
        out = op.function(x, np.zeros(x.shape, int), **given)
    elif name == "gather":
        out = op.function(x, index=np.zeros(x.shape, int), **given)
    elif name == "unfold":
        out = op.function(x, size=1, step=1, **given)
    elif name == "argselect":
        out = op.function(x, 0, 1, **given)
    elif name == "repeat":
        out = op.function(x, 2, **given)
    elif name == "roll":
        out = op.function(x, 1, axis=axis)
    elif name in ("vecdot", "cross"):
        out = op.function(x, x, **given)
    elif op.variadic:
        out = op.function([x, x], **given)
    else:
        out = op.function(x, **given)
    return ln.stack(out) if isinstance(out, tuple) and out else out


def outcome(name, x, axis):
    """Return what an op gives, with the gradient of `x` where there is one; or the error that it raises."""
    try:
        out = call(name, x, axis)
    except Exception as error:
        return error
    if not isinstance(out, ln.Tensor) or not out.requires_grad:
        return out, None
    weights = ln.arange(out.size, dtype=out.dtype, device=out.device).reshape(out.shape)
    (out * (weights + 1)).sum().backward()
    return out, x.grad
