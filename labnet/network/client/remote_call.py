"""Autograd nodes of remote calls: the client side of a backward."""

import math
from collections.abc import Awaitable, Iterable, Mapping
from typing import Any

from labnet import errors, wire
from labnet.autograd import Node, Run, reachable
from labnet.errors import GradientError, GraphExpired, RemoteError
from labnet.network.client.forward import Forward
from labnet.network.client.partial_update import RemoteNode
from labnet.network.client.replay import RecordedForward
from labnet.network.client.shared_updates import Membership, PendingCall, Round, SharedUpdates, server_of
from labnet.network.protocol.digest import digest_of_body
from labnet.network.protocol.headers import CALL, LOSS, RENEWS
from labnet.network.protocol.keys import Ticket
from labnet.network.protocol.outcome import Applied
from labnet.network.protocol.rounds import RoundOf
from labnet.network.threads import run_here_first
from labnet.tensor import Tensor, as_gradient

#: How often a forward is repeated for one backward after the server has dropped its graph.
_RENEWALS = 10


class Parts:
    """Gradients of the outputs of one call, by name; addition is per name."""

    __slots__ = ("gradients",)

    def __init__(self, gradients: Mapping[str, Tensor]):
        self.gradients = dict(gradients)

    def __add__(self, other: "Parts") -> "Parts":
        total = dict(self.gradients)
        for name, gradient in other.gradients.items():
            total[name] = total[name] + gradient if name in total else gradient
        return Parts(total)


class Output(Node):
    """One output of a call whose node takes `Parts`, such as a remote call."""

    __slots__ = ("_dtype", "_name", "_shape")

    def __init__(self, call: Node, name: str, tensor: Tensor):
        self.parents = (call,)
        self._name = name
        self._shape = tensor.shape
        self._dtype = tensor.dtype

    def vjp(self, gradient: Any, run: Run) -> list[Parts]:
        """Forward the gradient under the name of the output."""
        gradient = as_gradient(gradient)
        if (gradient.shape, gradient.dtype) != (self._shape, self._dtype):
            raise GradientError(
                f"gradient of shape {gradient.shape} and dtype {gradient.dtype} for an output "
                f"of shape {self._shape} and dtype {self._dtype}"
            )
        return [Parts({self._name: gradient})]


