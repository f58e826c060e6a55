"""Code generation: groups become the source of one Python function that Numba compiles."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labnet.compile.fuse import Group
from labnet.compile.ir import DType, Program, Shape, Value, contiguous, leading, placed, spread_strides
from labnet.compile.plan import Plan
from labnet.compile.scalars import EXPRESSIONS

_HEAD = '''"""Written by labnet.compile; see the steps it was made of with step.explain()."""

from labnet.compile.runtime import *


@njit({signature!r}, **OPTIONS)
def step(call, held{numbers}):
'''
#: Multiplications up to which a product is written out, and how many sums it keeps in registers.
SMALL, WIDTH = 4096, 8
#: What `step` returns: 0 if it is done, else what did not fit, before anything was written.
DONE, OTHER_ARGUMENTS, OTHER_STATE, FIRST_CHECK = 0, 1, 2, 16
_START: dict[str, Callable[[DType], str]] = {
    "sum": lambda dtype: "0",
    "prod": lambda dtype: "1",
    "max": lambda dtype: "-math.inf" if dtype.kind == "f" else str(np.iinfo(dtype).min),
    "min": lambda dtype: "math.inf" if dtype.kind == "f" else str(np.iinfo(dtype).max),
}
_JOIN = {"sum": "{0} + {1}", "prod": "{0} * {1}", "max": "_greater({0}, {1})", "min": "_smaller({0}, {1})"}


def name_of(dtype: DType) -> str:
    """Return the name that generated code has for a dtype."""
    return "boolean" if dtype.kind == "b" else dtype.name


def literal(number: Any, dtype: DType) -> str:
    """Return a number of a dtype as source."""
    if dtype.kind == "b":
        return str(bool(number))
    if dtype.kind == "f" and not math.isfinite(number):
        text = "math.nan" if math.isnan(number) else "math.inf" if number > 0 else "-math.inf"
        return f"{name_of(dtype)}({text})"
    return f"{name_of(dtype)}({number!r})"


def converted(text: str, source: DType, target: DType) -> str:
    """Return an expression of one dtype as one of another."""
    if source == target:
        return text
    return f"({text} != 0)" if target.kind == "b" else f"{name_of(target)}({text})"


def described(dtype: DType) -> int:
    """Return the bytes with which NumPy describes a dtype, as generated code reads them."""
    return int.from_bytes(f"{dtype.kind}{dtype.char}{'|' if dtype.itemsize == 1 else '='}".encode(), "little")


@dataclass
class Access:
    """How the loops of a group reach the elements of an array."""

    pointer: str
    offset: int
    strides: Shape
    dtype: DType

    @property
    def depth(self) -> int:
        """Number of loops inside of which the element is known."""
        return max((axis + 1 for axis, step in enumerate(self.strides) if step), default=0)

    @property
    def index(self) -> str:
        """Return the index of the element as source."""
        terms = [f"i{axis}" + (f" * {step}" if step != 1 else "") for axis, step in enumerate(self.strides) if step]
        return " + ".join(terms + ([str(self.offset)] if self.offset or not terms else []))

    def read(self) -> str:
        """Return the element as source."""
        text = f"{self.pointer}[{self.index}]"
        return f"({text} != 0)" if self.dtype.kind == "b" else text

    def write(self, text: str) -> str:
        """Return the statement that writes the element."""
        return f"{self.pointer}[{self.index}] = " + (f"uint8({text})" if self.dtype.kind == "b" else text)


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
    """Return the shape and strides with which fewer loops reach the same elements.

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


