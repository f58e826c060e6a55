"""Recurrent layers."""

import math
from collections.abc import Sequence

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functional import dropout
from labnet.nn.layers.recurrence import recur
from labnet.nn.modules import Module
from labnet.nn.sizes import probability, size
from labnet.ops.core.creation import zeros
from labnet.tensor import Tensor

State = tuple[Tensor, Tensor]


class LSTM(Module):
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

    weight_ih_l0: Tensor

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        num_layers: int = 1,
        *,
        bias: bool = True,
        batch_first: bool = False,
        dropout: float = 0.0,
        bidirectional: bool = False,
    ):
        super().__init__()
        self.input_size = size("LSTM", "input_size", input_size)
        self.hidden_size = size("LSTM", "hidden_size", hidden_size)
        self.num_layers = size("LSTM", "num_layers", num_layers)
        self.bias = bias
        self.batch_first = batch_first
        self.dropout = probability("LSTM", "dropout", dropout)
        self.bidirectional = bidirectional
        self._directions = ("", "_reverse") if bidirectional else ("",)
        bound = 1 / math.sqrt(hidden_size)
        for layer in range(num_layers):
            width = hidden_size * len(self._directions) if layer else input_size
            for direction in self._directions:
                rows = 4 * hidden_size
                shapes: dict[str, tuple[int, ...]] = {"weight_ih": (rows, width), "weight_hh": (rows, hidden_size)}
                if bias:
                    shapes |= {"bias_ih": (rows,), "bias_hh": (rows,)}
                for name, shape in shapes.items():
                    setattr(self, f"{name}_l{layer}{direction}", init.uniform(shape, bound=bound))

    def forward(self, x: Tensor, hx: State | None = None) -> tuple[Tensor, State]:
        """Run over a sequence.

        Parameters
        ----------
        x : tensor of shape (T, N, I), with `batch_first` (N, T, I); or (T, I) for one sequence
        hx : (hidden, cell), optional
            States before the first step, each of shape (layers * directions, N, H), or without N for one
            sequence; zeros by default.

        Returns
        -------
        output : tensor of shape (T, N, H * directions), laid out as `x`
            Hidden states of the last layer.
        (hidden, cell) : tensors of shape (layers * directions, N, H)
            States after the last step.
        """
        if x.ndim not in (2, 3) or x.shape[-1] != self.input_size:
            raise ShapeError(f"{self!r}: expected an input of shape (..., {self.input_size}), got {x.shape}")
        self.check_dtype(x, self.weight_ih_l0)
        if x.ndim == 2:
            states = None if hx is None else tuple([ops.expand_dims(state, axis=1) for state in hx])
            time_first = ops.expand_dims(x, axis=1)
            output, (hidden, cell) = self._run(time_first, states)
            return output[:, 0], (hidden[:, 0], cell[:, 0])
        output, final = self._run(ops.permute_dims(x, (1, 0, 2)) if self.batch_first else x, hx)
        return ops.permute_dims(output, (1, 0, 2)) if self.batch_first else output, final

    def _run(self, x: Tensor, hx: Sequence[Tensor] | None) -> tuple[Tensor, State]:
        """Run over a sequence of shape (T, N, I)."""
        if not x.shape[0]:
            raise ShapeError(f"{self!r}: expected a sequence of at least one step, got shape {x.shape}")
        shape = (self.num_layers * len(self._directions), x.shape[1], self.hidden_size)
        hidden, cell = hx if hx is not None else [zeros(shape, dtype=x.dtype, device=x.device) for _ in range(2)]
        if hidden.shape != shape or cell.shape != shape:
            raise ShapeError(f"{self!r}: expected states of shape {shape}, got {hidden.shape} and {cell.shape}")
        finals: list[Tensor] = []
        for layer in range(self.num_layers):
            if layer and self.training:
                x = dropout(x, self.dropout)
            outputs = []
            for direction in self._directions:
                output, final = self._direction(x, f"_l{layer}{direction}", hidden[len(finals)], cell[len(finals)])
                outputs.append(output)
                finals.append(ops.expand_dims(final, axis=0))
            x = ops.concat(outputs, axis=-1)
        states = ops.concat(finals, axis=0)
        return x, (states[..., : self.hidden_size], states[..., self.hidden_size :])

    def _direction(self, x: Tensor, suffix: str, hidden: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
        """Return all hidden states (T, N, H), and hidden and cell state after the last step (N, 2 H)."""
        backwards = suffix.endswith("_reverse")
        rows = x.reshape((x.shape[0] * x.shape[1], x.shape[2]))  # one large product rather than one per step
        gates = rows @ ops.matrix_transpose(getattr(self, f"weight_ih{suffix}"))
        if self.bias:
            gates = gates + (getattr(self, f"bias_ih{suffix}") + getattr(self, f"bias_hh{suffix}"))
        gates = gates.reshape((*x.shape[:2], 4 * self.hidden_size))
        states = recur(gates[::-1] if backwards else gates, getattr(self, f"weight_hh{suffix}"), hidden, cell)
        output = states[..., : self.hidden_size]
        return output[::-1] if backwards else output, states[-1]

    def _describe(self) -> str:
        usual = {"num_layers": 1, "bias": True, "batch_first": False, "dropout": 0.0, "bidirectional": False}
        given = [f"{key}={getattr(self, key)!r}" for key, value in usual.items() if getattr(self, key) != value]
        return ", ".join([f"{self.input_size}, {self.hidden_size}", *given])
