"""What generated code calls for convolutions in float32: windows are multiplied where they lie, never copied.

Images lie row by row with their padding. All windows of one image are counted as if its rows went on without end, so
that neighbouring windows lie side by side: `plane` of them, a multiple of 16; those that reach around the edge are
computed in vain. ``steps`` says where the elements of a window lie in an image, counted from its first one.
"""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import float32, int64, njit, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.compile.blocks import FILTERS, PLACES, SLOPES
from labnet.compile.recurrences import _ahead

_WHOLE = {"error_model": "numpy", "boundscheck": False, "forceinline": True}
_WHOLE |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # nobody calls them from Python
_LANE, _LANES = ir.IntType(32), 16
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


def _zeros(builder, count):
    totals = [cgutils.alloca_once(builder, _ROW) for _ in range(count)]
    for total in totals:
        builder.store(ir.Constant(_ROW, [0.0] * _LANES), total)
    return totals


_array, _places = types.CPointer(float32), types.CPointer(int64)


def _filtering(count):
    """Return what applies `count` filters, which lie side by side, to 16 windows."""

    @intrinsic
    def filtered(context, x, weight, steps, out, inner, filters, plane):
        def generate(context, builder, signature, arguments):
            x, weight, steps, out, inner, filters, plane = arguments
            totals = _zeros(builder, count)
            with cgutils.for_range(builder, inner) as r:
                row = _load(builder, x, builder.load(builder.gep(steps, [r.index])))
                line = builder.gep(weight, [builder.mul(r.index, filters)])
                for k, total in enumerate(totals):
                    factor = builder.load(builder.gep(line, [ir.Constant(ir.IntType(64), k)]))
                    _added(builder, total, _spread(builder, factor), row)
            for k, total in enumerate(totals):
                place = builder.mul(plane, ir.Constant(ir.IntType(64), k))
                target = builder.bitcast(builder.gep(out, [place]), _ROW.as_pointer())
                builder.store(builder.load(total), target, align=4)
            return context.get_dummy_value()

        return types.void(_array, _array, _places, _array, int64, int64, int64), generate

    return filtered


def _sliding(count, places):
    """Return what multiplies `count` planes of slopes by as many windows as `places` says, over all of a plane."""

    @intrinsic
    def slid(context, x, y, steps, out, samples, image, inner, filters, plane):
        def generate(context, builder, signature, arguments):
            x, y, steps, out, samples, image, inner, filters, plane = arguments
            word = ir.IntType(64)
            totals = _zeros(builder, count * places)
            starts = [builder.load(builder.gep(steps, [ir.Constant(word, r)])) for r in range(places)]
            whole, blocks = builder.mul(filters, plane), builder.udiv(plane, ir.Constant(word, _LANES))
            with cgutils.for_range(builder, samples) as n:
                images = builder.gep(x, [builder.mul(n.index, image)])
                slopes = builder.gep(y, [builder.mul(n.index, whole)])
                with cgutils.for_range(builder, blocks) as block:
                    at = builder.mul(block.index, ir.Constant(word, _LANES))
                    rows = [_load(builder, images, builder.add(start, at)) for start in starts]
                    for k in range(count):
                        down = builder.mul(plane, ir.Constant(word, k))
                        slope = _load(builder, slopes, builder.add(at, down))
                        for r, row in enumerate(rows):
                            _added(builder, totals[k * places + r], slope, row)
            for k in range(count):
                for r in range(places):
                    total = builder.load(totals[k * places + r])
                    add = builder.module.declare_intrinsic(
                        "llvm.vector.reduce.fadd.v16f32",
                        fnty=ir.FunctionType(ir.FloatType(), [ir.FloatType(), _ROW]),
                    )
                    found = builder.call(add, [ir.Constant(ir.FloatType(), 0.0), total], fastmath=_LOOSE)
                    place = builder.add(builder.mul(inner, ir.Constant(word, k)), ir.Constant(word, r))
                    builder.store(found, builder.gep(out, [place]))
            return context.get_dummy_value()

        return types.void(_array, _array, _places, _array, *[int64] * 5), generate

    return slid


def _correlation(count):
    filtered = _filtering(count)

    @njit(**_WHOLE)
    def correlate(x, weight, steps, out, samples, image, inner, filters, plane):
        """Apply all filters to all windows of all images; `weight` has shape (inner, filters)."""
        for n in range(samples):
            for k in range(0, filters, count):
                to = _ahead(out, (n * filters + k) * plane)
                for at in range(0, plane, 16):
                    filtered(
                        *(_ahead(x, n * image + at), _ahead(weight, k), steps, _ahead(to, at)),
                        *(inner, filters, plane),
                    )

    return correlate


def _slopes(count, places):
    slid = _sliding(count, places)

    @njit(**_WHOLE)
    def slopes(x, y, steps, out, samples, image, inner, filters, plane):
        """Multiply all planes of slopes by the windows of all images; the result has shape (filters, inner)."""
        for k in range(0, filters, count):
            for r in range(0, inner, places):
                slid(
                    *(x, _ahead(y, k * plane), _ahead(steps, r), _ahead(out, k * inner + r)),
                    *(samples, image, inner, filters, plane),
                )

    return slopes


_FUNCTIONS = {f"_correlate{count}": _correlation(count) for count in FILTERS}
_FUNCTIONS |= {f"_slopes{count}x{places}": _slopes(count, places) for count in SLOPES for places in PLACES}
globals().update(_FUNCTIONS)
__all__ = list(_FUNCTIONS)
