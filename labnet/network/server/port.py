"""A bound port of this process: its queue, its routes and its shutdown."""

import asyncio
import errno
import secrets
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Any, Protocol

from tornado.web import Application as Handlers

from labnet.network import discovery
from labnet.network.server import control
from labnet.network.server.functions import Users
from labnet.network.server.http_requests import Listener
from labnet.network.server.idempotency import IdempotentRequests
from labnet.network.server.middleware import answer
from labnet.network.server.routing import Failure, Reply, Request, Route, failure_of
from labnet.network.threads import IO, MODELS, Worker
from labnet.stats import Clients, RouteStatistics
from labnet.stats.clients import short
from labnet.store import Store

#: Seconds that a stopping server has to finish running requests.
DRAIN_SECONDS = 5.0
_LOOK_SECONDS = 2.0
_FAILURES = 20
_LONGEST_MESSAGE = 300
#: Wildcard hosts, and the address of such a server on this machine.
ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}


class Owner(Protocol):
    """The server that currently owns a port."""

    name: str

    @property
    def keeps(self) -> bool:
        """Whether the owner has a store on disk."""
        ...

    def drain(self) -> None:
        """Finish the requests that wait for other requests."""

    def close(self) -> None:
        """Close the store; runs on the worker."""

    def abandon(self) -> None:
        """Leave the store to the parent process, in a forked child."""

    def look(self, now: float) -> None:
        """Check conditions that depend on time alone; `now` is in seconds of a monotonic clock."""

    def failed(self, failure: Failure) -> None:
        """Observe a request that failed."""


class Port:
    """A bound port of this process. Its server can be replaced; connections and statistics remain."""

    def __init__(
        self,
        *,
        port: int,
        host: str,
        token: str | None,
        max_body: int,
        max_queue: int,
        context: ssl.SSLContext | None = None,
    ):
        self.host = host
        self.ssl = context
        self.loopback = discovery.is_loopback(host)
        self.token = token
        self.max_body = max_body
        self.max_queue = max_queue
        self.queued = 0
        self.refused = 0
        #: Whether training is refused for now.
        self.paused = False
        self.clients = Clients()
        #: The last requests that failed.
        self.failures: deque[dict[str, Any]] = deque(maxlen=_FAILURES)
        self._looking: asyncio.Task[None] | None = None
        self.epoch = secrets.token_hex(8)
        self.draining = self._returns = False
        self.started = time.monotonic()
        self.statistics: dict[str, RouteStatistics] = {}
        self.users = Users()
        self.once = IdempotentRequests(self.epoch)
        self.worker = Worker("labnet-compute")
        self.capabilities = control.Capabilities()
        self.routes: dict[str, Route] = {}
        self.handlers: Handlers | None = None
        self.owner: Owner | None = None
        self.stopped = threading.Event()
        self.at_stop: Callable[[], None] = lambda: None  # called when the server stops
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            self.worker.stop()
            raise _port_error(error, port, host) from None
        bound.setblocking(False)
        self._socket = bound
        self.port: int = bound.getsockname()[1]
        self.url = url_of(ANY_HOST.get(host, host), self.port, secure=context is not None)
        self._listener = Listener(self)

    async def start(self) -> None:
        """Accept connections; runs on the I/O loop."""
        self._listener.listen(self._socket, self.ssl)
        self._looking = asyncio.create_task(self._look())

    async def _look(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECONDS)
            if self.owner is not None:
                self.owner.look(time.monotonic())

    def failed(self, request: Request, error: Exception) -> None:
        """Keep a failed request for the panel."""
        failure = failure_of(error)
        what = {"error": failure.error, "message": failure.message[:_LONGEST_MESSAGE], "time": time.time()}
        self.failures.append({"route": request.path, "client": short(request.client), **what})
        if self.owner is not None:
            self.owner.failed(failure)

    async def answer(self, route: Route, request: Request) -> Reply:
        """Answer a request."""
        return await answer(self, route, request)

    def continue_from(self, store: Store) -> None:
        """Continue with the recorded requests of a store; runs on the I/O loop."""
        if not self.epoch.startswith(store.lineage):  # otherwise it is the same incarnation, whose ledger is complete
            self.epoch = store.lineage + secrets.token_hex(4)
        self.once.continue_from(self.epoch, store.lineage, store.outcomes)

    def belong_to(self, lineage: str) -> None:
        """Become an incarnation of a lineage without a store; runs on the I/O loop."""
        if not self.epoch.startswith(lineage):
            self.epoch = lineage + secrets.token_hex(4)
            self.once.continue_from(self.epoch, lineage, ())

    def abandon(self) -> None:
        """Leave everything to the parent process, in a forked child."""
        if self.owner is not None:
            self.owner.abandon()
        self.owner = None
        self._socket.close()
        self._listener.abandon()

    @property
    def is_current(self) -> bool:
        """Whether the caller runs on a thread that the server waits for when it stops."""
        return self.worker.is_current or MODELS.is_current or IO.is_current

    def stopping(self) -> Failure:
        """Return the refusal of a request while the server stops."""
        if self._returns:
            return Failure(503, "Overloaded", "the server is stopping", headers={"Retry-After": "1"})
        return Failure(503, "ServerStopped", "the server is stopping")

    async def stop(self, *, returns: bool = False) -> None:
        """Stop accepting, finish running requests, and close; runs on the I/O loop.

        Parameters
        ----------
        returns : bool
            Whether the server may come back by itself, as after a restart of its process.
        """
        self.draining, self._returns = True, returns
        if self._looking is not None:
            self._looking.cancel()
        if self.owner is not None:
            self.owner.drain()
        self._listener.stop(returns=returns)
        deadline = time.monotonic() + DRAIN_SECONDS
        while self._listener.tasks and time.monotonic() < deadline:
            await asyncio.wait(list(self._listener.tasks), timeout=max(0.0, deadline - time.monotonic()))
        while self._listener.is_sending and time.monotonic() < deadline:
            await asyncio.sleep(0.01)
        self._listener.close()
        if self.owner is not None and self.owner.keeps:
            await self._close(self.owner)
        self.worker.stop()
        self.stopped.set()

    async def _close(self, owner: Owner) -> None:
        """Close the owner's store; wait without limit once the worker has started on it."""
        begun = threading.Event()

        def close() -> None:
            begun.set()
            owner.close()

        closing = asyncio.ensure_future(self.worker.run(close))
        await asyncio.wait([closing], timeout=DRAIN_SECONDS)  # a handler that never ends would block it
        if begun.is_set():
            await asyncio.wait([closing])


def url_of(host: str, port: int, *, secure: bool = False) -> str:
    """Return the address of a server."""
    return f"http{'s' if secure else ''}://{f'[{host}]' if ':' in host else host}:{port}"


def _port_error(error: OSError, port: int, host: str) -> OSError:
    if error.errno != errno.EADDRINUSE:
        return OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}")
    entry = discovery.running(port)
    holder = "another process"
    if entry:
        holder = f"server {entry.name!r} of {f'{entry.notebook}, ' if entry.notebook else ''}process {entry.pid}"
    return OSError(
        errno.EADDRINUSE, f"port {port} is taken by {holder}: stop it, or choose another (port=0 takes a free one)"
    )
