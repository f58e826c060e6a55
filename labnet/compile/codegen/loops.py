"""Loop nests as source: which elements they access, and the statements for each element."""

import functools
import math
import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labnet.compile.ir.fusion import Group
from labnet.compile.ir.scalars import CHOICES, scalar_source
from labnet.compile.ir.values import DType, Shape, Value, is_number

_START: dict[str, Callable[[DType], str]] = {
    "sum": lambda dtype: "0",
    "prod": lambda dtype: "1",
    "max": lambda dtype: {"f": "-math.inf", "b": "False"}.get(dtype.kind) or str(np.iinfo(dtype).min),
    "min": lambda dtype: {"f": "math.inf", "b": "True"}.get(dtype.kind) or str(np.iinfo(dtype).max),
}
#: Faster combinations for operands without NaN, which is detected separately.
_LOOSELY = {"max": "_greater_number", "min": "_smaller_number"}
_JOIN = {"sum": "_added", "prod": "_multiplied", "max": "_greater", "min": "_smaller"}
_HALF = np.dtype("float16")
#: An index that takes arithmetic: a sum of loop variables times strides.
_INDEX = re.compile(r"\[((?:i\d+(?: \* \d+)?|\d+)(?: \+ (?:i\d+(?: \* \d+)?|\d+))+|i\d+ \* \d+)\]")


@functools.cache
def name_of(dtype: DType) -> str:
    """Return the name of the type in which generated code computes a dtype."""
    return {"bool": "boolean", "float16": "float32"}.get(dtype.name, dtype.name)


def blank(value: Value) -> str:
    """Return the initial element of a reduction, as source."""
    if value.kind != "reduce":
        return literal(0, value.dtype)
    return f"{name_of(value.dtype)}({_START[value.attributes['name']](value.dtype)})"


def literal(number: Any, dtype: DType) -> str:
    """Return a number of a dtype as source."""
    if dtype.kind == "b":
        return str(bool(number))
    if dtype.kind == "f" and not math.isfinite(number):
        text = "math.nan" if math.isnan(number) else "math.inf" if number > 0 else "-math.inf"
        return f"{name_of(dtype)}({text})"
    return f"{name_of(dtype)}({number!r})"


def converted(text: str, source: DType, target: DType) -> str:
    """Return an expression converted from one dtype to another."""
    if source == target:
        return text
    if target.kind == "b":
        return f"({text} != 0)"
    if target == _HALF:
        return rounded(f"_near_float32({text})" if source == np.float64 else f"_as_float32({text})", target)
    return text if name_of(source) == name_of(target) else f"_as_{target.name}({text})"


def rounded(text: str, dtype: DType) -> str:
    """Return the result of arithmetic rounded to a dtype, as source."""
    return f"_from_half(_to_half({text}))" if dtype == _HALF else text


def joined(name: str, total: str, text: str) -> str:
    """Return the expression that combines an accumulator with one more element."""
    return f"{_JOIN[name]}({total}, {text})"


def stored(text: str, dtype: DType) -> str:
    """Return a number of a dtype as it is stored in memory."""
    if dtype.kind == "b":
        return f"uint8({text})"
    return f"_to_half({text})" if dtype == _HALF else text


@dataclass
class Access:
    """The access of a loop nest to the elements of an array."""

    pointer: str
    offset: int
    strides: Shape
    dtype: DType

    @property
    def depth(self) -> int:
        """Number of enclosing loops that determine the element."""
        return max((axis + 1 for axis, step in enumerate(self.strides) if step), default=0)

    def first(self, lengths: Shape) -> int:
        """Return the smallest index of an element in loops of these lengths."""
        backward = sum(step * (length - 1) for step, length in zip(self.strides, lengths, strict=True) if step < 0)
        return self.offset + backward

    def index(self, start: str = "") -> str:
        """Return the index of the element as source, counted from `start`."""
        terms = [f"i{axis}" + (f" * {step}" if step != 1 else "") for axis, step in enumerate(self.strides) if step]
        terms = ([start] if start else []) + terms
        return " + ".join(terms + ([str(self.offset)] if self.offset or not terms else []))

    def read(self, start: str = "") -> str:
        """Return the element as source."""
        text = f"{self.pointer}[{self.index(start)}]"
        if self.dtype == _HALF:
            return f"_from_half({text})"
        return f"({text} != 0)" if self.dtype.kind == "b" else text

    def write(self, text: str, start: str = "") -> str:
        """Return the statement that writes the element."""
        return f"{self.pointer}[{self.index(start)}] = {stored(text, self.dtype)}"