class RemoteCall(RemoteNode):
    """A remote forward; its backward is a request."""

    __slots__ = ("_blocking", "_completed", "_gradients", "_held", "_sent", "_ticket", "forward")

    def __init__(self, forward: Forward, *, inputs: Mapping[str, Tensor], blocking: bool):
        super().__init__(str(forward.caller.address))
        self.parents = tuple(tensor.node for tensor in inputs.values())
        self.forward = forward
        self._blocking = blocking
        self._ticket: Ticket | None = None
        self._sent: bytes | None = None
        self._gradients: list[Tensor | None] | None = None
        self._held = False
        #: Number of successful backwards.
        self._completed = 0

    def record(self) -> RecordedForward:
        """Return the record of this call, for replaying the forward that contains it."""
        forward = self.forward
        return RecordedForward(
            self.server, b"".join(forward.body.parts), forward.reply, forward.first_call, forward.epoch, forward.key
        )

    @property
    def awaits(self) -> bool:  # type: ignore[override]
        """Whether the backward must be awaited; False for a blocking model."""
        return not self._blocking

    def vjp(self, gradient: Parts, run: Run) -> list[Tensor | None] | Awaitable[list[Tensor | None]]:
        """Send the gradients of the outputs; return the gradients of the inputs."""
        if run.create_graph:
            raise GradientError("a gradient through a remote model cannot be differentiated again: its graph is remote")
        metadata = {} if run.loss is None or not math.isfinite(run.loss) else {LOSS: repr(run.loss)}
        message = wire.Message(gradient.gradients, self.forward.reply.named, metadata)
        body = wire.encode_native(message, bfloat16=self.forward.caller.bfloat16)
        self._choose_key(body)
        sending = self._apply(body, Round.current() or SharedUpdates.current() or self._share(run))
        return run_here_first(sending) if self._blocking else sending

    async def send(self, body: wire.Body) -> None:
        """Send the gradients of the outputs outside a backward; the same body again is the same request."""
        self._choose_key(body)
        await self._apply(body, None)

    def settle(self) -> None:
        """Forget the outcome: a further backward is a new request, which the server will refuse.

        A gradient that is still held is kept: its update is yet to be made.
        """
        if not self._held:
            self._gradients = self._ticket = self._sent = None
            self._completed += 1

    def committed(self, applied: Applied) -> None:
        """Record the outcome of a held gradient."""
        self.applied = applied
        if applied == "yes":
            self._ticket, self._held = None, False

    def _share(self, run: Run) -> Membership | None:
        """Return the update that this call shares with other calls of its server in one backward, or None."""
        calls = [node for node in run.nodes if isinstance(node, RemoteCall)]
        if len(calls) == 1 and not self._held:
            return None
        server = server_of(self, calls)
        if not self._held and sum(server_of(call, calls) == server for call in calls) == 1:
            return None
        updates = run.commits.setdefault("labnet.network", SharedUpdates(blocking=self._blocking))
        assert isinstance(updates, SharedUpdates)
        return updates.membership

    def _choose_key(self, body: wire.Body) -> None:
        """Keep the key while the same gradient is being sent; take a new one for another gradient."""
        sent = digest_of_body(body)
        if sent != self._sent:
            self._ticket = self._gradients = None
            self._sent, self._held = sent, False
        if self._ticket is None and self._gradients is None:
            content = f"{self.forward.key} {self._completed} ".encode() + sent
            self._ticket = self.forward.caller.ticket("/optimize", content, counted=False)

    async def _apply(self, body: wire.Body, membership: Membership | None) -> list[Tensor | None]:
        of, ticket = membership.of if membership is not None else None, self._ticket
        if self._gradients is None:
            try:
                self._gradients = await self.request(body, of, ticket)
            except RemoteError as error:
                self.applied = error.applied or "no"
                if self.applied != "unknown":
                    self._ticket = None
                raise
            except BaseException:
                self.applied = "unknown"
                raise
            self._held = of is not None and of.is_shared
            if not self._held:
                self.applied, self._ticket = "yes", None
        if membership is not None and ticket is not None:
            membership.collector.record(PendingCall(self, body, membership.of, ticket))
        return self._gradients

    async def request(self, body: wire.Body, of: RoundOf | None, ticket: Ticket | None) -> list[Tensor | None]:
        """Send the gradient until it is accepted; the key is kept if the forward must be repeated."""
        forward = self.forward
        held = of.header() if of is not None else {}
        for renewals in range(_RENEWALS + 1):
            try:
                headers = {CALL: forward.call, **held}
                if forward.call != forward.first_call:
                    headers[RENEWS] = forward.first_call
                response = await forward.caller.call("POST", "/optimize", body, headers, ticket=ticket)
                break
            except GraphExpired as error:
                if error.applied != "no" or renewals == _RENEWALS:
                    raise
                await forward.renew()
        reply = forward.caller.decode("/optimize", response)
        if not isinstance(reply, wire.Message):
            raise errors.ProtocolMismatch(f"{forward.caller.address}/optimize: expected tensors, got {reply!r:.60}")
        return [reply.tensors.get(name) for name in forward.names]


def remote_keys(tensors: Iterable[Tensor]) -> list[str]:
    """Return the keys of the remote forwards that tensors were computed from, sorted."""
    roots = [tensor.node for tensor in tensors if tensor.node is not None]
    nodes = {node for root in roots for node in reachable(root)}
    return sorted(node.forward.key for node in nodes if isinstance(node, RemoteCall))
