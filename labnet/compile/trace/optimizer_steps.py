"""Steps of optimizers in a traced function: their counts, the numbers of each call, and their states."""

import functools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from labnet.compile.ir.values import Value
from labnet.compile.trace.traced_tensor import Tracer
from labnet.ops.core.half_precision import wider
from labnet.optim import Optimizer
from labnet.tensor import Tensor


@dataclass
class Step:
    """A step of an optimizer.

    Attributes
    ----------
    optimizer : Optimizer
    parameters : list of tensors
        Those that are there after the run too.
    before : int
        Steps that the same run takes with these parameters before.
    settings : dict
        Attributes of the optimizer that the function itself has set, by name.
    """

    optimizer: Optimizer
    parameters: list[Tensor]
    before: int = 0
    settings: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.count = len(self._numbers(1))

    def _states(self) -> list[dict[str, Any]]:
        return [self.optimizer.known(parameter).state for parameter in self.parameters]

    def fits(self) -> bool:
        """Return whether the optimizer still computes the same update for all these parameters."""
        steps = {state.get("step", 0) for state in self._states()}
        return len(steps) <= 1 and len(self.numbers()) == self.count

    def numbers(self) -> tuple[float, ...]:
        """Return the numbers of the next step."""
        taken: int = next((state.get("step", 0) for state in self._states()), 0)
        return self._numbers(taken + 1 + self.before)

    def _numbers(self, step: int) -> tuple[float, ...]:
        if not self.settings:
            return self.optimizer.step_numbers(step)
        changed = object.__new__(type(self.optimizer))
        vars(changed).update({**vars(self.optimizer), **self.settings})
        return changed.step_numbers(step)

    def reader(self) -> Callable[[], tuple[float, ...]]:
        """Return the fastest function for `numbers`: optimizers without a step count skip the count."""
        return self.numbers if "step" in self.optimizer.slots else functools.partial(self._numbers, 1)

    def advance(self) -> None:
        """Count a step, if the optimizer counts."""
        if "step" in self.optimizer.slots:
            for state in self._states():
                state["step"] = state.get("step", 0) + 1


@dataclass(frozen=True)
class Held:
    """An array in the state of an optimizer for a parameter."""

    optimizer: Optimizer
    parameter: Tensor
    slot: str

    def current_array(self) -> Any:
        """Return the current array; None if there is none."""
        return self.optimizer.known(self.parameter).state.get(self.slot)


class States(dict[str, Tensor]):
    """The states of an optimizer for one parameter, as stand-ins; zeros at first."""

    def __init__(self, tracer: Tracer, optimizer: Optimizer, parameter: Tensor):
        self._tracer, self._optimizer, self._parameter = tracer, optimizer, parameter
        self.sources: dict[str, Value] = {}

    def __missing__(self, slot: str) -> Tensor:
        """Create the stand-in of a state at its first read."""
        parameter, state = self._parameter, self._optimizer.known(self._parameter).state
        if slot not in state:
            state[slot] = np.zeros_like(wider([parameter.array])[0])
        holder = Held(self._optimizer, parameter, slot)
        now, self.sources[slot] = self._tracer.source(holder, state[slot], id(state[slot]))
        found = self[slot] = self._tracer.stand_in(now)
        return found


class Blank(dict[str, Tensor]):
    """The states of an optimizer for a parameter that the run has created; zeros at first."""

    def __init__(self, tracer: Tracer, parameter: Tensor):
        self._tracer, self._parameter = tracer, parameter

    def __missing__(self, slot: str) -> Tensor:
        """Create a state of zeros."""
        (value,) = wider([self._tracer.lift(self._parameter)])
        found = self[slot] = self._tracer.stand_in(self._tracer.builder.splat(0, value.shape, value.dtype))
        return found
