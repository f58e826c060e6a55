"""Generated code run by Python itself, instead of machine code: the same text, a thousand times sooner at hand.

Everything that a step goes through is the same but Numba: tracing, all passes, guards, addresses and memory. Where
the text or the functions that it calls use instructions of the processor, NumPy's functions stand in.
"""

import ctypes
import math
import types

import numpy as np

from labnet.compile.intrinsics import (
    correlation,
    elementary_functions,
    ordering,
    products,
    recurrences,
    tiling,
)
from labnet.compile.native import abi
from labnet.compile.native.callee import Callee
from labnet.kernels.machine_code import array_layout, cache

_REACH = 1 << 22


def pointer(dtype):
    def at(address):
        return np.frombuffer((ctypes.c_char * (_REACH * dtype.itemsize)).from_address(address), dtype)

    return at


def gemm(order, left, right, rows, columns, inner, factor, a, down_a, b, down_b, zero, c, down_c):
    for given, least in ((down_a, rows if left == 112 else inner), (down_b, inner if right == 112 else columns)):
        assert given >= max(least, 1), f"BLAS expects a leading dimension of at least {least}, got {given}"
    assert down_c >= max(columns, 1)

    def matrix(array, height, width, down, turned):
        height, width = (width, height) if turned else (height, width)
        step = array.itemsize
        seen = np.lib.stride_tricks.as_strided(array, (height, width), (down * step, step))
        return seen.T if turned else seen

    assert down_a >= max(1, rows if left == 112 else inner), "BLAS refuses such a step from row to row"
    assert down_b >= max(1, inner if right == 112 else columns), "BLAS refuses such a step from row to row"
    out = matrix(c, rows, columns, down_c, turned=False)
    out[...] = matrix(a, rows, inner, down_a, left == 112) @ matrix(b, inner, columns, down_b, right == 112)


def word(address):
    return ctypes.c_int64.from_address(int(address)).value


def part(at):
    return lambda arena, start: at(arena + start)


def described(array, ndim, dtype):
    found = word(word(array + array_layout.DTYPE) + array_layout.HEAD + 8) & 0xFFFFFF
    flags = word(array + array_layout.FLAGS) & array_layout.READ
    return (found, word(array + array_layout.NDIM) & 0xFFFFFFFF, flags) == (dtype, ndim, array_layout.READ)


def shaped(array, shape):
    return all(word(word(array + array_layout.SHAPE) + 8 * axis) == length for axis, length in enumerate(shape))


def holds(table):
    first, count = word(table + array_layout.DATA), word(word(table + array_layout.SHAPE))
    rows = range(first, first + 16 * count, 16)
    return all(word(word(row)) == word(row + 8) for row in rows)


def product(left, right, rows, columns, inner, a, down_a, b, down_b, c):
    gemm(101, left, right, rows, columns, inner, 1, a, down_a, b, down_b, 0, c, columns)


def add_product(rows, columns, inner, a, b, c):
    found = a[: rows * inner].reshape(rows, inner) @ b[: inner * columns].reshape(inner, columns)
    c[: rows * columns] += found.ravel()


def tiles(rows, wide):
    def compute(a, b, c, high, broad, inner, down, right, down_b, down_c):
        for i in range(high * rows):
            for j in range(0, 8 * wide * broad, 8):
                total = np.zeros(8, "float32")
                for k in range(inner):
                    total = total + a[i * down + k * right] * b[k * down_b + j : k * down_b + j + 8]
                c[i * down_c + j : i * down_c + j + 8] = total

    return compute


def turned(x, out, rows, columns, down_x, down):
    for i in range(rows):
        for j in range(columns):
            out[i * down + j] = x[j * down_x + i]


def convert(dtype):
    return lambda number: np.asarray(number).astype(dtype)[()]


