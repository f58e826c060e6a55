"""What generated code calls: pointers, guards, products of matrices, and functions of single numbers.

Generated files import this one, and their names hash its source, so no copy on disk outlives a change here.
"""

# mypy: ignore-errors
# Numba finds the types.

import functools
import math

import numpy as np
from llvmlite import ir
from numba import boolean, float32, float64, int8, int16, int32, int64, njit, types, uint8, uint16, uint32, uint64
from numba.core import cgutils
from numba.extending import intrinsic, overload

from labnet.kernels.blas import DGEMM, SGEMM, link

#: A step lets other threads run, and divides by zero as NumPy does; sums may be taken in another order.
OPTIONS = {"nogil": True, "error_model": "numpy", "boundscheck": False, "fastmath": {"reassoc", "contract"}}
_INNER = {"error_model": "numpy", "boundscheck": False, "fastmath": {"reassoc", "contract"}, "forceinline": True}
#: Nobody calls these functions from Python.
_INNER |= {"no_cpython_wrapper": True, "no_cfunc_wrapper": True}

_HEAD = object.__basicsize__
_ITEMS = tuple.__basicsize__
_DATA, _NDIM, _SHAPE, _DTYPE, _FLAGS = _HEAD, _HEAD + 8, _HEAD + 16, _HEAD + 40, _HEAD + 48
#: C-contiguous and aligned.
_READ = 0x101


_LANES = ir.VectorType(ir.IntType(32), 8)
_LANE = ir.IntType(32)
_WORD = ir.IntType(64)


def _pointer(scalar):
    """Return the function that takes an address for that of numbers of one type."""

    @intrinsic
    def pointer(context, address):
        def generate(context, builder, signature, arguments):
            return builder.inttoptr(arguments[0], context.get_value_type(signature.return_type))

        return types.CPointer(scalar)(int64), generate

    return pointer


_float32, _float64 = _pointer(float32), _pointer(float64)
_int8, _int16, _int32, _int64 = _pointer(int8), _pointer(int16), _pointer(int32), _pointer(int64)
_uint8, _uint16, _uint32, _uint64 = _pointer(uint8), _pointer(uint16), _pointer(uint32), _pointer(uint64)
_bool = _uint8


def _load(builder, address, add=0):
    """Emit the reading of eight bytes."""
    return builder.load(builder.inttoptr(builder.add(address, _WORD(add)), _WORD.as_pointer()))


def _made(signature, emit):
    """Return what an intrinsic consists of: written as instructions, a function needs no compilation of its own."""
    return signature, lambda _, builder, __, arguments: emit(builder, *arguments)


def _at(builder, arrays, index):
    """Emit the reading of the address of an object in a tuple."""
    return _load(builder, builder.add(arrays, builder.mul(index, _WORD(8))), _ITEMS)


def _all(builder, tests):
    """Emit whether all of several tests hold."""
    return functools.reduce(builder.and_, tests)


@intrinsic
def _item(context, arrays, index):
    """Return the address of an object in a tuple."""
    return _made(int64(int64, int64), _at)


@intrinsic
def _data(context, arrays, index):
    """Return the address of the elements of an array in a tuple."""
    return _made(int64(int64, int64), lambda builder, *given: _load(builder, _at(builder, *given), _DATA))


@intrinsic
def _described(context, array, ndim, described):
    """Tell whether an array has this dtype and number of dimensions, and lies in memory as expected."""

    def emit(builder, array, ndim, described):
        def equal(found, mask, wanted):
            return builder.icmp_signed("==", builder.and_(found, _WORD(mask)), wanted)

        dtype = _load(builder, _load(builder, array, _DTYPE), _HEAD + 8)
        tests = [equal(dtype, 0xFFFFFF, described), equal(_load(builder, array, _NDIM), 0xFFFFFFFF, ndim)]
        return _all(builder, [*tests, equal(_load(builder, array, _FLAGS), _READ, _WORD(_READ))])

    return _made(boolean(int64, int64, int64), emit)


