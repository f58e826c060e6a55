"""What generated code calls for convolutions in float32: windows are multiplied where they lie, never copied.

Images lie row by row with their padding. All windows of one image are counted as if its rows went on without end, so
that neighbouring windows lie side by side: `plane` of them, a multiple of 16; those that reach around the edge are
computed in vain. ``steps`` says where the elements of a window lie in an image, counted from its first one.
"""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import float32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.compile.blocks import FILTERS, PLACES, SLOPES

_LANE, _LANES, _WORD = ir.IntType(32), 16, ir.IntType(64)
_ROW = ir.VectorType(ir.FloatType(), _LANES)
_NONE = ir.Constant(_ROW, ir.Undefined)
_LOOSE = ("contract", "reassoc")  # a product and a sum become one instruction


def _load(builder, pointer, place):
    row = builder.bitcast(builder.gep(pointer, [place]), _ROW.as_pointer())
    return builder.load(row, align=4)


def _spread(builder, number):
    row = builder.insert_element(_NONE, number, _LANE(0))
    return builder.shuffle_vector(row, _NONE, ir.Constant(ir.VectorType(_LANE, _LANES), [0] * _LANES))


def _added(builder, total, x, y):
    product = builder.fmul(x, y, flags=_LOOSE)
    builder.store(builder.fadd(product, builder.load(total), flags=_LOOSE), total)


def _totals(builder, count):
    return [cgutils.alloca_once(builder, _ROW) for _ in range(count)]


def _clear(builder, totals):
    for total in totals:
        builder.store(ir.Constant(_ROW, [0.0] * _LANES), total)


def _times(builder, number, factor):
    return builder.mul(number, ir.Constant(_WORD, factor))


def _parts(builder, number, size):
    """Loop over a number in parts of a size that divides it; yields where each begins."""
    return cgutils.for_range(builder, builder.udiv(number, ir.Constant(_WORD, size)))


def _sum(builder, row):
    kind = ir.FunctionType(ir.FloatType(), [ir.FloatType(), _ROW])
    add = builder.module.declare_intrinsic("llvm.vector.reduce.fadd.v16f32", fnty=kind)
    return builder.call(add, [ir.Constant(ir.FloatType(), 0.0), row], fastmath=_LOOSE)


_array, _places = types.CPointer(float32), types.CPointer(int64)
_NUMBERS = [int64] * 5


def _correlation(count):
    """Return what applies all filters, `count` at a time, to all windows; `weight` has shape (inner, filters)."""

    @intrinsic
    def correlate(context, x, weight, steps, out, samples, image, inner, filters, plane):
        def tile(builder, x, weight, steps, out, inner, filters, plane, totals):
            _clear(builder, totals)
            with cgutils.for_range(builder, inner) as r:
                row = _load(builder, x, builder.load(builder.gep(steps, [r.index])))
                line = builder.gep(weight, [builder.mul(r.index, filters)])
                for k, total in enumerate(totals):
                    factor = builder.load(builder.gep(line, [ir.Constant(_WORD, k)]))
                    _added(builder, total, _spread(builder, factor), row)
            for k, total in enumerate(totals):
                target = builder.gep(out, [_times(builder, plane, k)])
                builder.store(builder.load(total), builder.bitcast(target, _ROW.as_pointer()), align=4)

        def generate(context, builder, signature, arguments):
            x, weight, steps, out, samples, image, inner, filters, plane = arguments
            totals = _totals(builder, count)
            with cgutils.for_range(builder, samples) as n, _parts(builder, filters, count) as part:
                k = _times(builder, part.index, count)
                to = builder.mul(builder.add(builder.mul(n.index, filters), k), plane)
                begin = builder.mul(n.index, image)
                with _parts(builder, plane, _LANES) as block:
                    at = _times(builder, block.index, _LANES)
                    windows = builder.gep(x, [builder.add(begin, at)])
                    target = builder.gep(out, [builder.add(to, at)])
                    chosen = builder.gep(weight, [k])
                    tile(builder, windows, chosen, steps, target, inner, filters, plane, totals)
            return context.get_dummy_value()

        return types.void(_array, _array, _places, _array, *_NUMBERS), generate

    return correlate


def _slopes(count, places):
    """Return what multiplies all planes of slopes by all windows, so many of each at a time: (filters, inner)."""

    @intrinsic
    def slopes(context, x, y, steps, out, samples, image, inner, filters, plane):
        def planes(builder, x, y, starts, plane, totals):
            with _parts(builder, plane, _LANES) as block:
                at = _times(builder, block.index, _LANES)
                rows = [_load(builder, x, builder.add(start, at)) for start in starts]
                for k in range(count):
                    slope = _load(builder, y, builder.add(at, _times(builder, plane, k)))
                    for r, row in enumerate(rows):
                        _added(builder, totals[k * places + r], slope, row)

        def generate(context, builder, signature, arguments):
            x, y, steps, out, samples, image, inner, filters, plane = arguments
            totals, whole = _totals(builder, count * places), builder.mul(filters, plane)
            with _parts(builder, filters, count) as part, _parts(builder, inner, places) as place:
                k, r = _times(builder, part.index, count), _times(builder, place.index, places)
                starts = [
                    builder.load(builder.gep(steps, [builder.add(r, ir.Constant(_WORD, i))])) for i in range(places)
                ]
                _clear(builder, totals)
                with cgutils.for_range(builder, samples) as n:
                    images = builder.gep(x, [builder.mul(n.index, image)])
                    begin = builder.add(builder.mul(n.index, whole), builder.mul(k, plane))
                    planes(builder, images, builder.gep(y, [begin]), starts, plane, totals)
                to = builder.add(builder.mul(k, inner), r)
                for i, total in enumerate(totals):
                    target = builder.add(to, _times(builder, inner, i // places))
                    target = builder.add(target, ir.Constant(_WORD, i % places))
                    builder.store(_sum(builder, builder.load(total)), builder.gep(out, [target]))
            return context.get_dummy_value()

        return types.void(_array, _array, _places, _array, *_NUMBERS), generate

    return slopes


_FUNCTIONS = {f"_correlate{count}": _correlation(count) for count in FILTERS}
_FUNCTIONS |= {f"_slopes{count}x{places}": _slopes(count, places) for count in SLOPES for places in PLACES}
globals().update(_FUNCTIONS)
__all__ = list(_FUNCTIONS)
