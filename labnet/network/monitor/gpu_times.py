"""GPU time of a served model by op, sampled so that measuring costs at most one percent.

Counting an op and timing its launches takes the host about 25 us. So only some calls are measured, and the result is
scaled to all calls.
"""

import contextlib
import math
import time
from collections.abc import Callable, Iterator
from typing import Any

from labnet.kernels.device_dispatch import timed
from labnet.network.adapters.device_adapter import is_on_gpu
from labnet.stats import OpCount, OpStatistics
from labnet.stats.collecting import counted_into
from labnet.stats.operations import Later

_LEAST_SECONDS = 0.1
#: Maximum share of the time spent on measuring, and seconds that measuring an op and a call takes.
_SHARE, _OP, _CALL = 0.01, 25e-6, 50e-6
#: Number of ops that are listed by name.
_MOST = 24
#: Name for launches between ops, mostly copies between host and device.
BETWEEN = "copies and others"


class Kind:
    """The calls of one kind, and the op statistics of the measured ones.

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
    """A context that measures one call in its thread, or does nothing."""

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
        """Return a context for an awaited call; only its ops are measured, because other tasks interleave."""
        return contextlib.nullcontext() if self._kind is None else counted_into(self._kind.statistics)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        """Measure a part of the call as an op of this name."""
        if self._kind is None:
            yield
            return
        statistics = self._kind.statistics
        with timed(Later(name, (statistics,))):
            yield
        statistics.add(name, OpCount(1))


class GpuTimes:
    """GPU seconds of the ops of a model, over all of its calls.

    Parameters
    ----------
    model : callable
        The model; measured while it is on a GPU.
    device : str, optional
        Device that the model is served on.
    clock : callable
        Returns seconds.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        device: str | None = None,
        *,
        clock: Callable[[], float] = time.perf_counter,
    ):
        self._model = model
        self._device = device
        self._clock = clock
        self._kinds: dict[str, Kind] = {}

    def sample(self, kind: str) -> Sample:
        """Return the context for the next call of a kind; it measures only if that is due."""
        found = self._kinds.get(kind)
        if found is None:
            found = self._kinds.setdefault(kind, Kind())
        found.calls += 1
        if self._clock() < found.due:
            return Sample(self, None)
        if not is_on_gpu(self._model, self._device):
            found.due = self._clock() + _LEAST_SECONDS
            return Sample(self, None)
        found.measured += 1
        found.due = self._clock() + _LEAST_SECONDS
        return Sample(self, found)

    def measured(self, kind: Kind, ops: int) -> None:
        """Record a measured call; delay the next measurement in proportion to its number of ops."""
        kind.due = self._clock() + max(_LEAST_SECONDS, (ops * _OP + _CALL) / _SHARE)

    def summary(self) -> dict[str, Any] | None:
        """Return the op statistics scaled to all calls, slowest op first; None without a measured call."""
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
