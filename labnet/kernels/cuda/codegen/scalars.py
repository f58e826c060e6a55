"""Source of scalar operations: one entry per universal function of NumPy and kind of number.

Both Numba for CUDA and plain Python understand it. Every operand is the name of a local variable, so an entry may use
it twice.
"""

import functools

import numpy as np

from labnet.kernels.cuda.driver.kernel import CASTS, Dtype

BOOL = np.dtype(bool)
_HALF, _SINGLE = np.dtype("float16"), np.dtype("float32")


class NotInKernels(Exception):
    """A function has no source for these dtypes."""


def working(dtype: Dtype) -> Dtype:
    """Return the dtype that values of a dtype are computed in: float32 for float16."""
    return _SINGLE if dtype == _HALF else dtype


_COMPARISONS = {
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
}  # fmt: skip
_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}

#: Operations within NumPy's remainder and floor_divide of floating-point numbers.
REMAINDER, WHOLE, QUOTIENT = "remainder of fmod", "whole part", "quotient"
_FLOAT = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in {**_ARITHMETIC, "divide": "/"}.items()},
    **{name: f"math.{name}({{0}})" for name in ("exp", "log", "log2", "log10", "log1p", "expm1", "sqrt")},
    **{name: f"math.{name}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: f"math.{name}({{0}})" for name in ("floor", "ceil", "trunc")},
    **{f"arc{name}": f"math.a{name}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": "math.atan2({0}, {1})",
    "erf": "math.erf({0})",
    "hypot": "math.hypot({0}, {1})",
    "copysign": "math.copysign({0}, {1})",
    "power": "math.pow({0}, {1})",
    "absolute": "math.fabs({0})",
    "negative": "(-{0})",
    "positive": "{0}",
    "relu": "(T(0) if {0} < T(0) else {0})",
    "sigmoid": "(T(1) / (T(1) + math.exp(-{0})))",
    "square": "({0} * {0})",
    "reciprocal": "(T(1) / {0})",
    "sign": "({0} if {0} != {0} else (T(1) if {0} > T(0) else (T(-1) if {0} < T(0) else T(0))))",
    "rint": "(math.copysign(({0} + math.copysign(T(EXACT), {0})) - math.copysign(T(EXACT), {0}), {0})"
    " if math.fabs({0}) < T(EXACT) else {0})",
    "fmod": "math.fmod({0}, {1})",
    # of the remainder of C, {0}: moved where the signs differ, as Python does
    REMAINDER: "(math.copysign(T(0), {1}) if {0} == T(0) else ({0} + {1} if ({0} < T(0)) != ({1} < T(0)) else {0}))",
    # of both numbers and the remainder of C: a whole number but for the last bit, and one less where the signs differ
    WHOLE: "(({0} - {2}) / {1} - (T(1) if {2} != T(0) and ({2} < T(0)) != ({1} < T(0)) else T(0)))",
    QUOTIENT: "({0} / {1} if {1} == T(0) else (math.copysign(T(0), {0} / {1}) if {2} == T(0) else"
    " math.floor({2}) + (T(1) if {2} - math.floor({2}) > T(0.5) else T(0))))",
    "maximum": "({0} if {0} >= {1} or {0} != {0} else {1})",
    "minimum": "({0} if {0} <= {1} or {0} != {0} else {1})",
    "fmax": "({0} if {0} >= {1} or {1} != {1} else {1})",
    "fmin": "({0} if {0} <= {1} or {1} != {1} else {1})",
    "logaddexp": "({0} + T(LOG2) if {0} == {1} else"
    " (({0} if {0} > {1} else {1}) + math.log1p(math.exp(-math.fabs({0} - {1})))))",
}
_INTEGER = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in {**_ARITHMETIC, **_BITS}.items()},
    "absolute": "({0} if {0} >= T(0) else T(T(0) - {0}))",
    "negative": "(T(0) - {0})",
    "positive": "{0}",
    "square": "({0} * {0})",
    "sign": "(T(1) if {0} > T(0) else (T(-1) if {0} < T(0) else T(0)))",
    "maximum": "({0} if {0} >= {1} else {1})",
    "minimum": "({0} if {0} <= {1} else {1})",
    "fmax": "({0} if {0} >= {1} else {1})",
    "fmin": "({0} if {0} <= {1} else {1})",
    "invert": "(~{0})",
    "floor_divide": "({0} // {1} if {1} != T(0) else T(0))",
    "remainder": "({0} % {1} if {1} != T(0) else T(0))",
    "left_shift": "({0} << {1} if {1} >= T(0) and {1} < T(BITS) else T(0))",
    "right_shift": "({0} >> ({1} if {1} >= T(0) and {1} < T(BITS) else T(BITS - 1)))",
    "floor": "{0}",
    "ceil": "{0}",
    "trunc": "{0}",
    "rint": "{0}",
}
_BOOLEAN = {
    "add": "({0} or {1})",
    "multiply": "({0} and {1})",
    "maximum": "({0} or {1})",
    "minimum": "({0} and {1})",
    "fmax": "({0} or {1})",
    "fmin": "({0} and {1})",
    "bitwise_and": "({0} and {1})",
    "bitwise_or": "({0} or {1})",
    "bitwise_xor": "({0} != {1})",
    "invert": "(not {0})",
    "absolute": "{0}",
    "positive": "{0}",
    "floor": "{0}",
    "ceil": "{0}",
    "trunc": "{0}",
    "rint": "{0}",
}
#: Functions whose result is boolean for every dtype.
_TESTS = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in _COMPARISONS.items()},
    "logical_and": "(({0} != Z) and ({1} != Z))",
    "logical_or": "(({0} != Z) or ({1} != Z))",
    "logical_xor": "(({0} != Z) != ({1} != Z))",
    "logical_not": "(not ({0} != Z))",
}
_FLOAT_TESTS = {
    "isnan": "({0} != {0})",
    "isinf": "(math.fabs({0}) == T(INF))",
    "isfinite": "(math.fabs({0}) < T(INF))",
    "signbit": "(math.copysign(T(1), {0}) < T(0))",
}
_NEVER = {"isnan": "False", "isinf": "False", "isfinite": "True"}