@intrinsic
def _long(context, array, axis, length):
    """Tell whether a dimension of an array has this length."""

    def emit(builder, array, axis, length):
        place = builder.add(_load(builder, array, _SHAPE), builder.mul(axis, _WORD(8)))
        return builder.icmp_signed("==", _load(builder, place), length)

    return _made(boolean(int64, int64, int64), emit)


@intrinsic
def _holds(context, table):
    """Tell whether every word of a table of (address, expected word) is as expected."""

    def emit(builder, table):
        first, count = _load(builder, table, _DATA), _load(builder, _load(builder, table, _SHAPE))
        holds = cgutils.alloca_once_value(builder, cgutils.true_bit)
        with cgutils.for_range(builder, count) as row:
            place = builder.add(first, builder.mul(row.index, _WORD(16)))
            same = builder.icmp_signed("==", _load(builder, _load(builder, place)), _load(builder, place, 8))
            builder.store(builder.and_(same, builder.load(holds)), holds)
        return builder.load(holds)

    return _made(boolean(int64), emit)


# Products of matrices


def _external(symbol, scalar):
    """Return a product of matrices of BLAS, which computes ``c = factor * a @ b + share * c``."""
    array = types.CPointer(scalar)
    sizes = [*[types.int32] * 3, *[int64] * 3]
    return types.ExternalFunction(symbol, types.void(*sizes, scalar, array, int64, array, int64, scalar, array, int64))


@njit(**_INNER)
def _by_loops(order, left, right, rows, columns, inner, factor, a, down_a, b, down_b, share, c, down_c):
    """Do what BLAS does, where NumPy's is not to be found."""
    for i in range(rows):
        for j in range(columns):
            c[i * down_c + j] *= share
        for k in range(inner):
            x = factor * (a[i * down_a + k] if left == 111 else a[k * down_a + i])
            for j in range(columns):
                c[i * down_c + j] += x * (b[k * down_b + j] if right == 111 else b[j * down_b + k])


_gemm32, _gemm64 = (_external(SGEMM, float32), _external(DGEMM, float64)) if link() else (_by_loops, _by_loops)


def _blas(symbol, scalar):
    """Return the function that computes ``c = a @ b`` with NumPy's BLAS."""
    array = scalar.as_pointer()
    numbers = [*[_LANE] * 3, *[_WORD] * 3, scalar, array, _WORD, array, _WORD, scalar, array, _WORD]

    @intrinsic
    def product(context, left, right, rows, columns, inner, a, down_a, b, down_b, c):
        def emit(builder, left, right, rows, columns, inner, a, down_a, b, down_b, c):
            gemm = cgutils.get_or_insert_function(builder.module, ir.FunctionType(ir.VoidType(), numbers), symbol)
            kinds = [builder.trunc(kind, _LANE) for kind in (left, right)]
            a, b, c = (builder.inttoptr(address, array) for address in (a, b, c))
            zero, one = (ir.Constant(scalar, number) for number in (0.0, 1.0))
            sizes = (rows, columns, inner)
            builder.call(gemm, [_LANE(101), *kinds, *sizes, one, a, down_a, b, down_b, zero, c, columns])
            return _LANE(0)

        return _made(int32(*[int64] * 10), emit)

    return product


def _looped(pointer, zero):
    """Return the function that computes ``c = a @ b`` without BLAS."""

    @njit(**_INNER)
    def product(left, right, rows, columns, inner, a, down_a, b, down_b, c):
        out = pointer(c)
        for position in range(rows * columns):
            out[position] = zero
        sizes = (rows, columns, inner)
        _by_loops(101, left, right, *sizes, zero + 1, pointer(a), down_a, pointer(b), down_b, zero + 1, out, columns)

    return product


if link():
    _product32, _product64 = _blas(SGEMM, ir.FloatType()), _blas(DGEMM, ir.DoubleType())
else:
    _product32, _product64 = _looped(_float32, np.float32(0)), _looped(_float64, np.float64(0))


