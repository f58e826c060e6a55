"""Replay of forwards: their requests are answered from a record, without other servers."""

import contextlib
import contextvars
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from labnet import wire
from labnet.errors import LabnetError


class ReplayMismatch(LabnetError):
    """A replayed forward differs from the recorded one."""


class RecordedForward(NamedTuple):
    """One forward of another server.

    Attributes
    ----------
    url, content : str, bytes
        URL and body of the request.
    reply : wire.Message
        The reply.
    call, epoch : str
        Id from the server, and the incarnation of that server.
    key : str
        Key of the request.
    """

    url: str
    content: bytes
    reply: wire.Message
    call: str
    epoch: str | None
    key: str


class Replay:
    """The recorded forwards of one replayed forward; each is used once."""

    def __init__(self, recorded: Iterable[RecordedForward]):
        self._left = list(recorded)

    def take(self, url: str, content: bytes, key: str) -> RecordedForward:
        """Remove and return the record of a forward.

        Parameters
        ----------
        key : str
            The key of the request in the replay; it distinguishes identical bodies.

        Raises
        ------
        ReplayMismatch
            If no forward with this body was recorded.
        """
        alike = [record for record in self._left if (record.url, record.content) == (url, content)]
        if not alike:
            raise ReplayMismatch(f"it sends {url} a request that was not recorded")
        found = next((record for record in alike if record.key == key), alike[0])
        self._left = [record for record in self._left if record is not found]
        return found


#: The replay of this context; None outside of a replay.
_replay: contextvars.ContextVar[Replay | None] = contextvars.ContextVar("labnet_replay", default=None)


@contextlib.contextmanager
def replaying(recorded: Iterable[RecordedForward]) -> Iterator[None]:
    """Answer the requests of this context from a record."""
    token = _replay.set(Replay(recorded))
    try:
        yield
    finally:
        _replay.reset(token)


def recorded_forward(url: str, body: wire.Body, key: str) -> RecordedForward | None:
    """Return the record of a forward in training mode; None outside of a replay.

    Raises
    ------
    ReplayMismatch
        If it was not recorded.
    """
    replay = _replay.get()
    return None if replay is None else replay.take(url, b"".join(body.parts), key)


def refuse_in_replay(where: Callable[[], str]) -> None:
    """Refuse a request that may have an effect inside a replay.

    Parameters
    ----------
    where : callable
        Returns the address of the route, for the error.

    Raises
    ------
    ReplayMismatch
        If a replay runs.
    """
    if _replay.get() is not None:
        raise ReplayMismatch(f"it sends {where()} a request whose reply was not recorded")
