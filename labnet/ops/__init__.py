"""Every op, by family, and the methods and operators that they give to `Tensor`."""

from collections.abc import Callable
from typing import Any

from labnet._methods import Methods
from labnet.errors import ShapeError
from labnet.ops import creation as creation
from labnet.ops import dtypes as dtypes
from labnet.ops.arithmetic import (
    abs,
    ceil,
    clip,
    copysign,
    floor,
    floor_divide,
    hypot,
    minimum,
    nextafter,
    positive,
    reciprocal,
    remainder,
    round,
    sign,
    signbit,
    square,
    trunc,
)
from labnet.ops.elementwise import (
    add,
    divide,
    exp,
    log,
    maximum,
    multiply,
    negative,
    pow,
    relu,
    sigmoid,
    sqrt,
    subtract,
    tanh,
    where,
)
from labnet.ops.exponential import (
    erf,
    expm1,
    log1p,
    log2,
    log10,
    logaddexp,
)
from labnet.ops.gradients import (
    grad,
)
from labnet.ops.indexing import (
    getitem,
    scatter_add,
    setitem,
    take,
    take_along_axis,
)
from labnet.ops.joining import (
    broadcast_arrays,
    concat,
    meshgrid,
    stack,
    unstack,
)
from labnet.ops.linalg import (
    matmul,
    tensordot,
    vecdot,
)
from labnet.ops.logic import (
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    equal,
    greater,
    greater_equal,
    isfinite,
    isinf,
    isnan,
    less,
    less_equal,
    logical_and,
    logical_not,
    logical_or,
    logical_xor,
    not_equal,
)
from labnet.ops.rearrange import (
    flip,
    pad,
    repeat,
    roll,
    tile,
    tril,
    triu,
)
from labnet.ops.reduction import (
    all,
    any,
    argmax,
    argmin,
    count_nonzero,
    log_softmax,
    max,
    mean,
    min,
    sum,
)
from labnet.ops.registry import (
    REGISTRY,
    Op,
    Sample,
)
from labnet.ops.scans import (
    cumulative_prod,
    cumulative_sum,
    diff,
)
from labnet.ops.shape import (
    astype,
    broadcast_to,
    expand_dims,
    matrix_transpose,
    moveaxis,
    permute_dims,
    reshape,
    squeeze,
    sum_to,
)
from labnet.ops.sorting import (
    argsort,
    nonzero,
    searchsorted,
    sort,
    unique_all,
    unique_counts,
    unique_inverse,
    unique_values,
)
from labnet.ops.statistics import (
    median,
    prod,
    std,
    var,
    vector_norm,
)
from labnet.ops.trigonometry import (
    acos,
    acosh,
    asin,
    asinh,
    atan,
    atan2,
    atanh,
    cos,
    cosh,
    sin,
    sinh,
    tan,
)
from labnet.ops.writing import (
    in_place,
    write,
)
from labnet.tensor import Tensor

#: Ops that are methods too, under the same name.
METHODS = (
    *("abs", "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "cos", "count_nonzero"),
    *("cumulative_prod", "cumulative_sum", "diff", "exp", "expm1", "flip", "floor", "ceil", "isfinite", "isinf"),
    *("isnan", "log", "log1p", "max", "mean", "median", "min", "nonzero", "prod", "reciprocal", "repeat"),
    *("reshape", "roll", "round", "sign", "sin", "sort", "sqrt", "square", "squeeze", "std", "sum", "take", "tanh"),
    *("tile", "tril", "triu", "trunc", "unstack", "var"),
)

#: Operators, each with the op that it stands for.
OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": add,
    "__sub__": subtract,
    "__mul__": multiply,
    "__truediv__": divide,
    "__floordiv__": floor_divide,
    "__mod__": remainder,
    "__pow__": pow,
    "__matmul__": matmul,
    "__and__": bitwise_and,
    "__or__": bitwise_or,
    "__xor__": bitwise_xor,
    "__lshift__": bitwise_left_shift,
    "__rshift__": bitwise_right_shift,
    "__eq__": equal,
    "__ne__": not_equal,
    "__gt__": greater,
    "__ge__": greater_equal,
    "__lt__": less,
    "__le__": less_equal,
    "__neg__": negative,
    "__pos__": positive,
    "__abs__": abs,
    "__invert__": bitwise_invert,
    "__getitem__": getitem,
}

