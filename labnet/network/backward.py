"""The client's side of a backward: nodes of the graph that stand for calls of a server."""

import math
from collections.abc import Awaitable, Mapping
from dataclasses import dataclass
from typing import Any

from labnet import errors, wire
from labnet.autograd import Node, Run
from labnet.errors import GradientError, GraphExpired, RemoteError, StaleGradient
from labnet.network.again import Noted
from labnet.network.caller import Caller
from labnet.network.checksum import checksum_of_body
from labnet.network.exchange import Response
from labnet.network.held import Membership, Round
from labnet.network.keys import Ticket
from labnet.network.loops import IO
from labnet.network.names import CALL, EPOCH, LOSS, MODE
from labnet.network.partial import RemoteNode
from labnet.tensor import Tensor, as_gradient

#: How often a forward is made again for one backward, where the server has dropped its graph.
_RENEWALS = 10


class Parts:
    """Gradients of the outputs of one call, by name; they add up name by name."""

    __slots__ = ("gradients",)

    def __init__(self, gradients: Mapping[str, Tensor]):
        self.gradients = dict(gradients)

    def __add__(self, other: "Parts") -> "Parts":
        total = dict(self.gradients)
        for name, gradient in other.gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
        return Parts(total)


class Output(Node):
    """One output of a remote call."""

    __slots__ = ("_dtype", "_name", "_shape")

    def __init__(self, call: "RemoteCall", name: str, tensor: Tensor):
        self.parents = (call,)
        self._name = name
        self._shape = tensor.shape
        self._dtype = tensor.dtype

    def pull(self, gradient: Any, run: Run) -> list[Parts]:
        """Hand the gradient on under the output's name."""
        gradient = as_gradient(gradient)
        if (gradient.shape, gradient.dtype) != (self._shape, self._dtype):
            raise GradientError(
                f"gradient of shape {gradient.shape} and dtype {gradient.dtype} for a remote output "
                f"of shape {self._shape} and dtype {self._dtype}"
            )
        return [Parts({self._name: gradient})]


@dataclass
class Forward:
    """A forward as it was sent, with what came back: enough to make it again and compare.

    Attributes
    ----------
    call, epoch : str
        The id that the server gave it, and the incarnation of the server that did.
    """

    caller: Caller
    names: tuple[str, ...]
    body: wire.Body
    reply: wire.Message
    call: str
    epoch: str | None

    @classmethod
    def of(cls, caller: Caller, message: wire.Message, body: wire.Body, response: Response) -> "Forward":
        """Read the reply to a forward in training mode.

        Raises
        ------
        ProtocolMismatch
            If it holds no tensors or names no call.
        """
        reply, call = caller.decode("/forward", response), response.headers.get(CALL)
        if not isinstance(reply, wire.Message) or call is None:
            what = f"expected tensors, got {reply!r:.60}" if call else f"the reply has no header {CALL}"
            raise errors.ProtocolMismatch(
                f"{caller.address}/forward: {what}", server=str(caller.address), route="/forward"
            )
        return cls(caller, tuple(message.tensors), body, reply, call, response.headers.get(EPOCH))

    @classmethod
    def noted(cls, caller: Caller, message: wire.Message, body: wire.Body, known: Noted) -> "Forward":
        """Return a forward as it was noted before a crash."""
        return cls(caller, tuple(message.tensors), body, known.reply, known.call, known.epoch)

    async def renew(self) -> None:
        """Make the forward again; raise `StaleGradient` unless every byte of its output is the same."""
        response = await self.caller.call("POST", "/forward", self.body, {MODE: "train"})
        again = Forward.of(self.caller, wire.Message(dict.fromkeys(self.names)), self.body, response)  # type: ignore[arg-type]
        if not _same_bytes(self.reply, again.reply):
            raise StaleGradient(
                f"{self.caller.address}/optimize: the graph of call {self.call} was dropped, and the forward made "
                "again gives another output: the weights have changed since; compute the loss again (applied: no)",
                server=str(self.caller.address),
                route="/optimize",
                call=self.call,
                applied="no",
            )
        self.call, self.epoch = again.call, again.epoch


