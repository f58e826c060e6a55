"""The worker plugin that serves models; the scheduler asks it to start and stop them."""

import asyncio
import contextvars
import logging
import ssl as tls
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

from distributed.comm import get_address_host
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import deserialize_bytes

from labnet.cluster.capture import Capture
from labnet.cluster.directory import BACKOFF, Directory, PartLocation
from labnet.errors import ServeError
from labnet.network import Server
from labnet.network.client.options import ClientOptions
from labnet.network.client.session import Caller
from labnet.network.model.role import Role
from labnet.network.model.staleness import Policy
from labnet.network.replication.messages import new_lineage
from labnet.network.replication.primary import Primary
from labnet.network.replication.replica import Replica
from labnet.network.serve import Given, Place, serve_part

log = logging.getLogger("labnet.cluster")

#: The worker on which the current factory runs.
current: contextvars.ContextVar[Any] = contextvars.ContextVar("labnet_worker", default=None)


class Host(WorkerPlugin):  # type: ignore[misc]  # Dask is not typed
    """Serves parts of models on one worker; see `labnet.cluster.connect`."""

    name = "labnet"
    idempotent = True

    async def setup(self, worker: Any) -> None:
        """Start serving and register with the scheduler."""
        self._worker = worker
        self._served: dict[str, Server] = {}
        self._turns: dict[str, asyncio.Lock] = {}
        self._lock = threading.Lock()
        self._capture = Capture()
        self._capture.install()
        worker.handlers.update(
            labnet_start=self.start,
            labnet_end=self.end,
            labnet_figures=self.figures,
            labnet_lines=self.lines,
            labnet_intervals=self.intervals,
        )
        await worker.scheduler.labnet_ready(worker=worker.contact_address or worker.address)

    async def teardown(self, worker: Any) -> None:
        """Stop all parts: the worker ends."""
        served = list(self._served)
        await asyncio.gather(*[self.end(part) for part in served])
        self._capture.remove()

    async def start(self, part: str, **given: Any) -> dict[str, Any]:
        """Serve a part; return its location or the reason of a failure."""
        async with self._turns.setdefault(part, asyncio.Lock()):
            token = current.set(self._worker)
            try:
                return await asyncio.to_thread(self._start, part, **given)
            finally:
                current.reset(token)

    def _start(
        self,
        part: str,
        *,
        name: str,
        program: bytes,
        store: str | None,
        options: dict[str, Any],
        replicas: int,
        primary: dict[str, Any] | None,
    ) -> dict[str, Any]:
        self._stop(part)
        with self._capture.of_this_thread(part):
            try:
                factory, optimizer = deserialize_bytes(program)
                role = self._role(name, replicas, primary)
                server = self._serve(name, factory, optimizer, None if primary else store, options, role)
            except Exception as error:
                log.exception("%s cannot be served", part)
                return {"error": f"{_innermost(error)}{type(error).__name__}: {error}"}
        with self._lock:
            self._served[part] = server
        self._capture.belongs(server.worker.ident, part)
        return {
            "port": server.port,
            "token": server.token,
            "incarnation": server.statistics()["server"]["epoch"],
            "tls": self._is_encrypted,
        }

    @property
    def _context(self) -> tls.SSLContext | None:
        """The TLS settings of the cluster, with which clients must present a certificate of its authority."""
        if not self._is_encrypted:
            return None
        context: tls.SSLContext = self._worker.security.get_listen_args("worker")["ssl_context"]
        return context

    @property
    def _is_encrypted(self) -> bool:
        return str(self._worker.address).startswith("tls://")

    def _serve(
        self,
        name: str,
        factory: Callable[[], Any],
        optimizer: Any,
        store: str | None,
        options: dict[str, Any],
        role: Role | None,
    ) -> Server:
        made = factory()
        model, optimizer = made if isinstance(made, tuple) and len(made) == 2 else (made, optimizer)
        if model is None:
            raise ServeError("the factory returned None, expected a model")
        replica = isinstance(role, Replica)
        policy = Policy() if replica else Policy(options["staleness"], options["max_staleness"], options["accumulate"])
        given = Given(
            model,
            None if replica else optimizer,
            {},
            policy,
            store,
            options["durability"],
            options["compile"],
            recovery_seconds=options["recovery_seconds"],
        )
        return serve_part(given, Place(0, self._host, name, "auto", ssl=self._context), role)

    def _role(self, name: str, replicas: int, primary: dict[str, Any] | None) -> Role | None:
        """Return the role of a part among the parts of its model."""
        if replicas == 1:
            return None
        if primary is None:
            return Primary(new_lineage())
        found = {"id": primary["id"], "replicas": replicas, "endpoints": [primary]}
        directory = Directory(name, found, self._ask, self._ssl())
        seat = PartLocation(directory, directory.endpoints[0])
        return Replica(Caller(seat, ClientOptions(backoff=BACKOFF)), directory.endpoints[0].incarnation)

    def _ask(self, operation: str, **arguments: Any) -> "Future[Any]":
        """Call an operation of the scheduler, from any thread."""

        async def asking() -> Any:
            return await getattr(self._worker.scheduler, operation)(**arguments)

        return asyncio.run_coroutine_threadsafe(asking(), self._worker.loop.asyncio_loop)

    def _ssl(self) -> tls.SSLContext | None:
        """Return the TLS settings of the cluster for connections, or None."""
        context: tls.SSLContext | None = self._worker.security.get_connection_args("worker").get("ssl_context")
        return context

    @property
    def _host(self) -> str:
        """Return the host to listen on: that of the worker if it is on a network."""
        address: str = self._worker.address
        if address.startswith("inproc://"):
            return "127.0.0.1"
        return str(get_address_host(address))

    async def end(self, part: str) -> None:
        """Stop a part."""
        async with self._turns.setdefault(part, asyncio.Lock()):  # including one that is being started
            await asyncio.to_thread(self._stop, part)

    def _stop(self, part: str) -> None:
        with self._lock:
            server = self._served.pop(part, None)
        if server is not None:
            server.stop()
            self._capture.belongs(server.worker.ident, None)

    async def figures(self, part: str) -> dict[str, Any] | None:
        """Return the statistics of a part; None if it is not served here."""
        server = self._served.get(part)
        return None if server is None else await asyncio.to_thread(server.snapshot)

    async def lines(self, part: str) -> list[str]:
        """Return the output of a part since this worker started."""
        return self._capture.lines(part)

    async def intervals(self, part: str) -> list[tuple[str, float, float]]:
        """Return the intervals in which a part computed: name, start and end in seconds since 1970."""
        server = self._served.get(part)
        return [] if server is None else [(kind, began, ended) for kind, began, ended in server.timeline()]


def _innermost(error: BaseException) -> str:
    """Return the location in the user's code that raised an error, for its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}: " if frames else ""
