"""A program of arguments and constants on a GPU: arrays in, new arrays out, by one recording of its launches."""

import threading
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from labnet.compile.backends.arrays import Array
from labnet.compile.backends.cuda_program import Bindings, Run, bring, check, refuse_unfit
from labnet.compile.ir.cost import flops, traffic
from labnet.compile.ir.fusion import fuse
from labnet.compile.ir.memory_plan import computed_in_place
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.values import Program
from labnet.device import CPU
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.pool import private_arena
from labnet.kernels.device_dispatch import timed
from labnet.stats.collecting import active, later, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import Tensor


def check_held(held: Iterable[Tensor]) -> None:
    """Raise `DeviceError` for a tensor that is not on the GPU."""
    for tensor in held:
        if tensor.device == CPU:
            raise mixed(tensor.array)


class CUDAExecutable:
    """A program without state of its own, called as `CPUExecutable` is.

    The first call records launches, whose memory is its own: arguments are copied in, outputs out.
    """

    def __init__(self, program: Program, *, arguments: int, constants: Sequence[Array], name: str = "compiled"):
        self.name = name
        self.program = simplify(program)
        refuse_unfit(self.program, [])
        sources = [value for value in self.program.values() if value.kind == "source"]
        found = {v.attributes["position"]: v for v in sources if v.attributes["origin"] == "argument"}
        #: Positions of the arguments that are read.
        self.read = set(found)
        self._described = [
            (found[i].shape, found[i].dtype) if i in found else ((), np.dtype(bool)) for i in range(arguments)
        ]
        groups = fuse(self.program, computed_in_place(self.program))
        #: Bytes read and written, and floating-point operations, of a call.
        self._work = sum(map(traffic, groups)), sum(flops(v) for group in groups for v in group.members)
        self._constants = constants
        self._lock = threading.Lock()
        self._bindings = Bindings(self.program)
        self._kept: list[Any] = []
        self._outputs: list[DeviceArray] = []
        self._replay: Any = None
        #: Whether `compile` returns at once.
        self.is_known = False

    def compile(self) -> None:
        """Compile every kernel of the program, by running it once on zeros."""
        with self._lock:
            if not self.is_known:
                self._bindings.inputs = [DeviceArray.filled(shape, 0, dtype) for shape, dtype in self._described]
                self._bindings.upload(self._constants)
                Run(self._bindings).stores(rehearse=True)
                self.is_known = True

    def __call__(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the outputs for arrays; None stands for one that is not read.

        Raises
        ------
        IndexError
            If an element is out of the range that the program checks.
        """
        if not active():
            return self._run(arguments)
        with timed(later(self.name)), suspended():
            found = self._run(arguments)
        record(self.name, OpCount(1, 0.0, *self._work))
        return found

    def _run(self, arguments: Sequence[Any]) -> list[Any]:
        with self._lock:
            for position in self.read:
                bring(self._bindings.inputs[position], arguments[position])
            check(self._bindings)
            if self._replay is None:
                kept: list[Any] = []  # of this recording: one that fails gives its memory back
                with private_arena(kept), current_gpu().captured() as replay:
                    self._outputs = Run(self._bindings).stores(rehearse=False)
                self._kept, self._replay = kept, replay
            self._replay()
            return [output.copy() for output in self._outputs]
