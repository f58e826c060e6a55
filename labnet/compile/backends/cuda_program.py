"""A program on a GPU: its values become kernels of arrays of the device.

Elementwise values stay pending until a value is needed more than once, or as a whole. So the kernels are those that
fusion makes of arrays on a GPU anyway.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labnet.compile.ir.memory_plan import parts_of
from labnet.compile.ir.values import Program, Value
from labnet.device import CUDA
from labnet.errors import TraceError
from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.array.hazards import reads, reads_in_step
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen import elementwise, expressions, scalars
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.kernels import gather, matmul, reduce, scan, scatter, sort
from labnet.kernels.device_dispatch import moved
from labnet.ops.core.registry import REGISTRY

_REDUCTIONS = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}
#: Kinds of values that are computed on a GPU.
KINDS = frozenset({"source", "splat", "view", "map", "reduce", "matmul", "put", "take", "scatter", "call"})
_RUNNING = {"running_sum": "add", "running_product": "multiply"}


def refuse_unfit(program: Program, held: Iterable[Any]) -> None:
    """Raise if an operation of a program has no kernel, or a held array is on the host."""
    missing = _unfit(program)
    if missing is not None:
        raise TraceError(
            f"jit: {missing} has no kernel in compiled steps on 'cuda': call it outside of the compiled function, "
            "or leave the function eager"
        )
    for array in held:
        if not isinstance(array, DeviceArray):
            raise mixed(array)


def _unfit(program: Program) -> str | None:
    """Return the name of an operation without a kernel; None if there is none."""
    for value in program.values():
        if value.kind not in KINDS:
            return str(value.attributes.get("name", value.kind))
        if value.kind == "call" and value.attributes["name"] not in ("argsort", "searchsorted", *_RUNNING):
            return str(value.attributes["name"])
        if value.kind == "map" and value.attributes["name"] != "where" and not _is_divided(value):
            try:
                scalars.scalar_source(_name(value), value.attributes["work"])
            except scalars.NotInKernels:
                return str(value.attributes["name"])
    return None


def _name(value: Value) -> str:
    """Return the name of NumPy's universal function for the operation of a value, which names it in kernels."""
    name: str = value.attributes["name"]
    if name in ("copy", "round"):
        return {"copy": "positive", "round": "rint"}[name]
    ufunc = REGISTRY[name].ufunc
    return ufunc.__name__ if isinstance(ufunc, np.ufunc) else name


@dataclass
class Bindings:
    """The arrays that stand for the sources of a program.

    Attributes
    ----------
    program : Program
    held : callable
        Returns the array of a held source, given its position.
    inputs, constants : list of DeviceArray
    numbers : dict
        {position of a number of the call: array without dimensions}.
    """

    program: Program
    held: Callable[[int], Any] | None = None
    inputs: list[DeviceArray] = field(default_factory=list)
    constants: list[DeviceArray] = field(default_factory=list)
    numbers: dict[int, DeviceArray] = field(default_factory=dict)

    def upload(self, constants: Iterable[Any]) -> None:
        """Copy constants to the GPU."""
        self.constants = [DeviceArray.upload(np.asarray(constant)) for constant in constants]

    def held_array(self, source: Value) -> Any:
        """Return the array of a held source."""
        assert self.held is not None, "executables hold nothing"
        return self.held(source.attributes["position"])


def bring(target: DeviceArray, array: Any) -> None:
    """Copy an argument to the memory that a program reads."""
    there: DeviceArray = moved(array, CUDA)
    if not there.is_contiguous:
        target[...] = there
    elif there.size:
        current_gpu().copy(target.address, there.address, there.nbytes)


def check(bindings: Bindings) -> None:
    """Raise the error of a failed check, before anything is written; this waits for the GPU."""
    checks = bindings.program.checks
    if not checks:
        return
    run, flags = Run(bindings), []
    for condition in checks:
        whole: Any = run.of(condition.value)
        flags.append(np.any((whole < 0) | (whole >= condition.bound)))
    if flags and np.any(functools.reduce(np.logical_or, flags)):
        raise next(c.failure() for c, flag in zip(checks, flags, strict=True) if flag)


