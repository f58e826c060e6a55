"""Kernels of linear layers, one after the other, each with or without relu."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import (
    OPTIONS,
    WRITE,
    count_of,
    data_of,
    flat_size,
    floats,
    item,
    length,
    suits,
    wanted,
    word,
)
from labnet.kernels.cpu.products import product, product_with_transposed, sum_of_rows
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, READ

# arrays: x, weight and bias of each layer, hidden values of all layers but the last, output


@njit(**OPTIONS)
def layers_forward(arrays, relu):
    """Compute the output of linear layers; bit i of `relu` says whether layer i ends in one."""
    count = count_of(arrays)
    layers = (count - 3) // 2
    x, hidden, out = item(arrays, 0), item(arrays, count - 2), item(arrays, count - 1)
    if not suits(x, 2, READ, FLOAT32):
        return 0
    rows, inner = length(x, 0), length(x, 1)
    if rows == 0:
        return 0
    needed = 0
    for layer in range(layers):
        weight, bias = item(arrays, 1 + 2 * layer), item(arrays, 2 + 2 * layer)
        if not (suits(weight, 2, READ, FLOAT32) and suits(bias, 1, READ, FLOAT32)):
            return 0
        columns = length(weight, 0)
        if length(weight, 1) != inner or length(bias, 0) != columns or columns * inner == 0:
            return 0
        needed += rows * columns
        inner = columns
    needed -= rows * inner
    if flat_size(hidden, WRITE, FLOAT32) < needed or flat_size(out, WRITE, FLOAT32) != rows * inner:
        return 0
    source, target = word(x + DATA), word(hidden + DATA)
    inner = length(x, 1)
    for layer in range(layers):
        weight, bias = item(arrays, 1 + 2 * layer), data_of(item(arrays, 2 + 2 * layer))
        columns = length(weight, 0)
        if layer == layers - 1:
            target = word(out + DATA)
        values = floats(target)
        if not product_with_transposed(floats(source), data_of(weight), values, rows, inner, columns):
            return 0
        if (relu >> layer) & 1:
            for i in range(rows):
                for j in range(columns):
                    value = values[i * columns + j] + bias[j]
                    values[i * columns + j] = float32(0) if value < float32(0) else value
        else:
            for i in range(rows):
                for j in range(columns):
                    values[i * columns + j] += bias[j]
        source, target = target, target + 4 * rows * columns
        inner = columns
    return 1


# arrays: gradient of the output, x, weight of each layer, hidden, output, scratch,
# gradient of x or None, gradients of weight and bias of each layer or None


@njit(**OPTIONS)
def layers_backward(arrays, relu):
    """Compute the gradients of the arguments of `layers_forward`, except those that are None."""
    layers = (count_of(arrays) - 6) // 3
    g, x = item(arrays, 0), item(arrays, 1)
    hidden, out, scratch, by_x = (
        item(arrays, 2 + layers),
        item(arrays, 3 + layers),
        item(arrays, 4 + layers),
        item(arrays, 5 + layers),
    )
    if not (suits(x, 2, READ, FLOAT32) and suits(g, 2, READ, FLOAT32) and suits(out, 2, READ, FLOAT32)):
        return 0
    rows, inner = length(x, 0), length(x, 1)
    if rows == 0:
        return 0
    widest, needed = inner, 0
    for layer in range(layers):
        weight = item(arrays, 2 + layer)
        if not suits(weight, 2, READ, FLOAT32) or length(weight, 1) != inner:
            return 0
        columns = length(weight, 0)
        if columns == 1 and rows > 128:  # NumPy adds in another order
            return 0
        by_weight, by_bias = item(arrays, 6 + layers + 2 * layer), item(arrays, 7 + layers + 2 * layer)
        if wanted(by_weight, x) and flat_size(by_weight, WRITE, FLOAT32) != columns * inner:
            return 0
        if wanted(by_bias, x) and flat_size(by_bias, WRITE, FLOAT32) != columns:
            return 0
        widest = max(widest, columns)
        needed += rows * columns
        inner = columns
    if length(g, 0) != rows or length(g, 1) != inner or length(out, 0) != rows or length(out, 1) != inner:
        return 0
    needed -= rows * inner
    if flat_size(hidden, READ, FLOAT32) < needed or flat_size(scratch, WRITE, FLOAT32) < 2 * rows * widest:
        return 0
    if wanted(by_x, x) and flat_size(by_x, WRITE, FLOAT32) != rows * length(x, 1):
        return 0
    current = word(g + DATA)
    here, there = word(scratch + DATA), word(scratch + DATA) + 4 * rows * widest
    ends = word(hidden + DATA) + 4 * needed
    for step in range(layers):
        layer = layers - 1 - step
        weight = item(arrays, 2 + layer)
        columns, inner = length(weight, 0), length(weight, 1)
        if (relu >> layer) & 1:
            values, before = data_of(out) if step == 0 else floats(ends), floats(current)
            masked = floats(here)
            for i in range(rows * columns):
                masked[i] = float32(0) if values[i] <= float32(0) else before[i]
            current, here, there = here, there, here
        gradient = floats(current)
        ends -= 4 * rows * inner
        source = floats(ends) if layer else data_of(x)
        by_weight, by_bias = item(arrays, 6 + layers + 2 * layer), item(arrays, 7 + layers + 2 * layer)
        if wanted(by_weight, x):
            product(gradient, True, source, False, data_of(by_weight), columns, rows, inner)
        if wanted(by_bias, x):
            sum_of_rows(gradient, data_of(by_bias), rows, columns)
        if layer:
            product(gradient, False, data_of(weight), False, floats(here), rows, columns, inner)
            current, here, there = here, there, here
        elif wanted(by_x, x):
            product(gradient, False, data_of(weight), False, data_of(by_x), rows, columns, inner)
    return 1
