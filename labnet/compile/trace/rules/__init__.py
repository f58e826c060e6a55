"""Compile rules: each translates an op of the registry to operations of the intermediate representation."""

from labnet.compile.trace.rules import (
    convolution,
    elementwise,
    indexing,
    ordering,
    pooling,
    products,
    recurrences,
    reductions,
    views,
)
from labnet.compile.trace.rules.composed import COMPOSED, body, compose
from labnet.compile.trace.rules.elementwise import Rule
from labnet.ops.core.declaration import Op

__all__ = ["RULES", "rule_of"]

_COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
_VIEWS = ("reshape", "permute_dims", "matrix_transpose", "expand_dims", "squeeze", "moveaxis", "flip", "broadcast_to")

#: Rules of ops that a scalar expression or a body of other ops does not define, or not in every case.
RULES: dict[str, Rule] = {
    **dict.fromkeys(_COMPARISONS, elementwise.compare),
    "pow": elementwise.power,
    **dict.fromkeys(_VIEWS, views.view),
    **{name: compose(function) for name, function in COMPOSED.items()},
    "astype": elementwise.convert,
    "sum": reductions.reduction("sum"),
    "prod": reductions.reduction("prod"),
    "max": reductions.reduction("max"),
    "min": reductions.reduction("min"),
    "sum_to": reductions.sum_to,
    "matmul": products.matmul,
    "getitem": indexing.getitem,
    "scatter_add": indexing.scatter_add,
    "setitem": indexing.setitem,
    "roll": indexing.roll,
    "sort": ordering.sort,
    "argsort": ordering.argsort,
    "searchsorted": ordering.searchsorted,
    "cumulative_sum": ordering.cumulative("running_sum", 0),
    "cumulative_prod": ordering.cumulative("running_product", 1),
    "recur": recurrences.recur,
    "recur_back": recurrences.recur_back,
    **convolution.RULES,
    **pooling.RULES,
    "concat": views.concat,
    "pad": views.pad,
    "tril": views.triangle,
    "triu": views.triangle,
}


def rule_of(op: Op) -> Rule:
    """Return the compile rule of an op: its own, or that of its scalar expression, or else the trace of its body."""
    if op.name in RULES and not op.is_custom:
        return RULES[op.name]
    if op.is_primitive:
        return elementwise.elementwise
    return body if op.scalar is None else elementwise.composed