class Emitter:
    """Writes the source of one program."""

    def __init__(self, program: Program, groups: list[Group], plan: Plan, *, held: int, constants: int, numbers: int):
        self._program, self._groups, self._plan = program, groups, plan
        self._held, self._constants, self._numbers = held, constants, numbers
        self._pointers: dict[int, tuple[str, DType]] = {}
        self._body: list[str] = []

    def source(self) -> str:
        """Return the whole file."""
        values = self._program.values()
        self._guards(values)
        for value in values:
            self._place(value)
        for position, store in enumerate(s for s in self._program.stores if isinstance(s.target, int)):
            self._body.append(f"a_out{position} = _data(call, {self._arguments(values) + position})")
            self._body.append(f"p_out{position} = {_pointer(store.value.dtype)}(a_out{position})")
        for value in values:
            if value.number in self._plan.outputs:
                output = self._plan.outputs[value.number]
                self._name(value, f"a_out{output}")
        for position, check in enumerate(self._program.checks):
            pointer, dtype = self._pointers[check.value.number]
            zero, bound = literal(0, dtype), literal(check.bound, dtype)
            self._body += ["wrong = False", f"for z in range({check.value.size}):"]
            self._body.append(f"    wrong |= {pointer}[z] < {zero} or {pointer}[z] >= {bound}")
            self._body += ["if wrong:", f"    return {FIRST_CHECK + position}"]
        for group in self._groups:
            self._group(group)
        arguments = "".join(f", n{i}" for i in range(self._numbers))
        signature = f"int64(int64, int64{', float64' * self._numbers})"
        head = _HEAD.format(signature=signature, numbers=arguments)
        return head + "".join(f"    {line}\n" for line in [*self._body, "return 0"])

    # Addresses and guards

    def _arguments(self, values: Iterable[Value]) -> int:
        return self.count_arguments

    count_arguments = 0

    def _guards(self, values: list[Value]) -> None:
        for value in values:
            if value.kind == "source" and value.attributes["origin"] == "argument":
                position = value.attributes["position"]
                tests = [f"_described(_item(call, {position}), {len(value.shape)}, {described(value.dtype)})"]
                tests += [
                    f"_long(_item(call, {position}), {axis}, {length})" for axis, length in enumerate(value.shape)
                ]
                self._body += [f"if not ({' and '.join(tests)}):", "    return 1"]
        self._body += ["if not _holds(_item(held, 0)):", "    return 2"]
        self._body.append(f"arena = _data(held, {1 + self._held + self._constants})")

    def _place(self, value: Value) -> None:
        """Name the address and the pointer of a value that lies in memory."""
        if value.kind == "source":
            origin, position = value.attributes["origin"], value.attributes["position"]
            if origin == "number":
                self._body.append(f"v{value.number} = {name_of(value.dtype)}(n{position})")
                return
            first = {"held": 1, "constant": 1 + self._held, "argument": 0}[origin]
            table = "call" if origin == "argument" else "held"
            self._body.append(f"a{value.number} = _data({table}, {first + position})")
            self._name(value, f"a{value.number}")
        elif value.number in self._plan.offsets:
            self._body.append(f"a{value.number} = arena + {self._plan.offsets[value.number]}")
            self._name(value, f"a{value.number}")

    def _name(self, value: Value, address: str) -> None:
        if address.startswith("a_out"):
            self._body.append(f"a{value.number} = {address}")
        self._body.append(f"p{value.number} = {_pointer(value.dtype)}(a{value.number})")
        self._pointers[value.number] = (f"p{value.number}", value.dtype)

    # Groups

    def _group(self, group: Group) -> None:
        if group.shape is None:
            for value in group.members:
                self._body += self._put(value) if value.kind == "put" else self._matmul(value)
        elif math.prod(group.shape):
            self._body += self._loops(group)
        else:
            for value in group.members:
                if value.kind == "reduce" and value.size:
                    self._body += self._fill(value)

    def _matmul(self, value: Value) -> list[str]:
        (rows, columns), bits = value.shape[-2:], value.dtype.itemsize * 8
        if not value.size:
            return []
        places, codes, downs = [], [], []
        batch = value.shape[:-2]
        for operand in value.inputs:
            base, offset, strides = placed(operand)
            found = leading(operand)
            assert found is not None, "as_matrices() copies what lies otherwise"
            codes.append(112 if found[0] else 111)
            downs.append(found[1])
            places.append(self._shifted(base, offset, strides[:-2], value.dtype))
        target = self._shifted(value, 0, contiguous(value.shape)[:-2], value.dtype)
        inner = value.inputs[0].shape[-1]
        loops = Loops(batch)
        if rows * columns * inner <= SMALL and codes[1] == 111 and not batch:
            pointers = [f"_{value.dtype.name}({place})" for place in (*places, target)]
            down, right = (1, downs[0]) if codes[0] == 112 else (downs[0], 1)
            whole = columns - columns % WIDTH if bits == 32 else 0
            lines = [
                f"_rows8(_float32({places[0]}), _float32({places[1]} + {4 * start}), _float32({target} + {4 * start}), "
                f"{rows}, {inner}, {down}, {right}, {downs[1]}, {columns})"
                for start in range(0, whole, WIDTH)
            ]
            if whole == columns:
                return lines
            steps = (down, right, downs[1])
            return lines + _small_product(value.number, rows, columns, inner, pointers, steps, first=whole)
        loops.before[-1].append(
            f"_product{bits}({codes[0]}, {codes[1]}, {rows}, {columns}, {inner}, "
            f"{places[0]}, {downs[0]}, {places[1]}, {downs[1]}, {target})"
        )
        return loops.lines()

    def _put(self, value: Value) -> list[str]:
        """Add each input to zeros, where its offset and strides say."""
        lines = [f"for z in range({value.size}):", f"    p{value.number}[z] = {literal(0, value.dtype)}"]
        for operand, (offset, strides) in zip(value.inputs, value.attributes["places"], strict=True):
            if not operand.size:
                continue
            target = Access(f"p{value.number}", offset, strides, value.dtype)
            source = Access("", 0, (0,) * len(strides), operand.dtype)
            if operand.kind != "splat":
                source = self._reading(operand, operand.shape)
            lengths, steps = merged(operand.shape, [target.strides, source.strides])
            target.strides, source.strides = map(tuple, steps)
            text = literal(operand.attributes["number"], operand.dtype) if operand.kind == "splat" else source.read()
            loops = Loops(tuple(lengths))
            total = text if value.dtype.kind == "b" else f"{name_of(value.dtype)}({target.read()} + {text})"
            loops.before[-1].append(target.write(total))
            lines += loops.lines()
        return lines

    def _shifted(self, base: Value, offset: int, strides: Shape, dtype: DType) -> str:
        terms = [f"i{axis} * {step * dtype.itemsize}" for axis, step in enumerate(strides) if step]
        return " + ".join([f"a{base.number}", *([str(offset * dtype.itemsize)] if offset else []), *terms])

    def _fill(self, value: Value) -> list[str]:
        start = f"{name_of(value.dtype)}({_START[value.attributes['name']](value.dtype)})"
        return [f"for z in range({value.size}):", f"    p{value.number}[z] = {start}"]

    def _loops(self, group: Group) -> list[str]:
        shape = group.shape or ()
        own = {value.number for value in group.members if value.kind == "map"}
        accesses: dict[Any, Access] = {}
        for operand in [*(o for v in group.members for o in v.inputs), *(s.value for s in group.stores)]:
            if operand.number not in own and operand.kind != "splat" and not _is_number(operand):
                accesses["read", operand.number] = self._reading(operand, shape)
        for value in group.members:
            if value.number in self._pointers:
                accesses["write", value.number] = self._writing(value, shape)
        for position, store in enumerate(group.stores):
            pointer = f"p_out{store.target}" if isinstance(store.target, int) else f"p{store.target.number}"
            accesses["store", position] = Access(pointer, 0, contiguous(shape), store.value.dtype)
        lengths, strides = merged(shape, [access.strides for access in accesses.values()])
        for access, steps in zip(accesses.values(), strides, strict=True):
            access.strides = tuple(steps)
        return _Nest(group, Loops(tuple(lengths)), accesses, own).lines()

    def _reading(self, operand: Value, shape: Shape) -> Access:
        base, offset, strides = placed(operand)
        pointer, dtype = self._pointers[base.number]
        return Access(pointer, offset, spread_strides(operand.shape, strides, shape), dtype)

    def _writing(self, value: Value, shape: Shape) -> Access:
        pointer, dtype = self._pointers[value.number]
        strides = contiguous(value.shape)
        if value.kind == "reduce":
            kept = iter(strides)
            axes = value.attributes["axes"]
            strides = tuple(0 if axis in axes else next(kept) for axis in range(len(shape)))
        return Access(pointer, 0, strides, dtype)


