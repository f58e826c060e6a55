"""Short rows and blocks of numbers in vectors: copied, added and transposed."""

# mypy: ignore-errors
# Numba finds the types.

from typing import Any

from llvmlite import ir
from numba import float32, int64, njit, types
from numba.extending import intrinsic

from labnet.kernels.cpu.arrays import APART, Pointer
from labnet.kernels.cpu.summation import ahead

_SIDE = 8


def _vector(builder: Any, pointer: Any, lanes: int) -> Any:
    return builder.bitcast(pointer, ir.VectorType(ir.FloatType(), lanes).as_pointer())


def _loaded(builder: Any, pointer: Any, lanes: int) -> Any:
    found = builder.load(_vector(builder, pointer, lanes))
    found.align = 4
    return found


def _store(builder: Any, value: Any, pointer: Any) -> None:
    builder.store(value, _vector(builder, pointer, value.type.count)).align = 4


def _moved(lanes: int, *, is_sum: bool) -> Any:
    """Return an intrinsic that copies a vector, or adds it to what is there."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = arguments
        value = _loaded(builder, source, lanes)
        _store(builder, builder.fadd(_loaded(builder, target, lanes), value) if is_sum else value, target)
        return context.get_dummy_value()

    @intrinsic
    def moved(context: Any, target: Any, source: Any) -> Any:
        return types.void(Pointer, Pointer), generate

    return moved


_copy16, _copy8, _copy4 = (_moved(lanes, is_sum=False) for lanes in (16, 8, 4))
_add16, _add8, _add4 = (_moved(lanes, is_sum=True) for lanes in (16, 8, 4))


@njit(**APART)
def clear(target, count):
    """Set numbers to zero."""
    for i in range(count):
        target[i] = float32(0)


@njit(**APART)
def copy(target, source, count):
    """Copy numbers to others that do not overlap them, some of them twice."""
    if count >= 16:
        for i in range(0, count - 16, 16):
            _copy16(ahead(target, i), ahead(source, i))
        _copy16(ahead(target, count - 16), ahead(source, count - 16))
    elif count >= 8:
        _copy8(target, source)
        _copy8(ahead(target, count - 8), ahead(source, count - 8))
    elif count >= 4:
        _copy4(target, source)
        _copy4(ahead(target, count - 4), ahead(source, count - 4))
    else:
        for i in range(count):
            target[i] = source[i]


@njit(**APART)
def add(target, source, count):
    """Add numbers to others."""
    i = 0
    while i + 16 <= count:
        _add16(ahead(target, i), ahead(source, i))
        i += 16
    if i + 8 <= count:
        _add8(ahead(target, i), ahead(source, i))
        i += 8
    if i + 4 <= count:
        _add4(ahead(target, i), ahead(source, i))
        i += 4
    while i < count:
        target[i] += source[i]
        i += 1


@njit(**APART)
def copy_rows(target, target_step, source, source_step, rows, count):
    """Copy rows of numbers."""
    if 16 <= count <= 32:
        for i in range(rows):
            to, values = ahead(target, i * target_step), ahead(source, i * source_step)
            _copy16(to, values)
            _copy16(ahead(to, count - 16), ahead(values, count - 16))
        return
    for i in range(rows):
        copy(ahead(target, i * target_step), ahead(source, i * source_step), count)


@njit(**APART)
def add_rows(target, target_step, source, source_step, rows, count):
    """Add rows of numbers to others."""
    for i in range(rows):
        add(ahead(target, i * target_step), ahead(source, i * source_step), count)


@intrinsic
def _copy_pairs(context: Any, target: Any, source: Any) -> Any:
    """Copy every second one of 15 numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, source = arguments
        halves = [_loaded(builder, builder.gep(source, [ir.IntType(64)(i)]), 8) for i in (0, 7)]
        lanes = ir.Constant(ir.VectorType(ir.IntType(32), 8), [0, 2, 4, 6, 9, 11, 13, 15])
        _store(builder, builder.shuffle_vector(*halves, lanes), target)
        return context.get_dummy_value()

    return types.void(Pointer, Pointer), generate


@njit(**APART)
def copy_every(target, source, step, count):
    """Copy numbers that are `step` apart."""
    if step == 1:
        copy(target, source, count)
    elif step == 2 and count >= 8:
        for i in range(0, count - 8, 8):
            _copy_pairs(ahead(target, i), ahead(source, 2 * i))
        _copy_pairs(ahead(target, count - 8), ahead(source, 2 * count - 16))
    else:
        for i in range(count):
            target[i] = source[i * step]


@intrinsic
def _transpose_block(context: Any, target: Any, down: Any, source: Any, pitch: Any) -> Any:
    """Transpose eight rows of eight numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        target, down, source, pitch = arguments
        word, lane = ir.IntType(64), ir.IntType(32)

        def row(pointer: Any, step: Any, i: int) -> Any:
            return builder.gep(pointer, [builder.mul(step, word(i))])

        rows = [_loaded(builder, row(source, pitch, i), _SIDE) for i in range(_SIDE)]
        for step in (4, 2, 1):  # exchanges the blocks of this size beside the diagonal
            for i in range(_SIDE):
                if not i & step:
                    pair = rows[i], rows[i + step]
                    upper = [j if not j & step else _SIDE + j - step for j in range(_SIDE)]
                    lower = [j + step if not j & step else _SIDE + j for j in range(_SIDE)]
                    for at, lanes in ((i, upper), (i + step, lower)):
                        chosen = ir.Constant(ir.VectorType(lane, _SIDE), lanes)
                        rows[at] = builder.shuffle_vector(*pair, chosen)
        for i, value in enumerate(rows):
            _store(builder, value, row(target, down, i))
        return context.get_dummy_value()

    return types.void(Pointer, int64, Pointer, int64), generate


@njit(**APART)
def transpose(target, down, source, pitch, rows, columns):
    """Transpose a matrix; `down` and `pitch` are the distances of the target's and the source's rows."""
    high, wide = rows - rows % 8, columns - columns % 8
    for i in range(0, high, 8):
        for j in range(0, wide, 8):
            _transpose_block(ahead(target, j * down + i), down, ahead(source, i * pitch + j), pitch)
    for i in range(rows):
        for j in range(wide if i < high else 0, columns):
            target[j * down + i] = source[i * pitch + j]
