"""Convolutions in float32 for generated code: windows are multiplied where they lie in the images.

`labnet.compile.intrinsics.correlation` defines the memory layout. All sizes are known when code is generated, so each
convolution has its own instructions.
"""

# mypy: ignore-errors
# Numba finds the types.

import math

from llvmlite import ir
from numba import float32, types
from numba.extending import intrinsic

from labnet.compile.intrinsics.correlation import Correlation
from labnet.compile.intrinsics.tiling import evenly
from labnet.compile.intrinsics.vectors import WORD, Vectors

_array = types.CPointer(float32)


def _described(numbers):
    """Return the convolution that a tuple of literal numbers describes."""
    return Correlation.of(*(number.literal_value for number in numbers.types))


def _padded(code, shape, x, room, channels):
    """Copy so many channels of an image into the room, whose padding is blank."""
    right = shape.stride[1]
    with code.loop(channels) as channel:
        image = code.ahead(x, code.times(channel.index, math.prod(shape.image)))
        to = code.ahead(room, code.times(channel.index, shape.channel))
        for start, rows, first, columns in shape.copies():
            with code.loop(rows) as row:
                source = code.ahead(code.ahead(image, first), code.times(row.index, shape.stride[0] * shape.image[1]))
                target = code.ahead(code.ahead(to, start), code.times(row.index, shape.sides[1]))
                code.copy(source, target, columns, right)


