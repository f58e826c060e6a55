"""Sums and maxima of numbers that lie side by side: sums in NumPy's order, maxima in any.

NumPy adds up to 128 numbers in eight interleaved sums, and halves more than that. The eight are one vector here.
"""

# mypy: ignore-errors
# Numba finds the types.

import functools
from typing import Any

from llvmlite import ir
from numba import float32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, Pointer

#: Numbers between those that are read and those that are prefetched, which the next call reads.
_AHEAD = 1024
_WORD = ir.IntType(64)
_LANES = ir.VectorType(ir.FloatType(), 8)


def _loaded(builder: Any, pointer: Any, position: Any) -> Any:
    """Emit a load of eight numbers."""
    found = builder.load(builder.bitcast(builder.gep(pointer, [position]), _LANES.as_pointer()))
    found.align = 4
    return found


def _total(lanes: Any, combine: Any) -> Any:
    """Emit the pairwise combination of eight numbers."""
    while len(lanes) > 1:
        lanes = [combine(lanes[i], lanes[i + 1]) for i in range(0, len(lanes), 2)]
    return lanes[0]


def _lanes(builder: Any, row: Any) -> list[Any]:
    return [builder.extract_element(row, ir.IntType(32)(lane)) for lane in range(8)]


def _shuffled_sum(builder: Any, one: Any, other: Any, lanes: list[int], step: int) -> Any:
    """Emit the sums of elements of two vectors and those `step` behind them."""
    kind = ir.VectorType(ir.IntType(32), len(lanes))
    places = [ir.Constant(kind, [lane + ahead for lane in lanes]) for ahead in (0, step)]
    return builder.fadd(*[builder.shuffle_vector(one, other, place) for place in places])


def _totals(builder: Any, rows: list[Any]) -> list[Any]:
    """Emit the total of each vector, of four vectors at a time if there are as many."""
    if len(rows) % 4:
        return [_total(_lanes(builder, row), builder.fadd) for row in rows]
    found = []
    pairs = [0, 2, 8, 10, 4, 6, 12, 14]  # in this order, it is one instruction
    for first in range(0, len(rows), 4):
        a, b, c, d = rows[first : first + 4]
        low, high = (_shuffled_sum(builder, *both, pairs, 1) for both in ((a, b), (c, d)))
        quarters = _shuffled_sum(builder, low, high, pairs, 1)
        four = _shuffled_sum(builder, quarters, quarters, [0, 1, 2, 3], 4)
        found += [builder.extract_element(four, ir.IntType(32)(lane)) for lane in range(4)]
    return found


def _prefetch(builder: Any, pointer: Any, position: Any) -> None:
    """Emit a request for the line of the cache that holds a number, which need not exist."""
    place, number = ir.IntType(8).as_pointer(), ir.IntType(32)
    kind = ir.FunctionType(ir.VoidType(), [place, number, number, number])
    function = cgutils.get_or_insert_function(builder.module, kind, "llvm.prefetch.p0")
    address = builder.bitcast(builder.gep(pointer, [position]), place)
    builder.call(function, [address, number(0), number(3), number(1)])


