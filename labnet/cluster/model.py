"""Remote models that are bound to a name instead of an address."""

import asyncio
import contextlib
import time
from typing import Any

from labnet import wire
from labnet.cluster.directory import Directory, Endpoint, PartLocation
from labnet.network.client.forward import Sent
from labnet.network.client.location import Gone
from labnet.network.client.options import ClientOptions
from labnet.network.client.remote_model import RemoteModel
from labnet.network.client.session import Caller
from labnet.network.threads import leave_thread
from labnet.network.transport.address import Address

#: Seconds between refreshes of an incomplete directory, and the longest wait of a forward for one.
_REFRESH_SECONDS = 2.0
#: Weight of a new duration in the moving average, and share of it that is left with each call of another part.
_SHARE, _LEFT = 0.2, 0.95


class PartLoad:
    """The load of one part of a model, as measured by this client."""

    def __init__(self, endpoint: Endpoint, caller: Caller):
        self.endpoint = endpoint
        self.caller = caller
        self.in_flight = 0
        self.seconds = 0.0

    @property
    def load(self) -> tuple[float, int]:
        """Estimated seconds until a further forward would be answered, and the requests in flight."""
        return (self.in_flight + 1) * self.seconds, self.in_flight

    def __enter__(self) -> None:
        self.in_flight += 1
        self._began = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.in_flight -= 1


class ClusterModel(RemoteModel):
    """A model on a cluster, to be called and trained like a local function, wherever it runs.

    Made by `Cluster.remote_model` and `Cluster.serve_model`. After its server is restarted elsewhere, running requests
    are sent to the new address with the same keys.
    """

    def __init__(self, directory: Directory, options: ClientOptions, *, blocking: bool):
        self._directory = directory
        self._options = options
        self._parts: dict[str, PartLoad] = {}
        self._refreshing: float = 0.0
        primary = directory.primary
        assert primary is not None, "resolved"
        self._location = PartLocation(directory, primary)
        super().__init__(Caller(self._location, options), blocking=blocking)

    @property
    def name(self) -> str:
        """Name of the model in the cluster."""
        return self._directory.name

    @property
    def address(self) -> Address:
        """Last known address of the primary."""
        return self._caller.address

    async def _forward(self, sent: Sent, message: wire.Message, *, training: bool) -> Any:
        await leave_thread()  # the directory is asked on an event loop
        part = await self._choose()
        began = time.perf_counter()
        least = self._directory.least
        headers = {} if least is None or self._directory.replicas == 1 else least.header()
        with part:
            result = await self._forward_by(sent._replace(caller=part.caller), message, headers, training=training)
        seconds = time.perf_counter() - began
        part.seconds += (seconds - part.seconds) * (_SHARE if part.seconds else 1.0)
        return result

    async def _choose(self) -> PartLoad:
        """Return the part with the lowest load."""
        endpoints = self._directory.endpoints
        if len(endpoints) < self._directory.replicas and time.monotonic() >= self._refreshing:
            self._refreshing = time.monotonic() + _REFRESH_SECONDS
            with contextlib.suppress(TimeoutError, Gone):  # continue with the known parts, whose callers keep retrying
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._directory.refresh()
            endpoints = self._directory.endpoints
        known = {endpoint.incarnation: endpoint for endpoint in endpoints}
        for gone in self._parts.keys() - known.keys():
            del self._parts[gone]
        for incarnation, endpoint in known.items():
            if incarnation not in self._parts:
                caller = Caller(PartLocation(self._directory, endpoint), self._options)
                self._parts[incarnation] = PartLoad(endpoint, caller)
        if not self._parts:  # all parts are being restarted
            return PartLoad(self._location.endpoint, self._caller)
        chosen = min(self._parts.values(), key=lambda part: part.load)
        for part in self._parts.values():
            if part is not chosen and not part.in_flight:  # one that was slow once is tried again in the end
                part.seconds *= _LEFT
        return chosen

    def __repr__(self) -> str:
        return f"ClusterModel({self.name!r}, {self.url})"
