"""Kernels of attention, for tiles of queries: the scores of a tile stay in the cache.

The order of operations is that of `labnet.nn.functions.attention_tiles`.
"""

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
    word,
)
from labnet.kernels.cpu.instructions import in_wide_vectors
from labnet.kernels.cpu.products import product
from labnet.kernels.cpu.rows import exp
from labnet.kernels.cpu.summation import ahead, row_max, row_product_sum, row_sum
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, READ

_LEAST = -np.inf


@njit(**INSIDE)
def _fit(query, key, value, out, moments):
    """Return whether arrays of shape (B, L, E), (B, S, E), (B, S, V), (B, L, V) and (B, L, 2) fit each other."""
    for array in (query, key, value, out, moments):
        if not suits(array, 3, READ, FLOAT32) or length(array, 0) != length(query, 0):
            return False
    queries, keys = length(query, 1), length(key, 1)
    if length(value, 1) != keys or length(key, 2) != length(query, 2) or length(out, 2) != length(value, 2):
        return False
    if length(out, 1) != queries or length(moments, 1) != queries or length(moments, 2) != 2:
        return False
    return queries * keys * length(query, 2) * length(value, 2) > 0


@njit(**INSIDE)
def _biases_fit(bias, offsets, query, key, step):
    """Return whether the bias has, at the offset of each matrix, as many rows as needed, `step` numbers apart."""
    if not wanted(bias, query):
        return True
    size, keys, queries = flat_size(bias, READ, FLOAT32), length(key, 1), length(query, 1)
    for b in range(length(query, 0)):
        offset = word(word(offsets + DATA) + 8 * b)
        if offset < 0 or offset + (queries - 1) * step + keys > size:
            return False
    return True


@njit(**INSIDE)
def _add_bias(scores, bias, keys):
    """Add a bias to the scores of a query, and return whether it leaves any key."""
    some = False
    for j in range(keys):
        scores[j] += bias[j]
        some |= bias[j] != float32(_LEAST)
    return some


@njit(**INSIDE)
def _keys_of(first, count, keys, causal):
    """Return the number of keys that a tile of queries can attend to."""
    return min(keys, first + count) if causal else keys


@njit(**OPTIONS)
def attention(arrays, tile, causal, step):
    """Compute attention with additive biases; a query without any key has output 0.

    Arrays: scaled queries (B, L, E), keys (B, S, E), values (B, S, V), bias or None, offset of the bias of each of the
    B matrices, result, and the greatest score and the sum of exponentials of each query (B, L, 2). `step` is the
    distance between the biases of two queries.
    """
    query, key, value = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    bias, offsets, out, moments = item(arrays, 3), item(arrays, 4), item(arrays, 5), item(arrays, 6)
    if not _fit(query, key, value, out, moments) or not _biases_fit(bias, offsets, query, key, step):
        return 0
    if flat_size(out, WRITE, FLOAT32) < 0 or flat_size(moments, WRITE, FLOAT32) < 0 or tile < 1:
        return 0
    queries, keys, inner, width = length(query, 1), length(key, 1), length(query, 2), length(value, 2)
    memory = allocate(4 * min(tile, queries) * keys)
    if memory == 0:
        return 0
    scores = floats(memory)
    in_wide_vectors()
    for b in range(length(query, 0)):
        k, v = ahead(data_of(key), b * keys * inner), ahead(data_of(value), b * keys * width)
        for first in range(0, queries, tile):
            count, place = min(tile, queries - first), b * queries + first
            seen = _keys_of(first, count, keys, causal)
            product(ahead(data_of(query), place * inner), False, k, True, scores, count, inner, seen)
            for i in range(count):
                row, found = ahead(scores, i * seen), ahead(data_of(moments), 2 * (place + i))
                some = True
                if causal:
                    for j in range(first + i + 1, seen):
                        row[j] = float32(_LEAST)
                if wanted(bias, query):
                    offset = word(word(offsets + DATA) + 8 * b) + (first + i) * step
                    some = _add_bias(row, ahead(data_of(bias), offset), seen)
                greatest = row_max(row, seen)
                if not some:
                    for j in range(seen):
                        row[j] = float32(_LEAST)
                    greatest = float32(0)
                for j in range(seen):
                    row[j] = exp(row[j] - greatest)
                found[0] = greatest
                found[1] = float32(1)
                if some:
                    found[1] = row_sum(row, seen)
            result = ahead(data_of(out), place * width)
            product(scores, False, v, False, result, count, seen, width)
            for i in range(count):
                total = data_of(moments)[2 * (place + i) + 1]
                for j in range(width):
                    result[i * width + j] /= total
    free(memory)
    return 1


