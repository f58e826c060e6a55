"""The entry of a step, which CPython calls: it checks the call, loads the pointers of arrays, and releases the GIL.

Written with llvmlite, since Numba would have to infer the types of every line. Knows the layouts of CPython's tuples
and NumPy's arrays; does not know what the step computes.
"""

# mypy: ignore-errors
# llvmlite has no types.

import functools
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils

from labnet.compile.native.abi import OTHER_ARGUMENTS, OTHER_STATE, Layout
from labnet.kernels.machine_code.array_layout import DATA, DTYPE, FLAGS, HEAD, ITEMS, NDIM, READ, SHAPE
from labnet.kernels.machine_code.loader import ENTRY, PART

#: Number of calls from which on a list of them takes longer to compile than a table costs when the step runs.
_MANY_CALLS = 256
_OBJECT, _WORD, _DOUBLE = ir.IntType(8).as_pointer(), ir.IntType(64), ir.DoubleType()
_FLOAT = ir.FloatType()
_PROTOTYPES = {
    "PyErr_BadArgument": ir.FunctionType(ir.IntType(32), []),
    "PyErr_Occurred": ir.FunctionType(_OBJECT, []),
    "PyEval_SaveThread": ir.FunctionType(_OBJECT, []),
    "PyEval_RestoreThread": ir.FunctionType(ir.VoidType(), [_OBJECT]),
    "PyFloat_AsDouble": ir.FunctionType(_DOUBLE, [_OBJECT]),
    "PyLong_AsLongLong": ir.FunctionType(_WORD, [_OBJECT]),
    "PyLong_FromLongLong": ir.FunctionType(_OBJECT, [_WORD]),
}


def _load(builder, address, add=0):
    """Emit a load of eight bytes."""
    return builder.load(builder.inttoptr(builder.add(address, _WORD(add)), _WORD.as_pointer()))


def _is(builder, found, mask, wanted):
    return builder.icmp_signed("==", builder.and_(found, _WORD(mask)), _WORD(wanted))


def described(builder, array, ndim, described):
    """Emit the test that an array has this dtype and number of dimensions, and is C-contiguous."""
    dtype = _load(builder, _load(builder, array, DTYPE), HEAD + 8)
    tests = [_is(builder, dtype, 0xFFFFFF, described), _is(builder, _load(builder, array, NDIM), 0xFFFFFFFF, ndim)]
    return functools.reduce(builder.and_, [*tests, _is(builder, _load(builder, array, FLAGS), READ, READ)])


def shaped(builder, array, shape):
    """Emit the test that an array of as many dimensions has this shape."""
    place = _load(builder, array, SHAPE)
    tests = [
        builder.icmp_signed("==", _load(builder, place, 8 * axis), _WORD(length)) for axis, length in enumerate(shape)
    ]
    return functools.reduce(builder.and_, tests, cgutils.true_bit)


@dataclass(frozen=True)
class Call:
    """A call of a function of a step.

    Attributes
    ----------
    function : str
    arguments : list of (str, int)
        Names of pointers and numbers of the step, and how many bytes a pointer is moved by.
    is_check : bool
        Whether a result other than 0 ends the step.
    """

    function: str
    arguments: list[tuple[str, int]]
    is_check: bool


