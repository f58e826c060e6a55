"""Holds the backwards of rounds on a server, makes their updates, and tells what became of calls."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from typing import Any

import msgspec

from labnet import wire
from labnet.network.client.shared_updates import HeldCall, settle_in_order
from labnet.network.model.attempts import Attempts
from labnet.network.model.backward import failed
from labnet.network.model.calls import Calls, Kept
from labnet.network.model.rounds import Held, Rounds
from labnet.network.model.updates import Contribution, Updates, note_used
from labnet.network.protocol.headers import VERSION
from labnet.network.protocol.rounds import MOST, ROUND, RoundOf
from labnet.network.server.routing import Failure, Reply, Request
from labnet.stats import Curve


class Holding:
    """The rounds of one served model.

    Parameters
    ----------
    give_back : callable
        Keeps the graph of a call again that was taken and not applied.
    tell : callable
        Called when the weights have changed.
    url : str
        Address of the server, for errors that name it beside others.
    """

    def __init__(
        self,
        updates: Updates,
        calls: Calls,
        attempts: Attempts,
        give_back: Callable[[str, Kept | None], None],
        losses: Curve,
        tell: Callable[[], None],
        url: str,
    ):
        self._url = url
        self._updates = updates
        self._calls = calls
        self._attempts = attempts
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
        self,
        call: str,
        kept: Kept | None,
        contribution: Contribution,
        of: RoundOf,
        loss: float | None,
        deferred: Sequence[HeldCall] = (),
    ) -> None:
        """Keep a contribution, and begin the update of its round once that is complete."""
        await self._updates.check(contribution)
        nbytes, now = sum(gradient.nbytes for gradient in contribution.gradients.values()), time.monotonic()
        applied: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        together = self._rounds.add(
            Held(call, kept, contribution, of.position, loss, nbytes, now, list(deferred), applied), of
        )
        for dropped in self._rounds.over(now):
            self._give_back(dropped.call, dropped.kept)
        if together is not None:
            self._begin(self._apply(together, self._updates.apply_all([held.contribution for held in together])))

    async def release(self, call: str) -> None:
        """Give back a call that is held for an update that its client has not asked for: it comes once more.

        Where that update is being made, wait for it.
        """
        held = self._rounds.release(call)
        if held is not None:
            self._give_back(held.call, held.kept)
        elif (held := self._rounds.of_call(call)) is not None and not self._rounds.is_open(held):
            await asyncio.wait([held.applied])

    def _begin(self, doing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _commit(self, calls: list[str]) -> None:
        """Make one update of calls, if all of them are held for one.

        Raises
        ------
        Failure
            If the update cannot be made; the calls may be tried again.
        """
        together = self._rounds.close(calls)
        if together is not None:
            await asyncio.shield(self._begin(self._apply(together, self._apply_everywhere(together))))
            together[0].applied.result()  # raises what the update has raised

    async def _apply_everywhere(self, together: list[Held]) -> int:
        """Have other servers make their updates, and then this one; return the version that it led to."""
        contributions = [held.contribution for held in together]
        deferred = [part for held in together for part in held.deferred]
        try:
            await settle_in_order(deferred)
            return await self._updates.apply(*contributions)
        except Exception as error:
            nodes = [node for contribution in contributions for node in contribution.graph.nodes]
            raise failed(error, nodes, self._url) from error.__cause__

    async def _apply(self, together: list[Held], updating: Awaitable[int]) -> None:
        loss = next((held.loss for held in reversed(together) if held.loss is not None), None)
        try:
            version = await updating
        except Exception as error:
            for held in together:
                self._give_back(held.call, held.kept)
                held.applied.set_exception(error)
                held.applied.exception()  # told to whoever asks
        else:
            for held in together:
                note_used(self._calls, held.contribution)
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
        of_round = RoundOf.read(request.headers.get(ROUND))
        if of_round is not None and of_round.is_shared:
            await self._commit(calls)
        states = {call: await self._state_of(call) for call in calls}
        return Reply(wire.encode_json(states), {VERSION: str(self._updates.version)})

    async def _state_of(self, call: str) -> str:
        """Return "yes", "no" or "unknown": whether a call was applied; "held" where others of its round are missing."""
        async with self._attempts.of(call):
            return await self._known_state_of(call)

    async def _known_state_of(self, call: str) -> str:
        held = self._rounds.of_call(call)
        if held is not None and self._rounds.is_open(held):
            return "held"
        if held is not None:
            await asyncio.shield(held.applied)
            return "yes"
        state = self._calls.fate(call, now=time.monotonic())
        return "unknown" if state == "no" and self._updates.in_doubt else state