@njit(**INSIDE)
def _suits(result, like, array):
    """Return whether a result is None, or has the size of an array."""
    return (not wanted(result, array)) or flat_size(result, WRITE, FLOAT32) == flat_size(like, READ, FLOAT32)


@njit(**INSIDE)
def _add(source, target, size):
    for i in range(size):
        target[i] += source[i]


@njit(**OPTIONS)
def attention_backward(arrays, tile, causal, step):
    """Compute the gradients of `attention`.

    Arrays: g (B, L, V), scaled queries, keys, values, bias or None, offsets, output, moments; gradients of scaled
    queries, keys and values, or None. Those of keys and values begin with zeros.
    """
    g, query, key, value = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    bias, offsets, out, moments = item(arrays, 4), item(arrays, 5), item(arrays, 6), item(arrays, 7)
    by_query, by_key, by_value = item(arrays, 8), item(arrays, 9), item(arrays, 10)
    if not _fit(query, key, value, out, moments) or not _biases_fit(bias, offsets, query, key, step) or tile < 1:
        return 0
    if flat_size(g, READ, FLOAT32) != flat_size(out, READ, FLOAT32):
        return 0
    if not (_suits(by_query, query, query) and _suits(by_key, key, query) and _suits(by_value, value, query)):
        return 0
    queries, keys, inner, width = length(query, 1), length(key, 1), length(query, 2), length(value, 2)
    size = min(tile, queries) * keys
    memory = allocate(4 * (2 * size + keys * max(inner, width)))
    if memory == 0:
        return 0
    weights, slopes = floats(memory), ahead(floats(memory), size)
    part = ahead(slopes, size)
    in_wide_vectors()
    for b in range(length(query, 0)):
        k, v = ahead(data_of(key), b * keys * inner), ahead(data_of(value), b * keys * width)
        for first in range(0, queries, tile):
            count, place = min(tile, queries - first), b * queries + first
            seen = _keys_of(first, count, keys, causal)
            q, gradient = ahead(data_of(query), place * inner), ahead(data_of(g), place * width)
            product(q, False, k, True, weights, count, inner, seen)
            for i in range(count):
                row, found = ahead(weights, i * seen), ahead(data_of(moments), 2 * (place + i))
                greatest, total = found[0], found[1]
                if causal:
                    for j in range(first + i + 1, seen):
                        row[j] = float32(_LEAST)
                if wanted(bias, query):
                    offset = word(word(offsets + DATA) + 8 * b) + (first + i) * step
                    if not _add_bias(row, ahead(data_of(bias), offset), seen):
                        for j in range(seen):
                            row[j] = float32(_LEAST)
                for j in range(seen):
                    row[j] = exp(row[j] - greatest) / total
            if wanted(by_value, query):
                product(weights, True, gradient, False, part, seen, count, width)
                _add(part, ahead(data_of(by_value), b * keys * width), seen * width)
            if wanted(by_query, query) or wanted(by_key, query):
                product(gradient, False, v, True, slopes, count, width, seen)
                result = ahead(data_of(out), place * width)
                for i in range(count):
                    common = row_product_sum(ahead(gradient, i * width), ahead(result, i * width), width)
                    row, slope = ahead(weights, i * seen), ahead(slopes, i * seen)
                    for j in range(seen):
                        slope[j] = row[j] * (slope[j] - common)
                if wanted(by_query, query):
                    target = ahead(data_of(by_query), place * inner)
                    product(slopes, False, k, False, target, count, seen, inner)
                if wanted(by_key, query):
                    product(slopes, True, q, False, part, seen, count, inner)
                    _add(part, ahead(data_of(by_key), b * keys * inner), seen * inner)
    free(memory)
    return 1