class Entry:
    """Writes the function that CPython calls with the tuple of held objects, numbers, and arrays."""

    def __init__(self, module: ir.Module, layout: Layout):
        self._layout = layout
        kind = ir.FunctionType(_OBJECT, [_OBJECT, _OBJECT.as_pointer(), _WORD])
        self._function = ir.Function(module, kind, ENTRY)
        self._builder = ir.IRBuilder(self._function.append_basic_block())
        self._call = {name: ir.Function(module, kind, name) for name, kind in _PROTOTYPES.items()}

    def write(self, calls: Sequence[Call], functions: Mapping[str, ir.Function]) -> None:
        """Write the function, given the calls of a step and the functions, which take Numba's arguments.

        Their arguments are the place of the result, a place for exceptions, which they do not raise, and pointers to
        bytes.
        """
        layout, builder, call = self._layout, self._builder, self._call
        _, given, length = self._function.args
        wrong = builder.icmp_signed("!=", length, _WORD(1 + layout.numbers + layout.arrays))
        with builder.if_then(wrong, likely=False):
            builder.call(call["PyErr_BadArgument"], [])
            builder.ret(_OBJECT(None))
        objects = [builder.load(builder.gep(given, [_WORD(i)])) for i in range(1 + layout.numbers + layout.arrays)]
        numbers = [builder.call(call["PyFloat_AsDouble"], [one]) for one in objects[1 : 1 + layout.numbers]]
        if numbers:
            failed = builder.icmp_unsigned("!=", builder.call(call["PyErr_Occurred"], []), _OBJECT(None))
            with builder.if_then(failed, likely=False):
                builder.ret(_OBJECT(None))
        held = builder.ptrtoint(objects[0], _WORD)
        arrays = [builder.ptrtoint(one, _WORD) for one in objects[1 + layout.numbers :]]
        for position, dtype, shape in layout.arguments:
            self._unless(described(builder, arrays[position], len(shape), dtype), OTHER_ARGUMENTS)
            self._unless(shaped(builder, arrays[position], shape), OTHER_ARGUMENTS)
        table = _load(builder, held, ITEMS)
        first, count = _load(builder, table, DATA), _load(builder, _load(builder, table, SHAPE))
        with cgutils.for_range(builder, count) as row:  # which ends at the first word that is another one
            place = builder.add(first, builder.mul(row.index, _WORD(16)))
            now = _load(builder, _load(builder, place))
            self._unless(builder.icmp_signed("==", now, _load(builder, place, 8)), OTHER_STATE)
        named = {f"n{position}": number for position, number in enumerate(numbers)}
        is_long = len(calls) >= _MANY_CALLS
        values = (self._value_table if is_long else self._values)(named, held)
        thread = builder.call(call["PyEval_SaveThread"], [])
        write = self._write_table if is_long else self._write_calls
        status = write(calls, functions, values) if calls else _WORD(0)
        builder.call(call["PyEval_RestoreThread"], [thread])
        builder.ret(builder.call(call["PyLong_FromLongLong"], [status]))

    def _places(self):
        """Yield the name of each pointer, whether its array is held, and how far its object is from the first one."""
        layout = self._layout
        for name, (table, position, _) in layout.places.items():
            is_held = table == "held"
            yield name, is_held, ITEMS + 8 * position if is_held else 8 * (1 + layout.numbers + position)
        yield "arena", True, ITEMS + 8 * layout.arena

    def _values(self, numbers, held):
        """Load the pointers; return them and the numbers by name."""
        builder, values = self._builder, dict(numbers)
        given = builder.ptrtoint(self._function.args[1], _WORD)
        for name, is_held, distance in self._places():
            array = _load(builder, held if is_held else given, distance)
            values[name] = builder.inttoptr(_load(builder, array, DATA), _OBJECT)
        return values

    def _write_calls(self, calls, functions, values):
        """Write one call after the other; return the status."""
        builder, end = self._builder, self._function.append_basic_block()
        statuses = []
        places = [builder.alloca(one.type.pointee) for one in next(iter(functions.values())).args[:2]]
        for one in calls:
            given = [
                builder.gep(values[name], [_WORD(distance)]) if distance else values[name]
                for name, distance in one.arguments
            ]
            builder.call(functions[one.function], [*places, *given])
            if one.is_check:  # a check that fails ends the step
                status = builder.load(places[0])
                statuses.append((status, builder.block))
                following = builder.append_basic_block()
                builder.cbranch(builder.icmp_signed("==", status, _WORD(0)), following, end)
                builder.position_at_end(following)
        statuses.append((_WORD(0), builder.block))
        builder.branch(end)
        builder.position_at_end(end)
        status = builder.phi(_WORD)
        for found in statuses:
            status.add_incoming(*found)
        return status

    def _value_table(self, numbers, held):
        """Load the pointers in a loop; return an array of them and of the numbers, and the position of each name."""
        builder, pointers = self._builder, list(self._places())
        values = builder.alloca(_WORD, len(pointers) + len(numbers))
        given = builder.ptrtoint(self._function.args[1], _WORD)
        places = self._table("places", [word for _, *words in pointers for word in words])
        with cgutils.for_range(builder, _WORD(len(pointers))) as turn:
            row = builder.gep(places, [builder.mul(turn.index, _WORD(2))])
            start = builder.select(builder.icmp_signed("!=", builder.load(row), _WORD(0)), held, given)
            array = _load(builder, builder.add(start, builder.load(builder.gep(row, [_WORD(1)]))))
            builder.store(_load(builder, array, DATA), builder.gep(values, [turn.index]))
        for position, value in enumerate(numbers.values(), len(pointers)):
            builder.store(builder.bitcast(value, _WORD), builder.gep(values, [_WORD(position)]))
        names = [*(name for name, *_ in pointers), *numbers]
        return values, {name: position for position, name in enumerate(names)}

    def _write_table(self, calls, functions, values):
        """Write a loop over a table of calls, which takes less time to compile; return the status.

        A row has the numbers of a function and of its type, and for each argument its number and how far it is moved.
        """
        builder, module, (values, number) = self._builder, self._function.module, values
        results = [builder.alloca(one.type.pointee) for one in next(iter(functions.values())).args[:2]]
        builder.store(_WORD(0), results[0])
        kinds = list(dict.fromkeys(functions[one.function].type for one in calls))
        names, rows = list(functions), []
        for one in calls:
            rows += [names.index(one.function), kinds.index(functions[one.function].type)]
            rows += [word for name, distance in one.arguments for word in (number[name], distance)]
        places_of_code = [one.ptrtoint(_WORD) for one in functions.values()]
        kind = ir.ArrayType(_WORD, len(places_of_code))
        addresses = cgutils.global_constant(module, "functions", ir.Constant(kind, places_of_code))
        table = self._table("calls", rows)
        cursor = builder.alloca(_WORD)
        builder.store(_WORD(0), cursor)
        head, end = builder.append_basic_block("call"), builder.append_basic_block("end")
        builder.branch(head)
        builder.position_at_end(head)
        start = builder.load(cursor)

        def word(distance):
            return builder.load(builder.gep(table, [builder.add(start, _WORD(distance))]))

        address = builder.load(builder.gep(addresses, [_WORD(0), word(0)]))
        chosen = builder.switch(word(1), end)
        after = builder.append_basic_block("after")
        for position, kind in enumerate(kinds):
            block = builder.append_basic_block("kind")
            chosen.add_case(_WORD(position), block)
            builder.position_at_end(block)
            given = []
            for i, wanted in enumerate(kind.pointee.args[2:]):
                bits = builder.add(builder.load(builder.gep(values, [word(2 + 2 * i)])), word(3 + 2 * i))
                given.append(builder.bitcast(bits, wanted) if wanted == _DOUBLE else builder.inttoptr(bits, wanted))
            builder.call(builder.inttoptr(address, kind), [*results, *given])
            builder.store(builder.add(start, _WORD(2 + 2 * len(given))), cursor)
            builder.branch(after)
        builder.position_at_end(after)
        is_over = builder.icmp_signed("==", builder.load(cursor), _WORD(len(rows)))
        failed = builder.icmp_signed("!=", builder.load(results[0]), _WORD(0))
        builder.cbranch(builder.or_(is_over, failed), end, head)
        builder.position_at_end(end)
        return builder.load(results[0])

    def _table(self, name, words):
        """Return a pointer to constant words: written as bytes, which take LLVM less time to read than numbers."""
        content = cgutils.make_bytearray(bytearray(struct.pack(f"={len(words)}q", *words)))
        written = cgutils.global_constant(self._function.module, name, content)
        written.align = 8
        return self._builder.bitcast(written, _WORD.as_pointer())

    def _unless(self, test, status):
        """Emit that a status is returned where a test fails."""
        with self._builder.if_then(self._builder.not_(test), likely=False):
            self._builder.ret(self._builder.call(self._call["PyLong_FromLongLong"], [_WORD(status)]))


