"""Compiled steps on a GPU: the program of a trace becomes kernels, whose launches are replayed as one.

What is computed element by element stays pending until a value is needed more than once, or as a whole; so the kernels
are those that fusion makes of arrays on a GPU anyway. All launches are recorded once, with memory of their own, and
run again at each call: arguments are copied in, results out, parameters are written where they are. Where arguments and
results are so large that copying them takes longer than launching, the kernels are launched anew with where they are.
"""

import functools
from collections.abc import Callable, Iterable, Sequence
from sys import getrefcount
from typing import Any, Protocol

import numpy as np

from labnet import memory
from labnet.compile.ir import Program, Value
from labnet.compile.plan import parts_of
from labnet.compile.specialisation import MISS, Specialisation
from labnet.compile.traced import Traced
from labnet.device import CUDA
from labnet.errors import TraceError
from labnet.kernels.cuda.array.array import DeviceArray, layout_at
from labnet.kernels.cuda.array.hazards import reads, reads_in_step
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen import elementwise, expressions, scalars
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.pool import private_arena
from labnet.kernels.cuda.kernels import gather, matmul, reduce, scan, scatter, sort
from labnet.kernels.device_dispatch import moved
from labnet.tensor import Tensor, wrap

#: What scalar functions of compiled steps are called in kernels, where that differs.
_NAMES = {
    "abs": "absolute",
    "pow": "power",
    "round": "rint",
    "atan2": "arctan2",
    "bitwise_invert": "invert",
    **{f"a{name}": f"arc{name}" for name in ("sin", "cos", "tan", "sinh", "cosh", "tanh")},
    "bitwise_left_shift": "left_shift",
    "bitwise_right_shift": "right_shift",
    "copy": "positive",
}
_REDUCTIONS = {"sum": "add", "prod": "multiply", "max": "maximum", "min": "minimum"}
#: Kinds of values that are computed on a GPU.
KINDS = frozenset({"source", "splat", "view", "map", "reduce", "matmul", "put", "take", "scatter", "call"})
_RUNNING = {"running_sum": "add", "running_product": "multiply"}
#: Bytes that a GPU copies while the host launches a kernel.
_COPIED_MEANWHILE = 1 << 25


def refuse_unfit(program: Program, held: Iterable[Any]) -> None:
    """Complain where something of a program has no kernel, or reads an array of the host."""
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
    """Return what of a program has no kernel, or None if all of it has."""
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
    name = value.attributes["name"]
    return str(_NAMES.get(name, name))


