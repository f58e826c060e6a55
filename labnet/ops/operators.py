"""The methods and operators of `Tensor` that are ops."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet._methods import Methods
from labnet.errors import ShapeError
from labnet.ops.aggregation import combination as combination
from labnet.ops.aggregation import positions as positions
from labnet.ops.aggregation.linalg import matmul
from labnet.ops.core.forms import FORMS
from labnet.ops.core.names import ACTIVATIONS, ALIASES, FORM_ALIASES, IN_PLACE, METHODS, NUMPY
from labnet.ops.core.names import FORMS as NAMED
from labnet.ops.core.registry import REGISTRY
from labnet.ops.elementwise import special as special
from labnet.ops.elementwise.arithmetic import abs, floor_divide, positive, remainder, round
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
from labnet.ops.methods import ATTRIBUTES, STATE, VIEWS, Data, in_place_method, unrecorded, unrecorded_view
from labnet.ops.numpy_api.protocol import array_function, array_ufunc
from labnet.ops.numpy_api.table import FUNCTIONS as NUMPY_FUNCTIONS
from labnet.ops.selection.indexing import getitem
from labnet.ops.selection.writing import in_place, write
from labnet.tensor import Tensor


def _divmod(x: Any, other: Any, /) -> tuple[Tensor, Tensor]:
    return floor_divide(x, other), remainder(x, other)


def _rounded(x: Tensor, digits: int | None = None, /) -> Tensor:
    return round(x) if not digits else round(x * 10**digits) / 10**digits


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
    "__divmod__": _divmod,
    "__round__": _rounded,
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


def methods() -> dict[str, Callable[..., Any]]:
    """Return the methods of `Tensor` that are functions of ops, by name, from the table of names."""
    declared = [name for name, op in REGISTRY.items() if op.is_method and name not in METHODS]
    found: dict[str, Callable[..., Any]] = {name: REGISTRY[name].function for name in (*METHODS, *declared)}
    aliases = {name: REGISTRY[target] for name, target in ALIASES.items()}
    found |= {name: op.function for name, op in aliases.items() if not op.variadic}
    found |= FORMS | STATE | {name: FORMS[target] for name, target in FORM_ALIASES.items()}
    return found | {f"{name}_": in_place_method(found[name]) for name in IN_PLACE}


def named_functions() -> dict[str, Callable[..., Any]]:
    """Return the functions of the namespace that the table of names adds to the registry."""
    return {
        **{name: REGISTRY[target].function for name, target in ALIASES.items()},
        **{name: REGISTRY[name].function for name in ACTIVATIONS},
        **{name: FORMS[name] for name in NAMED},
        **{name: FORMS[target] for name, target in FORM_ALIASES.items()},
        **{name: _numpy_function(name) for name in NUMPY},
    }


def _numpy_function(name: str) -> Callable[..., Any]:
    function = NUMPY_FUNCTIONS[getattr(np, name)]
    function.__doc__ = NUMPY[name]
    return function


def attach() -> None:
    """Attach methods and operators to `Tensor`; every op must be declared before."""
    attached = methods()
    for name, function in attached.items():
        setattr(Methods, name, function)
    for name, function in OPERATORS.items():
        setattr(Methods, name, function)
    for name in REFLECTED:
        setattr(Methods, name.replace("__", "__r", 1), _reflect(OPERATORS[name]))
        setattr(Methods, name.replace("__", "__i", 1), in_place(OPERATORS[name]))
    setattr(Methods, "__rdivmod__", _reflect(OPERATORS["__divmod__"]))  # noqa: B010
    for name, read in PROPERTIES.items():
        setattr(Methods, name, property(read))
    for name, attribute in ATTRIBUTES.items():
        setattr(Methods, name, attribute)
    setattr(Methods, "__setitem__", write)  # noqa: B010
    setattr(Methods, "__array_ufunc__", array_ufunc)  # noqa: B010
    setattr(Methods, "__array_function__", array_function)  # noqa: B010
    writers = [name for name in attached if name.endswith("_")] + [name.replace("__", "__i", 1) for name in REFLECTED]
    for name in ("__setitem__", *writers):
        setattr(Data, name, unrecorded(getattr(Methods, name)))
    for name in VIEWS:
        setattr(Data, name, unrecorded_view(getattr(Methods, name)))
    for name, read in PROPERTIES.items():
        setattr(Data, name, property(unrecorded_view(read)))
