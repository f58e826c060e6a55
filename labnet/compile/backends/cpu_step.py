"""A compiled version on the CPU: one function of machine code that reads and writes arrays in place.

An ordinary call runs a small generated function, which compares guards, passes arrays and numbers to the machine code,
and wraps the results. All else goes through `CPUStep.refreshed`.
"""

import itertools
import threading
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import autograd, memory
from labnet.compile.backends.arrays import c_contiguous
from labnet.compile.backends.cpu_program import CPUProgram
from labnet.compile.backends.step_state import MISS, StepState
from labnet.compile.ir.cost import explain
from labnet.compile.native.ownership import constant_word, ownership_words
from labnet.compile.trace.signature import repeats
from labnet.compile.trace.traced_tensor import Traced
from labnet.kernels.device_dispatch import device_of
from labnet.optim.optimizer import watchers
from labnet.tensor import Tensor, wrap

#: Stands for the node of an argument that requires gradients.
_ANY = autograd.Node()


class CPUStep:
    """Runs the program of a compiled version as machine code.

    Parameters
    ----------
    state : StepState
    """

    def __init__(self, state: StepState):
        self._state = state
        self.program = CPUProgram(
            state.program,
            arguments=len(state.given) + len(state.draws),
            given=state.given,
            held=len(state.parts),
            constants=len(state.constants),
            numbers=sum(step.count for step in state.steps),
        )
        #: Table of words, arrays of parts, constants and arena; None while it has to be bound anew.
        self._held: tuple[Any, ...] | None = None
        #: Runs the step, or returns `MISS`; None before it is compiled.
        self._run: Callable[..., Any] | None = None
        #: Arguments of a call that is not ordinary.
        self._targets: Sequence[Any] | None = None

    @property
    def source(self) -> str:
        """The generated code."""
        return self.program.source

    def compile(self) -> None:
        """Compile the source, or load its machine code from the cache; from any thread."""
        self.program.compile()
        self._run = self.quick(threading.RLock(), lambda *_, **__: MISS)

    @property
    def is_known(self) -> bool:
        """Whether the machine code is in the cache."""
        return self.program.is_known

    def explain(self) -> str:
        """Return groups, memory, work, constants and guards as text."""
        state, program = self._state, self.program
        return explain(state.program, program.groups, program.plan, state.constants, state.guards.describe())

    # Binding of arrays

    def _bind(self) -> None:
        """Bind the current arrays of all parts; written parts get memory without other references."""
        self._held = None
        state = self._state
        for position in state.tensors_updated:
            part = state.parts[position]
            memory.prepare_write(part)
            if part.array.base is not None and not memory.views_of(memory.base_of(part)):
                part.array = part.array.copy()  # references to the memory are not counted in this array
            if position in state.stepped:
                part.node.grad = None
            if c_contiguous(part.array) is not part.array and part.family is not None:
                memory.unlink(part)
        table = np.zeros((max(1, 4 * len(state.parts)), 2), np.int64)
        self._held = (table, *self._contiguous_parts(), *state.constants, self.program.arena)
        words = [word for position, part in enumerate(state.parts) for word in self._words(position, part)]
        words = words or [constant_word()]
        table[:] = (words * len(table))[: len(table)]

    def _contiguous_parts(self) -> list[Any]:
        """Return the arrays of all parts, C-contiguous; tensors without views keep the contiguous arrays."""
        state = self._state
        arrays = [c_contiguous(state.array(part)) for part in state.parts]
        for part, array in zip(state.parts, arrays, strict=True):
            if isinstance(part, Tensor) and part.family is None:
                part.array = array
        return arrays

    def _words(self, position: int, part: Any) -> list[tuple[int, int]]:
        state = self._state
        if not isinstance(part, Tensor):
            return []
        return ownership_words(part, is_written=position in state.updated, is_stepped=position in state.stepped)

    def _is_shared(self) -> bool:
        """Return whether the words do not prove ownership, so that each call binds anew.

        That is so for a parameter that is written and has views, and for the copy of an array that is not contiguous.
        """
        assert self._held is not None
        state = self._state
        return any(memory.views_of(memory.base_of(state.parts[position])) for position in state.tensors_updated) or any(
            array is not state.array(part) for part, array in zip(state.parts, self._held[1:], strict=False)
        )

    def _apart(self, x: Any) -> Any:
        """Return a contiguous argument, copied if the step writes to its memory."""
        assert self._held is not None
        array = c_contiguous(x.array if isinstance(x, Tensor) else x)
        written = [self._held[1 + position] for position in self._state.updated]
        return array.copy() if any(np.may_share_memory(array, other) for other in written) else array

    def _rebind(self, place: Any, array: Any) -> None:
        """Bind the new array of an attribute, if the step reads it at the next call."""
        held = self._held
        positions = [1 + i for i, part in enumerate(self._state.parts) if part is place]
        if held is None or not positions:
            return
        first = positions[0]
        fits = (array.shape, array.dtype, device_of(array)) == self._state.signatures[first - 1]
        self._held = (*held[:first], array, *held[first + 1 :]) if fits else None

    # The function of ordinary calls

    def quick_source(self, condition: str) -> str:
        """Return the source of the function for ordinary calls, given the expression of the guards."""
        required = self._state.required
        names = [f"x{i}" for i in range(len(self._state.given))]
        lines = [f"def quick({''.join(f'{name}=MISS, ' for name in names)}*others, **named):"]
        unlike = ["others or named"]
        for name, needed in zip(names, required, strict=True):
            unlike.append(f"type({name}) is not Tensor or {name}.node {'is' if needed else 'is not'} None")
        needing = [name for name, needed in zip(names, required, strict=True) if needed]
        unlike += [f"{one} is {other}" for one, other in itertools.combinations(needing, 2)]
        given = "".join(f"{name}, " for name in names)
        lines.append(f"    if {' or '.join(unlike)}: return missed({given}*others, **named)")
        body = ["        " + line for line in self._run_lines(names, condition)]
        lines += ["    acquire()", "    try:", *body, "    finally: release()", f"    return missed({given})"]
        return "\n".join(lines) + "\n"

    def _run_lines(self, names: list[str], condition: str) -> list[str]:
        """Return the statements that run the step, or fall through if it does not fit."""
        state = self._state
        tests = ["held is not None", f"({condition} or guards.hold())", *self._state_tests()]
        lines = ["held = me._held", f"try: fits = {' and '.join(tests)}"]
        lines.append("except (KeyError, ValueError, AttributeError): fits = False")  # a guarded object is gone
        arrays = [f"{name}.array" for name in names] + [f"drawn[{i}]" for i in range(len(state.draws))]
        arrays += [f"o{i}" for i in range(len(state.outputs))]
        numbers = [f"n{position}" for position in range(len(state.steps))]
        enough = [f"len({name}) == {step.count}" for name, step in zip(numbers, state.steps, strict=True)]
        run = [f"o{i} = empty({shape!r}, d{i})" for i, (shape, _) in enumerate(state.outputs)]
        run += ["drawn = state.draw()"] if state.draws else []
        single = [f"{name}[{i}]" for name, step in zip(numbers, state.steps, strict=True) for i in range(step.count)]
        run.append(f"status = compiled({', '.join(['held', *single, *arrays])})")
        run += ["if not status:", *["    " + line for line in self._end_lines(names)], "state.check(status)"]
        lines += ["if fits:", *[f"    {name} = s{i}()" for i, name in enumerate(numbers)]]
        return [*lines, f"    if {' and '.join(enough) or True}:", *["        " + line for line in run]]

    def _end_lines(self, names: list[str]) -> list[str]:
        """Return the statements after a successful run of the step."""
        state = self._state
        lines = ["state.drawn = None"] if state.draws else []
        more = [f"o{i}" for i in range(state.count, len(state.outputs))]
        if state.steps or more or state.has_effects:
            counting = more or state.has_effects or any("step" in step.optimizer.slots for step in state.steps)
            after = f"me.after(({''.join(name + ', ' for name in more)}), ({''.join(name + ', ' for name in names)}))"
            lines.append(after if counting else f"if watching: {after}")
        for i in range(state.count):
            lines += [f"t{i} = new(Tensor)", f"t{i}.array = o{i}", f"t{i}.node = t{i}.family = None"]
        tensors = itertools.count()
        leaves = [f"t{next(tensors)}" if isinstance(x, Traced) else f"r[{i}]" for i, x in enumerate(state.leaves)]
        leaves = [
            f"{name}.copy()" if isinstance(x, np.ndarray) else name
            for name, x in zip(leaves, state.leaves, strict=True)
        ]
        return [*lines, f"return {state.structure.written(iter(leaves), 'known')}"]

    def _state_tests(self) -> list[str]:
        return [
            f"k{position}() is held[{1 + position}]"
            for position, part in enumerate(self._state.parts)
            if not isinstance(part, Tensor)
        ]

    def quick(self, lock: threading.RLock, missed: Callable[..., Any]) -> Callable[..., Any]:
        """Return the function for ordinary calls; if the step does not fit, it calls `missed` without the lock."""
        state = self._state
        scope: dict[str, Any] = {"Tensor": Tensor, "MISS": MISS, "me": self, "empty": np.empty, "new": object.__new__}
        scope |= {"compiled": self.program.function, "watching": vars(watchers)["data"], "state": state}
        scope |= {"acquire": lock.acquire, "release": lock.release, "missed": missed}  # half the time of `with`
        scope |= {f"s{i}": step.reader() for i, step in enumerate(state.steps)}
        scope |= {f"d{i}": dtype for i, (_, dtype) in enumerate(state.outputs)}
        scope |= {f"k{i}": part.current_array for i, part in enumerate(state.parts) if not isinstance(part, Tensor)}
        scope |= {"__name__": __name__, "r": state.leaves, "known": state.structure.constants()}
        exec(self.quick_source(state.guards.condition(scope)), scope)
        made: Callable[..., Any] = scope["quick"]
        return made

    # Running

    def refreshed(self, leaves: Sequence[Any]) -> Any:
        """Bind all arrays again and run if the step still fits; else return `MISS`."""
        state = self._state
        if self._run is None or not state.fits():
            return MISS
        self._bind()
        inputs = [x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        if state.changes_arguments and repeats(inputs):
            return MISS
        if any(inputs[position] is not tensor for position, tensor in state.remembered.items()):
            return MISS
        arrays = [self._apart(x) for x in inputs]
        self._targets = inputs
        try:
            found = self._run(
                *[wrap(a, _ANY if needed else None) for a, needed in zip(arrays, state.required, strict=True)]
            )
        finally:
            self._targets = None
        if self._held is not None and self._is_shared():
            self._held = None
        return found

    def after(self, more: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Finish a call, and bind the new arrays of attributes."""
        state = self._state
        state.after(more, arguments if self._targets is None else self._targets)
        for place, array in zip(state.rebound, more[len(more) - len(state.rebound) :], strict=True):
            self._rebind(place, array)
