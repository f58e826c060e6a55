"""The worker plugin that serves models; the scheduler asks it to start and stop them."""

import asyncio
import contextvars
import functools
import logging
import ssl as tls
import threading
import traceback
import weakref
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any, TypeVar

from distributed.batched import BatchedSend
from distributed.comm import get_address_host, parse_host_port
from distributed.diagnostics.plugin import WorkerPlugin
from distributed.protocol import deserialize_bytes
from distributed.protocol.pickle import dumps

from labnet.cluster.capture import Capture
from labnet.cluster.directory import BACKOFF, Directory, PartLocation
from labnet.cluster.registry import Registry
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

#: The reason with which Dask closes a worker that has lost its scheduler.
_BROKEN = "worker-handle-scheduler-connection-broken"
#: Seconds for an answer of the scheduler, between attempts to find another one, and until a worker without one ends.
_ANSWER_SECONDS, _LOOK_SECONDS, _ALONE_SECONDS = 2.0, 0.5, 3600.0
#: Number of attempts to reach a scheduler that neither answers nor refuses a connection.
_ATTEMPTS = 4
#: Plugins whose parts are served on when a new scheduler brings its own.
_left: "weakref.WeakKeyDictionary[Any, Host]" = weakref.WeakKeyDictionary()

#: The worker on which the current factory runs.
current: contextvars.ContextVar[Any] = contextvars.ContextVar("labnet_worker", default=None)


class Host(WorkerPlugin):  # type: ignore[misc]  # Dask is not typed
    """Serves parts of models on one worker; see `labnet.cluster.connect`."""

    name = "labnet"
    idempotent = True

    async def setup(self, worker: Any) -> None:
        """Start serving and register with the scheduler."""
        self._worker = worker
        before = _left.pop(worker, None)
        if before is not None:  # its parts are served on, under another scheduler
            self.__dict__.update(before.__dict__)
        else:
            self._served: dict[str, Server] = {}
            self._origins: dict[str, dict[str, Any]] = {}
            self._turns: dict[str, threading.Lock] = {}
            self._starts: dict[str, object] = {}
            self._lock = threading.Lock()
            self._capture = Capture()
            self._capture.install()
        self._is_alone = False
        self._scheduler_id = (await worker.scheduler.identity())["id"]
        worker.close = self._close
        worker.handlers.update(
            labnet_start=self.start,
            labnet_end=self.end,
            labnet_figures=self.figures,
            labnet_lines=self.lines,
            labnet_intervals=self.intervals,
        )
        parts = [{**self._origins[part], **self._endpoint(server)} for part, server in self._served.items()]
        await worker.scheduler.labnet_ready(worker=worker.contact_address or worker.address, parts=parts)

    async def teardown(self, worker: Any) -> None:
        """Stop all parts if the worker ends; keep them if a scheduler replaces this plugin by its own."""
        if worker.status.name == "running":
            _left[worker] = self
            return
        served = list(self._served)
        await asyncio.gather(*[self.end(part) for part in served])
        self._capture.remove()

    # Another scheduler in place of one that died

    async def _close(self, *arguments: Any, reason: str = "worker-close", **given: Any) -> Any:
        """Close the worker, unless it serves and has lost a scheduler that died."""
        if reason == _BROKEN and self._served and not self._worker.state.tasks:
            found = await self._find_scheduler()
            if found != self._scheduler_id and self._worker.status.name == "running":
                self._is_alone = True
                log.warning("the scheduler at %s has died; models are served on", self._worker.scheduler.address)
                self._returning = asyncio.create_task(self._return())
                return None
        return await type(self._worker).close(self._worker, *arguments, reason=reason, **given)

    async def _find_scheduler(self) -> str | None:
        """Return the id of the scheduler at the known address; None if its host answers that there is none.

        A scheduler that cannot be reached may have given the parts to other workers, so it counts as this worker's.
        """
        host, port = parse_host_port(self._worker.scheduler.address.partition("://")[2])
        for _ in range(_ATTEMPTS):  # a process that ends closes its connections before it stops to accept new ones
            try:
                async with asyncio.timeout(_ANSWER_SECONDS):
                    _, writer = await asyncio.open_connection(host, port)
                    writer.close()
                    return str((await self._worker.scheduler.identity())["id"])
            except ConnectionRefusedError:
                return None
            except (OSError, TimeoutError):
                await asyncio.sleep(_LOOK_SECONDS)
        return str(self._scheduler_id)

    async def _return(self) -> None:
        """Wait for a scheduler at the known address; register with it and bring it the plugins."""
        worker, until = self._worker, asyncio.get_running_loop().time() + _ALONE_SECONDS
        for name in ("heartbeat", "keep-alive"):
            worker.periodic_callbacks[name].stop()
        while await self._find_scheduler() in (None, self._scheduler_id):
            if asyncio.get_running_loop().time() > until:
                await type(worker).close(worker, reason=_BROKEN)
                return
            await asyncio.sleep(_LOOK_SECONDS)
        worker.batched_stream = BatchedSend(interval="2ms", loop=worker.loop)
        await worker._register_with_scheduler()
        await worker.scheduler.register_scheduler_plugin(plugin=dumps(Registry()), name=Registry.name, idempotent=True)
        await worker.scheduler.register_worker_plugin(plugin=dumps(Host()), name=self.name, idempotent=True)

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
        origin: dict[str, Any],
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
                    self._origins[part] = {**origin, "order": {**origin["order"], "program": program}}
            except BaseException as error:  # an exit of this thread would end the worker, with the models of others
                log.exception("%s cannot be served", part)
                return {"error": _reason(error)}
        self._capture.belongs(server.worker.ident, part)
        return self._endpoint(server)

    def _endpoint(self, server: Server) -> dict[str, Any]:
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
        found = {**primary, "replicas": replicas, "endpoints": [primary]}
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
        """Return the lock of a part for the start and the stop of its server; factories run outside of it."""
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
