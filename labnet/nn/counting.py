"""Op statistics of fused steps that are no ops: runs of linear layers, recurrences, and scaled standardization.

While statistics are collected, the functions of these steps and the vjps of their nodes are replaced by counting ones;
see `labnet.ops.core.counting`.
"""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from labnet.autograd import Node, Run
from labnet.kernels.device_dispatch import is_on_gpu, materialize, timed
from labnet.nn.functions import attention_tiles, channel_statistics, normalization
from labnet.nn.functions.attention_tiles import Attention
from labnet.nn.functions.channel_statistics import ChannelStatistics
from labnet.nn.functions.normalization import Scaled
from labnet.nn.layers import containers, recurrent
from labnet.nn.layers.dense import Layers
from labnet.nn.layers.recurrence import GatedRecurrence, Recurrence
from labnet.stats.collecting import active, later, on_switch, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import Tensor

Function = Callable[..., Any]


@dataclass(frozen=True)
class Fused:
    """A step that is counted as one op.

    Attributes
    ----------
    name : str
        Name of the op.
    place, attribute : module, str
        Where its caller looks up the function.
    node : type of Node
        Type of the recorded node.
    flops : callable
        Returns the floating-point operations, given the arguments of the function.
    flops_of_vjp : callable
        Returns those of the vjp, given the node and the resulting gradients.
    """

    name: str
    place: ModuleType
    attribute: str
    node: type[Node]
    flops: Callable[..., int]
    flops_of_vjp: Callable[[Any, Sequence[Any]], int]

    def counting_function(self, function: Function) -> Function:
        """Wrap the function in counting; a call that it declines is not counted."""

        def counted(*arguments: Any, **named: Any) -> Any:
            if not active():
                return function(*arguments, **named)
            began = time.perf_counter()
            with timed(later(self.name)), suspended():
                out = function(*arguments, **named)
            seconds = 0.0 if _is_elsewhere([out]) else time.perf_counter() - began
            if out is not None:
                record(self.name, OpCount(1, seconds, _nbytes([*arguments, out]), self.flops(*arguments)))
            return out

        return counted

    def counting_vjp(self, vjp: Function) -> Function:
        """Wrap the vjp of the node in counting."""

        def counted(node: Any, gradient: Any, run: Run) -> Any:
            if not active():
                return vjp(node, gradient, run)
            began, name = time.perf_counter(), f"{self.name}.backward"
            with timed(later(name)), suspended():
                parts = vjp(node, gradient, run)
                materialize(*parts)
            seconds = 0.0 if _is_elsewhere(parts) else time.perf_counter() - began
            cost = OpCount(1, seconds, node.nbytes + _nbytes(parts), self.flops_of_vjp(node, parts))
            record(name, cost)
            return parts

        return counted


def _is_elsewhere(values: Sequence[Any]) -> bool:
    """Return whether any of some tensors and arrays is on a GPU."""
    return any(is_on_gpu(getattr(value, "array", value)) for value in values)


def _nbytes(values: Sequence[Any]) -> int:
    """Return the bytes of all tensors and arrays in nested values."""
    total = 0
    for value in values:
        if isinstance(value, list | tuple):
            total += _nbytes(value)
        else:
            total += getattr(getattr(value, "array", value), "nbytes", 0)
    return total


def _flops_of_layers(x: Tensor, parameters: Sequence[Tensor], relu: int) -> int:
    weights, biases = parameters[::2], parameters[1::2]
    products = sum(2 * weight.array.size for weight in weights)
    elements = sum(bias.array.size * (1 + (relu >> layer & 1)) for layer, bias in enumerate(biases))
    return len(x.array) * int(products + elements)


def _flops_of_layers_vjp(node: Layers, parts: Sequence[Any]) -> int:
    x, *parameters, _, _ = node.arrays
    handed_on = sum(2 * weight.size for weight in parameters[2::2])
    by_input = 0 if parts[0] is None else 2 * parameters[0].size
    by_weights = sum(2 * each.size for each in parts[1::2] if each is not None)
    by_biases = sum(each.size for each in parts[2::2] if each is not None)
    return len(x) * int(handed_on + by_input + by_weights + by_biases)


def _flops_of_steps(gates: Any, weight: Any, *_: Any) -> int:
    """Return the flops of a recurrence: a product and about ten operations per unit at each step."""
    width = weight.shape[1]
    return int(gates.shape[0] * gates.shape[1] * (2 * weight.shape[0] * width + 10 * width))


def _flops_of_attention(query: Any, key: Any, value: Any, *_: Any) -> int:
    """Return the flops of attention: two products, and five operations per score."""
    return int(query.size // query.shape[-1] * key.shape[-2] * (2 * query.shape[-1] + 2 * value.shape[-1] + 5))


FUSED = (
    Fused("layers", containers, "layers", Layers, _flops_of_layers, _flops_of_layers_vjp),
    Fused(
        *("lstm_steps", recurrent, "recur", Recurrence, _flops_of_steps),
        lambda node, parts: 2 * _flops_of_steps(*node.steps.inputs),
    ),
    Fused(
        *("gru_steps", recurrent, "recur_gated", GatedRecurrence, _flops_of_steps),
        lambda node, parts: 2 * _flops_of_steps(*node.steps.inputs),
    ),
    Fused(
        *("attention", attention_tiles, "attend", Attention, _flops_of_attention),
        lambda node, parts: 3 * _flops_of_attention(*node.tiles.inputs),
    ),
    Fused(
        *("batch_norm", channel_statistics, "standardize_channels", ChannelStatistics),
        lambda x, *_: int(8 * x.size),
        lambda node, parts: 16 * int(node.channels.inputs[0].size),
    ),
    Fused(
        *("row_norm", normalization, "scaled", Scaled),
        lambda x, *_: int(8 * x.size),  # operations per element: two sums, a square, and five more
        lambda node, parts: 16 * int(node.arrays[0].size),
    ),
)
_PLAIN = [(vars(fused.place)[fused.attribute], vars(fused.node)["vjp"]) for fused in FUSED]
_COUNTING = [
    (fused.counting_function(function), fused.counting_vjp(vjp))
    for fused, (function, vjp) in zip(FUSED, _PLAIN, strict=True)
]


def switch(on: bool) -> None:
    """Install the counting functions or the plain ones."""
    for fused, (function, vjp) in zip(FUSED, _COUNTING if on else _PLAIN, strict=True):
        setattr(fused.place, fused.attribute, function)
        setattr(fused.node, "vjp", vjp)  # noqa: B010  (mypy refuses to assign a method)


on_switch(switch)