class RemoteCall(RemoteNode):
    """A forward that was carried out on a server; its backward is a request."""

    __slots__ = ("_blocking", "_pulled", "_sent", "_ticket", "forward")

    def __init__(self, forward: Forward, *, inputs: Mapping[str, Tensor], blocking: bool):
        super().__init__(str(forward.caller.address))
        self.parents = tuple(tensor._node for tensor in inputs.values())
        self.forward = forward
        self._blocking = blocking
        self._ticket: Ticket | None = None
        self._sent: object = None
        self._pulled: list[Tensor | None] | None = None

    def note(self) -> Noted:
        """Return what it takes to compute the forward that this is part of again, without asking the server."""
        forward = self.forward
        return Noted(self.server, b"".join(forward.body.parts), forward.reply, forward.call, forward.epoch)

    @property
    def awaits(self) -> bool:  # type: ignore[override]
        """Whether the backward has to be awaited: not for a model that blocks."""
        return not self._blocking

    def pull(self, gradient: Parts, run: Run) -> list[Tensor | None] | Awaitable[list[Tensor | None]]:
        """Send the gradients of the outputs; return the gradients of the inputs."""
        if run.create_graph:
            raise GradientError("a gradient through a remote model cannot be differentiated again: its graph is remote")
        metadata = {} if run.loss is None or not math.isfinite(run.loss) else {LOSS: repr(run.loss)}
        message = wire.Message(gradient.gradients, self.forward.reply.named, metadata)
        body = wire.encode_native(message, bfloat16=self.forward.caller.bfloat16)
        self._choose_key(body)
        sending = self._apply(body, Round.current())
        return IO.run(sending) if self._blocking else sending

    def settle(self) -> None:
        """Forget the outcome: a further backward through this call is another one, which the server will refuse."""
        self._pulled = self._ticket = self._sent = None

    def _choose_key(self, body: wire.Body) -> None:
        """Keep the key as long as the same gradient is on its way; another gradient never gets it."""
        sent = (checksum_of_body(body), body.nbytes)
        if sent != self._sent:
            self._ticket = self._pulled = None
            self._sent = sent
        if self._ticket is None and self._pulled is None:
            self._ticket = self.forward.caller.ticket("/optimize")

    async def again(self, body: wire.Body, round_: Membership) -> None:
        """Make the forward again and have its gradient held again: the server has lost both."""
        await self.forward.renew()
        self._ticket = self.forward.caller.ticket("/optimize")
        await self._request(body, round_)

    async def _apply(self, body: wire.Body, round_: Membership | None) -> list[Tensor | None]:
        if self._pulled is None:
            try:
                self._pulled = await self._request(body, round_)
            except RemoteError as error:
                self.applied = error.applied or "no"
                if self.applied != "unknown":
                    self._ticket = None
                raise
            except BaseException:
                self.applied = "unknown"
                raise
            self.applied, self._ticket = "yes", None
        return self._pulled

    async def _request(self, body: wire.Body, round_: Membership | None) -> list[Tensor | None]:
        forward = self.forward
        for renewals in range(_RENEWALS + 1):
            try:
                response = await forward.caller.call(
                    "POST",
                    "/optimize",
                    body,
                    {CALL: forward.call, **(round_.of.header() if round_ else {})},
                    ticket=self._ticket,
                )
                break
            except GraphExpired as error:
                if error.applied != "no" or renewals == _RENEWALS:
                    raise
                await forward.renew()
                self._ticket = forward.caller.ticket("/optimize")
        if round_ is not None:
            round_.round.note(self, body, round_.of)
        reply = forward.caller.decode("/optimize", response)
        if not isinstance(reply, wire.Message):
            raise errors.ProtocolMismatch(f"{forward.caller.address}/optimize: expected tensors, got {reply!r:.60}")
        return [reply.tensors.get(name) for name in forward.names]


def _same_bytes(one: wire.Message, other: wire.Message) -> bool:
    if one.tensors.keys() != other.tensors.keys():
        return False
    return all(_bits(tensor) == _bits(other.tensors[name]) for name, tensor in one.tensors.items())


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    array = tensor.numpy()
    return array.dtype, array.shape, array.tobytes()
