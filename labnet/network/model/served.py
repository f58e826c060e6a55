"""A served model: forward and backward of one callable, its graphs and its updates."""

import contextlib
import logging
import time
from collections.abc import Callable, Iterator
from typing import Any, ClassVar, TypeVar

from labnet import wire
from labnet.autograd import Node
from labnet.errors import ServeError
from labnet.network.client.partial_update import RemoteNode, states_of
from labnet.network.client.shared_updates import SharedUpdates
from labnet.network.model.accumulation import AccumulationRounds, decode_calls
from labnet.network.model.attempts import Attempts
from labnet.network.model.backward import (
    Backward,
    Calling,
    class_of,
    failed,
    leaves_of,
    loss_of,
    message_of,
    outputs_of,
)
from labnet.network.model.calls import CallRecord, Calls, Limits, check_renewed
from labnet.network.model.graph import Graph, check_gradient
from labnet.network.model.recovery import ForwardState, LoggedForward, renewed_call
from labnet.network.model.role import Role
from labnet.network.model.staleness import Policy
from labnet.network.model.updates import Optimizer, Updates, record_used
from labnet.network.monitor.gpu_times import GpuTimes, Sample
from labnet.network.monitor.norms import Norms
from labnet.network.protocol import keys
from labnet.network.protocol.headers import CALL, KEY, LOSS, MODE, REFUSE, ROUND, VERSION, renewed_by
from labnet.network.protocol.outcome import Expired
from labnet.network.protocol.rounds import RoundOf
from labnet.network.server.functions import encoded
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.network.threads import Worker, await_model
from labnet.nn import Module
from labnet.ops.core.creation import random_state, restart_at
from labnet.stats import Clients, Curve, Rate, Timeline
from labnet.store import Store
from labnet.tensor import Tensor

T = TypeVar("T")
log = logging.getLogger("labnet.network")


