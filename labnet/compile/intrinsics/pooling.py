"""Pooling in float32 for generated code: vectors of windows that do not overlap."""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import float32, types
from numba.extending import intrinsic

from labnet.compile.intrinsics.vectors import WORD, Vectors
from labnet.kernels.machine_code.processor import registers

_array = types.CPointer(float32)


def _windows(code, x, pitch, kernel):
    """Return the elements of neighbouring windows as one vector per position in the window, in row-major order."""
    rows, columns = kernel
    found = []
    for i in range(rows):
        line = code.load(x, i * pitch, code.lanes * columns)
        found += [code.picked(line, range(j, code.lanes * columns, columns)) for j in range(columns)]
    return found


def _put(code, parts, out, pitch, kernel):
    """Write vectors to the positions that `_windows` reads."""
    rows, columns = kernel
    for i in range(rows):
        code.store(code.interleaved(parts[i * columns : (i + 1) * columns]), out, i * pitch)


def _maximum(code, windows):
    found = windows[0]
    for other in windows[1:]:
        found = code.greater(found, other)
    return found


class _Pooling:
    """The sizes of a pooling from a tuple of literal numbers, and the loops over all windows."""

    def __init__(self, numbers):
        self.planes, self.rows, self.columns, *self.kernel = (number.literal_value for number in numbers.types)
        self.high, self.wide = self.rows // self.kernel[0], self.columns // self.kernel[1]
        self.lanes = 1 << (min(registers()[1], self.wide).bit_length() - 1)

    def over_all(self, builder, block):
        """Call `block` for each vector of windows, with its offset in the windows and in the images."""
        code = Vectors(builder, self.lanes)
        with code.loop(self.planes) as plane, code.loop(self.high) as row:
            line = builder.add(code.times(plane.index, self.rows), code.times(row.index, self.kernel[0]))
            start = code.times(line, self.columns)
            first = code.times(builder.add(code.times(plane.index, self.high), row.index), self.wide)

            def do(at):
                block(code, builder.add(first, at), builder.add(start, code.times(at, self.kernel[1])))

            with code.loop(self.wide // self.lanes) as part:
                do(code.times(part.index, self.lanes))
            if self.wide % self.lanes:
                do(WORD(self.wide - self.lanes))


@intrinsic(prefer_literal=True)
def _max_pool(context, x, out, numbers):
    """Compute the maximum of each window."""
    pooling = _Pooling(numbers)

    def generate(context, builder, signature, arguments):
        x, out = arguments[:2]

        def block(code, window, place):
            seen = _windows(code, code.ahead(x, place), pooling.columns, pooling.kernel)
            code.store(_maximum(code, seen), out, window)

        pooling.over_all(builder, block)
        return context.get_dummy_value()

    return types.void(_array, _array, numbers), generate


@intrinsic(prefer_literal=True)
def _max_pool_back(context, y, x, out, numbers):
    """Scatter each element of `y` to the first maximum, or NaN, of its window; zeros elsewhere."""
    pooling = _Pooling(numbers)

    def generate(context, builder, signature, arguments):
        y, x, out = arguments[:3]
        zero = ir.Constant(ir.VectorType(ir.FloatType(), pooling.lanes), [0.0] * pooling.lanes)

        def block(code, window, place):
            seen = _windows(code, code.ahead(x, place), pooling.columns, pooling.kernel)
            greatest, rest, parts = _maximum(code, seen), code.load(y, window), []
            for each in seen[:-1]:
                hit = builder.or_(builder.fcmp_ordered("==", each, greatest), builder.fcmp_unordered("uno", each, each))
                parts.append(builder.select(hit, rest, zero))
                rest = builder.select(hit, zero, rest)
            _put(code, [*parts, rest], code.ahead(out, place), pooling.columns, pooling.kernel)

        if pooling.rows % pooling.kernel[0] or pooling.columns % pooling.kernel[1]:
            Vectors(builder, pooling.lanes).clear(out, pooling.planes * pooling.rows * pooling.columns)
        pooling.over_all(builder, block)
        return context.get_dummy_value()

    return types.void(_array, _array, _array, numbers), generate


__all__ = ["_max_pool", "_max_pool_back"]
