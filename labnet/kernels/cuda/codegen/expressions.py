"""What is computed for one element: a graph of scalar operations, and its text in Python.

The vocabulary is NumPy's universal functions. Each has a text per kind of number that both Numba for CUDA and
plain Python understand; every operand is the name of a local variable, so a text may use it twice.
"""

import functools
import itertools
import operator
from typing import Any

import numpy as np

from labnet.kernels.cuda.driver.kernel import CASTS, Dtype

BOOL = np.dtype(bool)
_HALF, _SINGLE = np.dtype("float16"), np.dtype("float32")


class Node:
    """One scalar operation, or where a value comes from.

    Attributes
    ----------
    kind : str
        Name of a universal function, ``"cast"``, ``"where"``, ``"leaf"`` (an array) or ``"constant"``.
    dtype : dtype
        Of the value.
    args : tuple of Node
    payload : Any
        The array of a leaf, the number of a constant.
    size : int
        Number of nodes, those that are used twice counted twice.
    number : int
        Equal for two expressions that compute the same, but perhaps of other arrays and constants.
    leaves : tuple of arrays
        What is read, in the order of its places in the expression.
    constants : tuple of (number, dtype)
        Likewise.
    """

    __slots__ = ("args", "constants", "dtype", "kind", "leaves", "number", "payload", "size")
    constants: tuple[tuple[Any, Dtype], ...]
    leaves: tuple[Any, ...]
    number: int
    size: int

    def __init__(self, kind: str, dtype: Dtype, args: "tuple[Node, ...]" = (), payload: Any = None):
        self.kind, self.dtype, self.args, self.payload = kind, dtype, args, payload
        key: tuple[Any, ...]
        if len(args) == 2:
            one, other = args
            self.size = 1 + one.size + other.size
            self.leaves, self.constants = one.leaves + other.leaves, one.constants + other.constants
            key = kind, dtype.char, one.number, other.number
        elif len(args) == 1:
            one = args[0]
            self.size, self.leaves, self.constants = 1 + one.size, one.leaves, one.constants
            key = kind, dtype.char, one.number
        elif args:
            self.size = 1 + sum([arg.size for arg in args])
            self.leaves = tuple([leaf for arg in args for leaf in arg.leaves])
            self.constants = tuple([constant for arg in args for constant in arg.constants])
            key = kind, dtype.char, *[arg.number for arg in args]
        else:
            self.size = 1
            self.leaves = (payload,) if kind == "leaf" else ()
            self.constants = () if kind == "leaf" else ((payload, dtype),)
            key = kind, dtype.char
        number = _numbers.get(key)
        self.number = _numbers.setdefault(key, next(_counted)) if number is None else number


#: Numbers of expressions: kind and dtype of the last operation, and the numbers of its operands.
_numbers: dict[tuple[Any, ...], int] = {}
_counted = itertools.count()


def pattern(values: tuple[Any, ...]) -> Any:
    """Return which of some objects are the same one, as a key."""
    if len(values) < 2:
        return None
    if len(values) == 2:
        return values[0] is values[1]
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(value), place) for place, value in enumerate(values)])


#: Powers that have a faster text.
_POWERS = {0.5: "sqrt", 1.0: "positive", 2.0: "square", -1.0: "reciprocal"}


class NotInKernels(Exception):
    """There is no text for this function and these dtypes."""


def working(dtype: Dtype) -> Dtype:
    """Return the dtype that values of a dtype are computed in: half precision is for storage."""
    return _SINGLE if dtype == _HALF else dtype


def cast(node: Node, dtype: Dtype) -> Node:
    """Convert a value, where it has another dtype."""
    if node.dtype == dtype:
        return node
    if node.kind == "constant":
        return Node("constant", dtype, payload=node.payload)
    return Node("cast", dtype, (node,))


_COMPARISONS = {
    "equal": "==", "not_equal": "!=", "less": "<", "less_equal": "<=", "greater": ">", "greater_equal": ">=",
}  # fmt: skip
_COMPARING = {
    np.equal: operator.eq, np.not_equal: operator.ne, np.less: operator.lt, np.less_equal: operator.le,
    np.greater: operator.gt, np.greater_equal: operator.ge,
}  # fmt: skip
_ARITHMETIC = {"add": "+", "subtract": "-", "multiply": "*"}
_BITS = {"bitwise_and": "&", "bitwise_or": "|", "bitwise_xor": "^"}

