"""Sorting, binary search and running sums for generated code, which its loops over elements cannot express.

Arrays come as pointers to rows that lie one after the other.
"""

# mypy: ignore-errors
# Numba finds the types.

from numba import njit

from labnet.compile.intrinsics.arithmetic import _from_half, _plus, _times, _to_half

_WHOLE = {"error_model": "numpy", "boundscheck": False, "nogil": True}
_WHOLE |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}  # only generated code calls them


@njit(**_WHOLE)
def _before(a, b):
    """Return whether `a` comes before `b`; NaN comes last."""
    return a < b or (b != b and a == a)


@njit(**_WHOLE)
def _argsort(x, out, rows, length):
    """Find the positions that put each row in order, stably: merge sort from below (Knuth, volume 3, 5.2.4).

    `out` has room for twice as many numbers: the result is in its first half after an even number of passes, which
    is that of the bits of ``length - 1``, else in the second.
    """
    for row in range(rows):
        start, here, there = row * length, row * length, (rows + row) * length
        for i in range(length):
            out[here + i] = i
        width = 1
        while width < length:
            for low in range(0, length, 2 * width):
                middle, high = min(low + width, length), min(low + 2 * width, length)
                i, j = low, middle
                for k in range(low, high):
                    second = i >= middle
                    if not second and j < high:
                        second = _before(x[start + out[here + j]], x[start + out[here + i]])
                    if second:
                        out[there + k] = out[here + j]
                        j += 1
                    else:
                        out[there + k] = out[here + i]
                        i += 1
            here, there = there, here
            width *= 2


@njit(**_WHOLE)
def _searchsorted(ordered, x, out, length, count, right):
    """Find where elements of `x` keep an ordered row in order: before equal ones, or after them."""
    for position in range(count):
        low, high = 0, length
        while low < high:
            middle = (low + high) // 2
            a, b = ordered[middle], x[position]
            if _before(a, b) or (right and not _before(b, a)):
                low = middle + 1
            else:
                high = middle
        out[position] = low


@njit(**_WHOLE)
def _running_sum(x, out, rows, length):
    """Add up the elements of each row, up to each one."""
    for row in range(rows):
        total = x[row * length]
        out[row * length] = total
        for i in range(row * length + 1, (row + 1) * length):
            total = _plus(total, x[i])
            out[i] = total


@njit(**_WHOLE)
def _running_product(x, out, rows, length):
    """Multiply the elements of each row, up to each one."""
    for row in range(rows):
        total = x[row * length]
        out[row * length] = total
        for i in range(row * length + 1, (row + 1) * length):
            total = _times(total, x[i])
            out[i] = total


@njit(**_WHOLE)
def _running_sum_of_halves(x, out, rows, length):
    """Add up the elements of each row, up to each one, in float16: each sum is rounded."""
    for row in range(rows):
        out[row * length] = x[row * length]
        for i in range(row * length + 1, (row + 1) * length):
            out[i] = _to_half(_plus(_from_half(out[i - 1]), _from_half(x[i])))


@njit(**_WHOLE)
def _running_product_of_halves(x, out, rows, length):
    """Multiply the elements of each row, up to each one, in float16: each product is rounded."""
    for row in range(rows):
        out[row * length] = x[row * length]
        for i in range(row * length + 1, (row + 1) * length):
            out[i] = _to_half(_times(_from_half(out[i - 1]), _from_half(x[i])))


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
