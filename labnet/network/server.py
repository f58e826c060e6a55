"""Servers: a bound port with routes, statistics and a token, and the handle that its owner holds."""

import asyncio
import atexit
import contextvars
import errno
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable, Mapping
from html import escape
from importlib.metadata import entry_points
from typing import Any

from labnet import wire
from labnet.device import check_device
from labnet.errors import ServeError
from labnet.network import control, metrics, oip, openapi, pages, reporting, security, tree
from labnet.network.branches import Branches
from labnet.network.http import Listener, ListeningServer
from labnet.network.loops import IO, MODELS, Worker
from labnet.network.once import Once
from labnet.network.pool import Address
from labnet.network.routes import Failure, Reply, Request, Route, Users, check_name, function_route
from labnet.network.served import ServedModel
from labnet.network.staleness import Policy, Staleness
from labnet.network.updates import Optimizer
from labnet.pictures import table
from labnet.stats import RouteStatistics

#: Default limit of a request's body, in bytes.
MAX_BODY = 1 << 28
#: Default limit of the requests that wait or are being carried out.
MAX_QUEUE = 256

_IDLE_SECONDS = 120.0
_BODY_SECONDS = 60.0
_DRAIN_SECONDS = 5.0
_ANY_HOST = {"0.0.0.0": "127.0.0.1", "::": "::1", "": "127.0.0.1"}

_lock = threading.RLock()
_running: dict[int, "Port"] = {}


