"""Source of scalar operations, by the name of NumPy's universal function and the kind of number.

The scalar expressions of ops say what most functions compute. The tables spell the operations in these, and functions
that are computed in another way than on the CPU.

Both Numba for CUDA and plain Python understand it. Operands are mostly names of local variables, so an entry may use
them twice.
"""

import functools
import math
from typing import Any

import numpy as np

from labnet.kernels.cuda.driver.kernel import CASTS, Dtype
from labnet.kernels.scalar_expression import write

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
    "power": "math.pow({0}, {1})",
    "negative": "(-{0})",
    "relu": "(T(0) if {0} < T(0) else {0})",
    "sigmoid": "(T(1) / (T(1) + math.exp(-{0})))",
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
}
_INTEGER = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in {**_ARITHMETIC, **_BITS}.items()},
    "absolute": "({0} if {0} >= T(0) else T(T(0) - {0}))",
    "negative": "(T(0) - {0})",
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
_SIGNBIT = {"signbit": "(math.copysign(T(1), {0}) < T(0))"}
#: A choice, which is no universal function.
_CHOICE = {"where": "({1} if {0} else {2})"}
_NEVER = {"isnan": "False", "isinf": "False", "isfinite": "True"}
#: Functions of C with two arguments.
_FUNCTIONS = {f"math.{name}": f"math.{name}({{0}}, {{1}})" for name in ("atan2", "copysign", "hypot")}


@functools.cache
def scalar_source(name: str, dtype: Dtype) -> str:
    """Return the source of a function for operands of a dtype, with ``T`` and other placeholders filled in."""
    dtype = working(dtype)
    tests = _SIGNBIT if dtype.kind == "f" else _NEVER
    table = _FLOAT if dtype.kind == "f" else _BOOLEAN if dtype.kind == "b" else _INTEGER

    def spell(one: str) -> str | None:
        if one.startswith("math."):
            return _FUNCTIONS.get(one, f"{one}({{0}})") if dtype.kind == "f" else None
        return _TESTS.get(one) or tests.get(one) or table.get(one) or _CHOICE.get(one)

    try:
        found = write(name, spell, lambda value: _number(value, dtype))
    except KeyError:
        raise NotInKernels(name) from None
    zero = "False" if dtype.kind == "b" else f"{CASTS[dtype]}(0)"
    found = found.replace("!= Z", f"!= {zero}")
    if dtype.kind != "b":
        found = found.replace("BITS", str(8 * dtype.itemsize)).replace("T(", f"{CASTS[dtype]}(")
        found = found.replace("EXACT", "8388608.0" if dtype == _SINGLE else "4503599627370496.0")
    if dtype.kind in "iu" and name not in _TESTS and name not in _NEVER:
        found = f"{CASTS[dtype]}({found})"
    return found


def _number(value: Any, dtype: Dtype) -> str:
    """Return a number of an expression as source."""
    if dtype.kind == "b":
        return str(bool(value))
    if isinstance(value, float) and not math.isfinite(value):
        return "T(math.nan)" if math.isnan(value) else "T(math.inf)" if value > 0 else "T(-math.inf)"
    return f"T({value!r})"


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