@dataclass
class Loops:
    """A nest of loops under construction: statements before and after the loop of each depth."""

    lengths: Shape
    before: list[list[str]] = field(init=False)
    after: list[list[str]] = field(init=False)

    def __post_init__(self) -> None:
        self.before = [[] for _ in range(len(self.lengths) + 1)]
        self.after = [[] for _ in range(len(self.lengths) + 1)]

    def lines(self, depth: int = 0) -> list[str]:
        """Return the statements, indented."""
        inner = self.before[depth]
        if depth < len(self.lengths):
            inner = [*inner, f"for i{depth} in range({self.lengths[depth]}):"]
            inner += ["    " + line for line in self.lines(depth + 1)]
        return inner + self.after[depth]


def merged(shape: Shape, strides: Sequence[Shape]) -> tuple[list[int], list[list[int]]]:
    """Merge loops: return a shape and strides with fewer dimensions for the same elements.

    Examples
    --------
    >>> merged((2, 3, 4), [(12, 4, 1), (0, 0, 1)])
    ([6, 4], [[4, 1], [0, 1]])
    """
    lengths: list[int] = []
    found: list[list[int]] = [[] for _ in strides]
    for axis, length in enumerate(shape):
        if length == 1:
            continue
        steps = [one[axis] for one in strides]
        if lengths and all(kept[-1] == step * length for kept, step in zip(found, steps, strict=True)):
            lengths[-1] *= length
            for kept, step in zip(found, steps, strict=True):
                kept[-1] = step
        else:
            lengths.append(length)
            for kept, step in zip(found, steps, strict=True):
                kept.append(step)
    return lengths, found


