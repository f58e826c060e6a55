"""A client's directory of the parts of a model; the scheduler is asked at first and after failures only."""

import asyncio
import ssl as tls
from collections.abc import Callable, Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

from labnet.network.client.location import Gone
from labnet.network.client.retry import Backoff
from labnet.network.protocol.headers import EPOCH, LINEAGE, VERSION, Least
from labnet.network.transport.address import Address

#: Default backoff of a client: a restarted model returns within seconds.
BACKOFF = Backoff(first=0.05, longest=1.0)
#: Calls an operation of the scheduler by name and arguments, from any thread.
Ask = Callable[..., "Future[Any]"]


@dataclass(frozen=True)
class Endpoint:
    """The endpoint of a part of a model; number 0 is the primary."""

    number: int
    address: Address
    token: str = field(repr=False)
    incarnation: str


def endpoints_of(found: dict[str, Any]) -> list[Endpoint]:
    """Parse the scheduler's answer."""
    return [
        Endpoint(int(e["number"]), Address.parse(e["url"]), str(e["token"]), str(e["incarnation"]))
        for e in found["endpoints"]
    ]


class Directory:
    """The parts of one model; concurrent refreshes share one request to the scheduler.

    Attributes
    ----------
    label : str
        Globally unique name of the model.
    replicas : int
        Intended number of parts.
    endpoints : list of Endpoint
        Parts that were served at the last refresh.
    """

    def __init__(self, name: str, found: dict[str, Any], ask: Ask, ssl: tls.SSLContext | None):
        self.name = name
        self.label = f"dask:{found['id']}/{name}"
        self._model_id = str(found.get("model_id", ""))
        #: Why the primary does not run, at the last refresh.
        self.trouble = ""
        self.ssl = ssl
        self._ask = ask
        self._asking: Future[Any] | None = None
        #: Version after this client's own updates, the minimum for its forwards.
        self.least: Least | None = None
        self._take(found)

    def _take(self, found: dict[str, Any]) -> None:
        self.replicas = int(found["replicas"])
        self.endpoints = endpoints_of(found)
        self.trouble = str(found.get("trouble", ""))

    @property
    def primary(self) -> Endpoint | None:
        """The part that owns the weights, if it is served."""
        return next((endpoint for endpoint in self.endpoints if endpoint.number == 0), None)

    def on_reply(self, headers: Mapping[str, str]) -> None:
        """Record the version of the weights in a reply."""
        version, lineage = headers.get(VERSION, ""), headers.get(EPOCH, "")[:LINEAGE]
        if version.isascii() and version.isdigit():
            same = self.least is not None and self.least.lineage == lineage
            least = max(int(version), self.least.version if same and self.least is not None else 0)
            self.least = Least(lineage, least)

    async def refresh(self) -> None:
        """Ask the scheduler; keep the known parts if it does not answer.

        Raises
        ------
        Gone
            If the model is not served any more.
        """
        asking = self._asking
        try:
            if asking is None or asking.done():
                asking = self._asking = self._ask("labnet_resolve", name=self.name)
            found = await asyncio.shield(asyncio.wrap_future(asking))
        except (OSError, RuntimeError) as error:  # of Dask, whose pool of connections may be closed
            self.trouble = f"the scheduler of the cluster does not answer ({error or type(error).__name__})"
            return
        except asyncio.CancelledError:
            task = asyncio.current_task()
            if task is None or task.cancelling() or asking is None or not asking.cancelled():
                raise
            return  # Dask has cancelled the request, not this task
        if found.get("missing"):
            raise Gone(f"the cluster does not serve {self.name!r} any more")
        if found.get("model_id", "") != self._model_id:
            raise Gone(
                f"{self.name!r} was replaced by a model of {found.get('owner') or 'another owner'}: "
                f"remote_model({self.name!r}) returns that one"
            )
        self._take(found)


class PartLocation:
    """The location of one part of a model; after the part stops, that of the primary, which knows its calls."""

    moves = True

    def __init__(self, directory: Directory, endpoint: Endpoint):
        self._directory = directory
        self.endpoint = endpoint
        self.name = directory.label
        self.known = f"{directory.label}/{endpoint.number}"

    @property
    def address(self) -> Address:
        """Current address."""
        return self.endpoint.address

    @property
    def token(self) -> str:
        """Token at that address."""
        return self.endpoint.token

    @property
    def ssl(self) -> tls.SSLContext | None:
        """TLS settings for its certificate."""
        return self._directory.ssl

    @property
    def trouble(self) -> str:
        """Why the primary does not run, as the scheduler says."""
        return self._directory.trouble

    def on_reply(self, route: str, headers: Mapping[str, str]) -> None:
        """Record the reply to an update."""
        if route in ("/optimize", "/settle"):
            self._directory.on_reply(headers)

    async def resolve(self) -> bool:
        """Refresh the directory and resolve the part again."""
        await self._directory.refresh()
        if self.endpoint in self._directory.endpoints or self._directory.primary is None:
            return False
        self.endpoint = self._directory.primary
        return True
