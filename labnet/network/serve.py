"""Serving functions and models: a port with routes, statistics and a token."""

import contextlib
import contextvars
import errno
import os
import ssl as tls
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tornado.routing import Matcher
from tornado.web import Application

from labnet.errors import ServeError
from labnet.network import discovery, inference, served_ports
from labnet.network.adapters.adapted_model import adapted
from labnet.network.adapters.device_adapter import on_device
from labnet.network.adapters.model_adapter import Options, adapter_of
from labnet.network.handle import Server
from labnet.network.model.role import Role
from labnet.network.model.served import ServedModel
from labnet.network.model.staleness import Policy, Staleness
from labnet.network.model.storage import new_calls, open_store, refuse_completion, refuse_update, release_store
from labnet.network.model.updates import Optimizer
from labnet.network.server import auth
from labnet.network.server.functions import check_name, function_route
from labnet.network.server.port import Port
from labnet.network.server.routing import Route
from labnet.network.threads import IO
from labnet.network.transport.address import Address
from labnet.nn import Module
from labnet.optim.algorithms import OPTIMIZERS
from labnet.stats import RouteStatistics
from labnet.store import RECOVERY_SECONDS, Durability

Tls = tls.SSLContext | tuple[str | os.PathLike[str], str | os.PathLike[str]]

#: Default limit of a request's body, in bytes.
MAX_BODY = 1 << 28
#: Default limit of queued and running requests.
MAX_QUEUE = 256


