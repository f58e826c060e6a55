"""A compiled version on a GPU: the launches of its kernels are recorded once, and replayed by each call.

A recording has memory of its own: arguments are copied in, results out, parameters are written where they are. Where
arguments and results are so large that copying them takes longer than launching, each call launches the kernels
instead, on its arguments and results directly.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import memory
from labnet.compile.backends.cuda_program import Bindings, Run, bring, check, refuse_unfit
from labnet.compile.backends.step_state import MISS, StepState
from labnet.compile.ir.values import Value
from labnet.compile.native.ownership import owns_alone
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CUDA
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.pool import private_arena
from labnet.kernels.device_dispatch import moved
from labnet.tensor import Tensor, wrap

#: Bytes that a GPU copies while the host launches a kernel.
_COPIED_MEANWHILE = 1 << 25


class CUDAStep:
    """Runs the program of a compiled version as kernels.

    Parameters
    ----------
    state : StepState

    Attributes
    ----------
    kernels : int
        Launches of a call.
    is_direct : bool
        Whether each call launches its kernels, instead of replaying those of the first.
    """

    def __init__(self, state: StepState):
        self._state = state
        program = state.program
        refuse_unfit(program, map(state.array, state.parts))
        self._bindings = Bindings(program, lambda position: state.array(state.parts[position]))
        self._replay: Callable[[], None] | None = None
        self._recorded: tuple[Any, ...] = ()
        self._outputs: list[DeviceArray] = []
        self._kept: list[Any] = []
        self._is_compiled = self._is_ready = False
        self.kernels = 0
        values, stores = program.values(), program.stores
        launches = sum(value.kind not in ("source", "splat", "view", "map") for value in values) + len(stores)
        arguments = [v for v in values if v.kind == "source" and v.attributes["origin"] == "argument"]
        results = [store.value for store in stores if not isinstance(store.target, Value)]
        self.is_direct = sum(value.nbytes for value in (*arguments, *results)) > launches * _COPIED_MEANWHILE

    @property
    def source(self) -> str:
        """The program: one line per value, and what is stored."""
        return str(self._state.program)

    def compile(self) -> None:
        """Allow calls; kernels are compiled at their first launch."""
        self._is_compiled = True

    @property
    def is_known(self) -> bool:
        """True: `compile` returns at once."""
        return True

    def quick(self, lock: Any, missed: Callable[..., Any]) -> Callable[..., Any]:
        """Return `missed`: every call checks everything."""
        return missed

    def refreshed(self, leaves: Sequence[Any]) -> Any:
        """Run where the step still fits; return `MISS` where it does not."""
        state = self._state
        if not self._is_compiled or not state.fits():
            return MISS
        numbers = [step.numbers() for step in state.steps]
        if any(len(found) != step.count for found, step in zip(numbers, state.steps, strict=True)):
            return MISS
        arrays = [x.array if isinstance(x, Tensor) else x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        drawn = state.draw() if state.draws else []
        for position in state.tensors_updated:
            part = state.parts[position]
            if part.family is not None or not _is_alone(part):
                memory.prepare_write(part)
                if not part.array.is_contiguous:
                    part.array = part.array.copy()
            if position in state.stepped:
                part.node.grad = None
        flat = [number for found in numbers for number in found]
        run = self._launch if self.is_direct else self._replayed
        found = run([*arrays, *drawn], flat)
        state.drawn = None
        inputs = [x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        state.after(found[state.count :], inputs)
        outputs: Any = iter(found[: state.count])
        return state.structure.build([wrap(next(outputs)) if isinstance(x, Traced) else x for x in state.leaves])

    def _launch(self, brought: Sequence[Any], numbers: Sequence[Any]) -> list[DeviceArray]:
        """Run the kernels on the arguments directly, and return the results."""
        bindings = self._bindings
        if not self._is_ready:
            bindings.upload(self._state.constants)
            for value in bindings.program.values():
                if value.kind == "source" and value.attributes["origin"] == "number":
                    bindings.numbers[value.attributes["position"]] = DeviceArray.empty((), value.dtype)
            self._is_ready = True
        bindings.inputs = [moved(array, CUDA).contiguous() for array in brought]
        before = current_gpu().launches
        try:
            self._upload(numbers)
            check(bindings)
            return Run(bindings).stores(rehearse=False)
        finally:
            self.kernels = current_gpu().launches - before
            bindings.inputs = []

    def _replayed(self, brought: Sequence[Any], numbers: Sequence[Any]) -> list[DeviceArray]:
        """Replay the recording, with the arguments copied in, and return copies of the results."""
        state, bindings = self._state, self._bindings
        addresses = tuple([(array.address, array.form) for array in map(state.array, state.parts)])
        if self._replay is None or addresses != self._recorded:
            self._record(brought)
            self._recorded = addresses
        for target, array in zip(bindings.inputs, brought, strict=True):
            bring(target, array)
        self._upload(numbers)
        check(bindings)
        assert self._replay is not None
        self._replay()
        return [output.copy() for output in self._outputs]

    def _upload(self, numbers: Sequence[Any]) -> None:
        """Copy the numbers of optimizers to where kernels read them."""
        for position, target in self._bindings.numbers.items():
            current_gpu().upload(target.address, np.asarray(numbers[position], target.dtype))

    def _record(self, brought: Sequence[Any]) -> None:
        """Run the program once to compile its kernels, and once more to record their launches."""
        gpu, bindings = current_gpu(), self._bindings
        self._replay, self._kept = None, []
        with private_arena(self._kept):
            bindings.inputs = [DeviceArray.empty(array.shape, array.dtype) for array in brought]
            for target, array in zip(bindings.inputs, brought, strict=True):
                bring(target, array)
            bindings.upload(self._state.constants)
            bindings.numbers = {}
            check(bindings)  # the rehearsal writes to checked positions too
            Run(bindings).stores(rehearse=True)
            before = gpu.launches
            with gpu.captured() as replay:
                self._outputs = Run(bindings).stores(rehearse=False)
            self.kernels = gpu.launches - before
        self._replay = replay

    def explain(self) -> str:
        """Return how many launches a call replays, and the program."""
        program = self._state.program
        if self.is_direct:
            return f"{self.kernels} launches on a GPU, on arguments and results as they lie\n{program}"
        held = sum(block.nbytes for block in self._kept)
        return f"{self.kernels} launches on a GPU, replayed as one; {held:,} bytes of memory of its own\n{program}"


def _is_alone(part: Any) -> bool:
    """Return whether only a tensor refers to its array, which is contiguous in memory that labnet has allocated."""
    array = part.array
    is_own = array.base is None and array.is_contiguous and array.owns_memory
    del array  # a reference that would be counted
    return is_own and owns_alone(part)
