"""A timeline: the last intervals of computation with their names."""

import time
from collections import deque
from types import TracebackType
from typing import NamedTuple

_INTERVALS = 4096


class Interval(NamedTuple):
    """A named interval, with start and end in seconds since 1970."""

    kind: str
    began: float
    ended: float


class Timeline:
    """The last intervals of one thread.

    Examples
    --------
    >>> timeline = Timeline()
    >>> with timeline.doing("forward"):
    ...     pass
    >>> [interval.kind for interval in timeline.intervals()]
    ['forward']
    """

    def __init__(self) -> None:
        self._intervals: deque[Interval] = deque(maxlen=_INTERVALS)

    def doing(self, kind: str) -> "_Doing":
        """Return a context that records one interval."""
        return _Doing(self._intervals, kind)

    def intervals(self) -> list[Interval]:
        """Return the intervals, oldest first."""
        return list(self._intervals)


class _Doing:
    __slots__ = ("_began", "_intervals", "_kind")

    def __init__(self, intervals: deque[Interval], kind: str):
        self._intervals, self._kind = intervals, kind

    def __enter__(self) -> None:
        self._began = time.time()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._intervals.append(Interval(self._kind, self._began, time.time()))
