"""A served model: forward and backward of one callable, with the graphs in between and the updates."""

import time
from collections.abc import Callable
from typing import Any, ClassVar

import numpy as np

from labnet import wire
from labnet.autograd import Gradients, no_grad
from labnet.errors import ServeError
from labnet.network.calls import Calls, Expired, Kept, Limits
from labnet.network.graph import Graph, check_gradient, pull
from labnet.network.holding import Holding
from labnet.network.keys import KEY
from labnet.network.loops import Worker, await_model
from labnet.network.names import CALL, LOSS, MODE, VERSION, WANTED
from labnet.network.once import fingerprint_of
from labnet.network.partial import partial_update, states_of
from labnet.network.rounds import ROUND, RoundOf
from labnet.network.routes import Failure, Reply, Request, Route, encoded
from labnet.network.staleness import Policy
from labnet.network.updates import Contribution, Optimizer, Updates
from labnet.nn import Module
from labnet.nn.modules import calling_mode
from labnet.stats import Curve, Timeline
from labnet.store import Outcome, Store
from labnet.tensor import Tensor


class ServedModel:
    """Forward, backward and update of a model; computes on the server's worker.

    Parameters
    ----------
    model : callable
        From tensor to tensor, sync or async, or a `Module`; named tensors are passed by name.
    optimizer : callable, optional
        Given the gradients of the model's parameters on every backward. Without one nothing is trained.
    new_call : callable
        Returns a fresh call id, given the version of the weights.
    previous : ServedModel, optional
        The model that this one takes the place of.
    policy : Policy, optional
        What becomes of stale gradients.
    url : str
        Address of the server, for errors that name it beside others.
    store : Store, optional
        Where updates are kept.
    """

    #: Paths of what every served model answers.
    ROUTES: ClassVar[tuple[str, ...]] = ("/forward", "/optimize", "/settle", "/weights")

    def __init__(
        self,
        model: Callable[..., Any],
        optimizer: Optimizer | None,
        *,
        worker: Worker,
        new_call: Callable[[int], str],
        previous: "ServedModel | None" = None,
        limits: Limits | None = None,
        policy: Policy | None = None,
        url: str = "",
        store: Store | None = None,
    ):
        if not callable(model):
            raise ServeError(f"serve_model: expected a callable or a Module, got {type(model).__name__} {model!r:.60}")
        if optimizer is not None and not callable(optimizer):
            raise ServeError(f"serve_model: the optimizer must be callable, got {type(optimizer).__name__}")
        for given in (model, optimizer):
            if isinstance(given, type):
                raise ServeError(f"serve_model: expected an object, got the class; did you mean {given.__name__}()?")
        self._model = model
        self._worker = worker
        self._new_call = new_call
        #: Ids and version go on when a model replaces another, so that clients are told what became of their calls.
        self.calls: Calls = previous.calls if previous else Calls(limits)
        self.updates: Updates = Updates(
            model,
            optimizer,
            worker=worker,
            policy=policy or Policy(),
            previous=previous.updates if previous else None,
            store=store,
        )
        self.store = store
        if store is not None:
            used = [outcome.call for outcome in store.outcomes]
            self.calls.restore(store.lineage, used, in_doubt=store.intents, since=store.outcomes.forgotten)
        self.replaced = False
        self.losses = Curve()
        #: When the worker computed for this model.
        self.timeline = Timeline()
        self.holding = Holding(self.updates, self.calls, self._give_back, self.losses)
        self._url = url

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        return self.updates.version

    @property
    def model(self) -> Callable[..., Any]:
        """What computes."""
        return self._model

    def retire(self) -> None:
        """Expire the kept graphs: another model takes the place of this one."""
        self.replaced = True
        self.updates.drain("another model takes its place")
        self.holding.clear()
        self.calls.clear()

    def routes(self) -> dict[str, Route]:
        """Return the routes that a served model has."""
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
                self.holding.settle,
                content_types=(wire.JSON,),
                replies=(wire.JSON,),
                summary="Wait for the updates of rounds, and tell which calls were applied",
            ),
            "/weights": Route(
                ("GET",), self._weights, counted=False, replies=wire.MESSAGES, summary="The parameters by name"
            ),
        }

    async def _forward(self, request: Request) -> Reply:
        message = _message(request)
        training = request.native and request.headers.get(MODE, "train") == "train"
        inputs = _leaves(message) if training else message.tensors
        version, result = await self._worker.run(lambda: self._call(inputs, message.named, training))
        output = _as_message(await await_model(result, lambda: _Calling(training)))
        body = encoded(output.value, request.format)
        headers = {VERSION: str(version)}
        if training:
            call = self._new_call(version)
            graph = Graph(inputs, output.tensors, output.named)
            now = time.monotonic()
            self.calls.keep(call, Kept(graph, version, graph.nbytes, now))
            if self.replaced:  # while this forward was computed
                self.calls.clear([call])
            headers[CALL] = call
        return Reply(body, headers)

    def _call(self, inputs: dict[str, Tensor], named: bool, training: bool) -> tuple[int, Any]:
        """Call the model; the version is read here because updates run on the same thread."""
        arguments: tuple[Tensor, ...] = () if named else tuple(inputs.values())
        with self.timeline.doing("forward"), _Calling(training):
            return self.version, self._model(*arguments, **(inputs if named else {}))

    async def evaluate(self, inputs: dict[str, Tensor], *, named: bool) -> tuple[int, wire.Message]:
        """Call the model in evaluation mode without keeping a graph; return the weights' version and the outputs."""
        version, result = await self._worker.run(lambda: self._call(inputs, named, False))
        return version, _as_message(await await_model(result, lambda: _Calling(False)))

    async def _optimize(self, request: Request) -> Reply:
        call, of_round = request.headers.get(CALL), RoundOf.read(request.headers.get(ROUND))
        if not call:
            raise Failure(400, "BadRequest", f"/optimize needs the header {CALL} of the reply to /forward")
        message = _message(request)
        loss = _finite(message.metadata.get(LOSS))
        try:
            kept = self.calls.look(call, now=time.monotonic())
            graph: Graph = kept.graph
            check_gradient(message.tensors, graph.outputs)
            self._check_staleness(call, kept)
            kept = self.calls.take(call, now=time.monotonic())
        except Expired as expired:
            details = {"applied": expired.applied}
            raise Failure(410, "GraphExpired", _why_expired(call, expired), details=details) from None
        backward = _Backward(request, call, kept, message.tensors, loss)
        version: int | None = None

        def pull_and_apply() -> None:
            nonlocal version
            with self.timeline.doing("backward"):
                self.updates.hand_on(call, graph)  # first: a remote model that blocks is asked within `begin`
                backward.begin()
                if not backward.is_pending and of_round is None:
                    version = self.updates.apply_now(backward.contribution())

        try:
            await self._worker.run(pull_and_apply)
            if version is None:
                await backward.end()
                if of_round is not None:
                    await self.holding.hold(call, kept, backward.contribution(), of_round, loss)
                    return Reply(backward.answer(), {VERSION: str(self.version), **of_round.header()})
                version = await self.updates.apply(backward.contribution())
        except Exception as error:  # no weight of this server has changed: the same call may be tried again
            backward.keep()
            self._give_back(call, kept)
            raise partial_update(error, graph.nodes, here={self._url: "no"}) from error.__cause__
        if loss is not None:
            self.losses.add(version, loss)
        return Reply(backward.answer(), {VERSION: str(version)})

    def _check_staleness(self, call: str, kept: Kept) -> None:
        try:
            self.updates.check_staleness(kept.version)
        except Failure:
            self.calls.discard(call)  # it will not become less stale
            raise

    def _give_back(self, call: str, kept: Kept) -> None:
        states = states_of(kept.graph.nodes)
        self.calls.give_back(call, kept, in_doubt=any(state != "no" for state in states.values()))
        if self.replaced:
            self.calls.clear([call])

    async def _weights(self, request: Request) -> Reply:
        model = self._model
        if not isinstance(model, Module):
            raise Failure(404, "RouteNotFound", "/weights: this model is a plain function without named parameters")
        state = await self._worker.run(model.state_dict)
        return Reply(wire.encode_value(state, request.format), {VERSION: str(self.version)})


