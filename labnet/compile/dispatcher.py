"""`ln.jit`: choose the compiled version that fits a call, or trace and compile a new one."""

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
from typing import TYPE_CHECKING, Any, Generic, ParamSpec, TypeVar

from labnet.compile.backends.step_state import MISS
from labnet.compile.pytree import flatten
from labnet.compile.specialisation import Specialisation, specialise
from labnet.compile.trace.signature import signature
from labnet.compile.wait import wait_for
from labnet.device import CPU
from labnet.kernels.device_dispatch import timed
from labnet.kernels.machine_code.background import BACKGROUND
from labnet.ops.core import dispatch
from labnet.ops.core.creation import random_state, restart_at
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
            """Run the compiled version that fits; trace and compile one if there is none."""

    def __copy__(self) -> "Jitted[P, R]":
        return Jitted(self._function, wait=self._wait)

    def __deepcopy__(self, memo: dict[int, Any]) -> "Jitted[P, R]":
        copied = memo[id(self)] = Jitted(copy.deepcopy(self._function, memo), wait=self._wait)
        return copied

    def __reduce__(self) -> Any:
        """Pickle by name, as functions are, if a module defines it; else with its function, to be compiled anew."""
        found: Any = sys.modules.get(self._function.__module__)
        name: str = getattr(self._function, "__qualname__", "")
        for part in name.split("."):
            found = getattr(found, part, None)
        if found is self:
            return name
        return _jitted, (self._function, self._wait)

    def __get__(self, instance: Any, owner: type | None = None) -> Any:
        """Bind to an instance, as functions do."""
        return self if instance is None else types.MethodType(self, instance)

    def _call(self, *args: Any, **named: Any) -> Any:
        """Choose a version and run it; inside another compiled function, run the function itself."""
        if dispatch.Plain is None and dispatch.current_tracer() is not None:
            return self._function(*args, **named)
        with self._lock:
            return self._find([x for x in args if x is not MISS], named)

    def _find(self, args: Sequence[Any], named: dict[str, Any]) -> Any:
        """Run a version that fits; trace and compile one if there is none."""
        arguments = inspect.signature(self._function).bind(*args, **named) if named else None
        flat = tuple(args) if arguments is None else arguments.args
        left = {} if arguments is None else arguments.kwargs
        key, leaves = signature(flat, left), flatten((flat, left))[0]
        for known, specialisation in list(self._known):
            if known == key:
                is_pending = specialisation in self._pending and specialisation.state.fits()
                if is_pending and not self._is_ready(specialisation):
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
        self._pending[specialisation] = self._compile(specialisation)
        if not self._is_ready(specialisation):
            specialisation.state.drawn = None
            restart_at(before)  # the eager run draws what the trace has drawn
            return self._run_eagerly(args, named)
        self._use(specialisation)
        found = _counted(specialisation, leaves)
        if found is MISS:
            raise RuntimeError("jit: a version that was just compiled does not fit its own call")
        return found

    def _compile(self, specialisation: Specialisation) -> "Future[None]":
        """Compile a version, in the background unless the caller waits; drop it if that is interrupted or fails."""
        step = specialisation.step
        if not (self._wait or step.is_known):
            return BACKGROUND.submit(step.compile)
        try:
            return wait_for(step.compile, repr(self))
        except BaseException:
            self._known = [pair for pair in self._known if pair[1] is not specialisation]
            raise

    def _is_ready(self, specialisation: Specialisation) -> bool:
        """Return whether background compilation of a version has finished; warn once if it failed."""
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
        """Call the function itself; detach its results, since those of compiled code carry no history."""
        leaves, structure = flatten(self._function(*args, **named))
        return structure.build([leaf.detach() if isinstance(leaf, Tensor) else leaf for leaf in leaves])

    def _use(self, specialisation: Specialisation) -> None:
        self._last = specialisation
        quick = specialisation.state.takes_tensors_only
        self.__call__ = specialisation.step.quick(self._lock, self._call) if quick else self._call  # type: ignore[method-assign]

    def wait(self, timeout: float | None = None) -> bool:
        """Wait for background compilation; return whether it finished within `timeout` seconds.

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
        """Number of compiled versions."""
        return len(self._known)

    @property
    def source(self) -> str:
        """The generated code of the version that ran last."""
        return self._latest().step.source

    def explain(self) -> str:
        """Return a report of the version that ran last: groups, memory, work and constants."""
        return self._latest().step.explain()

    def _latest(self) -> Specialisation:
        if self._last is None:
            raise RuntimeError("jit: nothing is compiled yet: call the function first")
        return self._last

    def __repr__(self) -> str:
        return f"jit({getattr(self._function, '__qualname__', self._function)!s})"


def _jitted(function: Callable[P, R], wait: bool) -> Jitted[P, R]:
    return Jitted(function, wait=wait)


def _counted(specialisation: Specialisation, leaves: Sequence[Any]) -> Any:
    """Run a version if it fits; count a call on a GPU as one op, copies included."""
    if not (specialisation.state.device != CPU and active()):
        return specialisation.step.refreshed(leaves)
    with timed(later(STEP)), suspended():
        found = specialisation.step.refreshed(leaves)
    if found is not MISS:
        record(STEP, OpCount(1, 0.0, *specialisation.state.work))
    return found


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
