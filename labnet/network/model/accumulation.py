"""The accumulation rounds of a server: their backwards, their updates, and the outcome of each call."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from typing import Any

import msgspec

from labnet import wire
from labnet.network.client.shared_updates import PendingCall, flush_in_order
from labnet.network.model.attempts import Attempts
from labnet.network.model.backward import failed
from labnet.network.model.calls import CallRecord, Calls
from labnet.network.model.rounds import PendingBackward, Rounds
from labnet.network.model.updates import Contribution, Updates, record_used
from labnet.network.protocol.headers import ROUND, VERSION
from labnet.network.protocol.rounds import MOST, RoundOf
from labnet.network.server.routing import Failure, Reply, Request
from labnet.stats import Curve


class AccumulationRounds:
    """The accumulation rounds of one served model.

    Parameters
    ----------
    release_graph : callable
        Makes the graph of a call available again after it was taken but not applied.
    tell : callable
        Called when the weights have changed.
    url : str
        Address of this server, for errors that name several servers.
    """

    def __init__(
        self,
        updates: Updates,
        calls: Calls,
        attempts: Attempts,
        release_graph: Callable[[str, CallRecord | None], None],
        losses: Curve,
        tell: Callable[[], None],
        url: str,
    ):
        self._url = url
        self._updates = updates
        self._calls = calls
        self._attempts = attempts
        self._release_graph = release_graph
        self._losses = losses
        self._tell = tell
        self._rounds = Rounds()
        self._tasks: set[asyncio.Task[None]] = set()

    def clear(self) -> None:
        """Drop all incomplete rounds and release their graphs, which were not applied."""
        for held in self._rounds.clear():
            self._release_graph(held.call, held.kept)

    async def hold(
        self,
        call: str,
        kept: CallRecord | None,
        contribution: Contribution,
        of: RoundOf,
        loss: float | None,
        deferred: Sequence[PendingCall] = (),
    ) -> None:
        """Add a contribution to its round; start the update when the round is complete."""
        await self._updates.check(contribution)
        nbytes, now = sum(gradient.nbytes for gradient in contribution.gradients.values()), time.monotonic()
        applied: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        together = self._rounds.add(
            PendingBackward(call, kept, contribution, of, loss, nbytes, now, list(deferred), applied), of
        )
        for dropped in self._rounds.over(now):
            self._release_graph(dropped.call, dropped.kept)
        if together is not None:
            self._begin(self._apply(together, self._updates.apply_all([held.contribution for held in together])))

    async def release(self, call: str) -> None:
        """Release a call from a round that its client has not committed: the client sends it again.

        If the update of the round is running, wait for it.
        """
        held = self._rounds.release(call)
        if held is not None:
            self._release_graph(held.call, held.kept)
        elif (held := self._rounds.of_call(call)) is not None and not self._rounds.is_open(held):
            await asyncio.wait([held.applied])

    def _begin(self, doing: Coroutine[Any, Any, None]) -> "asyncio.Task[None]":
        task = asyncio.create_task(doing)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task

    async def _commit(self, calls: list[str]) -> None:
        """Make one update of several calls if all of them are in one round.

        Raises
        ------
        Failure
            If the update cannot be made. The calls may be sent again.
        """
        together = self._rounds.close(calls)
        if together is not None and any(self._is_used(held.contribution.renews) for held in together):
            for held in together:  # a late request for calls whose forwards were repeated: their originals are applied
                record_used(self._calls, held.contribution)
            self._rounds.end(together)
        elif together is not None:
            await asyncio.shield(self._begin(self._apply(together, self._apply_everywhere(together))))
            together[0].applied.result()  # raises the error of the update

    async def _apply_everywhere(self, together: list[PendingBackward]) -> int:
        """Apply the updates of other servers, then of this one; return the new version."""
        contributions = [held.contribution for held in together]
        deferred = [part for held in together for part in held.deferred]
        try:
            await flush_in_order(deferred)
            return await self._updates.apply(*contributions)
        except Exception as error:
            if _is_temporary(error):
                raise
            nodes = [node for contribution in contributions for node in contribution.graph.nodes]
            raise failed(error, nodes, self._url) from error.__cause__

    async def _apply(self, together: list[PendingBackward], updating: Awaitable[int]) -> None:
        loss = next((held.loss for held in reversed(together) if held.loss is not None), None)
        try:
            version = await updating
        except Exception as error:
            self._rounds.end(together)
            for held in together:
                held.applied.set_exception(error)
                held.applied.exception()  # marks the error as retrieved; waiters still get it
                if held.of.is_shared and _is_temporary(error):
                    applied: asyncio.Future[int] = asyncio.get_running_loop().create_future()
                    self._rounds.add(replace(held, applied=applied), held.of)  # its client asks for the update again
                else:
                    self._release_graph(held.call, held.kept)
        except BaseException:
            self._rounds.end(together)
            raise
        else:
            for held in together:
                record_used(self._calls, held.contribution)
                held.applied.set_result(version)
            self._rounds.end(together)
            if loss is not None:
                self._losses.add(version, loss)
            self._tell()

    def _is_used(self, call: str) -> bool:
        return bool(call) and self._calls.fate(call, now=time.monotonic()) == "yes"

    async def settle(self, request: Request) -> Reply:
        """Return the outcome of each call; wait for running updates first."""
        calls = decode_calls(request)
        of_round = RoundOf.read(request.headers.get(ROUND))
        if of_round is not None and of_round.is_shared:
            await self._commit(calls)
        states = {call: await self._state_of(call) for call in calls}
        return Reply(wire.encode_json(states), {VERSION: str(self._updates.version)})

    async def _state_of(self, call: str) -> str:
        """Return whether a call was applied: "yes", "no", "unknown", or "held" while its round is incomplete.

        Raises
        ------
        Failure
            503 while a failed update cannot be removed from the journal.
        """
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
        if state == "no":
            await self._updates.end_doubt()
        return state


def _is_temporary(error: Exception) -> bool:
    """Return whether the client sends the same request again by itself."""
    return isinstance(error, Failure) and error.status == 503


def decode_calls(request: Request) -> list[str]:
    """Return the ids of calls in the body of a request.

    Raises
    ------
    Failure
        If it contains no list of ids, or too many.
    """
    try:
        calls = msgspec.json.decode(request.body, type=list[str])
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise Failure(400, "BadRequest", f"/settle needs a list of ids of calls: {error}") from None
    if not 0 < len(calls) <= MOST:
        raise Failure(400, "BadRequest", f"/settle needs 1 to {MOST} ids of calls, got {len(calls)}")
    return calls
