"""Kernels of rows, the last dimension of an array: softmax, cross entropy, and standardization."""

# mypy: ignore-errors
# Numba finds the types.

import numpy as np
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
    wanted,
    word,
)
from labnet.kernels.cpu.instructions import in_wide_vectors, inlined
from labnet.kernels.cpu.summation import ahead, row_map, row_max, row_product_sum, row_sum
from labnet.kernels.cpu.ufunc_calls import ufunc_call
from labnet.kernels.exponential import exponential
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, INT64, NDIM, READ

exp, log = inlined(exponential), ufunc_call("log", "ff")
#: Elements of rows that are computed together.
_GROUP = 2048
#: Rows with fewer elements do not fill the vectors of a loop of their own.
_NARROW = 256

_less = row_map(1, lambda builder, x, a: builder.fsub(x, a))
_less_twice = row_map(2, lambda builder, x, a, b: builder.fsub(builder.fsub(x, a), b))
_divided = row_map(1, lambda builder, x, a: builder.fdiv(x, a))
_share = row_map(2, lambda builder, x, a, b: builder.fmul(b, builder.fdiv(x, a)))


@njit(**INSIDE)
def _width(x, flags):
    """Return the length of the rows of an array, 0 if it does not fit."""
    ndim = word(x + NDIM) & 0xFFFFFFFF
    return length(x, ndim - 1) if ndim > 0 and flat_size(x, flags, FLOAT32) > 0 else 0


@njit(**INSIDE)
def _exponentials(x, out, rows, width, greatest):
    """Write ``exp(x - max(x))`` of each row to `out`, and the maxima to `greatest`."""
    if width < _NARROW:
        for i in range(rows):
            values = ahead(x, i * width)
            greatest[i] = row_max(values, width)
            _less(values, ahead(out, i * width), width, greatest[i])
        for j in range(rows * width):
            out[j] = exp(out[j])
        return
    for i in range(rows):
        values, row = ahead(x, i * width), ahead(out, i * width)
        most = greatest[i] = row_max(values, width)
        for j in range(width):
            row[j] = exp(values[j] - most)


