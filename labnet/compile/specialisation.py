"""One compiled version of a function: the state that it shares with eager code, and the step that runs it."""

from collections.abc import Callable, Sequence
from typing import Any

from labnet.compile.backends.selection import Step, step_of
from labnet.compile.backends.step_state import StepState
from labnet.compile.ir.values import Program
from labnet.compile.trace.traced_call import TracedCall, trace_call


class Specialisation:
    """A compiled version, made from a traced call.

    Parameters
    ----------
    call : TracedCall
    pinned : (sequence, dict)
        The arguments of the traced call. Those that are no tensors are compared by identity, so they are kept alive.

    Attributes
    ----------
    state : StepState
    step : Step
        Runs it: machine code on the CPU, or kernels on a GPU.
    has_failed : bool
        Whether the user was warned that it could not be compiled.
    """

    def __init__(self, call: TracedCall, *, pinned: tuple[Any, Any]):
        self.state = StepState(call, pinned=pinned, device=call.device)
        self.step: Step = step_of(self.state)
        self.has_failed = False

    @property
    def program(self) -> Program:
        """The simplified program."""
        return self.state.program


def specialise(function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> Specialisation:
    """Trace a function for these arguments, and return a version to compile."""
    return Specialisation(trace_call(function, args, named), pinned=(args, named))