class _Nest:
    """Fills one nest of loops with the statements of a group."""

    def __init__(self, group: Group, loops: Loops, accesses: dict[Any, Access], own: set[int]):
        self._group, self._loops, self._accesses, self._own = group, loops, accesses, own
        self._depths: dict[int, int] = {}
        self._first: list[str] = []

    def lines(self) -> list[str]:
        for value in self._group.members:
            if value.kind == "map":
                self._map(value)
            else:
                self._reduce(value)
        inside = len(self._loops.lengths)
        for position, store in enumerate(self._group.stores):
            text, _ = self._operand(store.value)
            self._loops.before[inside].append(self._accesses["store", position].write(text))
        return self._first + self._loops.lines()

    def _operand(self, operand: Value) -> tuple[str, int]:
        """Return an operand as source, and the depth from which on it is known; load it there if need be."""
        if operand.kind == "splat":
            return literal(operand.attributes["number"], operand.dtype), 0
        name = f"v{operand.number}"
        if _is_number(operand):
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
        names = {"T": name_of(work), "t": str(work.itemsize * 8)}
        text = EXPRESSIONS[name].format(*texts, **names)
        if value.dtype.kind != "b":
            text = f"{name_of(value.dtype)}({text})"
        self._loops.before[depth].append(f"v{value.number} = {text}")
        self._depths[value.number] = depth
        if ("write", value.number) in self._accesses:
            inside = len(self._loops.lengths)
            self._loops.before[inside].append(self._accesses["write", value.number].write(f"v{value.number}"))

    def _reduce(self, value: Value) -> None:
        kind, access = value.attributes["name"], self._accesses["write", value.number]
        depth, inside = access.depth, len(self._loops.lengths)
        kind_name = name_of(value.dtype)
        start = f"{kind_name}({_START[kind](value.dtype)})"
        text, _ = self._operand(value.inputs[0])
        text = converted(text, value.inputs[0].dtype, value.dtype)
        total = f"v{value.number}"
        if depth < inside:
            self._loops.before[depth].append(f"{total} = {start}")
            joined = _JOIN[kind].format(total, text)
            self._loops.before[inside].append(f"{total} = {kind_name}({joined})")
        else:
            self._loops.before[inside].append(f"{total} = {text}")
        target = self._loops.after[depth] if depth < inside else self._loops.before[inside]
        if any(step == 0 for step in access.strides[:depth]):
            size = value.size
            self._first += [f"for z in range({size}):", f"    {access.pointer}[z] = {start}"]
            joined = _JOIN[kind].format(access.read(), total)
            target.append(access.write(f"{kind_name}({joined})"))
        else:
            target.append(access.write(total))