@njit(**INSIDE)
def _rows_at_once(rows, width):
    """Return how many rows to compute together, so that they stay in the cache and their logarithms are one call."""
    return min(rows, max(1, _GROUP // width))


@njit(**OPTIONS)
def row_sums(arrays, width):
    """Sum rows of `width` elements; arrays: x, result."""
    x, out = item(arrays, 0), item(arrays, 1)
    size = flat_size(x, READ, FLOAT32)
    if size <= 0 or width <= 0 or size % width or flat_size(out, WRITE, FLOAT32) != size // width:
        return 0
    for i in range(size // width):
        data_of(out)[i] = row_sum(ahead(data_of(x), i * width), width)
    return 1


@njit(**OPTIONS)
def softmax(arrays, logarithm):
    """Compute softmax, or its logarithm; arrays: x, result."""
    x, out = item(arrays, 0), item(arrays, 1)
    width, size = _width(x, READ), flat_size(x, READ, FLOAT32)
    if width == 0 or flat_size(out, WRITE, FLOAT32) != size:
        return 0
    rows = size // width
    group = _rows_at_once(rows, width)
    memory = allocate(8 * group)
    if memory == 0:
        return 0
    in_wide_vectors()
    totals, greatest = floats(memory), ahead(floats(memory), group)
    for start in range(0, rows, group):
        count = min(group, rows - start)
        values, target = ahead(data_of(x), start * width), ahead(data_of(out), start * width)
        _exponentials(values, target, count, width, greatest)
        for i in range(count):
            totals[i] = row_sum(ahead(target, i * width), width)
        if logarithm:
            log(memory, memory, count)
        for i in range(count):
            row = ahead(target, i * width)
            if logarithm:
                _less_twice(ahead(values, i * width), row, width, greatest[i], totals[i])
            else:
                _divided(row, row, width, totals[i])
    free(memory)
    return 1


@njit(**OPTIONS)
def softmax_backward(arrays, logarithm):
    """Compute the gradient of softmax, or of its logarithm; arrays: g, output of the forward, result."""
    g, out, result = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    width, size = _width(out, READ), flat_size(out, READ, FLOAT32)
    if width == 0 or flat_size(g, READ, FLOAT32) != size or flat_size(result, WRITE, FLOAT32) != size:
        return 0
    in_wide_vectors()
    for i in range(size // width):
        gradient, values = ahead(data_of(g), i * width), ahead(data_of(out), i * width)
        target = ahead(data_of(result), i * width)
        if not logarithm:
            total = row_product_sum(gradient, values, width)
            for j in range(width):
                target[j] = values[j] * (gradient[j] - total)
            continue
        total = row_sum(gradient, width)
        for j in range(width):
            target[j] = gradient[j] - exp(values[j]) * total
    return 1


@njit(**INSIDE)
def _label(labels, i):
    return word(word(labels + DATA) + 8 * i)


@njit(**INSIDE)
def _labels_fit(labels, rows, classes):
    """Return whether there is a label for each row, and all are classes."""
    if not has(labels, READ, INT64):
        return False
    size = 1
    for axis in range(word(labels + NDIM) & 0xFFFFFFFF):
        size *= length(labels, axis)
    if size != rows:
        return False
    for i in range(rows):
        label = _label(labels, i)
        if label < 0 or label >= classes:
            return False
    return True


@njit(**OPTIONS)
def cross_entropy(arrays):
    """Compute the negative log-likelihood of labels; arrays: x, labels, result."""
    x, labels, out = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    width, size = _width(x, READ), flat_size(x, READ, FLOAT32)
    if width == 0 or flat_size(out, WRITE, FLOAT32) != size // width or not _labels_fit(labels, size // width, width):
        return 0
    rows = size // width
    group = _rows_at_once(rows, width)
    memory = allocate(4 * group * (width + 1))
    if memory == 0:
        return 0
    in_wide_vectors()
    totals, row = floats(memory), ahead(floats(memory), group)
    for start in range(0, rows, group):
        count = min(group, rows - start)
        values, target = ahead(data_of(x), start * width), ahead(data_of(out), start)
        _exponentials(values, row, count, width, target)
        for i in range(count):
            totals[i] = row_sum(ahead(row, i * width), width)
        log(memory, memory, count)
        for i in range(count):
            target[i] = totals[i] - (values[i * width + _label(labels, start + i)] - target[i])
    free(memory)
    return 1


@njit(**OPTIONS)
def cross_entropy_backward(arrays):
    """Compute ``g * (softmax(x) - one_hot(labels))``; arrays: g, x, labels, result."""
    g, x, labels, out = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    width, size = _width(x, READ), flat_size(x, READ, FLOAT32)
    if width == 0 or flat_size(out, WRITE, FLOAT32) != size or not _labels_fit(labels, size // width, width):
        return 0
    rows = size // width
    group = _rows_at_once(rows, width)
    memory = allocate(4 * group) if flat_size(g, READ, FLOAT32) == rows else 0
    if memory == 0:
        return 0
    in_wide_vectors()
    for start in range(0, rows, group):
        count = min(group, rows - start)
        values, target = ahead(data_of(x), start * width), ahead(data_of(out), start * width)
        _exponentials(values, target, count, width, floats(memory))
        for i in range(count):
            row, gradient, label = ahead(target, i * width), data_of(g)[start + i], _label(labels, start + i)
            total = row_sum(row, width)
            picked = gradient * (row[label] / total - float32(1))
            _share(row, row, width, total, gradient)
            row[label] = picked
    free(memory)
    return 1


@njit(**INSIDE)
def _center(x, out, width, centered):
    """Subtract the mean of a row from it, or 0, and return that."""
    mean = row_sum(x, width) / float32(width) if centered else float32(0)
    for j in range(width):
        out[j] = x[j] - mean
    return mean


@njit(**INSIDE)
def _deviation(centered, width, eps):
    """Return the standard deviation of a row whose mean is 0."""
    return np.sqrt(row_product_sum(centered, centered, width) / float32(width) + eps)


@njit(**INSIDE)
def _fits(array, like, flags, size):
    """Return whether an array is None, or has a number of elements."""
    return (not wanted(array, like)) or flat_size(array, flags, FLOAT32) == size


@njit(**OPTIONS)
def standardize(arrays, width, centered, eps):
    """Subtract the mean of rows of `width` elements and divide by their deviation; scale and shift the result.

    Unless `centered`, the mean counts as 0, so the deviation is the root mean square. Arrays: x, weight, bias, mean and
    deviation of each row, result; None for those that are not wanted.
    """
    x, weight, bias = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    moments, out = item(arrays, 3), item(arrays, 4)
    size = flat_size(x, READ, FLOAT32)
    if size <= 0 or width <= 0 or size % width or flat_size(out, WRITE, FLOAT32) != size:
        return 0
    rows = size // width
    if not (_fits(weight, x, READ, width) and _fits(bias, x, READ, width) and _fits(moments, x, WRITE, 2 * rows)):
        return 0
    for i in range(rows):
        row = ahead(data_of(out), i * width)
        mean = _center(ahead(data_of(x), i * width), row, width, centered)
        deviation = _deviation(row, width, eps)
        if wanted(moments, x):
            data_of(moments)[2 * i], data_of(moments)[2 * i + 1] = mean, deviation
        if wanted(weight, x) and wanted(bias, x):
            factor, shift = data_of(weight), data_of(bias)
            for j in range(width):
                row[j] = row[j] / deviation * factor[j] + shift[j]
        elif wanted(weight, x):
            factor = data_of(weight)
            for j in range(width):
                row[j] = row[j] / deviation * factor[j]
        else:
            for j in range(width):
                row[j] /= deviation
    return 1


@njit(**INSIDE)
def _add_row(row, total, width, position):
    """Add a row to a total, which begins with 0."""
    if position == 0:
        for j in range(width):
            total[j] = float32(0)
    for j in range(width):
        total[j] += row[j]


@njit(**OPTIONS)
def standardize_backward(arrays, width, centered, eps):
    """Compute the gradients of `standardize`; without mean and deviation of the rows, compute those first.

    Arrays: g, x, weight, mean and deviation of each row; gradients of x, weight and bias; None for those that are not
    wanted.
    """
    g, x, weight, moments = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    by_x, by_weight, by_bias = item(arrays, 4), item(arrays, 5), item(arrays, 6)
    size = flat_size(x, READ, FLOAT32)
    if size <= 0 or width <= 0 or size % width or flat_size(g, READ, FLOAT32) != size:
        return 0
    rows = size // width
    if not (_fits(weight, x, READ, width) and _fits(moments, x, READ, 2 * rows) and _fits(by_x, x, WRITE, size)):
        return 0
    if not (_fits(by_weight, x, WRITE, width) and _fits(by_bias, x, WRITE, width)):
        return 0
    memory = allocate(8 * width)
    if memory == 0:
        return 0
    y, scaled = floats(memory), ahead(floats(memory), width)
    for i in range(rows):
        gradient, values = ahead(data_of(g), i * width), ahead(data_of(x), i * width)
        if wanted(by_bias, x):
            _add_row(gradient, data_of(by_bias), width, i)
        if wanted(by_x, x) or wanted(by_weight, x):
            if wanted(moments, x):
                mean, deviation = data_of(moments)[2 * i], data_of(moments)[2 * i + 1]
                for j in range(width):
                    y[j] = (values[j] - mean) / deviation
            else:
                mean = _center(values, y, width, centered)
                deviation = _deviation(y, width, eps)
                for j in range(width):
                    y[j] /= deviation
            if wanted(by_weight, x):
                for j in range(width):
                    scaled[j] = gradient[j] * y[j]
                _add_row(scaled, data_of(by_weight), width, i)
            if wanted(by_x, x):
                if wanted(weight, x):
                    factor = data_of(weight)
                    for j in range(width):
                        scaled[j] = gradient[j] * factor[j]
                    gradient = scaled
                first = row_sum(gradient, width) / float32(width) if centered else float32(0)
                second = row_product_sum(gradient, y, width) / float32(width)
                scale, target = float32(1) / deviation, ahead(data_of(by_x), i * width)
                for j in range(width):
                    target[j] = scale * (gradient[j] - first - y[j] * second)
    free(memory)
    return 1
