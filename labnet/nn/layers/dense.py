"""A run of linear layers, each with or without relu, as one recorded step.

`labnet.nn.Sequential` passes such runs of layers. NumPy needs several calls per layer; a compiled kernel, when it is
ready, needs one. The results are bit-identical.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels, ops
from labnet.autograd import Node, Run, is_recording
from labnet.kernels.device_dispatch import is_on_gpu
from labnet.ops.core.half_precision import HALF
from labnet.ops.elementwise.elementary import blocked
from labnet.tensor import Tensor, wrap

Values = np.ndarray[Any, Any]
_empty = np.empty
#: Elements of a weight up to which BLAS is faster if it is transposed first; as in `labnet.kernels.cpu`.
_SMALL = 8192


def layers(x: Tensor, parameters: Sequence[Tensor], relu: int) -> Tensor | None:
    """Pass `x` through linear layers.

    Parameters
    ----------
    x : tensor of shape (N, in_features)
    parameters : sequence of tensors
        Weight (out_features, in_features) and bias (out_features,) of each layer.
    relu : int
        Bit i is set if layer i ends in a relu.

    Returns
    -------
    tensor of shape (N, out_features), or None
        None without any effect if shapes or dtypes do not fit.

    Examples
    --------
    >>> import labnet as ln
    >>> layers(ln.ones((1, 2)), [-ln.ones((3, 2)), ln.zeros(3)], relu=1).tolist()
    [[0.0, 0.0, 0.0]]
    """
    array = x.array
    arrays = [parameter.array for parameter in parameters]
    if array.ndim != 2 or is_on_gpu(array):
        return None
    rows, dtype = len(array), array.dtype
    widths = [len(bias) if bias.ndim else 0 for bias in arrays[1::2]]
    hidden = _empty(rows * sum(widths[:-1]), dtype)
    out = _empty((rows, widths[-1]), dtype)
    compiled = kernels.layers_forward.ready(dtype)
    together = (array, *arrays, hidden, out)
    if compiled is None or not compiled(together, relu):
        if not _fit(array, arrays):
            return None
        _forward(array, arrays, hidden, out, relu)
    parents = (x.node, *[parameter.node for parameter in parameters])
    if is_recording() and any(parents):
        return wrap(out, Layers(parents, together, relu))
    return wrap(out)


def _fit(x: Values, arrays: Sequence[Values]) -> bool:
    width = x.shape[1]
    for weight, bias in zip(arrays[::2], arrays[1::2], strict=True):
        if weight.dtype != x.dtype or bias.dtype != x.dtype or weight.ndim != 2:
            return False
        if weight.shape[1] != width or bias.shape != weight.shape[:1]:
            return False
        width = len(weight)
    return bool(x.dtype.kind == "f" and x.dtype != HALF)


def _parts(hidden: Values, rows: int, widths: Sequence[int]) -> list[Values]:
    """Return the values after each layer but the last, which are consecutive in `hidden`."""
    parts, start = [], 0
    for width in widths:
        parts.append(hidden[start : start + rows * width].reshape(rows, width))
        start += rows * width
    return parts


def _forward(x: Values, arrays: Sequence[Values], hidden: Values, out: Values, relu: int) -> None:
    targets = [*_parts(hidden, len(x), [len(bias) for bias in arrays[1:-1:2]]), out]
    for layer, target in enumerate(targets):
        turned = arrays[2 * layer].T
        if len(x) >= 16 and min(turned.shape) > 1 and turned.size <= _SMALL:
            turned = np.ascontiguousarray(turned)
        np.matmul(x, turned, out=target)
        target += arrays[2 * layer + 1]
        if relu >> layer & 1:
            np.maximum(target, 0, out=target)
        x = target


class Layers(Node):
    """The node of a run of linear layers, with its saved values."""

    __slots__ = ("arrays", "relu")

    def __init__(self, parents: tuple[Node | None, ...], arrays: tuple[Values, ...], relu: int):
        self.parents = parents
        #: Input, weight and bias of each layer, hidden values, output.
        self.arrays: tuple[Values, ...] = arrays
        self.relu = relu

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of the input and all parameters; None where not needed."""
        parents, (x, *parameters, hidden, out), relu = self.parents, self.arrays, self.relu
        assert parents is not None, "check_kept() refuses freed nodes"
        if run.create_graph:
            return ops.replay(lambda *tensors: _composed(tensors, relu), (x, *parameters), parents, gradient)
        g = np.asarray(gradient)
        found = [
            None if parent is None else _empty(array.shape, array.dtype)
            for parent, array in zip(parents, (x, *parameters), strict=True)
        ]
        compiled = kernels.layers_backward.ready(x.dtype)
        if compiled is not None:
            scratch = _empty(2 * max(x.size, hidden.size, out.size), x.dtype)
            together = (g, x, *parameters[::2], hidden, out, scratch, *found)
            if compiled(together, relu):
                return found
        parts = _parts(hidden, len(x), [len(bias) for bias in parameters[1:-1:2]])
        _backward(g, (x, *parameters[::2]), parts, out, found, relu)
        return found

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = None
        self.arrays = ()

    @property
    def saved(self) -> Sequence[Any]:
        """Input, parameters, and the values after each layer."""
        return self.arrays


def _backward(
    g: Values, inputs: Sequence[Values], hidden: list[Values], out: Values, found: list[Values | None], relu: int
) -> None:
    """Write the gradients of input, weights and biases into the arrays of `found` that are not None."""
    x, *weights = inputs
    befores, afters = [x, *hidden], [*hidden, out]
    for layer in range(len(weights) - 1, -1, -1):
        if relu >> layer & 1:
            g = blocked(g, afters[layer] <= 0)
        by_weight, by_bias = found[1 + 2 * layer], found[2 + 2 * layer]
        if by_weight is not None:
            np.matmul(g.T, befores[layer], out=by_weight)
        if by_bias is not None:
            np.add.reduce(g, out=by_bias)
        target = None if layer else found[0]
        if layer or target is not None:
            g = np.matmul(g, weights[layer], out=target)


def _composed(tensors: Sequence[Tensor], relu: int) -> Tensor:
    """Compute `layers` in ops, for higher derivatives."""
    x, *parameters = tensors
    for layer in range(len(parameters) // 2):
        x = ops.linear(x, parameters[2 * layer], parameters[2 * layer + 1])
        x = ops.relu(x) if relu >> layer & 1 else x
    return x
