"""Where the parts of a model are, as a client knows: asked of the scheduler at first, and after failures only."""

import asyncio
import ssl as tls
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from labnet.network.client.location import Gone
from labnet.network.client.retry import Backoff
from labnet.network.protocol.headers import EPOCH, VERSION
from labnet.network.replication.messages import LINEAGE, Least
from labnet.network.transport.pool import Address

#: How a client waits between attempts: a model that is restarted is back within seconds.
BACKOFF = Backoff(first=0.05, longest=1.0)
#: Asks the scheduler: the name of an operation and its arguments, from any thread.
Ask = Callable[..., "Future[Any]"]


@dataclass(frozen=True)
class Endpoint:
    """A part of a model as it can be reached: number 0 is the primary."""

    number: int
    address: Address
    token: str = field(repr=False)
    incarnation: str


def endpoints_of(found: dict[str, Any]) -> list[Endpoint]:
    """Read the scheduler's answer."""
    return [
        Endpoint(int(e["number"]), Address.parse(e["url"]), str(e["token"]), str(e["incarnation"]))
        for e in found["endpoints"]
    ]


class Directory:
    """The parts of one model; however many requests fail at once, the scheduler is asked once.

    Attributes
    ----------
    label : str
        Names the model everywhere and for ever.
    replicas : int
        How many parts there are to be.
    endpoints : list of Endpoint
        Those that were served when it was last asked.
    """

    def __init__(self, name: str, found: dict[str, Any], ask: Ask, ssl: tls.SSLContext | None):
        self.name = name
        self.label = f"dask:{found['id']}/{name}"
        self.ssl = ssl
        self._ask = ask
        self._asking: Future[Any] | None = None
        #: What this client's own updates have led to: its forwards see at least that.
        self.least: Least | None = None
        self._take(found)

    def _take(self, found: dict[str, Any]) -> None:
        self.replicas = int(found["replicas"])
        self.endpoints = endpoints_of(found)

    @property
    def primary(self) -> Endpoint | None:
        """The part that owns the weights, if it is served."""
        return next((endpoint for endpoint in self.endpoints if endpoint.number == 0), None)

    def heard(self, headers: Mapping[str, str]) -> None:
        """Take note of the version of the weights that a reply tells."""
        version, lineage = headers.get(VERSION, ""), headers.get(EPOCH, "")[:LINEAGE]
        if version.isascii() and version.isdigit():
            same = self.least is not None and self.least.lineage == lineage
            least = max(int(version), self.least.version if same and self.least is not None else 0)
            self.least = Least(lineage, least)

    async def refresh(self) -> None:
        """Ask the scheduler; where it does not answer, what is known stays.

        Raises
        ------
        Gone
            If the model is not served any more.
        """
        asking = self._asking
        if asking is None or asking.done():
            asking = self._asking = self._ask("labnet_resolve", name=self.name)
        try:
            found = await asyncio.shield(asyncio.wrap_future(asking))
        except OSError:
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or not asking.cancelled():
                raise
            return  # Dask has cancelled the question, nobody this task
        if found.get("missing"):
            raise Gone(f"the cluster does not serve {self.name!r} any more")
        self._take(found)


class Seat:
    """Where one part of a model is: there as long as it runs, then with the primary, which knows of its calls."""

    moves = True

    def __init__(self, directory: Directory, endpoint: Endpoint):
        self._directory = directory
        self.endpoint = endpoint
        self.name = directory.label
        self.known = f"{directory.label}/{endpoint.number}"

    @property
    def address(self) -> Address:
        """Where it is."""
        return self.endpoint.address

    @property
    def token(self) -> str:
        """Its token there."""
        return self.endpoint.token

    @property
    def ssl(self) -> tls.SSLContext | None:
        """How to check its certificate."""
        return self._directory.ssl

    def on_reply(self, route: str, headers: Mapping[str, str]) -> None:
        """Take note of a reply to an update."""
        if route in ("/optimize", "/settle"):
            self._directory.heard(headers)

    async def resolve(self) -> bool:
        """Ask where it is now."""
        await self._directory.refresh()
        if self.endpoint in self._directory.endpoints or self._directory.primary is None:
            return False
        self.endpoint = self._directory.primary
        return True