class OnDevice(Specialisation):
    """A compiled version whose arrays are on a GPU."""

    device = CUDA

    def _generate(self) -> None:
        refuse_unfit(self.program, map(self._array, self._parts))
        self._fixed: list[DeviceArray] = []
        self._inputs: list[DeviceArray] = []
        self._numbers: dict[int, DeviceArray] = {}
        self._replay: Callable[[], None] | None = None
        self._recorded: tuple[Any, ...] = ()
        self._outputs: list[DeviceArray] = []
        self._kept: list[Any] = []
        self._is_compiled = self._is_ready = False
        self.kernels = 0
        values, stores = self.program.values(), self.program.stores
        launches = sum(value.kind not in ("source", "splat", "view", "map") for value in values) + len(stores)
        arguments = [v for v in values if v.kind == "source" and v.attributes["origin"] == "argument"]
        results = [store.value for store in stores if not isinstance(store.target, Value)]
        #: Whether each call launches its kernels, instead of replaying those of the first.
        self.is_direct = sum(value.nbytes for value in (*arguments, *results)) > launches * _COPIED_MEANWHILE

    @property
    def source(self) -> str:  # type: ignore[override]
        """The program: one line per value, and what is stored."""
        return str(self.program)

    def compile(self) -> None:
        """Say that it may run; kernels are compiled where they are launched first."""
        self._is_compiled = True

    @property
    def is_known(self) -> bool:
        """Whether `compile` takes no time to speak of."""
        return True

    def quick(self, lock: Any, missed: Callable[..., Any]) -> Callable[..., Any]:
        """Return what ordinary calls run: the way that looks at everything."""
        return missed

    def refreshed(self, leaves: Sequence[Any]) -> Any:
        """Run where it still fits; `MISS` where it does not."""
        if not self._is_compiled or not self.fits():
            return MISS
        numbers = [step.numbers() for step in self._steps]
        if any(len(found) != step.count for found, step in zip(numbers, self._steps, strict=True)):
            return MISS
        arrays = [x._array if isinstance(x, Tensor) else x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        drawn = self.draw() if self._draws else []
        for position in self._tensors_updated:
            part = self._parts[position]
            if part._family is not None or not _is_alone(part):
                memory.prepare_write(part)
                if not part._array.is_contiguous:
                    part._array = part._array.copy()
            if position in self._stepped:
                part._node.grad = None
        flat = [number for found in numbers for number in found]
        run = self._launch if self.is_direct else self._replayed
        found = run([*arrays, *drawn], flat)
        self.drawn = None
        inputs = [x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        self.after(found[self._count :], inputs)
        outputs: Any = iter(found[: self._count])
        return self._structure.build([wrap(next(outputs)) if isinstance(x, Traced) else x for x in self._leaves])

    def _launch(self, brought: Sequence[Any], numbers: Sequence[Any]) -> list[DeviceArray]:
        """Run the kernels on the arguments as they lie, and return the results."""
        if not self._is_ready:
            self._fixed = [DeviceArray.upload(np.asarray(constant)) for constant in self._constants]
            for value in self.program.values():
                if value.kind == "source" and value.attributes["origin"] == "number":
                    self._numbers[value.attributes["position"]] = DeviceArray.empty((), value.dtype)
            self._is_ready = True
        self._inputs = [moved(array, CUDA).contiguous() for array in brought]
        before = current_gpu().launches
        try:
            self._upload(numbers)
            check(self)
            return Run(self).stores(rehearse=False)
        finally:
            self.kernels = current_gpu().launches - before
            self._inputs = []

    def _replayed(self, brought: Sequence[Any], numbers: Sequence[Any]) -> list[DeviceArray]:
        """Replay what was recorded, with the arguments copied in, and return copies of the results."""
        addresses = tuple([(array.address, array.form) for array in map(self._array, self._parts)])
        if self._replay is None or addresses != self._recorded:
            self._record(brought)
            self._recorded = addresses
        for target, array in zip(self._inputs, brought, strict=True):
            bring(target, array)
        self._upload(numbers)
        check(self)
        assert self._replay is not None
        self._replay()
        return [output.copy() for output in self._outputs]

    def _upload(self, numbers: Sequence[Any]) -> None:
        """Bring the numbers of optimizers to where kernels read them."""
        for position, target in self._numbers.items():
            current_gpu().upload(target.address, np.asarray(numbers[position], target.dtype))

    def _record(self, brought: Sequence[Any]) -> None:
        """Run the program once for its kernels, and once more to record their launches."""
        gpu = current_gpu()
        self._replay, self._kept = None, []
        with private_arena(self._kept):
            self._inputs = [DeviceArray.empty(array.shape, array.dtype) for array in brought]
            for target, array in zip(self._inputs, brought, strict=True):
                bring(target, array)
            self._fixed = [DeviceArray.upload(np.asarray(constant)) for constant in self._constants]
            self._numbers = {}
            check(self)  # the rehearsal writes to places too
            Run(self).stores(rehearse=True)
            before = gpu.launches
            with gpu.captured() as replay:
                run = Run(self)
                self._outputs = run.stores(rehearse=False)
            self.kernels = gpu.launches - before
        self._replay = replay

    def explain(self) -> str:
        """Return how many launches a call replays, and the program."""
        if self.is_direct:
            return f"{self.kernels} launches on a GPU, on arguments and results as they lie\n{self.program}"
        held = sum(block.nbytes for block in self._kept)
        return f"{self.kernels} launches on a GPU, replayed as one; {held:,} bytes of memory of its own\n{self.program}"


def bring(target: DeviceArray, array: Any) -> None:
    """Copy an argument to where a program reads it."""
    there: DeviceArray = moved(array, CUDA)
    if not there.is_contiguous:
        target[...] = there
    elif there.size:
        current_gpu().copy(target.address, there.address, there.nbytes)


def _is_alone(part: Any) -> bool:
    """Tell whether only a tensor refers to its array, which lies in rows in memory of labnet."""
    array = part._array
    return array.base is None and array.is_contiguous and array.owns_memory and getrefcount(array) <= _ALONE


#: References to an array that only its tensor holds, while `_is_alone` looks: the tensor's, its own, and the call's.
_ALONE = 3


class Ground(Protocol):
    """What a program is run on."""

    program: Program
    _inputs: list[DeviceArray]
    _fixed: list[DeviceArray]
    _numbers: dict[int, DeviceArray]
    _parts: list[Any]

    def _array(self, part: Any) -> Any:
        """Return the array of a part that is held."""


def check(step: Ground) -> None:
    """Raise where an argument is not what a program needs, before anything is written; this waits for the GPU."""
    if not step.program.checks:
        return
    run, flags = Run(step), []
    for condition in step.program.checks:
        whole: Any = run.of(condition.value)
        flags.append(np.any((whole < 0) | (whole >= condition.bound)))
    if flags and np.any(functools.reduce(np.logical_or, flags)):
        raise next(c.failure() for c, flag in zip(step.program.checks, flags, strict=True) if flag)


class Run:
    """Computes the values of a program on arrays of the GPU."""

    def __init__(self, step: Ground):
        self._step = step
        self._found: dict[int, DeviceArray] = {}
        self._uses = step.program.uses

    def stores(self, *, rehearse: bool) -> list[DeviceArray]:
        """Compute everything, and store it; to memory of no account where it is a rehearsal. Return the outputs."""
        step = self._step
        for value in step.program.values():
            self.of(value)
        outputs: dict[int, DeviceArray] = {}
        written: list[tuple[DeviceArray, DeviceArray]] = []
        for store in step.program.stores:
            found = self.of(store.value)
            if isinstance(store.target, Value):
                target = step._array(step._parts[store.target.attributes["position"]])
                written.append((DeviceArray.empty(target.shape, target.dtype) if rehearse else target, found))
            else:
                outputs[store.target] = self._given_out(store.value, found, outputs)
        self._write(written)
        self._found.clear()
        return [outputs[position] for position in sorted(outputs)]

    @staticmethod
    def _given_out(value: Value, found: DeviceArray, others: dict[int, DeviceArray]) -> DeviceArray:
        """Return a result in memory that is its own."""
        if value.kind in ("source", "view") or any(other is found for other in others.values()):
            return found.copy()
        return found.materialize()

    def _write(self, written: list[tuple[DeviceArray, DeviceArray]]) -> None:
        """Write values where they belong: each before what it reads is overwritten, in one launch if that is safe."""
        for position, (target, found) in enumerate(written):
            for _, later in written[position + 1 :]:
                if later._node is not None and reads(later._node, target._block):
                    later.materialize()
            if found._node is not None and not reads_in_step(found._node, target):
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
        step, position = self._step, value.attributes["position"]
        origin = value.attributes["origin"]
        if origin == "argument":
            argument: DeviceArray = step._inputs[position]
            return argument
        if origin == "constant":
            constant: DeviceArray = step._fixed[position]
            return constant
        if origin == "number":
            if position not in step._numbers:
                step._numbers[position] = DeviceArray.filled((), 1.0, value.dtype)
            return step._numbers[position]
        array: DeviceArray = step._array(step._parts[position])
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
    """Tell whether a value is a quotient or remainder of several nodes."""
    return value.attributes["name"] in ("remainder", "floor_divide") and value.attributes["work"].kind == "f"


def _is_test(value: Value) -> bool:
    return value.dtype.kind == "b"
