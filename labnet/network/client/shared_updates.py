"""The client's side of updates that are made of several backwards, which their servers hold until all are there."""

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

#: How often what a server has lost is sent again.
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
        """Take note of the outcome of a gradient that was held."""
        ...


@dataclass
class HeldCall:
    """A backward that a server holds.

    Attributes
    ----------
    ticket : Ticket
        Its key; the keys of repetitions continue it.
    """

    call: RemoteBackward
    body: wire.Body
    of: RoundOf
    ticket: Ticket
    repetitions: int = 0

    async def again(self) -> None:
        """Have the gradient held again, which the server has lost."""
        self.repetitions += 1
        await self.call.request(self.body, self.of, Ticket(f"{self.ticket.key}.{self.repetitions}"))


class Collector(Protocol):
    """What takes note of backwards that servers hold."""

    def note(self, held: HeldCall) -> None:
        """Take note of a backward."""
        ...


class Membership(NamedTuple):
    """The place of a backward in an update of several."""

    collector: Collector
    of: RoundOf


class Round:
    """The backwards of one step of a pipeline: `size` make the update of a server.

    Examples
    --------
    >>> Round(4).size
    4
    """

    def __init__(self, size: int):
        self.size = size
        self._id = secrets.token_hex(16)
        self._held: dict[str, dict[int, HeldCall]] = {}

    @staticmethod
    def current() -> "Membership | None":
        """Return what backwards begun now are part of."""
        found = _current.get()
        return None if found is None else Membership(found[0], RoundOf(found[0]._id, found[0].size, found[1]))

    @contextlib.contextmanager
    def collecting(self, position: int) -> Iterator[None]:
        """Have the backwards that are begun inside belong to this round, one at each server."""
        token = _current.set((self, position))
        try:
            yield
        finally:
            _current.reset(token)

    def note(self, held: HeldCall) -> None:
        """Take note that a server holds a backward."""
        self._held.setdefault(held.call.forward.caller.where.name, {})[id(held.call)] = held

    async def settle(self) -> dict[str, str]:
        """Wait until every server has made its update; send again what one has lost.

        Returns
        -------
        dict of str to str
            By server, "yes".

        Raises
        ------
        PartialUpdate
            If a server does not know what became of its part.
        """
        asked = {server: _settle(list(held.values())) for server, held in self._held.items()}
        outcomes = await asyncio.gather(*asked.values(), return_exceptions=True)
        states = dict(zip(asked, ("yes" if told is None else "unknown" for told in outcomes), strict=True))
        for server, told in zip(asked, outcomes, strict=True):
            if isinstance(told, BaseException):
                text = f"{server}: {told}; whether the update of this step was made is not known everywhere"
                raise PartialUpdate(text, servers=states, server=server, applied="unknown") from told
        return states


class SharedUpdates:
    """The updates of servers whose models were called several times in what is differentiated.

    Their gradients are held as they come. Once the whole backward has succeeded each server adds up those that it
    holds, the last call first, as a backward in one process does, and makes one update.

    Parameters
    ----------
    blocking : bool
        Whether `commit` blocks.
    """

    def __init__(self, *, blocking: bool = False):
        self._blocking = blocking
        self._of = RoundOf(secrets.token_hex(16), 0)
        self._held: dict[int, HeldCall] = {}

    @property
    def membership(self) -> Membership:
        """The place of a backward in these updates."""
        return Membership(self, self._of)

    @staticmethod
    def current() -> "Membership | None":
        """Return what backwards begun now are held for, if somebody else says when the updates are made."""
        deferred = _deferred.get()
        return None if deferred is None else deferred.membership

    @contextlib.contextmanager
    def collecting(self) -> Iterator[None]:
        """Have servers hold the backwards that are begun inside until `settle`."""
        token = _deferred.set(self)
        try:
            yield
        finally:
            _deferred.reset(token)

    def note(self, held: HeldCall) -> None:
        """Take note that a server holds a backward."""
        self._held[id(held.call)] = held

    def in_order(self) -> list[HeldCall]:
        """Return what is held in the order in which it is to be added: the calls that were made last come first."""
        return sorted(self._held.values(), key=lambda held: -held.call.forward.number)

    def commit(self) -> Awaitable[None] | None:
        """Have the updates made."""
        settling = settle_in_order(self.in_order())
        return IO.run(settling) if self._blocking else settling

    def failure(self, error: BaseException, nodes: Iterable[Node]) -> BaseException:
        """Name every server and its state where some took part and others did not."""
        return partial_update(error, nodes)


async def settle_in_order(held: Sequence[HeldCall]) -> None:
    """Have each server make one update of what it holds, added in this order, and send again what one has lost.

    Raises
    ------
    RemoteError
        What the first server that failed says; `GraphExpired` if it does not know what became of a call.
    """
    calls = [one.call for one in held]
    by_server: dict[str, list[HeldCall]] = {}
    for one in held:
        by_server.setdefault(server_of(one.call, calls), []).append(one)
    outcomes = await asyncio.gather(*map(_settle_shared, by_server.values()), return_exceptions=True)
    for outcome in outcomes:
        if isinstance(outcome, BaseException):
            raise outcome


async def _settle_shared(held: Sequence[HeldCall]) -> None:
    """Have one server make its update, and tell the calls what became of them."""
    applied: Applied = "unknown"
    try:
        await _settle(held)
        applied = "yes"
    except RemoteError as error:
        applied = error.applied or "no"  # type: ignore[assignment]
        raise
    finally:
        for one in held:
            one.call.committed(applied)


async def _settle(held: Sequence[HeldCall]) -> None:
    """Ask a server for the update of what it holds until it is made; send again what it has lost."""
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
                await one.again()
    raise GraphExpired(
        f"{caller.address}: it does not know what became of calls that it has held (applied: unknown)",
        server=str(caller.address),
        applied="unknown",
    )


def server_of(call: RemoteBackward, calls: Iterable[RemoteBackward]) -> str:
    """Return the name of the server of a call: of several addresses of one incarnation, the first."""
    epoch = call.forward.epoch
    if epoch is None:
        return call.forward.caller.where.name
    return next(other.forward.caller.where.name for other in calls if other.forward.epoch == epoch)
