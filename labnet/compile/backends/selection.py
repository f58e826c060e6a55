"""The backend of a traced call, by the device that it computes on.

The CUDA backend is imported when it is first needed, because its kernels load a driver.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, Protocol

from labnet.compile.backends.cpu_executable import CPUExecutable
from labnet.compile.backends.cpu_step import CPUStep
from labnet.compile.backends.step_state import StepState
from labnet.compile.ir.values import Program
from labnet.device import CPU
from labnet.tensor import Tensor


class Step(Protocol):
    """Runs the calls of one compiled version of a function."""

    @property
    def source(self) -> str:
        """The generated code."""

    @property
    def is_known(self) -> bool:
        """Whether `compile` returns at once."""

    def compile(self) -> None:
        """Prepare the step for its first call; from any thread."""

    def quick(self, lock: Any, missed: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function for ordinary calls; it calls `missed` if the step does not fit."""

    def refreshed(self, leaves: Sequence[Any]) -> Any:
        """Check everything and run; return `MISS` if the step does not fit."""

    def explain(self) -> str:
        """Return a report of the step as text."""


class Executable(Protocol):
    """Runs a program of arguments and constants."""

    read: set[int]

    @property
    def is_known(self) -> bool:
        """Whether `compile` returns at once."""

    def compile(self) -> None:
        """Prepare the program for its first call; from any thread."""

    def __call__(self, arguments: Sequence[Any]) -> list[Any]:
        """Return the outputs for arrays; None stands for one that is not read."""


def step_of(state: StepState) -> Step:
    """Return the step that runs a compiled version on its device."""
    if state.device == CPU:
        return CPUStep(state)
    from labnet.compile.backends.cuda_step import CUDAStep

    return CUDAStep(state)


def executable_of(
    program: Program,
    *,
    device: str,
    held: Iterable[Tensor],
    arguments: int,
    constants: Sequence[Any],
    name: str,
) -> Executable:
    """Return an executable of a program on a device.

    Parameters
    ----------
    program : Program
        All of its sources are arguments or constants.
    device : str
    held : iterable of Tensor
        Passed as arguments in each call; they have to be on the device.
    arguments : int
        How many arrays a call brings.
    constants : sequence of array
    name : str
        Name in statistics.
    """
    if device == CPU:
        return CPUExecutable(program, arguments=arguments, constants=constants, name=name)
    from labnet.compile.backends.cuda_executable import CUDAExecutable, check_held

    check_held(held)
    return CUDAExecutable(program, arguments=arguments, constants=constants, name=name)
