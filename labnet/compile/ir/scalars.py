"""The source of each elementwise operation, for Numba to compile.

An op's own scalar expression says what it computes. This module spells the operations in it. ``{0}``, ``{1}`` and so on
are the operands, converted to the dtype that NumPy computes in. Names that begin with an underscore are functions of
`labnet.compile.intrinsics`, in its modules `arithmetic` and `elementary_functions`. ``{T}`` is the type of the
computation, and ``{t}`` its number of bits: float32 for float16, to which results are rounded.
"""

import functools
import math
from typing import Any

import numpy as np

from labnet.kernels.scalar_expression import names, primitive_tree, write

_SPELLED = {
    "add": "_plus({0}, {1})",
    "subtract": "_minus({0}, {1})",
    "multiply": "_times({0}, {1})",
    "divide": "_over({0}, {1})",
    "negative": "_negated({0})",
    "maximum": "_greater({0}, {1})",
    "minimum": "_smaller({0}, {1})",
    "where": "({1} if {0} else {2})",
    "copy": "{0}",
    "bitwise_and": "({0} & {1})",
    "bitwise_or": "({0} | {1})",
    "bitwise_xor": "({0} ^ {1})",
    "bitwise_invert": "_inverted({0})",
    "bitwise_left_shift": "_shifted_left({0}, {1})",
    "bitwise_right_shift": "_shifted_right({0}, {1})",
    "round": "_rint({0})",
    "floor_divide": "_quotient({0}, {1})",
    "remainder": "_rest({0}, {1})",
    "relu": "({T}(0) if {0} <= {T}(0) else {0})",
    "sigmoid": "_sigmoid{t}({0})",
    "pow": "_power({0}, {1})",
    "nextafter": "_next{t}({0}, {1})",
    "signbit": "np.signbit({0})",
    "equal": "({0} == {1})",
    "not_equal": "({0} != {1})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "logical_and": "(({0} != 0) and ({1} != 0))",
    "logical_or": "(({0} != 0) or ({1} != 0))",
    "logical_xor": "(({0} != 0) != ({1} != 0))",
    "logical_not": "({0} == 0)",
    "math.fabs": "_magnitude({0})",
    **{f"math.{name}": f"_{name}({{0}})" for name in ("floor", "ceil", "trunc")},
    **{f"math.{name}": f"_{name}{{t}}({{0}})" for name in ("exp", "expm1", "log", "log1p", "log2", "log10")},
    **{f"math.{name}": f"_{name}{{t}}({{0}})" for name in ("tanh", "erf")},
    **{f"math.{name}": f"math.{name}({{0}}, {{1}})" for name in ("hypot", "copysign", "atan2")},
}
#: Sources that differ for integer dtypes.
_WHOLE = {"reciprocal": "_as_{T}(1.0 / {0})"}
#: Cheaper sources for powers with a constant exponent, for floating dtypes.
_POWERS = {-0.5: "({T}(0) if {0} == -math.inf else _over({T}(1), math.sqrt(_plus({0}, {T}(0)))))"}
#: Sources that differ for float16, where NumPy selects the first of two equal numbers, such as signed zeros.
_HALF = {
    "maximum": "({0} if {0} >= {1} or {0} != {0} else {1})",
    "minimum": "({0} if {0} <= {1} or {0} != {0} else {1})",
    "relu": "({T}(0) if {0} < {T}(0) else {0})",
    "nextafter": "_next_half({0}, {1})",
}
#: Ops whose result is one of their operands up to sign, so that it needs no rounding.
CHOICES = frozenset(("copy", "where", "positive", "negative", "abs", "maximum", "minimum", "relu", "sign", "copysign"))
#: Operations that take much longer than a read from memory.
_SLOW = {"divide", "pow", "sigmoid", "nextafter"}
_FAST_FUNCTIONS = {"math.fabs", "math.floor", "math.ceil", "math.trunc"}


@functools.cache
def scalar_source(name: str, work: np.dtype[Any], exponent: float | None = None) -> str:
    """Return the source of an elementwise op that computes in a dtype, with ``{0}``, ``{T}`` and ``{t}`` to fill in.

    Examples
    --------
    >>> scalar_source("square", np.dtype("float32"))
    '_times({0}, {0})'
    """
    special: dict[Any, str] = _HALF if work.name == "float16" else {} if work.kind == "f" else _WHOLE
    if name == "pow" and work.kind == "f" and exponent in _POWERS:
        return _POWERS[exponent]
    return write(name, lambda one: special.get(one) or _spelled(one), functools.partial(_number, work=work))


def _spelled(name: str) -> str | None:
    found = _SPELLED.get(name)
    return f"{name}({{0}})" if found is None and name.startswith("math.") else found


def _number(value: Any, work: np.dtype[Any]) -> str:
    if isinstance(value, float) and not math.isfinite(value):
        text = "math.nan" if math.isnan(value) else "math.inf" if value > 0 else "-math.inf"
        return f"{{T}}({text})" if work.kind == "f" else text
    return f"{{T}}({value!r})"


@functools.cache
def is_cheap(name: str) -> bool:
    """Return whether an elementwise op is recomputed rather than saved for a backward.

    Examples
    --------
    >>> is_cheap("sign"), is_cheap("tanh")
    (True, False)
    """
    if name == "copy":
        return True
    used = {name}.union(names(primitive_tree(name)))
    return not used & _SLOW and all(not one.startswith("math.") or one in _FAST_FUNCTIONS for one in used)
