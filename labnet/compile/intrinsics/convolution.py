"""Convolutions in float32 for generated code, without copies of each window.

`labnet.compile.intrinsics.correlation` defines the memory layout. All sizes are compile-time constants, so each
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


def _sizes_from(numbers):
    """Return the sizes of a convolution from a tuple of literal numbers."""
    return Correlation.of(*(number.literal_value for number in numbers.types))


def _copy_padded(code, shape, x, workspace, channels):
    """Copy channels of an image into the workspace, whose padding is already zero."""
    right = shape.stride[1]
    with code.loop(channels) as channel:
        image = code.ahead(x, code.times(channel.index, math.prod(shape.image)))
        to = code.ahead(workspace, code.times(channel.index, shape.channel))
        for start, rows, first, columns in shape.copies():
            with code.loop(rows) as row:
                source = code.ahead(code.ahead(image, first), code.times(row.index, shape.stride[0] * shape.image[1]))
                target = code.ahead(code.ahead(to, start), code.times(row.index, shape.sides[1]))
                code.copy(source, target, columns, right)


def _tiles(shape):
    """Return the tiles of windows of an image.

    Each entry is a loop nest: (first line, lines per tile, repeats, first vector, vectors per tile, repeats).
    """
    vectors, most = shape.length // shape.lanes, shape.wide()
    high = max(most // vectors, 1)
    return [(*down, *right) for down in evenly(shape.lines, high) for right in evenly(vectors, most)]


@intrinsic(prefer_literal=True)
def _correlate(context, x, weight, bias, workspace, out, numbers):
    """Correlate images with filters, and add a bias."""
    shape = _sizes_from(numbers)
    filters, inner, plane, lanes = shape.filters // shape.groups, shape.inner, shape.plane, shape.lanes
    whole = shape.parts[0][1] == shape.channels // shape.groups

    def tile(code, x, weight, steps, bias, out, count, places, size):
        """Accumulate products of `size` window elements in registers, for `count` filters."""
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

    def group_of(code, x, weight, steps, bias, workspace, out):
        if not whole:
            fill(code, bias, out)
        for first, channels, times in shape.parts:
            with code.loop(times) as turn:
                channel = code.builder.add(code.times(turn.index, channels), WORD(first))
                _copy_padded(
                    code, shape, code.ahead(x, code.times(channel, math.prod(shape.image))), workspace, channels
                )
                chosen = code.ahead(weight, code.times(channel, math.prod(shape.kernel)))
                image_of(code, workspace, chosen, steps, bias, out, channels * math.prod(shape.kernel))

    def generate(context, builder, signature, arguments):
        code = Vectors(builder, lanes)
        x, weight, bias, workspace, out = arguments[:5]
        steps = code.constant(shape.steps)
        code.clear(workspace, shape.padded)
        with code.loop(shape.samples) as n, code.loop(shape.groups) as group:
            place = builder.add(code.times(n.index, shape.groups), group.index)
            images = code.ahead(x, code.times(place, shape.channels // shape.groups * math.prod(shape.image)))
            final = code.ahead(out, code.times(place, filters * math.prod(shape.out)))
            k = code.times(group.index, filters)
            to = final if shape.is_direct else code.ahead(workspace, shape.padded)
            group_of(code, images, code.ahead(weight, code.times(k, inner)), steps, code.ahead(bias, k), workspace, to)
            if not shape.is_direct:
                _compact_rows(code, shape, to, final)
        return context.get_dummy_value()

    return types.void(*[_array] * 5, numbers), generate


def _compact_rows(code, shape, wide, out):
    """Copy the results of a group out of the workspace, without the columns between rows."""
    with code.loop(shape.filters // shape.groups) as k, code.loop(shape.out[0]) as row:
        start = code.builder.add(code.times(k.index, shape.plane), code.times(row.index, shape.sides[1]))
        to = code.builder.add(code.times(k.index, math.prod(shape.out)), code.times(row.index, shape.out[1]))
        code.copy(code.ahead(wide, start), code.ahead(out, to), shape.out[1])


def _expand_rows(code, shape, y, wide):
    """Copy gradients to rows of the length of a plane, whose remaining columns are zero."""
    with code.loop(shape.filters) as k, code.loop(shape.out[0]) as row:
        to = code.builder.add(code.times(k.index, shape.plane), code.times(row.index, shape.sides[1]))
        start = code.builder.add(code.times(k.index, math.prod(shape.out)), code.times(row.index, shape.out[1]))
        code.copy(code.ahead(y, start), code.ahead(wide, to), shape.out[1])


@intrinsic(prefer_literal=True)
def _filter_gradient(context, x, y, workspace, out, numbers):
    """Compute the gradient of the filters from the images and the gradient of the result."""
    shape = _sizes_from(numbers)
    filters, inner, plane, lanes = shape.filters // shape.groups, shape.inner, shape.plane, shape.lanes
    result = shape.filters * math.prod(shape.out)
    apart = shape.filters * plane
    wide = shape.wide()

    def tile(code, x, y, steps, out, count, places, size):
        """Accumulate the gradient of `count` filters at `places` window elements, over `size` images."""
        starts = [code.read(steps, j) for j in range(places)]
        totals = code.totals([ir.Constant(code.row, [0.0] * lanes)] * (count * places))
        with code.loop(size) as n, code.loop(shape.lines) as line, code.loop(shape.length // lanes) as block:
            at = code.times(block.index, lanes)
            windows = code.ahead(code.ahead(x, code.times(n.index, shape.padded)), code.times(line.index, shape.down))
            gradients = code.ahead(code.ahead(y, code.times(n.index, apart)), code.times(line.index, shape.length))
            rows = [code.load(code.ahead(windows, start), at) for start in starts]
            for i in range(count):
                gradient = code.load(code.ahead(gradients, i * plane), at)
                for j, row in enumerate(rows):
                    code.add(totals[i * places + j], gradient, row)
        for position, total in enumerate(totals):
            target = code.ahead(out, position // places * inner + position % places)
            sum = code.sum(code.builder.load(total))
            code.builder.store(code.builder.fadd(code.builder.load(target), sum), target)

    def part_of(code, x, y, steps, out, size, places):
        """Accumulate the gradient at `places` window elements of `size` images, which are in the workspace."""
        for k, count, downs in shape.high(wide):
            for r, seen, rights in evenly(places, wide):
                with code.loop(downs) as down, code.loop(rights) as right:
                    begin = code.builder.add(code.times(down.index, count), WORD(k))
                    place = code.builder.add(code.times(right.index, seen), WORD(r))
                    gradients, chosen = code.ahead(y, code.times(begin, plane)), code.ahead(steps, place)
                    target = code.ahead(code.ahead(out, code.times(begin, inner)), place)
                    tile(code, x, gradients, chosen, target, count, seen, size)

    def group_of(code, x, y, steps, workspace, out, size):
        for first, channels, times in shape.parts:
            with code.loop(times) as turn:
                channel = code.builder.add(code.times(turn.index, channels), WORD(first))
                images = code.ahead(x, code.times(channel, math.prod(shape.image)))
                with code.loop(size) as n:
                    image = code.ahead(images, code.times(n.index, shape.channels * math.prod(shape.image)))
                    _copy_padded(code, shape, image, code.ahead(workspace, code.times(n.index, shape.padded)), channels)
                target = code.ahead(out, code.times(channel, math.prod(shape.kernel)))
                part_of(code, workspace, y, steps, target, size, channels * math.prod(shape.kernel))

    def gradient_of(code, y, workspace, size):
        """Return the gradients of `size` images in lines, copied into the workspace if necessary."""
        if shape.is_direct:
            return y
        spread = code.ahead(workspace, shape.together * shape.padded)
        with code.loop(size) as n:
            source, target = code.ahead(y, code.times(n.index, result)), code.ahead(spread, code.times(n.index, apart))
            _expand_rows(code, shape, source, target)
        return spread

    def generate(context, builder, signature, arguments):
        code = Vectors(builder, lanes)
        x, y, workspace, out = arguments[:4]
        steps = code.constant(shape.steps)
        code.clear(workspace, shape.gradient_workspace)
        code.clear(out, shape.filters * inner)
        for first, size, times in evenly(shape.samples, shape.together):
            with code.loop(times) as turn:
                n = builder.add(code.times(turn.index, size), WORD(first))
                images = code.ahead(x, code.times(n, shape.channels * math.prod(shape.image)))
                gradients = gradient_of(code, code.ahead(y, code.times(n, result)), workspace, size)
                with code.loop(shape.groups) as group:
                    channels = code.times(group.index, shape.channels // shape.groups * math.prod(shape.image))
                    k = code.times(group.index, filters)
                    target = code.ahead(out, code.times(k, inner))
                    windows = code.ahead(images, channels)
                    group_of(code, windows, code.ahead(gradients, code.times(k, plane)), steps, workspace, target, size)
        return context.get_dummy_value()

    return types.void(*[_array] * 4, numbers), generate


@intrinsic
def _workspace(context, out):
    """Reserve working memory for a call: a value with uninitialized elements."""

    def generate(context, builder, signature, arguments):
        return context.get_dummy_value()

    return types.void(_array), generate


__all__ = ["_correlate", "_filter_gradient", "_workspace"]
