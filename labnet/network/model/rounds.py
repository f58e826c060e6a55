"""Rounds: several backwards of one client that make one update, each answered before the update is made.

A pipeline needs the gradient of a micro-batch's input at once, for the stage before, and wants one update of all
micro-batches. So a backward with the header ``Labnet-Round: ID COUNT POSITION`` is held: it is answered, and applied
together with the others of its round, in the order of their positions, when COUNT have come. With a COUNT of 0 they are
applied when a request to ``/settle`` with that header names them: a client does so whose backward reaches one server
several times. ``/settle`` tells what became of calls, and waits for updates that are being made. Pure bookkeeping, no
I/O; the client's side is in `held`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labnet.network.protocol.rounds import MOST, RoundOf

_ROUNDS = 64
#: Most bytes of gradients in rounds whose client says when all are there, and how long one is held.
_SHARED_NBYTES, _SHARED_SECONDS = 1 << 30, 600.0


@dataclass
class Held:
    """A backward that waits for others of its round.

    Attributes
    ----------
    contribution : Contribution
        What it is to add to the update.
    loss : float or None
        That its client has reported.
    nbytes : int
        Of its gradients.
    born : float
        When it came, in seconds of a monotonic clock.
    deferred : list
        Parts of other servers, which hold them until this one makes its update.
    applied : future
        Done when the update of the round is made, or failed.
    """

    call: str
    kept: Any
    contribution: Any
    position: int
    loss: float | None
    nbytes: int
    born: float
    deferred: list[Any]
    applied: "asyncio.Future[int]"


class Rounds:
    """The rounds of a server that are not complete, or whose update is being made."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, list[Held]] = OrderedDict()
        #: Of rounds whose client says when all are there.
        self._shared: OrderedDict[str, Held] = OrderedDict()
        self._shared_nbytes = 0
        self._calls: dict[str, Held] = {}

    def add(self, held: Held, of: RoundOf) -> list[Held] | None:
        """Hold a backward; return its whole round once it is complete."""
        self._calls[held.call] = held
        if of.is_shared:
            self._shared[held.call] = held
            self._shared_nbytes += held.nbytes
            return None
        others = self._open.setdefault(of.id, [])
        others.append(held)
        if len(others) < of.size:
            return None
        return sorted(self._open.pop(of.id), key=lambda other: other.position)

    def close(self, calls: Iterable[str]) -> list[Held] | None:
        """Return the backwards of a round whose client has named them; None if not all of them are held."""
        found = [self._shared.get(call) for call in dict.fromkeys(calls)]
        together = [held for held in found if held is not None]
        if not together or len(together) < len(found):
            return None
        for held in together:
            self._take_shared(held)
        return together

    def release(self, call: str) -> Held | None:
        """Hold a call of a shared round no longer, and return it; None if it is not held, or in an update by now."""
        held = self._shared.get(call)
        if held is not None:
            self._take_shared(held)
            self.end([held])
        return held

    def over(self, now: float) -> list[Held]:
        """Return what nobody is likely to complete, where that is too much or too old; it is held no more."""
        dropped: list[Held] = []
        while len(self._open) > _ROUNDS:
            dropped += self._open.popitem(last=False)[1]
        while len(self._shared) > 1:
            oldest = next(iter(self._shared.values()))
            few = len(self._shared) <= MOST and self._shared_nbytes <= _SHARED_NBYTES
            if few and now - oldest.born < _SHARED_SECONDS:
                break
            self._take_shared(oldest)
            dropped.append(oldest)
        self.end(dropped)
        return dropped

    def _take_shared(self, held: Held) -> None:
        del self._shared[held.call]
        self._shared_nbytes -= held.nbytes

    def end(self, round_: list[Held]) -> None:
        """Forget what was held: it is applied, or was given back."""
        for held in round_:
            self._calls.pop(held.call, None)

    def clear(self) -> list[Held]:
        """Return what is in rounds that are not complete; it is held no more."""
        dropped = [*(held for round_ in self._open.values() for held in round_), *self._shared.values()]
        self._open.clear()
        self._shared.clear()
        self._shared_nbytes = 0
        self.end(dropped)
        return dropped

    def of_call(self, call: str) -> Held | None:
        """Return what is held for a call."""
        return self._calls.get(call)

    def is_open(self, held: Held) -> bool:
        """Return whether others of its round are missing."""
        return held.call in self._shared or any(held in round_ for round_ in self._open.values())
