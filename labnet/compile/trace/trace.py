"""Tracing: the user's function runs once on stand-ins, which record each op.

A stand-in is a tensor without elements. Ops hand it to the tracer of their thread, which applies the compile rule
of the op; gradients come from the same rules as in eager mode, run on stand-ins.
"""

import weakref
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import autograd, memory, ops
from labnet.compile.ir.values import Builder, Check, DType, Program, Store, Value, placed
from labnet.compile.native.frames import pause, pause_for
from labnet.compile.trace.environment import Environment
from labnet.compile.trace.locations import CallResult, ReplacedAttribute
from labnet.compile.trace.optimizer_steps import Blank, States, Step
from labnet.compile.trace.traced_tensor import WAYS_OUT, Traced, TracedNode, refuse
from labnet.compile.trace.writes import Writes
from labnet.device import CPU
from labnet.errors import DTypeError, ShapeError, TraceError
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.core.half_precision import HALF, wider
from labnet.optim import Optimizer
from labnet.tensor import Tensor, on_host


class Trace:
    """Records one run of a function.

    Attributes
    ----------
    builder : Builder
    device : str
        The device that the function computes on.
    held : list
        Tensors, and `Held` states of optimizers, that the compiled function reads besides its arguments.
    constants : list of array
        Arrays whose values are part of the compiled function.
    steps : list of Step
        Steps of optimizers; their numbers are read at each call.
    updates : dict
        {number of a held source: (the source, its new value)}.
    draws : list of callable
        Each draws the random numbers of one call on a device; `drawn` are those of the first call.
    leaves : dict
        {identity of a leaf tensor: (tensor, gradient)} of gradients that no optimizer consumed.
    cleared : dict
        {identity of a leaf tensor: the tensor} of those whose gradient the run has set, so that it has no earlier part.
    writes : Writes
        Values that the function writes outside of itself.
    environment : Environment
        Values outside of the function that it reads or writes.
    """

    def __init__(
        self,
        rule_of: Callable[[Op], Callable[..., "Traced"]],
        *,
        arguments: int = 0,
        device: str = CPU,
        writes: Writes | None = None,
    ):
        self.device = device
        #: The first refusal of the run.
        self.refusal: TraceError | None = None
        self.writes = Writes(Environment()) if writes is None else writes
        self.environment = self.writes.environment
        self.builder = Builder()
        self.held: list[Any] = []
        self.constants: list[np.ndarray[Any, Any]] = []
        self.steps: list[Step] = []
        self.updates: dict[int, tuple[Value, Value]] = {}
        self.checks: list[Check] = []
        self.arguments = arguments
        self.draws: list[Callable[[str], np.ndarray[Any, Any]]] = []
        self.drawn: list[np.ndarray[Any, Any]] = []
        self.leaves: dict[int, tuple[Tensor, Traced]] = {}
        self.cleared: dict[int, Tensor] = {}
        self._gradients: dict[int, Traced] = {}
        self._rule_of = rule_of
        self._sources: dict[int, Value] = {}
        self._kept: list[Any] = []
        self._views: dict[int, list[weakref.ref[Traced]]] = {}
        self._own: dict[int, Tensor] = {}
        #: Tensors of the call, by the identity of their stand-ins, and those that an optimizer remembers.
        self.given: dict[int, Tensor] = {}
        self.pinned: set[int] = set()
        self._taken: dict[tuple[int, int], int] = {}
        self._blank: dict[tuple[int, int], Blank] = {}
        self._histories: dict[int, autograd.Node | None] = {}

    # Stand-ins

    def stand_in(self, value: Value, node: autograd.Node | None = None) -> Traced:
        """Return a tensor that stands for a value."""
        traced: Traced = object.__new__(Traced)
        traced.tracer, traced.value = self, value
        traced.node, traced.family = node, None
        return traced

    def argument(self, position: int, array: np.ndarray[Any, Any], node: autograd.Node | None = None) -> Traced:
        """Return the stand-in for an argument."""
        value = self.builder.make("source", shape=array.shape, dtype=array.dtype, origin="argument", position=position)
        return self.stand_in(value, node)

    def random(self, draw: Callable[[str], np.ndarray[Any, Any]]) -> Traced:
        """Return the stand-in for random numbers, which each call draws in the order of the trace."""
        array = draw(self.device)
        self.draws.append(draw)
        self.drawn.append(array)
        return self.argument(self.arguments + len(self.draws) - 1, array)

    def number(self, position: int, dtype: DType) -> Traced:
        """Return the stand-in for a number of the call, converted to a dtype."""
        value = self.builder.make("source", shape=(), dtype=dtype, origin="number", position=position)
        return self.stand_in(value)

    def source(self, holder: Any, array: np.ndarray[Any, Any], key: int) -> tuple[Value, Value]:
        """Return the current value of an external array, and its value at the start of the run."""
        if key not in self._sources:
            position = len(self.held)
            self.held.append(holder)
            self._kept.append(array)
            self._sources[key] = self.builder.make(
                "source", shape=array.shape, dtype=array.dtype, origin="held", position=position
            )
        value = self._sources[key]
        return self.updates.get(value.number, (value, value))[1], value

    def constant(self, array: np.ndarray[Any, Any]) -> Traced:
        """Return the stand-in for a constant array."""
        if array.ndim == 0 or (array.size and max(map(abs, array.strides), default=0) == 0):
            return self.stand_in(self.builder.splat(array.flat[0], array.shape, array.dtype))
        same = [
            position
            for position, known in enumerate(self.constants)
            if known.dtype == array.dtype and known.shape == array.shape and known.tobytes() == array.tobytes()
        ]
        position = same[0] if same else len(self.constants)
        if not same:
            self.constants.append(np.array(array, order="C"))
        value = self.builder.make("source", shape=array.shape, dtype=array.dtype, origin="constant", position=position)
        return self.stand_in(value)

    def lift(self, x: Any, dtype: DType | None = None) -> Any:
        """Return a stand-in for an operand; numbers stay numbers unless a dtype is given for them."""
        if isinstance(x, Traced):
            if x.tracer is not self:
                refuse("a traced tensor of another run: return it from the function it was made in")
            return x
        if isinstance(x, Tensor):
            node = self._histories.get(id(x), x.node)
            if x.node is not None and not isinstance(x.node, autograd.Leaf):
                refuse("a tensor that was computed outside with a gradient: pass it as an argument, or detach() it")
            return self.stand_in(self.source(x, x.array, id(x))[0], node)
        if x is None or (isinstance(x, bool | int | float) and dtype is None):
            return x
        return self.constant(np.asarray(x, dtype) if isinstance(x, bool | int | float) else on_host(x))

    # Ops

    def apply(self, op: Op, inputs: Sequence[Any], static: dict[str, Any]) -> Traced:
        """Record an op, and the operands for its gradient."""
        rule = self._rule_of(op)
        operands = [self.lift(x) for x in inputs]
        with autograd.no_grad(), pause_for(op.forward) if op.is_custom and op.scalar is None else pause():
            try:
                out = self._computed(rule, op, operands, static)
            except (ShapeError, DTypeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
                raise ((None if op.is_custom else _refusal_of(op, operands, static)) or error) from None
        result = self.stand_in(out.value)
        nodes = [x.node if isinstance(x, Traced) else None for x in operands]
        if op.differentiable and any(nodes) and out.dtype.kind == "f" and self._is_recording():
            seen = [self._kept_as_it_is(x) for x in operands]
            kept = self.stand_in(out.value)
            result.node = kept.node = TracedNode(nodes, op, seen, kept, static)
        if (
            _shares(op, static)
            and isinstance(inputs[0], Tensor)
            and placed(out.value)[0] is placed(operands[0].value)[0]
        ):
            result.family = (inputs[0], op, static)
            self._views.setdefault(id(inputs[0]), []).append(weakref.ref(result))
        return result

    def _computed(self, rule: Callable[..., Traced], op: Op, operands: list[Any], static: dict[str, Any]) -> Traced:
        """Apply a compile rule, in float32 if an op needs that for float16."""
        kinds = {x.dtype for x in operands if isinstance(x, Traced)}
        if not op.wide or HALF not in kinds:
            return rule(self, op, operands, static)
        out = rule(self, op, [self.lift(x) for x in wider(operands)], static)
        return out if len(kinds) > 1 or static.get("dtype") is not None else self.lift(ops.astype(out, HALF))

    def _kept_as_it_is(self, x: Any) -> Any:
        """Return a stand-in that later writes do not change, for gradients."""
        return self.stand_in(x.value, x.node) if isinstance(x, Traced) else x

    def _is_recording(self) -> bool:
        self.environment.needs_recording = True
        return autograd.is_recording()

    # Writing

    def original(self, x: Tensor) -> Tensor:
        """Return the argument that a stand-in represents; any other tensor itself."""
        return self.given.get(id(x), x)

    def base_of(self, x: Tensor) -> Tensor:
        """Return the base of a view; any other tensor itself."""
        while isinstance(x, Traced) and x.family is not None:
            x = x.family[0]
        return x

    def write(self, x: Tensor, key: Any, value: Any) -> None:
        """Record ``x[key] = value``; masks are evaluated at each call."""
        mask = key[0] if isinstance(key, tuple) and len(key) == 1 else key
        value = self.lift(value, x.dtype)
        if isinstance(mask, Tensor) and mask.dtype.kind == "b":
            new = self._masked(self.lift(x), self.lift(mask), value)
        else:
            new = ops.setitem(self.lift(x), value, key)
        self.replace(x, self.lift(ops.astype(new, x.dtype)))

    def _masked(self, x: Traced, mask: Traced, value: Traced) -> Tensor:
        """Return a tensor with one value, or one row, written where a mask is true."""
        if mask.shape != x.shape[: mask.ndim]:
            raise IndexError(f"setitem: a mask of shape {mask.shape} does not fit a tensor of shape {x.shape}")
        if value.ndim > x.ndim - mask.ndim:
            refuse("setitem with a mask and a row per element: their number is unknown while tracing; use ln.where")
        return ops.where(mask.reshape((*mask.shape, *(1 for _ in x.shape[mask.ndim :]))), value, x)

    def replace(self, x: Tensor, new: Traced) -> None:
        """Replace the elements of a tensor by others of its shape and dtype, and update its views and its base.

        With operations being recorded, the history of the new elements becomes that of the tensor.
        """
        recorded = self._is_recording()
        if isinstance(x, Traced) and x.family is not None:
            self._write_through(x, new)
            return
        if isinstance(x, Traced):
            x.value, x.node = new.value, new.node if recorded else x.node
        else:
            self._write(self.source(x, x.array, id(x))[1], new.value)
            if recorded and new.node is not None:
                self._histories[id(x)] = new.node
        self._refresh(x, recorded=recorded)

    def _write_through(self, view: Traced, new: Traced) -> None:
        """Write the elements of a view into its base."""
        base, op, static = view.family
        whole = self.lift(base)
        places = np.arange(whole.size).reshape(whole.shape)
        places = places if op.name == "astype" else op.forward(places, **static)
        flat = ops.setitem(ops.reshape(whole, (-1,)), new, np.asarray(places))
        self.replace(base, self.lift(ops.reshape(flat, whole.shape)))

    def _refresh(self, base: Tensor, *, recorded: bool) -> None:
        """Update all views of a tensor; views with a history keep their elements unless the write is recorded."""
        for reference in self._views.pop(id(base), []):
            view = reference()
            if view is None or view.family is None or view.family[0] is not base:
                continue
            if view.node is not None and not recorded:
                view.family = None
                continue
            _, op, static = view.family
            again = self.apply(op, (base,), static)
            view.value, view.node = again.value, again.node
            self._views.setdefault(id(base), []).append(reference)
            self._refresh(view, recorded=recorded)

    # Gradients and updates

    def backward(self, root: Traced, grad: Any, *, retain_graph: bool) -> autograd.Gradients:
        """Record the gradients of the leaves of `root`, by the rules of the ops."""
        node, seed, run = root.backward_start(grad)
        found = autograd.sweep_here(node, seed, run=run, retain_graph=retain_graph)
        if found is None:
            refuse("a backward that crosses the network: call the remote model outside of the compiled function")
        items = []
        for leaf, gradient in found.items():
            if isinstance(leaf, autograd.Leaf) and (owner := leaf.owner()) is not None:
                before = self.leaves.get(id(owner))
                self.leaves[id(owner)] = (owner, gradient if before is None else before[1] + gradient)
                items.append((owner, gradient))
        return autograd.Gradients(items, wrap=self._kept_as_it_is)

    def gradient(self, tensor: Tensor) -> "Tensor | None":
        """Return the gradient of a leaf that the run has added up; later writes into it change that of the leaf.

        Calls check that there is no earlier part, unless the run has cleared it.
        """
        key, node = id(tensor), tensor.node
        if node is None:
            return None
        if not isinstance(node, autograd.Leaf):
            refuse("reading .grad of a computed tensor: use ln.grad(y, x)")
        if key not in self.cleared and not self.has_made(tensor):
            if isinstance(tensor, Traced) or node.grad is not None:
                refuse(
                    "reading a gradient that has an earlier part: call zero_grad() before the backward, in the function"
                )
            self.environment.guard_value(CallResult(lambda: node.grad is None, "grad is None", True, node))
        found = self.leaves.get(key)
        if found is not None and self._gradients.get(key) is not found[1]:
            self._gradients[key] = self._kept_as_it_is(found[1])  # not that of another tensor, too
            self.leaves[key] = (tensor, self._gradients[key])
        return None if found is None else self._gradients[key]

    def set_gradient(self, tensor: Tensor, value: Any) -> None:
        """Record a write of a leaf's gradient."""
        self.cleared[id(tensor)] = tensor
        self.leaves.pop(id(tensor), None)
        if value is not None:
            self.leaves[id(tensor)] = (tensor, self.lift(value))

    def update(self, optimizer: Any, found: list[tuple[Tensor, Any]]) -> None:
        """Record a step of an optimizer."""
        if not type(optimizer).has_formula:
            refuse(f"{type(optimizer).__name__}: it defines no formula; call it outside of the compiled function")
        by_step: dict[tuple[bool, int, int], list[tuple[Tensor, Any]]] = {}
        for parameter, gradient in found:
            outside = self._outside(parameter)
            taken = 0 if outside is None else optimizer.known(outside).state.get("step", 0)
            before = self._taken.get((id(optimizer), id(parameter)), 0)
            self._taken[id(optimizer), id(parameter)] = before + 1
            by_step.setdefault((outside is None, taken, before), []).append((parameter, gradient))
        for (_, _, before), pairs in by_step.items():
            self._update(optimizer, pairs, before)

    def _outside(self, parameter: Tensor) -> Tensor | None:
        """Return the external tensor of a parameter; None for one that the run has created."""
        given = self.given.get(id(parameter), parameter)
        if isinstance(given, Traced) or self.has_made(given):
            return None
        if given is not parameter:
            self.pinned.add(id(parameter))  # what an optimizer remembers belongs to this very argument
        return given

    def _update(self, optimizer: Optimizer, found: list[tuple[Tensor, Any]], before: int) -> None:
        """Record a step for parameters with the same number of earlier steps, `before` of them in this run."""
        start, outside = sum(step.count for step in self.steps), [self._outside(parameter) for parameter, _ in found]
        parameters = [parameter for parameter in outside if parameter is not None]
        step = Step(optimizer, parameters, before, self.writes.settings_of(optimizer))
        self.steps.append(step)
        for (parameter, gradient), own in zip(found, outside, strict=True):
            value, slope = wider([self.lift(parameter).detach(), self.lift(gradient)])
            state = self._state(optimizer, parameter, own)
            numbers: list[Tensor] = [self.number(start + i, value.dtype) for i in range(step.count)]
            with autograd.no_grad(), pause_for(optimizer.formula):
                new = self.lift(ops.astype(optimizer.formula(value, slope, state, numbers), parameter.dtype))
                if new.shape != parameter.shape:
                    refuse(f"an update of shape {new.shape} for a parameter of shape {parameter.shape}")
                self.replace(parameter, new)
            if isinstance(state, States):
                for slot, source in state.sources.items():
                    self._write(source, self.lift(state[slot]).value)
            self.leaves.pop(id(parameter), None)

    def _state(self, optimizer: Optimizer, parameter: Tensor, own: Tensor | None) -> "States | Blank":
        """Return the states of an optimizer for a parameter; those of a created parameter end with the run."""
        if own is not None:
            return States(self, optimizer, own)
        key = (id(optimizer), id(parameter))
        return self._blank.setdefault(key, Blank(self, parameter))

    def _write(self, source: Value, new: Value) -> None:
        if new.shape != source.shape or new.dtype != source.dtype:
            refuse(f"an update of shape {new.shape} and dtype {new.dtype} for {source.shape} and {source.dtype}")
        self.updates[source.number] = (source, new)

    def stored(self) -> list[tuple[Value, Value]]:
        """Return the held sources that a call updates, with their new values."""
        found = []
        for source, new in self.updates.values():
            held = self.held[source.attributes["position"]]
            if isinstance(held, Tensor) and self.has_made(held):
                continue
            if isinstance(held, Tensor) and isinstance(self._histories.get(id(held)), TracedNode):
                refuse("a write of a tensor with a graph into a tensor from outside: write its detach()")
            found.append((source, new))
        return found

    def _refuse_views(self) -> None:
        """Refuse external tensors that share memory with an updated parameter."""
        tensors = {source.attributes["position"] for source, _ in self.stored()}
        updated = [held for position, held in enumerate(self.held) if position in tensors and isinstance(held, Tensor)]
        bases = {id(memory.base_of(parameter)): parameter for parameter in updated}
        for tensor in updated:
            if memory.base_of(tensor) is not tensor and not tensor.array.flags.c_contiguous:
                refuse("a write into a view from outside that is not C-contiguous: write into its base")
        for held in self.held:
            if isinstance(held, Tensor) and bases.get(id(memory.base_of(held)), held) is not held:
                refuse(
                    "an update of a parameter together with a view of it from outside: make the view in the function"
                )

    def result(self, found: Any) -> Any:
        """Return a result as each call returns it: created tensors are new at each call."""
        return self.lift(found) if isinstance(found, Tensor) and self.has_made(found) else found

    def has_made(self, tensor: Tensor) -> bool:
        """Return whether the run has created a tensor."""
        return id(tensor) in self._own

    def rebind(self) -> list[tuple[ReplacedAttribute, Value]]:
        """Return the attributes of modules that get a new tensor, and its elements; put back what was there.

        Where a tensor was there before, the elements of the one that is there at a call are read.
        """
        found = []
        rebound = [(place, self._first_value(new)) for place, new in self.writes.rebound()]
        for place, value in rebound:
            plain = ReplacedAttribute(place.owner, place.attribute, place.name, place.value)
            place.put(place.value)
            source = self._sources.get(id(place.value))
            is_alone = isinstance(place.value, Tensor) and not self.environment.has_other_names(place.value, place)
            plain.is_alone = is_alone
            self.writes.exclude(plain)
            if is_alone and plain.holds() and source is not None and source.number not in self.updates:
                self.held[source.attributes["position"]] = plain
            found.append((plain, value))
        return found

    def _first_value(self, new: Tensor) -> Value:
        """Return the value of a stand-in, or of a tensor at the start of a call."""
        return new.value if isinstance(new, Traced) else self.source(new, new.array, id(new))[1]

    def watch(self) -> None:
        """Hold tensors whose attributes were read, so that calls check their shapes."""
        for tensor in self.environment.tensors.values():
            known = isinstance(tensor.node, autograd.Leaf | None) and tensor.device == self.device
            if known and not self.has_made(tensor):
                self.source(tensor, tensor.array, id(tensor))

    def program(self, outputs: Sequence[Value], *, updates: bool = True) -> Program:
        """Return the recorded program with these outputs, and by default with its updates."""
        self._refuse_views()
        stores = [Store(value, position) for position, value in enumerate(outputs)]
        stores += [Store(new, source) for source, new in self.stored()] if updates else []
        return Program(stores, self.checks)

    def witness(self, what: str, tensor: Tensor, *given: Any) -> Any:
        """Record an operation that is not an op, or refuse one that would happen only while tracing."""
        if what == "made":
            self._own[id(tensor)] = tensor
            return None
        if what == "assign":
            value = self.lift(ops.astype(self.lift(given[0], tensor.dtype), tensor.dtype)).detach()
            with autograd.no_grad():
                self.replace(tensor, self.lift(value))
            return None
        if what == "grad":
            return self.gradient(tensor)
        if what == "grad is set":
            return self.set_gradient(tensor, given[0])
        if what == "backward":
            return self.backward(self.lift(tensor), given[0], retain_graph=given[1])
        if what != "detach":
            refuse(WAYS_OUT[what])
        return self.lift(tensor).detach()

    def check_within(self, x: Tensor, bound: int, message: str, error: type[Exception] = IndexError) -> None:
        """Add a check to each call, which raises an error if an element is negative or not below a bound."""
        value = self.lift(x).value
        if value.kind in ("view", "splat"):
            value = self.copied(value)
        check = Check(value, bound, message, error)
        if check not in self.checks:
            self.checks.append(check)

    def copied(self, value: Value) -> Value:
        """Copy a value to contiguous memory."""
        return self.builder.make("map", [value], shape=value.shape, dtype=value.dtype, name="copy", work=value.dtype)


def _shares(op: Op, static: dict[str, Any]) -> bool:
    """Return whether the result of an op shares memory with its input."""
    if op.name == "astype":
        return static.get("copy") is False
    return op.view and not static.get("copy")


def _refusal_of(op: Op, operands: Sequence[Any], static: dict[str, Any]) -> Exception | None:
    """Return the error that the eager op raises for operands of these shapes, if any."""

    def empty(x: Any) -> Any:
        return np.broadcast_to(np.zeros((), x.dtype), x.shape) if isinstance(x, Traced) else x

    arrays = tuple(empty(x) for x in operands)
    given = {key: empty(value) for key, value in static.items()}
    try:
        with np.errstate(all="ignore"):
            op.forward(list(arrays), **given) if op.variadic else op.forward(*arrays, **given)
    except (ValueError, TypeError, OverflowError) as error:
        return failure(op.name, arrays, given, error)
    return None
