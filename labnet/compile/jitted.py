"""`ln.jit`: which compiled step fits a call, and what happens where none does."""

import copy
import functools
import inspect
import sys
import threading
import types
import warnings
from collections.abc import Callable, Sequence
from concurrent import futures
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

import numpy as np

from labnet import autograd
from labnet.compile.background import BACKGROUND
from labnet.compile.guards import Guards
from labnet.compile.instructions import Instructions
from labnet.compile.ir import Value
from labnet.compile.origins import has_traced, hides_traced, is_library, module_of
from labnet.compile.places import SCALARS, Place, Plain
from labnet.compile.reads import Reads, refuse_changes
from labnet.compile.rules import RULES
from labnet.compile.specialisation import MISS, Specialisation, repeats
from labnet.compile.trace import Trace
from labnet.compile.traced import Traced, refuse
from labnet.compile.tree import flatten
from labnet.device import CPU
from labnet.kernels.device_dispatch import timed
from labnet.ops import dispatch
from labnet.ops.creation import random_state, restart_at
from labnet.stats.collecting import active, later, record, suspended
from labnet.stats.operations import OpCount
from labnet.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")
#: Compiled versions of one function that are kept.
LIMIT = 16
#: What statistics call a compiled version on a GPU.
STEP = "compiled step"


