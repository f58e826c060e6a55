"""Kernels of recurrences: all steps of an LSTM or of gated recurrent units, and their gradients.

The order of operations is that of `labnet.nn.layers.recurrence`.
"""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import (
    INSIDE,
    OPTIONS,
    WRITE,
    allocate,
    data_of,
    flat_size,
    floats,
    free,
    has,
    item,
    length,
    suits,
    wanted,
    word,
)
from labnet.kernels.cpu.products import product
from labnet.kernels.cpu.summation import ahead
from labnet.kernels.cpu.ufunc_calls import ufunc_call
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, READ

tanh = ufunc_call("tanh", "ff")


@njit(**INSIDE)
def _fit(steps, weight, states, gates):
    """Return whether arrays of shape (T, N, gates * H), (gates * H, H) and (T + 1, N, H) fit each other.

    The weight may be transposed too, of shape (H, gates * H).
    """
    if not (suits(steps, 3, READ, FLOAT32) and suits(weight, 2, READ, FLOAT32) and suits(states, 3, READ, FLOAT32)):
        return False
    samples, width = length(states, 1), length(states, 2)
    if length(states, 0) != length(steps, 0) + 1 or length(steps, 1) != samples or samples * width == 0:
        return False
    rows, columns = length(weight, 0), length(weight, 1)
    return length(steps, 2) == gates * width and min(rows, columns) == width and max(rows, columns) == gates * width


@njit(**OPTIONS)
def lstm(arrays):
    """Compute all steps of an LSTM; the first hidden and cell state are given.

    Arrays: gates (T, N, 4 H), weight, hidden and cell states (T + 1, N, H), active gates.
    """
    gates, weight, hidden = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    cells, active = item(arrays, 3), item(arrays, 4)
    if not _fit(gates, weight, hidden, 4) or flat_size(active, WRITE, FLOAT32) != flat_size(gates, READ, FLOAT32):
        return 0
    if flat_size(cells, WRITE, FLOAT32) != flat_size(hidden, WRITE, FLOAT32):
        return 0
    steps, samples, width = length(gates, 0), length(gates, 1), length(hidden, 2)
    size = samples * width
    memory = allocate(4 * size)
    if memory == 0:
        return 0
    squashed, half = floats(memory), float32(0.5)
    turned = length(weight, 0) == width
    for t in range(steps):
        h, c = ahead(data_of(hidden), t * size), ahead(data_of(cells), t * size)
        now, given = ahead(data_of(active), 4 * t * size), ahead(data_of(gates), 4 * t * size)
        product(h, False, data_of(weight), not turned, now, samples, width, 4 * width)
        for n in range(samples):
            row, own = ahead(now, 4 * n * width), ahead(given, 4 * n * width)
            for j in range(2 * width):
                row[j] = (row[j] + own[j]) * half
            for j in range(2 * width, 3 * width):
                row[j] = row[j] + own[j]
            for j in range(3 * width, 4 * width):
                row[j] = (row[j] + own[j]) * half
        place = word(active + DATA) + 16 * t * size
        tanh(place, place, 4 * size)
        for n in range(samples):
            row, before, after = ahead(now, 4 * n * width), ahead(c, n * width), ahead(c, size + n * width)
            for j in range(2 * width):
                row[j] = row[j] * half + half
            for j in range(2 * width, 3 * width):
                row[j] += float32(0)
            for j in range(3 * width, 4 * width):
                row[j] = row[j] * half + half
            for j in range(width):
                after[j] = row[width + j] * before[j] + row[j] * row[2 * width + j]
        tanh(word(cells + DATA) + 4 * (t + 1) * size, memory, size)
        for n in range(samples):
            row, after = ahead(now, 4 * n * width + 3 * width), ahead(h, size + n * width)
            for j in range(width):
                after[j] = row[j] * squashed[n * width + j]
    free(memory)
    return 1


@njit(**OPTIONS)
def lstm_backward(arrays):
    """Compute the gradients of gates and first states.

    Arrays: gradient of the states (T, N, 2 H), weight, cell states, active gates, gradients of the gates, of the first
    hidden and of the first cell state; the last two begin with zeros.
    """
    gradient, weight, cells, active = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    out, by_hidden, by_cell = item(arrays, 4), item(arrays, 5), item(arrays, 6)
    if not _fit(active, weight, cells, 4) or flat_size(out, WRITE, FLOAT32) != flat_size(active, READ, FLOAT32):
        return 0
    steps, samples, width = length(active, 0), length(active, 1), length(cells, 2)
    size = samples * width
    if length(weight, 1) != width or flat_size(gradient, READ, FLOAT32) != 2 * steps * size:
        return 0
    if flat_size(by_hidden, WRITE, FLOAT32) != size or flat_size(by_cell, WRITE, FLOAT32) != size:
        return 0
    memory = allocate(4 * size)
    if memory == 0:
        return 0
    for t in range(steps - 1, -1, -1):
        tanh(word(cells + DATA) + 4 * (t + 1) * size, memory, size)
        for n in range(samples):
            start = n * width
            _lstm_row_back(
                ahead(data_of(gradient), 2 * (t * size + start)),
                ahead(data_of(active), 4 * (t * size + start)),
                ahead(data_of(cells), t * size + start),
                ahead(floats(memory), start),
                ahead(data_of(out), 4 * (t * size + start)),
                *(ahead(data_of(by_hidden), start), ahead(data_of(by_cell), start), width),
            )
        product(
            *(ahead(data_of(out), 4 * t * size), False, data_of(weight), False, data_of(by_hidden)),
            *(samples, 4 * width, width),
        )
    free(memory)
    return 1