def _tiles(shape):
    """Return the tiles of windows of an image: loops over lines and vectors, and what one takes of each.

    A tile is (first line, lines, times, first vector, vectors, times).
    """
    vectors, most = shape.length // shape.lanes, shape.wide()
    high = max(most // vectors, 1)
    return [(*down, *right) for down in evenly(shape.lines, high) for right in evenly(vectors, most)]


@intrinsic(prefer_literal=True)
def _correlate(context, x, weight, bias, room, out, numbers):
    """Apply filters to images, and add a bias."""
    shape = _described(numbers)
    filters, inner, plane, lanes = shape.filters // shape.groups, shape.inner, shape.plane, shape.lanes
    whole = shape.parts[0][1] == shape.channels // shape.groups

    def tile(code, x, weight, steps, bias, out, count, places, size):
        """Add products of so many elements of windows to sums of some filters, in registers."""
        seen, targets = places
        if whole:
            starts = [code.spread(code.read(bias, i)) for i in range(count) for _ in targets]
        else:
            starts = [code.load(out, i * plane + to) for i in range(count) for to in targets]
        totals = code.totals(starts)
        with code.loop(size) as r:
            windows = code.ahead(x, code.read(steps, r.index))
            rows = [code.load(windows, place) for place in seen]
            for i in range(count):
                factor = code.spread(code.read(code.ahead(weight, i * inner), r.index))
                for j, row in enumerate(rows):
                    code.add(totals[i * len(rows) + j], factor, row)
        for i in range(count):
            for j, to in enumerate(targets):
                code.store(code.builder.load(totals[i * len(rows) + j]), out, i * plane + to)

    def image_of(code, x, weight, steps, bias, out, size):
        for line, high, downs, vector, wide, rights in _tiles(shape):
            places = [(i, j * lanes) for i in range(high) for j in range(wide)]
            places = [i * shape.down + j for i, j in places], [i * shape.length + j for i, j in places]
            for k, count, times in shape.high(high * wide):
                with code.loop(times) as block, code.loop(downs) as down, code.loop(rights) as right:
                    line_of = code.builder.add(code.times(down.index, high), WORD(line))
                    at = code.builder.add(code.times(right.index, wide * lanes), WORD(vector * lanes))
                    windows = code.ahead(x, code.builder.add(code.times(line_of, shape.down), at))
                    to = code.ahead(out, code.builder.add(code.times(line_of, shape.length), at))
                    begin = code.builder.add(code.times(block.index, count), WORD(k))
                    target = code.ahead(to, code.times(begin, plane))
                    chosen = code.ahead(weight, code.times(begin, inner))
                    tile(code, windows, chosen, steps, code.ahead(bias, begin), target, count, places, size)

    def fill(code, bias, out):
        with code.loop(filters) as k:
            row, to = code.spread(code.read(bias, k.index)), code.ahead(out, code.times(k.index, plane))
            with code.loop(plane // lanes) as block:
                code.store(row, to, code.times(block.index, lanes))

    def group_of(code, x, weight, steps, bias, room, out):
        if not whole:
            fill(code, bias, out)
        for first, channels, times in shape.parts:
            with code.loop(times) as turn:
                channel = code.builder.add(code.times(turn.index, channels), WORD(first))
                _padded(code, shape, code.ahead(x, code.times(channel, math.prod(shape.image))), room, channels)
                chosen = code.ahead(weight, code.times(channel, math.prod(shape.kernel)))
                image_of(code, room, chosen, steps, bias, out, channels * math.prod(shape.kernel))

    def generate(context, builder, signature, arguments):
        code = Vectors(builder, lanes)
        x, weight, bias, room, out = arguments[:5]
        steps = code.constant(shape.steps)
        code.clear(room, shape.padded)
        with code.loop(shape.samples) as n, code.loop(shape.groups) as group:
            place = builder.add(code.times(n.index, shape.groups), group.index)
            images = code.ahead(x, code.times(place, shape.channels // shape.groups * math.prod(shape.image)))
            final = code.ahead(out, code.times(place, filters * math.prod(shape.out)))
            k = code.times(group.index, filters)
            to = final if shape.is_direct else code.ahead(room, shape.padded)
            group_of(code, images, code.ahead(weight, code.times(k, inner)), steps, code.ahead(bias, k), room, to)
            if not shape.is_direct:
                _compact(code, shape, to, final)
        return context.get_dummy_value()

    return types.void(*[_array] * 5, numbers), generate


def _compact(code, shape, wide, out):
    """Copy windows of a group out of the room."""
    with code.loop(shape.filters // shape.groups) as k, code.loop(shape.out[0]) as row:
        start = code.builder.add(code.times(k.index, shape.plane), code.times(row.index, shape.sides[1]))
        to = code.builder.add(code.times(k.index, math.prod(shape.out)), code.times(row.index, shape.out[1]))
        code.copy(code.ahead(wide, start), code.ahead(out, to), shape.out[1])


def _spread_out(code, shape, y, wide):
    """Copy windows to where they lie as if rows went on without end; what lies between them is blank."""
    with code.loop(shape.filters) as k, code.loop(shape.out[0]) as row:
        to = code.builder.add(code.times(k.index, shape.plane), code.times(row.index, shape.sides[1]))
        start = code.builder.add(code.times(k.index, math.prod(shape.out)), code.times(row.index, shape.out[1]))
        code.copy(code.ahead(y, start), code.ahead(wide, to), shape.out[1])


@intrinsic(prefer_literal=True)
def _slopes(context, x, y, room, out, numbers):
    """Multiply slopes of the result by the windows that they come from: slopes of the filters."""
    shape = _described(numbers)
    filters, inner, plane, lanes = shape.filters // shape.groups, shape.inner, shape.plane, shape.lanes
    result = shape.filters * math.prod(shape.out)
    apart = shape.filters * plane
    wide = shape.wide()

    def tile(code, x, y, steps, out, count, places, size):
        """Add to slopes of some filters at some elements of their windows, those of so many images at once."""
        starts = [code.read(steps, j) for j in range(places)]
        totals = code.totals([ir.Constant(code.row, [0.0] * lanes)] * (count * places))
        with code.loop(size) as n, code.loop(shape.lines) as line, code.loop(shape.length // lanes) as block:
            at = code.times(block.index, lanes)
            windows = code.ahead(code.ahead(x, code.times(n.index, shape.padded)), code.times(line.index, shape.down))
            slopes = code.ahead(code.ahead(y, code.times(n.index, apart)), code.times(line.index, shape.length))
            rows = [code.load(code.ahead(windows, start), at) for start in starts]
            for i in range(count):
                slope = code.load(code.ahead(slopes, i * plane), at)
                for j, row in enumerate(rows):
                    code.add(totals[i * places + j], slope, row)
        for position, total in enumerate(totals):
            target = code.ahead(out, position // places * inner + position % places)
            sum = code.sum(code.builder.load(total))
            code.builder.store(code.builder.fadd(code.builder.load(target), sum), target)

    def part_of(code, x, y, steps, out, size, places):
        """Do so many elements of windows of so many images, which lie in the room."""
        for k, count, downs in shape.high(wide):
            for r, seen, rights in evenly(places, wide):
                with code.loop(downs) as down, code.loop(rights) as right:
                    begin = code.builder.add(code.times(down.index, count), WORD(k))
                    place = code.builder.add(code.times(right.index, seen), WORD(r))
                    slopes, chosen = code.ahead(y, code.times(begin, plane)), code.ahead(steps, place)
                    target = code.ahead(code.ahead(out, code.times(begin, inner)), place)
                    tile(code, x, slopes, chosen, target, count, seen, size)

    def group_of(code, x, y, steps, room, out, size):
        for first, channels, times in shape.parts:
            with code.loop(times) as turn:
                channel = code.builder.add(code.times(turn.index, channels), WORD(first))
                images = code.ahead(x, code.times(channel, math.prod(shape.image)))
                with code.loop(size) as n:
                    image = code.ahead(images, code.times(n.index, shape.channels * math.prod(shape.image)))
                    _padded(code, shape, image, code.ahead(room, code.times(n.index, shape.padded)), channels)
                target = code.ahead(out, code.times(channel, math.prod(shape.kernel)))
                part_of(code, room, y, steps, target, size, channels * math.prod(shape.kernel))

    def slopes_of(code, y, room, size):
        """Return where slopes of so many images lie in lines: copied into the room if need be."""
        if shape.is_direct:
            return y
        spread = code.ahead(room, shape.together * shape.padded)
        with code.loop(size) as n:
            source, target = code.ahead(y, code.times(n.index, result)), code.ahead(spread, code.times(n.index, apart))
            _spread_out(code, shape, source, target)
        return spread

    def generate(context, builder, signature, arguments):
        code = Vectors(builder, lanes)
        x, y, room, out = arguments[:4]
        steps = code.constant(shape.steps)
        code.clear(room, shape.room_for_slopes)
        code.clear(out, shape.filters * inner)
        for first, size, times in evenly(shape.samples, shape.together):
            with code.loop(times) as turn:
                n = builder.add(code.times(turn.index, size), WORD(first))
                images = code.ahead(x, code.times(n, shape.channels * math.prod(shape.image)))
                slopes = slopes_of(code, code.ahead(y, code.times(n, result)), room, size)
                with code.loop(shape.groups) as group:
                    channels = code.times(group.index, shape.channels // shape.groups * math.prod(shape.image))
                    k = code.times(group.index, filters)
                    target = code.ahead(out, code.times(k, inner))
                    windows = code.ahead(images, channels)
                    group_of(code, windows, code.ahead(slopes, code.times(k, plane)), steps, room, target, size)
        return context.get_dummy_value()

    return types.void(*[_array] * 4, numbers), generate


@intrinsic
def _room(context, out):
    """Reserve working memory for a call: a value whose elements are not computed."""

    def generate(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(_array), generate


__all__ = ["_correlate", "_room", "_slopes"]
