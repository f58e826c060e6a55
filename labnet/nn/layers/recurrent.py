"""Recurrent layers."""

import math
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functions.common import dropout
from labnet.nn.layers.recurrence import gated, recur, recur_gated
from labnet.nn.modules import Module
from labnet.nn.sizes import probability, size
from labnet.ops.core.creation import zeros
from labnet.tensor import Tensor

State = tuple[Tensor, Tensor]


class _Recurrent(Module):
    """Stacked recurrent layers, in one or both directions; subclasses define a direction of one layer."""

    #: Number of gates, whose weights lie below each other, and of states per step.
    gates: ClassVar[int]
    states: ClassVar[int] = 1
    weight_ih_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        super().__init__()
        layer = type(self).__name__
        self.input_size = size(layer, "input_size", input_size)
        self.hidden_size = size(layer, "hidden_size", hidden_size)
        self.num_layers = size(layer, "num_layers", num_layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = probability(layer, "dropout", dropout)
        self.bidirectional = bidirectional
        self._directions = ("", "_reverse") if bidirectional else ("",)
        bound = 1 / math.sqrt(hidden_size)
        for layer_number in range(num_layers):
            width = hidden_size * len(self._directions) if layer_number else input_size
            for direction in self._directions:
                rows = self.gates * hidden_size
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer_number}{direction}", init.uniform(shape, bound=bound))

    def forward(self, x: Tensor, hx: Any = None) -> tuple[Tensor, Any]:
        """Run over a sequence.

        Parameters
        ----------
        x : tensor of shape (T, N, I), with `batch_first` (N, T, I); or (T, I) for one sequence
        hx : tensor or (hidden, cell), optional
            State before the first step, of shape (layers * directions, N, H), or without N for one sequence; zeros by
            default. An LSTM has two.

        Returns
        -------
        output : tensor of shape (T, N, H * directions), laid out as `x`
            Hidden states of the last layer.
        hidden : tensor of shape (layers * directions, N, H), or two of them
            State after the last step.
        """
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(f"{self!r}: expected an input of shape (..., {self.input_size}), got {x.shape}")
        self.check_dtype(x, self.weight_ih_l0)
        given = None if hx is None else (hx,) if self.states == 1 else tuple(hx)
        if x.ndim == 2:
            given = None if given is None else tuple([ops.expand_dims(state, axis=1) for state in given])
            output, final = self._run(ops.expand_dims(x, axis=1), given)
            output, final = output[:, 0], tuple([state[:, 0] for state in final])
        else:
            output, final = self._run(ops.permute_dims(x, (1, 0, 2)) if self.batch_first else x, given)
            output = ops.permute_dims(output, (1, 0, 2)) if self.batch_first else output
        return output, final if self.states > 1 else final[0]

    def _run(self, x: Tensor, hx: Sequence[Tensor] | None) -> tuple[Tensor, tuple[Tensor, ...]]:
        """Run over a sequence of shape (T, N, I)."""
        if not x.shape[0]:
            raise ShapeError(f"{self!r}: expected a sequence of at least one step, got shape {x.shape}")
        shape = (self.num_layers * len(self._directions), x.shape[1], self.hidden_size)
        states = hx if hx is not None else [zeros(shape, dtype=x.dtype, device=x.device) for _ in range(self.states)]
        if any(state.shape != shape for state in states):
            given = " and ".join(str(state.shape) for state in states)
            raise ShapeError(f"{self!r}: expected states of shape {shape}, got {given}")
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer and self.training:
                x = dropout(x, self.dropout)
            outputs = []
            for direction in self._directions:
                first = [state[len(finals)] for state in states]
                output, final = self._direction(x, f"_l{layer}{direction}", first)
                outputs.append(output)
                finals.append(ops.expand_dims(final, axis=0))
            x = ops.concat(outputs, axis=-1)
        joined, width = finals[0] if len(finals) == 1 else ops.concat(finals, axis=0), self.hidden_size
        return x, tuple([joined[..., k * width : (k + 1) * width] for k in range(self.states)])

    def _direction(self, x: Tensor, suffix: str, first: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Return all hidden states (T, N, H), and the states after the last step side by side."""
        backwards = suffix.endswith("_reverse")
        rows = x.reshape((x.shape[0] * x.shape[1], x.shape[2]))  # one large product rather than one per step
        bias = total = None
        if self.bias:
            bias = getattr(self, f"bias_hh{suffix}")
            total = self._input_bias(getattr(self, f"bias_ih{suffix}"), bias)
        gates = ops.linear(rows, getattr(self, f"weight_ih{suffix}"), total)
        gates = gates.reshape((*x.shape[:2], self.gates * self.hidden_size))
        states = self._steps(gates[::-1] if backwards else gates, getattr(self, f"weight_hh{suffix}"), bias, first)
        output = states[..., : self.hidden_size]
        return output[::-1] if backwards else output, states[-1]

    def _input_bias(self, of_input: Tensor, of_state: Tensor) -> Tensor:
        """Return the bias that can be added before the first step."""
        return of_input + of_state

    def _steps(self, gates: Tensor, weight: Tensor, bias: Tensor | None, first: list[Tensor]) -> Tensor:
        """Return the states after each step side by side, of shape (T, N, states * H)."""
        raise NotImplementedError

    def _describe(self) -> str:
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        given = [f"{key}={getattr(self, key)!r}" for key, value in usual.items() if getattr(self, key) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])


class LSTM(_Recurrent):
    """Long short-term memory over a sequence, in one or more layers.

    Parameters
    ----------
    input_size, hidden_size : int
        Lengths I of the inputs and H of the states.
    num_layers : int
        Number of stacked layers.
    bias : bool
        Whether there are biases.
    batch_first : bool
        Whether inputs and outputs are (N, T, ...) rather than (T, N, ...); the states are not affected.
    dropout : float
        Probability of `Dropout` after each layer but the last.
    bidirectional : bool
        Whether each layer has a second direction, whose outputs are appended to the first one's.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ... : tensors, float32
        Of shapes (4 H, I), (4 H, H), (4 H,) and (4 H,), gates in the order i, f, g, o; one set per layer
        ``l0 l1 ...`` and, with the ending ``_reverse``, for its second direction.

    Raises
    ------
    ShapeError, DTypeError
        When called with inputs or states that do not fit.

    Examples
    --------
    >>> import labnet as ln
    >>> output, (hidden, cell) = ln.nn.LSTM(4, 8, batch_first=True)(ln.ones((2, 5, 4)))
    >>> output.shape, hidden.shape, cell.shape
    ((2, 5, 8), (1, 2, 8), (1, 2, 8))
    """

    gates, states = 4, 2

    def _steps(self, gates: Tensor, weight: Tensor, bias: Tensor | None, first: list[Tensor]) -> Tensor:
        return recur(gates, weight, *first)


class GRU(_Recurrent):
    """Gated recurrent units over a sequence, in one or more layers (Cho et al., 2014, in torch's form).

    Parameters are those of `LSTM`; the state is one tensor.

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ... : tensors, float32
        Of shapes (3 H, I), (3 H, H), (3 H,) and (3 H,), gates in the order r, z, n.

    Examples
    --------
    >>> import labnet as ln
    >>> output, hidden = ln.nn.GRU(4, 8, batch_first=True)(ln.ones((2, 5, 4)))
    >>> output.shape, hidden.shape
    ((2, 5, 8), (1, 2, 8))
    """

    gates = 3

    def _input_bias(self, of_input: Tensor, of_state: Tensor) -> Tensor:
        return of_input  # the reset gate multiplies the other one

    def _steps(self, gates: Tensor, weight: Tensor, bias: Tensor | None, first: list[Tensor]) -> Tensor:
        return recur_gated(gates, weight, *first, *(() if bias is None else (bias,)))


class RNN(_Recurrent):
    """Recurrent units with one nonlinearity over a sequence, in one or more layers (Elman, 1990).

    Parameters are those of `LSTM`; the state is one tensor.

    Parameters
    ----------
    nonlinearity : "tanh" or "relu"

    Attributes
    ----------
    weight_ih_l0, weight_hh_l0, bias_ih_l0, bias_hh_l0, ... : tensors, float32
        Of shapes (H, I), (H, H), (H,) and (H,).

    Examples
    --------
    >>> import labnet as ln
    >>> output, hidden = ln.nn.RNN(4, 8)(ln.ones((5, 2, 4)))
    >>> output.shape, hidden.shape
    ((5, 2, 8), (1, 2, 8))
    """

    gates = 1

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int = 1, nonlinearity: str = "tanh", **named: Any
    ):
        super().__init__(input_size, hidden_size, num_layers, **named)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNN: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r:.40}")
        self.nonlinearity = nonlinearity

    def _steps(self, gates: Tensor, weight: Tensor, bias: Tensor | None, first: list[Tensor]) -> Tensor:
        (hidden,), turned = first, ops.matrix_transpose(weight)
        function: Callable[[Tensor], Tensor] = ops.tanh if self.nonlinearity == "tanh" else ops.relu
        found = []
        for step in range(gates.shape[0]):
            hidden = function(gates[step] + hidden @ turned)
            found.append(hidden)
        return ops.stack(found, axis=0)


class _Cell(Module):
    """The base class of single steps; subclasses define the next state from the parts of the gates."""

    gates: ClassVar[int]

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True):
        super().__init__()
        layer = type(self).__name__
        self.input_size = size(layer, "input_size", input_size)
        self.hidden_size = size(layer, "hidden_size", hidden_size)
        rows, bound = self.gates * self.hidden_size, 1 / math.sqrt(self.hidden_size)
        self.weight_ih = init.uniform((rows, self.input_size), bound=bound)
        self.weight_hh = init.uniform((rows, self.hidden_size), bound=bound)
        self.bias_ih = init.uniform((rows,), bound=bound) if bias else None
        self.bias_hh = init.uniform((rows,), bound=bound) if bias else None

    def _gates(self, x: Tensor, hidden: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Return the parts of the gates that come from input and state, and the state, zeros by default."""
        if x.ndim not in (1, 2) or x.shape[-1] != self.input_size:
            raise ShapeError(f"{self!r}: expected an input of shape (..., {self.input_size}), got {x.shape}")
        self.check_dtype(x, self.weight_ih)
        shape = (*x.shape[:-1], self.hidden_size)
        hidden = zeros(shape, dtype=x.dtype, device=x.device) if hidden is None else hidden
        if hidden.shape != shape:
            raise ShapeError(f"{self!r}: expected a state of shape {shape}, got {hidden.shape}")
        return ops.linear(x, self.weight_ih, self.bias_ih), ops.linear(hidden, self.weight_hh, self.bias_hh), hidden

    def _describe(self) -> str:
        return f"{self.input_size}, {self.hidden_size}" + (", bias=False" if self.bias_ih is None else "")


class LSTMCell(_Cell):
    """One step of an `LSTM`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : tensors, float32
        Of shapes (4 H, I), (4 H, H), (4 H,) and (4 H,).

    Examples
    --------
    >>> import labnet as ln
    >>> hidden, cell = ln.nn.LSTMCell(3, 2)(ln.ones((5, 3)))
    >>> hidden.shape, cell.shape
    ((5, 2), (5, 2))
    """

    gates = 4

    def forward(self, x: Tensor, hx: State | None = None) -> State:
        """Map an input (N, I) or (I,), and the states (hidden, cell), to the next states."""
        given, own, _ = self._gates(x, None if hx is None else hx[0])
        total, width = given + own, self.hidden_size
        i, f, g, o = (total[..., k * width : (k + 1) * width] for k in range(4))
        cell = ops.sigmoid(i) * ops.tanh(g)
        cell = cell if hx is None else ops.sigmoid(f) * hx[1] + cell
        return ops.sigmoid(o) * ops.tanh(cell), cell


class GRUCell(_Cell):
    """One step of a `GRU`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : tensors, float32
        Of shapes (3 H, I), (3 H, H), (3 H,) and (3 H,).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GRUCell(3, 2)(ln.ones((5, 3))).shape
    (5, 2)
    """

    gates = 3

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """Map an input (N, I) or (I,), and the state, to the next state."""
        return gated(*self._gates(x, hx), self.hidden_size)


class RNNCell(_Cell):
    """One step of an `RNN`.

    Attributes
    ----------
    weight_ih, weight_hh, bias_ih, bias_hh : tensors, float32
        Of shapes (H, I), (H, H), (H,) and (H,).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.RNNCell(3, 2, nonlinearity="relu")(ln.ones((5, 3))).shape
    (5, 2)
    """

    gates = 1

    def __init__(self, input_size: int, hidden_size: int, bias: bool = True, nonlinearity: str = "tanh"):
        super().__init__(input_size, hidden_size, bias)
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"RNNCell: expected nonlinearity 'tanh' or 'relu', got {nonlinearity!r:.40}")
        self.nonlinearity = nonlinearity

    def forward(self, x: Tensor, hx: Tensor | None = None) -> Tensor:
        """Map an input (N, I) or (I,), and the state, to the next state."""
        given, own, _ = self._gates(x, hx)
        return ops.tanh(given + own) if self.nonlinearity == "tanh" else ops.relu(given + own)
