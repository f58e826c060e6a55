"""Kernels of the CPU: operations that take several passes in NumPy, for Numba to compile.

Arrays are passed as the address of a tuple. So the cost of a call does not depend on their number, and one compiled
function serves a model of any depth. A kernel reads data, shape, dtype and flags from the array objects and checks
them. If one does not fit, it returns 0 and leaves everything unchanged. It computes the same bits as the NumPy code
that it replaces: same operations, same order.

Only the process that compiles imports this module; others load machine code.
"""

# mypy: ignore-errors
# Numba finds the types.

from typing import Any

import numpy as np
from llvmlite import ir
from numba import float32, int64, njit, types
from numba.extending import intrinsic

from labnet.kernels.blas import SDOT, SGEMM, SGEMV
from labnet.kernels.machine_code.array_layout import DATA as _DATA
from labnet.kernels.machine_code.array_layout import DTYPE as _DTYPE
from labnet.kernels.machine_code.array_layout import FLAGS as _FLAGS
from labnet.kernels.machine_code.array_layout import FLOAT32 as _FLOAT32
from labnet.kernels.machine_code.array_layout import HEAD as _HEAD
from labnet.kernels.machine_code.array_layout import ITEMS as _ITEMS
from labnet.kernels.machine_code.array_layout import NDIM as _NDIM
from labnet.kernels.machine_code.array_layout import READ as _READ
from labnet.kernels.machine_code.array_layout import SHAPE as _SHAPE

#: A kernel divides by zero as NumPy does. The functions that it calls lie inside of it.
OPTIONS: dict[str, Any] = {"error_model": "numpy", "boundscheck": False}
_INSIDE = {**OPTIONS, "forceinline": True, "no_cpython_wrapper": True, "no_cfunc_wrapper": True}
#: Flags of an array that is writeable too.
_WRITE = _READ | 0x400

Pointer = types.CPointer(float32)
_enum, _size = types.int32, int64
_gemm = types.ExternalFunction(
    SGEMM,
    types.void(*[_enum] * 3, *[_size] * 3, float32, Pointer, _size, Pointer, _size, float32, Pointer, _size),
)
_gemv = types.ExternalFunction(
    SGEMV, types.void(*[_enum] * 2, *[_size] * 2, float32, Pointer, _size, Pointer, _size, float32, Pointer, _size)
)
_dot = types.ExternalFunction(SDOT, float32(_size, Pointer, _size, Pointer, _size))
_allocate = types.ExternalFunction("malloc", int64(_size))
_free = types.ExternalFunction("free", types.void(int64))
_ROWS, _COLUMNS, _PLAIN, _TRANSPOSED = 101, 102, 111, 112


@njit(**_INSIDE)
def _wins(value, greatest):
    """Return whether a value is the maximum of its tile, which NaN always is."""
    return (value == greatest) | (value != value)


@njit(**_INSIDE)
def _greater(a, b):
    """Return the greater of two numbers, or NaN if either is NaN, without branching."""
    greater = a if a > b else b
    return a if a != a else greater


# Reading Python's objects


