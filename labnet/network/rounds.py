"""Rounds: several backwards of one client that make one update, each answered before the update is made.

A pipeline needs the gradient of a micro-batch's input at once, for the stage before, and wants one update of all
micro-batches. So a backward with the header ``Labnet-Round: ID COUNT POSITION`` is held: it is answered, and applied
together with the others of its round, in the order of their positions, when COUNT have come. ``/settle`` tells what
became of calls, and waits for updates that are being made. Pure bookkeeping, no I/O; the client's side is in `held`.
"""

import asyncio
import re
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any, NamedTuple

from labnet.network.routes import Failure

#: Header of a backward that is held, and of the reply to one.
ROUND = "Labnet-Round"
#: Most micro-batches of a round, most rounds that are not complete, and most calls that one may ask for.
MOST = 4096
_ROUNDS = 64

_TEXT = re.compile(r"([0-9a-f]{8,64}) ([1-9][0-9]{0,3}) (0|[1-9][0-9]{0,3})", re.ASCII)


class RoundOf(NamedTuple):
    """Which round a backward belongs to, how many there are in it, and where in their order it stands."""

    id: str
    size: int
    position: int = 0

    @classmethod
    def read(cls, text: str | None) -> "RoundOf | None":
        """Read the header.

        Raises
        ------
        Failure
            If it is not ``ID COUNT POSITION``.

        Examples
        --------
        >>> RoundOf.read("c0ffee00 4 0")
        RoundOf(id='c0ffee00', size=4, position=0)
        """
        if text is None:
            return None
        found = _TEXT.fullmatch(text)
        if found is None or int(found[2]) > MOST:
            raise Failure(
                400,
                "BadRequest",
                f"{ROUND} must be an id of 8 to 64 hex digits, a count up to {MOST} and a position: {text!r:.90}",
            )
        return cls(found[1], int(found[2]), int(found[3]))

    def header(self) -> dict[str, str]:
        """Return the header."""
        return {ROUND: f"{self.id} {self.size} {self.position}"}


@dataclass
class Held:
    """A backward that waits for others of its round.

    Attributes
    ----------
    applied : future
        Done when the update of the round is made, or failed.
    """

    call: str
    kept: Any
    contribution: Any
    position: int
    applied: "asyncio.Future[int]"


class Rounds:
    """The rounds of a server that are not complete, or whose update is being made."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, list[Held]] = OrderedDict()
        self._calls: dict[str, Held] = {}

    def add(self, held: Held, of: RoundOf) -> list[Held] | None:
        """Hold a backward; return its whole round once it is complete."""
        others = self._open.setdefault(of.id, [])
        others.append(held)
        self._calls[held.call] = held
        if len(others) < of.size:
            return None
        return sorted(self._open.pop(of.id), key=lambda other: other.position)

    def over(self) -> list[Held]:
        """Return rounds that nobody is likely to complete, where there are too many; they are held no more."""
        dropped: list[Held] = []
        while len(self._open) > _ROUNDS:
            dropped += self._open.popitem(last=False)[1]
        self.end(dropped)
        return dropped

    def end(self, round_: list[Held]) -> None:
        """Forget what was held: it is applied, or was given back."""
        for held in round_:
            self._calls.pop(held.call, None)

    def clear(self) -> list[Held]:
        """Return what is in rounds that are not complete; it is held no more."""
        dropped = [held for round_ in self._open.values() for held in round_]
        self._open.clear()
        self.end(dropped)
        return dropped

    def of_call(self, call: str) -> Held | None:
        """Return what is held for a call."""
        return self._calls.get(call)

    def is_open(self, held: Held) -> bool:
        """Tell whether others of its round are missing."""
        return any(held in round_ for round_ in self._open.values())
