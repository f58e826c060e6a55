"""Tracing: the user's function runs once on stand-ins, which write down what happens to them.

A stand-in is a tensor without elements. Ops hand it to the tracer of their thread, which applies the compile rule
of the op; gradients come from the same rules as in eager mode, run on stand-ins.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import autograd, memory
from labnet.compile.ir import Builder, Check, DType, Program, Store, Value
from labnet.compile.traced import WAYS_OUT, Traced, TracedNode, refuse
from labnet.compile.updates import States, Step
from labnet.device import CPU
from labnet.errors import DTypeError, ShapeError
from labnet.ops.dispatch import failure
from labnet.ops.registry import Op
from labnet.optim import Optimizer
from labnet.tensor import Tensor, on_host


class Trace:
    """Writes down one run of a function.

    Attributes
    ----------
    builder : Builder
    device : str
        Where the function computes.
    held : list
        What the compiled function reads besides its arguments: tensors, and `Held` states of optimizers.
    constants : list of array
        Arrays whose values are part of the compiled function.
    steps : list of Step
        What optimizers did; their numbers are read anew at each call.
    updates : dict
        {number of a held source: its new value}.
    draws : list of callable
        Each draws random numbers for one call, on the device that it is given; `drawn` are those of the first call.
    leaves : dict
        (leaf tensor, gradient), by the identity of the tensor, of what no optimizer took.
    """

    def __init__(self, rules: dict[str, Callable[..., "Traced"]], *, arguments: int = 0, device: str = CPU):
        self.device = device
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
        self._rules = rules
        self._sources: dict[int, Value] = {}
        self._kept: list[Any] = []

    # Stand-ins

    def stand_in(self, value: Value, node: autograd.Node | None = None) -> Traced:
        """Return a tensor that stands for a value."""
        traced: Traced = object.__new__(Traced)
        traced.tracer, traced.value = self, value
        traced._node, traced._family = node, None
        return traced

    def argument(self, position: int, array: np.ndarray[Any, Any], node: autograd.Node | None = None) -> Traced:
        """Return the stand-in for a tensor that the function is called with."""
        value = self.builder.make("source", shape=array.shape, dtype=array.dtype, origin="argument", position=position)
        return self.stand_in(value, node)

    def random(self, draw: Callable[[str], np.ndarray[Any, Any]]) -> Traced:
        """Return the stand-in for random numbers, which every call draws anew, in the order of the trace."""
        array = draw(self.device)
        self.draws.append(draw)
        self.drawn.append(array)
        return self.argument(self.arguments + len(self.draws) - 1, array)

    def number(self, position: int, dtype: DType) -> Traced:
        """Return the stand-in for a number of the call, converted to a dtype."""
        value = self.builder.make("source", shape=(), dtype=dtype, origin="number", position=position)
        return self.stand_in(value)

    def source(self, holder: Any, array: np.ndarray[Any, Any], key: int) -> tuple[Value, Value]:
        """Return the value that an array which somebody else holds has by now, and the one that it began with."""
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
        """Return the stand-in for an array whose values do not change."""
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
            if x._node is not None and not isinstance(x._node, autograd.Leaf):
                refuse("a tensor that was computed outside with a gradient: pass it as an argument, or detach() it")
            return self.stand_in(self.source(x, x._array, id(x))[0], x._node)
        if x is None or (isinstance(x, bool | int | float) and dtype is None):
            return x
        return self.constant(np.asarray(x, dtype) if isinstance(x, bool | int | float) else on_host(x))

    # Ops

    def apply(self, op: Op, inputs: Sequence[Any], static: dict[str, Any]) -> Traced:
        """Write an op down, and what its gradient needs."""
        rule = self._rules.get(op.name)
        if rule is None:
            refuse(f"{op.name}: it has no compile rule; call it outside of the compiled function")
        operands = [self.lift(x) for x in inputs]
        with autograd.no_grad():
            try:
                out = rule(self, op, operands, static)
            except (ShapeError, DTypeError, ValueError, TypeError, IndexError, ArithmeticError) as error:
                raise (_refusal_of(op, operands, static) or error) from None
        nodes = [x._node if isinstance(x, Traced) else None for x in operands]
        if op.differentiable and any(nodes) and autograd.is_recording() and out.dtype.kind == "f":
            result = self.stand_in(out.value)
            result._node = TracedNode(nodes, op, operands, result, static)  # rules may differentiate what came out
            return result
        return self.stand_in(out.value)

    # Gradients and updates

    def backward(self, root: Traced, grad: Any, *, retain_graph: bool) -> autograd.Gradients:
        """Carry the gradients of `root` back to the leaves, by the rules of the ops."""
        node, seed, run = root._root(grad)
        found = autograd.sweep_leaves(node, seed, run=run, retain_graph=retain_graph)
        if found is None:
            refuse("a backward that crosses the network: call the remote model outside of the compiled function")
        items = []
        for leaf, gradient in found.items():
            if isinstance(leaf, autograd.Leaf) and (owner := leaf.owner()) is not None:
                before = self.leaves.get(id(owner))
                self.leaves[id(owner)] = (owner, gradient if before is None else before[1] + gradient)
                items.append((owner, gradient))
        return autograd.Gradients(items)

    def update(self, optimizer: Any, found: list[tuple[Tensor, Any]]) -> None:
        """Write down a step of an optimizer."""
        if not type(optimizer)._has_formula:
            refuse(f"{type(optimizer).__name__}: it defines no _formula; call it outside of the compiled function")
        if any(isinstance(parameter, Traced) for parameter, _ in found):
            refuse("an update of an argument: let the function find its parameters in a module or a variable")
        by_step: dict[int, list[tuple[Tensor, Any]]] = {}
        for parameter, gradient in found:
            taken = optimizer._known(parameter).state.get("step", 0)
            by_step.setdefault(taken, []).append((parameter, gradient))
        for pairs in by_step.values():
            self._update(optimizer, pairs)

    def _update(self, optimizer: Optimizer, found: list[tuple[Tensor, Any]]) -> None:
        """Write down a step for parameters that have taken equally many."""
        start, count = sum(step.count for step in self.steps), len(optimizer._numbers(1))
        self.steps.append(Step(optimizer, [parameter for parameter, _ in found], count))
        for parameter, gradient in found:
            value = self.lift(parameter).detach()
            state = States(self, optimizer, parameter)
            numbers: list[Tensor] = [self.number(start + i, value.dtype) for i in range(count)]
            with autograd.no_grad():
                new = self.lift(optimizer._formula(value, self.lift(gradient), state, numbers))
            self._write(self._sources[id(parameter)], new.value)
            for slot, source in state.sources.items():
                self._write(source, self.lift(state[slot]).value)
            self.leaves.pop(id(parameter), None)

    def _write(self, source: Value, new: Value) -> None:
        if new.shape != source.shape or new.dtype != source.dtype:
            refuse(f"an update of shape {new.shape} and dtype {new.dtype} for {source.shape} and {source.dtype}")
        self.updates[source.number] = (source, new)

    def _refuse_views(self) -> None:
        """Refuse tensors from outside that share their memory with a parameter that is updated."""
        tensors = {source.attributes["position"] for source, _ in self.updates.values()}
        updated = [held for position, held in enumerate(self.held) if position in tensors and isinstance(held, Tensor)]
        bases = {id(memory.base_of(parameter)): parameter for parameter in updated}
        for held in self.held:
            if isinstance(held, Tensor) and bases.get(id(memory.base_of(held)), held) is not held:
                refuse(
                    "an update of a parameter together with a view of it from outside: make the view in the function"
                )

    def program(self, outputs: Sequence[Value]) -> Program:
        """Return what was written down, with these values as outputs."""
        self._refuse_views()
        stores = [Store(value, position) for position, value in enumerate(outputs)]
        return Program(stores + [Store(new, source) for source, new in self.updates.values()], self.checks)

    def witness(self, what: str, tensor: Tensor) -> Any:
        """Refuse what would happen once only, while the function is traced, instead of at each call."""
        if what != "detach":
            refuse(WAYS_OUT[what])
        return self.lift(tensor).detach()

    def check_within(self, x: Tensor, bound: int, message: str, error: type[Exception] = IndexError) -> None:
        """Have every call raise an error where an element is negative or not below a bound."""
        value = self.lift(x).value
        if value.kind in ("view", "splat"):
            value = self.copied(value)
        check = Check(value, bound, message, error)
        if check not in self.checks:
            self.checks.append(check)

    def copied(self, value: Value) -> Value:
        """Return the elements of a value in row-major order in memory of their own."""
        return self.builder.make("map", [value], shape=value.shape, dtype=value.dtype, name="copy", work=value.dtype)


def _refusal_of(op: Op, operands: Sequence[Any], static: dict[str, Any]) -> Exception | None:
    """Return the error of the eager op for operands of these shapes, if it has one: compiled functions say the same."""

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
