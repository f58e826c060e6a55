"""The recurrence of an LSTM as one node: a loop over time and its vector-Jacobian product.

The equations are those of torch's LSTM (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al.,
2000): with the gates i, f, g, o in this order, ``c' = f c + i g`` and ``h' = o tanh(c')``.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.autograd import Node, Run, is_recording
from labnet.device import CPU
from labnet.kernels.device_dispatch import device_of, finished, moved
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.registry import FLOATS
from labnet.tensor import Tensor, wrap

Values = np.ndarray[Any, Any]


def recur(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """Compute hidden and cell state for all steps.

    Parameters
    ----------
    gates : tensor of shape (T, N, 4 H)
        Contribution of the inputs and biases to the gates i, f, g, o.
    weight : tensor of shape (4 H, H)
        Weight of the hidden state.
    hidden, cell : tensors of shape (N, H)
        States before the first step.

    Returns
    -------
    tensor of shape (T, N, 2 H)
        Hidden and cell state after each step.

    Examples
    --------
    >>> import labnet as ln
    >>> recur(ln.zeros((3, 1, 8)), ln.zeros((8, 2)), ln.ones((1, 2)), ln.ones((1, 2)))[:, 0, 2].tolist()
    [0.5, 0.25, 0.125]
    """
    inputs = (gates, weight, hidden, cell)
    tracer = current_tracer()
    if tracer is not None:
        return tracer.apply(_RECUR, inputs, {}) if gates.device == CPU else _composed(*inputs)
    steps = Steps(*(x.array for x in inputs))
    parents = tuple([x.node for x in inputs])
    recorded = is_recording() and any(parents)
    return wrap(steps.states, Recurrence(parents, steps) if recorded else None)


class Steps:
    """The values of all steps.

    Attributes
    ----------
    active : array of shape (T, N, 4 H)
        Gates after their nonlinearity.
    hidden, cells : arrays of shape (T + 1, N, H)
        States, including those before the first step.
    """

    def __init__(self, gates: Values, weight: Values, hidden: Values, cell: Values):
        self.inputs = (gates, weight, hidden, cell)
        steps, samples, width = len(gates), len(hidden), hidden.shape[-1]
        self.active = np.empty_like(gates)
        self.hidden = np.empty((steps + 1, samples, width), gates.dtype, like=gates)
        self.cells = np.empty_like(self.hidden)
        self.hidden[0], self.cells[0] = hidden, cell
        # the logistic function is (1 + tanh(x / 2)) / 2, so one tanh computes all four gates
        half = moved(np.array([0.5, 0.5, 1.0, 0.5], gates.dtype).repeat(width), device_of(gates))
        shift = moved(np.array([0.5, 0.5, 0.0, 0.5], gates.dtype).repeat(width), device_of(gates))
        for t in range(steps):
            active = self.active[t]
            np.matmul(self.hidden[t], weight.T, out=active)
            active += gates[t]
            active *= half
            np.tanh(active, out=active)
            active *= half
            active += shift
            i, f, g, o = np.split(active, 4, axis=-1)
            np.add(f * self.cells[t], i * g, out=self.cells[t + 1])
            np.multiply(o, np.tanh(self.cells[t + 1]), out=self.hidden[t + 1])

    @property
    def states(self) -> Values:
        """Hidden and cell states after each step, side by side."""
        return np.concatenate((self.hidden[1:], self.cells[1:]), axis=-1)

    def back(self, gradient: Values) -> tuple[Values, Values, Values, Values]:
        """Return the gradients of gates, weight, first hidden and first cell state."""
        weight, width = self.inputs[1], self.hidden.shape[-1]
        by_hidden, by_cell = np.zeros_like(self.hidden[0]), np.zeros_like(self.hidden[0])
        out = np.empty_like(self.active)
        for t in range(len(out) - 1, -1, -1):  # one step at a time, so that the data stays in the cache
            i, f, g, o = np.split(self.active[t], 4, axis=-1)
            squashed = np.tanh(self.cells[t + 1])
            by_hidden += gradient[t, :, :width]
            by_cell += gradient[t, :, width:]
            by_cell += by_hidden * o * (1 - squashed * squashed)
            by_i, by_f, by_g, by_o = np.split(out[t], 4, axis=-1)
            np.multiply(by_cell * g, i * (1 - i), out=by_i)
            np.multiply(by_cell * self.cells[t], f * (1 - f), out=by_f)
            np.multiply(by_cell * i, 1 - g * g, out=by_g)
            np.multiply(by_hidden * squashed, o * (1 - o), out=by_o)
            np.matmul(out[t], weight, out=by_hidden)
            by_cell *= f
        by_weight = out.reshape(-1, 4 * width).T @ self.hidden[:-1].reshape(-1, width)
        return out, by_weight, by_hidden, by_cell

    @property
    def nbytes(self) -> int:
        """Bytes of the values that only this object holds."""
        return self.active.nbytes + self.hidden.nbytes + self.cells.nbytes


class Recurrence(Node):
    """The node of all steps of one layer in one direction."""

    __slots__ = ("steps",)

    def __init__(self, parents: tuple[Node | None, ...], steps: Steps):
        super().__init__(parents)
        self.steps: Steps | None = steps

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of the four inputs of `recur`; None where not needed."""
        steps, parents = self.steps, self.parents
        assert steps is not None, "reachable() refuses freed nodes"
        assert parents is not None
        if run.create_graph:
            return ops.replay(_composed, steps.inputs, parents, gradient)
        return [None if p is None else g for p, g in zip(parents, steps.back(finished(gradient)), strict=True)]

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = self.steps = None

    @property
    def nbytes(self) -> int:
        """Bytes of gates and states of all steps."""
        return 0 if self.steps is None else self.steps.nbytes


def _rule(position: int) -> Any:
    """Return the vjp rule of one input for tracing."""

    def rule(g: Tensor, out: Tensor, *inputs: Tensor) -> Tensor:
        if is_recording():  # the gradient is to be differentiated again
            apart = [x * 1.0 for x in inputs]
            return ops.grad(_composed(*apart), apart[position], g, create_graph=True)
        tracer = current_tracer()
        assert tracer is not None, "eager recurrences have a node of their own"
        return tracer.apply(_RECUR_BACK, (g, *inputs), {"position": position})

    return rule


def _traced(name: str, rules: tuple[Any, ...]) -> Op:
    """Declare an op for tracers only."""
    return Op(name, _composed, rules, FLOATS, (-2.0, 2.0), (), tuple(rule is not None for rule in rules))


def _composed(gates: Tensor, weight: Tensor, hidden: Tensor, cell: Tensor) -> Tensor:
    """Compute `recur` step by step in ops."""
    width = hidden.shape[-1]
    states = []
    for t in range(len(gates)):
        total = gates[t] + hidden @ ops.matrix_transpose(weight)
        i, f, g, o = (total[:, k * width : (k + 1) * width] for k in range(4))
        cell = ops.sigmoid(f) * cell + ops.sigmoid(i) * ops.tanh(g)
        hidden = ops.sigmoid(o) * ops.tanh(cell)
        states.append(ops.concat((hidden, cell), axis=-1))
    return ops.stack(states, axis=0)


_RECUR = _traced("recur", tuple(_rule(position) for position in range(4)))
_RECUR_BACK = _traced("recur_back", ())