def windows_of(x, shape):
    """Return the windows of all images: (samples, groups, channels of one, *kernel, *out)."""
    images = x[: shape.samples * shape.channels * math.prod(shape.image)].reshape(
        (shape.samples, shape.groups, shape.channels // shape.groups, *shape.image)
    )
    reach = [(o - 1) * s + (k - 1) * d + 1 for o, s, k, d in zip(*(getattr(shape, n) for n in NAMES), strict=True)]
    sides = [(b, max(r - b - n, 0)) for b, r, n in zip(shape.before, reach, shape.image, strict=True)]
    padded = np.pad(images, [(0, 0)] * 3 + sides)
    *apart, row, column = padded.strides
    inside = [step * d for step, d in zip((row, column), shape.dilation, strict=True)]
    between = [step * s for step, s in zip((row, column), shape.stride, strict=True)]
    return np.lib.stride_tricks.as_strided(
        padded, (*images.shape[:3], *shape.kernel, *shape.out), (*apart, *inside, *between)
    )


NAMES = ("out", "stride", "kernel", "dilation")


def correlate(x, weight, bias, workspace, out, numbers):
    shape = correlation.Correlation.of(*numbers)
    filters = (shape.groups, shape.filters // shape.groups, shape.channels // shape.groups, *shape.kernel)
    found = np.einsum("ngcijhw,gkcij->ngkhw", windows_of(x, shape), weight[: math.prod(filters)].reshape(filters))
    found = found.reshape((shape.samples, shape.filters, -1)) + bias[: shape.filters, None]
    out[: found.size] = found.ravel()


def filter_gradient(x, y, workspace, out, numbers):
    shape = correlation.Correlation.of(*numbers)
    size = (shape.samples, shape.groups, shape.filters // shape.groups, *shape.out)
    found = np.einsum("ngcijhw,ngkhw->gkcij", windows_of(x, shape), y[: math.prod(size)].reshape(size))
    out[: found.size] = found.ravel()


def pool_windows(x, numbers):
    """Return images and a copy of their windows that do not overlap: (planes, high, wide, elements of a window)."""
    planes, rows, columns, down, right = numbers
    high, wide = rows // down, columns // right
    whole = x[: planes * rows * columns].reshape(planes, rows, columns)
    inside = whole[:, : high * down, : wide * right].reshape(planes, high, down, wide, right)
    return whole, inside.transpose(0, 1, 3, 2, 4).reshape(planes, high, wide, down * right)


def max_pool(x, out, numbers):
    found = pool_windows(x, numbers)[1].max(axis=-1)
    out[: found.size] = found.ravel()


def max_pool_back(y, x, out, numbers):
    windows = pool_windows(x, numbers)[1]
    planes, high, wide, _ = windows.shape
    greatest = windows.max(axis=-1)
    winner = ((windows == greatest[..., None]) | np.isnan(windows)).argmax(axis=-1)
    parts = np.arange(windows.shape[-1]) == winner[..., None]
    found = np.where(parts, y[: greatest.size].reshape(greatest.shape)[..., None], np.float32(0))
    *_, down, right = numbers
    whole = pool_windows(out, numbers)[0]
    whole[...] = 0
    found = found.reshape(planes, high, wide, down, right).transpose(0, 1, 3, 2, 4)
    whole[:, : high * down, : wide * right] = found.reshape(planes, high * down, wide * right)


class Mathematics:
    """The functions of `math` as NumPy has them, which keep the dtype and raise nothing."""

    inf, nan = math.inf, math.nan

    def __getattr__(self, name):
        if name == "erf":
            return lambda x: type(x)(math.erf(x))
        names = {"asin": "arcsin", "acos": "arccos", "atan": "arctan", "atan2": "arctan2"}
        names |= {"asinh": "arcsinh", "acosh": "arccosh", "atanh": "arctanh"}
        return getattr(np, names.get(name, name))


def function(*kinds):
    """Make a function of pointers take addresses."""
    in_memory = {"bool": "uint8", "float16": "uint16"}
    stored = [None if kind == "number" else np.dtype(in_memory.get(kind, kind)) for kind in kinds]

    def made(body):
        def call(*given):
            assert len(given) == len(kinds)
            pairs = zip(stored, given, strict=True)
            return body(*(one if dtype is None else pointer(dtype)(one) for dtype, one in pairs))

        return call

    return made


def _namespace():
    scalars = ["float32", "float64", *(f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64))]
    found = {name: getattr(np, name) for name in scalars}
    found |= {f"_{name}": part(pointer(np.dtype(name))) for name in scalars}
    found |= {f"_as_{name}": convert(np.dtype(name)) for name in scalars}
    found |= {"_bool": part(pointer(np.dtype("uint8"))), "_float16": part(pointer(np.dtype("uint16")))}
    found |= {"boolean": np.bool_, "np": np, "math": Mathematics()}
    for source in (elementary_functions, products, ordering, recurrences):
        for name, callee in vars(source).items():
            if isinstance(callee, Callee) and not callee.chooses:
                found[name] = types.FunctionType(callee.py_func.__code__, found, name)
    found |= {"_correlate": correlate, "_filter_gradient": filter_gradient, "_workspace": lambda workspace: None}
    found |= {"_max_pool": max_pool, "_max_pool_back": max_pool_back}
    found |= {"function": function, "step": lambda *layout: lambda step: (step, abi.Layout(*layout))}
    found |= {
        "_plus": np.add,
        "_minus": np.subtract,
        "_times": np.multiply,
        "_over": np.divide,
        "_added": np.add,
        "_multiplied": np.multiply,
        "_negated": np.negative,
        "_magnitude": np.abs,
        "_power": np.power,
        "_near_float32": lambda number: number,
        "_next32": np.nextafter,
        "_next64": np.nextafter,
        "_from_half": lambda bits: np.float32(bits.view(np.float16)),
        "_to_half": lambda number: np.float16(number).view(np.uint16),
        "_greater": np.maximum,
        "_smaller": np.minimum,
        "_product32": product,
        "_product64": product,
        "_gemm32": gemm,
        "_gemm64": gemm,
        "_add_product": add_product,
        "_turned": turned,
        "_ahead": lambda array, places: array[places:],
        "_tanh": np.tanh,
        "_logistic": lambda x: 1 / (1 + np.exp(-x)),
        **{f"_tiles{rows}x{wide}": tiles(rows, wide) for rows in range(1, tiling.TALLEST + 1) for wide in (1, 2)},
        "_bits_of": lambda number: np.int32(number).view(np.float32),
        "_bits": lambda number: np.float32(number).view(np.int32),
        "_floor": np.floor,
        "_greater_number": np.fmax,
        "_smaller_number": np.fmin,
        "_ceil": np.ceil,
        "_trunc": np.trunc,
        "_rint": np.rint,
        "_quotient": lambda a, b: (
            np.where(np.isinf(a) != np.isinf(b), np.floor(a / b), np.floor_divide(a, b))[()]
            if isinstance(a, np.floating)
            else np.floor_divide(a, b)
        ),
        "_rest": np.remainder,
        "_inverted": np.invert,
        "_shifted_left": np.left_shift,
        "_shifted_right": np.right_shift,
        "range": range,
        "__builtins__": {**vars(__import__("builtins"))},
    }
    return found


_compiled = cache.load


def load(source):
    """Return the function of a step, as `labnet.kernels.machine_code.cache.load` does; kernels are compiled by that."""
    if "@step(" not in source:
        return _compiled(source)
    scope = dict(NAMESPACE)
    start = source.index("@function(") if "@function(" in source else source.index("@step(")
    exec(compile(source[start:], "<generated>", "exec"), scope)
    step, layout = scope["step"]

    def run(held, *given):
        numbers, arrays = given[: layout.numbers], given[layout.numbers :]
        assert len(arrays) == layout.arrays
        for position, dtype, shape in layout.arguments:
            array = id(arrays[position])
            if not (described(array, len(shape), dtype) and shaped(array, shape)):
                return abi.OTHER_ARGUMENTS
        if not holds(id(held[0])):
            return abi.OTHER_STATE
        addresses = [word(id(held[layout.arena]) + array_layout.DATA)]
        for table, position, _ in layout.places.values():
            addresses.append(word(id(arrays[position] if table == "call" else held[position]) + array_layout.DATA))
        with np.errstate(all="ignore"):
            return step(*addresses, *numbers)

    return run


def replace_machine_code(monkeypatch):
    """Have Python run the text of steps, also of those whose machine code is on the disk; for tests elsewhere.

    Those of the compiler replace `recall` anyway (`hazards.verified`).
    """
    monkeypatch.setattr(cache, "load", load)
    monkeypatch.setattr(cache, "recall", lambda program: None)


NAMESPACE = _namespace()
