"""Holds the backwards of rounds on a server, makes their updates, and tells what became of calls."""

import asyncio
import time
from collections.abc import Callable

import msgspec

from labnet import wire
from labnet.network.calls import Calls, Kept
from labnet.network.names import VERSION
from labnet.network.rounds import MOST, Held, RoundOf, Rounds
from labnet.network.routes import Failure, Reply, Request
from labnet.network.updates import Contribution, Updates
from labnet.stats import Curve


class Holding:
    """The rounds of one served model.

    Parameters
    ----------
    give_back : callable
        Keeps the graph of a call again that was taken and not applied.
    tell : callable
        Called when the weights have changed.
    """

    def __init__(
        self,
        updates: Updates,
        calls: Calls,
        give_back: Callable[[str, Kept | None], None],
        losses: Curve,
        tell: Callable[[], None],
    ):
        self._updates = updates
        self._calls = calls
        self._give_back = give_back
        self._losses = losses
        self._tell = tell
        self._rounds = Rounds()
        self._tasks: set[asyncio.Task[None]] = set()

    def clear(self) -> None:
        """Give back what is in rounds that are not complete: it was not applied."""
        for held in self._rounds.clear():
            self._give_back(held.call, held.kept)

    async def hold(
        self, call: str, kept: Kept | None, contribution: Contribution, of: RoundOf, loss: float | None
    ) -> None:
        """Keep a contribution, and begin the update of its round once that is complete."""
        await self._updates.check(contribution)
        held = Held(call, kept, contribution, of.position, asyncio.get_running_loop().create_future())
        together = self._rounds.add(held, of)
        for dropped in self._rounds.over():
            self._give_back(dropped.call, dropped.kept)
        if together is not None:
            task = asyncio.create_task(self._apply(together, loss))
            self._tasks.add(task)
            task.add_done_callback(self._tasks.discard)

    async def _apply(self, together: list[Held], loss: float | None) -> None:
        try:
            version = await self._updates.apply_all([held.contribution for held in together])
        except Exception as error:
            for held in together:
                self._give_back(held.call, held.kept)
                held.applied.set_exception(error)
                held.applied.exception()  # told to whoever asks
        else:
            for held in together:
                held.applied.set_result(version)
            if loss is not None:
                self._losses.add(version, loss)
            self._tell()
        finally:
            self._rounds.end(together)

    async def settle(self, request: Request) -> Reply:
        """Tell what became of calls, and wait for updates that are being made."""
        try:
            calls = msgspec.json.decode(request.body, type=list[str])
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise Failure(400, "BadRequest", f"/settle needs a list of ids of calls: {error}") from None
        if not 0 < len(calls) <= MOST:
            raise Failure(400, "BadRequest", f"/settle needs 1 to {MOST} ids of calls, got {len(calls)}")
        states = {call: await self._state_of(call) for call in calls}
        return Reply(wire.encode_json(states), {VERSION: str(self._updates.version)})

    async def _state_of(self, call: str) -> str:
        """Return "yes", "no" or "unknown": whether a call was applied; "held" where others of its round are missing."""
        held = self._rounds.of_call(call)
        if held is not None and self._rounds.is_open(held):
            return "held"
        if held is not None:
            await asyncio.shield(held.applied)
            return "yes"
        state = self._calls.fate(call, now=time.monotonic())
        return "unknown" if state == "no" and self._updates.in_doubt else state