class ServedModel:
    """Forward, backward and update of a model; computes on the server's worker.

    Parameters
    ----------
    model : callable
        From tensor to tensor, sync or async, or a `Module`; named tensors are passed by name.
    optimizer : callable, optional
        Given the gradients of the model's parameters on every backward. Without one nothing is trained.
    compute : callable, optional
        Computes the model in its place, with the same parameters.
    device : str, optional
        Device that `compute` computes on.
    new_call : callable
        Returns a fresh call id, given the version of the weights.
    previous : ServedModel, optional
        The model that this one replaces.
    policy : Policy, optional
        How to treat stale gradients.
    replay : callable, optional
        Given a key and a request, returns the stored reply to an equal request with that key, or None.
    url : str
        Address of this server, for errors that name several servers.
    store : Store, optional
        Where updates are stored.
    role : Role, optional
        Role of this server among the servers of the model.
    clients : Clients, optional
        Counts updates by client.
    """

    #: Paths of the routes of every served model.
    ROUTES: ClassVar[tuple[str, ...]] = ("/forward", "/optimize", "/settle", "/weights")

    def __init__(
        self,
        model: Callable[..., Any],
        optimizer: Optimizer | None,
        *,
        compute: Callable[..., Any] | None = None,
        device: str | None = None,
        worker: Worker,
        new_call: Callable[[int], str],
        previous: "ServedModel | None" = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        replay: Callable[[str | None, Request], Reply | None] = lambda key, request: None,
        url: str = "",
        store: Store | None = None,
        role: Role | None = None,
        clients: Clients | None = None,
    ):
        if not callable(model):
            raise ServeError(f"serve_model: expected a callable or a Module, got {type(model).__name__} {model!r:.60}")
        if optimizer is not None and not callable(optimizer):
            raise ServeError(f"serve_model: the optimizer must be callable, got {type(optimizer).__name__}")
        for given in (model, optimizer):
            if isinstance(given, type):
                raise ServeError(f"serve_model: expected an object, got the class; did you mean {given.__name__}()?")
        self._model = model
        #: Computes the model.
        self.compute = compute or model
        self.device = device
        self._worker = worker
        self._new_call = new_call
        #: GPU time of the model, by op.
        self.times = GpuTimes(model, device)
        #: Ids and version continue when a model replaces another, so clients can learn the outcome of their calls.
        self.calls: Calls = previous.calls if previous else Calls(limits)
        self.updates: Updates = Updates(
            model,
            optimizer,
            worker=worker,
            policy=policy or Policy(),
            previous=previous.updates if previous else None,
            store=store,
            times=self.times,
            clients=clients,
        )
        self.store = store
        if store is not None:
            in_doubt = [call for intent in store.intents for call in (intent.call, renewed_call(intent)) if call]
            since = max(store.outcomes.forgotten, store.intents.forgotten, store.refusals.forgotten)
            self.calls.restore(store.lineage, (), in_doubt=in_doubt, refused=store.refusals, since=since)
            for outcome in store.outcomes:
                for call in filter(None, (outcome.call, outcome.renews)):
                    self.calls.used(call, outcome.key)
        self._replay = replay
        #: Whether forwards reach other servers; their state is then kept, to recover from a crash halfway.
        self._reaches: bool | None = None if store is not None else False
        self.replaced = False
        self.role = role or Role()
        self.losses = Curve()
        #: Rows of the outputs that were trained with.
        self.examples = Rate()
        #: Called after each update.
        self.observe: Callable[[], None] = lambda: None
        #: Training forwards since the last gradient arrived.
        self.unused_forwards = 0
        #: When the worker ran this model.
        self.timeline = Timeline()
        #: Locks of running backwards; a request for the outcome of a call waits for its lock.
        self.attempts = Attempts()
        self.rounds = AccumulationRounds(
            self.updates, self.calls, self.attempts, self._release_graph, self.losses, self._tell, url
        )
        self._url = url

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        return self.updates.version

    @property
    def norms(self) -> Norms:
        """Norms of gradients and weights."""
        return self.updates.norms

    @property
    def last_staleness(self) -> int | None:
        """Staleness of the last gradient."""
        return self.updates.staleness.last

    @property
    def model(self) -> Callable[..., Any]:
        """The model, as it was given."""
        return self._model

    async def run(self, function: Callable[[], T]) -> T:
        """Run a function on the worker, between two forwards."""
        return await self._worker.run(function)

    def retire(self) -> None:
        """Expire all graphs: another model replaces this one."""
        self.replaced = True
        self.updates.drain("another model takes its place")
        self.rounds.clear()
        self.role.close()
        self.calls.clear()

    def routes(self) -> dict[str, Route]:
        """Return the routes of a served model."""
        return {
            "/forward": Route(
                ("POST",), self._forward, replies=wire.MESSAGES, summary="Call the model on one tensor, or on several"
            ),
            "/optimize": Route(
                ("POST",),
                self._optimize,
                replies=(wire.NATIVE,),
                summary="Train with the gradient of an earlier reply",
            ),
            "/settle": Route(
                ("POST",),
                self._settle,
                counted=False,
                content_types=(wire.JSON,),
                replies=(wire.JSON,),
                summary="Wait for the updates of rounds, and tell which calls were applied",
            ),
            "/weights": Route(
                ("GET",), self._weights, counted=False, replies=wire.MESSAGES, summary="The parameters by name"
            ),
            **self.role.routes(),
        }

    async def _forward(self, request: Request) -> Reply:
        message = await message_of(request)
        await self.role.ready(request)
        mode = request.headers.get(MODE, "train")
        training = request.native and mode in ("train", "weights")
        inputs = leaves_of(message) if training else message.tensors
        sample = self.times.sample("forward")
        compute = self._parameters if mode == "weights" else self.compute
        reads: list[Node] = []
        of, seen, result = await self._worker.run(
            lambda: self._call(inputs, message.named, training, sample, reads, compute)
        )
        version, epoch = of
        if not isinstance(result, Tensor):
            result = await await_model(result, lambda: _both(Calling(training, reads), sample.awaiting()))
        output = outputs_of(result)
        body = await encoded(output.value, request.format)
        headers = {VERSION: str(version)}
        if training:
            call = self._new_call(version)
            key = request.headers.get(KEY) or call
            graph = Graph(
                inputs,
                output.tensors,
                message.named,
                key=key,
                seen=seen,
                epoch=epoch,
                exported=reads,
                returned=class_of(result),
            )
            if self._reaches is None:
                self._reaches = any(isinstance(node, RemoteNode) for node in graph.nodes)
            now = time.monotonic()
            self.calls.keep(call, CallRecord(graph, version, graph.nbytes, now))
            if self.replaced:  # while this forward was computed
                self.calls.clear([call])
            headers[CALL] = call
            self.unused_forwards += 1
        return Reply(body, headers)

    def _call(
        self,
        inputs: dict[str, Tensor],
        named: bool,
        training: bool,
        sample: Sample,
        reads: list[Node] | None = None,
        compute: Callable[..., Any] | None = None,
    ) -> tuple[tuple[int, str | None], ForwardState | None, Any]:
        """Call the model, and read the state it depends on: updates run on the same thread.

        Return the version of the weights with, on a replica, the incarnation of their primary; the state that the
        result depends on; and the result.
        """
        arguments: tuple[Tensor, ...] = () if named else tuple(inputs.values())
        seen = None
        if training and self._reaches is not False and isinstance(self._model, Module):
            seen = ForwardState(self._model.state_dict(), random_state())
        with self.timeline.doing("forward"), Calling(training, reads if training else None), sample:
            return (
                (self.version, self.role.epoch),
                seen,
                (compute or self.compute)(*arguments, **(inputs if named else {})),
            )

    def _parameters(self, *inputs: Tensor, **named: Tensor) -> dict[str, Tensor]:
        """Return the trained parameters by name, as outputs whose gradients are theirs."""
        if not isinstance(self._model, Module):
            raise Failure(404, "RouteNotFound", "this model is a plain function without named parameters")
        trained = {name: x * 1 for name, x in self._model.named_parameters() if x.requires_grad}
        if not trained:
            raise Failure(
                404, "RouteNotFound", "this model has no parameters to train, or makes them in its first call"
            )
        return trained

    async def complete(self) -> None:
        """Replay the forwards whose backwards had reached other servers when the previous process died.

        A returning client is then answered as if there had been no crash. If a replay fails, the client is told that
        the outcome is unknown. Runs before anything is served: each replay loads the weights that its forward saw.
        """
        if self.store is None:
            return
        for intent in [intent for intent in self.store.intents if intent.forward]:
            try:
                await self._complete(LoggedForward(intent))
            except Exception as error:
                log.warning(
                    "the backward of call %s, which reached %s, cannot be completed: the replay of its forward raised "
                    "%s: %s",
                    intent.call,
                    ", ".join(intent.servers),
                    type(error).__name__,
                    error,
                )

    async def _complete(self, logged: LoggedForward) -> None:
        assert isinstance(self._model, Module)
        present, random = self._model.state_dict(), random_state()
        try:
            with logged.replaying():
                self._model.load_state_dict(logged.state.weights)
                restart_at(logged.state.random)
                sample = self.times.sample("forward")
                _, _, result = await self._worker.run(lambda: self._call(logged.inputs, logged.by_name, True, sample))
                output = outputs_of(await await_model(result, lambda: Calling(True)))
        finally:
            self._model.load_state_dict(present)
            restart_at(random)
        logged.check(output.tensors)
        graph = Graph(logged.inputs, output.tensors, logged.by_name, key=logged.key, seen=logged.state)
        graph.forwarded = True
        kept = CallRecord(graph, logged.version, graph.nbytes, time.monotonic(), if_dropped="unknown")
        self.calls.keep(logged.call, kept)

    async def evaluate(self, inputs: dict[str, Tensor], *, named: bool) -> tuple[int, wire.Message]:
        """Call the model in evaluation mode without keeping a graph; return the weights' version and the outputs."""
        sample = self.times.sample("forward")
        (version, _), _, result = await self._worker.run(lambda: self._call(inputs, named, False, sample))
        return version, outputs_of(await await_model(result, lambda: _both(Calling(False), sample.awaiting())))

    async def _optimize(self, request: Request) -> Reply:
        call = request.headers.get(CALL)
        if not call:
            raise Failure(400, "BadRequest", f"/optimize needs the header {CALL} of the reply to /forward")
        first = renewed_by(request.headers) or call
        async with self.attempts.of(first):
            return await self._train(request, call)

    async def _train(self, request: Request, call: str) -> Reply:
        """Compute the gradients of a call, and apply them or add them to a round."""
        self.unused_forwards = 0
        of_round, renews = RoundOf.read(request.headers.get(ROUND)), renewed_by(request.headers)
        message = await message_of(request)
        loss = loss_of(message.metadata.get(LOSS))
        await self.rounds.release(call)
        try:
            check_renewed(self.calls, renews)
            kept = self.calls.look(call, now=time.monotonic())
            graph: Graph = kept.graph
            check_gradient(message.tensors, graph.outputs)
            self._check_staleness(call, kept)
            kept = self.calls.take(call, now=time.monotonic())
        except Expired as expired:
            replayed = self._replay(self.calls.key_of(renews or call), request) if expired.applied == "yes" else None
            if replayed is not None:  # the same gradient, sent under another key before
                return replayed
            if expired.applied == "no":
                await self.role.expired(call)
            details = {"applied": expired.applied}
            raise Failure(410, "GraphExpired", _why_expired(call, expired), details=details) from None
        backward = Backward(self._model, request, call, kept, message.tensors, loss)
        rows = next((tensor.shape[0] for tensor in graph.outputs.values() if tensor.ndim), 1)
        self.examples.add(rows, now=time.monotonic())
        graph.renews = renews
        keys.go_on_as(graph.origin)
        version: int | None = None
        defers = of_round is not None and of_round.is_shared and not self.role.submits
        deferred = SharedUpdates() if defers else None

        def pull_and_apply() -> None:
            nonlocal version
            with self.timeline.doing("backward"):
                self.updates.record_forwarding(
                    call, graph, kept.version
                )  # first: a blocking remote is asked within `begin`
                self._reaches = self._reaches or graph.forwarded
                with self.times.sample("backward"):
                    backward.begin()
                if not (backward.is_pending or of_round or self.role.submits):
                    version = self.updates.apply_now(backward.contribution())

        try:
            with deferred.collecting() if deferred is not None else contextlib.nullcontext():
                await self._worker.run(pull_and_apply)
                await backward.end()
            if version is None:
                if self.role.submits:
                    reply = await self._submit(backward, request, of_round, graph.epoch)
                    record_used(self.calls, backward.contribution())
                    return reply
                if of_round is not None:
                    upstream = deferred.in_order() if deferred is not None else []
                    await self.rounds.hold(call, kept, backward.contribution(), of_round, loss, upstream)
                    return Reply(backward.answer(), {VERSION: str(self.version), **of_round.header()})
                version = await self.updates.apply(backward.contribution())
        except Exception as error:  # no weight of this server has changed: the same call may be tried again
            if deferred is None:  # upstream servers are then asked again
                backward.keep()
            failure = failed(error, graph.nodes, self._url)
            in_doubt = isinstance(error, Failure) and error.details.get("applied") == "unknown"
            self._release_graph(call, kept, in_doubt=in_doubt)
            if isinstance(failure, Failure) and failure.error == "StaleGradient":
                self.calls.discard(call)  # it will not become less stale
            raise failure from error.__cause__
        record_used(self.calls, backward.contribution())
        if loss is not None:
            self.losses.add(version, loss)
        self._tell()
        return Reply(backward.answer(), {VERSION: str(version)})

    async def _abandon(self, call: str) -> None:
        """Refuse the gradients of a call that was not used: its client is told so."""
        async with self.attempts.of(call):
            await self.rounds.release(call)
            if self.calls.fate(call, now=time.monotonic()) == "no":
                self.calls.abandon(call)
                if self.store is not None and call not in self.store.refusals:
                    await self._worker.run(lambda: self.updates.give_up(call))

    async def give_up(self, call: str) -> None:
        """Refuse further gradients of a call from replicas, also after a restart."""
        self.calls.refuse(call)
        if self.store is not None and call not in self.store.refusals:
            await self._worker.run(lambda: self.updates.give_up(call))

    async def _settle(self, request: Request) -> Reply:
        if REFUSE in request.headers and not self.role.submits:
            for call in decode_calls(request):
                await self._abandon(call)
        return await self.role.settle(request, self.rounds.settle)

    async def _submit(self, backward: Backward, request: Request, of_round: RoundOf | None, epoch: str | None) -> Reply:
        """Send a backward to the primary, which applies it."""
        reply = b"".join(backward.answer().parts)
        version = await self.role.submit(backward.contribution(), request, reply, of_round, epoch)
        return Reply(backward.answer(), {VERSION: str(version), **(of_round.header() if of_round else {})})

    def _check_staleness(self, call: str, kept: CallRecord) -> None:
        if kept.graph.forwarded:  # others may have applied their part: refusing here would leave half an update
            return
        try:
            self.updates.check_staleness(kept.version)
        except Failure:
            self.calls.discard(call)  # it will not become less stale
            raise

    def _release_graph(self, call: str, kept: CallRecord | None, *, in_doubt: bool = False) -> None:
        if kept is None:  # its graph is with a replica
            self.calls.unclaim(call)
            return
        states = states_of(kept.graph.nodes)
        self.calls.release(call, kept, in_doubt=in_doubt or any(state != "no" for state in states.values()))
        if self.replaced:
            self.calls.clear([call])

    def _tell(self) -> None:
        self.role.tell()
        self.observe()

    async def _weights(self, request: Request) -> Reply:
        model = self._model
        if not isinstance(model, Module):
            raise Failure(404, "RouteNotFound", "/weights: this model is a plain function without named parameters")
        version, state = await self._worker.run(lambda: (self.version, model.state_dict()))
        return Reply(await encoded(state, request.format), {VERSION: str(version)})


@contextlib.contextmanager
def _both(one: contextlib.AbstractContextManager[Any], other: contextlib.AbstractContextManager[Any]) -> Iterator[None]:
    with one, other:
        yield


def _why_expired(call: str, expired: Expired) -> str:
    reasons = {
        "yes": "its gradient was received before",
        "no": "it was dropped to make room, grew too old, or the model was replaced; compute the forward again",
        "unknown": "this server does not know it, or was restarted while others were to apply their part of it",
    }
    return f"the graph of call {call:.40} is not kept: {reasons[expired.applied]} (applied: {expired.applied})"
