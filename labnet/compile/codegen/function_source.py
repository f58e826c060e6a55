"""The source of a step: one function for each different group of a program, and the calls of a step in order.

Groups that differ only in the memory they use share one function, so equal layers are compiled once.
"""

import math
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.compile.codegen.loops import (
    Access,
    Loops,
    Nest,
    converted,
    filled,
    joined,
    literal,
    merged,
    with_shared_indices,
)
from labnet.compile.codegen.product_source import Factor, product_source
from labnet.compile.intrinsics.tiling import SIDE
from labnet.compile.ir.fusion import AT_ONCE, Group
from labnet.compile.ir.memory_plan import Plan, parts_of
from labnet.compile.ir.values import (
    Check,
    DType,
    Program,
    Shape,
    Value,
    broadcast_strides,
    contiguous,
    is_number,
    placed,
)
from labnet.compile.native.abi import FIRST_CHECK

_HEAD = '''"""Written by labnet.compile; see the steps it was made of with step.explain()."""

from labnet.compile.intrinsics.convolution import *
from labnet.compile.intrinsics.elementary_functions import *
from labnet.compile.intrinsics.pointers import *
from labnet.compile.intrinsics.pooling import *
from labnet.compile.intrinsics.products import *
from labnet.compile.intrinsics.recurrences import *
from labnet.compile.intrinsics.ordering import *
from labnet.compile.intrinsics.prelude import *
'''
_FUNCTION = "\n\n@function({types})\ndef {name}({parameters}):\n"
_STEP = "\n\n@step({layout})\ndef step({parameters}):\n"
#: Names that differ between groups that compute the same: pointers, also moved ones, values, numbers of the call, and
#: factors of products.
_NAME = re.compile(r"\b(p_out|p|q|v|n|left|right|out)(\d+)(n?)\b")


def described(dtype: DType) -> int:
    """Return the first bytes of NumPy's dtype object, as generated code compares them."""
    return int.from_bytes(f"{dtype.kind}{dtype.char}{'|' if dtype.itemsize == 1 else '='}".encode(), "little")


@dataclass(frozen=True)
class Function:
    """A function of a step, written with names of its own.

    Attributes
    ----------
    parameters : tuple of (str, str)
        Name and type of each parameter: the dtype of a pointer, or ``number``.
    lines : tuple of str
    """

    parameters: tuple[tuple[str, str], ...]
    lines: tuple[str, ...]

    def source(self, name: str) -> str:
        """Return the source under a name."""
        types = ", ".join(repr(kind) for _, kind in self.parameters)
        parameters = ", ".join(parameter for parameter, _ in self.parameters)
        text = _FUNCTION.format(types=types, name=name, parameters=parameters)
        return text + "".join(f"    {line}\n" for line in [*self.lines, "return 0"])


