"""Idempotency: a request with a key is carried out once, and its repetitions get the same reply."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable
from typing import NoReturn

from labnet import wire
from labnet.network.protocol import keys
from labnet.network.protocol.headers import ASK, DONE, EPOCH, EPOCH_REQUIRED, KEY, REPLAYED, VERSION
from labnet.network.protocol.keys import Key
from labnet.network.protocol.outcome import Expired
from labnet.network.server.fingerprint import fingerprint_of
from labnet.network.server.ledger import Bounds, Entry, Forgotten, Ledger, Mismatch
from labnet.network.server.routing import Failure, Reply, Request, failure_of
from labnet.store import Outcome as Stored

#: Statuses of requests that were refused before they began; the next attempt is carried out.
_NOT_BEGUN = (429, 503)

#: Routes all of whose effects a store records.
_OF_MODELS = ("/forward", "/optimize", "/apply")

Outcome = Reply | Failure


class IdempotentRequests:
    """The ledger of a server, and the repetitions that wait for a running request.

    Parameters
    ----------
    epoch : str
        The incarnation of the server; its ledger does not include requests of earlier ones.
    """

    def __init__(self, epoch: str, bounds: Bounds | None = None):
        self._epoch = epoch
        self._lineage: str | None = None
        self.ledger = Ledger(bounds)

    def continue_from(self, epoch: str, lineage: str, outcomes: Iterable[Stored]) -> None:
        """Continue from the replies of an earlier incarnation.

        Parameters
        ----------
        lineage : str
            Common prefix of the epochs of all incarnations. None of them has changed a weight for a request that is not
            among the outcomes, so a model's route carries it out.
        """
        self._epoch, self._lineage = epoch, lineage
        now = time.monotonic()
        for outcome in outcomes:
            if outcome.key:
                reply = None
                if outcome.reply is not None:
                    reply = Reply(wire.Body(wire.NATIVE, [outcome.reply]), {VERSION: str(outcome.version)})
                nbytes = len(outcome.reply or b"")
                self.ledger.restore(Key.parse(outcome.key), outcome.fingerprint, reply, nbytes=nbytes, now=now)

    def _may_be_new(self, request: Request) -> bool:
        """Return whether no earlier incarnation can have carried out an unknown request."""
        epoch = request.headers.get(EPOCH, self._epoch).removesuffix(ASK)
        if epoch == self._epoch:
            return True
        return self._lineage is not None and request.path in _OF_MODELS and epoch.startswith(self._lineage)

    async def answer(self, request: Request, carry_out: Callable[[], Awaitable[Reply]]) -> Reply:
        """Return the stored reply of a known key; otherwise carry out the request.

        Raises
        ------
        Failure
            The failure of the first attempt; or 409, 410 or 422 if the key cannot be answered.
        """
        text = request.headers.get(KEY)
        if text is None:
            return await carry_out()
        key = _parse(text)
        self._acknowledge(key, request.headers.get(DONE))
        try:
            entry = self.ledger.begin(key, fingerprint_of(request), now=time.monotonic())
        except (Mismatch, Expired, Forgotten) as error:
            _refuse(key, error)
        if entry is None and request.headers.get(EPOCH, "").endswith(ASK) and not self._may_be_new(request):
            self.ledger.forget(key)
            raise Failure(
                EPOCH_REQUIRED,
                "BadRequest",
                f"send the request again, it was not carried out: {EPOCH} names this server",
            )
        if entry is None and not self._may_be_new(request):
            self.ledger.forget(key)
            _refuse(key, Forgotten("this server was started anew since the request was first sent"))
        if entry is None:
            return await self._carry_out(key, carry_out, keeps_failures=request.path not in _OF_MODELS)
        return _replayed(await self._outcome(entry))

    def replay(self, text: str | None, request: Request) -> Reply | None:
        """Return the stored reply to an earlier equal request, or None.

        Parameters
        ----------
        text : str or None
            Key of the earlier request; the sequence of one of the two keys must continue the other's.
        """
        given = request.headers.get(KEY)
        if text is None or given is None:
            return None
        key = Key.parse(text)
        entry = self.ledger.stored(key) if key.continues(Key.parse(given)) else None
        if entry is None or entry.fingerprint != fingerprint_of(request) or not isinstance(entry.reply, Reply):
            return None
        return _replayed(entry.reply)

    def _acknowledge(self, key: Key, done: str | None) -> None:
        if done is not None and done.isascii() and done.isdigit() and len(done) < 20:
            self.ledger.acknowledge(key.client, int(done))

    async def _carry_out(self, key: Key, carry_out: Callable[[], Awaitable[Reply]], *, keeps_failures: bool) -> Reply:
        """Carry out a request; a failed request to a model changed nothing, so its repetition is carried out."""
        entry = self.ledger.running(key)
        keys.answering(key)
        try:
            reply = await carry_out()
        except Exception as error:
            failure = failure_of(error)  # a copy: the raised exception keeps the frames of its traceback alive
            again = Failure(
                failure.status, failure.error, failure.message, headers=failure.headers, details=failure.details
            )
            self._finish(key, entry, again, kept=keeps_failures)
            raise
        except BaseException:
            stopping = Failure(503, "Overloaded", "the server is stopping", headers={"Retry-After": "1"})
            self._finish(key, entry, stopping)
            raise
        finally:
            keys.answering(None)
        self._finish(key, entry, reply)
        return reply

    def _finish(self, key: Key, entry: Entry, outcome: Outcome, *, kept: bool = True) -> None:
        waiting: asyncio.Future[Outcome] | None = entry.waiting
        if isinstance(outcome, Reply):
            size = outcome.body.nbytes + sum(map(len, outcome.headers.values()))
            self.ledger.finish(key, outcome, nbytes=size, now=time.monotonic())
        elif outcome.status in _NOT_BEGUN or not kept:
            self.ledger.forget(key)
        else:
            size = len(outcome.message)
            self.ledger.finish(key, outcome, nbytes=size, now=time.monotonic(), applied="unknown")
        if waiting is not None and not waiting.done():
            waiting.set_result(outcome)

    async def _outcome(self, entry: Entry) -> Outcome:
        if not entry.running:
            stored: Outcome = entry.reply
            return stored
        if entry.waiting is None:
            entry.waiting = asyncio.get_running_loop().create_future()
        waiting: asyncio.Future[Outcome] = entry.waiting
        return await asyncio.shield(waiting)


def _parse(text: str) -> Key:
    try:
        return Key.parse(text)
    except ValueError as error:
        raise Failure(400, "BadRequest", str(error)) from None


def _replayed(outcome: Outcome) -> Reply:
    """Return a stored outcome as a reply that is marked as replayed."""
    headers = {**outcome.headers, REPLAYED: "1"}
    if isinstance(outcome, Failure):
        raise Failure(outcome.status, outcome.error, outcome.message, headers=headers, details=outcome.details)
    return Reply(outcome.body, headers)


def _refuse(key: Key, error: Exception) -> NoReturn:
    name = f"{key.client}:{'.'.join(map(str, key.sequence))}"
    if isinstance(error, Mismatch):
        raise Failure(
            422,
            "BadRequest",
            f"the key {name:.80} came before with another request: take a new key (applied: unknown)",
            details={"applied": "unknown"},
        )
    if isinstance(error, Expired):
        raise Failure(
            410,
            "GraphExpired",
            f"the request {name:.80} was answered before, and the reply is no longer kept (applied: {error.applied})",
            details={"applied": error.applied},
        )
    reason = str(error) or "newer requests of the same client were answered, and this one, if it came, is forgotten"
    raise Failure(
        409,
        "CallExpired",
        f"the request {name:.80} came too late: {reason}; it is not carried out (applied: unknown)",
        details={"applied": "unknown"},
    )