class Nest:
    """Emits the statements of a group into one loop nest."""

    def __init__(self, group: Group, loops: Loops, accesses: dict[Any, Access], own: set[int]):
        self._group, self._loops, self._accesses, self._own = group, loops, accesses, own
        self._depths: dict[int, int] = {}
        self._first: list[str] = []

    def lines(self) -> list[str]:
        """Return the nest, preceded by the loops that initialise accumulators."""
        write = {"map": self._map, "take": self._take, "reduce": self._reduce, "scatter": self._scatter}
        for value in self._group.members:
            write[value.kind](value)
        inside = len(self._loops.lengths)
        for position, store in enumerate(self._group.stores):
            text, _ = self._operand(store.value)
            self._loops.before[inside].append(self._accesses["store", position].write(text))
        return self._first + self._loops.lines()

    def _operand(self, operand: Value) -> tuple[str, int]:
        """Return an operand as source and the depth at which it is available; load it there if necessary."""
        if operand.kind == "splat":
            return literal(operand.attributes["number"], operand.dtype), 0
        name = f"v{operand.number}"
        if is_number(operand):
            return name, 0
        if operand.number not in self._depths:
            access = self._accesses["read", operand.number]
            self._loops.before[access.depth].append(f"{name} = {access.read()}")
            self._depths[operand.number] = access.depth
        return name, self._depths[operand.number]

    def _map(self, value: Value) -> None:
        name, work = value.attributes["name"], value.attributes["work"]
        texts, depth = [], 0
        for position, operand in enumerate(value.inputs):
            text, known = self._operand(operand)
            choice = name == "where" and position == 0
            texts.append(converted(text, operand.dtype, np.dtype(bool) if choice else work))
            depth = max(depth, known)
        names = {"T": name_of(work), "t": str(max(work.itemsize * 8, 32))}
        exponent = value.inputs[1].attributes.get("number") if name == "pow" else None
        text = scalar_source(name, work, exponent).format(*texts, **names)
        self._known(value, text if name in CHOICES else rounded(text, value.dtype), depth)

    def _known(self, value: Value, text: str, depth: int) -> None:
        """Bind the element of a value to a name, and store it if a later group reads it."""
        self._loops.before[depth].append(f"v{value.number} = {text}")
        self._depths[value.number] = depth
        if ("write", value.number) in self._accesses:
            inside = len(self._loops.lengths)
            self._loops.before[inside].append(self._accesses["write", value.number].write(f"v{value.number}"))

    def _take(self, value: Value) -> None:
        places, depth = self._operand(value.inputs[1])
        access = self._accesses["within", value.number]
        self._known(value, access.read(places), max(depth, access.depth))

    def _scatter(self, value: Value) -> None:
        inside = len(self._loops.lengths)
        text, _ = self._operand(value.inputs[0])
        places, _ = self._operand(value.inputs[1])
        access = self._accesses["within", value.number]
        total = joined("sum", access.read(places), text)
        self._loops.before[inside].append(access.write(total, places))
        self._first += filled(access.pointer, value)

    def _reduce(self, value: Value) -> None:
        kind, access = value.attributes["name"], self._accesses["write", value.number]
        depth, inside = access.depth, len(self._loops.lengths)
        start = blank(value)
        text, _ = self._operand(value.inputs[0])
        text = converted(text, value.inputs[0].dtype, value.dtype)
        total = f"v{value.number}"
        target = self._loops.after[depth] if depth < inside else self._loops.before[inside]
        if depth == inside:
            self._loops.before[inside].append(f"{total} = {joined(kind, start, text)}")
        elif kind in _LOOSELY and value.dtype.kind == "f":
            self._loops.before[depth] += [f"{total} = {start}", f"{total}n = 0"]
            self._loops.before[inside].append(f"{total} = {_LOOSELY[kind]}({total}, {text})")
            self._loops.before[inside].append(f"{total}n |= int32({text} != {text})")
            target.append(f"{total} = {literal(math.nan, value.dtype)} if {total}n else {total}")
        else:
            self._loops.before[depth].append(f"{total} = {start}")
            self._loops.before[inside].append(f"{total} = {joined(kind, total, text)}")
        if any(step == 0 for step in access.strides[:depth]):
            self._first += filled(access.pointer, value)
            target.append(access.write(joined(kind, access.read(), total)))
        else:
            target.append(access.write(total))


def filled(pointer: str, value: Value) -> list[str]:
    """Return the loop that initialises the elements of an accumulator."""
    return [f"for z in range({value.size}):", f"    {pointer}[z] = {stored(blank(value), value.dtype)}"]


def with_shared_indices(lines: Sequence[str]) -> list[str]:
    """Return the lines of a function in which an index that several accesses of a loop share is computed once.

    Examples
    --------
    >>> with_shared_indices(["for i0 in range(9):", "    v1 = p1[i0 * 2]", "    p2[i0 * 2] = v1"])
    ['for i0 in range(9):', '    k0 = i0 * 2', '    v1 = p1[k0]', '    p2[k0] = v1']
    """
    counts = Counter(_INDEX.findall("\n".join(lines)))
    if max(counts.values(), default=0) < 2:
        return list(lines)
    found: list[str] = []
    scopes: list[tuple[int, dict[str, str]]] = [(0, {})]
    names = 0
    for line in lines:
        indent = len(line) - len(line.lstrip())
        while indent < scopes[-1][0]:
            scopes.pop()
        if indent > scopes[-1][0]:
            scopes.append((indent, dict(scopes[-1][1])))
        known = scopes[-1][1]
        for index in dict.fromkeys(_INDEX.findall(line)):
            if index not in known and counts[index] > 1:
                known[index] = f"k{names}"
                names += 1
                found.append(f"{' ' * indent}{known[index]} = {index}")
        found.append(_INDEX.sub(lambda match: f"[{known.get(match[1], match[1])}]", line))  # noqa: B023
    return found