class Emitter:
    """Emits the source of one program."""

    def __init__(self, program: Program, groups: list[Group], plan: Plan, *, held: int, constants: int, numbers: int):
        self._program, self._groups, self._plan = program, groups, plan
        self._held, self._constants, self._numbers = held, constants, numbers
        self._pointers: dict[int, tuple[str, DType]] = {}
        self._places: dict[str, tuple[str, int, str]] = {}
        #: The argument of each pointer and number: its source in a call, and its type.
        self._arguments: dict[str, tuple[str, str]] = {}
        self._conversions: dict[str, str] = {}
        self._body: list[str] = []
        #: Names of moved pointers, by their place and type.
        self._moves: dict[tuple[str, str], str] = {}
        #: The different functions, and their names.
        self._functions: dict[Function, str] = {}

    def source(self) -> str:
        """Return the source of the file."""
        values = self._program.values()
        outputs = [store for store in self._program.stores if isinstance(store.target, int)]
        for value in values:
            self._place(value)
        for position, store in enumerate(outputs):
            self._add_array(f"p_out{position}", "call", self.count_arguments + position, store.value.dtype)
        for value in values:
            if value.number in self._plan.outputs:
                place = f"p_out{self._plan.outputs[value.number]}"
                self._arguments[f"p{value.number}"] = (place, value.dtype.name)
                self._pointers[value.number] = (f"p{value.number}", value.dtype)
        calls = []
        for position, group in enumerate(self._groups):
            for value in self._plan.begins.get(position, []):
                self._body += self._blank(value)
            self._group(group)
            if self._body:
                call = self._called(self._body)
                calls += [f"status = {call}", "if status:", "    return status"] if group.checks else [call]
            self._body = []
        layout = f"{self._numbers}, {self.count_arguments + len(outputs)}, {self._guarded(values)}, "
        layout += f"{self._places}, {1 + self._held + self._constants}"
        parameters = ", ".join(["arena", *self._places, *[f"n{i}" for i in range(self._numbers)]])
        text = _HEAD + "".join(function.source(name) for function, name in self._functions.items())
        text += _STEP.format(layout=layout, parameters=parameters)
        return text + "".join(f"    {line}\n" for line in [*calls, "return 0"])

    def _called(self, lines: list[str]) -> str:
        """Return the call of a function of these lines."""
        used = (prefix + number for prefix, number, _ in _NAME.findall("\n".join(lines)))
        lines = [*dict.fromkeys(filter(None, map(self._conversions.get, used))), *lines]
        names: dict[str, str] = {}
        parameters: dict[str, tuple[str, str]] = {}
        counts: Counter[str] = Counter()

        def renamed(match: re.Match[str]) -> str:
            name = match[1] + match[2]
            argument, kind = self._arguments.get(name, ("", ""))
            if argument in parameters:
                return parameters[argument][0]
            if name not in names:
                prefix = match[1] if not argument else "n" if kind == "number" else "p"
                names[name] = f"{prefix}{counts[prefix]}"
                counts[prefix] += 1
                if argument:
                    parameters[argument] = (names[name], kind)
            return names[name] + match[3]

        written = _NAME.sub(renamed, "\n".join(with_shared_indices(lines)))
        function = Function(tuple(parameters.values()), tuple(written.split("\n")))
        name = self._functions.setdefault(function, f"f{len(self._functions)}")
        return f"{name}({', '.join(parameters)})"

    # Pointers and guards

    count_arguments = 0

    #: Shapes and dtypes of all arguments, if unread ones are checked too.
    given: Sequence[tuple[Shape, DType]] = ()

    def _guarded(self, values: Iterable[Value]) -> list[tuple[int, int, Shape]]:
        """Return the arguments to check: position, dtype bytes and shape."""
        if self.given:
            return [(position, described(dtype), shape) for position, (shape, dtype) in enumerate(self.given)]
        found = [value for value in values if value.kind == "source" and value.attributes["origin"] == "argument"]
        return [(value.attributes["position"], described(value.dtype), value.shape) for value in found]

    def _place(self, value: Value) -> None:
        """Record the pointer to a value in memory, or the conversion of a number."""
        if value.kind == "source":
            origin, position = value.attributes["origin"], value.attributes["position"]
            if origin == "number":
                source = converted(f"n{position}", np.dtype(float), value.dtype)
                self._conversions[f"v{value.number}"] = f"v{value.number} = {source}"
                self._arguments[f"n{position}"] = (f"n{position}", "number")
                return
            first = {"held": 1, "constant": 1 + self._held, "argument": 0}[origin]
            self._add_array(
                f"p{value.number}", "call" if origin == "argument" else "held", first + position, value.dtype
            )
        elif value.number in self._plan.offsets:
            place = f"arena + {self._plan.offsets[value.number]}"
            self._arguments[f"p{value.number}"] = (place, value.dtype.name)
        else:
            return
        self._pointers[value.number] = (f"p{value.number}", value.dtype)

    def _add_array(self, name: str, table: str, position: int, dtype: DType) -> None:
        """Record the place of an array of the call, or of a held one."""
        self._places[name] = (table, position, dtype.name)
        self._arguments[name] = (name, dtype.name)

    def _moved(self, pointer: str, dtype: DType, elements: int) -> str:
        """Return the name of a pointer that is moved by a number of elements when a function is called.

        So functions that read different rows of one array are the same.
        """
        if not elements:
            return pointer
        place, kind = self._arguments[pointer]
        start, _, distance = place.partition(" + ")
        place = f"{start} + {int(distance or 0) + elements * dtype.itemsize}"
        name = self._moves.setdefault((place, kind), f"q{len(self._moves)}")
        self._arguments[name] = (place, kind)
        return name

    def _move(self, accesses: Iterable[Access], lengths: Shape) -> None:
        """Move each pointer of a function to the first element that it accesses.

        One that stands in the lines of the function already stays: a function may rely on its pointers lying apart.
        """
        first: dict[str, int] = {}
        written = {prefix + number for prefix, number, _ in _NAME.findall("\n".join(self._body))}
        for access in accesses:
            first[access.pointer] = min(access.first(lengths), first.get(access.pointer, access.first(lengths)))
        for access in accesses:
            if first[access.pointer] > 0 and access.pointer not in written:
                access.offset -= first[access.pointer]
                access.pointer = self._moved(access.pointer, access.dtype, first[access.pointer])

    # Groups

    def _group(self, group: Group) -> None:
        single = {"put": self._put, "matmul": self._matmul, "call": self._call}
        for check in group.checks:
            self._check(check)
        if group.shape is None:
            for value in group.members:
                self._body += single[value.kind](value)
        elif math.prod(group.shape):
            self._body += self._loops(group)
        else:
            for value in group.members:
                if value.kind in ("reduce", "scatter") and value.size:
                    self._body += filled(f"p{value.number}", value)

    def _check(self, check: Check) -> None:
        pointer, dtype = self._pointers[check.value.number]
        zero, bound = literal(0, dtype), literal(check.bound, dtype)
        self._body += ["wrong = False", f"for z in range({check.value.size}):"]
        self._body.append(f"    wrong |= {pointer}[z] < {zero} or {pointer}[z] >= {bound}")
        self._body += ["if wrong:", f"    return {FIRST_CHECK + self._program.checks.index(check)}"]

    def _call(self, value: Value) -> list[str]:
        if not value.size:
            return []
        pointers = [self._pointers[operand.number][0] for operand in (*value.inputs, value)]
        numbers = [str(number) for number in value.attributes["numbers"]]
        return [f"_{value.attributes['name']}({', '.join(pointers + numbers)})"]

    def _matmul(self, value: Value) -> list[str]:
        if not value.size:
            return []
        loops = Loops(value.shape[:-2])
        left, right = (self._factor(operand) for operand in value.inputs)
        target = self._shifted(value, 0, contiguous(value.shape)[:-2])
        loops.before[-1] += product_source(value.number, value.dtype.itemsize * 8, left, right, target)
        return loops.lines()

    def _factor(self, operand: Value) -> Factor:
        base, offset, strides = placed(operand)
        return Factor.of(operand, self._shifted(base, offset, strides[:-2]))

    def _blank(self, value: Value) -> list[str]:
        """Return statements that zero a put whose parts leave gaps or overlap."""
        apart, whole = parts_of(value)
        if apart and whole:
            return []
        return filled(f"p{value.number}", value)

    def _put(self, value: Value) -> list[str]:
        """Return statements that add each input of a put at its offset and strides."""
        lines: list[str] = []
        apart = parts_of(value)[0]
        for operand, (offset, strides) in zip(value.inputs, value.attributes["places"], strict=True):
            if not operand.size or operand.number in self._plan.inside:
                continue
            target = Access(f"p{value.number}", offset, strides, value.dtype)
            source = Access("", 0, (0,) * len(strides), operand.dtype)
            if operand.kind != "splat":
                source = self._reading(operand, operand.shape)
            lengths, steps = merged(operand.shape, [target.strides, source.strides])
            target.strides, source.strides = map(tuple, steps)
            if operand.kind != "splat":
                self._move([source], tuple(lengths))
            text = literal(operand.attributes["number"], operand.dtype) if operand.kind == "splat" else source.read()
            loops = Loops(tuple(lengths))
            total = text
            if not apart and value.dtype.kind != "b":
                total = joined("sum", target.read(), text)
            loops.before[-1].append(target.write(total))
            lines += loops.lines()
        return lines

    def _shifted(self, base: Value, offset: int, strides: Shape) -> str:
        """Return a pointer to a matrix of a batch, inside the loops over the batch dimensions."""
        terms = [f"i{axis} * {step}" for axis, step in enumerate(strides) if step]
        pointer = self._moved(*self._pointers[base.number], offset)
        return f"_ahead({pointer}, {' + '.join(terms)})" if terms else pointer

    def _loops(self, group: Group) -> list[str]:
        shape = group.shape or ()
        own = {value.number for value in group.members if value.kind in AT_ONCE}
        accesses: dict[Any, Access] = {}
        read = [o for v in group.members for o in (v.inputs[1:] if v.kind == "take" else v.inputs)]
        for operand in [*read, *(store.value for store in group.stores)]:
            if operand.number not in own and operand.kind != "splat" and not is_number(operand):
                accesses["read", operand.number] = self._reading(operand, shape)
        for value in group.members:
            if value.kind in ("take", "scatter"):
                accesses["within", value.number] = self._within(value, shape)
            if (value.number in self._pointers or value.number in self._plan.inside) and value.kind != "scatter":
                accesses["write", value.number] = self._writing(value, shape)
        for position, store in enumerate(group.stores):
            pointer = f"p_out{store.target}" if isinstance(store.target, int) else f"p{store.target.number}"
            accesses["store", position] = Access(pointer, 0, contiguous(shape), store.value.dtype)
        lengths, strides = merged(shape, [access.strides for access in accesses.values()])
        for access, steps in zip(accesses.values(), strides, strict=True):
            access.strides = tuple(steps)
        self._move(accesses.values(), tuple(lengths))
        if [value.attributes.get("name") for value in group.members] == ["copy"] and len(accesses) == 2:
            source, target = accesses.values()
            if turned := _turned(tuple(lengths), source, target):
                return turned
        return Nest(group, Loops(tuple(lengths)), accesses, own).lines()

    def _reading(self, operand: Value, shape: Shape) -> Access:
        base, offset, strides = placed(operand)
        pointer, dtype = self._pointers[base.number]
        return Access(pointer, offset, broadcast_strides(operand.shape, strides, shape), dtype)

    def _within(self, value: Value, shape: Shape) -> Access:
        """Return the source of the offset in the trailing dimensions of a take or scatter."""
        pointer, dtype = self._pointers[(value.inputs[0] if value.kind == "take" else value).number]
        steps = value.attributes["within"]
        return Access(pointer, 0, (0,) * (len(shape) - len(steps)) + tuple(steps), dtype)

    def _writing(self, value: Value, shape: Shape) -> Access:
        if value.number in self._plan.inside:
            whole, offset, strides = self._plan.inside[value.number]
            strides = tuple(0 if length == 1 else step for length, step in zip(shape, strides, strict=True))
            return Access(self._pointers[whole.number][0], offset, strides, value.dtype)
        pointer, dtype = self._pointers[value.number]
        strides = contiguous(value.shape)
        if value.kind == "reduce":
            kept = iter(strides)
            axes = value.attributes["axes"]
            strides = tuple(0 if axis in axes else next(kept) for axis in range(len(shape)))
        return Access(pointer, 0, strides, dtype)