class Port:
    """A bound port of this process. What it serves can be replaced; connections and statistics stay."""

    def __init__(self, *, port: int, host: str, token: str | None, max_body: int, max_queue: int):
        self.host = host
        self.loopback = security.is_loopback(host)
        self.token = token
        self.max_body = max_body
        self.max_queue = max_queue
        self.queued = 0
        self.refused = 0
        self.epoch = secrets.token_hex(8)
        self.draining = False
        self.started = time.monotonic()
        self.statistics: dict[str, RouteStatistics] = {}
        self.users = Users()
        self.once = Once(self.epoch)
        self.worker = Worker("labnet-compute")
        self.capabilities = control.Capabilities()
        self.routes: dict[str, Route] = {}
        self.owner: Server | None = None
        self.stopped = threading.Event()
        self.at_stop: Callable[[], None] = lambda: None  # what else ends with the server
        try:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            bound = socket.create_server((host, port), family=family, backlog=128)
        except OSError as error:
            self.worker.stop()
            raise _port_error(error, port, host) from None
        bound.setblocking(False)
        self._socket = bound
        self.port: int = bound.getsockname()[1]
        self.url = _url(_ANY_HOST.get(host, host), self.port)
        self._listener = Listener(self)
        self._http: ListeningServer | None = None

    async def start(self) -> None:
        """Accept connections; runs on the I/O loop."""
        self._http = ListeningServer(
            self._listener,
            idle_connection_timeout=_IDLE_SECONDS,
            body_timeout=_BODY_SECONDS,
            max_body_size=1 << 256,  # our own limit is checked first, with a readable reply
            max_buffer_size=1 << 24,
        )
        self._http.add_socket(self._socket)

    async def answer(self, route: Route, request: Request) -> Reply:
        """Answer a request; one that comes again, as its key says, gets the same reply."""
        if not route.counted:
            return await route.answer(request)
        return await self.once.answer(request, lambda: self._carry_out(route, request))

    async def _carry_out(self, route: Route, request: Request) -> Reply:
        """Answer a request unless too many are waiting."""
        if self.queued >= self.max_queue:
            self.refused += 1
            raise Failure(
                429,
                "Overloaded",
                f"{self.queued} requests are waiting or being carried out, the limit of this server is "
                f"{self.max_queue}; try again, or serve with a larger max_queue",
                headers={"Retry-After": "1"},
            )
        self.queued += 1
        try:
            return await self._count(route, request)
        finally:
            self.queued -= 1

    async def _count(self, route: Route, request: Request) -> Reply:
        name = route.label or request.path.strip("/")
        counters = self.statistics.get(name) or self.statistics.setdefault(name, RouteStatistics())
        counters.begin(bytes_in=len(request.body))
        began = time.perf_counter()
        bytes_out, failed = 0, True
        try:
            reply = await reporting.answer(route, request)
            bytes_out, failed = reply.body.nbytes, False
            return reply
        finally:
            counters.end(seconds=time.perf_counter() - began, now=time.monotonic(), bytes_out=bytes_out, failed=failed)

    def close_listener(self) -> None:
        """Close the listening socket only, as a forked child has to."""
        self._socket.close()

    @property
    def is_current(self) -> bool:
        """Whether the caller is a handler of this server, for which the server would have to wait."""
        return self.worker.is_current or MODELS.is_current or IO.is_current

    async def stop(self) -> None:
        """Stop accepting, let what is under way come to its end, close; runs on the I/O loop."""
        self.draining = True
        if self.owner is not None and self.owner._model is not None:
            self.owner._model.updates.drain("the server is stopping")
        assert self._http is not None, "start() ran before"
        self._http.stop()
        deadline = time.monotonic() + _DRAIN_SECONDS
        while self._listener.tasks and time.monotonic() < deadline:
            await asyncio.wait(list(self._listener.tasks), timeout=max(0.0, deadline - time.monotonic()))
        await self._http.close_all_connections()
        self.worker.stop()
        self.stopped.set()


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
        self._custom = custom
        self._last: dict[str, Any] | None = None  # the snapshot that is left once another has taken its place
        self._branches = Branches(lambda: self._statistics(None, tree.Trail.start()))

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
            return self._counters()
        return IO.run(self._statistics(None, tree.Trail.start()))

    def snapshot(self) -> dict[str, Any]:
        """Return what the panel draws: the statistics, the last minute per route, and the loss curve."""
        if self._port.stopped.is_set() or self._port.is_current:
            return self._history()
        return IO.run(self._snapshot())

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
        url = _url(socket.getfqdn(), self.port) if self._port.host in _ANY_HOST else self.url
        print(f"remote = ln.network.remote_model({url!r}{token})")
        if self._port.loopback:
            print("# from another machine, first: ssh -L " + f"{self.port}:localhost:{self.port} {socket.getfqdn()}")

    def stop(self) -> None:
        """Stop serving: finish what is under way, close the port. Again, or on an old handle, does nothing."""
        with _lock:  # not for longer: handlers that are still under way may need it
            if not self.running:
                return
            first = _running.pop(self.port, None) is not None
            if first:
                security.withdraw(self.port)
        stopping = IO.submit(self._port.stop()) if first else None
        if self._port.is_current:  # a handler stops its own server: that call may still be answered
            return
        if stopping is None:  # another thread was first
            self._port.stopped.wait()
            return
        try:
            stopping.result()  # goes on in the background where the wait for it is interrupted
            self._port.worker.join(_DRAIN_SECONDS)
        finally:
            self._port.at_stop()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until the server is stopped, at most `timeout` seconds; tell whether it is."""
        return self._port.stopped.wait(timeout)

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
        for name, route in self._counters().items():
            if name != "server":
                figures = (route["hits"], route["errors"], route["in_flight"])
                latency = (f"{route['latency'][quantile] * 1e3:.3g} ms" for quantile in ("p50", "p99"))
                rows.append((f"/{name}", *(f"{figure:,}" for figure in figures), *latency))
        routes = table(("route", "hits", "errors", "in flight", "p50", "p99"), rows)
        link = f'<a href="{escape(self.url)}" target="_blank" rel="noopener">{escape(self.url)}</a>'
        return f"<details><summary><code>{escape(repr(self))}</code></summary>{link}{routes}</details>"

    # What the routes answer

    def _give_way(self) -> None:
        """Keep the last figures and let go of the model: whoever holds this handle does not hold what was replaced."""
        self._last = {**self._history(), "running": False}
        if self._model is not None:
            self._model.retire()
        self._model = self._custom = None

    def _counters(self) -> dict[str, Any]:
        if self._last is not None:
            return dict(self._last["statistics"])
        document: dict[str, Any] = {name: route.summary() for name, route in self._port.statistics.items()}
        state: dict[str, Any] = {"name": self.name, "epoch": self._port.epoch, "users": len(self._port.users)}
        state["uptime"] = time.monotonic() - self._port.started
        state["calls"] = self._port.once.ledger.summary()
        state["queue"] = {"now": self._port.queued, "limit": self._port.max_queue, "refused": self._port.refused}
        if self._model is not None:
            self._model.calls.expire(time.monotonic())
            state.update(
                version=self._model.version,
                graphs=self._model.calls.summary(),
                staleness=self._model.updates.staleness.last,
                staleness_histogram=self._model.updates.staleness.summary(),
                loss=self._model.losses.last,
            )
        return {**document, "server": state}

    async def _statistics(self, client: str | None, trail: tree.Trail) -> dict[str, Any]:
        document = self._counters()
        custom = self._custom
        if custom is None:
            return document
        request = Request("GET", "/statistics", {"Accept": wire.JSON}, b"", client)
        try:
            async with trail.through(self._port.epoch):
                body = (await custom.answer(request)).body
        except tree.Cut as cut:  # the own counters are there all the same
            document["server"]["incomplete"] = str(cut)
            return document
        extra = wire.decode_value(body.content_type or wire.TEXT, b"".join(body.parts))
        if not isinstance(extra, dict) or extra.keys() & document.keys():
            raise ServeError(
                f"the handler 'statistics' must return a dict without the keys {sorted(document)}, got {extra!r:.80}"
            )
        return {**document, **extra}

    def _history(self) -> dict[str, Any]:
        if self._last is not None:
            return self._last
        now = time.monotonic()
        model = self._model
        steps, values = model.losses.points() if model is not None else ([], [])
        return {
            "url": self.url,
            "running": self.running,
            "statistics": self._counters(),
            "recent": {name: route.recent(now) for name, route in self._port.statistics.items()},
            "loss": {"steps": steps, "values": values},
            "norms": model.updates.norms.summary() if model is not None else {},
            "branches": {"known": self._branches.known, "incomplete": self._branches.incomplete},
        }

    async def _snapshot(self) -> dict[str, Any]:
        if self._custom is not None:
            self._branches.look()
        return self._history()

    def _own_routes(self) -> dict[str, Route]:
        async def statistics(request: Request) -> Reply:
            trail = tree.Trail.read(request.headers)
            return Reply(wire.encode_json(await self._statistics(request.client, trail)))

        async def snapshot(request: Request) -> Reply:
            return Reply(wire.encode_json(await self._snapshot()))

        async def health(request: Request) -> Reply:
            return Reply(wire.encode_json({"status": "ok", "name": self.name}))

        async def described(request: Request) -> Reply:
            routes, readable = self._port.routes, self._port.loopback or self._port.token is None
            return Reply(wire.encode_json(openapi.document(self.name, routes, url=self.url, readable=readable)))

        async def measured(request: Request) -> Reply:
            state = self._counters()["server"]
            return Reply(metrics.exposition(request.headers.get("Accept", ""), self._port.statistics, state))

        def read(answer: Callable[[Request], Any], summary: str, content_type: str = wire.JSON) -> Route:
            return Route(("GET",), answer, readable=True, counted=False, summary=summary, replies=(content_type,))

        own = {
            "/statistics": read(statistics, "Counters per route, and the state of the server"),
            "/snapshot": read(snapshot, "What the panel draws"),
            "/health": read(health, "Whether the server runs"),
            "/openapi.json": read(described, "This document"),
            "/metrics": read(measured, "The counters as Prometheus reads them", wire.TEXT),
        }
        return own | pages.routes() | control.routes(self._port.capabilities, self.stop)


def serve(
    routes: Mapping[str, Callable[..., Any]],
    port: int = 3000,
    *,
    host: str = "127.0.0.1",
    name: str | None = None,
    token: str | None = "auto",
    max_body: int = MAX_BODY,
    max_queue: int = MAX_QUEUE,
) -> Server:
    """Serve functions over HTTP from this process, and return at once.

    Parameters
    ----------
    routes : mapping of str to function
        Sync or async functions by name. One with two parameters is given ``(user, tensor)``: a namespace that
        lives as long as the client, and the tensor that was sent. One with a single parameter is given the
        tensor, unless the parameter is named ``user``. They return a tensor, a dict of tensors, JSON-able
        data, text, bytes or None. One named ``statistics`` adds fields to ``GET /statistics``.
    port : int
        Port to bind; 0 takes a free one.
    host : str
        Address to bind.
    name : str, optional
        Serving again on the port with the same name replaces the functions in place.
    token : str or None
        ``"auto"`` makes one; None opens the server to everybody on this machine.
    max_body : int
        Most bytes of a request's body.
    max_queue : int
        Most requests that wait or are being carried out; more are turned away with 429, and labnet's client comes
        back a little later.

    Raises
    ------
    ServeError
        If a name or function cannot be a route.
    OSError
        If the port is taken, by a server of another name or another process.

    Examples
    --------
    >>> import labnet as ln
    >>> server = ln.network.serve({"hello": lambda: "hi"}, port=0)
    >>> ln.network.tfetch(server.url + "/hello", blocking=True)
    'hi'
    >>> server.stop()
    """
    if not isinstance(routes, Mapping) or not routes:
        raise ServeError(f"serve: expected functions by name, such as {{'run_model': f}}, got {routes!r:.60}")
    name = name or "+".join(sorted(map(str, routes)))
    return _serve(
        routes, None, None, port=port, host=host, name=name, token=token, max_body=max_body, max_queue=max_queue
    )


def serve_model(
    model: Callable[..., Any],
    optimizer: Optimizer | None = None,
    *,
    port: int = 3000,
    host: str = "127.0.0.1",
    routes: Mapping[str, Callable[..., Any]] | None = None,
    name: str | None = None,
    token: str | None = "auto",
    max_body: int = MAX_BODY,
    max_queue: int = MAX_QUEUE,
    replace: bool = False,
    compile: bool = False,
    device: str | None = None,
    staleness: Staleness = "accept",
    max_staleness: int | None = None,
    accumulate: int = 1,
) -> Server:
    """Serve a model over HTTP from this process, to be trained by whoever calls it.

    Parameters
    ----------
    model : callable
        From tensor to tensor, sync or async, or a `Module`.
    optimizer : callable, optional
        Given the gradients of the model's parameters on every backward of a client. Without one the model is
        served as it is, and clients still get the gradient of their input.
    port, host, token, max_body, max_queue
        As for `serve`.
    routes : mapping of str to function, optional
        More routes beside ``/forward`` and ``/optimize``.
    name : str, optional
        Serving again on the port with the same name replaces the model in place; by default the model's own.
    replace : bool
        Replace whatever this process serves on the port, under any name.
    compile : bool
        Compile forwards and backwards, in the background, for the first shapes that come; until then, and for
        others, the model runs eagerly. A model that cannot be compiled fails with the line that is to blame.
    device
        Reserved: only the CPU is available.
    staleness : "accept" or "scale"
        What becomes of a gradient when other updates came between its forward and its backward: it is taken as it
        is, or multiplied by ``1 / (1 + updates)``.
    max_staleness : int, optional
        Refuse gradients with more updates in between; the client raises `StaleGradient`.
    accumulate : int
        How many backwards make one update. Each waits for the others; they are summed in the order of the clients'
        ids (``client=``) and requests, so that the result is the same to the bit whichever arrived first.

    Raises
    ------
    ServeError, OSError, DeviceError

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ...     remote = ln.network.remote_model(server.url, blocking=True)
    ...     gradients = remote(ln.ones((1, 2))).sum().backward()
    ...     server.statistics()["optimize"]["hits"]
    1
    """
    check_device(device)
    policy = Policy(staleness, max_staleness, accumulate)
    if name is None:
        name = getattr(model, "__name__", None) or type(model).__name__
    if compile:
        from labnet.network.compiled import compiled  # only here: a compiler takes time to import

        model = compiled(model)
    return _serve(
        routes or {},
        model,
        optimizer,
        port=port,
        host=host,
        name=name,
        token=token,
        max_body=max_body,
        max_queue=max_queue,
        replace=replace,
        is_model=True,
        policy=policy,
    )


def _serve(
    functions: Mapping[str, Callable[..., Any] | Route],
    model: Callable[..., Any] | None,
    optimizer: Optimizer | None,
    *,
    port: int,
    host: str,
    name: str,
    token: str | None,
    max_body: int,
    max_queue: int,
    replace: bool = False,
    is_model: bool = False,
    policy: Policy | None = None,
) -> Server:
    if type(port) is not int or not 0 <= port < 1 << 16:
        raise ServeError(f"port must be a number from 0 to 65535, got {port!r:.40}")
    if token is None and not security.is_loopback(host):
        raise ServeError(f"token=None is allowed on loopback only, not on host {host!r}: leave token='auto'")
    if type(max_queue) is not int or max_queue < 1:
        raise ServeError(f"max_queue must be a number from 1 on, got {max_queue!r:.40}")
    if token == "":
        raise ServeError("token must not be empty: use 'auto' to make one, or None for an open server")
    with _lock:
        running = _running.get(port)
        if running is not None and running.owner is not None and running.owner.name != name and not replace:
            raise OSError(
                errno.EADDRINUSE,
                f"port {port} serves {running.owner.name!r} of this process, not {name!r}: stop that server, choose "
                f"another port (port=0 takes a free one), or pass name={running.owner.name!r} to replace it",
            )
        if running is not None and running.host != host:
            raise OSError(
                errno.EADDRINUSE,
                f"port {port} is bound to host {running.host!r}, not {host!r}: stop that server first",
            )
        bound = running or Port(
            port=port,
            host=host,
            token=security.new_token() if token == "auto" else token,
            max_body=max_body,
            max_queue=max_queue,
        )
        try:
            server, table = _assemble(bound, name, functions, model, optimizer, is_model=is_model, policy=policy)
        except Exception:
            if running is None:
                IO.run(_discard(bound))
            raise

        async def install() -> None:
            if bound.owner is not None:
                bound.owner._give_way()
            bound.routes, bound.owner = table, server
            if token != "auto":
                bound.token = token
            for path, route in table.items():
                if route.counted and not route.label:
                    bound.statistics.setdefault(path.strip("/"), RouteStatistics())
            bound.max_body, bound.max_queue = max_body, max_queue
            if running is None:
                await bound.start()

        # published before connections are accepted: a client that waits for this server needs the token at once
        accepted = bound.token if token == "auto" else token
        security.publish(bound.port, security.Entry(bound.url, name, os.getpid(), accepted))
        contextvars.Context().run(IO.run, install())  # requests inherit nothing of whoever serves
        _running[bound.port] = bound
        if not bound.loopback and running is None:
            print(f"labnet: {name!r} is reachable from other machines at {bound.url}, with its token only")
        return server


async def _discard(bound: Port) -> None:
    await bound.start()
    await bound.stop()


def _assemble(
    bound: Port,
    name: str,
    functions: Mapping[str, Callable[..., Any] | Route],
    model: Callable[..., Any] | None,
    optimizer: Optimizer | None,
    *,
    is_model: bool,
    policy: Policy | None,
) -> tuple[Server, dict[str, Route]]:
    """Make the handle and the table of routes; raises before anything is changed."""
    custom = {
        check_name(key): given
        if isinstance(given, Route)
        else function_route(key, given, worker=bound.worker, users=bound.users)
        for key, given in functions.items()
    }
    served = None
    table: dict[str, Route] = {}
    if is_model:
        _refuse_itself(model, bound)
        served = ServedModel(
            model,  # type: ignore[arg-type]  # ServedModel checks that it is callable
            optimizer,
            worker=bound.worker,
            new_call=lambda: secrets.token_hex(16),
            previous=bound.owner._model if bound.owner is not None else None,
            policy=policy,
            url=bound.url,
        )
        table = served.routes()
        if clash := {"/" + key for key in custom} & table.keys():
            raise ServeError(f"route {min(clash)!r} is the served model's own")
    server = Server(name, bound, model=served, custom=custom.pop("statistics", None))
    table |= {"/" + key: route for key, route in custom.items()}
    return server, table | server._own_routes() | oip.routes(name, served)


def serve_routes(
    routes: Mapping[str, Route], at_stop: Callable[[], None], *, port: int, host: str, name: str, token: str
) -> Server:
    """Serve routes of labnet's own under a token, with something that ends when the server does.

    Raises
    ------
    ServeError, OSError
        As for `serve`; also if this process serves on the port already, whatever its name.
    """
    with _lock:
        if port in _running:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use by a server of this process: stop it first")
        server = _serve(
            routes,
            None,
            None,
            port=port,
            host=host,
            name=name,
            token=token,
            max_body=MAX_BODY,
            max_queue=MAX_QUEUE,
        )
        server._port.at_stop = at_stop
        return server


def _url(host: str, port: int) -> str:
    return f"http://{f'[{host}]' if ':' in host else host}:{port}"


def _refuse_itself(model: Any, bound: Port) -> None:
    """Refuse a remote model that leads back to the port that it is to be served on."""
    address = getattr(model, "address", None)
    if isinstance(address, Address) and address.port == bound.port and security.is_loopback(address.authority):
        raise ServeError(
            f"serve_model: this is the remote model of port {bound.port} itself, which would call itself for ever; "
            "serve the model, and give the remote one another name"
        )


def _port_error(error: OSError, port: int, host: str) -> OSError:
    if error.errno != errno.EADDRINUSE:
        return OSError(error.errno, f"cannot listen on {host}:{port}: {error.strerror}")
    entry = security.lookup(port)
    known = entry is not None and security.is_alive(entry.pid)
    holder = f"server {entry.name!r} of process {entry.pid}" if entry and known else "another process"
    return OSError(
        errno.EADDRINUSE, f"port {port} is taken by {holder}: stop it, or choose another (port=0 takes a free one)"
    )


def servers() -> dict[int, Server]:
    """Return the running servers of this process by port."""
    with _lock:
        return {port: bound.owner for port, bound in _running.items() if bound.owner is not None}


def _forget() -> None:
    """Leave the servers to the parent in a forked child."""
    global _lock
    _lock = threading.RLock()
    for bound in _running.values():
        bound.owner = None
        bound.close_listener()
    _running.clear()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget)


@atexit.register
def _stop_all() -> None:
    for server in list(servers().values()):
        server.stop()
