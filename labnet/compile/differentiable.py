"""A function with separately compiled forward and backward, whose results have a history like those of eager code.

Servers use it: they compute a forward now and its backward later, when weights may have changed. Each call saves the
weights and intermediate values that its backward needs.
"""

import functools
import threading
import warnings
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from typing import Any

import numpy as np

from labnet import autograd
from labnet.compile.backends.arrays import Array, c_contiguous, write_back
from labnet.compile.backends.selection import executable_of
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.split import SEED, split
from labnet.compile.pytree import flatten
from labnet.compile.trace.locations import ReplacedAttribute, alike
from labnet.compile.trace.signature import is_dynamic, signature
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_call import trace_call
from labnet.compile.trace.traced_tensor import Traced, refuse
from labnet.compile.wait import wait_for
from labnet.device import CPU
from labnet.errors import GradientError
from labnet.kernels.device_dispatch import finished, moved
from labnet.kernels.machine_code.background import BACKGROUND
from labnet.ops.core import dispatch
from labnet.ops.core.creation import random_state, restart_at
from labnet.tensor import Tensor, wrap

#: Maximum number of compiled versions of one function; other calls run eagerly.
LIMIT = 16


class Seeds:
    """The gradients of some results of a call, by position."""

    __slots__ = ("arrays",)

    def __init__(self, arrays: dict[int, Any]):
        self.arrays = arrays

    def __add__(self, other: "Seeds") -> "Seeds":
        total = dict(self.arrays)
        for position, array in other.arrays.items():
            total[position] = total[position] + array if position in total else array
        return Seeds(total)


class Result(autograd.Node):
    """The node of one result of a call."""

    __slots__ = ("position",)

    def __init__(self, call: autograd.Node, position: int):
        super().__init__((call,))
        self.position = position

    def vjp(self, gradient: Any, run: autograd.Run) -> list[Any]:
        """Pass the gradient to the call."""
        return [Seeds({self.position: gradient})]


class CompiledCall(autograd.Node):
    """The node of a compiled forward, with the arrays that its backward needs."""

    __slots__ = ("_nbytes", "arrays", "version")

    def __init__(self, parents: Sequence[autograd.Node], version: "Version", arrays: list[Any], nbytes: int):
        super().__init__(parents)
        self.version: Version | None = version
        self.arrays = arrays
        self._nbytes = nbytes

    def vjp(self, gradient: Seeds, run: autograd.Run) -> list[Any]:
        """Run the compiled backward."""
        if run.create_graph:
            raise GradientError("backward: compiled code has no gradients of gradients; call the model uncompiled")
        assert self.version is not None, "check_kept() refuses freed nodes"
        return self.version.vjp(self.arrays, gradient.arrays)

    def release(self) -> None:
        """Release the saved values."""
        self.parents = self.version = None
        self.arrays = []

    @property
    def nbytes(self) -> int:
        """Bytes of results and saved values."""
        return self._nbytes if self.arrays else 0


def trace_gradients(trace: Trace, outputs: Sequence[Traced]) -> dict[autograd.Leaf, Traced]:
    """Trace the backward: return the gradient of each leaf, given those of the outputs."""
    found: dict[autograd.Leaf, Traced] = {}
    for position, output in enumerate(outputs):
        if output.node is None:
            continue
        value = trace.builder.make("source", shape=output.shape, dtype=output.dtype, origin=SEED, position=position)
        with dispatch.traced_by(trace), autograd.no_grad():
            swept = autograd.sweep_here(output.node, trace.stand_in(value), run=autograd.Run(), retain_graph=True)
            if swept is None:
                refuse("a model that calls another one over the network")
            for leaf, gradient in swept.items():
                if isinstance(leaf, autograd.Leaf):
                    found[leaf] = trace.lift(found[leaf] + gradient if leaf in found else gradient)
    return found


