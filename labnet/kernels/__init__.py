"""Kernels of the CPU: their names, and a loader that fetches their machine code in the background.

A child process compiles kernels, and NumPy computes until they are ready. Results do not change: a kernel computes
the same bits as the NumPy code that it replaces.
"""

import collections
import functools
import itertools
import os
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from labnet.kernels.board import MOST_PARTS
from labnet.kernels.partition import KERNELS as DIVISIONS
from labnet.kernels.partition import Divide, elements
from labnet.kernels.threads import LEAST, SHARE, THREADS, Threads

if TYPE_CHECKING:
    from concurrent.futures import Future

    from labnet.kernels.scalar_program import Step

#: Calls that NumPy computes before any kernel is loaded: less than a second of small steps.
PATIENCE = 200
FLOAT32 = np.dtype("float32")
_ndarray = np.ndarray
#: Calls of an op that NumPy computes before its kernel is loaded.
_OWN_PATIENCE = 10
#: Elements that count as a call: NumPy takes some 10 microseconds for a pass over them.
_WORK = 1 << 15

_asked = itertools.count(1)


class Kernel:
    """A function whose machine code is loaded in the background, once it was asked for.

    Attributes
    ----------
    compiled : callable or None
        Takes a tuple of arrays and some numbers; returns whether it computed. None until it is ready.
    """

    __slots__ = ("_divide", "_loading", "compiled", "name")
    #: Dtypes that it takes.
    dtypes: frozenset[np.dtype[Any]] = frozenset((FLOAT32,))

    def __init__(self, name: str, divide: Divide | None = None):
        self.name, self._divide = name, divide or DIVISIONS.get(name)
        self.compiled: Callable[..., int] | None = None
        self._loading: Future[None] | None = None

    @property
    def source(self) -> str:
        """What the compiler is given."""
        return f"from labnet.kernels.cpu import KERNELS\n\nkernel = KERNELS[{self.name!r}]\n"

    def ready(self, dtype: np.dtype[Any], work: int = 0) -> Callable[..., int] | None:
        """Return the compiled function, for much work one that runs in several threads.

        It is loaded once a process has asked for kernels `PATIENCE` times.

        Parameters
        ----------
        dtype : dtype
            A kernel is loaded only if it is asked for with one that it takes.
        work : int
            Number of elements; so many of them count as more than one call.
        """
        if self.compiled is None and self._loading is None and dtype in self.dtypes:
            if work > _WORK:
                collections.deque(itertools.islice(_asked, work // _WORK), 0)
            if next(_asked) > PATIENCE:
                self.load()
        return self.compiled if work < LEAST or self.compiled is None else self.in_threads(work)

    def in_threads(self, work: int) -> Callable[..., int]:
        """Return a function like the compiled one that several threads run, each for a part of the arrays."""
        compiled, divide, number = self.compiled, self._divide, min(THREADS.number, work // SHARE)
        assert compiled is not None
        if divide is None or number < 2:
            return compiled

        def run(*call: Any) -> int:
            parts = divide(
                min(2 * number, MOST_PARTS), call
            )  # some smaller ones, since a thread may have to wait for a processor
            return THREADS.run(compiled, parts) if parts else compiled(*call)

        return run

    def compute(self, shape: tuple[int, ...], *inputs: Any, numbers: tuple[float, ...] = ()) -> Any:
        """Return a new array of float32, which the compiled function writes; None if it did not.

        It is given the inputs, of which the first is an array, the new array, and numbers.
        """
        work = 0
        for one in inputs:
            if type(one) is _ndarray:
                if one.size > work:
                    work = one.size
            elif one is not None:
                return None
        if inputs[0].dtype != FLOAT32 or (compiled := self.ready(FLOAT32, work)) is None:
            return None
        out = np.empty(shape, FLOAT32)
        together = (*inputs, out)
        return out if compiled(together, *numbers) else None

    def load(self) -> "Future[None]":
        """Load the kernel in the background, compiled by a child process if it is not on the disk."""
        from labnet.kernels.machine_code.background import BACKGROUND  # the first step of a process does not need it

        if self._loading is None:
            self._loading = BACKGROUND.submit(self._load)
        return self._loading

    def _load(self) -> None:
        from labnet.kernels.machine_code import array_layout, cache
        from labnet.kernels.machine_code.background import BACKGROUND
        from labnet.kernels.machine_code.compiler_process import COMPILER, NoCompiler

        if array_layout.is_known():
            try:
                self.compiled = cache.load(self.source)
            except (NoCompiler, ImportError, RuntimeError) as error:
                if not (BACKGROUND.is_stopped or COMPILER.is_ending):  # either is told first that the process ends
                    _report(f"NumPy computes in place of compiled kernels: {error}")


class ScalarKernel(Kernel):
    """The kernel of a scalar program, which computes it in one pass; see `labnet.kernels.scalar_program`."""

    __slots__ = ("_calls", "_steps")
    dtypes = frozenset(map(np.dtype, ("float16", "float32", "float64")))

    def __init__(self, steps: "tuple[Step, ...]"):
        super().__init__(" ".join(step.kind for step in steps if step.kind not in ("input", "number")), elements)
        self._calls, self._steps = 0, steps

    def ready(self, dtype: np.dtype[Any], work: int = 0) -> Callable[..., int] | None:
        """Return the compiled function; there are many kernels, so each waits for calls of its own too."""
        self._calls += 1 + work // _WORK
        return super().ready(dtype, work) if self.compiled or self._calls > _OWN_PATIENCE else None

    @property
    def source(self) -> str:
        """What the compiler is given."""
        steps = tuple(map(tuple, self._steps))
        return f"from labnet.kernels.cpu.scalar_kernels import kernel_of\n\nkernel = kernel_of({steps!r})\n"


#: The kernels of scalar programs that this process has met.
scalar_kernels: "dict[tuple[Step, ...], ScalarKernel]" = {}


def scalar_kernel(steps: "tuple[Step, ...]") -> ScalarKernel:
    """Return the kernel of a scalar program."""
    return scalar_kernels.get(steps) or scalar_kernels.setdefault(steps, ScalarKernel(steps))


@functools.cache
def _report(text: str) -> None:
    """Log once per process why kernels are not loaded."""
    import logging

    logging.getLogger("labnet.kernels").warning(text)


layers_forward = Kernel("layers_forward")
layers_backward = Kernel("layers_backward")
tile_max = Kernel("tile_max")
tile_max_backward = Kernel("tile_max_backward")
convolve = Kernel("convolve")
convolve_input = Kernel("convolve_input")
convolve_weight = Kernel("convolve_weight")
depthwise = Kernel("depthwise")
depthwise_input = Kernel("depthwise_input")
depthwise_weight = Kernel("depthwise_weight")
gather = Kernel("gather")
scatter_add = Kernel("scatter_add")
scan = Kernel("scan")
prod = Kernel("prod")
sgd = Kernel("sgd")
sgd_with_momentum = Kernel("sgd_with_momentum")
adam = Kernel("adam")
row_sums = Kernel("row_sums")
column_sums = Kernel("column_sums")
softmax = Kernel("softmax")
softmax_backward = Kernel("softmax_backward")
cross_entropy = Kernel("cross_entropy")
cross_entropy_backward = Kernel("cross_entropy_backward")
standardize = Kernel("standardize")
standardize_backward = Kernel("standardize_backward")
channels = Kernel("channels")
channels_backward = Kernel("channels_backward")
lstm = Kernel("lstm")
lstm_backward = Kernel("lstm_backward")
gru = Kernel("gru")
gru_backward = Kernel("gru_backward")
attention = Kernel("attention")
attention_backward = Kernel("attention_backward")
team_publish = Kernel("team_publish")
team_share = Kernel("team_share")
team_help = Kernel("team_help")
Threads.kernels = team_publish, team_share, team_help
KERNELS = (
    team_publish,
    team_share,
    team_help,
    sgd,
    layers_forward,
    layers_backward,
    adam,
    sgd_with_momentum,
    tile_max,
    tile_max_backward,
    convolve,
    convolve_input,
    convolve_weight,
    depthwise,
    depthwise_input,
    depthwise_weight,
    gather,
    scatter_add,
    scan,
    prod,
    row_sums,
    column_sums,
    softmax,
    softmax_backward,
    cross_entropy,
    cross_entropy_backward,
    standardize,
    standardize_backward,
    channels,
    channels_backward,
    lstm,
    lstm_backward,
    gru,
    gru_backward,
    attention,
    attention_backward,
)


def _forget_loading() -> None:
    """Let a forked process load the kernels that its parent was loading."""
    for kernel in (*KERNELS, *scalar_kernels.values()):
        if kernel.compiled is None:
            kernel._loading = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_loading)


def load() -> bool:
    """Compile all kernels, or load them from the disk; return whether this machine has all of them."""
    for loading in [kernel.load() for kernel in KERNELS]:
        loading.result()
    return all(kernel.compiled is not None for kernel in KERNELS)
