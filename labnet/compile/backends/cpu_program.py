"""A program on the CPU: its generated source, its machine code, and the arena that it computes in."""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.compile.codegen.function_source import emit
from labnet.compile.ir.fusion import Group, fuse
from labnet.compile.ir.memory_plan import Plan, computed_in_place, plan
from labnet.compile.ir.values import DType, Program, Shape
from labnet.kernels.machine_code import cache, processor
from labnet.kernels.scalar_expression import SCALARS

_ALIGNMENT = 64
#: Modules that write the source of a program, with what they import.
_WRITERS = ("labnet.compile.backends.cpu_program",)
cache.reached(_WRITERS)  # reads the files that were imported, not those of a later version


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
        checked = [(shape, *_named(dtype)) for shape, dtype in given]
        known = (_described(program), counts, checked, sorted(SCALARS.items()), processor.chosen())
        self._key = cache.digest("\n".join(map(str, known)), _WRITERS)
        self._recalled = cache.recall(self._key)
        nbytes = self._recalled[1] if self._recalled else self.plan.nbytes
        if not self._recalled:
            _ = self.source  # now, so that a program that cannot be written is refused here
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
            if self.plan.nbytes > self.arena.nbytes:
                sizes = f"a plan of {self.plan.nbytes} bytes, but an arena of {self.arena.nbytes}"
                raise RuntimeError(f"{sizes}: run labnet cache --clear")
            function = cache.load(self.source)
            cache.remember(self._key, self.source, self.plan.nbytes)
        self.function = function

    @property
    def is_known(self) -> bool:
        """Whether the machine code is in the cache."""
        return cache.has(self._recalled[0]) if self._recalled else cache.is_known(self.source)


def _described(program: Program) -> str:
    """Return a text that determines the source of a program."""
    values = [
        (
            *(value.number, value.kind, [one.number for one in value.inputs], value.shape, *_named(value.dtype)),
            [pair for pair in value.attributes.items() if pair[0] != "array"],
        )
        for value in program.values()
    ]
    targets = [one.target if isinstance(one.target, int) else [one.target.number] for one in program.stores]
    stores = [(one.value.number, target) for one, target in zip(program.stores, targets, strict=True)]
    checks = [(check.value.number, check.bound, program.checks.index(check)) for check in program.checks]
    return f"{values}\n{stores}\n{checks}"


def _named(dtype: DType) -> tuple[str, str]:
    """Return the name of a dtype, and its character, which differs between ``long`` and ``long long``."""
    return dtype.str, dtype.char
