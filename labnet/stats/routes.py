"""Counters per route of a server."""

from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate
from typing import Any

_MICROSECONDS = 1_000_000
_LONGEST = 3600 * _MICROSECONDS
_RECENT_SECONDS = 60
_PERCENTILES = {50: "p50", 90: "p90", 99: "p99", 100: "max"}


class RouteStatistics:
    """Hits, errors, bytes and latency of one route.

    Examples
    --------
    >>> route = RouteStatistics()
    >>> route.begin(bytes_in=8)
    >>> route.end(seconds=0.5, now=0.5, bytes_out=4, failed=False)
    >>> route.summary()["hits"], route.summary()["seconds"]
    (1, 0.5)
    """

    def __init__(self) -> None:
        self.hits = 0
        self.seconds = 0.0
        self.errors = 0
        self.in_flight = 0
        self.bytes_in = 0
        self.bytes_out = 0
        from hdrh.histogram import HdrHistogram  # imported here: only servers need it, and tensors need NumPy alone

        self._latency = HdrHistogram(1, _LONGEST, 2)
        self._recent: deque[list[float]] = deque(maxlen=_RECENT_SECONDS)

    def begin(self, *, bytes_in: int) -> None:
        """Count a request that has arrived."""
        self.in_flight += 1
        self.bytes_in += bytes_in

    def end(self, *, seconds: float, now: float, bytes_out: int, failed: bool) -> None:
        """Count the reply; `now` is in seconds of the clock that `recent` uses."""
        self.in_flight -= 1
        self.hits += 1
        self.errors += failed
        self.seconds += seconds
        self.bytes_out += bytes_out
        self._latency.record_value(min(max(1, round(seconds * _MICROSECONDS)), _LONGEST))
        second = int(now)
        if not self._recent or self._recent[-1][0] != second:
            self._recent.append([second, 0, 0.0])
        self._recent[-1][1] += 1
        self._recent[-1][2] += seconds

    def summary(self) -> dict[str, Any]:
        """Return all counters since the start; times are in seconds."""
        found = self._latency.get_percentile_to_value_dict(list(_PERCENTILES)) if self.hits else {}
        return {
            "hits": self.hits,
            "seconds": self.seconds,
            "errors": self.errors,
            "in_flight": self.in_flight,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "latency": {name: float(found.get(p, 0)) / _MICROSECONDS for p, name in _PERCENTILES.items()},
        }

    def at_most(self, bounds: Sequence[float]) -> list[int]:
        """Return how many requests took at most each of these increasing bounds in seconds.

        Examples
        --------
        >>> route = RouteStatistics()
        >>> route.begin(bytes_in=0)
        >>> route.end(seconds=0.5, now=0.5, bytes_out=0, failed=False)
        >>> route.at_most([0.1, 1.0])
        [0, 1]
        """
        counts = [0] * (len(bounds) + 1)
        for item in self._latency.get_recorded_iterator():
            value = item.value_iterated_to / _MICROSECONDS
            counts[bisect_left(bounds, value)] += item.count_at_value_iterated_to
        return list(accumulate(counts[:-1]))

    def recent(self, now: float) -> dict[str, list[float]]:
        """Return hits and mean latency in seconds of each of the last 60 whole seconds, oldest first."""
        first = int(now) - _RECENT_SECONDS
        hits, latency = [0.0] * _RECENT_SECONDS, [0.0] * _RECENT_SECONDS
        for second, count, total in self._recent:
            position = int(second) - first
            if 0 <= position < _RECENT_SECONDS:
                hits[position], latency[position] = count, total / count
        return {"hits": hits, "latency": latency}
