"""The statistics, snapshot and description of a server, and their routes."""

import time
from collections.abc import Callable
from typing import Any

from labnet import wire
from labnet.errors import ServeError
from labnet.network.adapters.device_adapter import gpu_of
from labnet.network.model.served import ServedModel
from labnet.network.monitor import openapi, process, prometheus
from labnet.network.monitor.run_monitor import RunMonitor
from labnet.network.monitor.upstreams import Upstreams
from labnet.network.protocol.trail import Cut, Trail
from labnet.network.server.port import Port
from labnet.network.server.routing import Reply, Request, Route
from labnet.network.threads import in_task

#: How many statistics requests may wait for the custom handler, which shares the worker with models.
_MOST_AT_ONCE = 8


class ServerStatistics:
    """The statistics of one server on a port.

    Parameters
    ----------
    model : ServedModel, optional
        The served model.
    custom : Route, optional
        The user's handler ``statistics``, which adds fields.
    monitor : RunMonitor
        Observer of the run.
    """

    def __init__(self, name: str, port: Port, *, model: ServedModel | None, custom: Route | None, monitor: RunMonitor):
        self._name = name
        self._port = port
        self._model = model
        self._custom = custom
        self._monitor = monitor
        self._computing = 0
        self._last: dict[str, Any] | None = None  # the last snapshot of a replaced server
        self._branches = Upstreams(lambda: self.statistics(None, Trail.start()))

    def close(self) -> None:
        """Store the last statistics and drop the model."""
        self._last = self.history(running=False)
        self._model = self._custom = None

    def counters(self) -> dict[str, Any]:
        """Return the counters per route and the state of the server."""
        if self._last is not None:
            return dict(self._last["statistics"])
        document: dict[str, Any] = {name: route.summary() for name, route in self._port.statistics.items()}
        state: dict[str, Any] = {"name": self._name, "epoch": self._port.epoch, "users": len(self._port.users)}
        state["uptime"] = time.monotonic() - self._port.started
        state["calls"] = self._port.once.ledger.summary()
        state["queue"] = {"now": self._port.queued, "limit": self._port.max_queue, "refused": self._port.refused}
        state["paused"] = self._port.paused
        state["metrics"] = self._monitor.metrics.last
        if self._model is not None:
            self._model.calls.expire(time.monotonic())
            state.update(
                version=self._model.version,
                graphs=self._model.calls.summary(),
                unused_forwards=self._model.unused_forwards if self._model.updates.optimizer is not None else 0,
                staleness=self._model.updates.staleness.last,
                staleness_histogram=self._model.updates.staleness.summary(),
                loss=self._model.losses.last,
                learning_rate=self._monitor.learning_rate,
                examples_per_second=self._model.examples.per_second(now=time.monotonic()),
            )
            place = gpu_of(self._model.model, self._model.device)
            if place is not None:
                state["device"] = place | {"kernels": self._model.times.summary()}
            if self._model.store is not None:
                state["store"] = self._model.store.summary()
        return {**document, "server": state}

    async def statistics(self, client: str | None, trail: Trail) -> dict[str, Any]:
        """Return the counters and the fields of the custom handler."""
        await in_task()
        document = self.counters()
        custom = self._custom
        if custom is None:
            return document
        if self._computing >= _MOST_AT_ONCE:
            document["server"]["incomplete"] = f"{self._computing} others wait for the handler 'statistics'"
            return document
        request = Request("GET", "/statistics", {"Accept": wire.JSON}, b"", client)
        self._computing += 1
        try:
            async with trail.through(self._port.epoch):
                body = (await custom.answer(request)).body
        except Cut as cut:  # the server's own counters are still returned
            document["server"]["incomplete"] = str(cut)
            return document
        finally:
            self._computing -= 1
        extra = wire.decode_value(body.content_type or wire.TEXT, b"".join(body.parts))
        if not isinstance(extra, dict) or extra.keys() & document.keys():
            raise ServeError(
                f"the handler 'statistics' must return a dict without the keys {sorted(document)}, got {extra!r:.80}"
            )
        return {**document, **extra}

    def history(self, *, running: bool = True) -> dict[str, Any]:
        """Return the data of the panel that this process has."""
        if self._last is not None:
            return self._last
        now = time.monotonic()
        model = self._model
        steps, values = model.losses.points() if model is not None else ([], [])
        return {
            "url": self._port.url,
            "running": running,
            "statistics": self.counters(),
            "recent": {name: route.recent(now) for name, route in self._port.statistics.items()},
            "loss": {"steps": steps, "values": values},
            "norms": model.updates.norms.summary() if model is not None else {},
            "process": process.usage(),
            "metrics": self._monitor.metrics.summary(),
            "earlier": self._monitor.earlier,
            "alerts": self._monitor.alerts.summary(),
            "clients": self._port.clients.summary(now),
            "failures": list(self._port.failures),
            "branches": {"known": self._branches.known, "incomplete": self._branches.incomplete},
        }

    async def snapshot(self) -> dict[str, Any]:
        """Return the data of the panel; runs on the I/O loop."""
        if self._custom is not None:
            self._branches.look()
        return self.history()

    def routes(self) -> dict[str, Route]:
        """Return the read-only routes."""

        async def statistics(request: Request) -> Reply:
            trail = Trail.read(request.headers)
            document = await self.statistics(request.client, trail)
            if not trail.servers:  # the trail was not cut short on the way here
                self._branches.take(document)
            return Reply(wire.encode_json(document))

        async def snapshot(request: Request) -> Reply:
            return Reply(wire.encode_json(await self.snapshot()))

        async def health(request: Request) -> Reply:
            return Reply(wire.encode_json({"status": "ok", "name": self._name}))

        async def described(request: Request) -> Reply:
            routes, readable = self._port.routes, self._port.loopback or self._port.token is None
            return Reply(wire.encode_json(openapi.document(self._name, routes, url=self._port.url, readable=readable)))

        async def measured(request: Request) -> Reply:
            state = self.counters()["server"] | {"process": process.usage()}
            return Reply(prometheus.exposition(request.headers.get("Accept", ""), self._port.statistics, state))

        def read(answer: Callable[[Request], Any], summary: str, content_type: str = wire.JSON) -> Route:
            return Route(("GET",), answer, readable=True, counted=False, summary=summary, replies=(content_type,))

        return {
            "/statistics": read(statistics, "Counters per route, and the state of the server"),
            "/snapshot": read(snapshot, "What the panel draws"),
            "/health": read(health, "Whether the server runs"),
            "/openapi.json": read(described, "This document"),
            "/metrics": read(measured, "The counters as Prometheus reads them", wire.TEXT),
        }
