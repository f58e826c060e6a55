"""Products of matrices, by the same calls of BLAS that NumPy makes, and sums in NumPy's order."""

# mypy: ignore-errors
# Numba finds the types.

from numba import float32, int64, njit, types

from labnet.kernels.blas import SDOT, SGEMM, SGEMV
from labnet.kernels.cpu.arrays import APART, INSIDE, Pointer, allocate, floats, free

_enum, _size = types.int32, int64
_gemm = types.ExternalFunction(
    SGEMM,
    types.void(*[_enum] * 3, *[_size] * 3, float32, Pointer, _size, Pointer, _size, float32, Pointer, _size),
)
_gemv = types.ExternalFunction(
    SGEMV, types.void(*[_enum] * 2, *[_size] * 2, float32, Pointer, _size, Pointer, _size, float32, Pointer, _size)
)
_dot = types.ExternalFunction(SDOT, float32(_size, Pointer, _size, Pointer, _size))
_ROWS, _COLUMNS, _PLAIN, _TRANSPOSED = 101, 102, 111, 112


@njit(**INSIDE)
def should_transpose(rows, inner, columns):
    """Return whether to transpose a weight first, since BLAS is slower with a small transposed one."""
    return rows >= 16 and inner > 1 and columns > 1 and inner * columns <= 8192


@njit(**INSIDE)
def product(left, left_transposed, right, right_transposed, out, rows, inner, columns):
    """Compute left (rows, inner) @ right (inner, columns); a transposed factor is stored by columns."""
    left_step, right_step = rows if left_transposed else inner, inner if right_transposed else columns
    _product(left, left_transposed, left_step, right, right_transposed, right_step, out, columns, rows, inner, columns)


@njit(**APART)
def multiply(left, left_step, right, right_step, out, out_step, rows, inner, columns):
    """Compute left (rows, inner) @ right (inner, columns), where a step is the distance of neighbouring rows."""
    _product(left, False, left_step, right, False, right_step, out, out_step, rows, inner, columns)


@njit(**APART)
def multiply_with_transposed(left, left_step, right, right_step, out, out_step, rows, inner, columns):
    """Compute left @ right where the latter is stored by columns."""
    _product(left, False, left_step, right, True, right_step, out, out_step, rows, inner, columns)


@njit(**INSIDE)
def _product(left, left_transposed, down, right, right_transposed, step, out, out_step, rows, inner, columns):
    across, along = down if left_transposed else 1, 1 if right_transposed else step
    if rows == 1 and columns == 1:
        out[0] = _dot(inner, left, across, right, along)
    elif rows == 1:
        order = _COLUMNS if right_transposed else _ROWS
        _gemv(order, _TRANSPOSED, inner, columns, float32(1), right, step, left, across, float32(0), out, 1)
    elif columns == 1:
        order = _ROWS if left_transposed else _COLUMNS
        _gemv(order, _TRANSPOSED, inner, rows, float32(1), left, down, right, along, float32(0), out, out_step)
    elif inner == 1:
        i_step, j_step = 1 if left_transposed else down, step if right_transposed else 1
        for i in range(rows):
            for j in range(columns):  # never minus zero, as in NumPy
                out[i * out_step + j] = float32(0) + left[i * i_step] * right[j * j_step]
    else:
        left_form, right_form = _TRANSPOSED if left_transposed else _PLAIN, _TRANSPOSED if right_transposed else _PLAIN
        _gemm(
            *(_ROWS, left_form, right_form, rows, columns, inner, float32(1), left, down, right, step),
            *(float32(0), out, out_step),
        )


@njit(**INSIDE)
def product_with_transposed(x, weight, out, rows, inner, columns):
    """Compute ``x @ weight.T``, a small weight transposed first; return whether there was memory for that."""
    if not should_transpose(rows, inner, columns):
        product(x, False, weight, True, out, rows, inner, columns)
        return True
    memory = allocate(4 * inner * columns)
    if memory == 0:
        return False
    transposed = floats(memory)
    for j in range(columns):
        for i in range(inner):
            transposed[i * columns + j] = weight[j * inner + i]
    _gemm(
        *(_ROWS, _PLAIN, _PLAIN, rows, columns, inner, float32(1), x, inner, transposed, columns),
        *(float32(0), out, columns),
    )
    free(memory)
    return True


@njit(**INSIDE)
def sum_of_rows(g, out, rows, columns):
    """Sum the rows of g in NumPy's order: row by row, but a single column in eight interleaved sums."""
    if columns > 1 or rows < 8:
        for j in range(columns):
            out[j] = g[j]
        for i in range(1, rows):
            for j in range(columns):
                out[j] += g[i * columns + j]
        return
    a, b, c, d, e, f, p, q = g[0], g[1], g[2], g[3], g[4], g[5], g[6], g[7]
    whole = rows - rows % 8
    for i in range(8, whole, 8):
        a += g[i]
        b += g[i + 1]
        c += g[i + 2]
        d += g[i + 3]
        e += g[i + 4]
        f += g[i + 5]
        p += g[i + 6]
        q += g[i + 7]
    total = ((a + b) + (c + d)) + ((e + f) + (p + q))
    for i in range(whole, rows):
        total += g[i]
    out[0] = total
