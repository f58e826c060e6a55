"""Compile rules: each translates an op of the registry to operations of the intermediate representation."""

from labnet.compile.ir.scalars import EXPRESSIONS
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
from labnet.compile.trace.rules.composed import COMPOSED, compose
from labnet.compile.trace.rules.elementwise import Rule

__all__ = ["RULES"]

_COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "less", "less_equal")
_VIEWS = ("reshape", "permute_dims", "matrix_transpose", "expand_dims", "squeeze", "moveaxis", "flip", "broadcast_to")

RULES: dict[str, Rule] = {
    **dict.fromkeys(EXPRESSIONS, elementwise.elementwise),
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
del RULES["copy"]