@intrinsic
def _word(context: Any, address: Any) -> Any:
    """Read eight bytes as an integer."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.load(builder.inttoptr(arguments[0], ir.IntType(64).as_pointer()))

    return int64(int64), generate


@intrinsic
def _floats(context: Any, address: Any) -> Any:
    """Return an address as a pointer to float32 numbers."""

    def generate(context: Any, builder: Any, signature: Any, arguments: Any) -> Any:
        return builder.inttoptr(arguments[0], ir.FloatType().as_pointer())

    return Pointer(int64), generate


@njit(**_INSIDE)
def _item(arrays, index):
    return _word(arrays + _ITEMS + 8 * index)


@njit(**_INSIDE)
def _count(arrays):
    return _word(arrays + _HEAD)


@njit(**_INSIDE)
def _data(array):
    return _floats(_word(array + _DATA))


@njit(**_INSIDE)
def _length(array, axis):
    return _word(_word(array + _SHAPE) + 8 * axis)


@njit(**_INSIDE)
def _has(array, flags, dtype):
    """Return whether an array has this dtype and these flags."""
    described = _word(_word(array + _DTYPE) + _HEAD + 8)
    return (described & 0xFFFFFF) == dtype and (_word(array + _FLAGS) & flags) == flags


@njit(**_INSIDE)
def _wanted(item, like):
    """Return whether an item has the type of `like`, an array, rather than being None."""
    return _word(item + _HEAD - 8) == _word(like + _HEAD - 8)


@njit(**_INSIDE)
def _suits(array, ndim, flags, dtype):
    """Return whether an array has this number of dimensions, these flags and this dtype."""
    return (_word(array + _NDIM) & 0xFFFFFFFF) == ndim and _has(array, flags, dtype)


@njit(**_INSIDE)
def _flat_size(array, flags, dtype):
    """Return the number of elements of an array of any shape, -1 if it does not fit."""
    if not _has(array, flags, dtype):
        return -1
    size = 1
    for axis in range(_word(array + _NDIM) & 0xFFFFFFFF):
        size *= _length(array, axis)
    return size


# Products of matrices, by the same calls that NumPy makes


@njit(**_INSIDE)
def should_transpose(rows, inner, columns):
    """Return whether to transpose a weight first, since BLAS is slower with a small transposed one."""
    return rows >= 16 and inner > 1 and columns > 1 and inner * columns <= 8192


@njit(**_INSIDE)
def _product(left, left_transposed, right, right_transposed, out, rows, inner, columns):
    """Compute left (rows, inner) @ right (inner, columns); a transposed factor is stored by columns."""
    if rows == 1 and columns == 1:
        out[0] = _dot(inner, left, 1, right, 1)
    elif rows == 1:
        order, step = (_COLUMNS, inner) if right_transposed else (_ROWS, columns)
        _gemv(order, _TRANSPOSED, inner, columns, float32(1), right, step, left, 1, float32(0), out, 1)
    elif columns == 1:
        order, step = (_ROWS, rows) if left_transposed else (_COLUMNS, inner)
        _gemv(order, _TRANSPOSED, inner, rows, float32(1), left, step, right, 1, float32(0), out, 1)
    elif inner == 1:
        for i in range(rows):
            for j in range(columns):
                out[i * columns + j] = left[i] * right[j]
    else:
        left_form, left_step = (_TRANSPOSED, rows) if left_transposed else (_PLAIN, inner)
        right_form, right_step = (_TRANSPOSED, inner) if right_transposed else (_PLAIN, columns)
        _gemm(
            *(_ROWS, left_form, right_form, rows, columns, inner, float32(1), left, left_step, right, right_step),
            *(float32(0), out, columns),
        )


@njit(**_INSIDE)
def _product_with_transposed(x, weight, out, rows, inner, columns):
    """Compute ``x @ weight.T``, a small weight transposed first; return whether there was memory for that."""
    if not should_transpose(rows, inner, columns):
        _product(x, False, weight, True, out, rows, inner, columns)
        return True
    memory = _allocate(4 * inner * columns)
    if memory == 0:
        return False
    transposed = _floats(memory)
    for j in range(columns):
        for i in range(inner):
            transposed[i * columns + j] = weight[j * inner + i]
    _gemm(
        *(_ROWS, _PLAIN, _PLAIN, rows, columns, inner, float32(1), x, inner, transposed, columns),
        *(float32(0), out, columns),
    )
    _free(memory)
    return True


@njit(**_INSIDE)
def _sum_of_rows(g, out, rows, columns):
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


# Linear layers, one after the other, each with or without relu
# arrays: x, weight and bias of each layer, hidden values of all layers but the last, output


@njit(**OPTIONS)
def layers_forward(arrays, relu):
    """Compute the output of linear layers; bit i of `relu` says whether layer i ends in one."""
    count = _count(arrays)
    layers = (count - 3) // 2
    x, hidden, out = _item(arrays, 0), _item(arrays, count - 2), _item(arrays, count - 1)
    if not _suits(x, 2, _READ, _FLOAT32):
        return 0
    rows, inner = _length(x, 0), _length(x, 1)
    if rows == 0:
        return 0
    needed = 0
    for layer in range(layers):
        weight, bias = _item(arrays, 1 + 2 * layer), _item(arrays, 2 + 2 * layer)
        if not (_suits(weight, 2, _READ, _FLOAT32) and _suits(bias, 1, _READ, _FLOAT32)):
            return 0
        columns = _length(weight, 0)
        if _length(weight, 1) != inner or _length(bias, 0) != columns or columns * inner == 0:
            return 0
        needed += rows * columns
        inner = columns
    needed -= rows * inner
    if _flat_size(hidden, _WRITE, _FLOAT32) < needed or _flat_size(out, _WRITE, _FLOAT32) != rows * inner:
        return 0
    source, target = _word(x + _DATA), _word(hidden + _DATA)
    inner = _length(x, 1)
    for layer in range(layers):
        weight, bias = _item(arrays, 1 + 2 * layer), _data(_item(arrays, 2 + 2 * layer))
        columns = _length(weight, 0)
        if layer == layers - 1:
            target = _word(out + _DATA)
        values = _floats(target)
        if not _product_with_transposed(_floats(source), _data(weight), values, rows, inner, columns):
            return 0
        if (relu >> layer) & 1:
            for i in range(rows):
                for j in range(columns):
                    value = values[i * columns + j] + bias[j]
                    values[i * columns + j] = float32(0) if value < float32(0) else value
        else:
            for i in range(rows):
                for j in range(columns):
                    values[i * columns + j] += bias[j]
        source, target = target, target + 4 * rows * columns
        inner = columns
    return 1


# arrays: gradient of the output, x, weight of each layer, hidden, output, scratch,
# gradient of x or None, gradients of weight and bias of each layer or None


@njit(**OPTIONS)
def layers_backward(arrays, relu):
    """Compute the gradients of the arguments of `layers_forward`, except those that are None."""
    layers = (_count(arrays) - 6) // 3
    g, x = _item(arrays, 0), _item(arrays, 1)
    hidden, out, scratch, by_x = (
        _item(arrays, 2 + layers),
        _item(arrays, 3 + layers),
        _item(arrays, 4 + layers),
        _item(arrays, 5 + layers),
    )
    if not (_suits(x, 2, _READ, _FLOAT32) and _suits(g, 2, _READ, _FLOAT32) and _suits(out, 2, _READ, _FLOAT32)):
        return 0
    rows, inner = _length(x, 0), _length(x, 1)
    if rows == 0:
        return 0
    widest, needed = inner, 0
    for layer in range(layers):
        weight = _item(arrays, 2 + layer)
        if not _suits(weight, 2, _READ, _FLOAT32) or _length(weight, 1) != inner:
            return 0
        columns = _length(weight, 0)
        if columns == 1 and rows > 128:  # NumPy adds in another order
            return 0
        by_weight, by_bias = _item(arrays, 6 + layers + 2 * layer), _item(arrays, 7 + layers + 2 * layer)
        if _wanted(by_weight, x) and _flat_size(by_weight, _WRITE, _FLOAT32) != columns * inner:
            return 0
        if _wanted(by_bias, x) and _flat_size(by_bias, _WRITE, _FLOAT32) != columns:
            return 0
        widest = max(widest, columns)
        needed += rows * columns
        inner = columns
    if _length(g, 0) != rows or _length(g, 1) != inner or _length(out, 0) != rows or _length(out, 1) != inner:
        return 0
    needed -= rows * inner
    if _flat_size(hidden, _READ, _FLOAT32) < needed or _flat_size(scratch, _WRITE, _FLOAT32) < 2 * rows * widest:
        return 0
    if _wanted(by_x, x) and _flat_size(by_x, _WRITE, _FLOAT32) != rows * _length(x, 1):
        return 0
    current = _word(g + _DATA)
    here, there = _word(scratch + _DATA), _word(scratch + _DATA) + 4 * rows * widest
    ends = _word(hidden + _DATA) + 4 * needed
    for step in range(layers):
        layer = layers - 1 - step
        weight = _item(arrays, 2 + layer)
        columns, inner = _length(weight, 0), _length(weight, 1)
        if (relu >> layer) & 1:
            values, before = _data(out) if step == 0 else _floats(ends), _floats(current)
            masked = _floats(here)
            for i in range(rows * columns):
                masked[i] = float32(0) if values[i] <= float32(0) else before[i]
            current, here, there = here, there, here
        gradient = _floats(current)
        ends -= 4 * rows * inner
        source = _floats(ends) if layer else _data(x)
        by_weight, by_bias = _item(arrays, 6 + layers + 2 * layer), _item(arrays, 7 + layers + 2 * layer)
        if _wanted(by_weight, x):
            _product(gradient, True, source, False, _data(by_weight), columns, rows, inner)
        if _wanted(by_bias, x):
            _sum_of_rows(gradient, _data(by_bias), rows, columns)
        if layer:
            _product(gradient, False, _data(weight), False, _floats(here), rows, columns, inner)
            current, here, there = here, there, here
        elif _wanted(by_x, x):
            _product(gradient, False, _data(weight), False, _data(by_x), rows, columns, inner)
    return 1


# Activations and pooling


@njit(**OPTIONS)
def relu_backward(arrays):
    """Compute ``where(out <= 0, 0, g)``; arrays: g, out, result."""
    g, out, result = _item(arrays, 0), _item(arrays, 1), _item(arrays, 2)
    size = _flat_size(out, _READ, _FLOAT32)
    if size < 0 or _flat_size(g, _READ, _FLOAT32) != size or _flat_size(result, _WRITE, _FLOAT32) != size:
        return 0
    gradient, values, target = _data(g), _data(out), _data(result)
    for i in range(size):
        target[i] = float32(0) if values[i] <= float32(0) else gradient[i]
    return 1


@njit(**_INSIDE)
def _tiles(image, tiled, rows, columns, image_flags, tiled_flags):
    """Return the number of images of (..., H, W), -1 if tiles of rows x columns do not fit."""
    size = _flat_size(image, image_flags, _FLOAT32)
    ndim = _word(image + _NDIM) & 0xFFFFFFFF
    if size <= 0 or ndim < 2 or (_word(tiled + _NDIM) & 0xFFFFFFFF) != ndim or rows * columns == 0:
        return -1
    height, width = _length(image, ndim - 2), _length(image, ndim - 1)
    if _length(tiled, ndim - 2) != height // rows or _length(tiled, ndim - 1) != width // columns:
        return -1
    count = size // (height * width)
    return count if _flat_size(tiled, tiled_flags, _FLOAT32) == count * (height // rows) * (width // columns) else -1


@njit(**OPTIONS)
def tile_max(arrays, rows, columns):
    """Compute the maximum of each tile, or NaN; arrays: images (..., H, W), result (..., H', W')."""
    image, result = _item(arrays, 0), _item(arrays, 1)
    count = _tiles(image, result, rows, columns, _READ, _WRITE)
    if count < 0:
        return 0
    ndim = _word(image + _NDIM) & 0xFFFFFFFF
    height, width = _length(image, ndim - 2), _length(image, ndim - 1)
    down, across = height // rows, width // columns
    values, target = _data(image), _data(result)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            if rows == 2 and columns == 2:  # written out, which is several times faster
                for j in range(across):
                    a, b = values[start + 2 * j], values[start + 2 * j + 1]
                    c, d = values[start + width + 2 * j], values[start + width + 2 * j + 1]
                    target[place + j] = _greater(_greater(a, b), _greater(c, d))
                continue
            for j in range(across):
                best = values[start + j * columns]
                for r in range(rows):
                    for c in range(columns):
                        best = _greater(best, values[start + r * width + j * columns + c])
                target[place + j] = best
    return 1


@njit(**OPTIONS)
def tile_max_backward(arrays, rows, columns):
    """Pass the gradient of each tile to its maximum; arrays: g, images, their maxima, result of zeros."""
    g, image, maxima, result = _item(arrays, 0), _item(arrays, 1), _item(arrays, 2), _item(arrays, 3)
    count = _tiles(image, maxima, rows, columns, _READ, _READ)
    if count < 0 or _tiles(result, g, rows, columns, _WRITE, _READ) != count:
        return 0
    ndim = _word(image + _NDIM) & 0xFFFFFFFF
    height, width = _length(image, ndim - 2), _length(image, ndim - 1)
    if _length(result, ndim - 2) != height or _length(result, ndim - 1) != width:
        return 0
    down, across = height // rows, width // columns
    gradient, values, best, target, zero = _data(g), _data(image), _data(maxima), _data(result), float32(0)
    for n in range(count):
        for i in range(down):
            start = n * height * width + i * rows * width
            place = (n * down + i) * across
            if rows == 2 and columns == 2:
                for j in range(across):
                    here, g, greatest = start + 2 * j, gradient[place + j], best[place + j]
                    first = _wins(values[here], greatest)
                    second = (not first) & _wins(values[here + 1], greatest)
                    third = (not (first | second)) & _wins(values[here + width], greatest)
                    target[here], target[here + 1] = g if first else zero, g if second else zero
                    target[here + width] = g if third else zero
                    target[here + width + 1] = zero if first | second | third else g
                continue
            for j in range(across):
                left = True
                for r in range(rows):
                    for c in range(columns):
                        here = start + r * width + j * columns + c
                        last = r == rows - 1 and c == columns - 1
                        hit = left & (last | _wins(values[here], best[place + j]))
                        left = left & (not hit)
                        target[here] = gradient[place + j] if hit else zero
    return 1


# Optimizers
# arrays: values, gradients, then new values, and states, of all parameters, each group in the same order


@njit(**_INSIDE)
def _same_sizes(arrays, groups, read):
    """Return whether corresponding arrays of all groups fit and have one size; the first `read` are read only."""
    count = _count(arrays) // groups
    for i in range(count):
        size = _flat_size(_item(arrays, i), _READ, _FLOAT32)
        if size < 0:
            return False
        for group in range(1, groups):
            flags = _READ if group < read else _WRITE
            if _flat_size(_item(arrays, group * count + i), flags, _FLOAT32) != size:
                return False
    return True


@njit(**OPTIONS)
def sgd(arrays, lr):
    """Take a step of plain gradient descent with every parameter; arrays: values, gradients, new values."""
    if not _same_sizes(arrays, 3, 2):
        return 0
    count = _count(arrays) // 3
    for i in range(count):
        value, gradient, out = _item(arrays, i), _data(_item(arrays, count + i)), _data(_item(arrays, 2 * count + i))
        values = _data(value)
        for k in range(_flat_size(value, 0, _FLOAT32)):
            out[k] = values[k] - lr * gradient[k]
    return 1


@njit(**OPTIONS)
def sgd_with_momentum(arrays, lr, momentum):
    """Take a step with momentum; arrays: values, gradients, new values, velocities, which are overwritten."""
    if not _same_sizes(arrays, 4, 2):
        return 0
    count = _count(arrays) // 4
    for i in range(count):
        value, gradient, out = _item(arrays, i), _data(_item(arrays, count + i)), _data(_item(arrays, 2 * count + i))
        values, velocity = _data(value), _data(_item(arrays, 3 * count + i))
        for k in range(_flat_size(value, 0, _FLOAT32)):
            speed = momentum * velocity[k] + gradient[k]
            velocity[k] = speed
            out[k] = values[k] - lr * speed
    return 1


@njit(**OPTIONS)
def adam(arrays, keep, beta1, rest1, beta2, rest2, root, eps, size):
    """Take a step of Adam with every parameter; the order of operations is that of `labnet.optim.Adam`.

    Arrays: values, gradients, new values, means, mean squares; the last two are overwritten. `keep` is the
    share of a value that weight decay leaves.
    """
    if not _same_sizes(arrays, 5, 2):
        return 0
    count = _count(arrays) // 5
    for i in range(count):
        value, gradient, out = _item(arrays, i), _data(_item(arrays, count + i)), _data(_item(arrays, 2 * count + i))
        values, mean, square = _data(value), _data(_item(arrays, 3 * count + i)), _data(_item(arrays, 4 * count + i))
        for k in range(_flat_size(value, 0, _FLOAT32)):
            slope = gradient[k]
            first = slope * rest1 + beta1 * mean[k]
            second = (slope * slope) * rest2 + beta2 * square[k]
            mean[k], square[k] = first, second
            out[k] = values[k] * keep - first / (np.sqrt(second) * root + eps) * size
    return 1


#: Each kernel with the types of its result and arguments.
KERNELS = {
    "layers_forward": (layers_forward, int64(int64, int64)),
    "layers_backward": (layers_backward, int64(int64, int64)),
    "relu_backward": (relu_backward, int64(int64)),
    "tile_max": (tile_max, int64(int64, int64, int64)),
    "tile_max_backward": (tile_max_backward, int64(int64, int64, int64)),
    "sgd": (sgd, int64(int64, float32)),
    "sgd_with_momentum": (sgd_with_momentum, int64(int64, float32, float32)),
    "adam": (adam, int64(int64, *[float32] * 8)),
}