class Jitted(Generic[P, R]):
    """A function with its compiled versions; see `jit`.

    Attributes
    ----------
    source : str
        The generated code of the version that ran last.
    """

    #: A call goes straight to what fitted the last one, which is an attribute of each instance.
    __slots__ = ("__call__", "__dict__", "__weakref__")

    def __init__(self, function: Callable[P, R], *, wait: bool = True):
        self._function = function
        self._wait = wait
        self._known: list[tuple[Any, Specialisation]] = []
        self._last: Specialisation | None = None
        self._lock = threading.RLock()
        self._pending: dict[Specialisation, Future[None]] = {}
        functools.update_wrapper(self, function, updated=())
        self.__call__ = self._call  # type: ignore[method-assign]

    if TYPE_CHECKING:

        def __call__(self, *args: P.args, **named: P.kwargs) -> R:
            """Run the compiled version that fits, after tracing and compiling it if there is none."""

    def __copy__(self) -> "Jitted[P, R]":
        return Jitted(self._function, wait=self._wait)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Jitted[P, R]":
        copied = memo[id(self)] = Jitted(copy.deepcopy(self._function, memo), wait=self._wait)
        return copied

    def __reduce__(self) -> Any:
        """Be pickled by name, as functions are, where a module has it; else with its function, to be compiled anew."""
        found: Any = sys.modules.get(self._function.__module__)
        name: str = getattr(self._function, "__qualname__", "")
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return name
        return _jitted, (self._function, self._wait)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Be a method where it is an attribute of a class."""
        return self if instance is None else types.MethodType(self, instance)

    def _call(self, *args: Any, **named: Any) -> Any:
        """Run a version that may be another one than ran last; inside of another compiled function, be part of that."""
        if dispatch.Plain is None and dispatch.current_tracer() is not None:
            return self._function(*args, **named)
        with self._lock:
            return self._find([x for x in args if x is not MISS], named)

    def _find(self, args: Sequence[Any], named: dict[str, Any]) -> Any:
        """Look for a version that fits, or make one, and run it."""
        arguments = inspect.signature(self._function).bind(*args, **named) if named else None
        flat = tuple(args) if arguments is None else arguments.args
        left = {} if arguments is None else arguments.kwargs
        key, leaves = signature(flat, left), flatten((flat, left))[0]
        for known, specialisation in list(self._known):
            if known == key:
                if specialisation in self._pending and specialisation.fits() and not self._is_ready(specialisation):
                    return self._run_eagerly(args, named)
                found = _counted(specialisation, leaves)
                if found is not MISS:
                    self._use(specialisation)
                    return found
        before = random_state()
        specialisation = specialise(self._function, flat, left)
        self._known.append((key, specialisation))
        for _, dropped in self._known[:-LIMIT]:
            self._pending.pop(dropped, None)
        del self._known[:-LIMIT]
        if self._wait or specialisation.is_known:
            specialisation.compile()
        else:
            specialisation.drawn = None
            restart_at(before)  # the eager run draws what the trace has drawn
            self._pending[specialisation] = BACKGROUND.submit(specialisation.compile)
            return self._run_eagerly(args, named)
        self._use(specialisation)
        found = _counted(specialisation, leaves)
        if found is MISS:
            raise RuntimeError("jit: a version that was just compiled does not fit its own call")
        return found

    def _is_ready(self, specialisation: Specialisation) -> bool:
        """Tell whether a version that is compiled in the background is there; warn once if it never will be."""
        future = self._pending[specialisation]
        if not future.done():
            return False
        error = future.exception()
        if error is None:
            del self._pending[specialisation]
            return True
        if not specialisation.has_failed:
            specialisation.has_failed = True
            warnings.warn(f"{self!r} goes on eagerly, since it could not be compiled: {error}", stacklevel=4)
        return False

    def _run_eagerly(self, args: Sequence[Any], named: dict[str, Any]) -> Any:
        """Call the function itself; its results carry no history, like those of compiled code."""
        leaves, structure = flatten(self._function(*args, **named))
        return structure.build([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves])

    def _use(self, specialisation: Specialisation) -> None:
        self._last = specialisation
        quick = specialisation.takes_tensors_only
        self.__call__ = specialisation.quick(self._lock, self._call) if quick else self._call  # type: ignore[method-assign]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being compiled in the background; tell whether that is so after `timeout` seconds.

        Examples
        --------
        >>> import labnet as ln
        >>> double = jit(lambda x: x * 2, wait=False)
        >>> double(ln.ones(2)).tolist(), double.wait(), double(ln.ones(2)).tolist()
        ([2.0, 2.0], True, [2.0, 2.0])
        """
        with self._lock:
            pending = list(self._pending.values())
        return not futures.wait(pending, timeout).not_done

    @property
    def specialisations(self) -> int:
        """Number of compiled versions that are kept."""
        return len(self._known)

    @property
    def source(self) -> str:
        """The generated code of the version that ran last."""
        return self._latest().source

    def explain(self) -> str:
        """Return what the version that ran last consists of: groups, memory, work and constants."""
        return self._latest().explain()

    def _latest(self) -> Specialisation:
        if self._last is None:
            raise RuntimeError("jit: nothing is compiled yet: call the function first")
        return self._last

    def __repr__(self) -> str:
        return f"jit({getattr(self._function, '__qualname__', self._function)!s})"


def _jitted(function: Callable[P, R], wait: bool) -> Jitted[P, R]:
    return Jitted(function, wait=wait)


def _counted(specialisation: Specialisation, leaves: Sequence[Any]) -> Any:
    """Run a version where it fits. One on a GPU counts as one op: what it does besides replaying is part of it."""
    if not (specialisation.device != CPU and active()):
        return specialisation.refreshed(leaves)
    with timed(later(STEP)), suspended():
        found = specialisation.refreshed(leaves)
    if found is not MISS:
        record(STEP, OpCount(1, 0.0, *specialisation.work))
    return found


def is_dynamic(x: Any) -> bool:
    """Tell whether an argument is read anew at each call rather than part of the compiled code."""
    return isinstance(x, Tensor | np.ndarray)