class _Backward:
    """One backward: the gradients that it pulls, what they are applied for, and the answer to it."""

    def __init__(self, request: Request, call: str, kept: Kept, given: dict[str, Tensor], loss: float | None):
        self._request = request
        self._call = call
        self._kept = kept
        self._graph: Graph = kept.graph
        self._given = given
        self._loss = loss
        #: Servers further down may have applied their part in an earlier attempt, and do so once.
        self._gradients: Gradients | None = self._graph.pulled.pop(request.checksum, None)
        self._answer: wire.Body | None = None

    def begin(self) -> None:
        """Pull the gradients through the graph, as far as that needs no other server; runs on the worker."""
        if self._gradients is None:
            self._gradients = pull(self._graph, self._given, self._loss)

    @property
    def is_pending(self) -> bool:
        """Whether other servers have to be waited for."""
        return self._gradients is not None and self._gradients.is_pending

    async def end(self) -> None:
        """Wait for other servers."""
        if self.is_pending:
            waiting, self._gradients = self._gradients, None
            self._gradients = await await_model(waiting)

    def keep(self) -> None:
        """Keep what was pulled for another attempt."""
        if self._gradients is not None:
            self._graph.pulled[self._request.checksum] = self._gradients

    def contribution(self) -> Contribution:
        """Return what is to be applied."""
        assert self._gradients is not None, "pulled"
        request = self._request
        key = request.headers.get(KEY, self._call)
        return Contribution(
            request.client or "",
            key,
            self._call,
            self._graph,
            self._kept.version,
            self._gradients,
            outcome=self._outcome,
        )

    def answer(self) -> wire.Body:
        """Return the gradients of the inputs as the body of the reply."""
        if self._answer is None:
            assert self._gradients is not None, "pulled"
            found = self._gradients
            pulled = {name: found[tensor] for name, tensor in self._graph.inputs.items() if tensor in found}
            message = wire.Message(pulled, named=True, metadata={"applied": "yes"})
            self._answer = wire.encode_native(message, bfloat16=self._request.format.bfloat16)
        return self._answer

    def _outcome(self, version: int) -> Outcome:
        key, body = self._request.headers.get(KEY, "").strip('"'), b"".join(self.answer().parts)
        return Outcome(key, fingerprint_of(self._request), self._call, body, version)