def write_kernel_entry(module: ir.Module, arguments: Sequence[ir.Type], call: Callable) -> None:
    """Write the function that CPython calls with the arguments of a kernel: a tuple, and int64 and float32 numbers.

    `call` emits the call of the kernel, given a builder and values; its result is the status.
    """
    function = ir.Function(module, ir.FunctionType(_OBJECT, [_OBJECT, _OBJECT.as_pointer(), _WORD]), ENTRY)
    builder = ir.IRBuilder(function.append_basic_block())
    python = {name: ir.Function(module, kind, name) for name, kind in _PROTOTYPES.items()}
    _, given, length = function.args
    with builder.if_then(builder.icmp_signed("!=", length, _WORD(len(arguments))), likely=False):
        builder.call(python["PyErr_BadArgument"], [])
        builder.ret(_OBJECT(None))
    together = builder.load(given)
    tuples = ir.GlobalVariable(module, ir.IntType(8), "PyTuple_Type")
    kind = _load(builder, builder.ptrtoint(together, _WORD), HEAD - 8)
    with builder.if_then(builder.icmp_unsigned("!=", kind, builder.ptrtoint(tuples, _WORD)), likely=False):
        builder.call(python["PyErr_BadArgument"], [])
        builder.ret(_OBJECT(None))
    values = [builder.ptrtoint(together, _WORD)]
    for position, kind in enumerate(arguments[1:], 1):
        found = builder.load(builder.gep(given, [_WORD(position)]))
        if kind == _FLOAT:
            values.append(builder.fptrunc(builder.call(python["PyFloat_AsDouble"], [found]), _FLOAT))
        else:
            values.append(builder.call(python["PyLong_AsLongLong"], [found]))
    failed = builder.icmp_unsigned("!=", builder.call(python["PyErr_Occurred"], []), _OBJECT(None))
    with builder.if_then(failed, likely=False):
        builder.ret(_OBJECT(None))
    thread = builder.call(python["PyEval_SaveThread"], [])
    status = call(builder, values)
    builder.call(python["PyEval_RestoreThread"], [thread])
    builder.ret(builder.call(python["PyLong_FromLongLong"], [status]))


def write_part(module: ir.Module, arguments: Sequence[ir.Type], call: Callable) -> None:
    """Write the function that a thread without Python calls: with the address of a tuple's, and numbers in float64.

    `call` is as for `write_kernel_entry`.
    """
    function = ir.Function(module, ir.FunctionType(_WORD, [_WORD]), PART)
    builder = ir.IRBuilder(function.append_basic_block())
    (address,) = function.args
    values = [_load(builder, address)]
    for position, kind in enumerate(arguments[1:], 1):
        number = builder.bitcast(_load(builder, address, 8 * position), _DOUBLE)
        values.append(builder.fptrunc(number, _FLOAT) if kind == _FLOAT else builder.fptosi(number, _WORD))
    builder.ret(call(builder, values))