@njit(**INSIDE)
def _lstm_row_back(gradient, active, cell, squashed, out, by_hidden, by_cell, width):
    """Compute the gradients of the gates of one step of one sample, and that of the cell state before it."""
    one = float32(1)
    for j in range(width):
        by_hidden[j] += gradient[j]
        by_cell[j] += gradient[width + j]
    for j in range(width):
        o, s = active[3 * width + j], squashed[j]
        by_cell[j] += by_hidden[j] * o * (one - s * s)
        out[3 * width + j] = by_hidden[j] * s * (o * (one - o))
    for j in range(width):
        i, g = active[j], active[2 * width + j]
        out[j] = by_cell[j] * g * (i * (one - i))
        out[2 * width + j] = by_cell[j] * i * (one - g * g)
    for j in range(width):
        f = active[width + j]
        out[width + j] = by_cell[j] * cell[j] * (f * (one - f))
        by_cell[j] *= f


@njit(**OPTIONS)
def gru(arrays):
    """Compute all steps of gated recurrent units; the first hidden state is given.

    Arrays: gates (T, N, 3 H), weight, bias or None, hidden states (T + 1, N, H), active gates, and the part of the
    last gate that comes from the state (T, N, H).
    """
    gates, weight, bias = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    hidden, active, recurrent = item(arrays, 3), item(arrays, 4), item(arrays, 5)
    if not _fit(gates, weight, hidden, 3) or flat_size(active, WRITE, FLOAT32) != flat_size(gates, READ, FLOAT32):
        return 0
    steps, samples, width = length(gates, 0), length(gates, 1), length(hidden, 2)
    size = samples * width
    if not has(hidden, WRITE, FLOAT32) or flat_size(recurrent, WRITE, FLOAT32) != steps * size:
        return 0
    if wanted(bias, gates) and flat_size(bias, READ, FLOAT32) != 3 * width:
        return 0
    memory = allocate(12 * size)
    if memory == 0:
        return 0
    half, turned = float32(0.5), length(weight, 0) == width
    for t in range(steps):
        h = ahead(data_of(hidden), t * size)
        product(h, False, data_of(weight), not turned, floats(memory), samples, width, 3 * width)
        for n in range(samples):
            start = t * size + n * width
            own, given, row = (
                ahead(floats(memory), 3 * n * width),
                ahead(data_of(gates), 3 * start),
                ahead(data_of(active), 3 * start),
            )
            place = word(active + DATA) + 12 * start
            if wanted(bias, gates):
                shift = data_of(bias)
                for j in range(3 * width):
                    own[j] += shift[j]
            for j in range(2 * width):
                row[j] = (given[j] + own[j]) * half
            tanh(place, place, 2 * width)
            for j in range(2 * width):
                row[j] = row[j] * half + half
            saved = ahead(data_of(recurrent), start)
            for j in range(width):
                saved[j] = own[2 * width + j]
                row[2 * width + j] = given[2 * width + j] + row[j] * own[2 * width + j]
            tanh(place + 8 * width, place + 8 * width, width)
            before, after = ahead(h, n * width), ahead(h, size + n * width)
            for j in range(width):
                new = row[2 * width + j]
                after[j] = new + row[width + j] * (before[j] - new)
    free(memory)
    return 1


@njit(**OPTIONS)
def gru_backward(arrays):
    """Compute the gradients of gates and first state.

    Arrays: gradient of the states (T, N, H), weight, hidden states, active gates, the part of the last gate that comes
    from the state; gradients of the gates, of the parts that come from the state, and of the first state, which begins
    with zeros.
    """
    gradient, weight, hidden = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    active, recurrent, out = item(arrays, 3), item(arrays, 4), item(arrays, 5)
    by_own, by_hidden = item(arrays, 6), item(arrays, 7)
    if not _fit(active, weight, hidden, 3) or length(weight, 1) != length(hidden, 2):
        return 0
    steps, samples, width = length(active, 0), length(active, 1), length(hidden, 2)
    size, one = samples * width, float32(1)
    if flat_size(gradient, READ, FLOAT32) != steps * size or flat_size(recurrent, READ, FLOAT32) != steps * size:
        return 0
    if flat_size(out, WRITE, FLOAT32) != 3 * steps * size or flat_size(by_own, WRITE, FLOAT32) != 3 * steps * size:
        return 0
    if flat_size(by_hidden, WRITE, FLOAT32) != size:
        return 0
    memory = allocate(4 * size)
    if memory == 0:
        return 0
    carried, total = floats(memory), data_of(by_hidden)
    for t in range(steps - 1, -1, -1):
        slope, before = ahead(data_of(gradient), t * size), ahead(data_of(hidden), t * size)
        for n in range(samples):
            start, first = t * size + n * width, n * width
            row, saved = ahead(data_of(active), 3 * start), ahead(data_of(recurrent), start)
            given, own = ahead(data_of(out), 3 * start), ahead(data_of(by_own), 3 * start)
            for j in range(width):
                total[first + j] += slope[first + j]
                carried[first + j] = total[first + j] * row[width + j]
            for j in range(width):
                z, new, g = row[width + j], row[2 * width + j], total[first + j]
                given[width + j] = g * (before[first + j] - new) * (z * (one - z))
                given[2 * width + j] = g * (one - z) * (one - new * new)
            for j in range(width):
                r = row[j]
                given[j] = given[2 * width + j] * saved[j] * (r * (one - r))
                own[2 * width + j] = given[2 * width + j] * r
            for j in range(2 * width):
                own[j] = given[j]
        product(
            *(ahead(data_of(by_own), 3 * t * size), False, data_of(weight), False, total, samples, 3 * width, width),
        )
        for j in range(size):
            total[j] += carried[j]
    free(memory)
    return 1
