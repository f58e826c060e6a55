"""Arithmetic on single numbers for generated code: the same results as NumPy, to the last bit.

Numba's own operators promise LLVM that signed integers do not overflow, convert int64 with uint64 to float64, and leave
conversions out of range undefined. Here integers wrap around at their own width, and each floating-point result is
rounded. Only the sums of reductions may be reordered.
"""

# mypy: ignore-errors
# Numba finds the types.

from llvmlite import ir
from numba import boolean, float32, float64, int8, int16, int32, int64, types, uint8, uint16, uint32, uint64
from numba.extending import intrinsic

from labnet.compile.intrinsics.pointers import made


def is_float(kind):
    return isinstance(kind, types.Float)


def is_signed(kind):
    return getattr(kind, "signed", False)


def unary(emit):
    """Make an intrinsic of one number from ``emit(builder, kind, a)``."""

    @intrinsic
    def computed(context, a):
        kind = types.unliteral(a)
        return made(kind(kind), lambda builder, a: emit(builder, kind, a))

    return computed


def binary(emit):
    """Make an intrinsic of two numbers of one type from ``emit(builder, kind, a, b)``."""

    @intrinsic
    def computed(context, a, b):
        kind = types.unliteral(a)
        return made(kind(kind, kind), lambda builder, a, b: emit(builder, kind, a, b))

    return computed


def instruction(floating, integer, logical, flags=()):
    """Make an intrinsic of two numbers from one instruction for each kind of numbers."""

    def emit(builder, kind, a, b):
        if is_float(kind):
            return getattr(builder, floating)(a, b, flags=flags)
        return getattr(builder, logical if kind == boolean else integer)(a, b)

    return binary(emit)


_plus = instruction("fadd", "add", "or_")
_minus = instruction("fsub", "sub", "xor")
#: A product that may be fused with the sum of a reduction into one instruction; the sum must allow it too.
_times = instruction("fmul", "mul", "and_", ("contract",))
_over = instruction("fdiv", "sdiv", "and_")
_added = instruction("fadd", "add", "or_", ("reassoc", "contract"))
_multiplied = instruction("fmul", "mul", "and_", ("reassoc", "contract"))


@unary
def _negated(builder, kind, a):
    return builder.fneg(a) if is_float(kind) else builder.neg(a)


@unary
def _magnitude(builder, kind, a):
    if is_float(kind):
        return builder.call(builder.module.declare_intrinsic("llvm.fabs", [a.type]), [a])
    if not is_signed(kind):
        return a
    return builder.select(builder.icmp_signed("<", a, a.type(0)), builder.neg(a), a)


@unary
def _inverted(builder, kind, a):
    return builder.not_(a)


def rounding(name):
    def emit(builder, kind, a):
        if not is_float(kind):
            return a
        return builder.call(builder.module.declare_intrinsic(f"llvm.{name}", [a.type]), [a])

    return unary(emit)


_floor, _ceil, _trunc, _rint = (rounding(name) for name in ("floor", "ceil", "trunc", "rint"))


def chosen(sign):
    """Make an intrinsic that selects one of two numbers and propagates NaN."""

    def emit(builder, kind, a, b):
        if is_float(kind):
            first = builder.or_(builder.fcmp_ordered(sign, a, b), builder.fcmp_unordered("!=", a, a))
        elif is_signed(kind):
            first = builder.icmp_signed(sign, a, b)
        else:
            first = builder.icmp_unsigned(sign, a, b)
        return builder.select(first, a, b)

    return binary(emit)


_greater, _smaller = chosen(">"), chosen("<")


def loosely(sign):
    """Make an intrinsic that selects one of two numbers; the result is undefined for NaN."""

    def emit(builder, kind, a, b):
        loose = ("nnan", "nsz")
        return builder.select(builder.fcmp_ordered(sign, a, b, flags=loose), a, b, flags=loose)

    return binary(emit)


_greater_number, _smaller_number = loosely(">"), loosely("<")


# Integers


@unary
def _one(builder, kind, a):
    return a.type(1)


@unary
def _halved(builder, kind, a):
    return builder.lshr(a, a.type(1))


@intrinsic
def _is_odd(context, a):
    return made(boolean(types.unliteral(a)), lambda builder, a: builder.trunc(a, ir.IntType(1)))


@binary
def _shifted_left(builder, kind, a, b):
    """Shift left; a shift by all bits or more gives 0."""
    inside = builder.icmp_unsigned("<", b, b.type(kind.bitwidth))
    return builder.select(inside, builder.shl(a, builder.select(inside, b, b.type(0))), a.type(0))


@binary
def _shifted_right(builder, kind, a, b):
    """Shift right; a shift by all bits or more leaves the sign only."""
    inside = builder.icmp_unsigned("<", b, b.type(kind.bitwidth))
    if is_signed(kind):
        return builder.ashr(a, builder.select(inside, b, b.type(kind.bitwidth - 1)))
    return builder.select(inside, builder.lshr(a, builder.select(inside, b, b.type(0))), a.type(0))


def divisor(builder, kind, b):
    """Return a divisor that cannot trap, and whether the given one was 0 or -1."""
    is_zero = builder.icmp_unsigned("==", b, b.type(0))
    is_minus_one = builder.icmp_unsigned("==", b, b.type(-1)) if is_signed(kind) else ir.IntType(1)(0)
    return builder.select(builder.or_(is_zero, is_minus_one), b.type(1), b), is_zero, is_minus_one


