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
    cast_source,
    load_source,
    scalar_source,
)
from labnet.kernels.cuda.driver.kernel import Dtype


class Node:
    """One scalar operation, an array or a number.

    Attributes
    ----------
    kind : str
        Name of a universal function, ``"cast"``, ``"where"``, ``"leaf"`` (an array) or ``"constant"``.
    dtype : dtype
        Dtype of the value.
    args : tuple of Node
    payload : Any
        The array of a leaf, the number of a constant.
    size : int
        Number of nodes; a node that is used twice counts twice.
    number : int
        Equal for expressions with the same operations, whatever their arrays and constants.
    leaves : tuple of arrays
        Arrays that are read, in order of appearance.
    constants : tuple of (number, dtype)
        Constants, in order of appearance.
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


def identity_pattern(values: tuple[Any, ...]) -> Any:
    """Return a key that says which of some objects are identical."""
    if len(values) < 2:
        return None
    if len(values) == 2:
        return values[0] is values[1]
    first: dict[int, int] = {}
    return tuple([first.setdefault(id(value), position) for position, value in enumerate(values)])


#: Exponents with a faster operation.
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
def loop_dtypes(ufunc: Any, given: tuple[Any, ...]) -> tuple[Dtype, ...]:
    """Return the dtypes that a universal function computes with, inputs first, as NumPy promotes them.

    Numbers of Python are given by their type and promote weakly.
    """
    found: tuple[Dtype, ...] = ufunc.resolve_dtypes((*given, *[None] * ufunc.nout))
    return found


@functools.lru_cache(4096)
def _resolve(ufunc: Any, given: tuple[Any, ...]) -> tuple[tuple[Dtype, ...], Dtype, bool]:
    """Return the dtypes of the inputs and of the result, and whether the operation depends on the operands.

    Raises
    ------
    NotInKernels
        If it has no scalar source.
    """
    loop = loop_dtypes(ufunc, given)
    if ufunc.nout != 1 or any(dtype.kind not in "biuf" for dtype in loop):
        raise NotInKernels(ufunc.__name__)
    if len(loop) == 3 and loop[0] != loop[1]:
        raise NotInKernels(ufunc.__name__)
    is_divided = ufunc in (np.remainder, np.floor_divide) and loop[0].kind == "f"
    if not is_divided:
        scalar_source(ufunc.__name__, loop[0])  # raises if there is none
    bounded = loop[0].kind in "iu" and int in given
    return loop[:-1], loop[-1], is_divided or bounded or (ufunc is np.power and loop[0].kind == "f")


def apply(ufunc: Any, args: tuple[Node, ...], given: tuple[Any, ...]) -> Node:
    """Return the application of a universal function to values, converted as NumPy does.

    Raises
    ------
    NotInKernels
        If it has no scalar source.
    """
    loop, result, special = _resolve(ufunc, given)
    given_as = tuple([arg if arg.dtype is dtype else cast(arg, dtype) for arg, dtype in zip(args, loop, strict=True)])
    if special:
        if loop[0].kind in "iu":
            for position, (value, kind) in enumerate(zip(args, given, strict=True)):
                if kind is int and not np.iinfo(loop[0]).min <= value.payload <= np.iinfo(loop[0]).max:
                    return _out_of_range(ufunc, position, value.payload, loop[0])
        elif ufunc in (np.remainder, np.floor_divide):
            return floor_division(ufunc.__name__, *given_as)
        elif ufunc is np.power and args[1].kind == "constant" and args[1].payload in _POWERS:
            return Node(_POWERS[args[1].payload], result, given_as[:1])
    return Node(ufunc.__name__, result, given_as)


def _out_of_range(ufunc: Any, position: int, value: int, dtype: Dtype) -> Node:
    """Return the comparison with an integer outside the range of a dtype, the same for all elements.

    Raises
    ------
    OverflowError
        If it is no comparison.
    """
    compare = _COMPARING.get(ufunc)
    if compare is None:
        raise OverflowError(f"Python integer {value} out of bounds for {dtype}")
    return Node("constant", BOOL, payload=compare(0, value) if position else compare(value, 0))


def floor_division(name: str, x1: Node, x2: Node) -> Node:
    """Return Python's remainder or quotient, with one remainder of C, which is a loop."""
    rest = Node("fmod", x1.dtype, (x1, x2))
    if name == "remainder":
        return Node(REMAINDER, x1.dtype, (rest, x2))
    return Node(QUOTIENT, x1.dtype, (x1, x2, Node(WHOLE, x1.dtype, (x1, x2, rest))))


class Graph:
    """The nodes of an expression in topological order, each once, and a key of its operations.

    Attributes
    ----------
    leaves : list of Node
        In the order of their names, ``a0``, ``a1`` and so on.
    constants : list of Node
        ``c0``, ``c1`` and so on.
    key : tuple
        Equal for two graphs with the same source.
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
                position = arrays.get(id(node.payload))
                if position is not None:
                    known[id(node)] = position
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

    def source(self, loads: list[str], suffix: str = "") -> tuple[list[str], list[str]]:
        """Return statements that compute the roots, those that read leaves first, and the names of the roots.

        Parameters
        ----------
        loads : list of str
            Source that reads each leaf from memory.
        suffix : str
            Suffix of every local name, if a thread computes several elements.
        """
        reading: list[str] = []
        lines: list[str] = []
        names: list[str] = []
        leaf = constant = 0
        for position, (node, args) in enumerate(self._order):
            name = f"v{position}{suffix}"
            if node.kind == "leaf":
                value = load_source(loads[leaf], node.dtype)
                leaf += 1
            elif node.kind == "constant":
                value = f"(c{constant} != 0)" if node.dtype.kind == "b" else f"c{constant}"
                constant += 1
            elif node.kind == "cast":
                value = cast_source(names[args[0]], node.args[0].dtype, node.dtype)
            elif node.kind == "where":
                value = "({1} if {0} else {2})".format(*(names[arg] for arg in args))
            else:
                value = scalar_source(node.kind, node.args[0].dtype).format(*(names[arg] for arg in args))
            (reading if node.kind == "leaf" else lines).append(f"{name} = {value}")
            names.append(name)
        return reading + lines, [names[position] for position in self._roots]