def _parts_sum(builder: Any, ends: Any, vector: Any, number: Any, prefetch: Any = None) -> Any:
    """Emit the sums of consecutive parts of a row, up to 128 numbers each, and their pairwise combination.

    The vectors of all parts are added in one loop, since each addition waits for the one before. `vector` and `number`
    emit the eight elements at a position, and a single one. All parts but the last are multiples of eight long.
    """
    starts = [_WORD(0), *ends[:-1]]
    places = [cgutils.alloca_once_value(builder, vector(start)) for start in starts]
    lengths = [builder.sub(end, start) for start, end in zip(starts, ends, strict=True)]
    lengths[-1] = builder.and_(lengths[-1], _WORD(-8))
    common = functools.reduce(lambda a, b: builder.select(builder.icmp_signed("<", a, b), a, b), lengths)

    def add(place: Any, position: Any) -> None:
        builder.store(builder.fadd(builder.load(place), vector(position)), place)

    with cgutils.for_range_slice(builder, _WORD(8), common, _WORD(8)) as (position, _):
        for place, start in zip(places, starts, strict=True):
            add(place, builder.add(start, position))
            if prefetch is not None:
                prefetch(builder.add(builder.add(start, position), _WORD(_AHEAD)))
    for place, start, length in zip(places, starts, lengths, strict=True) if len(ends) > 1 else ():
        is_longer = builder.icmp_signed("<", common, length)  # by eight, never more
        value = vector(builder.select(is_longer, builder.add(start, common), start))
        value = builder.select(is_longer, value, _LANES([-0.0] * 8))  # which changes no sum
        builder.store(builder.fadd(builder.load(place), value), place)
    totals = _totals(builder, [builder.load(place) for place in places])
    last = cgutils.alloca_once_value(builder, totals[-1])
    with cgutils.for_range_slice(builder, builder.add(starts[-1], lengths[-1]), ends[-1], _WORD(1)) as (position, _):
        builder.store(builder.fadd(builder.load(last), number(position)), last)
    return _total([*totals[:-1], builder.load(last)], builder.fadd)


def _sum_of(parts: int, *, is_product: bool, is_ahead: bool = False) -> Any:
    """Return an intrinsic that sums a row, or the products of two, in consecutive parts, given where they end.

    It prefetches the next numbers if `is_ahead`, since the processor does not foresee what several parts read.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        first, second, *ends = arguments

        def joined(load: Any) -> Any:
            return builder.fmul(load(first), load(second)) if is_product else load(first)

        def prefetch(position: Any) -> None:
            for pointer in (first, second)[: 1 + is_product]:
                _prefetch(builder, pointer, position)

        return _parts_sum(
            builder,
            ends,
            lambda position: joined(lambda pointer: _loaded(builder, pointer, position)),
            lambda position: joined(lambda pointer: builder.load(builder.gep(pointer, [position]))),
            prefetch if is_ahead else None,
        )

    @intrinsic
    def one(context: Any, x: Any, y: Any, end: Any) -> Any:
        return float32(Pointer, Pointer, int64), generate

    @intrinsic
    def two(context: Any, x: Any, y: Any, first: Any, end: Any) -> Any:
        return float32(Pointer, Pointer, int64, int64), generate

    @intrinsic
    def four(context: Any, x: Any, y: Any, first: Any, second: Any, third: Any, end: Any) -> Any:
        return float32(Pointer, Pointer, *[int64] * 4), generate

    @intrinsic
    def eight(context: Any, x: Any, y: Any, a: Any, b: Any, c: Any, d: Any, e: Any, f: Any, g: Any, end: Any) -> Any:
        return float32(Pointer, Pointer, *[int64] * 8), generate

    return {1: one, 2: two, 4: four, 8: eight}[parts]


@intrinsic
def _lane_max(context: Any, numbers: Any, length: Any) -> Any:
    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        pointer, length = arguments

        def greater(a: Any, b: Any) -> Any:
            return builder.select(builder.fcmp_ordered(">", b, a), b, a)

        place = cgutils.alloca_once_value(builder, _loaded(builder, pointer, _WORD(0)))
        with cgutils.for_range_slice(builder, _WORD(8), length, _WORD(8)) as (position, _):
            builder.store(greater(builder.load(place), _loaded(builder, pointer, position)), place)
        return _total(_lanes(builder, builder.load(place)), greater)

    return float32(Pointer, int64), generate


@intrinsic
def ahead(context: Any, pointer: Any, count: Any) -> Any:
    """Return the pointer to the number that lies `count` numbers behind another one."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.gep(arguments[0], [arguments[1]])

    return Pointer(Pointer, int64), generate


