"""The primary: owns the weights of a model, applies gradients of replicas and sends them its weights."""

import asyncio
import time

from labnet import wire
from labnet.autograd import Gradients
from labnet.network.model.calls import check_renewed
from labnet.network.model.graph import Graph
from labnet.network.model.role import Role
from labnet.network.model.served import ServedModel
from labnet.network.model.updates import Contribution, record_used
from labnet.network.protocol.headers import CALL, EPOCH, KEY, PRIMARY, ROUND, VERSION, renewed_by
from labnet.network.protocol.outcome import Expired
from labnet.network.protocol.rounds import RoundOf
from labnet.network.replication.messages import ForwardedGradients, gone
from labnet.network.server.fingerprint import fingerprint_for
from labnet.network.server.port import Port
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.nn import Module
from labnet.store import Outcome
from labnet.tensor import Tensor

#: Seconds for which an up-to-date replica waits for new weights.
FOLLOW_SECONDS = 5.0


class Primary(Role):
    """The role of a primary, with its additional routes.

    Parameters
    ----------
    lineage : str
        Common prefix of its epochs; it changes only if an answered update is lost.
    """

    follows = False

    def __init__(self, lineage: str):
        self.lineage = lineage
        self._waiting: set[asyncio.Future[None]] = set()

    def attach(self, served: ServedModel, bound: Port) -> None:
        """Start as the primary of a model that is about to be served."""
        self._served, self._port = served, bound
        if served.store is None:
            served.calls.restore(self.lineage, ())
        else:  # the store has the calls of its lineage
            self.lineage = served.store.lineage

    def close(self) -> None:
        """Wake all waiting replicas; runs on the I/O loop."""
        self.tell()

    def tell(self) -> None:
        """Wake all waiting replicas because the weights have changed; runs on the I/O loop."""
        waiting, self._waiting = self._waiting, set()
        for future in waiting:
            if not future.done():
                future.set_result(None)

    async def expired(self, call: str) -> None:
        """Refuse further gradients of a call from replicas."""
        await self._served.give_up(call)

    def routes(self) -> dict[str, Route]:
        """Return the routes for replicas."""
        return {
            "/apply": Route(
                ("POST",),
                self._apply,
                content_types=(wire.NATIVE,),
                replies=(wire.NATIVE,),
                summary="Train with the gradients that a replica has computed",
            ),
            "/follow": Route(
                ("GET",),
                self._follow,
                counted=False,
                replies=(wire.NATIVE,),
                summary="Wait until the parameters are others than the replica's, and give them",
            ),
        }

    async def _follow(self, request: Request) -> Reply:
        served = self._served
        known = request.headers.get(EPOCH), request.headers.get(VERSION)
        until = time.monotonic() + FOLLOW_SECONDS
        while known == (self._port.epoch, str(served.version)) and not self._port.draining:
            left = until - time.monotonic()
            if left <= 0:
                return Reply(wire.Body(None, []), {VERSION: str(served.version)})
            future = asyncio.get_running_loop().create_future()
            self._waiting.add(future)
            await asyncio.wait([future], timeout=left)
            self._waiting.discard(future)
        model = served.model
        if not isinstance(model, Module):
            raise Failure(404, "RouteNotFound", "/follow: this model is no Module, whose parameters have names")
        version, state = await served.run(lambda: (served.version, model.state_dict()))
        return Reply(wire.encode_native(wire.Message(state, named=True)), {VERSION: str(version)})

    async def _apply(self, request: Request) -> Reply:
        """Apply the gradients of a call from a replica once; refuse a call that was given up."""
        call = request.headers.get(CALL, "")
        async with self._served.attempts.of(renewed_by(request.headers) or call):
            return await self._apply_to(call, request)

    async def _apply_to(self, call: str, request: Request) -> Reply:
        served = self._served
        fingerprint, of_round = fingerprint_for(request), RoundOf.read(request.headers.get(ROUND))
        epoch = request.headers.get(PRIMARY, "")
        known = epoch.startswith(self.lineage)  # the outcomes of its calls are known
        if not known or (of_round is not None and epoch != self._port.epoch):  # the rest of its round is lost
            raise gone(
                served.calls.fate(call, now=time.monotonic()) if known else "unknown",
                "the primary was restarted since the replica computed this gradient, which is not applied now",
            )
        handed = ForwardedGradients.decode(await request.message())
        contribution = self._contribution(request, call, handed, fingerprint)
        await served.rounds.release(call)
        try:
            check_renewed(served.calls, contribution.renews)
            served.calls.claim(call)
        except Expired as expired:
            if expired.applied == "no":
                await served.give_up(call)
            raise gone(expired.applied, f"the call {call:.40} is not open") from None
        reply = wire.Body(wire.NATIVE, [handed.reply])
        try:
            served.updates.check_staleness(contribution.version)
            if of_round is not None:
                await served.rounds.hold(call, None, contribution, of_round, None)
                return Reply(reply, {VERSION: str(served.version), **of_round.header()})
            version = await served.updates.apply_any(contribution)
        except Exception:
            served.calls.unclaim(call)
            raise
        record_used(served.calls, contribution)
        self.tell()
        return Reply(reply, {VERSION: str(version)})

    def _contribution(
        self, request: Request, call: str, handed: ForwardedGradients, fingerprint: tuple[object, ...]
    ) -> Contribution:
        model, key = self._served.model, request.headers.get(KEY, "").strip('"')
        parameters = dict(model.named_parameters()) if isinstance(model, Module) else {}
        pairs: list[tuple[Tensor, Tensor]] = []
        for name, gradient in handed.gradients.items():
            parameter = parameters.get(name)
            if parameter is None or parameter.shape != gradient.shape or parameter.dtype != gradient.dtype:
                expected = None if parameter is None else (parameter.shape, parameter.dtype.name)
                raise Failure(
                    422,
                    "BadGradient",
                    f"the gradient of {name!r} has shape and dtype {(gradient.shape, gradient.dtype.name)}, "
                    f"the parameter {expected}",
                )
            pairs.append((parameter, gradient))
        version, renews = request.headers.get(VERSION, ""), renewed_by(request.headers)
        if not (version.isascii() and version.isdigit()):
            raise Failure(400, "BadRequest", f"/apply needs the header {VERSION} of the replica's weights")

        def outcome(led_to: int) -> Outcome:
            return Outcome(key, fingerprint, call, handed.reply, led_to, renews)

        return Contribution(
            request.client or "",
            key,
            call,
            Graph({}, {}, True, key=key),
            int(version),
            Gradients(pairs),
            outcome=outcome,
            renews=renews,
        )