#: Steps of NumPy's remainder and floor_divide of floating-point numbers.
_REMAINDER, _WHOLE, _QUOTIENT = "remainder of fmod", "whole part", "quotient"
_FLOAT = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in {**_ARITHMETIC, "divide": "/"}.items()},
    **{name: f"math.{name}({{0}})" for name in ("exp", "log", "log2", "log10", "log1p", "expm1", "sqrt")},
    **{name: f"math.{name}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    **{name: f"math.{name}({{0}})" for name in ("floor", "ceil", "trunc")},
    **{f"arc{name}": f"math.a{name}({{0}})" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "arctan2": "math.atan2({0}, {1})",
    "erf": "math.erf({0})",
    "hypot": "math.hypot({0}, {1})",
    "copysign": "math.copysign({0}, {1})",
    "power": "math.pow({0}, {1})",
    "absolute": "math.fabs({0})",
    "negative": "(-{0})",
    "positive": "{0}",
    "relu": "(T(0) if {0} < T(0) else {0})",
    "sigmoid": "(T(1) / (T(1) + math.exp(-{0})))",
    "square": "({0} * {0})",
    "reciprocal": "(T(1) / {0})",
    "sign": "({0} if {0} != {0} else (T(1) if {0} > T(0) else (T(-1) if {0} < T(0) else T(0))))",
    "rint": "(math.copysign(({0} + math.copysign(T(EXACT), {0})) - math.copysign(T(EXACT), {0}), {0})"
    " if math.fabs({0}) < T(EXACT) else {0})",
    "fmod": "math.fmod({0}, {1})",
    # of the remainder of C, {0}: moved where the signs differ, as Python does
    _REMAINDER: "(math.copysign(T(0), {1}) if {0} == T(0) else ({0} + {1} if ({0} < T(0)) != ({1} < T(0)) else {0}))",
    # of both numbers and the remainder of C: a whole number but for the last bit, and one less where the signs differ
    _WHOLE: "(({0} - {2}) / {1} - (T(1) if {2} != T(0) and ({2} < T(0)) != ({1} < T(0)) else T(0)))",
    _QUOTIENT: "({0} / {1} if {1} == T(0) else (math.copysign(T(0), {0} / {1}) if {2} == T(0) else"
    " math.floor({2}) + (T(1) if {2} - math.floor({2}) > T(0.5) else T(0))))",
    "maximum": "({0} if {0} >= {1} or {0} != {0} else {1})",
    "minimum": "({0} if {0} <= {1} or {0} != {0} else {1})",
    "fmax": "({0} if {0} >= {1} or {1} != {1} else {1})",
    "fmin": "({0} if {0} <= {1} or {1} != {1} else {1})",
    "logaddexp": "({0} + T(LOG2) if {0} == {1} else"
    " (({0} if {0} > {1} else {1}) + math.log1p(math.exp(-math.fabs({0} - {1})))))",
}
_INTEGER = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in {**_ARITHMETIC, **_BITS}.items()},
    "absolute": "({0} if {0} >= T(0) else T(T(0) - {0}))",
    "negative": "(T(0) - {0})",
    "positive": "{0}",
    "square": "({0} * {0})",
    "sign": "(T(1) if {0} > T(0) else (T(-1) if {0} < T(0) else T(0)))",
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
_TRUTH = {
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
    "positive": "{0}",
    "floor": "{0}",
    "ceil": "{0}",
    "trunc": "{0}",
    "rint": "{0}",
}
#: Functions whose result is a truth, whatever they are given.
_TESTS = {
    **{name: f"({{0}} {sign} {{1}})" for name, sign in _COMPARISONS.items()},
    "logical_and": "(({0} != Z) and ({1} != Z))",
    "logical_or": "(({0} != Z) or ({1} != Z))",
    "logical_xor": "(({0} != Z) != ({1} != Z))",
    "logical_not": "(not ({0} != Z))",
}
_FLOAT_TESTS = {
    "isnan": "({0} != {0})",
    "isinf": "(math.fabs({0}) == T(INF))",
    "isfinite": "(math.fabs({0}) < T(INF))",
    "signbit": "(math.copysign(T(1), {0}) < T(0))",
}
_NEVER = {"isnan": "False", "isinf": "False", "isfinite": "True"}


