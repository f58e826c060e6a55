"""Statistics of servers that ask other servers: how deep, how long, and never in a circle.

A handler named ``statistics`` may fetch the statistics of the servers that its own server is composed of. Every
request that it makes carries the ids of the servers that wait for it and the seconds that are left. A server
that finds its own id there, that is too deep, or whose time is over answers with its own counters only. The
addresses are those in the handler's code; nothing in a request is ever fetched.
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

#: Header of a request for statistics: the seconds left, then the ids of the servers that wait.
TRAIL = "Labnet-Trail"

#: Most servers in a row, and the seconds for the whole tree.
DEPTH = 8
BUDGET_SECONDS = 2.0

_TEXT = re.compile(r"\d{1,3}(?:\.\d{1,6})?(?: [0-9a-f]{1,64}){1,8}", re.ASCII)
#: Part of the time left that a server gives to a request, and a request to the next server: the rest is for
#: themselves, so that an answer is there before it is given up.
_SHARE = 0.85

_current: ContextVar["Trail | None"] = ContextVar("labnet_trail", default=None)


class Cut(Exception):
    """The tree ends here; the message says why."""


@dataclass(frozen=True)
class Trail:
    """The servers that wait for an answer, the first one first, and until when.

    Examples
    --------
    >>> Trail.read({"Labnet-Trail": "1.5 c0ffee"}).servers
    ('c0ffee',)
    """

    servers: tuple[str, ...]
    deadline: float

    @classmethod
    def start(cls) -> "Trail":
        """Begin at a server that nobody else waits for."""
        return cls((), time.monotonic() + BUDGET_SECONDS)

    @classmethod
    def read(cls, headers: Mapping[str, str]) -> "Trail":
        """Read the header of a request; without a good one the trail begins here."""
        text = headers.get(TRAIL, "")
        if not _TEXT.fullmatch(text):
            return cls.start()
        seconds, *servers = text.split(" ")
        return cls(tuple(servers), time.monotonic() + min(float(seconds), BUDGET_SECONDS))

    @property
    def remaining_seconds(self) -> float:
        """Time that is left for an answer."""
        return max(0.0, self.deadline - time.monotonic())

    @contextlib.asynccontextmanager
    async def through(self, server: str) -> AsyncIterator[None]:
        """Ask other servers on behalf of `server`.

        Raises
        ------
        Cut
            If that would be a circle, too deep, or took too long; or if one of them failed.
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
    """Return the header for requests that a handler of statistics makes."""
    trail = _current.get()
    if trail is None:
        return {}
    return {TRAIL: f"{trail.remaining_seconds * _SHARE:.3f} {' '.join(trail.servers)}"}


def check(host: str) -> None:
    """Refuse a link-local address, where clouds keep the keys of a machine, as a part of statistics.

    Raises
    ------
    Unreachable
        If `host` is one, and the request is for statistics.
    """
    if _current.get() is None:
        return
    with contextlib.suppress(ValueError):
        if ipaddress.ip_address(host).is_link_local:
            raise Unreachable(f"{host} is a link-local address, which is never asked for statistics")


def limited(timeout: float) -> float:
    """Return the seconds that a request may take: no more than what is left for the statistics it is for."""
    trail = _current.get()
    return timeout if trail is None else min(timeout, trail.remaining_seconds)
