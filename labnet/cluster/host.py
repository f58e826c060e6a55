"""What serves models on a worker of the cluster: a plugin that the scheduler asks to start and to stop them."""

import asyncio
import contextvars
import logging
import threading
import traceback
from collections.abc import Callable
from typing import Any

from distributed.comm import get_address_host
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import deserialize_bytes

from labnet.cluster.capture import Capture
from labnet.errors import ServeError
from labnet.network import Server, serve_model

log = logging.getLogger("labnet.cluster")

#: The worker on which a factory runs.
current: contextvars.ContextVar[Any] = contextvars.ContextVar("labnet_worker", default=None)


class Host(WorkerPlugin):  # type: ignore[misc]  # Dask is not typed
    """Serves parts of models on one worker; see `labnet.cluster.connect`."""

    name = "labnet"
    idempotent = True

    async def setup(self, worker: Any) -> None:
        """Begin to serve, and tell the scheduler."""
        self._worker = worker
        self._served: dict[str, Server] = {}
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
        """Stop what is served: the worker ends."""
        served = list(self._served)
        await asyncio.gather(*[self.end(part) for part in served])
        self._capture.remove()

    async def start(self, part: str, **given: Any) -> dict[str, Any]:
        """Serve a part; return where, or why not."""
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
                server = self._serve(name, factory, optimizer, store, options)
            except Exception as error:
                log.exception("%s cannot be served", part)
                return {"error": f"{_innermost(error)}{type(error).__name__}: {error}"}
        with self._lock:
            self._served[part] = server
        self._capture.belongs(server._port.worker.ident, part)
        return {
            "port": server.port,
            "token": server.token,
            "incarnation": server.statistics()["server"]["epoch"],
            "tls": False,
        }

    def _serve(
        self, name: str, factory: Callable[[], Any], optimizer: Any, store: str | None, options: dict[str, Any]
    ) -> Server:
        model = factory()
        if model is None:
            raise ServeError("the factory returned None, expected a model")
        return serve_model(model, optimizer, port=0, host=self._host, name=name, store=store, **options)

    @property
    def _host(self) -> str:
        """Where to listen: where the worker does, as far as that is a network."""
        address: str = self._worker.address
        return "127.0.0.1" if address.startswith("inproc://") else str(get_address_host(address))

    async def end(self, part: str) -> None:
        """Stop a part."""
        await asyncio.to_thread(self._stop, part)

    def _stop(self, part: str) -> None:
        with self._lock:
            server = self._served.pop(part, None)
        if server is not None:
            server.stop()
            self._capture.belongs(server._port.worker.ident, None)

    async def figures(self, part: str) -> dict[str, Any] | None:
        """Return the statistics of a part, None if it is not served here."""
        server = self._served.get(part)
        return None if server is None else await asyncio.to_thread(server.snapshot)

    async def lines(self, part: str) -> list[str]:
        """Return what a part has written since this worker started."""
        return self._capture.lines(part)

    async def intervals(self, part: str) -> list[tuple[str, float, float]]:
        """Return when a part computed: what it did, from when to when, in seconds since 1970."""
        server = self._served.get(part)
        return [] if server is None else [(kind, began, ended) for kind, began, ended in server.timeline()]


def _innermost(error: BaseException) -> str:
    """Return where in the user's code an error comes from, for its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}: " if frames else ""
