"""A program of arguments and constants on the CPU: arrays in, new arrays out."""

import functools
import threading
import time
from collections.abc import Sequence

import numpy as np

from labnet.compile.backends.arrays import Array
from labnet.compile.backends.cpu_program import CPUProgram
from labnet.compile.ir.cost import flops, traffic
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.values import Program
from labnet.compile.native.abi import FIRST_CHECK
from labnet.stats.collecting import active, record
from labnet.stats.operations import OpCount


class CPUExecutable:
    """A program without state of its own.

    Parameters
    ----------
    program : Program
        All of its sources are arguments or constants.
    arguments : int
        How many arrays a call brings.
    constants : sequence of array
    name : str
        Name in statistics, which count a call as one op.
    """

    def __init__(self, program: Program, *, arguments: int, constants: Sequence[Array], name: str = "compiled"):
        self.name = name
        self.program = simplify(program)
        self._compiled = CPUProgram(self.program, arguments=arguments, constants=len(constants))
        #: Positions of the arguments that are read.
        self.read = {
            value.attributes["position"]
            for value in self.program.values()
            if value.kind == "source" and value.attributes["origin"] == "argument"
        }
        self._described = [(store.value.shape, store.value.dtype) for store in self.program.stores]
        self._held = (np.zeros((0, 2), np.int64), *constants, self._compiled.arena)
        self._lock = threading.Lock()

    @functools.cached_property
    def _work(self) -> tuple[int, int]:
        """Bytes read and written, and floating-point operations, of a call."""
        groups = self._compiled.groups
        return sum(map(traffic, groups)), sum(flops(value) for group in groups for value in group.members)

    def compile(self) -> None:
        """Compile the program, or load its machine code from the cache."""
        self._compiled.compile()

    @property
    def is_known(self) -> bool:
        """Whether the machine code is in the cache."""
        return self._compiled.is_known

    def __call__(self, arguments: Sequence[Array | None]) -> list[Array]:
        """Return the outputs for C-contiguous arrays; None stands for one that is not read.

        Raises
        ------
        IndexError
            If an element is out of the range that the program checks.
        """
        function = self._compiled.function
        assert function is not None, "compile() ran before"
        outputs = [np.empty(shape, dtype) for shape, dtype in self._described]
        began = time.perf_counter()
        with self._lock:  # of the arena
            status = function(self._held, *arguments, *outputs)
        if active():
            record(self.name, OpCount(1, time.perf_counter() - began, *self._work))
        if status >= FIRST_CHECK:
            raise self.program.checks[status - FIRST_CHECK].failure()
        if status:
            raise RuntimeError(f"jit: compiled code refused its own arguments (status {status})")
        return outputs
