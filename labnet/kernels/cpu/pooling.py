"""Kernels of pooling over tiles of images."""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import float32, njit, types
from numba.extending import intrinsic

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, Pointer, data_of, flat_size, item, length, word
from labnet.kernels.machine_code.array_layout import FLOAT32, NDIM, READ


def _emit_wins(builder, value, greatest):
    """Emit whether a value is the maximum of its tile, which NaN always is."""
    return builder.or_(builder.fcmp_ordered("==", value, greatest), builder.fcmp_unordered("uno", value, value))


def _emit_greater(builder, a, b):
    """Emit the greater of two numbers, or NaN if either is NaN, without branching."""
    greater = builder.select(builder.fcmp_ordered(">", a, b), a, b)
    return builder.select(builder.fcmp_unordered("uno", a, a), a, greater)


@intrinsic
def _wins(context, value, greatest):
    return types.boolean(float32, float32), lambda context, builder, signature, given: _emit_wins(builder, *given)


@intrinsic
def _greater(context, a, b):
    return float32(float32, float32), lambda context, builder, signature, given: _emit_greater(builder, *given)


def _picked(builder, one, other, places):
    """Emit a vector of elements of two vectors."""
    places = list(places)
    return builder.shuffle_vector(one, other, ir.Constant(ir.VectorType(ir.IntType(32), len(places)), places))


def _place(builder, pointer, lanes, ahead=0):
    position = builder.gep(pointer, [ir.IntType(64)(ahead)])
    return builder.bitcast(position, ir.VectorType(ir.FloatType(), lanes).as_pointer())


def _columns(builder, pointer, lanes):
    """Emit loads of the first and the second column of tiles that are two numbers wide."""
    low, high = (builder.load(_place(builder, pointer, lanes, ahead), align=4) for ahead in (0, lanes))
    return [_picked(builder, low, high, range(first, 2 * lanes, 2)) for first in (0, 1)]


def _tiles_at_once(lanes):
    """Return a function that computes the maxima of so many tiles of 2 x 2 side by side, in rows of `width` numbers."""

    def generate(context, builder, signature, arguments):
        values, target, start, width, place = arguments
        a, b = _columns(builder, builder.gep(values, [start]), lanes)
        c, d = _columns(builder, builder.gep(values, [builder.add(start, width)]), lanes)
        found = _emit_greater(builder, _emit_greater(builder, a, b), _emit_greater(builder, c, d))
        builder.store(found, _place(builder, builder.gep(target, [place]), lanes), align=4)
        return context.get_dummy_value()

    @intrinsic
    def call(context, values, target, start, width, place):
        return types.none(Pointer, Pointer, *[types.int64] * 3), generate

    return call


def _tiles_at_once_backward(lanes):
    """Return a function that passes the gradients of so many such tiles to their maxima."""

    def generate(context, builder, signature, arguments):
        gradient, values, best, target, start, width, place = arguments
        g, greatest = (
            builder.load(_place(builder, builder.gep(pointer, [place]), lanes), align=4) for pointer in (gradient, best)
        )
        second_row, zero = builder.add(start, width), g.type(None)
        a, b = _columns(builder, builder.gep(values, [start]), lanes)
        c, _ = _columns(builder, builder.gep(values, [second_row]), lanes)
        rest, parts = g, []
        for value in (a, b, c):
            wins = _emit_wins(builder, value, greatest)
            parts.append(builder.select(wins, rest, zero))
            rest = builder.select(wins, zero, rest)
        parts.append(rest)
        places = [lane + side for lane in range(lanes) for side in (0, lanes)]
        for position, (first, second) in ((start, parts[:2]), (second_row, parts[2:])):
            pointer = builder.gep(target, [position])
            for ahead in (0, lanes):
                columns = _picked(builder, first, second, places[ahead : ahead + lanes])
                builder.store(columns, _place(builder, pointer, lanes, ahead), align=4)
        return context.get_dummy_value()

    @intrinsic
    def call(context, gradient, values, best, target, start, width, place):
        return types.none(*[Pointer] * 4, *[types.int64] * 3), generate

    return call


_two_tiles, _four_tiles, _eight_tiles = map(_tiles_at_once, (2, 4, 8))
_two_backward, _four_backward, _eight_backward = map(_tiles_at_once_backward, (2, 4, 8))


@njit(**INSIDE)
def _lanes(rows, columns, across):
    """Return how many tiles of a row to compute at once, if they are 2 x 2, else 0."""
    if rows != 2 or columns != 2 or across < 2:
        return 0
    return 8 if across >= 8 else 4 if across >= 4 else 2


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
    lanes = _lanes(rows, columns, across)
    values, target = data_of(image), data_of(result)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            for step in range(0, across if lanes else 0, max(lanes, 1)):
                j = min(step, across - lanes)  # the last tiles may be computed twice
                here = start + 2 * j
                if lanes == 8:
                    _eight_tiles(values, target, here, width, place + j)
                elif lanes == 4:
                    _four_tiles(values, target, here, width, place + j)
                else:
                    _two_tiles(values, target, here, width, place + j)
            if lanes:
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
    lanes = _lanes(rows, columns, across)
    gradient, values, best, target, zero = data_of(g), data_of(image), data_of(maxima), data_of(result), float32(0)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            for step in range(0, across if lanes else 0, max(lanes, 1)):
                j = min(step, across - lanes)
                here = start + 2 * j
                if lanes == 8:
                    _eight_backward(gradient, values, best, target, here, width, place + j)
                elif lanes == 4:
                    _four_backward(gradient, values, best, target, here, width, place + j)
                else:
                    _two_backward(gradient, values, best, target, here, width, place + j)
            if lanes:
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
