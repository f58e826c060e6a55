"""The methods and operators of `Tensor` that are ops."""

from collections.abc import Callable
from typing import Any

from labnet._methods import Methods
from labnet.errors import ShapeError
from labnet.ops.aggregation.linalg import matmul
from labnet.ops.core.registry import REGISTRY
from labnet.ops.elementwise.arithmetic import abs, floor_divide, positive, remainder
from labnet.ops.elementwise.elementary import add, divide, multiply, negative, pow, subtract
from labnet.ops.elementwise.logic import (
    bitwise_and,
    bitwise_invert,
    bitwise_left_shift,
    bitwise_or,
    bitwise_right_shift,
    bitwise_xor,
    equal,
    greater,
    greater_equal,
    less,
    less_equal,
    not_equal,
)
from labnet.ops.layout.shape import matrix_transpose
from labnet.ops.numpy_api.protocol import array_function, array_ufunc
from labnet.ops.selection.indexing import getitem
from labnet.ops.selection.writing import in_place, write
from labnet.tensor import Tensor

#: Ops that are also methods, under the same name.
METHODS = (
    *("abs", "all", "any", "argmax", "argmin", "argsort", "astype", "clip", "cos", "count_nonzero"),
    *("cumulative_prod", "cumulative_sum", "diff", "exp", "expm1", "flip", "floor", "ceil", "isfinite", "isinf"),
    *("isnan", "log", "log1p", "max", "mean", "median", "min", "nonzero", "prod", "reciprocal", "repeat"),
    *("reshape", "roll", "round", "sign", "sin", "sort", "sqrt", "square", "squeeze", "std", "sum", "take", "tanh"),
    *("tile", "tril", "triu", "trunc", "unstack", "var"),
)

#: Operators with their ops.
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

#: Operators with a reflected form and an in-place form.
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


def attach() -> None:
    """Attach methods and operators to `Tensor`; every op must be declared before."""
    for name in METHODS:
        setattr(Methods, name, REGISTRY[name].function)
    for name, function in OPERATORS.items():
        setattr(Methods, name, function)
    for name in REFLECTED:
        setattr(Methods, name.replace("__", "__r", 1), _reflect(OPERATORS[name]))
        setattr(Methods, name.replace("__", "__i", 1), in_place(OPERATORS[name]))
    for name, function in PROPERTIES.items():
        setattr(Methods, name, property(function))
    setattr(Methods, "__setitem__", write)  # noqa: B010
    setattr(Methods, "__array_ufunc__", array_ufunc)  # noqa: B010
    setattr(Methods, "__array_function__", array_function)  # noqa: B010
