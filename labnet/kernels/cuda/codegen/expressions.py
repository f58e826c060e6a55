"""Expressions: graphs of elementwise operations, which are NumPy's universal functions, and their source."""

import functools
import itertools
import operator
from typing import Any

import numpy as np

from labnet.kernels.cuda.codegen.scalars import (
    BOOL,
    QUOTIENT,
    REMAINDER,
    WHOLE,
    NotInKernels,
    cast_text,
    loaded,
    text_of,
)
from labnet.kernels.cuda.driver.kernel import Dtype


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


def cast(node: Node, dtype: Dtype) -> Node:
    """Convert a value, where it has another dtype."""
    if node.dtype == dtype:
        return node
    if node.kind == "constant":
        return Node("constant", dtype, payload=node.payload)
    return Node("cast", dtype, (node,))


_COMPARING = {
    np.equal: operator.eq, np.not_equal: operator.ne, np.less: operator.lt, np.less_equal: operator.le,
    np.greater: operator.gt, np.greater_equal: operator.ge,
}  # fmt: skip


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
        return Node(REMAINDER, x1.dtype, (rest, x2))
    return Node(QUOTIENT, x1.dtype, (x1, x2, Node(WHOLE, x1.dtype, (x1, x2, rest))))


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
