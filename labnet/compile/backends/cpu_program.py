"""A program on the CPU: its generated source, its machine code, and the arena that it computes in."""

from collections.abc import Callable, Sequence

import numpy as np

from labnet.compile.codegen.function_source import emit
from labnet.compile.ir.fusion import fuse
from labnet.compile.ir.memory_plan import computed_in_place, plan
from labnet.compile.ir.values import DType, Program, Shape
from labnet.kernels.machine_code import cache

_ALIGNMENT = 64


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
    source : str
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
        self.groups = fuse(program, computed_in_place(program))
        self.plan = plan(program, self.groups)
        self.source = emit(
            program,
            self.groups,
            self.plan,
            arguments=arguments,
            given=given,
            held=held,
            constants=constants,
            numbers=numbers,
        )
        arena = np.empty(self.plan.nbytes + _ALIGNMENT, np.uint8)
        self.arena = arena[-arena.ctypes.data % _ALIGNMENT :]
        self.function: Callable[..., int] | None = None

    def compile(self) -> None:
        """Compile the source, or load its machine code from the cache; from any thread."""
        self.function = cache.load(self.source)

    @property
    def is_known(self) -> bool:
        """Whether the machine code is in the cache."""
        return cache.is_known(self.source)
