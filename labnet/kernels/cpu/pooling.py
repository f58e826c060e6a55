"""Kernels of pooling over tiles of images."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, data_of, flat_size, item, length, word
from labnet.kernels.machine_code.array_layout import FLOAT32, NDIM, READ


@njit(**INSIDE)
def _wins(value, greatest):
    """Return whether a value is the maximum of its tile, which NaN always is."""
    return (value == greatest) | (value != value)


@njit(**INSIDE)
def _greater(a, b):
    """Return the greater of two numbers, or NaN if either is NaN, without branching."""
    greater = a if a > b else b
    return a if a != a else greater


@njit(**INSIDE)
def _tiles(image, tiled, rows, columns, image_flags, tiled_flags):
    """Return the number of images of (..., H, W), -1 if tiles of rows x columns do not fit."""
    size = flat_size(image, image_flags, FLOAT32)
    ndim = word(image + NDIM) & 0xFFFFFFFF
    if size <= 0 or ndim < 2 or (word(tiled + NDIM) & 0xFFFFFFFF) != ndim or rows * columns == 0:
        return -1
    height, width = length(image, ndim - 2), length(image, ndim - 1)
    if length(tiled, ndim - 2) != height // rows or length(tiled, ndim - 1) != width // columns:
        return -1
    count = size // (height * width)
    return count if flat_size(tiled, tiled_flags, FLOAT32) == count * (height // rows) * (width // columns) else -1


@njit(**OPTIONS)
def tile_max(arrays, rows, columns):
    """Compute the maximum of each tile, or NaN; arrays: images (..., H, W), result (..., H', W')."""
    image, result = item(arrays, 0), item(arrays, 1)
    count = _tiles(image, result, rows, columns, READ, WRITE)
    if count < 0:
        return 0
    ndim = word(image + NDIM) & 0xFFFFFFFF
    height, width = length(image, ndim - 2), length(image, ndim - 1)
    down, across = height // rows, width // columns
    values, target = data_of(image), data_of(result)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            if rows == 2 and columns == 2:  # written out, which is several times faster
                for j in range(across):
                    a, b = values[start + 2 * j], values[start + 2 * j + 1]
                    c, d = values[start + width + 2 * j], values[start + width + 2 * j + 1]
                    target[place + j] = _greater(_greater(a, b), _greater(c, d))
                continue
            for j in range(across):
                best = values[start + j * columns]
                for r in range(rows):
                    for c in range(columns):
                        best = _greater(best, values[start + r * width + j * columns + c])
                target[place + j] = best
    return 1


@njit(**OPTIONS)
def tile_max_backward(arrays, rows, columns):
    """Pass the gradient of each tile to its maximum; arrays: g, images, their maxima, result of zeros."""
    g, image, maxima, result = item(arrays, 0), item(arrays, 1), item(arrays, 2), item(arrays, 3)
    count = _tiles(image, maxima, rows, columns, READ, READ)
    if count < 0 or _tiles(result, g, rows, columns, WRITE, READ) != count:
        return 0
    ndim = word(image + NDIM) & 0xFFFFFFFF
    height, width = length(image, ndim - 2), length(image, ndim - 1)
    if length(result, ndim - 2) != height or length(result, ndim - 1) != width:
        return 0
    down, across = height // rows, width // columns
    gradient, values, best, target, zero = data_of(g), data_of(image), data_of(maxima), data_of(result), float32(0)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            if rows == 2 and columns == 2:
                for j in range(across):
                    here, g, greatest = start + 2 * j, gradient[place + j], best[place + j]
                    first = _wins(values[here], greatest)
                    second = (not first) & _wins(values[here + 1], greatest)
                    third = (not (first | second)) & _wins(values[here + width], greatest)
                    target[here], target[here + 1] = g if first else zero, g if second else zero
                    target[here + width] = g if third else zero
                    target[here + width + 1] = zero if first | second | third else g
                continue
            for j in range(across):
                left = True
                for r in range(rows):
                    for c in range(columns):
                        here = start + r * width + j * columns + c
                        last = r == rows - 1 and c == columns - 1
                        hit = left & (last | _wins(values[here], best[place + j]))
                        left = left & (not hit)
                        target[here] = gradient[place + j] if hit else zero
    return 1
