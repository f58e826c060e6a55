"""Accumulation rounds: several backwards of one client make one update, each answered before it.

A pipeline needs the gradient of a micro-batch's input at once, for the previous stage, and one update for all
micro-batches. A backward with the header ``Labnet-Round: ID COUNT POSITION`` is therefore answered at once and held.
When COUNT backwards have arrived, they are applied together, in the order of their positions. With a COUNT of 0 they
are applied when a request to ``/settle`` with that header names them; a client does so if one backward reaches the same
server several times. ``/settle`` returns the outcome of calls and waits for running updates. Pure bookkeeping, no I/O;
the client's side is `labnet.network.client.shared_updates`.
"""

import asyncio
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from labnet.network.protocol.rounds import MOST, RoundOf

_ROUNDS = 64
#: Most bytes of gradients in rounds that their client commits, and the longest time that one is held.
_SHARED_NBYTES, _SHARED_SECONDS = 1 << 30, 600.0


@dataclass
class PendingBackward:
    """A backward that waits for the others of its round.

    Attributes
    ----------
    contribution : Contribution
        Its part of the update.
    loss : float or None
        Loss that its client reported.
    nbytes : int
        Size of its gradients.
    born : float
        Time of arrival, in seconds of a monotonic clock.
    deferred : list
        Backwards that other servers hold until this server makes its update.
    applied : future
        Resolved when the update of the round succeeds or fails.
    """

    call: str
    kept: Any
    contribution: Any
    of: RoundOf
    loss: float | None
    nbytes: int
    born: float
    deferred: list[Any]
    applied: "asyncio.Future[int]"


class Rounds:
    """The rounds of a server that are incomplete or being applied."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, list[PendingBackward]] = OrderedDict()
        #: Backwards of rounds that their client commits.
        self._shared: OrderedDict[str, PendingBackward] = OrderedDict()
        self._shared_nbytes = 0
        self._calls: dict[str, PendingBackward] = {}

    def add(self, held: PendingBackward, of: RoundOf) -> list[PendingBackward] | None:
        """Add a backward; return its whole round when it is complete, otherwise None."""
        self._calls[held.call] = held
        if of.is_shared:
            self._shared[held.call] = held
            self._shared_nbytes += held.nbytes
            return None
        others = self._open.setdefault(of.id, [])
        others.append(held)
        if len(others) < of.size:
            return None
        return sorted(self._open.pop(of.id), key=lambda other: other.of.position)

    def close(self, calls: Iterable[str]) -> list[PendingBackward] | None:
        """Remove and return the backwards that a client commits; None unless all of them are held."""
        found = [self._shared.get(call) for call in dict.fromkeys(calls)]
        together = [held for held in found if held is not None]
        if not together or len(together) < len(found):
            return None
        for held in together:
            self._take_shared(held)
        return together

    def release(self, call: str) -> PendingBackward | None:
        """Remove and return a call of a shared round; None if it is not held or is being applied."""
        held = self._shared.get(call)
        if held is not None:
            self._take_shared(held)
            self.end([held])
        return held

    def over(self, now: float) -> list[PendingBackward]:
        """Remove and return the oldest backwards while there are too many or they are too old."""
        dropped: list[PendingBackward] = []
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

    def _take_shared(self, held: PendingBackward) -> None:
        del self._shared[held.call]
        self._shared_nbytes -= held.nbytes

    def end(self, round_: list[PendingBackward]) -> None:
        """Forget backwards that were applied or released."""
        for held in round_:
            self._calls.pop(held.call, None)

    def clear(self) -> list[PendingBackward]:
        """Remove and return the backwards of all incomplete rounds."""
        dropped = [*(held for round_ in self._open.values() for held in round_), *self._shared.values()]
        self._open.clear()
        self._shared.clear()
        self._shared_nbytes = 0
        self.end(dropped)
        return dropped

    def of_call(self, call: str) -> PendingBackward | None:
        """Return the held backward of a call, or None."""
        return self._calls.get(call)

    def is_open(self, held: PendingBackward) -> bool:
        """Return whether the round of a backward is incomplete."""
        return held.call in self._shared or any(held in round_ for round_ in self._open.values())
