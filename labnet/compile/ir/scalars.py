"""The scalar expression of each elementwise op, for Numba to compile.

``{0}``, ``{1}`` and so on are the operands, converted to the dtype that NumPy computes in. Names that begin with an
underscore are functions of `labnet.compile.intrinsics`, in its modules `arithmetic` and `elementary_functions`.
``{T}`` is the type that is computed in, and ``{t}`` its number of bits: float32 for float16, to which results are
rounded.
"""

#: Ops whose result has the dtype of the computation.
ARITHMETIC = {
    "add": "_plus({0}, {1})",
    "subtract": "_minus({0}, {1})",
    "multiply": "_times({0}, {1})",
    "divide": "_over({0}, {1})",
    "negative": "_negated({0})",
    "positive": "{0}",
    "square": "_times({0}, {0})",
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
}

#: Ops for floating dtypes.
FLOATING = {
    "exp": "_exp{t}({0})",
    "log": "_log{t}({0})",
    "sqrt": "math.sqrt({0})",
    "tanh": "_tanh{t}({0})",
    "relu": "({T}(0) if {0} <= {T}(0) else {0})",
    "sigmoid": "_sigmoid{t}({0})",
    "abs": "_magnitude({0})",
    "sign": "({T}(1) if {0} > {T}(0) else ({T}(-1) if {0} < {T}(0) else _plus({0}, {T}(0))))",
    "reciprocal": "_over({T}(1), {0})",
    "pow": "_power({0}, {1})",
    "floor": "_floor({0})",
    "ceil": "_ceil({0})",
    "trunc": "_trunc({0})",
    "expm1": "_expm1{t}({0})",
    "log1p": "_log1p{t}({0})",
    "log2": "_log2{t}({0})",
    "log10": "_log10{t}({0})",
    "erf": "_erf{t}({0})",
    "hypot": "math.hypot({0}, {1})",
    "copysign": "math.copysign({0}, {1})",
    "nextafter": "np.nextafter({0}, {1})",
    "atan2": "math.atan2({0}, {1})",
    **{name: f"math.{name}({{0}})" for name in ("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh")},
    **{name: f"math.{name}({{0}})" for name in ("asinh", "acosh", "atanh")},
}

#: Ops whose result is a boolean.
TESTS = {
    "equal": "({0} == {1})",
    "not_equal": "({0} != {1})",
    "greater": "({0} > {1})",
    "greater_equal": "({0} >= {1})",
    "less": "({0} < {1})",
    "less_equal": "({0} <= {1})",
    "isnan": "({0} != {0})",
    "isinf": "(abs({0}) == math.inf)",
    "signbit": "np.signbit({0})",
    "isfinite": "(abs({0}) < math.inf)",
    "logical_and": "(({0} != 0) and ({1} != 0))",
    "logical_or": "(({0} != 0) or ({1} != 0))",
    "logical_xor": "(({0} != 0) != ({1} != 0))",
    "logical_not": "({0} == 0)",
}

EXPRESSIONS = {**ARITHMETIC, **FLOATING, **TESTS}
#: Expressions that differ for integer dtypes.
WHOLE = {"reciprocal": "_as_{T}(1.0 / {0})"}
#: Cheaper expressions for powers with a constant exponent, for floating dtypes.
POWERS = {-0.5: "({T}(0) if {0} == -math.inf else _over({T}(1), math.sqrt(_plus({0}, {T}(0)))))"}
#: Expressions that differ for float16, where NumPy selects the first of two equal numbers, such as signed zeros.
HALF = {
    "maximum": "({0} if {0} >= {1} or {0} != {0} else {1})",
    "minimum": "({0} if {0} <= {1} or {0} != {0} else {1})",
    "relu": "({T}(0) if {0} < {T}(0) else {0})",
    "nextafter": "_next_half({0}, {1})",
}
#: Ops whose result is one of their operands up to sign, so that it needs no rounding.
CHOICES = frozenset(("copy", "where", "positive", "negative", "abs", "maximum", "minimum", "relu", "sign", "copysign"))