def crosses(builder, rest, b):
    """Return whether a remainder and its divisor have different signs."""
    differs = builder.icmp_signed("<", builder.xor(rest, b), b.type(0))
    return builder.and_(differs, builder.icmp_unsigned("!=", rest, b.type(0)))


@binary
def _whole_quotient(builder, kind, a, b):
    """Return the quotient rounded down; 0 if the divisor is 0."""
    safe, is_zero, is_minus_one = divisor(builder, kind, b)
    if is_signed(kind):
        found = builder.sdiv(a, safe)
        below = crosses(builder, builder.sub(a, builder.mul(found, safe)), safe)
        found = builder.select(below, builder.sub(found, a.type(1)), found)
        found = builder.select(is_minus_one, builder.neg(a), found)
    else:
        found = builder.udiv(a, safe)
    return builder.select(is_zero, a.type(0), found)


@binary
def _whole_rest(builder, kind, a, b):
    """Return the remainder with the sign of the divisor; 0 if the divisor is 0."""
    safe, is_zero, is_minus_one = divisor(builder, kind, b)
    if is_signed(kind):
        found = builder.srem(a, safe)
        found = builder.select(crosses(builder, found, safe), builder.add(found, safe), found)
    else:
        found = builder.urem(a, safe)
    return builder.select(builder.or_(is_zero, is_minus_one), a.type(0), found)


# Conversions


def bounded(builder, number, kind):
    """Convert a floating-point number to a signed integer, the least one if out of range or NaN."""
    high = number.type(2.0 ** (kind.width - 1))
    low = builder.fcmp_ordered(">=", number, number.type(-(2.0 ** (kind.width - 1))))
    inside = builder.and_(low, builder.fcmp_ordered("<", number, high))
    found = builder.fptosi(builder.select(inside, number, number.type(0.0)), kind)
    return builder.select(inside, found, kind(-(2 ** (kind.width - 1))))


def unsigned(builder, number, kind):
    """Convert a floating-point number to uint32 or uint64, as vectorizing C compilers do."""
    half = 2 ** (kind.width - 1)
    is_upper = builder.fcmp_ordered(">=", number, number.type(float(half)))
    lowered = builder.select(is_upper, builder.fsub(number, number.type(float(half))), number)
    found = bounded(builder, lowered, kind)
    return builder.select(is_upper, builder.xor(found, kind(-half)), found)


def whole(target):
    """Make the conversion to an integer type; out-of-range numbers convert as in NumPy."""

    @intrinsic
    def converted(context, number):
        source, kind = types.unliteral(number), ir.IntType(target.bitwidth)

        def generate(context, builder, signature, arguments):
            if not is_float(source):
                return context.cast(builder, *arguments, source, target)
            if target.bitwidth < 32:
                return builder.trunc(bounded(builder, *arguments, ir.IntType(32)), kind)
            return (bounded if target.signed else unsigned)(builder, *arguments, kind)

        return target(source), generate

    return converted


_as_int8, _as_int16, _as_int32, _as_int64 = (whole(kind) for kind in (int8, int16, int32, int64))
_as_uint8, _as_uint16, _as_uint32, _as_uint64 = (whole(kind) for kind in (uint8, uint16, uint32, uint64))


def number_of(target):
    """Make the conversion to a floating-point type."""

    @intrinsic
    def converted(context, number):
        source = types.unliteral(number)

        def generate(context, builder, signature, arguments):
            return context.cast(builder, *arguments, source, target)

        return target(source), generate

    return converted


_as_float32, _as_float64 = number_of(float32), number_of(float64)


@intrinsic
def _bits_of(context, number):
    """Reinterpret the bits of an int32 as a float32."""
    return made(float32(int32), lambda builder, a: builder.bitcast(a, ir.FloatType()))


@intrinsic
def _bits(context, number):
    """Reinterpret the bits of a float32 as an int32."""
    return made(int32(float32), lambda builder, a: builder.bitcast(a, ir.IntType(32)))


@intrinsic
def _near_float32(context, number):
    """Round a float64 to float32, to odd: a second rounding, to float16, then equals a single one."""

    def emit(builder, number):
        word, single = ir.IntType(32), ir.FloatType()
        near = builder.fptrunc(number, single)
        back = builder.fpext(near, number.type)
        fabs = builder.module.declare_intrinsic("llvm.fabs", [number.type])
        is_beyond = builder.fcmp_ordered(">", builder.call(fabs, [back]), builder.call(fabs, [number]))
        bits = builder.bitcast(near, word)
        bits = builder.sub(bits, builder.zext(is_beyond, word))
        is_inexact = builder.fcmp_ordered("!=", back, number)
        bits = builder.or_(bits, builder.zext(is_inexact, word))
        return builder.bitcast(bits, single)

    return made(float32(float64), emit)


# float16 is stored in 16 bits and computed in float32


@intrinsic
def _from_half(context, bits):
    """Convert the bits of a float16 to float32."""

    def emit(builder, bits):
        return builder.fpext(builder.bitcast(bits, ir.HalfType()), ir.FloatType())

    return made(float32(uint16), emit)


@intrinsic
def _to_half(context, number):
    """Round to float16, and return its bits."""

    def emit(builder, number):
        return builder.bitcast(builder.fptrunc(number, ir.HalfType()), ir.IntType(16))

    return made(uint16(float32), emit)


__all__ = [name for name in dir() if name[0] == "_" and name[1] != "_"]
