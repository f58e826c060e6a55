"""The handle of a running server."""

import asyncio
import atexit
import logging
import socket
import threading
import time
from collections.abc import Callable
from html import escape
from typing import Any

from labnet import wire
from labnet.network import discovery, panel_page, served_ports
from labnet.network.model.served import ServedModel
from labnet.network.monitor.alerts import Alert, Alerts
from labnet.network.monitor.run_monitor import RunMonitor
from labnet.network.protocol import trail
from labnet.network.server import control
from labnet.network.server.port import ANY_HOST, DRAIN_SECONDS, Port, url_of
from labnet.network.server.routing import Failure, Reply, Request, Route
from labnet.network.server_statistics import ServerStatistics
from labnet.network.threads import IO, LOOK_SECONDS, Worker
from labnet.pictures import table
from labnet.stats import Interval, Metrics

log = logging.getLogger("labnet.network")


class Server:
    """Handle of a running server, returned by `serve` and `serve_model`.

    A context manager for ``with`` and ``async with`` that stops the server at the end. After its port is served again
    under the same name, the old handle has no effect.

    Attributes
    ----------
    url : str
        Address, without a token.
    port : int
        Bound port, also if 0 was requested.
    name : str
        Name under which the server can be replaced.

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
        optimizer = None if model is None else model.updates.optimizer
        described = "" if model is None else repr(model.model)
        metrics = Metrics() if model is None or model.store is None else model.store.metrics
        self._monitor = RunMonitor(name, model, description=described, optimizer=optimizer, metrics=metrics)
        self._statistics = ServerStatistics(name, port, model=model, custom=custom, monitor=self._monitor)
        if model is not None:
            model.observe = self._monitor.updated

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
    def optimizer(self) -> Any:
        """Optimizer of the served model, or None; its ``lr`` can be assigned."""
        return None if self._model is None else self._model.updates.optimizer

    @property
    def running(self) -> bool:
        """Whether this handle's model is being served."""
        return self._port.owner is self and not self._port.stopped.is_set()

    def statistics(self) -> dict[str, Any]:
        """Return the document of ``GET /statistics``: counters per route and the state of the server.

        Fields of a custom handler are left out inside the server's own handlers and after it is stopped.
        """
        if self._port.stopped.is_set() or self._port.is_current:
            return self._statistics.counters()
        return IO.run(self._statistics.statistics(None, trail.Trail.start()))

    def snapshot(self) -> dict[str, Any]:
        """Return the data of the panel: statistics, the last minute per route, and the loss curve."""
        if self._port.stopped.is_set() or self._port.is_current:
            return self._statistics.history(running=self.running)
        return IO.run(self._statistics.snapshot())

    def log(self, **values: Any) -> None:
        """Add a point to curves by name, such as ``server.log(accuracy=0.93)``.

        The panel, ``/metrics`` and ``ln.runs`` show them; a store keeps them.

        Raises
        ------
        TypeError, ValueError
            If a value is no number, or a name is too long or one too many.
        """
        self._monitor.log(values)

    @property
    def alerts(self) -> Alerts:
        """Alerts of the run, with their limits."""
        return self._monitor.alerts

    @property
    def on_alert(self) -> Callable[[Callable[[Alert], Any]], Callable[[Alert], Any]]:
        """Call a function with each alert: ``server.on_alert(print)``, or as a decorator."""
        return self.alerts.subscribe

    @on_alert.setter
    def on_alert(self, function: Callable[[Alert], Any]) -> None:
        self.alerts.subscribe(function)

    def pause(self) -> None:
        """Refuse training with status 429 until `resume`; clients retry until their timeout, and nothing is lost."""
        self._port.paused = True
        self.alerts.pause()

    def resume(self) -> None:
        """Accept training again."""
        self._port.paused = False

    def checkpoint(self) -> None:
        """Write a checkpoint to the store now.

        Raises
        ------
        ValueError
            If the server has no store.
        """
        store = None if self._model is None else self._model.store
        if store is None:
            raise ValueError("this server has no store: pass store= to serve_model")
        self._port.worker.call(store.checkpoint)

    def control(self, action: str, value: str = "") -> None:
        """Carry out an action of the panel: pause, resume, checkpoint, or lr with a value.

        Raises
        ------
        KeyError, ValueError, AttributeError, OSError
        """
        self._actions()[action](value)

    def _actions(self) -> dict[str, Callable[[str], Any]]:
        return {
            "pause": lambda _: self.pause(),
            "resume": lambda _: self.resume(),
            "checkpoint": lambda _: self.checkpoint(),
            "lr": self._set_learning_rate,
        }

    def _set_learning_rate(self, text: str) -> None:
        rate, optimizer = control.learning_rate(text), self.optimizer
        if getattr(optimizer, "lr", None) is None:
            raise ValueError("the server has no optimizer with a learning rate")
        self._port.worker.call(lambda: setattr(optimizer, "lr", rate))  # between two updates

    def timeline(self) -> list[Interval]:
        """Return the latest intervals of computation by the model, oldest first."""
        return [] if self._model is None else self._model.timeline.intervals()

    def panel(self) -> Any:
        """Return the live panel of this server, a widget for notebooks."""
        from importlib.metadata import entry_points  # here, because it takes a tenth of the import of all this

        (view,) = entry_points(group="labnet.views", name="panel")
        return view.load()(self)

    def stop_capability(self) -> str:
        """Return a capability for the panel to stop this server once within half a minute without the token."""
        return self._port.capabilities.issue(now=time.monotonic())

    def share(self) -> None:
        """Print the code that connects from another machine; the only output that shows the token."""
        token = "" if self.token is None else f", token={self.token!r}"
        url = url_of(socket.getfqdn(), self.port) if self._port.host in ANY_HOST else self.url
        print(f"remote = ln.network.remote_model({url!r}{token})")
        if self._port.loopback:
            print("# from another machine, first: ssh -L " + f"{self.port}:localhost:{self.port} {socket.getfqdn()}")

    def stop(self) -> None:
        """Finish running requests and close the port; do nothing if stopped or replaced.

        Clients raise `ServerStopped` at once. In a handler it returns at once and stops the server in the background.
        """
        self._stop(returns=False)

    def _stop(self, *, returns: bool) -> None:
        with served_ports.turn() as mine:  # released early: running handlers may need it
            if not mine:
                threading.Thread(target=self.stop, name="labnet-stop", daemon=True).start()
                return
            if not self.running:
                return
            first = served_ports.remove(self.port)
            if first:
                discovery.withdraw(self.port)
        stopping = IO.submit(self._port.stop(returns=returns)) if first else None
        if self._port.is_current:  # a handler stops its own server: its call may still be answered
            return
        if stopping is None:  # another thread was first
            self._port.stopped.wait()
            return
        try:
            stopping.result()  # continues in the background if this wait is interrupted
            self._port.worker.join(DRAIN_SECONDS)
        finally:
            self._monitor.end()
            if not returns:
                discovery.stopped_ports.add(self.port)
            self._port.at_stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is stopped, at most `timeout` seconds; return whether it is."""
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
        """Return `repr` with a collapsed table of routes, without the token."""
        rows = []
        for name, route in self._statistics.counters().items():
            if name != "server":
                figures = (route["hits"], route["errors"], route["in_flight"])
                latency = (f"{route['latency'][quantile] * 1e3:.3g} ms" for quantile in ("p50", "p99"))
                rows.append((f"/{name}", *(f"{figure:,}" for figure in figures), *latency))
        routes = table(("route", "hits", "errors", "in flight", "p50", "p99"), rows)
        link = f'<a href="{escape(self.url)}" target="_blank" rel="noopener">{escape(self.url)}</a>'
        return f"<details><summary><code>{escape(repr(self))}</code></summary>{link}{routes}</details>"

    # Interface for the port and its next owner

    @property
    def served(self) -> ServedModel | None:
        """The served model; None for functions and after it was replaced."""
        return self._model

    @property
    def worker(self) -> Worker:
        """The thread that computes."""
        return self._port.worker

    def drain(self) -> None:
        """Refuse requests that wait for other requests: the server is stopping."""
        if self._model is not None:
            self._model.updates.drain("the server is stopping")
            self._model.role.close()

    @property
    def keeps(self) -> bool:
        """Whether the model has a store."""
        return self._model is not None and self._model.store is not None

    def look(self, now: float) -> None:
        """Check for alerts that depend on time alone; `now` is in seconds of a monotonic clock."""
        self.alerts.look(now=now)

    def failed(self, failure: Failure) -> None:
        """Observe a request that failed."""
        if failure.error == "BadGradient":
            self.alerts.not_finite(failure.message)

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
        """Store the last statistics and drop the model, so that a replaced handle does not keep it alive."""
        self._statistics.close()
        self._monitor.end()
        if self._model is not None:
            self._model.retire()
        self._model = None

    def routes(self) -> dict[str, Route]:
        """Return the routes of every server."""
        capabilities = self._port.capabilities
        return (
            self._statistics.routes()
            | panel_page.routes()
            | control.routes(capabilities, self.stop, self._actions())
            | {
                "/server/log": Route(
                    ("POST",),
                    self._log,
                    counted=False,
                    content_types=(wire.JSON,),
                    replies=(),
                    summary="Add a point to curves by name",
                )
            }
        )

    async def _log(self, request: Request) -> Reply:
        values = wire.decode_value(wire.JSON, bytes(request.body))
        try:
            self.log(**values)
        except (TypeError, ValueError) as error:
            raise Failure(400, "BadRequest", str(error)) from error
        return Reply(wire.Body(None, []))


def servers() -> dict[int, Server]:
    """Return the running servers of this process by port."""
    return {number: owner for number, owner in served_ports.owners().items() if isinstance(owner, Server)}


@atexit.register
def _stop_all() -> None:
    for server in list(servers().values()):
        server._stop(returns=True)  # a restarted process may serve again
