"""Instructions of elementwise operations, and functions of one number for kernels, made from scalar programs."""

# mypy: ignore-errors
# Numba finds the types.

import llvmlite.binding as llvm
import numpy as np
from llvmlite import ir
from numba import float32, types
from numba.core import cgutils
from numba.extending import intrinsic

from labnet.kernels.scalar_program import record

BIT = ir.IntType(1)
TYPES = {"?": BIT, "e": ir.FloatType(), "f": ir.FloatType(), "d": ir.DoubleType()}
IS_X86 = llvm.get_process_triple().startswith(("x86", "i386", "i686"))


def _intrinsic(name, count=1):
    def emit(builder, *values):
        kind = values[0].type
        title = f"llvm.{name}.{'f32' if kind == ir.FloatType() else 'f64'}"
        function = cgutils.get_or_insert_function(builder.module, ir.FunctionType(kind, [kind] * count), title)
        return builder.call(function, values)

    return emit


def _compare(how):
    def emit(builder, a, b):
        if a.type == BIT:
            return builder.icmp_unsigned(how, a, b)
        return builder.fcmp_unordered(how, a, b) if how == "!=" else builder.fcmp_ordered(how, a, b)

    return emit


def _truth(builder, value):
    return value if value.type == BIT else builder.fcmp_unordered("!=", value, value.type(0.0))


def _logical(method):
    return lambda builder, *values: getattr(builder, method)(*[_truth(builder, value) for value in values])


def _size(builder, value):
    return _intrinsic("fabs")(builder, value)


def _sign(builder, x):
    one, zero = x.type(1.0), x.type(0.0)
    below = builder.select(builder.fcmp_ordered("<", x, zero), x.type(-1.0), builder.fadd(x, zero))
    return builder.select(builder.fcmp_ordered(">", x, zero), one, below)


def _extreme(how):
    def emit(builder, a, b):
        """Choose as NumPy does on this processor: the second of two equal numbers, and NaN before all."""
        chosen = builder.select(builder.fcmp_ordered(how, a, b), a, b)
        return builder.select(builder.fcmp_unordered("uno", a, a), a, chosen)

    return emit


def _signbit(builder, x):
    whole = _layout(x)[0]
    return builder.icmp_signed("<", builder.bitcast(x, whole), whole(0))


def _layout(x):
    """Return the integer of the width of a float, the bits of its fraction, and the bias of its exponents."""
    return (ir.IntType(32), 23, 127) if x.type == ir.FloatType() else (ir.IntType(64), 52, 1023)


def _power_of_two(builder, x):
    whole, fraction, _ = _layout(x)
    return builder.bitcast(builder.shl(builder.bitcast(x, whole), whole(fraction)), x.type)


def _exponent(builder, x):
    whole, fraction, bias = _layout(x)
    biased = builder.ashr(builder.bitcast(x, whole), whole(fraction))
    return builder.sitofp(builder.sub(biased, whole(bias)), x.type)


