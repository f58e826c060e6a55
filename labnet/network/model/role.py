"""The role of a server among the servers of one model; here, a server on its own."""

from collections.abc import Awaitable, Callable
from typing import Any

from labnet.network.model.updates import Contribution
from labnet.network.protocol.rounds import RoundOf
from labnet.network.server.port import Port
from labnet.network.server.routing import Reply, Request, Route


class Role:
    """The role of a model's only server, and the base class of primary and replica.

    Attributes
    ----------
    lineage : str
        Common prefix of the epochs of all servers of the model; empty for a single server.
    epoch : str or None
        On a replica: the incarnation of the primary whose weights it has.
    submits : bool
        Whether another server applies the gradients.
    """

    lineage: str = ""
    epoch: str | None = None
    submits = False

    def attach(self, served: Any, bound: Port) -> None:
        """Start the role for a model that is about to be served on a port."""

    def close(self) -> None:
        """End the role; runs on the I/O loop."""

    def tell(self) -> None:
        """Announce that the weights have changed; runs on the I/O loop."""

    def routes(self) -> dict[str, Route]:
        """Return the routes that this role adds to those of every served model."""
        return {}

    async def ready(self, request: Request) -> None:
        """Wait until the weights are recent enough for a forward."""

    async def expired(self, call: str) -> None:
        """Record that a client is told that the gradient of a call was not applied."""

    async def submit(
        self, contribution: Contribution, request: Request, reply: bytes, of: RoundOf | None, epoch: str | None
    ) -> int:
        """Send a contribution to the server that applies it; return the new version."""
        raise NotImplementedError(f"{type(self).__name__} applies its gradients itself")

    async def settle(self, request: Request, settle_locally: Callable[[Request], Awaitable[Reply]]) -> Reply:
        """Answer a request for the outcome of calls."""
        return await settle_locally(request)
