"""The client side of accumulation rounds: several held backwards make one update of a server."""

import asyncio
import contextlib
import contextvars
import secrets
from collections.abc import Awaitable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from labnet import wire
from labnet.autograd import Node
from labnet.errors import GraphExpired, PartialUpdate, RemoteError
from labnet.network.client.forward import Forward
from labnet.network.client.partial_update import partial_update
from labnet.network.protocol.keys import Ticket
from labnet.network.protocol.outcome import Applied
from labnet.network.protocol.rounds import RoundOf
from labnet.network.threads import IO

#: How often gradients that a server has lost are sent again.
_ATTEMPTS = 10

_current: contextvars.ContextVar["tuple[Round, int] | None"] = contextvars.ContextVar("labnet_round", default=None)
_deferred: contextvars.ContextVar["SharedUpdates | None"] = contextvars.ContextVar("labnet_deferred", default=None)


class RemoteBackward(Protocol):
    """The backward of a remote call."""

    forward: Forward

    async def request(self, body: wire.Body, of: RoundOf | None, ticket: Ticket | None) -> Any:
        """Send the gradient."""
        ...

    def committed(self, applied: Applied) -> None:
        """Record the outcome of a held gradient."""
        ...


@dataclass
class PendingCall:
    """A backward that a server holds.

    Attributes
    ----------
    ticket : Ticket
        Key of the backward; the keys of repetitions continue it.
    """

    call: RemoteBackward
    body: wire.Body
    of: RoundOf
    ticket: Ticket
    repetitions: int = 0

    async def resend(self) -> None:
        """Send the gradient again, which the server has lost."""
        self.repetitions += 1
        await self.call.request(self.body, self.of, Ticket(f"{self.ticket.key}.{self.repetitions}"))


class Collector(Protocol):
    """Collects the backwards that servers hold."""

    def record(self, held: PendingCall) -> None:
        """Record a held backward."""
        ...


class Membership(NamedTuple):
    """The position of a backward in a shared update."""

    collector: Collector
    of: RoundOf


class Round:
    """The backwards of one pipeline step: `size` of them make the update of a server.

    Examples
    --------
    >>> Round(4).size
    4
    """

    def __init__(self, size: int):
        self.size = size
        self._id = secrets.token_hex(16)
        self._held: dict[str, dict[int, PendingCall]] = {}

    @staticmethod
    def current() -> "Membership | None":
        """Return what backwards begun now are part of."""
        found = _current.get()
        return None if found is None else Membership(found[0], RoundOf(found[0]._id, found[0].size, found[1]))

    @contextlib.contextmanager
    def collecting(self, position: int) -> Iterator[None]:
        """Add the backwards that start inside to this round, one per server."""
        token = _current.set((self, position))
        try:
            yield
        finally:
            _current.reset(token)

    def record(self, held: PendingCall) -> None:
        """Record a held backward."""
        self._held.setdefault(held.call.forward.caller.where.name, {})[id(held.call)] = held

    async def flush(self) -> dict[str, str]:
        """Wait until every server has made its update; send lost gradients again.

        Returns
        -------
        dict of str to str
            "yes" for each server.

        Raises
        ------
        PartialUpdate
            If a server does not know the outcome of its part.
        """
        asked = {server: _flush(list(held.values())) for server, held in self._held.items()}
        outcomes = await asyncio.gather(*asked.values(), return_exceptions=True)
        states = dict(zip(asked, ("yes" if told is None else "unknown" for told in outcomes), strict=True))
        for server, told in zip(asked, outcomes, strict=True):
            if isinstance(told, BaseException):
                text = f"{server}: {told}; whether the update of this step was made is not known everywhere"
                raise PartialUpdate(text, servers=states, server=server, applied="unknown") from told
        return states


class SharedUpdates:
    """The updates of servers that were called several times in one differentiated computation.

    Servers hold the gradients as they arrive. When the whole backward has succeeded, each server sums its gradients and
    makes one update. It adds the last call first, as a backward in one process does.

    Parameters
    ----------
    blocking : bool
        Whether `commit` blocks.
    """

    def __init__(self, *, blocking: bool = False):
        self._blocking = blocking
        self._of = RoundOf(secrets.token_hex(16), 0)
        self._held: dict[int, PendingCall] = {}

    @property
    def membership(self) -> Membership:
        """The position of a backward in these updates."""
        return Membership(self, self._of)

    @staticmethod
    def current() -> "Membership | None":
        """Return the membership of backwards that start now; None if they are applied at once."""
        deferred = _deferred.get()
        return None if deferred is None else deferred.membership

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Have servers hold the backwards that start inside until they are flushed."""
        token = _deferred.set(self)
        try:
            yield
        finally:
            _deferred.reset(token)

    def record(self, held: PendingCall) -> None:
        """Record a held backward."""
        self._held[id(held.call)] = held

    def in_order(self) -> list[PendingCall]:
        """Return the held backwards in the order of addition: the last call first."""
        return sorted(self._held.values(), key=lambda held: -held.call.forward.number)

    def commit(self) -> Awaitable[None] | None:
        """Have the servers make their updates."""
        flushing = flush_in_order(self.in_order())
        return IO.run(flushing) if self._blocking else flushing

    def failure(self, error: BaseException, nodes: Iterable[Node]) -> BaseException:
        """Return an error that names the state of every server if only some have applied their part."""
        return partial_update(error, nodes)


async def flush_in_order(held: Sequence[PendingCall]) -> None:
    """Have each server make one update of its held gradients, summed in this order.

    Raises
    ------
    RemoteError
        The error of the first server that failed; `GraphExpired` if it does not know the outcome of a call.
    """
    calls = [one.call for one in held]
    by_server: dict[str, list[PendingCall]] = {}
    for one in held:
        by_server.setdefault(server_of(one.call, calls), []).append(one)
    outcomes = await asyncio.gather(*map(_flush_shared, by_server.values()), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _flush_shared(held: Sequence[PendingCall]) -> None:
    """Have one server make its update, and record the outcome in the calls."""
    applied: Applied = "unknown"
    try:
        await _flush(held)
        applied = "yes"
    except RemoteError as error:
        applied = error.applied or "no"  # type: ignore[assignment]
        raise
    finally:
        for one in held:
            one.call.committed(applied)


async def _flush(held: Sequence[PendingCall]) -> None:
    """Ask a server for its update until it is made; send lost gradients again."""
    caller, of = held[0].call.forward.caller, held[0].of
    for _ in range(_ATTEMPTS):
        calls = wire.encode_json([one.call.forward.call for one in held])
        response = await caller.call("POST", "/settle", calls, of.header() if of.is_shared else {})
        told: dict[str, Any] = caller.decode("/settle", response)
        if set(told.values()) <= {"yes"}:
            return
        if "unknown" in told.values():
            break
        for one in held:
            if told.get(one.call.forward.call) == "no":
                await one.resend()
    raise GraphExpired(
        f"{caller.address}: it does not know what became of calls that it has held (applied: unknown)",
        server=str(caller.address),
        applied="unknown",
    )


def server_of(call: RemoteBackward, calls: Iterable[RemoteBackward]) -> str:
    """Return the name of a call's server; the first one if an incarnation has several addresses."""
    epoch = call.forward.epoch
    if epoch is None:
        return call.forward.caller.where.name
    return next(other.forward.caller.where.name for other in calls if other.forward.epoch == epoch)
