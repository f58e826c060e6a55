"""One compiled version of a function, with everything that it holds on to."""

import functools
import itertools
import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from labnet import autograd, memory
from labnet.compile import cache
from labnet.compile.convention import FIRST_CHECK
from labnet.compile.emit import emit
from labnet.compile.executable import in_rows, write_back
from labnet.compile.explain import explain, flops
from labnet.compile.fuse import fuse
from labnet.compile.layout import slots, word
from labnet.compile.places import Plain, alike
from labnet.compile.plan import computed_in_place, plan
from labnet.compile.simplify import simplify
from labnet.compile.traced import Traced
from labnet.compile.tree import flatten
from labnet.device import CPU
from labnet.kernels.device_dispatch import device_of
from labnet.optim.optimizer import announce, watchers
from labnet.tensor import Tensor, wrap

if TYPE_CHECKING:
    from labnet.compile.jitted import TracedCall

#: What a run returns if it does not fit the call; nothing has been written then.
MISS: Any = object()
#: Stands for whatever an argument that requires gradients has.
_ANY = autograd.Node()


def repeats(found: Sequence[Any]) -> bool:
    """Return whether an object occurs twice."""
    return len(set(map(id, found))) < len(found)


class Specialisation:
    """A compiled version, made of what a trace wrote down.

    Parameters
    ----------
    call : TracedCall
    pinned : (sequence, dict)
        The arguments of the traced call; those that are no tensors are told apart by identity, so they are kept.

    Attributes
    ----------
    device : str
        Where its random numbers are drawn.
    """

    device = CPU

    def __init__(self, call: "TracedCall", *, pinned: tuple[Any, Any]):
        trace = call.trace
        self._guards, self._effects = call.guards, call.effects
        self._pinned = [x for x in flatten(pinned)[0] if not isinstance(x, Tensor | np.ndarray)]
        dynamic = [x for x in flatten(pinned)[0] if isinstance(x, Tensor | np.ndarray)]
        self._required = [isinstance(x, Tensor) and x.requires_grad for x in dynamic]
        self._leaves, self._structure = flatten(call.result)
        self._written = call.written
        #: Arguments that an optimizer remembers, by position.
        self._remembered = {
            position: dynamic[position] for position, traced in enumerate(call.inputs) if id(traced) in trace.pinned
        }
        #: Whether calls are plain: all arguments are tensors by position, each once, and none is written.
        self.takes_tensors_only = (
            not pinned[1]
            and all(type(x) is Tensor for x in pinned[0])
            and not self._written
            and not repeats([x for x, needed in zip(dynamic, self._required, strict=True) if needed])
        )
        arguments = {id(traced): position for position, traced in enumerate(call.inputs)}
        self._gradients = [
            (arguments.get(id(owner), owner), gradient)
            for owner, gradient in trace.leaves.values()
            if id(owner) in arguments or not (isinstance(owner, Traced) or trace.has_made(owner))
        ]
        outputs = [leaf.value for leaf in self._leaves if isinstance(leaf, Traced)]
        self._count = len(outputs)
        self._rebound = [place for place, _ in call.rebound]
        outputs += [gradient.value for _, gradient in self._gradients]
        outputs += [*self._written.values(), *(new for _, new in call.rebound)]
        self._described = [(value.shape, value.dtype) for value in outputs]
        self._given = [(value.shape, value.dtype) for value in call.before]
        self._arguments, self._steps, self._draws = len(call.inputs), trace.steps, trace.draws
        self.drawn: list[Any] | None = trace.drawn or None
        self._parts = trace.held
        self._updated = {source.attributes["position"] for source, _ in trace.stored()}
        self._tensors_updated = [i for i in self._updated if isinstance(trace.held[i], Tensor)]
        stepped = {id(parameter) for step in trace.steps for parameter in step.parameters}
        self._stepped = {i for i in self._tensors_updated if id(trace.held[i]) in stepped}
        self._nodes = [part._node if isinstance(part, Tensor) else None for part in trace.held]
        self._constants = trace.constants
        self.program = simplify(trace.program(outputs))
        self._signatures = [(part.shape, part.dtype, device_of(part)) for part in map(self._array, trace.held)]
        #: Whether somebody was told that compiling it came to nothing.
        self.has_failed = False
        #: The arguments of a call that is not plain.
        self._targets: Sequence[Any] | None = None
        self._generate()

    def _generate(self) -> None:
        """Write the source, and reserve memory."""
        self.groups = fuse(self.program, computed_in_place(self.program))
        self.plan = plan(self.program, self.groups)
        self.source = emit(
            self.program,
            self.groups,
            self.plan,
            arguments=self._arguments + len(self._draws),
            given=self._given,
            held=len(self._parts),
            constants=len(self._constants),
            numbers=sum(step.count for step in self._steps),
        )
        arena = np.empty(self.plan.nbytes + 64, np.uint8)
        self._arena = arena[-arena.ctypes.data % 64 :]
        self._held: tuple[Any, ...] | None = None
        #: Runs it, or returns `MISS`; None before it is compiled.
        self._run: Callable[..., Any] | None = None

    def compile(self) -> None:
        """Make machine code of it, or take it from the disk; from any thread."""
        self._compiled = cache.load(self.source)
        self._run = self.quick(threading.RLock(), lambda *_, **__: MISS)

    @property
    def is_known(self) -> bool:
        """Whether `compile` takes no time to speak of."""
        return cache.is_known(self.source)

    @functools.cached_property
    def work(self) -> tuple[int, int]:
        """Bytes of what a call is given and gives, and its floating-point operations."""
        values = self.program.values()
        given = sum(value.nbytes for value in values if value.kind == "source")
        computed = sum(flops(value) for value in values if value.kind not in ("source", "splat", "view"))
        return given + sum(store.value.nbytes for store in self.program.stores), computed

    # What is held

    def _array(self, part: Any) -> Any:
        return part._array if isinstance(part, Tensor) else part.array()

    def fits(self) -> bool:
        """Return whether everything is as it was traced for: guards, shapes, dtypes and leaves of what is held."""
        if not self._guards.hold():
            return False
        for part, node, described in zip(self._parts, self._nodes, self._signatures, strict=True):
            array = self._array(part)
            if array is None or (array.shape, array.dtype, device_of(array)) != described:
                return False
            if isinstance(part, Tensor) and part._node is not node:
                return False
        return all(step.fits() for step in self._steps)

    def _take_hold(self) -> None:
        """Take hold of all arrays again; those that are written get memory that nobody else looks at."""
        self._held = None
        for position in self._tensors_updated:
            part = self._parts[position]
            memory.prepare_write(part)
            if part._array.base is not None and not memory.views_of(memory.base_of(part)):
                part._array = part._array.copy()  # those who look at the same memory are not counted in this array
            if position in self._stepped:
                part._node.grad = None
            if in_rows(part._array) is not part._array and part._family is not None:
                memory.unlink(part)
        table = np.zeros((max(1, 4 * len(self._parts)), 2), np.int64)
        self._held = (table, *self._rows(), *self._constants, self._arena)
        rows = [row for position, part in enumerate(self._parts) for row in self._words(position, part)]
        rows = rows or [(id(MISS) + 8, word(id(MISS) + 8))]
        table[:] = (rows * len(table))[: len(table)]

    def _rows(self) -> list[Any]:
        """Return all arrays in rows; those of tensors without views stay with their tensors so."""
        arrays = [in_rows(self._array(part)) for part in self._parts]
        for part, array in zip(self._parts, arrays, strict=True):
            if isinstance(part, Tensor) and part._family is None:
                part._array = array
        return arrays

    def _words(self, position: int, part: Any) -> list[tuple[int, int]]:
        """Return (address, word expected there) for one held array: who has it, and how many do."""
        if not isinstance(part, Tensor):
            return []
        to_array, to_node, to_gradient = slots()
        address, node = word(id(part) + to_array), word(id(part) + to_node)
        rows = [(id(part) + to_array, address), (id(part) + to_node, node)]
        if position in self._updated:
            rows.append((address, word(address)))
        if position in self._stepped:
            rows.append((node + to_gradient, id(None)))
        return rows

    def _shared(self) -> bool:
        """Tell whether somebody looks at what is held in a way that the words do not tell, so that each call asks anew.

        That is so for a parameter that is written and has views, and for the copy of what does not lie in rows.
        """
        assert self._held is not None
        return any(memory.views_of(memory.base_of(self._parts[position])) for position in self._tensors_updated) or any(
            array is not self._array(part) for part, array in zip(self._parts, self._held[1:], strict=False)
        )

    def _apart(self, x: Any) -> Any:
        """Return an argument in rows, in memory that the step does not write: it is read as it was at the beginning."""
        assert self._held is not None
        array = in_rows(x._array if isinstance(x, Tensor) else x)
        written = [self._held[1 + position] for position in self._updated]
        return array.copy() if any(np.may_share_memory(array, other) for other in written) else array

    # Running

    def quick_source(self, condition: str) -> str:
        """Return the source of what an ordinary call runs, given that of the guards: every call pays for it."""
        names = [f"x{i}" for i in range(self._arguments)]
        lines = [f"def quick({''.join(f'{name}=MISS, ' for name in names)}*others, **named):"]
        unlike = ["others or named"]
        for name, required in zip(names, self._required, strict=True):
            unlike.append(f"type({name}) is not Tensor or {name}._node {'is' if required else 'is not'} None")
        needing = [name for name, required in zip(names, self._required, strict=True) if required]
        unlike += [f"{one} is {other}" for one, other in itertools.combinations(needing, 2)]
        given = "".join(f"{name}, " for name in names)
        lines.append(f"    if {' or '.join(unlike)}: return missed({given}*others, **named)")
        body = ["        " + line for line in self._run_lines(names, condition)]
        lines += ["    acquire()", "    try:", *body, "    finally: release()", f"    return missed({given})"]
        return "\n".join(lines) + "\n"

    def _run_lines(self, names: list[str], condition: str) -> list[str]:
        """Return the statements that run the step, or go on where it does not fit."""
        tests = ["held is not None", f"({condition} or guards.hold())", *self._state_tests()]
        lines = ["held = me._held", f"try: fits = {' and '.join(tests)}"]
        lines.append("except (KeyError, ValueError, AttributeError): fits = False")  # what is looked at is gone
        arrays = [f"{name}._array" for name in names] + [f"drawn[{i}]" for i in range(len(self._draws))]
        arrays += [f"o{i}" for i in range(len(self._described))]
        numbers = [f"n{position}" for position in range(len(self._steps))]
        enough = [f"len({name}) == {step.count}" for name, step in zip(numbers, self._steps, strict=True)]
        run = [f"o{i} = empty({shape!r}, d{i})" for i, (shape, _) in enumerate(self._described)]
        run += ["drawn = me.draw()"] if self._draws else []
        single = [f"{name}[{i}]" for name, step in zip(numbers, self._steps, strict=True) for i in range(step.count)]
        run.append(f"status = compiled({', '.join(['held', *single, *arrays])})")
        run += ["if not status:", *["    " + line for line in self._end_lines(names)], "me.failed(status)"]
        lines += ["if fits:", *[f"    {name} = s{i}()" for i, name in enumerate(numbers)]]
        return [*lines, f"    if {' and '.join(enough) or True}:", *["        " + line for line in run]]

    def _end_lines(self, names: list[str]) -> list[str]:
        """Return the statements that follow where a step has been taken."""
        lines = ["me.drawn = None"] if self._draws else []
        more = [f"o{i}" for i in range(self._count, len(self._described))]
        if self._steps or more or self._effects:
            counting = more or self._effects or any("step" in step.optimizer.slots for step in self._steps)
            after = f"me.after(({''.join(name + ', ' for name in more)}), ({''.join(name + ', ' for name in names)}))"
            lines.append(after if counting else f"if watching: {after}")
        for i in range(self._count):
            lines += [f"t{i} = new(Tensor)", f"t{i}._array = o{i}", f"t{i}._node = t{i}._family = None"]
        tensors = itertools.count()
        leaves = [f"t{next(tensors)}" if isinstance(x, Traced) else f"r[{i}]" for i, x in enumerate(self._leaves)]
        leaves = [
            f"{name}.copy()" if isinstance(x, np.ndarray) else name
            for name, x in zip(leaves, self._leaves, strict=True)
        ]
        return [*lines, f"return {self._structure.written(iter(leaves), 'known')}"]

    def _state_tests(self) -> list[str]:
        return [
            f"k{position}() is held[{1 + position}]"
            for position, part in enumerate(self._parts)
            if not isinstance(part, Tensor)
        ]

    def quick(self, lock: threading.RLock, missed: Callable[..., Any]) -> Callable[..., Any]:
        """Return what ordinary calls run: it calls `missed` where this version does not fit, without the lock."""
        scope: dict[str, Any] = {"Tensor": Tensor, "MISS": MISS, "me": self, "empty": np.empty, "new": object.__new__}
        scope |= {"compiled": self._compiled, "watching": vars(watchers)["data"]}
        scope |= {"acquire": lock.acquire, "release": lock.release, "missed": missed}  # half the time of `with`
        scope |= {f"s{i}": step.reader() for i, step in enumerate(self._steps)}
        scope |= {f"d{i}": dtype for i, (_, dtype) in enumerate(self._described)}
        scope |= {f"k{i}": part.array for i, part in enumerate(self._parts) if not isinstance(part, Tensor)}
        scope |= {"__name__": __name__, "r": self._leaves, "known": self._structure.constants()}
        exec(self.quick_source(self._guards.condition(scope)), scope)
        made: Callable[..., Any] = scope["quick"]
        return made

    def refreshed(self, leaves: Sequence[Any]) -> Any:
        """Take hold of everything anew where it still fits, and run; `MISS` where it does not."""
        if self._run is None or not self.fits():
            return MISS
        self._take_hold()
        inputs = [x for x in leaves if isinstance(x, Tensor | np.ndarray)]
        if self._written and repeats(inputs):
            return MISS
        if any(inputs[position] is not tensor for position, tensor in self._remembered.items()):
            return MISS
        arrays = [self._apart(x) for x in inputs]
        self._targets = inputs
        try:
            found = self._run(
                *[wrap(a, _ANY if needed else None) for a, needed in zip(arrays, self._required, strict=True)]
            )
        finally:
            self._targets = None
        if self._held is not None and self._shared():
            self._held = None
        return found

    def draw(self) -> list[Any]:
        """Return the random numbers of a call: those of the last one, if it came to nothing."""
        if self.drawn is None:
            self.drawn = [draw(self.device) for draw in self._draws]
        return self.drawn

    def failed(self, status: int) -> None:
        """Raise where a check of the elements failed; elsewhere it was something else that did not fit."""
        if status >= FIRST_CHECK:
            raise self.program.checks[status - FIRST_CHECK].failure()

    def after(self, more: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Do what belongs to a call besides numbers: collect gradients, write what is not held, count steps."""
        arguments = arguments if self._targets is None else self._targets
        for (owner, _), gradient in zip(self._gradients, more, strict=False):
            leaf: Any = (arguments[owner] if isinstance(owner, int) else owner)._node
            leaf.grad = wrap(gradient) if leaf.grad is None else leaf.grad + wrap(gradient)
        rest = more[len(self._gradients) :]
        for position, array in zip(self._written, rest, strict=False):
            write_back(arguments[position], array)
            if position in self._remembered:
                arguments[position]._node.grad = None
        for plain, array in zip(self._rebound, rest[len(self._written) :], strict=True):
            self._rebind(plain, array)
        for place, value in self._effects:
            if not alike(place.now(), value):
                place.put(value)
        for step in self._steps:
            step.advance()
            announce(step.parameters)

    def _rebind(self, place: Plain, array: Any) -> None:
        """Give an attribute a new tensor, and hold on to its elements if they are read at the next call."""
        place.rebind(array)
        held, places = self._held, [1 + i for i, part in enumerate(self._parts) if part is place]
        if held is None or not places:
            return
        fits = (array.shape, array.dtype, device_of(array)) == self._signatures[places[0] - 1]
        self._held = (*held[: places[0]], array, *held[places[0] + 1 :]) if fits else None

    def explain(self) -> str:
        """Return groups, memory, work and constants as text."""
        return explain(self.program, self.groups, self.plan, self._constants, self._guards)