def _small_product(
    number: int,
    rows: int,
    columns: int,
    inner: int,
    pointers: Sequence[str],
    steps: tuple[int, int, int],
    *,
    first: int = 0,
) -> list[str]:
    """Return a product of small matrices from column `first` on, as loops: eight sums at a time stay in registers.

    `steps` are those of the left matrix, down and to the right, and that of the right matrix down.
    """
    down, right, down_b = steps
    a, b, c = (f"{name}{number}" for name in ("left", "right", "out"))
    lines = [f"{name} = {pointer}" for name, pointer in zip((a, b, c), pointers, strict=True)]
    lines.append(f"for i in range({rows}):")
    for start in range(first, columns, WIDTH):
        block = range(start, min(start + WIDTH, columns))
        lines.append(f"    x = {a}[i * {down}]")
        lines += [f"    s{j - start} = x * {b}[{j}]" for j in block]
        if inner > 1:
            lines.append(f"    for k in range(1, {inner}):")
            lines.append(f"        x = {a}[i * {down} + k * {right}]")
            lines += [f"        s{j - start} += x * {b}[k * {down_b} + {j}]" for j in block]
        lines += [f"    {c}[i * {columns} + {j}] = s{j - start}" for j in block]
    return lines


def _is_number(value: Value) -> bool:
    return value.kind == "source" and value.attributes["origin"] == "number"


def _pointer(dtype: DType) -> str:
    return f"_{dtype.name}"


def emit(
    program: Program, groups: list[Group], plan: Plan, *, arguments: int, held: int, constants: int, numbers: int
) -> str:
    """Return the source of a file whose function `step` runs the groups.

    Parameters
    ----------
    program, groups, plan
        What the earlier passes returned.
    arguments, held, constants, numbers : int
        How many arrays a call brings, how many are held, how many are constants, and how many numbers there are.
    """
    emitter = Emitter(program, groups, plan, held=held, constants=constants, numbers=numbers)
    emitter.count_arguments = arguments
    return emitter.source()