def _described(leaf: Any) -> Any:
    """Return what has to be the same in two leaves for calls to share a compiled version."""
    if is_dynamic(leaf):
        is_tensor = isinstance(leaf, Tensor)
        return leaf.shape, leaf.dtype, is_tensor and leaf.requires_grad, leaf.device if is_tensor else CPU
    kind = type(leaf)
    if isinstance(leaf, float | complex | np.generic):
        return kind, repr(leaf)  # -0.0 is another number than 0.0, and NaN the same as NaN
    hashes: Any = kind.__hash__
    if isinstance(leaf, SCALARS) or (is_library(module_of(kind)) and hashes not in (None, object.__hash__)):
        return kind, leaf
    return kind, id(leaf)


def signature(args: Sequence[Any], named: dict[str, Any]) -> Any:
    """Return what two calls need to have in common to share a compiled version."""
    leaves, structure = flatten((tuple(args), named))
    trained = [id(leaf) for leaf in leaves if isinstance(leaf, Tensor) and leaf.requires_grad]
    repeated = tuple(map(trained.index, trained)) if len(set(trained)) < len(trained) else ()
    return structure, repeated, *map(_described, leaves)


@dataclass(frozen=True)
class TracedCall:
    """What a call of a function on stand-ins led to.

    Attributes
    ----------
    trace : Trace
    guards : Guards
        What the function has read outside of itself.
    effects : list of (Place, object)
        What it leaves in places outside, apart from tensors.
    result : object
    inputs : list of Traced
        The stand-ins for the arrays of the call.
    before : list of Value
        What these stood for before the function could write into them.
    rebound : list of (Plain, Value)
        Attributes of modules that each call leaves with a new tensor.
    """

    trace: Trace
    guards: Guards
    effects: list[tuple[Place, Any]]
    result: Any
    inputs: list[Traced]
    before: list[Value]
    rebound: list[tuple[Plain, Value]]

    @property
    def written(self) -> dict[int, Value]:
        """New elements of the arguments that the function has written into, by position."""
        pairs = enumerate(zip(self.inputs, self.before, strict=True))
        return {position: traced.value for position, (traced, value) in pairs if traced.value is not value}


