"""A call of a function on stand-ins: its program, guards, effects and results."""

import inspect
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet import autograd
from labnet.compile.ir.values import Value
from labnet.compile.pytree import flatten
from labnet.compile.trace.environment import Environment
from labnet.compile.trace.guards import Guards
from labnet.compile.trace.instructions import Instructions
from labnet.compile.trace.locations import Location, ReplacedAttribute
from labnet.compile.trace.rules import rule_of
from labnet.compile.trace.signature import is_dynamic, repeats
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced, has_traced, hides_traced, refuse
from labnet.compile.trace.writes import Writes, refuse_changes
from labnet.device import CPU, CUDA
from labnet.ops.core import dispatch
from labnet.ops.core.creation import random_state, restart_at
from labnet.tensor import Tensor


@dataclass(frozen=True)
class TracedCall:
    """The program, guards and effects of a call on stand-ins.

    Attributes
    ----------
    trace : Trace
    guards : Guards
        Conditions on the external values that the function read.
    effects : list of (Location, object)
        Values, apart from tensors, that it writes to external locations.
    result : object
    inputs : list of Traced
        The stand-ins for the arrays of the call.
    before : list of Value
        Their values at the start of the call.
    rebound : list of (ReplacedAttribute, Value)
        Attributes of modules that each call sets to a new tensor.
    required : dict of int to bool
        New ``requires_grad`` of the arguments for which the function sets it, by position.
    """

    trace: Trace
    guards: Guards
    effects: list[tuple[Location, Any]]
    result: Any
    inputs: list[Traced]
    before: list[Value]
    rebound: list[tuple[ReplacedAttribute, Value]]
    required: dict[int, bool]

    @property
    def device(self) -> str:
        """The GPU if an argument or a tensor that the function reads is there, else the CPU."""
        trace = self.trace
        is_on_gpu = trace.device != CPU or any(isinstance(x, Tensor) and x.device != CPU for x in trace.held)
        return CUDA if is_on_gpu else CPU

    @property
    def written(self) -> dict[int, Value]:
        """New values of the arguments that the function writes into, by position."""
        pairs = enumerate(zip(self.inputs, self.before, strict=True))
        return {position: traced.value for position, (traced, value) in pairs if traced.value is not value}


def trace_call(function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> TracedCall:
    """Trace a call of a function on stand-ins for these arguments.

    Changes of external objects become effects of each call if a second run makes no further change, as with a cache
    that is filled once, or a setting. Other changes would differ between calls, so they are refused.
    """
    before = random_state()
    try:
        first = _trace_once(function, args, named)
        changes = first.trace.writes.changed()
        if changes and not any(has_traced(value) for _, value, _ in changes):
            effects, changes = (
                [(place, value) for place, value, _ in changes],
                _changes_again(first, args, named, function),
            )
            first.effects.extend(effects)
        if changes:
            first.trace.writes.undo()
            refuse_changes(changes)
    except BaseException:
        restart_at(before)
        raise
    first.trace.writes.undo()
    return first


def _changes_again(
    first: TracedCall, args: Sequence[Any], named: dict[str, Any], function: Callable[..., Any]
) -> list[tuple[Location, Any, str]]:
    """Return the changes of a second run, and undo them."""
    state = random_state()
    again = _trace_once(function, args, named, undo=first.trace.writes.undo)
    restart_at(state)
    changes = again.trace.writes.changed()
    again.trace.writes.undo()
    return changes


def _trace_once(
    function: Callable[..., Any],
    args: Sequence[Any],
    named: dict[str, Any],
    undo: Callable[[], None] = lambda: None,
) -> TracedCall:
    leaves, structure = flatten((tuple(args), named))
    devices = {leaf.device for leaf in leaves if isinstance(leaf, Tensor)}
    device = devices.pop() if len(devices) == 1 else CPU
    environment = Environment()
    writes = Writes(environment)
    trace = Trace(rule_of, arguments=sum(map(is_dynamic, leaves)), device=device, writes=writes)
    inputs: list[Traced] = []
    known: dict[int, Traced] = {}
    for leaf in filter(is_dynamic, leaves):
        traced = known.get(id(leaf))
        if traced is None:
            traced = trace.argument(len(inputs), leaf if isinstance(leaf, np.ndarray) else leaf.array)
            trace.given |= {id(traced): leaf} if isinstance(leaf, Tensor) else {}
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                traced.node = autograd.Leaf(traced)
                known[id(leaf)] = traced  # a leaf that is given twice is one
        inputs.append(traced)
    before, required = [traced.value for traced in inputs], [traced.requires_grad for traced in inputs]
    following = iter(inputs)
    traced_args, traced_named = structure.build(next(following) if is_dynamic(leaf) else leaf for leaf in leaves)
    environment.begin(function, [leaf for leaf in leaves if not is_dynamic(leaf)])
    environment.record_arguments((traced_args, traced_named))
    try:
        with dispatch.traced_by(trace), Instructions(environment, writes):
            result = function(*traced_args, **traced_named)
        with dispatch.traced_by(trace):
            if trace.refusal is not None:
                raise trace.refusal
            if environment.has_changed_arguments():
                refuse("a change of a container among the arguments, seen as a copy: return the new container")
            if isinstance(result, autograd.Gradients):
                refuse("returning what backward returns: hand it to an optimizer, or return ln.grad(y, x)")
            if inspect.isawaitable(result):
                refuse("an async function: compile the computation between its awaits")
            trace.watch()
            found, structure = flatten(result)
            for leaf in found:
                if hides_traced(leaf):
                    refuse(
                        f"returning a {type(leaf).__name__} that holds tensors: return a tuple, list or dict of them"
                    )
            result = structure.build(map(trace.result, found))
            rebound = trace.rebind()
            is_written = any(traced.value is not value for traced, value in zip(inputs, before, strict=True))
            pairs = enumerate(zip(inputs, required, strict=True))
            changed = {at: not needed for at, (x, needed) in pairs if x.is_leaf and x.requires_grad is not needed}
            if (is_written or changed) and repeats([leaf for leaf in leaves if is_dynamic(leaf)]):
                refuse("a write into an argument that is given twice: give a copy")
    except BaseException:
        writes.undo()
        undo()
        raise
    return TracedCall(trace, environment.guards(), writes.effects(), result, inputs, before, rebound, changed)
