"""Scalar expressions: what an elementwise op computes from one element of each input.

``2 * tanh(x)`` is parsed to a tree of named operations and is never run as Python. Operators stand for the operations
of the array API standard: ``x1 + x2`` is ``add(x1, x2)``, and ``a if c else b`` is ``where(c, a, b)``. ``math.sin(x)``
is the function of C. The module does not know what an operation computes: each target spells it.
"""

import ast
import functools
import math
import re
from collections.abc import Callable, Collection, Sequence
from typing import Any, NamedTuple

_OPERATORS: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
    ast.FloorDiv: "floor_divide",
    ast.Mod: "remainder",
    ast.Pow: "pow",
    ast.BitAnd: "bitwise_and",
    ast.BitOr: "bitwise_or",
    ast.BitXor: "bitwise_xor",
    ast.LShift: "bitwise_left_shift",
    ast.RShift: "bitwise_right_shift",
    ast.USub: "negative",
    ast.UAdd: "positive",
    ast.Invert: "bitwise_invert",
    ast.Not: "logical_not",
    ast.And: "logical_and",
    ast.Or: "logical_or",
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
#: Operations that operators stand for.
OPERATIONS = frozenset((*_OPERATORS.values(), "where"))
_CONSTANTS = {"pi": math.pi, "e": math.e, "inf": math.inf, "nan": math.nan}
#: Maximum depth of a tree, and maximum length of its text.
_DEPTH, _LENGTH = 200, 4000
_PLACE = re.compile(r"\{(\d+)\}")


#: The expressions of primitive ops with the names of their arguments, by the name of the op and of NumPy's function.
SCALARS: dict[str, tuple[str, tuple[str, ...]]] = {}
_MATH = frozenset(
    f"math.{name}"
    for name in (
        *("exp", "expm1", "log", "log1p", "log2", "log10", "sqrt", "erf", "fabs", "floor", "ceil", "trunc", "hypot"),
        *("sin", "cos", "tan", "asin", "acos", "atan", "sinh", "cosh", "tanh", "asinh", "acosh", "atanh", "atan2"),
        "copysign",
    )
)


class Input(NamedTuple):
    """An element of an input, or a static argument."""

    name: str


class Number(NamedTuple):
    """A Python number."""

    value: bool | int | float


class Operation(NamedTuple):
    """A named operation of other parts."""

    name: str
    parts: tuple["Tree", ...]


Tree = Input | Number | Operation


@functools.lru_cache(1024)
def parse(text: str, inputs: tuple[str, ...], known: frozenset[str] = frozenset()) -> Tree:
    """Return the tree of an expression.

    Parameters
    ----------
    text : str
        Numbers, names of inputs, ``pi e inf nan``, operators, comparisons, ``a if c else b`` and calls of functions.
    inputs : tuple of str
    known : frozenset of str
        Functions that may be called.

    Raises
    ------
    ValueError
        If it contains anything else; the message names that part.

    Examples
    --------
    >>> parse("x + 1", ("x",))
    Operation(name='add', parts=(Input(name='x'), Number(value=1)))
    """
    if not isinstance(text, str) or not 0 < len(text) <= _LENGTH:
        raise ValueError(f"scalar: expected an expression of at most {_LENGTH} characters, got {text!r:.80}")
    try:
        body = ast.parse(text.strip(), mode="eval").body
        return _Parser(inputs, known).tree(body, 0)
    except (SyntaxError, RecursionError, MemoryError) as error:
        raise ValueError(f"scalar: {text!r:.80} is not an expression: {error}") from None


