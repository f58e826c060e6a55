"""The worker plugin that serves models; the scheduler asks it to start and stop them."""

import asyncio
import contextvars
import functools
import logging
import ssl as tls
import threading
import traceback
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

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

T = TypeVar("T")
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
        self._turns: dict[str, threading.Lock] = {}
        self._starts: dict[str, object] = {}
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
        mine = self._starts[part] = object()
        token = current.set(self._worker)
        try:  # a thread of its own: a factory that never returns keeps one
            return await _in_thread(functools.partial(self._start, part, mine, **given))
        finally:
            current.reset(token)

    def _start(
        self,
        part: str,
        mine: object,
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
                made = factory()
                model, optimizer = made if isinstance(made, tuple) and len(made) == 2 else (made, optimizer)
                if model is None:
                    raise ServeError("the factory returned None, expected a model")
                with self._turn(part):
                    if self._starts.get(part) is not mine:
                        return {"error": "it was stopped while its factory ran"}
                    role = self._role(name, replicas, primary)
                    server = self._serve(name, model, optimizer, None if primary else store, options, role)
                    self._served[part] = server
            except BaseException as error:  # an exit of this thread would end the worker, with the models of others
                log.exception("%s cannot be served", part)
                return {"error": _reason(error)}
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
        model: Any,
        optimizer: Any,
        store: str | None,
        options: dict[str, Any],
        role: Role | None,
    ) -> Server:
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
        self._starts.pop(part, None)  # one whose factory still runs serves nothing
        await _in_thread(functools.partial(self._stop, part))

    def _turn(self, part: str) -> threading.Lock:
        """Return the lock that is held while a part starts or stops to be served; no factory runs meanwhile."""
        with self._lock:
            return self._turns.setdefault(part, threading.Lock())

    def _stop(self, part: str) -> None:
        with self._turn(part):
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


async def _in_thread(function: Callable[[], T]) -> T:
    """Run a function on a new daemon thread, in the context of the caller."""
    done: Future[T] = Future()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            done.set_result(context.run(function))
        except BaseException as error:
            done.set_exception(error)

    threading.Thread(target=run, name="labnet-start", daemon=True).start()
    return await asyncio.wrap_future(done)


def _reason(error: BaseException) -> str:
    """Return why a part could not be served, for the user who ordered it."""
    if isinstance(error, SystemExit):
        return (
            f"{_innermost(error)}SystemExit: {error}: it called sys.exit, as argparse does with arguments that it does "
            "not know; a factory runs in the process of the worker"
        )
    return f"{_innermost(error)}{type(error).__name__}: {error}"


def _innermost(error: BaseException) -> str:
    """Return the location in the user's code that raised an error, for its message."""
    frames = traceback.extract_tb(error.__traceback__)
    return f"{frames[-1].filename}, line {frames[-1].lineno}, in {frames[-1].name}: " if frames else ""
