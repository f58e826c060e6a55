"""The entry of a step, which CPython calls: it checks the call, loads the pointers of arrays, and releases the GIL.

Written with llvmlite, since Numba would have to infer the types of every line. Knows the layouts of CPython's tuples
and NumPy's arrays; does not know what the step computes.
"""

# mypy: ignore-errors
# llvmlite has no types.

import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from llvmlite import ir
from numba.core import cgutils

from labnet.compile.native.abi import OTHER_ARGUMENTS, OTHER_STATE, Layout
from labnet.kernels.machine_code.array_layout import DATA, DTYPE, FLAGS, HEAD, ITEMS, NDIM, READ, SHAPE
from labnet.kernels.machine_code.loader import ENTRY

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

        Those are the place of the result, a place for exceptions, which the functions do not raise, and the pointers,
        all of bytes.
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
        values = {f"n{position}": number for position, number in enumerate(numbers)}
        for name, (table, position, _) in layout.places.items():
            array = arrays[position] if table == "call" else _load(builder, held, ITEMS + 8 * position)
            values[name] = builder.inttoptr(_load(builder, array, DATA), _OBJECT)
        values["arena"] = builder.inttoptr(
            _load(builder, _load(builder, held, ITEMS + 8 * layout.arena), DATA), _OBJECT
        )
        thread = builder.call(call["PyEval_SaveThread"], [])
        end = self._function.append_basic_block()
        statuses = []
        places = [builder.alloca(one.type.pointee) for one in next(iter(functions.values())).args[:2]] if calls else []
        for one in calls:
            function = functions[one.function]
            given = [
                builder.gep(values[name], [_WORD(distance)]) if distance else values[name]
                for name, distance in one.arguments
            ]
            builder.call(function, [*places, *given])
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
        builder.call(call["PyEval_RestoreThread"], [thread])
        builder.ret(builder.call(call["PyLong_FromLongLong"], [status]))

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