class Version:
    """A forward and its backward, compiled for one signature and one set of guards."""

    def __init__(self, function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]):
        call = trace_call(function, args, named)
        trace, self._guards = call.trace, call.guards
        if trace.steps or trace.leaves:
            refuse("a model that trains in its own forward")
        self._effects = call.effects
        self._leaves, self._structure = flatten(call.result)
        outputs = [leaf for leaf in self._leaves if isinstance(leaf, Traced)]
        self._recorded = [position for position, output in enumerate(outputs) if output.node is not None]
        gradients = trace_gradients(trace, outputs)
        self._owners = [_owner(leaf, call.inputs) for leaf in gradients]
        self._held: list[Tensor | ReplacedAttribute] = trace.held
        self._states = [_state(part) for part in self._held]
        self._draws, self.drawn = trace.draws, trace.drawn or None
        #: Arguments, by position, and held tensors that a call updates.
        written = [*call.written.items(), *((trace.held[s.attributes["position"]], new) for s, new in trace.stored())]
        written += call.rebound
        self._written = [target for target, _ in written]
        values = [*(output.value for output in outputs), *(new for _, new in written)]
        count = len(values)
        program = trace.program([*values, *(gradient.value for gradient in gradients.values())], updates=False)
        given = len(call.inputs) + len(trace.draws)
        halves = split(simplify(program), results=count, arguments=given, held=len(trace.held))
        self._given, self._results = given + len(trace.held), [(x.shape, x.dtype) for x in outputs]
        self._device = call.device
        tensors = [_tensor(part) for part in self._held]
        build = functools.partial(executable_of, device=call.device, held=tensors, constants=trace.constants)
        self.forward = build(halves.forward, arguments=self._given, name="compiled forward")
        kept = self._given + count + halves.saved
        self.backward = build(halves.backward, arguments=kept + len(outputs), name="compiled forward.backward")
        self._first_seed = kept
        self.is_ready = False

    def compile(self) -> None:
        """Compile both, or load their machine code from the cache. Thread-safe."""
        self.forward.compile()
        if self._recorded:
            self.backward.compile()
        self.is_ready = True

    @property
    def is_known(self) -> bool:
        """Whether `compile` returns at once."""
        return self.forward.is_known and (not self._recorded or self.backward.is_known)

    def fits(self) -> bool:
        """Return whether the guards hold and held tensors are unchanged since the trace."""
        if not self._guards.hold():
            return False
        now = map(_state, self._held)
        return all(a[0] is b[0] and a[1:] == b[1:] for a, b in zip(now, self._states, strict=True))

    def run(self, inputs: Sequence[Any]) -> Any:
        """Compute the results, with the history that a backward needs."""
        drawn, self.drawn = self.drawn or [draw(self._device) for draw in self._draws], None
        arrays = [x.array if isinstance(x, Tensor) else x for x in inputs]
        arguments = [*arrays, *drawn, *[_tensor(part).array for part in self._held]]
        arguments = [c_contiguous(array) if self._device == CPU else moved(array, self._device) for array in arguments]
        found = self.forward(arguments)
        results = found[: len(self._results)]
        nodes = self._nodes(inputs, [*arguments, *found], sum(array.nbytes for array in (*found, *drawn)))
        wrapped = iter([wrap(array, node) for array, node in zip(results, nodes, strict=True)])
        for target, array in zip(self._written, found[len(results) :], strict=False):
            if isinstance(target, ReplacedAttribute):
                target.rebind(array)
            else:
                write_back(inputs[target] if isinstance(target, int) else target, array)
        for place, value in self._effects:
            if not alike(place.now(), value):
                place.put(value)
        return self._structure.build(next(wrapped) if isinstance(x, Traced) else x for x in self._leaves)

    def _nodes(self, inputs: Sequence[Any], arrays: Sequence[Array], nbytes: int) -> list[autograd.Node | None]:
        """Return the node of each result; None for one without a history."""
        nodes: list[autograd.Node | None] = [None] * len(self._results)
        if self._recorded:
            read = self.backward.read
            kept = [array if position in read else None for position, array in enumerate(arrays)]
            owners = [inputs[owner] if isinstance(owner, int) else owner for owner in self._owners]
            call = CompiledCall([owner.node for owner in owners], self, kept, nbytes)
            for position in self._recorded:
                nodes[position] = Result(call, position)
        return nodes

    def vjp(self, kept: Sequence[Array | None], seeds: dict[int, Any]) -> list[Array]:
        """Compute the gradients of the leaves from those of some results."""
        gradients: list[Array | None] = []
        for position, (shape, dtype) in enumerate(self._results):
            needed = self._first_seed + position in self.backward.read
            seed = seeds.get(position)
            array = np.zeros(shape, dtype) if seed is None else finished(_array(seed), dtype)
            gradients.append(None if not needed else c_contiguous(array) if self._device == CPU else array)
        return self.backward([*kept, *gradients])


