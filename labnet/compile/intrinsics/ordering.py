"""Sorting, binary search and cumulative sums for generated code.

Arrays are pointers to contiguous rows.
"""

# mypy: ignore-errors
# Numba finds the types.

from labnet.compile.intrinsics.arithmetic import _from_half, _plus, _times, _to_half
from labnet.compile.native.callee import callee

_WHOLE = {"error_model": "numpy", "boundscheck": False}


@callee(**_WHOLE)
def _before(a, b):
    """Return whether `a` comes before `b`; NaN comes last."""
    return a < b or (b != b and a == a)


@callee(**_WHOLE)
def _argsort(x, out, rows, length):
    """Find the positions that sort each row stably, by a bottom-up merge sort (Knuth, volume 3, 5.2.4).

    `out` holds twice as many numbers. The result is in its first half after an even number of passes, else in the
    second; there is one pass per bit of ``length - 1``.
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


@callee(**_WHOLE)
def _searchsorted(ordered, x, out, length, count, right):
    """Find the positions at which elements of `x` keep a row sorted: before equal ones, or after them."""
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


@callee(**_WHOLE)
def _running_sum(x, out, rows, length):
    """Compute the cumulative sum of each row."""
    for row in range(rows):
        total = x[row * length]
        out[row * length] = total
        for i in range(row * length + 1, (row + 1) * length):
            total = _plus(total, x[i])
            out[i] = total


@callee(**_WHOLE)
def _running_product(x, out, rows, length):
    """Compute the cumulative product of each row."""
    for row in range(rows):
        total = x[row * length]
        out[row * length] = total
        for i in range(row * length + 1, (row + 1) * length):
            total = _times(total, x[i])
            out[i] = total


@callee(**_WHOLE)
def _running_sum_of_halves(x, out, rows, length):
    """Compute the cumulative sum of each row in float16; each sum is rounded."""
    for row in range(rows):
        out[row * length] = x[row * length]
        for i in range(row * length + 1, (row + 1) * length):
            out[i] = _to_half(_plus(_from_half(out[i - 1]), _from_half(x[i])))


@callee(**_WHOLE)
def _running_product_of_halves(x, out, rows, length):
    """Compute the cumulative product of each row in float16; each product is rounded."""
    for row in range(rows):
        out[row * length] = x[row * length]
        for i in range(row * length + 1, (row + 1) * length):
            out[i] = _to_half(_times(_from_half(out[i - 1]), _from_half(x[i])))


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