def _turned(lengths: Shape, source: Access, target: Access) -> list[str] | None:
    """Return statements for a transposed copy if two accesses form one; else None."""
    if len(lengths) < 2 or source.dtype != np.float32 or target.dtype != np.float32:
        return None
    rows, columns = lengths[-2:]
    apart = source.strides[-2:-1] == (1,) and source.strides[-1] >= rows and target.strides[-1] == 1
    if not apart or rows % SIDE or columns % SIDE:
        return None
    loops = Loops(lengths[:-2])
    outer = [Access(one.pointer, one.offset, one.strides[:-2], one.dtype) for one in (source, target)]
    pointers = [f"_ahead({one.pointer}, {one.index()})" for one in outer]
    steps = (rows, columns, source.strides[-1], target.strides[-2])
    loops.before[-1].append(f"_turned({', '.join([*pointers, *map(str, steps)])})")
    return loops.lines()


def emit(
    program: Program,
    groups: list[Group],
    plan: Plan,
    *,
    arguments: int,
    held: int,
    constants: int,
    numbers: int,
    given: Sequence[tuple[Shape, DType]] = (),
) -> str:
    """Return the source of a file whose function `step` runs the groups.

    Parameters
    ----------
    program, groups, plan
        Results of the earlier passes.
    arguments, held, constants, numbers : int
        Numbers of arguments, held arrays, constants and scalar arguments.
    given : sequence of (tuple, dtype)
        Shapes and dtypes that the arguments must have; by default only those that are read are checked.
    """
    emitter = Emitter(program, groups, plan, held=held, constants=constants, numbers=numbers)
    emitter.count_arguments, emitter.given = arguments, given
    return emitter.source()
