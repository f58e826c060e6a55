"""Kernels of the standardization of channels over a batch, for arrays of shape (N, C, S)."""

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
    item,
    length,
    suits,
    wanted,
)
from labnet.kernels.cpu.summation import ahead, row_product_sum, row_sum
from labnet.kernels.machine_code.array_layout import FLOAT32, READ


@njit(**INSIDE)
def _fit(x, other, weight, bias, moments):
    """Return whether two arrays have the shape (N, C, S), others have C elements or are None, and one has 3 C."""
    if not (suits(x, 3, READ, FLOAT32) and suits(other, 3, READ, FLOAT32) and suits(moments, 2, READ, FLOAT32)):
        return False
    channels = length(x, 1)
    for axis in range(3):
        if length(x, axis) != length(other, axis) or length(x, axis) == 0:
            return False
    if wanted(weight, x) and flat_size(weight, READ, FLOAT32) != channels:
        return False
    if wanted(bias, x) and flat_size(bias, READ, FLOAT32) != channels:
        return False
    return length(moments, 0) == 3 and length(moments, 1) == channels


@njit(**INSIDE)
def _divide(row, deviation, factor, shift, size):
    for j in range(size):
        row[j] = row[j] / deviation * factor + shift


@njit(**OPTIONS)
def channels(arrays, eps, first, last):
    """Subtract the mean of each channel in a range and divide by its deviation; scale and shift the result.

    Arrays: x, weight and bias or None, both or none, mean, variance and deviation (3, C), result.
    """
    x, weight, bias, moments, out = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3), item(arrays, 4)
    if not _fit(x, out, weight, bias, moments) or wanted(weight, x) != wanted(bias, x):
        return 0
    if flat_size(out, WRITE, FLOAT32) < 0 or flat_size(moments, WRITE, FLOAT32) < 0:
        return 0
    if first < 0 or last > length(x, 1):
        return 0
    samples, channels, size = length(x, 0), length(x, 1), length(x, 2)
    count, values, target, is_scaled = float32(samples * size), data_of(x), data_of(out), wanted(weight, x)
    mean = data_of(moments)
    variance, deviation = ahead(mean, channels), ahead(mean, 2 * channels)
    for c in range(first, last):
        mean[c], variance[c] = float32(0), float32(0)
    if size == 1:
        for n in range(samples):
            row = ahead(values, n * channels)
            for c in range(first, last):
                mean[c] += row[c]
        for c in range(first, last):
            mean[c] /= count
        for n in range(samples):
            row, result = ahead(values, n * channels), ahead(target, n * channels)
            for c in range(first, last):
                result[c] = row[c] - mean[c]
            for c in range(first, last):
                variance[c] += result[c] * result[c]
        for c in range(first, last):
            variance[c] /= count
            deviation[c] = np.sqrt(variance[c] + eps)
        for n in range(samples):
            result = ahead(target, n * channels)
            for c in range(first, last):
                result[c] /= deviation[c]
            if is_scaled:
                factor, shift = data_of(weight), data_of(bias)
                for c in range(first, last):
                    result[c] = result[c] * factor[c] + shift[c]
        return 1
    for c in range(first, last):
        for n in range(samples):
            mean[c] += row_sum(ahead(values, (n * channels + c) * size), size)
        mean[c] /= count
        for n in range(samples):
            row, result = ahead(values, (n * channels + c) * size), ahead(target, (n * channels + c) * size)
            middle = mean[c]
            for j in range(size):
                result[j] = row[j] - middle
            variance[c] += row_product_sum(result, result, size)
        variance[c] /= count
        deviation[c] = np.sqrt(variance[c] + eps)
        for n in range(samples):
            result = ahead(target, (n * channels + c) * size)
            if is_scaled:
                _divide(result, deviation[c], data_of(weight)[c], data_of(bias)[c], size)
            else:
                divisor = deviation[c]
                for j in range(size):
                    result[j] /= divisor
    return 1


@njit(**OPTIONS)
def channels_backward(arrays, first, last):
    """Compute the gradients of `channels`, for a range of channels.

    Arrays: g, x, weight or None, mean, variance and deviation, gradients of weight and bias (2, C), of x or None.
    """
    g, x, weight, moments = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    sums, by_x = item(arrays, 4), item(arrays, 5)
    if not _fit(x, g, weight, weight, moments) or first < 0 or last > length(x, 1):
        return 0
    samples, channels, size = length(x, 0), length(x, 1), length(x, 2)
    if flat_size(sums, WRITE, FLOAT32) != 2 * channels:
        return 0
    if wanted(by_x, x) and flat_size(by_x, WRITE, FLOAT32) != samples * channels * size:
        return 0
    memory = allocate(4 * max(size, 2 * channels))
    if memory == 0:
        return 0
    y, count, is_wanted = floats(memory), float32(samples * size), wanted(by_x, x)
    mean, deviation = data_of(moments), ahead(data_of(moments), 2 * channels)
    by_weight, by_bias = data_of(sums), ahead(data_of(sums), channels)
    for c in range(first, last):
        by_weight[c], by_bias[c] = float32(0), float32(0)
    if size == 1:
        for n in range(samples):
            row, gradient = ahead(data_of(x), n * channels), ahead(data_of(g), n * channels)
            for c in range(first, last):
                y[c] = (row[c] - mean[c]) / deviation[c]
            for c in range(first, last):
                by_weight[c] += gradient[c] * y[c]
            for c in range(first, last):
                by_bias[c] += gradient[c]
        if is_wanted:
            scale = ahead(y, channels)
            for c in range(first, last):
                scale[c] = float32(1) / deviation[c]
            if wanted(weight, x):
                factor = data_of(weight)
                for c in range(first, last):
                    scale[c] = factor[c] / deviation[c]
            for n in range(samples):
                row, gradient = ahead(data_of(x), n * channels), ahead(data_of(g), n * channels)
                target = ahead(data_of(by_x), n * channels)
                for c in range(first, last):
                    y[c] = (row[c] - mean[c]) / deviation[c]
                for c in range(first, last):
                    target[c] = gradient[c] - by_bias[c] / count
                for c in range(first, last):
                    target[c] = (target[c] - y[c] * (by_weight[c] / count)) * scale[c]
        free(memory)
        return 1
    for c in range(first, last):
        middle, divisor = mean[c], deviation[c]
        for n in range(samples):
            start = (n * channels + c) * size
            row, gradient = ahead(data_of(x), start), ahead(data_of(g), start)
            for j in range(size):
                y[j] = (row[j] - middle) / divisor
            by_weight[c] += row_product_sum(gradient, y, size)
            by_bias[c] += row_sum(gradient, size)
        if is_wanted:
            shift, slope = by_bias[c] / count, by_weight[c] / count
            scale = (data_of(weight)[c] if wanted(weight, x) else float32(1)) / divisor
            for n in range(samples):
                start = (n * channels + c) * size
                row, gradient = ahead(data_of(x), start), ahead(data_of(g), start)
                target = ahead(data_of(by_x), start)
                for j in range(size):
                    target[j] = (gradient[j] - shift - (row[j] - middle) / divisor * slope) * scale
    free(memory)
    return 1
