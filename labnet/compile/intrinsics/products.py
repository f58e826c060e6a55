"""Matrix products for generated code: NumPy's BLAS, and register tiles for small products."""

# mypy: ignore-errors
# Numba finds the types.

import numpy as np
from llvmlite import ir
from numba import float32, float64, int32, int64, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.compile.intrinsics.pointers import made
from labnet.compile.intrinsics.tiling import TALLEST, WIDTH
from labnet.compile.intrinsics.vectors import Vectors
from labnet.compile.native.callee import callee
from labnet.compile.native.options import INNER
from labnet.kernels.blas import DGEMM, SGEMM, link

_LANE = ir.IntType(32)
_WORD = ir.IntType(64)


def _external(symbol, scalar):
    """Declare BLAS's matrix product, which computes ``c = factor * a @ b + share * c``."""
    array = types.CPointer(scalar)
    sizes = [*[types.int32] * 3, *[int64] * 3]
    return types.ExternalFunction(symbol, types.void(*sizes, scalar, array, int64, array, int64, scalar, array, int64))


@callee(**INNER)
def _by_loops(order, left, right, rows, columns, inner, factor, a, down_a, b, down_b, share, c, down_c):
    """Compute a matrix product by loops, if NumPy's BLAS is not available."""
    for i in range(rows):
        for j in range(columns):
            c[i * down_c + j] *= share
        for k in range(inner):
            x = factor * (a[i * down_a + k] if left == 111 else a[k * down_a + i])
            for j in range(columns):
                c[i * down_c + j] += x * (b[k * down_b + j] if right == 111 else b[j * down_b + k])


_gemm32, _gemm64 = (_external(SGEMM, float32), _external(DGEMM, float64)) if link() else (_by_loops, _by_loops)


def _blas(symbol, scalar, single):
    """Make the intrinsic that computes ``c = a @ b`` with NumPy's BLAS."""
    array = scalar.as_pointer()
    numbers = [*[_LANE] * 3, *[_WORD] * 3, scalar, array, _WORD, array, _WORD, scalar, array, _WORD]

    @intrinsic
    def product(context, left, right, rows, columns, inner, a, down_a, b, down_b, c):
        def emit(builder, left, right, rows, columns, inner, a, down_a, b, down_b, c):
            gemm = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), numbers), symbol)
            kinds = [builder.trunc(kind, _LANE) for kind in (left, right)]
            zero, one = (ir.Constant(scalar, number) for number in (0.0, 1.0))
            sizes = (rows, columns, inner)
            builder.call(gemm, [_LANE(101), *kinds, *sizes, one, a, down_a, b, down_b, zero, c, columns])
            return _LANE(0)

        place = types.CPointer(single)
        sizes = [int64] * 5
        return made(int32(*sizes, place, int64, place, int64, place), emit)

    return product


def _looped(zero):
    """Make the function that computes ``c = a @ b`` without BLAS."""

    @callee(**INNER)
    def product(left, right, rows, columns, inner, a, down_a, b, down_b, c):
        for position in range(rows * columns):
            c[position] = zero
        _by_loops(101, left, right, rows, columns, inner, zero + 1, a, down_a, b, down_b, zero + 1, c, columns)

    return product


if link():
    _product32, _product64 = _blas(SGEMM, ir.FloatType(), float32), _blas(DGEMM, ir.DoubleType(), float64)
else:
    _product32, _product64 = _looped(np.float32(0)), _looped(np.float64(0))


def _tiled(rows, wide):
    """Make the intrinsic that computes ``c = a @ b`` by tiles of `rows` rows and ``8 * wide`` columns.

    All sums of a tile stay in registers: each row is one LLVM vector, of as many registers as it needs. Loops that
    Numba vectorizes would load and store the sums in each turn.
    """
    width = WIDTH * wide

    def tile(code, a, b, c, inner, down, right, down_b, down_c):
        totals = code.totals([ir.Constant(code.row, [0.0] * width)] * rows)
        with cgutils.for_range(code.builder, inner) as k:
            line = code.load(b, code.builder.mul(k.index, down_b))
            column = code.ahead(a, code.builder.mul(k.index, right))
            for i, total in enumerate(totals):
                code.add(total, code.spread(code.read(column, code.times(down, i))), line)
        for i, total in enumerate(totals):
            code.store(code.builder.load(total), c, code.times(down_c, i))

    @intrinsic
    def tiles(context, a, b, c, high, broad, inner, down, right, down_b, down_c):
        def emit(builder, a, b, c, high, broad, inner, down, right, down_b, down_c):
            code = Vectors(builder, width)
            with cgutils.for_range(builder, broad) as j, cgutils.for_range(builder, high) as i:
                first, column = code.times(i.index, rows), code.times(j.index, width)
                from_a, from_b = code.ahead(a, builder.mul(first, down)), code.ahead(b, column)
                to = code.ahead(c, builder.add(builder.mul(first, down_c), column))
                tile(code, from_a, from_b, to, inner, down, right, down_b, down_c)
            return _LANE(0)

        pointer = types.CPointer(float32)
        return made(int32(pointer, pointer, pointer, *[int64] * 7), emit)

    return tiles


globals().update({f"_tiles{rows}x{wide}": _tiled(rows, wide) for rows in range(1, TALLEST + 1) for wide in (1, 2)})


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
