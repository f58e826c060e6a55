"""Every op, by family, and the methods and operators that they give to `Tensor`."""

from collections.abc import Callable
from typing import Any

from labnet._methods import Methods
from labnet.ops import creation as creation
from labnet.ops.activation import elu, gelu, hardtanh, leaky_relu, ndtr, relu6, silu, softmax, threshold
from labnet.ops.convolution import conv2d, conv2d_input, conv2d_weight
from labnet.ops.elementwise import (
    add,
    divide,
    equal,
    exp,
    greater,
    greater_equal,
    less,
    less_equal,
    log,
    maximum,
    multiply,
    negative,
    not_equal,
    pow,
    relu,
    sigmoid,
    sqrt,
    subtract,
    tanh,
    where,
)
from labnet.ops.gradients import grad
from labnet.ops.indexing import getitem, scatter_add
from labnet.ops.likelihood import binary_cross_entropy_with_logits, cross_entropy_with_logits
from labnet.ops.linalg import matmul
from labnet.ops.normalization import standardize
from labnet.ops.pooling import avg_pool2d, avg_pool2d_input, max_pool2d, max_pool2d_input, max_pool2d_pick
from labnet.ops.reduction import argmax, log_softmax, max, mean, sum
from labnet.ops.registry import REGISTRY, Op, Sample
from labnet.ops.shape import (
    astype,
    broadcast_to,
    expand_dims,
    matrix_transpose,
    permute_dims,
    reshape,
    sum_to,
)

#: Ops that are methods too, under the same name.
METHODS = ("argmax", "astype", "exp", "log", "max", "mean", "reshape", "sqrt", "sum", "tanh")

#: Operators, each with the op that it stands for.
OPERATORS: dict[str, Callable[..., Any]] = {
    "__add__": add,
    "__sub__": subtract,
    "__mul__": multiply,
    "__truediv__": divide,
    "__pow__": pow,
    "__matmul__": matmul,
    "__eq__": equal,
    "__ne__": not_equal,
    "__gt__": greater,
    "__ge__": greater_equal,
    "__lt__": less,
    "__le__": less_equal,
    "__neg__": negative,
    "__getitem__": getitem,
}

#: Operators that have a form with the operands swapped.
REFLECTED = ("__add__", "__sub__", "__mul__", "__truediv__", "__pow__", "__matmul__")

#: Attributes that are ops.
PROPERTIES = {"mT": matrix_transpose, "T": matrix_transpose}


def _reflect(function: Callable[[Any, Any], Any]) -> Callable[[Any, Any], Any]:
    return lambda self, other: function(other, self)


for _name in METHODS:
    setattr(Methods, _name, REGISTRY[_name].function)
for _name, _function in OPERATORS.items():
    setattr(Methods, _name, _function)
for _name in REFLECTED:
    setattr(Methods, _name.replace("__", "__r", 1), _reflect(OPERATORS[_name]))
for _name, _function in PROPERTIES.items():
    setattr(Methods, _name, property(_function))

__all__ = [
    "METHODS",
    "OPERATORS",
    "PROPERTIES",
    "REFLECTED",
    "REGISTRY",
    "Op",
    "Sample",
    "add",
    "argmax",
    "astype",
    "avg_pool2d",
    "avg_pool2d_input",
    "binary_cross_entropy_with_logits",
    "broadcast_to",
    "conv2d",
    "conv2d_input",
    "conv2d_weight",
    "cross_entropy_with_logits",
    "divide",
    "elu",
    "equal",
    "exp",
    "expand_dims",
    "gelu",
    "getitem",
    "grad",
    "greater",
    "greater_equal",
    "hardtanh",
    "leaky_relu",
    "less",
    "less_equal",
    "log",
    "log_softmax",
    "matmul",
    "matrix_transpose",
    "max",
    "max_pool2d",
    "max_pool2d_input",
    "max_pool2d_pick",
    "maximum",
    "mean",
    "multiply",
    "ndtr",
    "negative",
    "not_equal",
    "permute_dims",
    "pow",
    "relu",
    "relu6",
    "reshape",
    "scatter_add",
    "sigmoid",
    "silu",
    "softmax",
    "sqrt",
    "standardize",
    "subtract",
    "sum",
    "sum_to",
    "tanh",
    "threshold",
    "where",
]
