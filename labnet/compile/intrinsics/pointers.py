"""Pointer arithmetic for generated code: pointers into the arena, pointers to later elements, and transposition."""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import float32, float64, int8, int16, int32, int64, types, uint8, uint16, uint32, uint64
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.compile.intrinsics.tiling import SIDE

_BYTES = types.CPointer(uint8)


def made(signature, emit):
    """Return the signature and the generator of an intrinsic; as instructions, it needs no compilation of its own."""
    return signature, lambda _, builder, __, arguments: emit(builder, *arguments)


def _part(scalar):
    """Make the intrinsic that returns a typed pointer into the arena, `start` bytes from its beginning."""

    @intrinsic
    def part(context, arena, start):
        def generate(context, builder, signature, arguments):
            return builder.bitcast(
                builder.gep(arguments[0], [arguments[1]]), context.get_value_type(signature.return_type)
            )

        return types.CPointer(scalar)(_BYTES, int64), generate

    return part


_float32, _float64 = _part(float32), _part(float64)
_int8, _int16, _int32, _int64 = _part(int8), _part(int16), _part(int32), _part(int64)
_uint8, _uint16, _uint32, _uint64 = _part(uint8), _part(uint16), _part(uint32), _part(uint64)
_bool, _float16 = _uint8, _uint16  # their types in memory


@intrinsic
def _ahead(context, pointer, places):
    """Return a pointer advanced by a number of elements."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, int64), generate


@intrinsic
def _turned(context, x, out, rows, columns, down_x, down):
    """Transpose a float32 matrix block by block in registers; its sides are multiples of the block."""
    word, row = ir.IntType(64), ir.VectorType(ir.FloatType(), SIDE)

    def mixed(builder, first, second, lanes):
        return builder.shuffle_vector(first, second, ir.Constant(ir.VectorType(ir.IntType(32), SIDE), lanes))

    def turn(builder, rows):
        distance = SIDE // 2
        while distance:
            for i in range(SIDE):
                if not i & distance:
                    first, second = rows[i], rows[i + distance]
                    upper = [lane if not lane & distance else SIDE + lane - distance for lane in range(SIDE)]
                    rows[i] = mixed(builder, first, second, upper)
                    rows[i + distance] = mixed(builder, first, second, [n + distance for n in upper])
            distance //= 2
        return rows

    def emit(builder, x, out, rows, columns, down_x, down):
        side = word(SIDE)

        def place(pointer, i, j, step, k):
            start = builder.add(builder.mul(builder.add(i, word(k)), step), j)
            return builder.bitcast(builder.gep(pointer, [start]), row.as_pointer())

        down_blocks = cgutils.for_range(builder, builder.udiv(rows, side))
        with down_blocks as high, cgutils.for_range(builder, builder.udiv(columns, side)) as broad:
            i, j = builder.mul(high.index, side), builder.mul(broad.index, side)
            found = [builder.load(place(x, j, i, down_x, k), align=4) for k in range(SIDE)]
            for k, line in enumerate(turn(builder, found)):
                builder.store(line, place(out, i, j, down, k), align=4)
        return ir.IntType(32)(0)

    pointer = types.CPointer(float32)
    return made(int32(pointer, pointer, *[int64] * 4), emit)


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
