"""What a GPU computes for a served model, op by op: measured in some of the calls, as often as it costs nothing.

To count an op and to time its launches takes the host some 25 us. So calls are measured until that is one part in a
hundred of the time, and told for all.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from labnet.kernels.device_dispatch import timed
from labnet.network.adapters.device_adapter import is_placed
from labnet.stats import OpCount, OpStatistics
from labnet.stats.collecting import counted_into
from labnet.stats.operations import Later

_LEAST_SECONDS = 0.1
#: Greatest part of the time that measuring may take, and seconds that an op, and a call, take for it.
_SHARE, _OP, _CALL = 0.01, 25e-6, 50e-6
#: Ops that are listed by name.
_MOST = 24
#: What is launched between ops: copies from the host and to it, for the most part.
BETWEEN = "copies and others"


class Kind:
    """Calls of one kind, and what the ops of those that were measured have cost.

    Attributes
    ----------
    calls, measured : int
    statistics : OpStatistics
    """

    def __init__(self) -> None:
        self.calls = self.measured = 0
        self.due = -math.inf
        self.statistics = OpStatistics(only_here=True)


class Sample:
    """Measures one call, or does not: a context for what runs in one thread."""

    def __init__(self, times: "GpuTimes", kind: Kind | None):
        self._times = times
        self._kind = kind
        self._opened: contextlib.ExitStack | None = None
        self._before = 0

    def __enter__(self) -> "Sample":
        kind = self._kind
        if kind is not None:
            self._before = kind.statistics.count
            with contextlib.ExitStack() as stack:
                stack.enter_context(counted_into(kind.statistics))
                stack.enter_context(timed(Later(BETWEEN, (kind.statistics,))))
                self._opened = stack.pop_all()
        return self

    def __exit__(self, *exception: object) -> None:
        kind, opened, self._opened = self._kind, self._opened, None
        if kind is not None and opened is not None:
            opened.close()
            self._times.measured(kind, kind.statistics.count - self._before)

    def awaiting(self) -> contextlib.AbstractContextManager[None]:
        """Return a context for what is awaited: only its ops are measured, for others take turns with it."""
        return contextlib.nullcontext() if self._kind is None else counted_into(self._kind.statistics)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of the call that is no op as if it were one."""
        if self._kind is None:
            yield
            return
        statistics = self._kind.statistics
        with timed(Later(name, (statistics,))):
            yield
        statistics.add(name, OpCount(1))


class GpuTimes:
    """The seconds of a GPU for the ops of a model, over all of its calls.

    Parameters
    ----------
    model : callable
        Measured while it is on a GPU.
    clock : callable
        Returns seconds.
    """

    def __init__(self, model: Callable[..., Any], *, clock: Callable[[], float] = time.perf_counter):
        self._model = model
        self._clock = clock
        self._kinds: dict[str, Kind] = {}

    def sample(self, kind: str) -> Sample:
        """Return what measures the next call of a kind, or lets it be where that would cost too much."""
        found = self._kinds.setdefault(kind, Kind())
        found.calls += 1
        if self._clock() < found.due:
            return Sample(self, None)
        if not is_placed(self._model):
            found.due = self._clock() + _LEAST_SECONDS
            return Sample(self, None)
        found.measured += 1
        found.due = self._clock() + _LEAST_SECONDS
        return Sample(self, found)

    def measured(self, kind: Kind, ops: int) -> None:
        """Take note that a call with so many ops was measured."""
        kind.due = self._clock() + max(_LEAST_SECONDS, (ops * _OP + _CALL) / _SHARE)

    def summary(self) -> dict[str, Any] | None:
        """Return the ops with most seconds first, as many and as long as in all calls; None where none was measured."""
        kinds = [kind for kind in list(self._kinds.values()) if kind.measured]
        if not kinds:
            return None
        total = OpStatistics()
        for kind in kinds:
            scale = kind.calls / kind.measured
            for name, cost in kind.statistics.ops.items():
                total.add(name, OpCount(round(cost.count * scale), cost.seconds * scale))
        found = {name: cost for name, cost in total.most(_MOST).items() if cost.seconds}
        return {
            "calls": sum(kind.calls for kind in kinds),
            "measured": sum(kind.measured for kind in kinds),
            "seconds": total.total.seconds,
            "ops": {name: {"count": cost.count, "seconds": cost.seconds} for name, cost in found.items()},
        }