class _Parser:
    """Converts syntax trees of Python, and refuses what has no meaning for scalars."""

    def __init__(self, inputs: Sequence[str], known: Collection[str]):
        self._inputs, self._known = inputs, known

    def tree(self, node: ast.expr, depth: int) -> Tree:
        """Return the tree of a node."""
        if depth > _DEPTH:
            raise ValueError(f"scalar: an expression may be {_DEPTH} operations deep; this one is deeper")
        part = functools.partial(self.tree, depth=depth + 1)
        match node:
            case ast.Constant(value=bool() | int() | float() as value):
                return Number(value)
            case ast.Name(id=name) if name in self._inputs:
                return Input(name)
            case ast.Name(id=name) if name in _CONSTANTS:
                return Number(_CONSTANTS[name])
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _OPERATORS:
                return Operation(_OPERATORS[type(op)], (part(left), part(right)))
            case ast.UnaryOp(op=ast.USub(), operand=ast.Constant(value=int() | float() as value)):
                return Number(-value)
            case ast.UnaryOp(op=op, operand=operand):
                return Operation(_OPERATORS[type(op)], (part(operand),))
            case ast.BoolOp(op=op, values=values):
                return _joined(_OPERATORS[type(op)], [part(value) for value in values])
            case ast.Compare(left=left, ops=ops, comparators=others) if {type(op) for op in ops} <= _OPERATORS.keys():
                sides = [part(side) for side in (left, *others)]
                pairs = zip(ops, sides[:-1], sides[1:], strict=True)
                return _joined("logical_and", [Operation(_OPERATORS[type(op)], (a, b)) for op, a, b in pairs])
            case ast.IfExp(test=test, body=chosen, orelse=other):
                return Operation("where", (part(test), part(chosen), part(other)))
            case ast.Call(func=func, args=args, keywords=[]) if ast.unparse(func) in self._known:
                return Operation(ast.unparse(func), tuple([part(arg) for arg in args]))
        raise ValueError(
            f"scalar: {ast.unparse(node)!r:.80} is neither an input ({', '.join(self._inputs)}), a number, an operator "
            f"nor a function of {', '.join(sorted(self._known)) or 'no name'}"
        )


def _joined(name: str, parts: list[Tree]) -> Tree:
    """Combine parts from left to right by an operation of two."""
    return functools.reduce(lambda left, right: Operation(name, (left, right)), parts)


def evaluate(tree: Tree, operands: dict[str, Any], apply: Callable[..., Any]) -> Any:
    """Compute an expression, with operands of any kind, by ``apply(name, *parts)``.

    Examples
    --------
    >>> evaluate(parse("2 * x + 1", ("x",)), {"x": 3}, lambda name, a, b: a * b if name == "multiply" else a + b)
    7
    """
    if isinstance(tree, Number):
        return tree.value
    if isinstance(tree, Input):
        return operands[tree.name]
    return apply(tree.name, *[evaluate(part, operands, apply) for part in tree.parts])


def names(tree: Tree) -> frozenset[str]:
    """Return the operations of an expression.

    Examples
    --------
    >>> sorted(names(parse("-x + 1", ("x",))))
    ['add', 'negative']
    """
    if not isinstance(tree, Operation):
        return frozenset()
    return frozenset({tree.name}).union(*map(names, tree.parts))


def primitive_tree(name: str) -> Tree:
    """Return the expression of a primitive op, in its own arguments, the functions of C and other primitives.

    Raises
    ------
    KeyError
        If there is no such op, or it has no expression.
    """
    text, inputs = SCALARS[name]
    return parse(text, inputs, _MATH.union(SCALARS))


def write(name: str, spell: Callable[[str], str | None], number: Callable[[Any], str]) -> str:
    """Return the source of a primitive op, with ``{0}``, ``{1}`` and so on for its operands.

    Parameters
    ----------
    name : str
    spell : callable
        Returns the source of an operation in a target, with its operands as places and perhaps other fields to fill
        in; None for an op to be expanded by its own expression.
    number : callable
        Returns the source of a number in a target.

    Raises
    ------
    KeyError
        If an operation has neither.
    """
    own = spell(name)
    if own is not None:
        return own
    places = {key: "{" + str(position) + "}" for position, key in enumerate(SCALARS[name][1])}

    def source(tree: Tree) -> str:
        if isinstance(tree, Input):
            return places[tree.name]
        if isinstance(tree, Number):
            return number(tree.value)
        if tree.name == name:
            raise KeyError(name)
        parts = list(map(source, tree.parts))
        return _PLACE.sub(lambda place: parts[int(place[1])], write(tree.name, spell, number))

    return source(primitive_tree(name))
