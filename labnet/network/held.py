"""The client's side of rounds: backwards that are held by their servers until all of a step are there."""

import asyncio
import contextlib
import contextvars
import secrets
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from labnet import wire
from labnet.errors import GraphExpired, PartialUpdate
from labnet.network.rounds import RoundOf

if TYPE_CHECKING:
    from labnet.network.backward import RemoteCall

    _Held = tuple[RemoteCall, wire.Body, RoundOf]

#: How often what a server has lost is sent again.
_ATTEMPTS = 10

_current: contextvars.ContextVar["tuple[Round, int] | None"] = contextvars.ContextVar("labnet_round", default=None)


class Membership(NamedTuple):
    """The place of a backward in a round."""

    round: "Round"
    of: RoundOf


class Round:
    """The backwards of one step, applied together at each server.

    Parameters
    ----------
    size : int
        How many make the update of a server; 0 where `settle_one` tells it.

    Examples
    --------
    >>> Round(4).size
    4
    """

    def __init__(self, size: int):
        self.size = size
        self.id = secrets.token_hex(16)
        self._held: dict[str, dict[int, _Held]] = {}

    @staticmethod
    def current() -> "Membership | None":
        """Return what backwards begun now are part of."""
        found = _current.get()
        return None if found is None else Membership(found[0], RoundOf(found[0].id, found[0].size, found[1]))

    @contextlib.contextmanager
    def collecting(self, position: int) -> Iterator[None]:
        """Have the backwards that are begun inside belong to this round, one at each server."""
        token = _current.set((self, position))
        try:
            yield
        finally:
            _current.reset(token)

    def note(self, call: "RemoteCall", body: wire.Body, of: RoundOf) -> None:
        """Take note that a server holds a backward."""
        self._held.setdefault(call.forward.caller.where.name, {})[id(call)] = (call, body, of)

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
        asked = {server: self._settle(server, list(held.values())) for server, held in self._held.items()}
        outcomes = await asyncio.gather(*asked.values(), return_exceptions=True)
        states = dict(zip(asked, ("yes" if told == "yes" else "unknown" for told in outcomes), strict=True))
        for server, told in zip(asked, outcomes, strict=True):
            if isinstance(told, BaseException):
                text = f"{server}: {told}; whether the update of this step was made is not known everywhere"
                raise PartialUpdate(text, servers=states, server=server, applied="unknown") from told
        return states

    async def settle_one(self) -> None:
        """Have the only server of the round make its update now: the calls that were made last are added first.

        Raises
        ------
        RemoteError
            What the server says; `GraphExpired` if it does not know what became of a call.
        """
        held = [one for by_call in self._held.values() for one in by_call.values()]
        held.sort(key=lambda one: -one[0].forward.number)
        await self._settle(held[0][0].forward.caller.where.name, held)

    async def _settle(self, server: str, held: "list[_Held]") -> str:
        for _ in range(_ATTEMPTS):
            told = await self._ask(held)
            if set(told.values()) <= {"yes"}:
                return "yes"
            if "unknown" in told.values():
                break
            for call, body, of in held:
                if told.get(call.forward.call) == "no":
                    await call.again(body, Membership(self, of))
        raise GraphExpired(
            "it does not know what became of calls that it has held (applied: unknown)",
            server=server,
            applied="unknown",
        )

    async def _ask(self, held: "list[_Held]") -> dict[str, Any]:
        caller, of = held[0][0].forward.caller, held[0][2]
        calls = wire.encode_json([call.forward.call for call, _, _ in held])
        response = await caller.call("POST", "/settle", calls, of.header() if of.is_shared else {})
        told: dict[str, Any] = caller.decode("/settle", response)
        return told