def trace_call(function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> TracedCall:
    """Call a function on stand-ins for arguments like these.

    What it changes outside of itself is carried out by each call, if a second run changes nothing more, as with a
    cache that is filled once, or a setting. Else it would be another change at each call, which is refused.
    """
    before = random_state()
    try:
        first = _trace_once(function, args, named)
        changes = first.trace.reads.changed()
        if changes and not any(has_traced(value) for _, value, _ in changes):
            effects, changes = (
                [(place, value) for place, value, _ in changes],
                _changes_again(first, args, named, function),
            )
            first.effects.extend(effects)
        if changes:
            first.trace.reads.undo()
            refuse_changes(changes)
    except BaseException:
        restart_at(before)
        raise
    first.trace.reads.undo()
    return first


def _changes_again(
    first: TracedCall, args: Sequence[Any], named: dict[str, Any], function: Callable[..., Any]
) -> list[tuple[Place, Any, str]]:
    """Return what another run changes, and put it back."""
    state = random_state()
    again = _trace_once(function, args, named, undo=first.trace.reads.undo)
    restart_at(state)
    changes = again.trace.reads.changed()
    again.trace.reads.undo()
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
    reads = Reads()
    trace = Trace(RULES, arguments=sum(map(is_dynamic, leaves)), device=device, reads=reads)
    inputs: list[Traced] = []
    known: dict[int, Traced] = {}
    for leaf in filter(is_dynamic, leaves):
        traced = known.get(id(leaf))
        if traced is None:
            traced = trace.argument(len(inputs), leaf if isinstance(leaf, np.ndarray) else leaf._array)
            trace.given |= {id(traced): leaf} if isinstance(leaf, Tensor) else {}
            if isinstance(leaf, Tensor) and leaf.requires_grad:
                traced._node = autograd.Leaf(traced)
                known[id(leaf)] = traced  # a leaf that is given twice is one
        inputs.append(traced)
    before = [traced.value for traced in inputs]
    following = iter(inputs)
    traced_args, traced_named = structure.build(next(following) if is_dynamic(leaf) else leaf for leaf in leaves)
    reads.begin(function, [leaf for leaf in leaves if not is_dynamic(leaf)])
    reads.take_arguments((traced_args, traced_named))
    try:
        with dispatch.traced_by(trace), Instructions(reads):
            result = function(*traced_args, **traced_named)
        with dispatch.traced_by(trace):
            if trace.refusal is not None:
                raise trace.refusal
            if reads.has_changed_arguments():
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
            if is_written and repeats([leaf for leaf in leaves if is_dynamic(leaf)]):
                refuse("a write into an argument that is given twice: give a copy")
    except BaseException:
        reads.undo()
        undo()
        raise
    return TracedCall(trace, reads.guards(), reads.effects(), result, inputs, before, rebound)


def specialise(function: Callable[..., Any], args: Sequence[Any], named: dict[str, Any]) -> Specialisation:
    """Trace a function for arguments like these; what comes out has to be compiled."""
    call = trace_call(function, args, named)
    kind = _on_device() if is_elsewhere(call.trace) else Specialisation
    return kind(call, pinned=(args, named))


def is_elsewhere(trace: Trace) -> bool:
    """Tell whether a traced function computes on a GPU."""
    return trace.device != CPU or any(isinstance(x, Tensor) and x.device != CPU for x in trace.held)


def _on_device() -> type[Specialisation]:
    from labnet.compile.on_device import OnDevice

    return OnDevice


def jit(function: Callable[P, R], *, wait: bool = True) -> Jitted[P, R]:
    """Compile a function of tensors: whole training steps, losses or models.

    The function runs once on tensors without elements; what they go through, gradients and optimizer steps
    included, becomes one compiled function, which later calls run instead.

    **Guards.** Every variable, attribute, item, default and function that the run reads outside of itself is compared
    before each call, and so are containers and NumPy arrays; the function is traced again where one has changed, and
    for other shapes, dtypes, and values of arguments that are no tensors. Learning rates are read at each call.

    **State.** What the function writes into tensors outside of itself, or into its arguments, lands there, as do new
    tensors that it sets as attributes of modules, and settings whose value does not depend on the call. Other changes
    are refused: those of lists and dicts, and of counts.

    Parameters stay where they are and are shared with eager code; while a step runs, other threads should not compute
    with them. Arguments are read as they are when the call begins, even where they share memory with a parameter that
    the step changes. Results carry no history, so a backward has to happen inside. Prints happen once, while the
    function is traced. A method can be compiled, and a compiled function be part of another; compiled functions can be
    copied and pickled, and are compiled anew then.

    Parameters
    ----------
    function : callable
        Takes and returns tensors, or tuples, lists, dicts, named tuples and data classes of them. Other arguments are
        constants.
    wait : bool
        With False the function runs eagerly while its machine code is made in the background, and so it does with
        a warning if that fails. Random numbers are the same either way, results within rounding. It is still
        traced at once, so that what cannot be compiled is refused by the first call.

    Returns
    -------
    Jitted
        Called like the function; has ``source`` and ``explain()``.

    Raises
    ------
    TraceError
        At the first call, if something cannot be compiled: decisions that depend on elements, conversions to
        Python numbers, ops without a compile rule, reading a clock, random numbers of other libraries or an iterator,
        and counts that it keeps outside of itself. The message names the line and the way out.

    Examples
    --------
    >>> import labnet as ln
    >>> weight, optimizer = ln.ones(2, requires_grad=True), ln.optim.SGD(lr=0.1)
    >>> def train_step(x):
    ...     loss = (weight * x).sum()
    ...     optimizer(loss.backward())
    ...     return loss
    >>> step = jit(train_step)
    >>> step(ln.asarray([1.0, 2.0])).item(), weight.tolist()
    (3.0, [0.8999999761581421, 0.800000011920929])
    """
    return Jitted(function, wait=wait)
