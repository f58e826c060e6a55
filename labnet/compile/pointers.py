"""What generated code calls to find its way in memory: pointers to parts of the arena, and further on."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, float64, int8, int16, int32, int64, types, uint8, uint16, uint32, uint64
from numba.extending import intrinsic

_BYTES = types.CPointer(uint8)


def made(signature, emit):
    """Return what an intrinsic consists of: written as instructions, a function needs no compilation of its own."""
    return signature, lambda _, builder, __, arguments: emit(builder, *arguments)


def _part(scalar):
    """Return the function that gives numbers of one type their place in the arena, so many bytes from its start."""

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
_bool = _uint8


@intrinsic
def _ahead(context, pointer, places):
    """Return a pointer to an element further on."""

    def generate(context, builder, signature, arguments):
        return builder.gep(arguments[0], [arguments[1]])

    return pointer(pointer, int64), generate


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