#: Operators that have a form with the operands swapped, and one that writes into the first operand.
REFLECTED = (
    *("__add__", "__sub__", "__mul__", "__truediv__", "__floordiv__", "__mod__", "__pow__", "__matmul__"),
    *("__and__", "__or__", "__xor__", "__lshift__", "__rshift__"),
)


def _transpose(x: Tensor) -> Tensor:
    if x.ndim != 2:
        raise ShapeError(f"T: expected two dimensions, got shape {x.shape}; use mT or permute_dims")
    return matrix_transpose(x)


#: Attributes that are ops.
PROPERTIES = {"mT": matrix_transpose, "T": _transpose}


def _reflect(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other, /: function(other, self)


for _name in METHODS:
    setattr(Methods, _name, REGISTRY[_name].function)
for _name, _function in OPERATORS.items():
    setattr(Methods, _name, _function)
for _name in REFLECTED:
    setattr(Methods, _name.replace("__", "__r", 1), _reflect(OPERATORS[_name]))
    setattr(Methods, _name.replace("__", "__i", 1), in_place(OPERATORS[_name]))
for _name, _function in PROPERTIES.items():
    setattr(Methods, _name, property(_function))
setattr(Methods, "__setitem__", write)  # noqa: B010

__all__ = [
    "METHODS",
    "OPERATORS",
    "PROPERTIES",
    "REFLECTED",
    "REGISTRY",
    "Op",
    "Sample",
    "abs",
    "acos",
    "acosh",
    "add",
    "all",
    "any",
    "argmax",
    "argmin",
    "argsort",
    "asin",
    "asinh",
    "astype",
    "atan",
    "atan2",
    "atanh",
    "bitwise_and",
    "bitwise_invert",
    "bitwise_left_shift",
    "bitwise_or",
    "bitwise_right_shift",
    "bitwise_xor",
    "broadcast_arrays",
    "broadcast_to",
    "ceil",
    "clip",
    "concat",
    "copysign",
    "cos",
    "cosh",
    "count_nonzero",
    "creation",
    "cumulative_prod",
    "cumulative_sum",
    "diff",
    "divide",
    "dtypes",
    "equal",
    "erf",
    "exp",
    "expand_dims",
    "expm1",
    "flip",
    "floor",
    "floor_divide",
    "getitem",
    "grad",
    "greater",
    "greater_equal",
    "hypot",
    "isfinite",
    "isinf",
    "isnan",
    "less",
    "less_equal",
    "log",
    "log1p",
    "log2",
    "log10",
    "log_softmax",
    "logaddexp",
    "logical_and",
    "logical_not",
    "logical_or",
    "logical_xor",
    "matmul",
    "matrix_transpose",
    "max",
    "maximum",
    "mean",
    "median",
    "meshgrid",
    "min",
    "minimum",
    "moveaxis",
    "multiply",
    "negative",
    "nextafter",
    "nonzero",
    "not_equal",
    "pad",
    "permute_dims",
    "positive",
    "pow",
    "prod",
    "reciprocal",
    "relu",
    "remainder",
    "repeat",
    "reshape",
    "roll",
    "round",
    "scatter_add",
    "searchsorted",
    "setitem",
    "sigmoid",
    "sign",
    "signbit",
    "sin",
    "sinh",
    "sort",
    "sqrt",
    "square",
    "squeeze",
    "stack",
    "std",
    "subtract",
    "sum",
    "sum_to",
    "take",
    "take_along_axis",
    "tan",
    "tanh",
    "tensordot",
    "tile",
    "tril",
    "triu",
    "trunc",
    "unique_all",
    "unique_counts",
    "unique_inverse",
    "unique_values",
    "unstack",
    "var",
    "vecdot",
    "vector_norm",
    "where",
]
