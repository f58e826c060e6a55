"""The steps of one backward on a server, and the conversion between requests and tensors."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from labnet import wire
from labnet.autograd import Gradients, Node, no_grad
from labnet.errors import PartialUpdate, RemoteError, StaleGradient
from labnet.network.client.partial_update import partial_update, states_of
from labnet.network.model.calls import CallRecord
from labnet.network.model.graph import Graph, check_reached, vjp
from labnet.network.model.updates import Contribution
from labnet.network.protocol.differences import SCALES, dequantize
from labnet.network.protocol.headers import KEY, LOSS, WANTED, renewed_by
from labnet.network.server.fingerprint import fingerprint_of
from labnet.network.server.routing import Failure, Request
from labnet.network.threads import await_model
from labnet.nn import Module
from labnet.nn.modules import calling_mode
from labnet.settings import Setting
from labnet.store import Outcome
from labnet.tensor import Tensor, exported


class Backward:
    """One backward: its gradients, its contribution to an update, and its reply."""

    def __init__(
        self, model: Any, request: Request, call: str, kept: CallRecord, given: dict[str, Tensor], loss: float | None
    ):
        self._model = model
        self._request = request
        self._call = call
        self._renews = renewed_by(request.headers)
        self._kept = kept
        self._graph: Graph = kept.graph
        self._given = given
        self._loss = loss
        #: Gradients of an earlier attempt: upstream servers may have applied their part and do so only once.
        self._gradients: Gradients | None = self._graph.computed.pop(request.digest, None)
        self._answer: wire.Body | None = None

    def begin(self) -> None:
        """Compute the gradients up to the first remote call; runs on the worker.

        Raises
        ------
        GradientError
            If the model took values out of the graph, so that a gradient is lost; so does `end`.
        """
        if self._gradients is None:
            self._gradients = vjp(self._graph, self._given, self._loss)
        self._check()

    @property
    def is_pending(self) -> bool:
        """Whether the gradients depend on replies of other servers."""
        return self._gradients is not None and self._gradients.is_pending

    async def end(self) -> None:
        """Wait for the replies of other servers."""
        if self.is_pending:
            waiting, self._gradients = self._gradients, None
            self._gradients = await await_model(waiting)
            self._check()

    def _check(self) -> None:
        if self._gradients is not None and not self.is_pending:
            parameters = self._model.parameters() if isinstance(self._model, Module) else ()
            check_reached(self._graph, self._gradients, parameters)

    def keep(self) -> None:
        """Store the gradients for the next attempt."""
        if self._gradients is not None:
            self._graph.computed[self._request.digest] = self._gradients

    def contribution(self) -> Contribution:
        """Return the contribution to the update."""
        assert self._gradients is not None, "begin() has run"
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
            renews=self._renews,
        )

    def answer(self) -> wire.Body:
        """Return the gradients of the inputs as the body of the reply."""
        if self._answer is None:
            assert self._gradients is not None, "begin() has run"
            found = self._gradients
            gradients = {name: found[tensor] for name, tensor in self._graph.inputs.items() if tensor in found}
            message = wire.Message(gradients, named=True, metadata={"applied": "yes"})
            self._answer = wire.encode_native(message, bfloat16=self._request.format.bfloat16)
        return self._answer

    def _outcome(self, version: int) -> Outcome:
        key, body = self._request.headers.get(KEY, "").strip('"'), b"".join(self.answer().parts)
        return Outcome(key, fingerprint_of(self._request), self._call, body, version, self._renews)


def failed(error: Exception, nodes: Iterable[Node], url: str) -> BaseException:
    """Return the error that a failed backward reports to its client, with the state of other servers.

    Parameters
    ----------
    nodes : iterable of Node
        Of the graph.
    url : str
        Address of this server, whose weights have not changed.
    """
    nodes = list(nodes)
    told = partial_update(error, nodes, here={url: "no"})
    if not isinstance(told, RemoteError) or isinstance(told, PartialUpdate):
        return told
    applied = "unknown" if "unknown" in states_of(nodes).values() else "no"
    if isinstance(told, StaleGradient) and applied == "no":
        return Failure(412, "StaleGradient", str(told), details={"applied": applied})
    return Failure(500, "RemoteFailure", f"{type(told).__name__}: {told}", details={"applied": applied})


def leaves_of(message: wire.Message) -> dict[str, Tensor]:
    """Return the tensors of a forward; those whose gradient the client wants require a gradient."""
    wanted = message.metadata.get(WANTED)
    names = set(message.tensors if wanted is None else wanted.split(","))
    return {
        name: Tensor(tensor, requires_grad=name in names and tensor.dtype.kind == "f")
        for name, tensor in message.tensors.items()
    }


async def message_of(request: Request) -> wire.Message:
    """Return the tensors of a request; refuse a request without any."""
    message = await request.message()
    if message is None or not message.tensors:
        raise Failure(400, "BadRequest", f"{request.path} needs at least one tensor")
    if SCALES in message.metadata:
        return _dequantized(message)
    if not request.is_json:
        return message
    # JSON does not tell 1 from 1.0, and models compute in floats
    tensors = {name: t.astype("float32") if t.dtype.kind in "iu" else t for name, t in message.tensors.items()}
    return wire.Message(tensors, message.named, message.metadata)


def _dequantized(message: wire.Message) -> wire.Message:
    """Return integers as floats, by the scale of each tensor."""
    try:
        return wire.Message(dequantize(message.tensors, message.metadata[SCALES]), message.named, message.metadata)
    except ValueError as error:
        raise Failure(400, "BadRequest", f"metadata {SCALES!r}: {error}") from None


class Calling:
    """A context for model calls: training mode with recording, or evaluation mode without.

    Parameters
    ----------
    reads : list, optional
        Given the nodes of tensors that the model reads as plain arrays.
    """

    __slots__ = ("_mode", "_others")

    def __init__(self, training: bool, reads: list[Node] | None = None):
        self._mode = calling_mode(training)
        self._others = [] if training else [no_grad()]
        if reads is not None:
            self._others.append(Setting(exported, reads))

    def __enter__(self) -> None:
        self._mode.__enter__()
        for other in self._others:
            other.__enter__()

    def __exit__(self, *exception: object) -> None:
        for other in reversed(self._others):
            other.__exit__()
        self._mode.__exit__()


def class_of(result: Any) -> type:
    """Return the class of what a model returned, or of the first of several outputs."""
    parts = result.values() if isinstance(result, dict) else result if isinstance(result, tuple | list) else (result,)
    return type(next(iter(parts), None))


def outputs_of(result: Any) -> wire.Message:
    """Return the result of a model as tensors by name; tensors of other libraries lose their gradient."""
    if isinstance(result, Tensor):
        return wire.Message({wire.SINGLE: result})
    if isinstance(result, tuple | list):
        result = {str(position): item for position, item in enumerate(result)}
    result = {name: _own(item) for name, item in result.items()} if isinstance(result, dict) else _own(result)
    if not isinstance(result, Tensor | np.ndarray) and not (isinstance(result, dict) and wire.is_tensors(result)):
        raise Failure(500, "RemoteFailure", f"a model must return tensors, got {type(result).__name__} {result!r:.60}")
    return wire.message_of(result)


def _own(value: Any) -> Any:
    """Return a tensor of another library as an array, and anything else as it is."""
    if isinstance(value, Tensor | np.ndarray) or not hasattr(value, "__array__") or not hasattr(value, "dtype"):
        return value
    detach = getattr(value, "detach", None)  # torch's
    return np.asarray(value if detach is None else detach().cpu())


def loss_of(text: str | None) -> float | None:
    """Read the loss that a client reports; None without a finite one."""
    try:
        value = float(text) if text is not None else None
    except ValueError:
        raise Failure(400, "BadRequest", f"metadata {LOSS!r} is not a number: {text!r:.40}") from None
    return value if value is not None and np.isfinite(value) else None