def row_map(count: int, emit: Any) -> Any:
    """Return a function that computes a row from another, or in place, and `count` numbers; short rows take few steps.

    It takes pointers to both rows, their length and the numbers. `emit` emits the arithmetic of one element, or eight.
    """

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        x, out, size, *numbers = arguments
        spread = [cgutils.alloca_once(builder, _LANES) for _ in numbers]
        for place, number in zip(spread, numbers, strict=True):
            lanes = builder.insert_element(_LANES(ir.Undefined), number, ir.IntType(32)(0))
            zeros = ir.VectorType(ir.IntType(32), 8)(None)
            builder.store(builder.shuffle_vector(lanes, lanes, zeros), place)
        whole = builder.and_(size, _WORD(-8))
        with cgutils.for_range_slice(builder, _WORD(0), whole, _WORD(8)) as (position, _):
            found = emit(builder, _loaded(builder, x, position), *[builder.load(place) for place in spread])
            target = builder.bitcast(builder.gep(out, [position]), _LANES.as_pointer())
            builder.store(found, target).align = 4
        with cgutils.for_range_slice(builder, whole, size, _WORD(1)) as (position, _):
            found = emit(builder, builder.load(builder.gep(x, [position])), *numbers)
            builder.store(found, builder.gep(out, [position]))
        return context.get_dummy_value()

    @intrinsic
    def one(context: Any, x: Any, out: Any, size: Any, a: Any) -> Any:
        return types.none(Pointer, Pointer, int64, float32), generate

    @intrinsic
    def two(context: Any, x: Any, out: Any, size: Any, a: Any, b: Any) -> Any:
        return types.none(Pointer, Pointer, int64, float32, float32), generate

    return one if count == 1 else two


@njit(**INSIDE)
def _middle(start, end):
    """Return where NumPy divides a part."""
    half = (end - start) // 2
    return start + half - half % 8


def _partial(is_product: bool) -> Any:
    """Return the function that sums in parts; its first two arguments are the same row for a plain sum.

    The last argument states whether the numbers are part of a long row.
    """
    one, two, four, eight = (_sum_of(parts, is_product=is_product) for parts in (1, 2, 4, 8))

    eight_ahead = _sum_of(8, is_product=is_product, is_ahead=True)

    @njit(**OPTIONS)
    def partial(x, y, size, is_long):
        if size < 8:
            total = float32(-0.0)
            for i in range(size):
                total += x[i] * y[i] if is_product else x[i]
            return total
        if size <= 128:
            return one(x, y, size)
        half = _middle(0, size)
        if size - half <= 128:
            return two(x, y, half, size)
        quarter, third = _middle(0, half), _middle(half, size)
        if half > 128 and half - quarter <= 128 and size - third <= 128:
            return four(x, y, quarter, half, third, size)
        a, c, e, g = _middle(0, quarter), _middle(quarter, half), _middle(half, third), _middle(third, size)
        if quarter > 128 and quarter - a <= 128 and size - g <= 128:
            if is_long:
                return eight_ahead(x, y, a, quarter, c, half, e, third, g, size)
            return eight(x, y, a, quarter, c, half, e, third, g, size)
        return partial(x, y, half, is_long) + partial(ahead(x, half), ahead(y, half), size - half, is_long)

    return partial


_partial_sum, _partial_product_sum = _partial(is_product=False), _partial(is_product=True)


@njit(**INSIDE)
def row_sum(x, size):
    """Return the sum of numbers, with the bits of `np.sum`."""
    return float32(0) + _partial_sum(x, x, size, size > _AHEAD)


@njit(**INSIDE)
def row_product_sum(x, y, size):
    """Return the sum of the products of two rows, with the bits of ``np.sum(x * y)``."""
    return float32(0) + _partial_product_sum(x, y, size, size > _AHEAD)


@njit(**INSIDE)
def row_max(x, size):
    """Return the greatest number, unless one of them is NaN: then it may be any."""
    whole = size - size % 8
    found = _lane_max(x, whole) if whole else x[0]
    for i in range(whole, size):
        found = x[i] if x[i] > found else found
    return found
