"""The handle of a running server, which its owner holds."""

import asyncio
import atexit
import logging
import socket
import threading
import time
from html import escape
from importlib.metadata import entry_points
from typing import Any

from labnet.network import discovery, panel_page, served_ports
from labnet.network.model.served import ServedModel
from labnet.network.protocol import trail
from labnet.network.server import stop
from labnet.network.server.port import ANY_HOST, DRAIN_SECONDS, Port, url_of
from labnet.network.server.routing import Route
from labnet.network.server_statistics import Account
from labnet.network.threads import IO, LOOK_SECONDS
from labnet.pictures import table
from labnet.stats import Interval

log = logging.getLogger("labnet.network")


class Server:
    """Handle of a running server, returned by `serve` and `serve_model`.

    Usable in ``with`` and ``async with``, which stop it at the end. Once its port is served anew by the same
    name, the old handle does nothing any more.

    Attributes
    ----------
    url : str
        Address, without a token.
    port : int
        Port, also where 0 was asked for.
    name : str
        Name under which it can be replaced.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve({"double": lambda x: x * 2}, port=0) as server:
    ...     ln.network.tfetch(server.url + "/double", ln.ones(2), blocking=True).tolist()
    [2.0, 2.0]
    """

    def __init__(self, name: str, port: Port, *, model: ServedModel | None = None, custom: Route | None = None):
        self.name = name
        self._port = port
        self._model = model
        self._account = Account(name, port, model=model, custom=custom)

    @property
    def url(self) -> str:
        """Address of the server, without a token."""
        return self._port.url

    @property
    def port(self) -> int:
        """Port of the server."""
        return self._port.port

    @property
    def token(self) -> str | None:
        """Token that clients on other machines need, or None for an open server."""
        return self._port.token

    @property
    def running(self) -> bool:
        """Whether this handle's model is being served."""
        return self._port.owner is self and not self._port.stopped.is_set()

    def statistics(self) -> dict[str, Any]:
        """Return what ``GET /statistics`` answers: counters per route, and the state of the server.

        Inside one of the server's own handlers, and once it is stopped, a custom handler adds nothing.
        """
        if self._port.stopped.is_set() or self._port.is_current:
            return self._account.counters()
        return IO.run(self._account.statistics(None, trail.Trail.start()))

    def snapshot(self) -> dict[str, Any]:
        """Return what the panel draws: the statistics, the last minute per route, and the loss curve."""
        if self._port.stopped.is_set() or self._port.is_current:
            return self._account.history(running=self.running)
        return IO.run(self._account.snapshot())

    def timeline(self) -> list[Interval]:
        """Return when the model computed last, oldest first: what it did, and from when to when."""
        return [] if self._model is None else self._model.timeline.intervals()

    def panel(self) -> Any:
        """Return the live panel of this server, a widget for notebooks."""
        (view,) = entry_points(group="labnet.views", name="panel")
        return view.load()(self)

    def stop_capability(self) -> str:
        """Return what stops this server once, within half a minute, in place of the token: for its panel."""
        return self._port.capabilities.issue(now=time.monotonic())

    def share(self) -> None:
        """Print the line that a client elsewhere needs; the only place that shows the token."""
        token = "" if self.token is None else f", token={self.token!r}"
        url = url_of(socket.getfqdn(), self.port) if self._port.host in ANY_HOST else self.url
        print(f"remote = ln.network.remote_model({url!r}{token})")
        if self._port.loopback:
            print("# from another machine, first: ssh -L " + f"{self.port}:localhost:{self.port} {socket.getfqdn()}")

    def stop(self) -> None:
        """Stop serving: finish what is under way, close the port. Again, or on an old handle, does nothing.

        In a handler it returns at once, and stops the server behind it.
        """
        with served_ports.turn() as mine:  # not for longer: handlers that are still under way may need it
            if not mine:
                threading.Thread(target=self.stop, name="labnet-stop", daemon=True).start()
                return
            if not self.running:
                return
            first = served_ports.remove(self.port)
            if first:
                discovery.withdraw(self.port)
        stopping = IO.submit(self._port.stop()) if first else None
        if self._port.is_current:  # a handler stops its own server: that call may still be answered
            return
        if stopping is None:  # another thread was first
            self._port.stopped.wait()
            return
        try:
            stopping.result()  # goes on in the background where the wait for it is interrupted
            self._port.worker.join(DRAIN_SECONDS)
        finally:
            self._port.at_stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is stopped, at most `timeout` seconds; tell whether it is."""
        end = float("inf") if timeout is None else time.monotonic() + timeout
        while not self._port.stopped.wait(min(LOOK_SECONDS, max(0.0, end - time.monotonic()))):
            if time.monotonic() >= end:
                return False
        return True

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop()

    async def __aenter__(self) -> "Server":
        return self

    async def __aexit__(self, *exception: object) -> None:
        await asyncio.get_running_loop().run_in_executor(None, self.stop)

    def __repr__(self) -> str:
        state = "running" if self.running else "stopped" if self._port.stopped.is_set() else "replaced"
        return f"Server({self.name!r}, {self.url}, {state})"

    def _repr_html_(self) -> str:
        """Return the line of `repr` with the table of routes folded away below it; no token."""
        rows = []
        for name, route in self._account.counters().items():
            if name != "server":
                figures = (route["hits"], route["errors"], route["in_flight"])
                latency = (f"{route['latency'][quantile] * 1e3:.3g} ms" for quantile in ("p50", "p99"))
                rows.append((f"/{name}", *(f"{figure:,}" for figure in figures), *latency))
        routes = table(("route", "hits", "errors", "in flight", "p50", "p99"), rows)
        link = f'<a href="{escape(self.url)}" target="_blank" rel="noopener">{escape(self.url)}</a>'
        return f"<details><summary><code>{escape(repr(self))}</code></summary>{link}{routes}</details>"

    # What the port and its next owner ask for

    def drain(self) -> None:
        """Let requests that wait for others come to their end: the server is stopping."""
        if self._model is not None:
            self._model.updates.drain("the server is stopping")
            self._model.role.close()

    @property
    def keeps(self) -> bool:
        """Whether the model has a store."""
        return self._model is not None and self._model.store is not None

    def close(self) -> None:
        """Close the model's store; runs on the worker, after the last request."""
        if self._model is not None and self._model.store is not None:
            store = self._model.store
            try:
                store.close()
            except Exception as error:
                what = f"the {store.unwritten} updates since its last checkpoint are lost"
                rest = what if store.unwritten else "its journal has the rest"
                reason = f"{type(error).__name__}: {error}"
                log.warning("%r: its store could not be brought up to date, %s: %s", self, rest, reason)

    def abandon(self) -> None:
        """Leave the model's store to the parent of a forked child."""
        if self._model is not None and self._model.store is not None:
            self._model.store.abandon()

    def give_way(self) -> None:
        """Keep the last figures and let go of the model: whoever holds this handle does not hold what was replaced."""
        self._account.close()
        if self._model is not None:
            self._model.retire()
        self._model = None

    def routes(self) -> dict[str, Route]:
        """Return the routes that every server has."""
        return self._account.routes() | panel_page.routes() | stop.routes(self._port.capabilities, self.stop)


def servers() -> dict[int, Server]:
    """Return the running servers of this process by port."""
    return {number: owner for number, owner in served_ports.owners().items() if isinstance(owner, Server)}


@atexit.register
def _stop_all() -> None:
    for server in list(servers().values()):
        server.stop()
