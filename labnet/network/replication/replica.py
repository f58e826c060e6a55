"""A replica: a server that follows the weights of a primary and forwards gradients to it."""

import asyncio
import contextlib
import contextvars
import logging
import math
import time
from collections.abc import Awaitable, Callable

from labnet import wire
from labnet.errors import GraphExpired, RemoteError
from labnet.network.client.session import Caller
from labnet.network.model.role import Role
from labnet.network.model.served import ServedModel
from labnet.network.model.updates import Contribution
from labnet.network.protocol.headers import (
    AFTER,
    CALL,
    CLIENT,
    EPOCH,
    LINEAGE,
    PRIMARY,
    REFUSE,
    RENEWS,
    ROUND,
    VERSION,
    BodyDigest,
    Least,
)
from labnet.network.protocol.keys import Ticket
from labnet.network.protocol.rounds import RoundOf
from labnet.network.replication.messages import ForwardedGradients, failure_of
from labnet.network.server.port import Port
from labnet.network.server.routing import Failure, Reply, Request
from labnet.network.threads import IO, in_task
from labnet.nn import Module

log = logging.getLogger("labnet.network")

#: Seconds for which a forward waits for the weights of its client's update, and for which a replica keeps serving
#: without contact to the primary.
_WAIT_SECONDS, _SILENCE_SECONDS = 10.0, 30.0
_PAUSE_SECONDS = 0.2


class Replica(Role):
    """The role of a replica.

    Parameters
    ----------
    caller : Caller
        Caller of the primary.
    epoch : str
        Incarnation of the primary when the replica starts.
    """

    follows = True
    submits = True

    def __init__(self, caller: Caller, epoch: str):
        self._caller = caller
        self.lineage = epoch[:LINEAGE]
        #: Incarnation of the primary that sent the weights; accessed on the worker, as they are.
        self.epoch: str | None = None
        self._heard = 0.0
        self._changed = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self._closed = False

    def attach(self, served: ServedModel, bound: Port) -> None:
        """Load the weights of the primary before anything is served.

        Raises
        ------
        RemoteError
            If the primary cannot be reached.
        """
        self._served = served
        IO.run(self._fetch())
        contextvars.Context().run(IO.run, self._begin())

    async def _begin(self) -> None:
        self._task = asyncio.create_task(self._follow())

    def close(self) -> None:
        """Stop following the primary; runs on the I/O loop."""
        self._closed = True  # a cancellation may be missed, see `Registry._stop`
        if self._task is not None:
            self._task.cancel()

    async def _follow(self) -> None:
        """Keep the weights up to date."""
        while not self._closed:
            try:
                await self._fetch()
            except Exception as error:  # any error: if this task ended, the weights would silently become outdated
                expected = isinstance(error, RemoteError | Failure | RuntimeError)
                text = "the primary cannot be followed now: %s: %s"
                log.log(logging.DEBUG if expected else logging.WARNING, text, type(error).__name__, error)
                await asyncio.sleep(_PAUSE_SECONDS)

    async def _fetch(self) -> None:
        """Wait for new weights of the primary and load them."""
        served, model = self._served, self._served.model
        assert isinstance(model, Module)
        known = {} if self.epoch is None else {EPOCH: self.epoch, VERSION: str(served.version)}
        response = await self._caller.call("GET", "/follow", headers=known)
        epoch, version = response.headers.get(EPOCH), int(response.headers[VERSION])
        if response.status != 204:
            message = self._caller.decode("/follow", response)
            state = dict(message.tensors)

            def take_over() -> None:
                model.load_state_dict(state)
                served.updates.follow(version)
                self.epoch = epoch

            await served.run(take_over)
        self._heard = time.monotonic()
        self._changed.set()
        self._changed = asyncio.Event()

    async def ready(self, request: Request) -> None:
        """Wait until the weights are recent enough for a forward.

        Raises
        ------
        Failure
            If they do not arrive in time.
        """
        least = Least.read(request.headers.get(AFTER))
        until = time.monotonic() + _WAIT_SECONDS
        while (
            least is not None and least.lineage == self.lineage and self._served.version < least.version
        ) or time.monotonic() - self._heard > _SILENCE_SECONDS:
            left = until - time.monotonic()
            if left <= 0:
                raise Failure(
                    503,
                    "Overloaded",
                    f"this replica has version {self._served.version} of the weights, and its primary does not answer",
                    headers={"Retry-After": "1"},
                )
            await in_task()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)

    async def submit(
        self, contribution: Contribution, request: Request, reply: bytes, of: RoundOf | None, epoch: str | None
    ) -> int:
        """Forward a contribution to the primary; return the new version.

        Only a primary that knows all outcomes of the incarnation whose weights the forward used applies it: it must
        know which calls were given up and reported as not applied.

        Raises
        ------
        Failure
            The reply to the client.
        """
        served = self._served
        trained = await served.run(lambda: served.updates.trained(contribution))
        model = served.model
        assert isinstance(model, Module)
        names = {id(parameter): name for name, parameter in model.named_parameters()}
        handed = ForwardedGradients({names[id(parameter)]: gradient for parameter, gradient in trained.items()}, reply)
        headers = {
            CALL: contribution.call,
            CLIENT: contribution.client,
            VERSION: str(contribution.version),
            PRIMARY: epoch or "",
            **BodyDigest(len(request.body), request.digest).header(),
            **(of.header() if of is not None else {}),
            **({RENEWS: contribution.renews} if contribution.renews else {}),
        }
        ticket = Ticket(contribution.key.strip('"'))
        try:
            response = await self._caller.call("POST", "/apply", handed.encode(), headers, ticket=ticket)
        except RemoteError as error:
            foreign = isinstance(error, GraphExpired) and (error.applied == "unknown" or of is not None)
            if foreign and self.epoch == epoch:
                self._heard = -math.inf  # the weights may be outdated: the next forward waits for new ones
            raise failure_of(error) from error
        return int(response.headers[VERSION])

    async def settle(self, request: Request, settle_locally: Callable[[Request], Awaitable[Reply]]) -> Reply:
        """Ask the primary for the outcome of calls."""
        body = wire.Body(wire.JSON, [bytes(request.body)])
        headers = {name: value for name in (ROUND, REFUSE) if (value := request.headers.get(name)) is not None}
        try:
            response = await self._caller.call("POST", "/settle", body, headers)
        except RemoteError as error:
            raise failure_of(error) from error
        return Reply(wire.Body(wire.JSON, [response.body]), {VERSION: response.headers[VERSION]})
