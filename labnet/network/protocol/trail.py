"""The trail of a statistics request through servers: it bounds depth and time, and prevents circles.

A handler named ``statistics`` may fetch the statistics of the servers that its own server calls. Each of its requests
carries the ids of the waiting servers and the seconds left. A server that finds its own id there, is too deep, or has
no time left answers with its own counters only. The addresses come from the handler's code; no address in a request is
ever fetched.
"""

import asyncio
import contextlib
import ipaddress
import re
import time
from collections.abc import AsyncIterator, Mapping
from contextvars import ContextVar
from dataclasses import dataclass

from labnet.errors import RemoteError, Unreachable
from labnet.network.protocol.headers import TRAIL

#: Maximum depth of servers, and the seconds for the whole tree.
DEPTH = 8
BUDGET_SECONDS = 2.0

_TEXT = re.compile(r"\d{1,3}(?:\.\d{1,6})?(?: [0-9a-f]{1,64}){1,8}", re.ASCII)
#: Share of the remaining time that is passed on at each step; the rest is reserved so that replies arrive in time.
_SHARE = 0.85

_current: ContextVar["Trail | None"] = ContextVar("labnet_trail", default=None)


class Cut(Exception):
    """The tree of servers is cut off here; the message says why."""


@dataclass(frozen=True)
class Trail:
    """The servers that wait for an answer, outermost first, and their deadline.

    Examples
    --------
    >>> Trail.read({TRAIL: "1.5 c0ffee"}).servers
    ('c0ffee',)
    """

    servers: tuple[str, ...]
    deadline: float

    @classmethod
    def start(cls) -> "Trail":
        """Start a trail at the outermost server."""
        return cls((), time.monotonic() + BUDGET_SECONDS)

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> "Trail":
        """Read the header of a request; start a trail if it is missing or malformed."""
        text = headers.get(TRAIL, "")
        if not _TEXT.fullmatch(text):
            return cls.start()
        seconds, *servers = text.split(" ")
        return cls(tuple(servers), time.monotonic() + min(float(seconds), BUDGET_SECONDS))

    @property
    def remaining_seconds(self) -> float:
        """Seconds left for an answer."""
        return max(0.0, self.deadline - time.monotonic())

    @contextlib.asynccontextmanager
    async def through(self, server: str) -> AsyncIterator[None]:
        """Ask other servers on behalf of `server`.

        Raises
        ------
        Cut
            If this is a circle, too deep or too slow, or if one of the servers fails.
        """
        if server in self.servers:
            raise Cut("this server waits for the answer already: its servers ask each other in a circle")
        if len(self.servers) + 1 >= DEPTH:
            raise Cut(f"{DEPTH} servers in a row were asked, no more are")
        seconds = self.remaining_seconds
        token = _current.set(Trail((*self.servers, server), time.monotonic() + seconds * _SHARE))
        try:
            async with asyncio.timeout(seconds):
                yield
        except RemoteError as error:
            raise Cut(str(error)) from error
        except TimeoutError as error:
            raise Cut(f"the handler 'statistics' took longer than {seconds:.1f} s") from error
        finally:
            _current.reset(token)


def headers() -> dict[str, str]:
    """Return the header for requests of a statistics handler."""
    trail = _current.get()
    if trail is None:
        return {}
    return {TRAIL: f"{trail.remaining_seconds * _SHARE:.3f} {' '.join(trail.servers)}"}


def check(host: str) -> None:
    """Refuse link-local addresses, where clouds serve credentials, in statistics requests.

    Raises
    ------
    Unreachable
        If `host` is link-local and the request is for statistics.
    """
    if _current.get() is None:
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_link_local:
            raise Unreachable(f"{host} is a link-local address, which is never asked for statistics")


def limited(timeout: float) -> float:
    """Return the timeout of a request, bounded by the time left for its statistics."""
    trail = _current.get()
    return timeout if trail is None else min(timeout, trail.remaining_seconds)