def _leaves(message: wire.Message) -> dict[str, Tensor]:
    """Return the tensors of a forward, ready to be differentiated by those that the client wants that for."""
    wanted = message.metadata.get(WANTED)
    names = set(message.tensors if wanted is None else wanted.split(","))
    return {
        name: Tensor(tensor, requires_grad=name in names and tensor.dtype.kind == "f")
        for name, tensor in message.tensors.items()
    }


def _message(request: Request) -> wire.Message:
    """Return the tensors of a request, of which there must be some."""
    message = request.message()
    if message is None or not message.tensors:
        raise Failure(400, "BadRequest", f"{request.path} needs at least one tensor")
    if not request.is_json:
        return message
    # JSON does not tell 1 from 1.0, and models compute in floats
    tensors = {name: t.astype("float32") if t.dtype.kind in "iu" else t for name, t in message.tensors.items()}
    return wire.Message(tensors, message.named, message.metadata)


class _Calling:
    """Call models in training, with a record for the backward, or in evaluation without."""

    __slots__ = ("_mode", "_record")

    def __init__(self, training: bool):
        self._mode = calling_mode(training)
        self._record = None if training else no_grad()

    def __enter__(self) -> None:
        self._mode.__enter__()
        if self._record is not None:
            self._record.__enter__()

    def __exit__(self, *exception: object) -> None:
        if self._record is not None:
            self._record.__exit__()
        self._mode.__exit__()


def _as_message(result: Any) -> wire.Message:
    if isinstance(result, tuple | list):
        result = {str(position): item for position, item in enumerate(result)}
    if not isinstance(result, Tensor | np.ndarray) and not (isinstance(result, dict) and wire.is_tensors(result)):
        raise Failure(500, "RemoteFailure", f"a model must return tensors, got {type(result).__name__} {result!r:.60}")
    return wire.message_of(result)


def _finite(text: str | None) -> float | None:
    try:
        value = float(text) if text is not None else None
    except ValueError:
        raise Failure(400, "BadRequest", f"metadata {LOSS!r} is not a number: {text!r:.40}") from None
    return value if value is not None and np.isfinite(value) else None


def _why_expired(call: str, expired: Expired) -> str:
    reasons = {
        "yes": "its gradient was received before",
        "no": "it was dropped to make room, grew too old, or the model was replaced; compute the forward again",
        "unknown": "this server does not know it, or was restarted while others were to apply their part of it",
    }
    return f"the graph of call {call:.40} is not kept: {reasons[expired.applied]} (applied: {expired.applied})"