@functools.cache
def text_of(name: str, dtype: Dtype) -> str:
    """Return the text of a function for operands of a dtype; ``T`` and other words of it are filled in."""
    dtype = working(dtype)
    tests = _FLOAT_TESTS if dtype.kind == "f" else _NEVER
    table = _FLOAT if dtype.kind == "f" else _TRUTH if dtype.kind == "b" else _INTEGER
    found = _TESTS.get(name) or tests.get(name) or table.get(name)
    if found is None:
        raise NotInKernels(name)
    zero = "False" if dtype.kind == "b" else f"{CASTS[dtype]}(0)"
    found = found.replace("!= Z", f"!= {zero}")
    if dtype.kind != "b":
        found = found.replace("BITS", str(8 * dtype.itemsize)).replace("T(", f"{CASTS[dtype]}(")
        found = found.replace("EXACT", "8388608.0" if dtype == _SINGLE else "4503599627370496.0")
        found = found.replace("INF", "math.inf").replace("LOG2", "0.6931471805599453")
    if dtype.kind in "iu" and name not in _TESTS and name not in _NEVER:
        found = f"{CASTS[dtype]}({found})"
    return found


@functools.cache
def loop_of(ufunc: Any, given: tuple[Any, ...]) -> tuple[Dtype, ...]:
    """Return the dtypes that a universal function computes with, inputs first, as NumPy promotes them.

    Python's own numbers are given by their type, and count little.
    """
    found: tuple[Dtype, ...] = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
    return found


@functools.lru_cache(4096)
def _recipe(ufunc: Any, given: tuple[Any, ...]) -> tuple[tuple[Dtype, ...], Dtype, bool]:
    """Return the dtypes that a universal function computes with, that of its result, and whether more is to be asked.

    Raises
    ------
    NotInKernels
        If there is no text for it.
    """
    loop = loop_of(ufunc, given)
    if ufunc.nout != 1 or any(dtype.kind not in "biuf" for dtype in loop):
        raise NotInKernels(ufunc.__name__)
    if len(loop) == 3 and loop[0] != loop[1]:
        raise NotInKernels(ufunc.__name__)
    is_divided = ufunc in (np.remainder, np.floor_divide) and loop[0].kind == "f"
    if not is_divided:
        text_of(ufunc.__name__, loop[0])  # refuse now what has none
    bounded = loop[0].kind in "iu" and int in given
    return loop[:-1], loop[-1], is_divided or bounded or (ufunc is np.power and loop[0].kind == "f")


def apply(ufunc: Any, args: tuple[Node, ...], given: tuple[Any, ...]) -> Node:
    """Return the application of a universal function to values, converted as NumPy does.

    Raises
    ------
    NotInKernels
        If there is no text for it.
    """
    loop, result, special = _recipe(ufunc, given)
    given_as = tuple([arg if arg.dtype is dtype else cast(arg, dtype) for arg, dtype in zip(args, loop, strict=True)])
    if special:
        if loop[0].kind in "iu":
            for place, (value, kind) in enumerate(zip(args, given, strict=True)):
                if kind is int and not np.iinfo(loop[0]).min <= value.payload <= np.iinfo(loop[0]).max:
                    return _beyond(ufunc, place, value.payload, loop[0])
        elif ufunc in (np.remainder, np.floor_divide):
            return divided(ufunc.__name__, *given_as)
        elif ufunc is np.power and args[1].kind == "constant" and args[1].payload in _POWERS:
            return Node(_POWERS[args[1].payload], result, given_as[:1])
    return Node(ufunc.__name__, result, given_as)


def _beyond(ufunc: Any, place: int, value: int, dtype: Dtype) -> Node:
    """Return the comparison with an integer that is beyond a dtype: the same for all elements.

    Raises
    ------
    OverflowError
        If it is no comparison.
    """
    compare = _COMPARING.get(ufunc)
    if compare is None:
        raise OverflowError(f"Python integer {value} out of bounds for {dtype}")
    return Node("constant", BOOL, payload=compare(0, value) if place else compare(value, 0))