def serve(
    routes: Mapping[str, Callable[..., Any]],
    port: int = 3000,
    *,
    host: str = "127.0.0.1",
    name: str | None = None,
    token: str | None = "auto",
    max_body: int = MAX_BODY,
    max_queue: int = MAX_QUEUE,
    ssl: Tls | None = None,
    handlers: Sequence[Any] = (),
) -> Server:
    """Serve functions over HTTP from this process and return at once.

    Parameters
    ----------
    routes : mapping of str to function
        Sync or async functions by name. One with two parameters is given ``(user, value)``: a namespace that
        lives as long as the client, and what was sent. One with a single parameter is given the value, unless
        the parameter is named ``user``. They return a tensor, a dict of tensors, JSON-able data, text, bytes
        or None. One named ``statistics`` adds fields to ``GET /statistics``. One named ``default`` answers the
        paths that have no route, and ``/``.

        The value is converted to the annotation of its parameter, such as ``x: ln.Tensor``, ``request: dict``,
        ``str``, ``list[float]`` or a dataclass; without one, messages of tensors and JSON lists of numbers in
        rows of equal length are tensors, other JSON is Python data, a form is a dict, and a text or any other
        body is a str or bytes.
    port : int
        Port to bind; 0 takes a free one.
    host : str
        Address to bind.
    name : str, optional
        Serving again on the port with the same name replaces the functions in place.
    token : str or None
        ``"auto"`` makes one; None opens the server to every user of this machine.
    max_body : int
        Most bytes of a request's body.
    max_queue : int
        Most queued and running requests; further ones are refused with 429, and labnet's client retries them.
    ssl : ssl.SSLContext or tuple of path, optional
        Serve https: a context, or the files of a certificate and its key.
    handlers : list of (str, tornado.web.RequestHandler), optional
        Tornado handlers by pattern of the path, for paths that are no route; WebSocket handlers as well. They need the
        token as routes do.

    Raises
    ------
    ServeError
        If a name or function cannot be a route, or the certificate cannot be loaded.
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
    place = Place(
        port,
        host,
        name or "+".join(sorted(map(str, routes))),
        token,
        max_body,
        max_queue,
        ssl=tls_context(ssl),
        handlers=mounted(handlers),
    )
    return _serve(place, routes)


def serve_model(
    model: Callable[..., Any],
    optimizer: Optimizer | str | None = None,
    *,
    port: int = 3000,
    host: str = "127.0.0.1",
    routes: Mapping[str, Callable[..., Any]] | None = None,
    name: str | None = None,
    token: str | None = "auto",
    max_body: int = MAX_BODY,
    max_queue: int = MAX_QUEUE,
    replace: bool = False,
    ssl: Tls | None = None,
    handlers: Sequence[Any] = (),
    compile: bool = False,
    device: str | None = None,
    staleness: Staleness = "accept",
    max_staleness: int | None = None,
    accumulate: int = 1,
    store: str | os.PathLike[str] | None = None,
    durability: Durability = "group",
    recovery_seconds: float = RECOVERY_SECONDS,
    params: Any = None,
    method: str | None = None,
    vjp: Any = None,
) -> Server:
    """Serve a model over HTTP from this process, for inference and training by clients.

    Parameters
    ----------
    model : callable
        From tensor to tensor, sync or async, or a `Module`; or a model of another library: a ``torch.nn.Module``, a
        function of JAX, an estimator of scikit-learn, or a `ModelAdapter`.
    optimizer : callable or str, optional
        One of `labnet.optim`, or its name such as ``"adam"``, or one of the model's library. Called with the gradients
        of the model's parameters on every backward of a client. Without an optimizer the weights do not change, and
        clients still get the gradient of their input.
    port, host, token, max_body, max_queue, ssl, handlers
        As for `serve`.
    routes : mapping of str to function, optional
        Further routes besides ``/forward`` and ``/optimize``.
    name : str, optional
        Serving again on the port with the same name replaces the model in place; by default the model's own.
    replace : bool
        Replace any server of this process on the port, whatever its name.
    compile : bool
        Compile forwards and backwards in the background, for the first shapes that arrive. Until then, and for other
        shapes, the model runs eagerly. A model that cannot be compiled fails with the offending line.
    device : str, optional
        Device of the model, which is moved there. Inputs from clients are moved there, and results back.
    staleness : "accept" or "scale"
        Treatment of a gradient when other updates came between its forward and its backward: it is applied unchanged,
        or multiplied by ``1 / (1 + updates)``.
    max_staleness : int, optional
        Refuse gradients with more updates in between; the client raises `StaleGradient`.
    accumulate : int
        How many backwards make one update. Each waits for the others; they are summed in the order of the clients' ids
        (``client=``) and requests, so the result is bit-identical in any order of arrival.
    store : path, optional
        A folder that stores the model while it is trained. If it has content, serving continues from there: with its
        weights, the optimizer's state and the replies.
    durability : "memory", "group" or "every"
        What an update with a store survives after its reply: an orderly stop only; a crash of this process and, 50 ms
        later, of the machine; or both at once. See ``docs/reliability.md``.
    recovery_seconds : float
        Approximate CPU seconds that replaying updates may take after a crash. A checkpoint is written when the updates
        since the last one are estimated to take longer, and at most a fifth of the time for updates goes into
        checkpoints.
    params : pytree, optional
        Parameters of a function of JAX, its first argument.
    method : str, optional
        Method of an estimator that computes; by default the first that it has of ``predict_proba``,
        ``decision_function``, ``predict`` and ``transform``.
    vjp : rule, or sequence of rules, optional
        Gradient of a function that computes with NumPy or another library, as for `labnet.op`.

    Raises
    ------
    ServeError, StoreError, OSError, DeviceError

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
    ...     remote = ln.network.remote_model(server.url, blocking=True)
    ...     gradients = remote(ln.ones((1, 2))).sum().backward()
    ...     server.statistics()["optimize"]["hits"]
    1
    """
    if not isinstance(routes, Mapping | None):
        raise ServeError(f"serve_model: expected routes as functions by name, such as {{'f': f}}, got {routes!r:.60}")
    policy = Policy(staleness, max_staleness, accumulate)
    trainer = _optimizer_named(optimizer) if isinstance(optimizer, str) else optimizer
    if name is None:
        name = getattr(model, "__name__", None) or type(model).__name__
    adapter = adapter_of(model, trainer, Options(params, method, vjp, device))
    if adapter is not None:
        if compile:
            raise ServeError(
                "serve_model: compile=True compiles models of labnet: compile the model with its own library before, "
                "such as by torch.compile or jax.jit"
            )
        model, trainer = adapted(adapter, trainer)
        device = None  # the adapter has moved it
    given = Given(model, trainer, routes or {}, policy, store, durability, compile, device, recovery_seconds)
    place = Place(
        port, host, name, token, max_body, max_queue, replace, ssl=tls_context(ssl), handlers=mounted(handlers)
    )
    return serve_part(given, place)


def _optimizer_named(name: str) -> Optimizer:
    made = OPTIMIZERS.get(name.lower())
    if made is None:
        known = ", ".join(sorted(OPTIMIZERS))
        raise ServeError(f"serve_model: unknown optimizer {name!r:.40}: expected an object, or one of {known}")
    return made()


def tls_context(ssl: Tls | None) -> tls.SSLContext | None:
    """Return the TLS settings of a server.

    Raises
    ------
    ServeError
        If the argument is neither a context nor two files, or the files cannot be loaded.
    """
    if ssl is None or isinstance(ssl, tls.SSLContext):
        return ssl
    if not isinstance(ssl, tuple | list) or len(ssl) != 2:
        raise ServeError(f"ssl must be an ssl.SSLContext, or (certificate, key) as two files, got {ssl!r:.60}")
    context = tls.create_default_context(tls.Purpose.CLIENT_AUTH)
    try:
        context.load_cert_chain(*ssl)
    except (OSError, TypeError) as error:
        raise ServeError(f"ssl: certificate {ssl[0]!r:.80} with key {ssl[1]!r:.80}: {error}") from error
    return context


def mounted(handlers: Sequence[Any]) -> Application | None:
    """Return Tornado handlers as an application.

    Raises
    ------
    ServeError
        If they are not rules as Tornado wants them.
    """
    if not handlers:
        return None
    try:
        application = Application(list(handlers))
        for rule in application.wildcard_router.rules:
            if not isinstance(rule.matcher, Matcher) or not isinstance(rule.target_kwargs, dict):
                raise TypeError(f"{rule.matcher!r:.40} is no pattern, or {rule.target_kwargs!r:.40} no dict")
        return application
    except Exception as error:
        raise ServeError(
            f"handlers must be Tornado rules such as [(r'/chat', Handler)], got {handlers!r:.80}: {error}"
        ) from error


@dataclass(frozen=True)
class Given:
    """A model to be served, with its options from `serve_model`."""

    model: Callable[..., Any]
    optimizer: Optimizer | None
    routes: Mapping[str, Callable[..., Any]]
    policy: Policy
    store: str | os.PathLike[str] | None = None
    durability: Durability = "group"
    compile: bool = False
    device: str | None = None
    recovery_seconds: float = RECOVERY_SECONDS


def serve_part(given: Given, place: "Place", role: Role | None = None) -> Server:
    """Serve a model on its own or as one of its several servers; see `serve_model`."""
    model = compute = given.model
    if given.compile or given.store is not None or role is not None:
        _refuse_lazy(model)
    if given.compile:
        from labnet.network.adapters.compiled_adapter import compiled  # here because importing it takes long

        compute = compiled(model, given.device)
    if given.device is not None:
        compute = on_device(model, given.device, compute)
    if role is not None and not isinstance(model, Module):
        raise ServeError(f"serve_model: replicas need a Module, whose parameters have names, got {model!r:.60}")

    def made(bound: Port) -> ServedModel:
        _refuse_itself(model, bound)
        previous = _served_by(bound)
        kept = None
        if given.store is not None:
            kept = open_store(
                given.store,
                model,
                given.optimizer,
                durability=given.durability,
                recovery_seconds=given.recovery_seconds,
                previous=previous,
                worker=bound.worker,
            )
        lineage = kept.lineage if kept is not None else role.lineage if role is not None else None
        served = ServedModel(
            model,
            given.optimizer,
            compute=compute,
            device=given.device,
            worker=bound.worker,
            new_call=new_calls(lineage),
            previous=previous,
            policy=given.policy,
            replay=bound.once.replay,
            url=bound.url,
            store=kept,
            role=role,
            clients=bound.clients,
        )
        if role is not None:
            role.attach(served, bound)
        return served

    return _serve(place, given.routes, made)


def _refuse_lazy(model: Any) -> None:
    """Raise `ServeError` for layers whose parameters the first call makes: stores and replicas need their names."""
    from labnet.nn.layers.lazy import Lazy  # here because few models have such layers

    for name, part in model.named_modules() if isinstance(model, Module) else ():
        if isinstance(part, Lazy):
            raise ServeError(
                f"serve_model: the parameters of {name!r}, a {type(part).__name__}, are made by its first call: call "
                "the model on a batch before it is served with a store, replicas or compile=True"
            )


@dataclass(frozen=True)
class Place:
    """The port, name and limits of a server."""

    port: int
    host: str
    name: str
    token: str | None
    max_body: int = MAX_BODY
    max_queue: int = MAX_QUEUE
    replace: bool = False
    ssl: tls.SSLContext | None = None
    handlers: Application | None = None

    def check(self) -> None:
        """Raise `ServeError` for invalid values."""
        if type(self.port) is not int or not 0 <= self.port < 1 << 16:
            raise ServeError(f"port must be a number from 0 to 65535, got {self.port!r:.40}")
        if self.token is None and not discovery.is_loopback(self.host):
            raise ServeError(f"token=None is allowed on loopback only, not on host {self.host!r}: leave token='auto'")
        if type(self.max_queue) is not int or self.max_queue < 1:
            raise ServeError(f"max_queue must be a number from 1 on, got {self.max_queue!r:.40}")
        if type(self.max_body) is not int or self.max_body < 1:
            raise ServeError(f"max_body must be a number of bytes from 1 on, got {self.max_body!r:.40}")
        if not isinstance(self.name, str) or not self.name:
            raise ServeError(f"name must be text that is not empty, got {self.name!r:.40}")
        if self.token == "":
            raise ServeError("token must not be empty: use 'auto' to make one, or None for an open server")
        if not isinstance(self.token, str | None):
            raise ServeError(f"token must be text, 'auto' or None, got {type(self.token).__name__}")

    def bind(self) -> Port:
        """Bind the port, or return it if an earlier server of this process has bound it.

        Raises
        ------
        OSError
            If it is taken.
        """
        present = served_ports.ports.get(self.port)
        if present is None:
            token = auth.new_token() if self.token == "auto" else self.token
            return Port(
                port=self.port,
                host=self.host,
                token=token,
                max_body=self.max_body,
                max_queue=self.max_queue,
                context=self.ssl,
            )
        if present.owner is not None and present.owner.name != self.name and not self.replace:
            raise OSError(
                errno.EADDRINUSE,
                f"port {self.port} serves {present.owner.name!r} of this process, not {self.name!r}: stop that "
                f"server, choose another port (port=0 takes a free one), or pass name={present.owner.name!r} to "
                "replace it",
            )
        if present.host != self.host:
            raise OSError(
                errno.EADDRINUSE,
                f"port {self.port} is bound to host {present.host!r}, not {self.host!r}: stop that server first",
            )
        if (present.ssl is None) != (self.ssl is None):
            raise OSError(errno.EADDRINUSE, f"port {self.port} serves {present.url}: stop that server to change TLS")
        return present


Functions = Mapping[str, Callable[..., Any] | Route]


def _serve(place: Place, functions: Functions, made: Callable[[Port], ServedModel] | None = None) -> Server:
    place.check()
    with _turn():
        bound = place.bind()
        refuse_update(_served_by(bound), bound.worker)
        fresh = bound.owner is None
        try:
            server, table = _assemble(bound, place.name, functions, made)
        except Exception:
            if fresh:
                IO.run(_discard(bound))
            raise
        # before connections are accepted: a client that waits for this server needs the token at once
        accepted = bound.token if place.token == "auto" else place.token
        try:
            if fresh and server.served is not None:
                refuse_completion(server.served.store)
            discovery.publish(bound.port, discovery.Entry(bound.url, place.name, os.getpid(), accepted))
        except BaseException:
            if server.served is not None:
                release_store(server.served.store, _served_by(bound), bound.worker)
            if fresh:
                IO.run(_discard(bound))
            raise
        if bound.owner is not None and bound.owner.keeps:
            bound.worker.call(bound.owner.close)
        installing = _install(place, bound, server, table)
        contextvars.Context().run(IO.run, installing)  # requests do not inherit the context of the caller
        served_ports.add(bound)
        if not bound.loopback and fresh:
            print(
                f"labnet: {place.name!r} is reachable from other machines, at port {bound.port}, with its token only; "
                "share() prints the line for them"
            )
        return server


@contextlib.contextmanager
def _turn() -> Iterator[None]:
    """Let one thread serve at a time.

    Raises
    ------
    ServeError
        If the caller's thread must not wait.
    """
    if IO.is_current:
        raise ServeError("serve: the thread that carries all sockets cannot wait for itself: serve from another thread")
    with served_ports.turn() as mine:
        if not mine:
            raise ServeError(
                "serve: another thread is serving or stopping a server, and may be waiting for this handler: "
                "serve a little later"
            )
        yield


async def _install(place: Place, bound: Port, server: Server, table: dict[str, Route]) -> None:
    """Replace the previous server between two requests."""
    before, served = bound.owner, server.served
    if isinstance(before, Server):
        before.give_way()
    elif served is not None:
        await served.complete()
    bound.routes, bound.owner = table, server
    if served is not None and served.store is not None:
        bound.continue_from(served.store)
    elif served is not None and served.role.lineage:
        bound.belong_to(served.role.lineage)
    if place.token != "auto":
        bound.token = place.token
    for path, route in table.items():
        if route.counted and not route.label:
            bound.statistics.setdefault(path.strip("/"), RouteStatistics())
    bound.max_body, bound.max_queue, bound.handlers = place.max_body, place.max_queue, place.handlers
    if before is None:
        await bound.start()


def _served_by(bound: Port) -> ServedModel | None:
    """Return the model that a port currently serves."""
    return bound.owner.served if isinstance(bound.owner, Server) else None


async def _discard(bound: Port) -> None:
    await bound.start()
    await bound.stop()


def _assemble(
    bound: Port, name: str, functions: Functions, made: Callable[[Port], ServedModel] | None
) -> tuple[Server, dict[str, Route]]:
    """Make the handle and the table of routes; raise before anything is changed."""
    custom = {
        check_name(key): given
        if isinstance(given, Route)
        else function_route(key, given, worker=bound.worker, users=bound.users)
        for key, given in functions.items()
    }
    if made is not None and (clash := {"/" + key for key in custom} & set(ServedModel.ROUTES)):
        raise ServeError(f"route {min(clash)!r} is the served model's own")
    served = None if made is None else made(bound)
    table = {} if served is None else served.routes()
    server = Server(name, bound, model=served, custom=custom.pop("statistics", None))
    table |= {"/" + key: route for key, route in custom.items()}
    return server, table | server.routes() | inference.routes(name, served)


def serve_routes(
    routes: Mapping[str, Route], at_stop: Callable[[], None], *, port: int, host: str, name: str, token: str
) -> Server:
    """Serve internal routes under a token, with a callback for the end of the server.

    Raises
    ------
    ServeError, OSError
        As for `serve`; also if this process serves on the port already, whatever its name.
    """
    with _turn():
        if port in served_ports.ports:
            raise OSError(errno.EADDRINUSE, f"port {port} is in use by a server of this process: stop it first")
        server = _serve(Place(port, host, name, token), routes)
        served_ports.ports[server.port].at_stop = at_stop
        return server


def _refuse_itself(model: Any, bound: Port) -> None:
    """Refuse to serve a remote model on its own port."""
    address = getattr(model, "address", None)
    if isinstance(address, Address) and address.port == bound.port and discovery.is_loopback(address.authority):
        raise ServeError(
            f"serve_model: this is the remote model of port {bound.port} itself, which would call itself for ever; "
            "serve the model, and give the remote one another name"
        )
