"""A program on the CPU: its generated source, its machine code, and the arena that it computes in."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.compile.codegen.function_source import emit
from labnet.compile.ir.fusion import Group, fuse
from labnet.compile.ir.memory_plan import Plan, computed_in_place, plan
from labnet.compile.ir.values import DType, Program, Shape
from labnet.kernels.machine_code import cache
from labnet.kernels.scalar_expression import SCALARS

_ALIGNMENT = 64
#: Modules that write the source of a program, with what they import.
_WRITERS = ("labnet.compile.backends.cpu_program",)


class CPUProgram:
    """A simplified program as one function of machine code.

    Parameters
    ----------
    program : Program
    arguments, held, constants, numbers : int
        Counts of the arrays of a call, of held arrays, of constants, and of numbers of a call.
    given : sequence of (shape, dtype)
        What arguments are checked for; by default those that are read.

    Attributes
    ----------
    arena : array
        Memory for all intermediate values.
    function : callable or None
        The machine code; None before `compile`.
    """

    def __init__(
        self,
        program: Program,
        *,
        arguments: int,
        held: int = 0,
        constants: int,
        numbers: int = 0,
        given: Sequence[tuple[Shape, DType]] = (),
    ):
        self._program = program
        counts = {"arguments": arguments, "held": held, "constants": constants, "numbers": numbers}
        self._given: dict[str, Any] = {**counts, "given": given}
        self._key = cache.digest(f"{_described(program)}\n{self._given}\n{sorted(SCALARS.items())}", _WRITERS)
        self._recalled = cache.recall(self._key)
        nbytes = self._recalled[1] if self._recalled else self.plan.nbytes
        if not self._recalled:
            _ = self.source  # now, since it may be compiled in another thread
        arena = np.empty(nbytes + _ALIGNMENT, np.uint8)
        self.arena = arena[-arena.ctypes.data % _ALIGNMENT :]
        self.function: Callable[..., int] | None = None

    @functools.cached_property
    def groups(self) -> list[Group]:
        """The loops and single operations of the program, in order."""
        return fuse(self._program, computed_in_place(self._program))

    @functools.cached_property
    def plan(self) -> Plan:
        """Where intermediate values lie in the arena."""
        return plan(self._program, self.groups)

    @functools.cached_property
    def source(self) -> str:
        """The generated code."""
        return emit(self._program, self.groups, self.plan, **self._given)

    def compile(self) -> None:
        """Compile the source, or load its machine code from the cache; from any thread."""
        function = cache.recalled(self._recalled[0]) if self._recalled else None
        if function is None:
            function = cache.load(self.source)
            cache.remember(self._key, self.source, self.plan.nbytes)
        self.function = function

    @property
    def is_known(self) -> bool:
        """Whether the machine code is in the cache."""
        return bool(self._recalled) or cache.is_known(self.source)


def _described(program: Program) -> str:
    """Return a text that differs between programs of which different sources are written."""
    values = [
        (
            *(value.number, value.kind, [one.number for one in value.inputs], value.shape, value.dtype.str),
            [pair for pair in value.attributes.items() if pair[0] != "array"],
        )
        for value in program.values()
    ]
    targets = [one.target if isinstance(one.target, int) else [one.target.number] for one in program.stores]
    stores = [(one.value.number, target) for one, target in zip(program.stores, targets, strict=True)]
    return f"{values}\n{stores}\n{[(check.value.number, check.bound) for check in program.checks]}"