def divided(name: str, x1: Node, x2: Node) -> Node:
    """Return the remainder or the quotient of Python, which take the remainder of C once: it is a loop."""
    rest = Node("fmod", x1.dtype, (x1, x2))
    if name == "remainder":
        return Node(_REMAINDER, x1.dtype, (rest, x2))
    return Node(_QUOTIENT, x1.dtype, (x1, x2, Node(_WHOLE, x1.dtype, (x1, x2, rest))))


def cast_text(value: str, source: Dtype, target: Dtype) -> str:
    """Return the text that converts a value."""
    source, target = working(source), working(target)
    if source == target:
        return value
    if target.kind == "b":
        return f"({value} != {CASTS[source]}(0))"
    name = CASTS[target]
    if source.kind == "b":
        return f"({name}(1) if {value} else {name}(0))"
    return f"{name}({value})"


def loaded(text: str, dtype: Dtype) -> str:
    """Return the text of a value that was read from memory."""
    if dtype.kind == "b":
        return f"({text} != 0)"
    return f"f4({text})" if dtype == _HALF else text


def stored(value: str, dtype: Dtype) -> str:
    """Return the text of a value as it is written to memory."""
    if dtype.kind == "b":
        return f"u1(1 if {value} else 0)"
    return f"f2({value})" if dtype == _HALF else value


class Graph:
    """The nodes of an expression in order, each once, and a key that says what is computed but not on what.

    Attributes
    ----------
    leaves : list of Node
        In the order of their names, ``a0``, ``a1`` and so on.
    constants : list of Node
        ``c0``, ``c1`` and so on.
    key : tuple
        Equal for two graphs that have the same text.
    """

    __slots__ = ("_order", "_roots", "constants", "key", "leaves")

    def __init__(self, *roots: Node):
        self.leaves: list[Node] = []
        self.constants: list[Node] = []
        self._order: list[tuple[Node, tuple[int, ...]]] = []
        known: dict[int, int] = {}
        arrays: dict[int, int] = {}
        key: list[Any] = []
        pending: list[tuple[Node, bool]] = [(root, False) for root in reversed(roots)]
        while pending:
            node, ready = pending.pop()
            if id(node) in known:
                continue
            kind = node.kind
            if kind == "leaf":
                place = arrays.get(id(node.payload))
                if place is not None:
                    known[id(node)] = place
                    continue
                arrays[id(node.payload)] = len(self._order)
                self.leaves.append(node)
            elif kind == "constant":
                self.constants.append(node)
            elif not ready:
                pending.append((node, True))
                pending.extend([(arg, False) for arg in reversed(node.args)])
                continue
            args = tuple([known[id(arg)] for arg in node.args])
            known[id(node)] = len(self._order)
            self._order.append((node, args))
            key.append((kind, node.dtype.char, args))
        self._roots = [known[id(root)] for root in roots]
        self.key = (*key, *self._roots)

    def text(self, loads: list[str], suffix: str = "") -> tuple[list[str], list[str]]:
        """Return statements that compute the roots, those that read leaves first, and the names of their values.

        Parameters
        ----------
        loads : list of str
            Text that reads each leaf from memory.
        suffix : str
            Put after every local name, where an element is one of several.
        """
        reading: list[str] = []
        lines: list[str] = []
        names: list[str] = []
        leaf = constant = 0
        for place, (node, args) in enumerate(self._order):
            name = f"v{place}{suffix}"
            if node.kind == "leaf":
                value = loaded(loads[leaf], node.dtype)
                leaf += 1
            elif node.kind == "constant":
                value = f"(c{constant} != 0)" if node.dtype.kind == "b" else f"c{constant}"
                constant += 1
            elif node.kind == "cast":
                value = cast_text(names[args[0]], node.args[0].dtype, node.dtype)
            elif node.kind == "where":
                value = "({1} if {0} else {2})".format(*(names[arg] for arg in args))
            else:
                value = text_of(node.kind, node.args[0].dtype).format(*(names[arg] for arg in args))
            (reading if node.kind == "leaf" else lines).append(f"{name} = {value}")
            names.append(name)
        return reading + lines, [names[place] for place in self._roots]
