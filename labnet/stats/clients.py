"""Recent activity of the clients of a server."""

from collections import deque
from typing import Any

from labnet.eviction import BoundedMap

_RATE_SECONDS = 10
_MOST = 64
#: Characters of a client's id that are shown: the rest would let others act as this client.
_SHOWN = 8


class Rate:
    """Events per second over the last seconds.

    Examples
    --------
    >>> rate = Rate()
    >>> for second in range(20):
    ...     rate.add(32, now=float(second))
    >>> rate.per_second(now=20.0)
    32.0
    """

    def __init__(self) -> None:
        self._seconds: deque[tuple[int, int]] = deque(maxlen=_RATE_SECONDS + 1)
        self._began: float | None = None

    def add(self, count: int, *, now: float) -> None:
        """Count events; `now` is in seconds of a monotonic clock."""
        self._began = now if self._began is None else self._began
        second = int(now)
        if self._seconds and self._seconds[-1][0] == second:
            self._seconds[-1] = (second, self._seconds[-1][1] + count)
        else:
            self._seconds.append((second, count))

    def per_second(self, *, now: float) -> float:
        """Return the rate over the last 10 seconds, or since the first event."""
        if self._began is None:
            return 0.0
        window = min(float(_RATE_SECONDS), max(1.0, now - self._began))
        return sum(count for second, count in tuple(self._seconds) if second > now - window - 1) / window


class Client:
    """The counters of one client."""

    def __init__(self) -> None:
        self.requests = self.errors = self.updates = self.staleness = self.bytes_in = self.bytes_out = 0
        self.last = 0.0
        self.rate = Rate()

    def summary(self, now: float) -> dict[str, Any]:
        """Return the counters; times in seconds."""
        return {
            "requests": self.requests,
            "errors": self.errors,
            "updates": self.updates,
            "updates_per_second": self.rate.per_second(now=now),
            "staleness": self.staleness,
            "bytes_in": self.bytes_in,
            "bytes_out": self.bytes_out,
            "seconds_ago": now - self.last,
        }


class Clients:
    """The clients of a server that called last, at most 64.

    Examples
    --------
    >>> clients = Clients()
    >>> clients.answered("ana", bytes_in=8, bytes_out=4, failed=False, now=1.0)
    >>> clients.updated("ana", staleness=2, now=1.0)
    >>> [(name, row["updates"], row["staleness"]) for name, row in clients.summary(now=2.0).items()]
    [('ana', 1, 2)]
    """

    def __init__(self) -> None:
        self._clients: BoundedMap[str, Client] = BoundedMap(_MOST)

    def _of(self, name: str) -> Client:
        found = self._clients.get(name)
        if found is None:
            self._clients.put(name, found := Client())
        return found

    def answered(self, name: str | None, *, bytes_in: int, bytes_out: int, failed: bool, now: float) -> None:
        """Count a request."""
        client = self._of(name or "anonymous")
        self._clients.put(name or "anonymous", client)  # the latest is evicted last
        client.requests += 1
        client.errors += failed
        client.bytes_in += bytes_in
        client.bytes_out += bytes_out
        client.last = now

    def updated(self, name: str, *, staleness: int, now: float) -> None:
        """Count an update with the gradient of a client; `staleness` is in updates."""
        client = self._of(name or "anonymous")
        client.updates += 1
        client.staleness = staleness
        client.rate.add(1, now=now)

    def summary(self, now: float) -> dict[str, dict[str, Any]]:
        """Return the counters by client, the latest first, under the first characters of its id."""
        latest = list(self._clients.entries.items())  # at once: the worker adds to them
        latest.sort(key=lambda item: -item[1].last)
        return {short(name): client.summary(now) for name, client in latest}


def short(client: str | None) -> str:
    """Return a client's id as it is shown.

    Examples
    --------
    >>> short("8a94c130703e1ad84a878bbc9b153285"), short("ana"), short(None)
    ('8a94c130…', 'ana', 'anonymous')
    """
    if not client:
        return "anonymous"
    return client if len(client) <= _SHOWN else f"{client[:_SHOWN]}…"