@intrinsic
def _rows8(context, a, b, c, rows, inner, down, right, down_b, columns):
    """Compute eight columns of ``c = a @ b``, each row in one register, since Numba vectorises loops only."""

    def generate(context, builder, signature, arguments):
        a, b, c, rows, inner, down, right, down_b, columns = arguments
        row = ir.VectorType(ir.FloatType(), 8)
        total = cgutils.alloca_once(builder, row)
        loose = ("contract",)  # so that both become one instruction
        with cgutils.for_range(builder, rows) as i:
            builder.store(ir.Constant(row, [0.0] * 8), total)
            with cgutils.for_range(builder, inner) as k:
                place = builder.add(builder.mul(i.index, down), builder.mul(k.index, right))
                x = builder.insert_element(
                    ir.Constant(row, ir.Undefined), builder.load(builder.gep(a, [place])), _LANE(0)
                )
                x = builder.shuffle_vector(x, ir.Constant(row, ir.Undefined), ir.Constant(_LANES, [0] * 8))
                line = builder.bitcast(builder.gep(b, [builder.mul(k.index, down_b)]), row.as_pointer())
                product = builder.fmul(x, builder.load(line, align=4), flags=loose)
                builder.store(builder.fadd(product, builder.load(total), flags=loose), total)
            target = builder.bitcast(builder.gep(c, [builder.mul(i.index, columns)]), row.as_pointer())
            builder.store(builder.load(total), target, align=4)
        return context.get_dummy_value()

    pointer = types.CPointer(float32)
    return types.void(pointer, pointer, pointer, *[int64] * 6), generate


# Functions of one number


