"""The recurrences of an LSTM and of gated recurrent units as one node: a loop over time, and its backward.

The equations are those of torch's LSTM (Hochreiter and Schmidhuber, 1997, with the forget gate of Gers et al.,
2000): with the gates i, f, g, o in this order, ``c' = f c + i g`` and ``h' = o tanh(c')``; and of its GRU: with the
gates r, z, n, ``h' = n + z (h - n)``, where r multiplies the state's part of n. Kernels compute the same bits.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels, ops
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


def recur_gated(gates: Tensor, weight: Tensor, hidden: Tensor, *bias: Tensor) -> Tensor:
    """Compute the hidden state of gated recurrent units for all steps.

    Parameters
    ----------
    gates : tensor of shape (T, N, 3 H)
        Contribution of the inputs and their biases to the gates r, z, n.
    weight, hidden : tensors of shape (3 H, H) and (N, H)
        Weight of the hidden state, and the state before the first step.
    *bias : tensor of shape (3 H,)
        Bias of the hidden state, if there is one.

    Returns
    -------
    tensor of shape (T, N, H)

    Examples
    --------
    >>> import labnet as ln
    >>> recur_gated(ln.zeros((3, 1, 6)), ln.zeros((6, 2)), ln.ones((1, 2)))[:, 0, 1].tolist()
    [0.5, 0.25, 0.125]
    """
    inputs = (gates, weight, hidden, *bias)
    is_plain = current_tracer() is None and gates.device == CPU and gates.dtype.char in "fd"
    if not is_plain or any(x.dtype != gates.dtype for x in inputs):
        return _gated_composed(*inputs)
    steps = GatedSteps(*(x.array for x in inputs))
    parents = tuple([x.node for x in inputs])
    recorded = is_recording() and any(parents)
    return wrap(steps.states, GatedRecurrence(parents, steps) if recorded else None)


def gated(given: Tensor, own: Tensor, hidden: Tensor, width: int) -> Tensor:
    """Return the next state of a gated unit, from the parts of the gates that come from input and state."""
    both = ops.sigmoid(given[..., : 2 * width] + own[..., : 2 * width])
    new = ops.tanh(given[..., 2 * width :] + both[..., :width] * own[..., 2 * width :])
    return new + both[..., width:] * (hidden - new)


def _gated_composed(gates: Tensor, weight: Tensor, hidden: Tensor, *bias: Tensor) -> Tensor:
    """Compute `recur_gated` step by step in ops."""
    width, turned, states = hidden.shape[-1], ops.matrix_transpose(weight), []
    for step in range(gates.shape[0]):
        own = hidden @ turned
        hidden = gated(gates[step], own + bias[0] if bias else own, hidden, width)
        states.append(hidden)
    return ops.stack(states, axis=0)


def _turned(weight: Values, steps: int) -> Values | None:
    """Return the weight transposed in memory, if that makes the products of all steps faster."""
    return weight.T.copy() if steps > 3 else None


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
        turned = _turned(weight, steps)
        compiled = kernels.lstm.ready(gates.dtype)
        together = (gates, weight if turned is None else turned, self.hidden, self.cells, self.active)
        if compiled is not None and compiled(together):
            return
        turned = weight.T if turned is None else turned
        # the logistic function is (1 + tanh(x / 2)) / 2, so one tanh computes all four gates
        half = moved(np.array([0.5, 0.5, 1.0, 0.5], gates.dtype).repeat(width), device_of(gates))
        shift = moved(np.array([0.5, 0.5, 0.0, 0.5], gates.dtype).repeat(width), device_of(gates))
        for t in range(steps):
            active = self.active[t]
            np.matmul(self.hidden[t], turned, out=active)
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
        compiled = kernels.lstm_backward.ready(out.dtype)
        together = (gradient, weight, self.cells, self.active, out, by_hidden, by_cell)
        is_done = compiled is not None and compiled(together)
        for t in () if is_done else range(len(out) - 1, -1, -1):  # step by step, so that data stays in the cache
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
    def saved(self) -> tuple[Values, ...]:
        """Inputs, gates and states."""
        return *self.inputs, self.active, self.hidden, self.cells


class GatedSteps:
    """The values of all steps of gated recurrent units.

    Attributes
    ----------
    active : array of shape (T, N, 3 H)
        Gates after their nonlinearity.
    recurrent : array of shape (T, N, H)
        The state's part of the gate n.
    hidden : array of shape (T + 1, N, H)
        States, including the one before the first step.
    """

    def __init__(self, gates: Values, weight: Values, hidden: Values, bias: Values | None = None):
        self.inputs = (gates, weight, hidden) if bias is None else (gates, weight, hidden, bias)
        steps, samples, width = len(gates), len(hidden), hidden.shape[-1]
        self.active = np.empty_like(gates)
        self.hidden = np.empty((steps + 1, samples, width), gates.dtype)
        self.recurrent = np.empty((steps, samples, width), gates.dtype)
        self.hidden[0] = hidden
        turned = _turned(weight, steps)
        compiled = kernels.gru.ready(gates.dtype)
        together = (gates, weight if turned is None else turned, bias, self.hidden, self.active, self.recurrent)
        if compiled is not None and compiled(together):
            return
        turned = weight.T if turned is None else turned
        for t in range(steps):
            own, before = self.hidden[t] @ turned, self.hidden[t]
            if bias is not None:
                own += bias
            both, new = self.active[t, :, : 2 * width], self.active[t, :, 2 * width :]
            np.add(gates[t, :, : 2 * width], own[:, : 2 * width], out=both)
            both *= 0.5  # the logistic function is (1 + tanh(x / 2)) / 2
            np.tanh(both, out=both)
            both *= 0.5
            both += 0.5
            self.recurrent[t] = own[:, 2 * width :]
            np.add(gates[t, :, 2 * width :], both[:, :width] * self.recurrent[t], out=new)
            np.tanh(new, out=new)
            np.add(new, both[:, width:] * (before - new), out=self.hidden[t + 1])

    @property
    def states(self) -> Values:
        """Hidden states after each step, in memory of their own."""
        return self.hidden[1:].copy()

    def back(self, gradient: Values) -> tuple[Values, ...]:
        """Return the gradients of gates, weight, first state and bias."""
        weight, width = self.inputs[1], self.hidden.shape[-1]
        by_hidden, out = np.zeros_like(self.hidden[0]), np.empty_like(self.active)
        by_own = np.empty_like(out)
        compiled = kernels.gru_backward.ready(out.dtype)
        together = (gradient, weight, self.hidden, self.active, self.recurrent, out, by_own, by_hidden)
        is_done = compiled is not None and compiled(together)
        for t in () if is_done else range(len(out) - 1, -1, -1):
            r, z, new = np.split(self.active[t], 3, axis=-1)
            by_hidden += gradient[t]
            carried = by_hidden * z
            by_r, by_z, by_new = np.split(out[t], 3, axis=-1)
            np.multiply(by_hidden * (self.hidden[t] - new), z * (1 - z), out=by_z)
            np.multiply(by_hidden * (1 - z), 1 - new * new, out=by_new)
            np.multiply(by_new * self.recurrent[t], r * (1 - r), out=by_r)
            by_own[t, :, : 2 * width] = out[t, :, : 2 * width]
            np.multiply(by_new, r, out=by_own[t, :, 2 * width :])
            np.matmul(by_own[t], weight, out=by_hidden)
            by_hidden += carried
        rows = by_own.reshape(-1, 3 * width)
        return out, rows.T @ self.hidden[:-1].reshape(-1, width), by_hidden, np.add.reduce(rows)

    @property
    def saved(self) -> tuple[Values, ...]:
        """Inputs, gates and states."""
        return *self.inputs, self.active, self.hidden, self.recurrent


class Recurrence(Node):
    """The node of all steps of one layer in one direction."""

    __slots__ = ("steps",)

    def __init__(self, parents: tuple[Node | None, ...], steps: Steps | GatedSteps):
        super().__init__(parents)
        self.steps: Steps | GatedSteps | None = steps

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Return the gradients of the inputs; None where not needed."""
        steps, parents = self.steps, self.parents
        assert steps is not None, "reachable() refuses freed nodes"
        assert parents is not None
        if run.create_graph:
            composed = _composed if isinstance(steps, Steps) else _gated_composed
            return ops.replay(composed, steps.inputs, parents, gradient)
        return [None if p is None else g for p, g in zip(parents, steps.back(finished(gradient)), strict=False)]

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = self.steps = None

    @property
    def saved(self) -> Sequence[Any]:
        """Inputs, gates and states of all steps."""
        return () if self.steps is None else self.steps.saved


class GatedRecurrence(Recurrence):
    """The node of all steps of gated recurrent units."""

    __slots__ = ()
    vjp = Recurrence.vjp  # of its own, for op statistics


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
