"""Kernel of sums of columns, as NumPy adds them: one row after the other, here eight in a pass."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, njit

from labnet.kernels.cpu.arrays import OPTIONS, WRITE, data_of, flat_size, item
from labnet.kernels.cpu.instructions import in_wide_vectors
from labnet.kernels.cpu.summation import ahead
from labnet.kernels.machine_code.array_layout import FLOAT32, READ


@njit(**OPTIONS)
def column_sums(arrays, rows, columns, first, last):
    """Sum the columns of a range; arrays: x, of `rows` times `columns` elements, and result."""
    x, out = item(arrays, 0), item(arrays, 1)
    if first < 0 or last > columns or rows < 0 or flat_size(x, READ, FLOAT32) != rows * columns:
        return 0
    if flat_size(out, WRITE, FLOAT32) != columns:
        return 0
    in_wide_vectors()
    total, width = ahead(data_of(out), first), last - first
    for j in range(width):
        total[j] = float32(0)
    whole = rows - rows % 8
    for i in range(0, whole, 8):
        a = ahead(data_of(x), i * columns + first)
        b, c, d = ahead(a, columns), ahead(a, 2 * columns), ahead(a, 3 * columns)
        e, f, g, h = ahead(a, 4 * columns), ahead(a, 5 * columns), ahead(a, 6 * columns), ahead(a, 7 * columns)
        for j in range(width):
            total[j] = total[j] + a[j] + b[j] + c[j] + d[j] + e[j] + f[j] + g[j] + h[j]
    for i in range(whole, rows):
        row = ahead(data_of(x), i * columns + first)
        for j in range(width):
            total[j] += row[j]
    return 1