@functools.cache
def scalar_source(name: str, dtype: Dtype) -> str:
    """Return the source of a function for operands of a dtype, with ``T`` and other placeholders filled in."""
    dtype = working(dtype)
    tests = _FLOAT_TESTS if dtype.kind == "f" else _NEVER
    table = _FLOAT if dtype.kind == "f" else _BOOLEAN if dtype.kind == "b" else _INTEGER
    found = _TESTS.get(name) or tests.get(name) or table.get(name)
    if found is None:
        raise NotInKernels(name)
    zero = "False" if dtype.kind == "b" else f"{CASTS[dtype]}(0)"
    found = found.replace("!= Z", f"!= {zero}")
    if dtype.kind != "b":
        found = found.replace("BITS", str(8 * dtype.itemsize)).replace("T(", f"{CASTS[dtype]}(")
        found = found.replace("EXACT", "8388608.0" if dtype == _SINGLE else "4503599627370496.0")
        found = found.replace("INF", "math.inf").replace("LOG2", "0.6931471805599453")
    if dtype.kind in "iu" and name not in _TESTS and name not in _NEVER:
        found = f"{CASTS[dtype]}({found})"
    return found


def cast_source(value: str, source: Dtype, target: Dtype) -> str:
    """Return the source that converts a value."""
    source, target = working(source), working(target)
    if source == target:
        return value
    if target.kind == "b":
        return f"({value} != {CASTS[source]}(0))"
    name = CASTS[target]
    if source.kind == "b":
        return f"({name}(1) if {value} else {name}(0))"
    return f"{name}({value})"


def load_source(text: str, dtype: Dtype) -> str:
    """Return the source of a value that was read from memory."""
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"f4({text})" if dtype == _HALF else text


def store_source(value: str, dtype: Dtype) -> str:
    """Return the source of a value as it is written to memory."""
    if dtype.kind == "b":
        return f"u1(1 if {value} else 0)"
    return f"f2({value})" if dtype == _HALF else value
