"""Retries: which failures are transient, how long to wait, and when to give up."""

import asyncio
import random
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from labnet.errors import Overloaded, RemoteTimeout, Unreachable

T = TypeVar("T")

#: Seconds for which to retry a server that never answered before and refuses connections.
UNKNOWN_SECONDS = 3.0
#: Seconds of retries after which the user is told.
REPORTED_SECONDS = 3.0

_BUSY = (429, 503)
#: Statuses of a proxy whose server is unavailable.
OF_PROXIES = (502, 504)


@dataclass(frozen=True)
class Backoff:
    """Waits between attempts, with full jitter so that many clients do not retry at the same moment.

    Parameters
    ----------
    first : float
        Longest wait before the second attempt, in seconds; it doubles with every further attempt.
    longest : float
        Upper bound of the wait, in seconds.
    attempt : float, optional
        Most seconds that one attempt waits for a reply to begin; by default a quarter of the timeout. The server
        continues meanwhile, and the next attempt gets the same reply.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.network.Backoff(first=1.0, longest=3.0).bounds(4)
    [1.0, 2.0, 3.0, 3.0]
    """

    first: float = 0.05
    longest: float = 5.0
    attempt: float | None = None

    def __post_init__(self) -> None:
        if not (0 <= self.first <= self.longest) or (self.attempt is not None and not self.attempt > 0):
            raise ValueError(f"expected 0 <= first <= longest and attempt > 0, got {self}")

    def bounds(self, count: int) -> list[float]:
        """Return the longest waits before the next `count` attempts, in seconds."""
        return [self._bound(failures) for failures in range(count)]

    def wait(self, failures: int, *, at_least: float = 0.0) -> float:
        """Return the seconds to wait after a failure, given the number of failures before it."""
        return at_least + random.uniform(0.0, self._bound(failures))

    def _bound(self, failures: int) -> float:
        return min(self.longest, self.first * 2.0 ** min(failures, 60))


class Schedule:
    """The attempts of one request until its deadline.

    Attributes
    ----------
    failures : int
        Number of failed attempts.
    connected : bool
        Whether the current attempt has a connection.
    in_doubt : bool
        Whether a connected attempt got no reply, so that the server may have carried out the request.
    """

    def __init__(self, backoff: Backoff, *, timeout: float):
        self._backoff = backoff
        self.timeout = timeout
        self._began = time.monotonic()
        self._deadline = self._began + timeout
        self._attempt = backoff.attempt or timeout / 4
        self.failures = 0
        self.connected = False
        self.in_doubt = False

    @property
    def left(self) -> float:
        """Seconds until the deadline."""
        return self._deadline - time.monotonic()

    @property
    def elapsed(self) -> float:
        """Seconds since the first attempt."""
        return time.monotonic() - self._began

    @property
    def attempt(self) -> float:
        """Seconds that the next attempt may wait for its reply to begin."""
        return min(self._attempt, self.left)

    def next_wait(self, *, at_least: float = 0.0, patience: float | None = None) -> float | None:
        """Count a failure; return the seconds to wait before the next attempt, or None to give up.

        Parameters
        ----------
        at_least : float
            Wait that the server asked for.
        patience : float, optional
            Seconds after the first attempt at which to give up.
        """
        wait = self._backoff.wait(self.failures, at_least=at_least)
        self.failures += 1
        if wait >= self.left or (patience is not None and self.elapsed + wait > patience):
            return None
        return wait


def passes(status: int, error: str | None, *, own: bool = True) -> bool:
    """Return whether the same request may succeed later.

    Parameters
    ----------
    status : int
        Status of the reply.
    error : str or None
        Error name in the reply.
    own : bool
        Whether a labnet server sent the reply; a proxy answers 502 or 504 while its server is unavailable.

    Examples
    --------
    >>> passes(503, None), passes(400, "Corrupted"), passes(500, "RemoteFailure"), passes(502, None, own=False)
    (True, True, False, True)
    """
    return status in _BUSY or (status == 400 and error == "Corrupted") or (not own and status in OF_PROXIES)


def seconds_asked(header: str | None) -> float:
    """Read Retry-After in seconds; a date or a missing header counts as 0.

    Examples
    --------
    >>> seconds_asked("2"), seconds_asked("Wed, 21 Oct 2026 07:28:00 GMT"), seconds_asked(None)
    (2.0, 0.0, 0.0)
    """
    return float(header) if header is not None and header.isascii() and header.isdigit() else 0.0


async def backoff(function: Callable[[], Awaitable[T]], *, timeout: float = 60.0, policy: Backoff | None = None) -> T:
    """Retry an async function while it fails with transient errors, and return its result.

    `tfetch` and remote models retry each request themselves; this is for whole sequences of requests.

    Parameters
    ----------
    function : async function without arguments
        The function to call; it may run several times.
    timeout : float
        Seconds after which no further attempt is made.
    policy : Backoff, optional
        How long to wait between attempts.

    Raises
    ------
    Unreachable, RemoteTimeout, Overloaded
        The last of these errors, when no time is left; every other error at once.

    Examples
    --------
    >>> import asyncio, labnet as ln
    >>> attempts = []
    >>> async def flaky():
    ...     attempts.append(1)
    ...     if len(attempts) < 3:
    ...         raise ln.errors.Overloaded("not yet")
    ...     return len(attempts)
    >>> asyncio.run(ln.network.backoff(flaky, policy=ln.network.Backoff(first=0.001)))
    3
    """
    schedule = Schedule(policy or Backoff(), timeout=timeout)
    while True:
        try:
            return await function()
        except (Unreachable, RemoteTimeout, Overloaded):
            wait = schedule.next_wait()
            if wait is None:
                raise
        await asyncio.sleep(wait)
