"""A program of arguments and constants, compiled: arrays in, new arrays out."""

import threading
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import memory
from labnet.compile.codegen.function_source import emit
from labnet.compile.ir.cost import flops, traffic
from labnet.compile.ir.fusion import fuse
from labnet.compile.ir.memory_plan import computed_in_place, plan
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.values import Program
from labnet.compile.native import cache
from labnet.compile.native.abi import FIRST_CHECK
from labnet.stats.collecting import active, record
from labnet.stats.operations import OpCount
from labnet.tensor import Tensor

Array = np.ndarray[Any, Any]


def in_rows(array: Array) -> Array:
    """Return an array as compiled code reads it: in row-major order, at an address that suits its dtype."""
    flags = array.flags
    return array if flags.c_contiguous and flags.aligned else np.array(array, order="C")


def write_back(target: Any, array: Array) -> None:
    """Write new elements into a tensor or an array that a function has written into."""
    if isinstance(target, Tensor):
        memory.overwrite(target, array)
    else:
        target[...] = array


class Executable:
    """A program that holds nothing of anybody.

    Parameters
    ----------
    program : Program
        All of its sources are arguments or constants.
    arguments : int
        How many arrays a call brings.
    constants : sequence of array
    name : str
        What statistics call it: all that it does counts as one op.
    """

    def __init__(self, program: Program, *, arguments: int, constants: Sequence[Array], name: str = "compiled"):
        self.name = name
        self.program = simplify(program)
        self.groups = fuse(self.program, computed_in_place(self.program))
        self.plan = plan(self.program, self.groups)
        self.source = emit(
            self.program,
            self.groups,
            self.plan,
            arguments=arguments,
            held=0,
            constants=len(constants),
            numbers=0,
        )
        #: Positions of the arguments that are read.
        self.read = {
            value.attributes["position"]
            for value in self.program.values()
            if value.kind == "source" and value.attributes["origin"] == "argument"
        }
        #: Bytes read and written, and floating-point operations, of a call.
        self._work = sum(map(traffic, self.groups)), sum(flops(v) for group in self.groups for v in group.members)
        self._described = [(store.value.shape, store.value.dtype) for store in self.program.stores]
        arena = np.empty(self.plan.nbytes + 64, np.uint8)
        self._held = (np.zeros((0, 2), np.int64), *constants, arena[-arena.ctypes.data % 64 :])
        self._lock = threading.Lock()
        self._compiled: Callable[..., int] | None = None

    def compile(self) -> None:
        """Make machine code of it, or take it from the disk."""
        self._compiled = cache.load(self.source)

    @property
    def is_known(self) -> bool:
        """Whether `compile` takes no time to speak of."""
        return cache.is_known(self.source)

    def __call__(self, arguments: Sequence[Array | None]) -> list[Array]:
        """Return the outputs for arrays that lie in rows; None stands for one that is not read.

        Raises
        ------
        IndexError
            If an element is out of the range that the program checks.
        """
        assert self._compiled is not None, "compile() ran before"
        outputs = [np.empty(shape, dtype) for shape, dtype in self._described]
        began = time.perf_counter()
        with self._lock:  # of the arena
            status = self._compiled(self._held, *arguments, *outputs)
        if active():
            record(self.name, OpCount(1, time.perf_counter() - began, *self._work))
        if status >= FIRST_CHECK:
            raise self.program.checks[status - FIRST_CHECK].failure()
        if status:
            raise RuntimeError(f"jit: compiled code refused its own arguments (status {status})")
        return outputs
