"""Kernels that read and add at positions along one dimension."""

# mypy: ignore-errors
# Numba finds the types.

from numba import njit

from labnet.kernels.cpu.arrays import INSIDE, OPTIONS, WRITE, flat_size, floats, integers, item, word
from labnet.kernels.machine_code.array_layout import DATA, FLOAT32, INT64, READ

# An array is seen as (outer, length, inner). There is a position along `length` for each element of (outer, count,
# inner), or `count` of them that all of outer and inner share.


@njit(**INSIDE)
def _fit(whole, whole_flags, index, part, part_flags, outer, length, count, inner, is_shared):
    """Return whether arrays fit these sizes."""
    return (
        flat_size(whole, whole_flags, FLOAT32) == outer * length * inner
        and flat_size(part, part_flags, FLOAT32) == outer * count * inner
        and flat_size(index, READ, INT64) == (count if is_shared else outer * count * inner)
    )


@njit(**INSIDE)
def _place(positions, m, length):
    """Return a position counted from the start, or -1 if it is out of bounds.

    Read once and checked, since other threads run meanwhile, which might write it.
    """
    position = positions[m]
    position += length if position < 0 else 0
    return position if 0 <= position < length else -1


@njit(**OPTIONS)
def gather(arrays, outer, length, count, inner):
    """Read at positions, one per element; arrays: x, positions, result."""
    x, index, result = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    if not _fit(x, READ, index, result, WRITE, outer, length, count, inner, False):
        return 0
    row = count * inner
    for o in range(outer):
        positions = integers(word(index + DATA) + 8 * o * row)
        values, target = floats(word(x + DATA) + 4 * o * length * inner), floats(word(result + DATA) + 4 * o * row)
        if inner == 1:
            for m in range(count):
                place = _place(positions, m, length)
                if place < 0:
                    return 0
                target[m] = values[place]
            continue
        for m in range(count):
            for i in range(inner):
                place = _place(positions, m * inner + i, length)
                if place < 0:
                    return 0
                target[m * inner + i] = values[place * inner + i]
    return 1


@njit(**OPTIONS)
def scatter_add(arrays, outer, length, count, inner, is_shared):
    """Add at positions, in their order, up to the first that is out of bounds; arrays: values, positions, result."""
    values, index, result = item(arrays, 0), item(arrays, 1), item(arrays, 2)
    if not _fit(result, WRITE, index, values, READ, outer, length, count, inner, is_shared):
        return 0
    row = count * inner
    for o in range(outer):
        source, start = floats(word(values + DATA) + 4 * o * row), word(result + DATA) + 4 * o * length * inner
        if is_shared:
            positions = integers(word(index + DATA))
            for m in range(count):
                place = _place(positions, m, length)
                if place < 0:
                    return 0
                target = floats(start + 4 * place * inner)
                for i in range(inner):
                    target[i] += source[m * inner + i]
            continue
        positions, target = integers(word(index + DATA) + 8 * o * row), floats(start)
        if inner == 1:
            for m in range(count):
                place = _place(positions, m, length)
                if place < 0:
                    return 0
                target[place] += source[m]
            continue
        for m in range(count):
            for i in range(inner):
                place = _place(positions, m * inner + i, length)
                if place < 0:
                    return 0
                target[place * inner + i] += source[m * inner + i]
    return 1