def _tensor(part: Any) -> Tensor:
    """Return the current tensor of a held part."""
    found: Tensor = part.now() if isinstance(part, ReplacedAttribute) else part
    return found


def _state(part: Any) -> tuple[Any, ...]:
    tensor = _tensor(part)
    return tensor.node, tensor.shape, tensor.dtype, tensor.device


def _array(gradient: Any) -> Any:
    return gradient.array if isinstance(gradient, Tensor) else gradient


def _owner(leaf: autograd.Leaf, inputs: Sequence[Traced]) -> Any:
    """Return the position of the input of a leaf, or else its tensor."""
    owner = leaf.owner()
    return next((position for position, given in enumerate(inputs) if given is owner), owner)


class Differentiable:
    """A function with compiled versions of its forward and its backward.

    Parameters
    ----------
    function : callable
        Takes and returns tensors, or tuples, lists and dicts of them.
    wait : bool
        With False it runs eagerly while a version is compiled in the background.

    Raises
    ------
    TraceError
        When it is called, if something in it cannot be compiled.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([2.0], requires_grad=True)
    >>> function = Differentiable(lambda x: x * weight)
    >>> out = function(ln.asarray([3.0]))
    >>> _ = weight.assign([100.0])
    >>> out.tolist(), out.backward(ln.ones(1))[weight].tolist()
    ([6.0], [3.0])
    """

    def __init__(self, function: Callable[..., Any], *, wait: bool = True):
        self._function = function
        self._wait = wait
        self._known: list[tuple[Any, Version]] = []
        self._pending: dict[Version, Future[None]] = {}
        self._lock = threading.Lock()
        functools.update_wrapper(self, function, updated=())

    def __call__(self, *args: Any, **named: Any) -> Any:
        """Run the compiled forward that fits, or else the function itself."""
        key = (signature(args, named), autograd.is_recording())
        with self._lock:
            version = self._find(key, args, named)
        if version is None:
            return self._function(*args, **named)
        return version.run([leaf for leaf in flatten((args, named))[0] if is_dynamic(leaf)])

    def _find(self, key: Any, args: Sequence[Any], named: dict[str, Any]) -> Version | None:
        """Return the version that fits, or make one; None while it is compiled."""
        for known, version in self._known:
            if known == key and version.fits():
                return version if version.is_ready or self._is_ready(version) else None
        if len(self._known) >= LIMIT:
            self._known = [pair for pair in self._known if pair[1].fits()]
            if len(self._known) >= LIMIT:
                return None
        before = random_state()
        version = Version(self._function, args, named)
        is_awaited = self._wait or version.is_known
        compiled = wait_for(version.compile, repr(self)) if is_awaited else BACKGROUND.submit(version.compile)
        self._known.append((key, version))
        self._pending[version] = compiled
        if self._is_ready(version):
            return version
        version.drawn = None
        restart_at(before)  # the eager run draws what the trace has drawn
        return None

    def _is_ready(self, version: Version) -> bool:
        """Return whether a version is compiled; warn once if that failed."""
        future = self._pending.get(version)
        if future is None or not future.done():
            return False
        error = self._pending.pop(version).exception()
        if error is not None:
            warnings.warn(f"{self!r} goes on eagerly, since it could not be compiled: {error}", stacklevel=4)
        return error is None

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for background compilation; return whether it finished within `timeout` seconds."""
        return not futures.wait(list(self._pending.values()), timeout).not_done

    @property
    def versions(self) -> int:
        """Number of compiled versions."""
        return len(self._known)

    def __repr__(self) -> str:
        return f"compiled({getattr(self._function, '__qualname__', self._function)!s})"
