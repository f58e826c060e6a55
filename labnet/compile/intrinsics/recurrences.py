"""Recurrences for generated code: all steps of an LSTM, and their gradients.

One array holds the values of all steps: active gates (T, N, 4 H), hidden states (T + 1, N, H) and
cell states (T + 1, N, H). The equations are those of `labnet.nn.layers.recurrence`.
"""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32

from labnet.compile.intrinsics.elementary_functions import _sigmoid32, _sigmoid64, _tanh32, _tanh64
from labnet.compile.intrinsics.pointers import _ahead
from labnet.compile.intrinsics.products import _gemm32, _gemm64
from labnet.compile.native.callee import callee, chosen_callee
from labnet.compile.native.options import INNER


def _by_dtype(single, double):
    """Make a function that dispatches by the dtype of its argument."""

    @chosen_callee(**INNER)
    def choose(x):
        chosen = single if x == float32 else double

        def call(x):
            return chosen(x)

        return call

    return choose


_tanh, _logistic = _by_dtype(_tanh32, _tanh64), _by_dtype(_sigmoid32, _sigmoid64)


@chosen_callee(**INNER)
def _add_product(rows, columns, inner, a, b, c):
    gemm, one = (_gemm32, float32(1)) if a.dtype == float32 else (_gemm64, 1.0)
    scalar = a.dtype

    def call(rows, columns, inner, a, b, c):
        gemm(101, 111, 111, rows, columns, inner, scalar(one), a, inner, b, columns, scalar(one), c, columns)

    return call


@callee(**INNER)
def _lstm(gates, weight, hidden, cell, out, steps, samples, width):
    """Run all steps; `weight` is transposed, of shape (H, 4 H)."""
    size, wide = samples * width, 4 * width
    hiddens = steps * samples * wide
    cells = hiddens + (steps + 1) * size
    for i in range(size):
        out[hiddens + i] = hidden[i]
        out[cells + i] = cell[i]
    for t in range(steps):
        first, h, c = t * samples * wide, hiddens + t * size, cells + t * size
        active = _ahead(out, first)
        for i in range(samples * wide):
            active[i] = gates[first + i]
        _add_product(samples, wide, width, _ahead(out, h), weight, active)
        for n in range(samples):
            _lstm_turn(_ahead(active, n * wide), _ahead(out, c + n * width), _ahead(out, h + n * width), size, width)


@callee(**INNER)
def _lstm_turn(active, cell, hidden, size, width):
    """Compute one step of one sample; the new states are `size` elements after the old ones."""
    for j in range(2 * width):
        active[j] = _logistic(active[j])
    for j in range(2 * width, 3 * width):
        active[j] = _tanh(active[j])
    for j in range(3 * width, 4 * width):
        active[j] = _logistic(active[j])
    for j in range(width):
        cell[size + j] = active[width + j] * cell[j] + active[j] * active[2 * width + j]
    for j in range(width):
        hidden[size + j] = active[3 * width + j] * _tanh(cell[size + j])


@callee(**INNER)
def _lstm_back(gradient, values, weight, out, steps, samples, width):
    """Propagate the gradients of all states backward; `weight` has shape (4 H, H).

    `out` holds the gradients of the gates (T, N, 4 H), then of the first hidden and the first cell state.
    """
    size, wide = samples * width, 4 * width
    hiddens = steps * samples * wide
    cells = hiddens + (steps + 1) * size
    by_hidden, by_cell = _ahead(out, hiddens), _ahead(out, hiddens + size)
    for i in range(2 * size):
        by_hidden[i] = 0
    for t in range(steps - 1, -1, -1):
        first = t * samples * wide
        for n in range(samples):
            place = n * width
            _lstm_turn_back(
                _ahead(gradient, 2 * (t * size + place)),
                _ahead(values, first + n * wide),
                _ahead(values, cells + t * size + place),
                *(_ahead(out, first + n * wide), _ahead(by_hidden, place), _ahead(by_cell, place), size, width),
            )
        for i in range(size):
            by_hidden[i] = 0
        _add_product(samples, width, wide, _ahead(out, first), weight, by_hidden)


@callee(**INNER)
def _lstm_turn_back(gradient, active, cell, out, by_hidden, by_cell, size, width):
    """Compute the backward of one step of one sample; `cell` is the state before the step."""
    for j in range(width):
        by_hidden[j] += gradient[j]
        by_cell[j] += gradient[width + j]
    for j in range(width):
        squashed, o = _tanh(cell[size + j]), active[3 * width + j]
        by_cell[j] += by_hidden[j] * (o - o * squashed * squashed)  # Python numbers would have another dtype
        out[3 * width + j] = by_hidden[j] * squashed * (o - o * o)
    for j in range(width):
        i, g = active[j], active[2 * width + j]
        out[j] = by_cell[j] * g * (i - i * i)
        out[2 * width + j] = by_cell[j] * (i - i * g * g)
    for j in range(width):
        f = active[width + j]
        out[width + j] = by_cell[j] * cell[j] * (f - f * f)
        by_cell[j] *= f


__all__ = ["_lstm", "_lstm_back"]