#: Operations of programs that are instructions.
_INSTRUCTIONS = {
    "add": lambda builder, a, b: builder.fadd(a, b),
    "subtract": lambda builder, a, b: builder.fsub(a, b),
    "multiply": lambda builder, a, b: builder.fmul(a, b),
    "divide": lambda builder, a, b: builder.fdiv(a, b),
    "negative": lambda builder, x: builder.fneg(x),
    "positive": lambda builder, x: x,
    "square": lambda builder, x: builder.fmul(x, x),
    "reciprocal": lambda builder, x: builder.fdiv(x.type(1.0), x),
    "absolute": _size,
    "fabs": _size,
    **{name: _intrinsic(name) for name in ("sqrt", "floor", "ceil", "trunc", "rint")},
    "copysign": _intrinsic("copysign", 2),
    "sign": _sign,
    "equal": _compare("=="),
    "not_equal": _compare("!="),
    "less": _compare("<"),
    "less_equal": _compare("<="),
    "greater": _compare(">"),
    "greater_equal": _compare(">="),
    "isnan": lambda builder, x: builder.fcmp_unordered("uno", x, x),
    "isinf": lambda builder, x: builder.fcmp_ordered("==", _size(builder, x), x.type(float("inf"))),
    "isfinite": lambda builder, x: builder.fcmp_ordered("<", _size(builder, x), x.type(float("inf"))),
    "signbit": _signbit,
    "logical_and": _logical("and_"),
    "logical_or": _logical("or_"),
    "logical_xor": _logical("xor"),
    "logical_not": _logical("not_"),
    "bitwise_and": _logical("and_"),
    "bitwise_or": _logical("or_"),
    "bitwise_xor": _logical("xor"),
    "invert": _logical("not_"),
    "where": lambda builder, test, a, b: builder.select(test, a, b),
    "power_of_two": _power_of_two,
    "exponent": _exponent,
    **({"maximum": _extreme(">"), "minimum": _extreme("<")} if IS_X86 else {}),
}
#: When a limit is the result.
_BEYOND = {"maximum": "<=", "minimum": ">="}
#: For which dtypes of the operands, if not for all: bool has other arithmetic, and float16 is rounded after each step.
_OF_BOOL = {"equal", "not_equal", "where", "invert"} | {
    f"{kind}_{name}" for kind in ("logical", "bitwise") for name in ("and", "or", "xor", "not")
}
_OF_HALF = {"add", "subtract", "multiply", "divide", "negative", "positive", "where", "absolute", "fabs", "sqrt"} | {
    *("equal", "not_equal", "less", "less_equal", "greater", "greater_equal", "isnan")
}


def is_instruction(kind, dtypes):
    """Return whether an operation on these dtypes is no call."""
    if kind == "cast":
        return True
    allowed = _INSTRUCTIONS
    if "?" in dtypes and kind != "where":
        allowed = _OF_BOOL
    elif "e" in dtypes:
        allowed = _OF_HALF
    return kind in _INSTRUCTIONS and kind in allowed


def compute(builder, steps, i, given):
    """Emit a step of a program, given its operands."""
    kind, dtype, parts = steps[i]
    if kind == "cast":
        return convert(builder, given[0], dtype)
    if kind in _BEYOND and steps[parts[1]][0] == "number":  # which is not NaN
        return builder.select(builder.fcmp_ordered(_BEYOND[kind], *given), given[1], given[0])
    return _INSTRUCTIONS[kind](builder, *given)


def convert(builder, value, dtype):
    """Emit a value in another dtype."""
    wanted = TYPES[dtype]
    if dtype == "?":
        return _truth(builder, value)
    if value.type == BIT:
        return builder.uitofp(value, wanted)
    if value.type == wanted:
        return value
    return builder.fpext(value, wanted) if wanted == ir.DoubleType() else builder.fptrunc(value, wanted)


def use_wide_vectors(builder):
    """Let LLVM use the widest vectors of the processor in a function; by default it uses half of their width."""
    set.add(builder.function.attributes, '"prefer-vector-width"="512"')


@intrinsic
def in_wide_vectors(context):
    """Let LLVM use the widest vectors in the loops of a kernel."""

    def generate(context, builder, signature, arguments):
        use_wide_vectors(builder)
        return context.get_dummy_value()

    return types.none(), generate


def inlined(function):
    """Return a function of float32 for kernels, made from an elementwise function without calls."""
    steps, numbers, _ = record(function, [np.dtype("float32")], {})

    @intrinsic
    def call(context, x):
        def generate(context, builder, signature, arguments):
            values = []
            for i, (kind, dtype, parts) in enumerate(steps):
                if kind == "input":
                    values.append(arguments[0])
                elif kind == "number":
                    values.append(TYPES[dtype](numbers[parts[0]]))
                else:
                    values.append(compute(builder, steps, i, [values[part] for part in parts]))
            return values[-1]

        return float32(float32), generate

    return call
