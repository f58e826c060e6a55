"""A remote forward: its request and its reply."""

from dataclasses import dataclass
from typing import Any, NamedTuple

from labnet import errors, wire
from labnet.errors import GraphExpired, StaleGradient
from labnet.network.client.replay import RecordedForward
from labnet.network.client.session import Caller
from labnet.network.protocol.headers import CALL, EPOCH, MODE, REFUSE
from labnet.network.protocol.keys import Ticket
from labnet.network.transport.response import Response
from labnet.tensor import Tensor


class Sent(NamedTuple):
    """The request of a forward; the fields are those of `Forward`."""

    caller: Caller
    names: tuple[str, ...]
    body: wire.Body
    ticket: Ticket
    number: int


@dataclass
class Forward:
    """A forward with its request and reply, so that it can be repeated and compared.

    Attributes
    ----------
    call, epoch : str
        Id from the server, and the incarnation of that server.
    key : str
        Key of the request.
    number : int
        Greater than the numbers of all earlier forwards.
    first_call : str
        The id of the first request; unchanged when the forward is repeated.
    mode : str
        ``"train"``, or ``"weights"`` if the outputs are the parameters, whose gradients depend on no value.
    """

    caller: Caller
    names: tuple[str, ...]
    body: wire.Body
    reply: wire.Message
    call: str
    epoch: str | None
    key: str
    number: int
    first_call: str = ""
    mode: str = "train"

    def __post_init__(self) -> None:
        self.first_call = self.first_call or self.call

    @classmethod
    def of(cls, sent: "Sent", response: Response, mode: str = "train") -> "Forward":
        """Read the reply to a forward in training mode.

        Raises
        ------
        ProtocolMismatch
            If the reply contains no tensors or no call id.
        """
        caller = sent.caller
        reply, call = caller.decode("/forward", response), response.headers.get(CALL)
        if not isinstance(reply, wire.Message) or call is None:
            what = f"expected tensors, got {reply!r:.60}" if call else f"the reply has no header {CALL}"
            raise errors.ProtocolMismatch(
                f"{caller.address}/forward: {what}", server=str(caller.address), route="/forward"
            )
        epoch = response.headers.get(EPOCH)
        return cls(caller, sent.names, sent.body, reply, call, epoch, sent.ticket.key, sent.number, mode=mode)

    @classmethod
    def recorded(cls, sent: "Sent", known: RecordedForward) -> "Forward":
        """Return a forward as it was recorded before a crash."""
        return cls(sent.caller, sent.names, sent.body, known.reply, known.call, known.epoch, known.key, sent.number)

    async def renew(self) -> None:
        """Repeat the forward.

        If the output is another one, ask the server to refuse the gradient. If it was applied meanwhile, for a request
        that was still on its way, the first call stands: its reply is stored.

        Raises
        ------
        StaleGradient
            If the output is another one, and the gradient is refused.
        GraphExpired
            If the server does not know the outcome.
        """
        ticket = self.caller.own_ticket()
        response = await self.caller.call("POST", "/forward", self.body, {MODE: self.mode}, ticket=ticket)
        again = Forward.of(Sent(self.caller, self.names, self.body, ticket, self.number), response)
        if self.mode == "weights" or _same_bytes(self.reply, again.reply):
            self.call, self.epoch = again.call, again.epoch
            return
        applied = await self._refuse()
        if applied == "yes":
            self.call = self.first_call
        elif applied == "unknown":
            raise GraphExpired(
                f"{self.caller.address}/optimize: it is not known whether the gradient of call {self.first_call} was "
                "applied (applied: unknown)",
                server=str(self.caller.address),
                route="/optimize",
                call=self.first_call,
                applied="unknown",
            )
        else:
            raise StaleGradient(
                f"{self.caller.address}/optimize: the graph of call {self.call} was dropped, and the forward made "
                "again gives another output: the weights have changed since; compute the loss again (applied: no)",
                server=str(self.caller.address),
                route="/optimize",
                call=self.call,
                applied="no",
            )

    async def _refuse(self) -> str:
        """Have the server refuse the gradient; return whether it was applied before."""
        calls = wire.encode_json([self.first_call])
        response = await self.caller.call("POST", "/settle", calls, {REFUSE: "1"})
        told: dict[str, str] = self.caller.decode("/settle", response)
        return told.get(self.first_call, "unknown")


def _same_bytes(one: wire.Message, other: wire.Message) -> bool:
    if one.tensors.keys() != other.tensors.keys():
        return False
    return all(_bits(tensor) == _bits(other.tensors[name]) for name, tensor in one.tensors.items())


def _bits(tensor: Tensor) -> tuple[Any, ...]:
    array = tensor.numpy()
    return array.dtype, array.shape, array.tobytes()
