"""The state that a compiled version shares with eager code, whatever backend runs it.

Knows which tensors, optimizers and attributes a call reads and changes; does not know how the numbers are computed.
"""

import functools
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.compile.backends.arrays import write_back
from labnet.compile.ir.cost import flops
from labnet.compile.ir.simplification import simplify
from labnet.compile.native.abi import FIRST_CHECK
from labnet.compile.pytree import flatten
from labnet.compile.trace.locations import alike
from labnet.compile.trace.signature import repeats
from labnet.compile.trace.traced_call import TracedCall
from labnet.compile.trace.traced_tensor import Traced
from labnet.device import CPU
from labnet.kernels.device_dispatch import device_of
from labnet.optim.optimizer import announce
from labnet.tensor import Tensor, wrap

#: Returned by a step that does not fit the call; nothing has been written then.
MISS: Any = object()


class StepState:
    """Everything about a compiled version that does not depend on its backend.

    Parameters
    ----------
    call : TracedCall
    pinned : (sequence, dict)
        The arguments of the traced call. Those that are no tensors are compared by identity, so they are kept alive.
    device : str
        Where random numbers are drawn.

    Attributes
    ----------
    program : Program
        Simplified.
    parts : list
        Tensors, and states of optimizers, whose arrays the program reads besides its arguments.
    updated, written, rebound
        Positions of the parts, positions of the arguments, and attributes that a call leaves with new elements.
    stepped : set of int
        Positions of the parts that an optimizer updates.
    outputs : list of (shape, dtype)
        Results first, then gradients, then new elements of arguments and attributes.
    drawn : list of arrays or None
        Random numbers of a call that has not run yet.
    """

    def __init__(self, call: TracedCall, *, pinned: tuple[Any, Any], device: str = CPU):
        trace = call.trace
        self.device = device
        self.guards, self._effects = call.guards, call.effects
        self._pinned = [x for x in flatten(pinned)[0] if not isinstance(x, Tensor | np.ndarray)]
        dynamic = [x for x in flatten(pinned)[0] if isinstance(x, Tensor | np.ndarray)]
        self.required = [isinstance(x, Tensor) and x.requires_grad for x in dynamic]
        self.leaves, self.structure = flatten(call.result)
        self.written = call.written
        self._required = call.required
        #: Whether a call changes an argument.
        self.changes_arguments = bool(self.written or self._required)
        #: Arguments that an optimizer remembers, by position.
        self.remembered = {
            position: dynamic[position] for position, traced in enumerate(call.inputs) if id(traced) in trace.pinned
        }
        #: Whether all arguments are tensors by position, each passed once, and none is changed.
        self.takes_tensors_only = (
            not pinned[1]
            and all(type(x) is Tensor for x in pinned[0])
            and not self.changes_arguments
            and not repeats([x for x, needed in zip(dynamic, self.required, strict=True) if needed])
        )
        arguments = {id(traced): position for position, traced in enumerate(call.inputs)}
        self._gradients = [
            (arguments.get(id(owner), owner), gradient)
            for owner, gradient in trace.leaves.values()
            if id(owner) in arguments or not (isinstance(owner, Traced) or trace.has_made(owner))
        ]
        outputs = [leaf.value for leaf in self.leaves if isinstance(leaf, Traced)]
        #: Number of results; further outputs follow them.
        self.count = len(outputs)
        self.rebound = [place for place, _ in call.rebound]
        outputs += [gradient.value for _, gradient in self._gradients]
        outputs += [*self.written.values(), *(new for _, new in call.rebound)]
        self.outputs = [(value.shape, value.dtype) for value in outputs]
        self.given = [(value.shape, value.dtype) for value in call.before]
        self.steps, self.draws = trace.steps, trace.draws
        self.drawn: list[Any] | None = trace.drawn or None
        self.parts = trace.held
        self.updated = {source.attributes["position"] for source, _ in trace.stored()}
        self.tensors_updated = [i for i in self.updated if isinstance(trace.held[i], Tensor)]
        stepped = {id(parameter) for step in trace.steps for parameter in step.parameters}
        outside = [
            x for x in trace.cleared.values() if id(x) in arguments or not (isinstance(x, Traced) or trace.has_made(x))
        ]
        #: Leaves and positions of arguments whose gradients a call sets; an optimizer clears those that it updates.
        self._cleared = [arguments.get(id(x), x) for x in outside if id(x) not in stepped]
        self.stepped = {i for i in self.tensors_updated if id(trace.held[i]) in stepped}
        self._nodes = [part.node if isinstance(part, Tensor) else None for part in trace.held]
        self.constants = trace.constants
        self.program = simplify(trace.program(outputs))
        self.signatures = [(part.shape, part.dtype, device_of(part)) for part in map(self.array, trace.held)]

    @property
    def has_effects(self) -> bool:
        """Whether a call changes anything besides tensors."""
        return bool(self._effects or self._required or self._cleared)

    @functools.cached_property
    def work(self) -> tuple[int, int]:
        """Bytes that a call reads and writes outside of the step, and its floating-point operations."""
        values = self.program.values()
        given = sum(value.nbytes for value in values if value.kind == "source")
        computed = sum(flops(value) for value in values if value.kind not in ("source", "splat", "view"))
        return given + sum(store.value.nbytes for store in self.program.stores), computed

    @staticmethod
    def array(part: Any) -> Any:
        """Return the current array of a part."""
        return part.array if isinstance(part, Tensor) else part.current_array()

    def fits(self) -> bool:
        """Return whether guards, shapes, dtypes, devices and leaves are unchanged since the trace."""
        if not self.guards.hold():
            return False
        for part, node, described in zip(self.parts, self._nodes, self.signatures, strict=True):
            array = self.array(part)
            if array is None or (array.shape, array.dtype, device_of(array)) != described:
                return False
            if isinstance(part, Tensor) and part.node is not node:
                return False
        return all(step.fits() for step in self.steps)

    def draw(self) -> list[Any]:
        """Return the random numbers of a call: those of the last call, if it did not run."""
        if self.drawn is None:
            self.drawn = [draw(self.device) for draw in self.draws]
        return self.drawn

    def check(self, status: int) -> None:
        """Raise the error of a failed element check; other statuses mean that the step did not fit."""
        if status >= FIRST_CHECK:
            raise self.program.checks[status - FIRST_CHECK].failure()

    def after(self, more: Sequence[Any], arguments: Sequence[Any]) -> None:
        """Finish a call: mark leaves, accumulate gradients, write arguments and attributes, apply effects, count steps.

        Parameters
        ----------
        more : sequence of array
            The outputs that follow the results.
        arguments : sequence of Tensor or array
        """
        for position, needed in self._required.items():
            arguments[position].requires_grad = needed
        for cleared in self._cleared:
            (arguments[cleared] if isinstance(cleared, int) else cleared).grad = None
        for (owner, _), gradient in zip(self._gradients, more, strict=False):
            leaf: Any = (arguments[owner] if isinstance(owner, int) else owner).node
            leaf.grad = wrap(gradient) if leaf.grad is None else leaf.grad + wrap(gradient)
        rest = more[len(self._gradients) :]
        for position, array in zip(self.written, rest, strict=False):
            write_back(arguments[position], array)
            if position in self.remembered:
                arguments[position].node.grad = None
        for attribute, array in zip(self.rebound, rest[len(self.written) :], strict=True):
            attribute.rebind(array)
        for place, value in self._effects:
            if not alike(place.now(), value):
                place.put(value)
        for step in self.steps:
            step.advance()
            announce(step.parameters)