@intrinsic
def _bits_of(context, number):
    """Take the bits of an int32 for those of a float32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.FloatType())

    return float32(int32), generate


@intrinsic
def _bits(context, number):
    """Take the bits of a float32 for those of an int32."""

    def generate(context, builder, signature, arguments):
        return builder.bitcast(arguments[0], ir.IntType(32))

    return int32(float32), generate


def _rounding(name):
    @intrinsic
    def rounded(context, number):
        def generate(context, builder, signature, arguments):
            if isinstance(number, types.Integer | types.Boolean):
                return arguments[0]
            function = builder.module.declare_intrinsic(f"llvm.{name}", [arguments[0].type])
            return builder.call(function, arguments)

        return number(number), generate

    return rounded


_floor, _ceil, _trunc, _rint = (_rounding(name) for name in ("floor", "ceil", "trunc", "rint"))


@njit(**_INNER)
def _shifted_left(a, b):
    """Shift as C does, but by as many places as there are bits, or more, to 0."""
    return a << b if uint64(b) < uint64(64) else a & 0


@njit(**_INNER)
def _shifted_right(a, b):
    """Shift as C does, but by as many places as there are bits, or more, to the sign."""
    return a >> (b if uint64(b) < uint64(63) else 63)


def _inverted(a):
    raise NotImplementedError("compiled only")


@overload(_inverted, inline="always")
def _compile_inverted(a):
    return (lambda a: not a) if a == boolean else (lambda a: ~a)


def _quotient(a, b):
    raise NotImplementedError("compiled only")


@overload(_quotient)
def _compile_quotient(a, b):
    if isinstance(a, types.Float):
        return _float_quotient
    return lambda a, b: a // b if b != 0 else a & 0


def _float_quotient(a, b):
    """Quotient rounded down as NumPy has it, with infinite ones as in the standard."""
    if math.isinf(a) != math.isinf(b):
        return _floor(a / b)
    if b == 0:
        return a / b
    rest = np.fmod(a, b)
    quotient = (a - rest) / b
    if rest != 0 and (b < 0) != (rest < 0):
        quotient -= 1
    if quotient == 0:
        return math.copysign(quotient, a / b)
    below = _floor(quotient)
    return below + 1 if quotient - below > 0.5 else below


def _rest(a, b):
    raise NotImplementedError("compiled only")


@overload(_rest)
def _compile_rest(a, b):
    if isinstance(a, types.Float):
        return _float_rest
    return lambda a, b: a % b if b != 0 else a & 0


def _float_rest(a, b):
    """Remainder with the sign of the divisor, as NumPy has it."""
    rest = np.fmod(a, b)
    if rest != 0:
        return rest + b if (b < 0) != (rest < 0) else rest
    return math.copysign(rest, b)


def _chosen(name, sign):
    """Return the function that chooses one of two numbers, or NaN where there is one."""

    @intrinsic
    def chosen(context, a, b):
        def emit(builder, a, b):
            if isinstance(kind, types.Float):
                first = builder.or_(builder.fcmp_ordered(sign, a, b), builder.fcmp_unordered("!=", a, a))
            elif getattr(kind, "signed", False):
                first = builder.icmp_signed(sign, a, b)
            else:
                first = builder.icmp_unsigned(sign, a, b)
            return builder.select(first, a, b)

        kind = types.unliteral(a)
        return _made(kind(kind, kind), emit)

    return chosen


_greater, _smaller = _chosen("greater", ">"), _chosen("smaller", "<")


def _loosely(comparison):
    """Return what chooses one of two numbers that are no NaN; for such ones the result is never used."""

    @intrinsic
    def chosen(context, a, b):
        def generate(context, builder, signature, arguments):
            a, b = arguments
            loose = ("nnan", "nsz")
            return builder.select(builder.fcmp_ordered(comparison, a, b, flags=loose), a, b, flags=loose)

        return a(a, a), generate

    return chosen


_greater_number, _smaller_number = _loosely(">"), _loosely("<")


@njit(**_INNER)
def _exp32(x):
    """Exponential in float32, to 1e-7: 2**n times a polynomial on [-ln 2 / 2, ln 2 / 2] (Cephes, expf)."""
    high = float32(88.72283) if x > float32(88.72283) else x
    low = float32(-103.97208) if high < float32(-103.97208) else high
    whole = _floor(low * float32(1.44269504) + float32(0.5))
    rest = low - whole * float32(0.693359375) - whole * float32(-2.12194440e-4)
    series = float32(1.9875691500e-4)
    series = series * rest + float32(1.3981999507e-3)
    series = series * rest + float32(8.3334519073e-3)
    series = series * rest + float32(4.1665795894e-2)
    series = series * rest + float32(1.6666665459e-1)
    series = series * rest + float32(5.0000001201e-1)
    value = series * rest * rest + rest + float32(1)
    half = int32(whole) >> int32(1)  # two steps, so that neither 2**128 nor a subnormal result overflows
    value = value * _bits_of((half + int32(127)) << int32(23))
    value = value * _bits_of((int32(whole) - half + int32(127)) << int32(23))
    above = float32(math.inf) if x > float32(88.72283) else value
    return x if x != x else above


@njit(**_INNER)
def _log32(x):
    """Natural logarithm in float32 (Cephes, logf), subnormal numbers included."""
    small = x < float32(1.17549435e-38)
    scaled = x * float32(8388608.0) if small else x
    bits = _bits(scaled)
    power = float32((bits >> int32(23)) - int32(126)) - (float32(23) if small else float32(0))
    part = _bits_of((bits & int32(0x007FFFFF)) | int32(0x3F000000))
    below = part < float32(0.70710678)
    power = power - float32(1) if below else power
    m = part + part - float32(1) if below else part - float32(1)
    square = m * m
    series = float32(7.0376836292e-2)
    series = series * m + float32(-1.1514610310e-1)
    series = series * m + float32(1.1676998740e-1)
    series = series * m + float32(-1.2420140846e-1)
    series = series * m + float32(1.4249322787e-1)
    series = series * m + float32(-1.6668057665e-1)
    series = series * m + float32(2.0000714765e-1)
    series = series * m + float32(-2.4999993993e-1)
    series = series * m + float32(3.3333331174e-1)
    value = m * square * series + power * float32(-2.12194440e-4) - float32(0.5) * square
    value = m + value + power * float32(0.693359375)
    value = x if x == float32(math.inf) else value
    value = float32(-math.inf) if x == float32(0) else value
    return float32(math.nan) if x < float32(0) or x != x else value


@njit(**_INNER)
def _tanh32(x):
    """Hyperbolic tangent in float32: a polynomial near 0 (Cephes, tanhf), elsewhere by the exponential."""
    size = abs(x)
    square = x * x
    series = float32(-5.70498872745e-3)
    series = series * square + float32(2.06390887954e-2)
    series = series * square + float32(-5.37397155531e-2)
    series = series * square + float32(1.33314422036e-1)
    series = series * square + float32(-3.33332819422e-1)
    near = series * square * x + x
    far = float32(1) - float32(2) / (_exp32(size + size) + float32(1))
    far = -far if x < float32(0) else far
    return near if size < float32(0.625) else far


@njit(**_INNER)
def _sigmoid32(x):
    return float32(1) / (float32(1) + _exp32(-x))


@njit(**_INNER)
def _erf32(x):
    """Error function in float32, to 2e-7: a polynomial times x near 0, elsewhere 1 - exp(-polynomial).

    Both polynomials were fitted to be off by as little as possible everywhere, to 1.3e-9 and 1.1e-9.
    """
    size, square = abs(x), x * x
    series = float32(7.857702e-05)
    series = series * square + float32(-8.0101925e-04)
    series = series * square + float32(5.1883276e-03)
    series = series * square + float32(-2.68538119e-02)
    series = series * square + float32(1.128358515e-01)
    series = series * square + float32(-3.761262582e-01)
    series = series * square + float32(1.128379166)
    near = series * x
    far = float32(4) if size > float32(4) else size
    series = float32(-1.8638008e-04)
    series = series * far + float32(2.9476668e-03)
    series = series * far + float32(-2.18380970e-02)
    series = series * far + float32(1.031068213e-01)
    series = series * far + float32(6.381447582e-01)
    series = series * far + float32(1.127089234)
    series = series * far + float32(3.415125982e-04)
    tail = float32(1) - _exp32(-series)
    tail = -tail if x < float32(0) else tail
    return near if size < float32(1) else tail


@njit(**_INNER)
def _log1p32(x):
    """Logarithm of 1 + x in float32: what is lost in the sum is made up for (Higham, Accuracy, 1.14.1)."""
    whole = float32(1) + x
    found = _log32(whole) * (x / (whole - float32(1)))
    found = x if whole == float32(1) else found
    return x if x == float32(math.inf) else found


@njit(**_INNER)
def _expm132(x):
    """Exponential less 1 in float32, by the same means as `_log1p32`."""
    power = _exp32(x)
    less = power - float32(1)
    found = less * (x / _log32(power))
    found = x if less == float32(0) else found
    return less if less == float32(-1) or power > float32(1e7) or x != x else found


@njit(**_INNER)
def _erf64(x):
    return math.erf(x)


@njit(**_INNER)
def _log1p64(x):
    return math.log1p(x)


@njit(**_INNER)
def _expm164(x):
    return math.expm1(x)


@njit(**_INNER)
def _exp64(x):
    return math.exp(x)


@njit(**_INNER)
def _log64(x):
    if x > 0.0:
        return math.log(x)
    return -math.inf if x == 0.0 else math.nan


@njit(**_INNER)
def _tanh64(x):
    return math.tanh(x)


@njit(**_INNER)
def _sigmoid64(x):
    small = math.exp(-abs(x))
    return (1.0 if x >= 0.0 else small) / (1.0 + small)


def _marked(signature, **options):
    """Mark the function of a generated file for `labnet.compile.machine`, which has Numba compile it."""
    return lambda function: (function, signature, options)


njit = _marked  # for what imports this
__all__ = ["OPTIONS", "boolean", "float32", "float64", "int8", "int16", "int32", "int64", "math", "njit", "np"]
__all__ += ["uint8", "uint16", "uint32", "uint64", *[name for name in dir() if name[0] == "_" and name[1] != "_"]]