class Run:
    """Computes the values of a program on arrays of the GPU."""

    def __init__(self, bindings: Bindings):
        self._bindings = bindings
        self._found: dict[int, DeviceArray] = {}
        self._uses = bindings.program.uses

    def stores(self, *, rehearse: bool) -> list[DeviceArray]:
        """Compute and store everything, and return the outputs; a rehearsal stores to memory that is discarded."""
        program = self._bindings.program
        for value in program.values():
            self.of(value)
        outputs: dict[int, DeviceArray] = {}
        written: list[tuple[DeviceArray, DeviceArray]] = []
        for store in program.stores:
            found = self.of(store.value)
            if isinstance(store.target, Value):
                target = self._bindings.held_array(store.target)
                written.append((DeviceArray.empty(target.shape, target.dtype) if rehearse else target, found))
            else:
                outputs[store.target] = self._own_result(store.value, found, outputs)
        self._write(written)
        self._found.clear()
        return [outputs[position] for position in sorted(outputs)]

    @staticmethod
    def _own_result(value: Value, found: DeviceArray, others: dict[int, DeviceArray]) -> DeviceArray:
        """Return a result in memory of its own."""
        if value.kind in ("source", "view") or any(other is found for other in others.values()):
            return found.copy()
        return found.materialize()

    def _write(self, written: list[tuple[DeviceArray, DeviceArray]]) -> None:
        """Write values to their targets, each before its operands are overwritten; in one launch if that is safe."""
        for position, (target, found) in enumerate(written):
            for _, later in written[position + 1 :]:
                if later.expression is not None and reads(later.expression, target.block):
                    later.materialize()
            if found.expression is not None and not reads_in_step(found.expression, target):
                found.materialize()
            elementwise.run(found.node(), target.materialize())

    def of(self, value: Value) -> DeviceArray:
        """Return a value, computed or pending; the inputs are there."""
        found = self._found.get(value.number)
        if found is None:
            found = getattr(self, f"_{value.kind}")(value)
            if self._uses.get(value.number, 0) > 1 and value.kind == "map":
                found.materialize()
            self._found[value.number] = found
        return found

    def _source(self, value: Value) -> DeviceArray:
        bindings, position = self._bindings, value.attributes["position"]
        origin = value.attributes["origin"]
        if origin == "argument":
            argument: DeviceArray = bindings.inputs[position]
            return argument
        if origin == "constant":
            constant: DeviceArray = bindings.constants[position]
            return constant
        if origin == "number":
            if position not in bindings.numbers:
                bindings.numbers[position] = DeviceArray.filled((), 1.0, value.dtype)
            return bindings.numbers[position]
        array: DeviceArray = bindings.held_array(value)
        return array.contiguous()

    def _splat(self, value: Value) -> DeviceArray:
        return DeviceArray.pending(Node("constant", value.dtype, payload=value.attributes["number"]), value.shape)

    def _view(self, value: Value) -> DeviceArray:
        base, offset = self.of(value.inputs[0]), value.attributes["offset"]
        return self._strided(base, offset, value.attributes["strides"], value.shape)

    def _strided(self, base: DeviceArray, offset: int, strides: Sequence[int], shape: tuple[int, ...]) -> DeviceArray:
        base = base.materialize()
        size = base.itemsize
        layout = layout_at(base.address + offset * size, shape, base.dtype, tuple(step * size for step in strides))
        return base.view_of(layout)

    def _map(self, value: Value) -> DeviceArray:
        name, work = value.attributes["name"], value.attributes["work"]
        operands = []
        for position, operand in enumerate(value.inputs):
            array = self.of(operand)
            if operand.kind == "splat":
                node = Node("constant", operand.dtype, payload=operand.attributes["number"])
            else:
                node = array.operand(value.shape)
            operands.append(cast(node, scalars.BOOL if name == "where" and position == 0 else work))
        if name == "where":
            node = Node("where", work, tuple(operands))
        elif name == "copy":
            node = operands[0]
        elif _is_divided(value):
            node = expressions.floor_division(name, *operands)
        else:
            node = Node(_name(value), value.dtype if _is_test(value) else work, tuple(operands))
        return DeviceArray.pending(cast(node, value.dtype), value.shape)

    def _reduce(self, value: Value) -> DeviceArray:
        name, axes = _REDUCTIONS[value.attributes["name"]], value.attributes["axes"]
        return reduce.reduce_axes(name, self.of(value.inputs[0]), axes, value.dtype, keepdims=False)

    def _matmul(self, value: Value) -> DeviceArray:
        left, right = (self.of(operand) for operand in value.inputs)
        return matmul.matmul(left.materialize(), right.materialize())

    def _put(self, value: Value) -> DeviceArray:
        out = DeviceArray.filled(value.shape, 0, value.dtype)
        for operand, (offset, strides) in zip(value.inputs, value.attributes["places"], strict=True):
            if operand.size:
                part = self._strided(out, offset, strides, operand.shape)
                array = self.of(operand)
                node = cast(array.operand(operand.shape), value.dtype)
                if not parts_of(value)[0]:  # what is only put there keeps the sign of a zero
                    name = "bitwise_or" if value.dtype.kind == "b" else "add"
                    node = Node(name, value.dtype, (part.node(), node))
                elementwise.run(node, part)
        return out

    def _take(self, value: Value) -> DeviceArray:
        base, places = (self.of(operand).materialize() for operand in value.inputs)
        return gather.gather(base, places, value.shape, value.attributes["within"])

    def _scatter(self, value: Value) -> DeviceArray:
        values, starts = (_contiguous(self.of(operand)) for operand in value.inputs)
        return scatter.scatter_add(values, starts, value.shape)

    def _call(self, value: Value) -> DeviceArray:
        name, inputs = value.attributes["name"], [_contiguous(self.of(operand)) for operand in value.inputs]
        if name == "searchsorted":
            return sort.searchsorted(inputs[0], inputs[1], "right" if value.attributes["numbers"][2] else "left")
        if name in _RUNNING:
            return scan.scan(_RUNNING[name], inputs[0], -1, value.dtype)
        out = DeviceArray.empty(value.shape, value.dtype)  # in the half where merging in passes leaves it
        if out.size:
            half = out[(out.shape[-1] - 1).bit_length() % 2]
            sort.sort_rows(inputs[0], half)
        return out


def _contiguous(x: DeviceArray) -> DeviceArray:
    """Return an array computed, in row-major order."""
    return x.contiguous()


def _is_divided(value: Value) -> bool:
    """Return whether a value is a quotient or remainder of several nodes."""
    return value.attributes["name"] in ("remainder", "floor_divide") and value.attributes["work"].kind == "f"


def _is_test(value: Value) -> bool:
    return value.dtype.kind == "b"
