"""What a served model is among the servers of one model; this one is alone."""

from collections.abc import Awaitable, Callable
from typing import Any

from labnet.network.model.updates import Contribution
from labnet.network.protocol.rounds import RoundOf
from labnet.network.server.port import Port
from labnet.network.server.routing import Reply, Request, Route


class Role:
    """The role of the only server of a model, and the base of those of a primary and of a replica.

    Attributes
    ----------
    lineage : str
        What the epochs of all servers of the model begin with; empty for a server that is alone.
    epoch : str or None
        Of a replica, the incarnation of the primary whose weights it has.
    submits : bool
        Whether another server applies the gradients.
    """

    lineage: str = ""
    epoch: str | None = None
    submits = False

    def attach(self, served: Any, bound: Port) -> None:
        """Begin the role of a model that is about to be served at a port."""

    def close(self) -> None:
        """End the role; runs on the I/O loop."""

    def tell(self) -> None:
        """Take note that the weights have changed; runs on the I/O loop."""

    def routes(self) -> dict[str, Route]:
        """Return routes besides those of every served model."""
        return {}

    async def ready(self, request: Request) -> None:
        """Wait until the weights are those that a forward needs."""

    async def expired(self, call: str) -> None:
        """Take note that a client is told that the gradient of a call was not applied."""

    async def submit(
        self, contribution: Contribution, request: Request, reply: bytes, of: RoundOf | None, epoch: str | None
    ) -> int:
        """Have the other server apply a contribution, and return the version that it led to."""
        raise NotImplementedError(f"{type(self).__name__} applies its gradients itself")

    async def settle(self, request: Request, settle_here: Callable[[Request], Awaitable[Reply]]) -> Reply:
        """Answer what became of calls."""
        return await settle_here(request)
