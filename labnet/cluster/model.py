"""A remote model that is bound to a name instead of an address."""

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

from labnet import wire
from labnet.cluster.directory import Directory, Endpoint, Seat
from labnet.network.client.forward import Sent
from labnet.network.client.location import Gone
from labnet.network.client.remote_model import RemoteModel
from labnet.network.client.session import Caller
from labnet.network.transport.pool import Address

#: How often a directory with parts missing is brought up to date, and the longest that a forward waits for it, seconds.
_REFRESH_SECONDS = 2.0
#: Part of a new duration in the smoothed one.
_SHARE = 0.2


class Desk:
    """One part of a model as this client sees it: how busy it is."""

    def __init__(self, endpoint: Endpoint, caller: Caller):
        self.endpoint = endpoint
        self.caller = caller
        self.in_flight = 0
        self.seconds = 0.0

    @property
    def load(self) -> tuple[float, int]:
        """Seconds until a further forward would be answered, as far as this client can tell."""
        return (self.in_flight + 1) * self.seconds, self.in_flight

    def __enter__(self) -> None:
        self.in_flight += 1
        self._began = time.perf_counter()

    def __exit__(self, *exception: object) -> None:
        self.in_flight -= 1


class ClusterModel(RemoteModel):
    """A model that a cluster serves, to be called and trained like a local function; wherever it is at present.

    Made by `Cluster.remote_model` and `Cluster.serve_model`. When its server is restarted elsewhere, requests that
    were under way are sent again to where it is then, with the same keys.
    """

    def __init__(self, directory: Directory, called: Callable[[Seat], Caller], *, blocking: bool):
        self._directory = directory
        self._called = called
        self._desks: dict[str, Desk] = {}
        self._refreshing: float = 0.0
        primary = directory.primary
        assert primary is not None, "resolved"
        self._seat = Seat(directory, primary)
        super().__init__(called(self._seat), blocking=blocking)

    @property
    def name(self) -> str:
        """Name of the model in the cluster."""
        return self._directory.name

    @property
    def address(self) -> Address:
        """Where its primary was last."""
        return self._caller.address

    async def _forward(self, sent: Sent, message: wire.Message, *, training: bool) -> Any:
        desk = await self._choose()
        began = time.perf_counter()
        least = self._directory.least
        headers = {} if least is None or self._directory.replicas == 1 else least.header()
        with desk:
            result = await self._forward_by(sent._replace(caller=desk.caller), message, headers, training=training)
        seconds = time.perf_counter() - began
        desk.seconds += (seconds - desk.seconds) * (_SHARE if desk.seconds else 1.0)
        return result

    async def _choose(self) -> Desk:
        """Return the part that is least busy."""
        endpoints = self._directory.endpoints
        if len(endpoints) < self._directory.replicas and time.monotonic() >= self._refreshing:
            self._refreshing = time.monotonic() + _REFRESH_SECONDS
            with contextlib.suppress(TimeoutError, Gone):  # then those that are known, whose callers go on asking
                async with asyncio.timeout(_REFRESH_SECONDS):
                    await self._directory.refresh()
            endpoints = self._directory.endpoints
        known = {endpoint.incarnation: endpoint for endpoint in endpoints}
        for gone in self._desks.keys() - known.keys():
            del self._desks[gone]
        for incarnation, endpoint in known.items():
            if incarnation not in self._desks:
                caller = self._called(Seat(self._directory, endpoint))
                self._desks[incarnation] = Desk(endpoint, caller)
        if not self._desks:  # all of it is being restarted
            return Desk(self._seat.endpoint, self._caller)
        return min(self._desks.values(), key=lambda desk: desk.load)

    def __repr__(self) -> str:
        return f"ClusterModel({self.name!r}, {self.url})"
