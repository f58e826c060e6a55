"""Kernels of cumulative sums and products, and of products."""

# mypy: ignore-errors
# Numba finds the types.

from numba import njit

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, data_of, flat_size, floats, item, word
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, READ

#: Elements of a row that are multiplied side by side: what the caller gives memory for.
LANES = 128


@njit(**INSIDE)
def _joined(a, b, is_product):
    return a * b if is_product else a + b


@njit(**OPTIONS)
def scan(arrays, outer, length, inner, is_product, is_reversed):
    """Accumulate sums or products in the middle of (outer, length, inner), also from its end; arrays: x, result."""
    x, result = item(arrays, 0), item(arrays, 1)
    size = outer * length * inner
    if size == 0 or flat_size(x, READ, FLOAT32) != size or flat_size(result, WRITE, FLOAT32) != size:
        return 0
    step = -inner if is_reversed else inner
    first = (length - 1) * inner if is_reversed else 0
    if inner > 1:
        for o in range(outer):
            start = 4 * (o * length * inner + first)
            source, target = floats(word(x + DATA) + start), floats(word(result + DATA) + start)
            for i in range(inner):
                target[i] = source[i]
            for _ in range(1, length):
                start += 4 * step
                before = target
                source, target = floats(word(x + DATA) + start), floats(word(result + DATA) + start)
                for i in range(inner):
                    target[i] = _joined(before[i], source[i], is_product)
        return 1
    values, target = data_of(x), data_of(result)
    whole = outer - outer % 4
    for o in range(0, whole, 4):  # four rows at once, since each addition waits for the one before it
        a = o * length + first
        b, c, d = a + length, a + 2 * length, a + 3 * length
        p, q, r, s = values[a], values[b], values[c], values[d]
        target[a], target[b], target[c], target[d] = p, q, r, s
        for _ in range(1, length):
            a, b, c, d = a + step, b + step, c + step, d + step
            p, q = _joined(p, values[a], is_product), _joined(q, values[b], is_product)
            r, s = _joined(r, values[c], is_product), _joined(s, values[d], is_product)
            target[a], target[b], target[c], target[d] = p, q, r, s
    for o in range(whole, outer):
        a = o * length + first
        p = values[a]
        target[a] = p
        for _ in range(1, length):
            a += step
            p = _joined(p, values[a], is_product)
            target[a] = p
    return 1


@njit(**OPTIONS)
def prod(arrays, rows, length):
    """Multiply each row in `LANES` interleaved lanes, then these pairwise; arrays: x, memory for the lanes, result."""
    x, lanes, result = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    if length < LANES or flat_size(lanes, WRITE, FLOAT32) != LANES or flat_size(result, WRITE, FLOAT32) != rows:
        return 0
    if flat_size(x, READ, FLOAT32) != rows * length:
        return 0
    totals, out = data_of(lanes), data_of(result)
    for row in range(rows):
        values = floats(word(x + DATA) + 4 * row * length)
        for i in range(LANES):
            totals[i] = values[i]
        place = LANES
        while place + 4 * LANES <= length:
            for i in range(LANES):
                here = place + i
                pair = totals[i] * values[here] * values[here + LANES]
                totals[i] = pair * values[here + 2 * LANES] * values[here + 3 * LANES]
            place += 4 * LANES
        while place < length:
            for i in range(min(LANES, length - place)):
                totals[i] *= values[place + i]
            place += LANES
        half = LANES // 2
        while half:
            for i in range(half):
                totals[i] *= totals[half + i]
            half //= 2
        out[row] = totals[0]
    return 1
