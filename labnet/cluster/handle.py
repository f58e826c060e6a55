"""The handle of a cluster: serve models by name, find them, and inspect what is served."""

import asyncio
import atexit
import contextlib
import getpass
import inspect
import logging
import math
import os
import secrets
import socket
import ssl as tls
import sys
import weakref
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import dask.config
from dask.utils import parse_timedelta
from distributed import Client, LocalCluster, Scheduler
from distributed.comm import CommClosedError
from distributed.protocol import serialize_bytes

from labnet.cluster import host
from labnet.cluster.chart import Utilisation
from labnet.cluster.directory import BACKOFF, Directory
from labnet.cluster.model import ClusterModel
from labnet.cluster.pipeline import Pipeline
from labnet.cluster.registry import Registry
from labnet.cluster.table import Models, Row
from labnet.errors import ServeError, Unreachable
from labnet.network.client.local_steps import LocalTrainer
from labnet.network.client.options import ClientOptions
from labnet.network.client.retry import Backoff
from labnet.network.model.staleness import Policy, Staleness
from labnet.network.model.storage import check_recovery
from labnet.nn import Module
from labnet.optim import Optimizer
from labnet.store import LEVELS, RECOVERY_SECONDS, Durability

#: Seconds that a lost worker on this machine has to restart.
_BACK_SECONDS = 3600.0
#: Seconds until the reason for waiting is printed, for a cancellation, and for a call of a remote model.
_TELL_SECONDS, _CANCEL_SECONDS, _TIMEOUT = 3.0, 5.0, 60.0
_LOST = "distributed.deploy.lost-worker-timeout"


class Processes(LocalCluster):  # type: ignore[misc]  # Dask is not typed
    """Workers on this machine, each restarted by its nanny without a time limit.

    Dask gives up a nanny whose worker has not restarted after 15 seconds. On a busy machine, where a start takes
    longer, every worker that dies would be lost for good.
    """

    def _update_worker_status(self, op: str, msg: Any) -> None:
        with dask.config.set({_LOST: max(_BACK_SECONDS, parse_timedelta(dask.config.get(_LOST)))}):
            super()._update_worker_status(op, msg)


class Cluster:
    """A Dask cluster that serves models; made by `connect`. Usable in ``with``.

    Attributes
    ----------
    client : distributed.Client
        The connection to Dask.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.cluster.connect(workers=1) as cluster:
    ...     model = cluster.serve_model(lambda: ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), name="line", blocking=True)
    ...     loss = ln.loss.mse(model(ln.ones((4, 2))), ln.zeros((4, 1)))
    ...     gradients = loss.backward()
    ...     cluster.models()[0].version
    1
    """

    def __init__(self, client: Client, *, owned: Sequence[Any] = ()):
        self.client = client
        self._owned = owned
        self._closing = self._closed = False
        if len(owned) > 1:
            _own.add(self)

    # Serving

    def serve_model(
        self,
        factory: Callable[[], Any],
        optimizer: Optimizer | None = None,
        *,
        name: str,
        replicas: int = 1,
        resources: Mapping[str, float] | None = None,
        store: str | os.PathLike[str] | None = None,
        workers: str | int | Sequence[str | int] = (),
        replace: bool = False,
        staleness: Staleness = "accept",
        max_staleness: int | None = None,
        accumulate: int = 1,
        durability: Durability = "group",
        recovery_seconds: float = RECOVERY_SECONDS,
        compile: bool = False,
        blocking: bool = False,
        timeout: float | None = None,
    ) -> ClusterModel:
        """Serve a model on a worker under a name; return the remote model bound to the name.

        While it waits for a worker or the factory, it prints the reason every few seconds. An interrupt cancels it.

        Parameters
        ----------
        factory : callable or Module
            Called on the worker without arguments; returns the model, or model and optimizer. It is called again at
            each restart of the model. A module is copied there.
        optimizer : Optimizer, optional
            Trains the model there; a copy is sent.
        name : str
            Serving again under the same name replaces the model; if it is another client's, only with ``replace``.
        replicas : int
            Number of workers that compute; one of them, the primary, owns the weights.
        resources : mapping of str to float, optional
            Resources of its worker that each part uses, such as ``{"GPU": 1}``.
        store : path, optional
            A folder that stores the model while it is trained, accessible on every worker that may serve it.
        workers : str, int or sequence of these
            Addresses, hosts or names of the workers that may serve it; by default all.
        replace : bool
            Replace a model of another client, or of an earlier `connect` of this process. Remote models that are
            bound to that one raise `Unreachable` from then on.
        staleness, max_staleness, accumulate, durability, recovery_seconds, compile
            As for `labnet.network.serve_model`.
        blocking : bool
            Of the remote model.
        timeout : float, optional
            Seconds for serving the model, by default unlimited, and for each call of the remote model, by default 60.

        Raises
        ------
        ServeError
            If it cannot be served: there is no worker for it, its factory failed, its name is another client's, or
            `timeout` is over.
        """
        if not isinstance(name, str) or not name or "/" in name:
            raise ServeError(f"serve_model: a name is text without '/', got {name!r:.60}")
        factory = _factory(factory)
        if type(replicas) is not int or replicas < 1:
            raise ServeError(f"serve_model: replicas must be a number from 1 on, got {replicas!r:.40}")
        if isinstance(optimizer, Optimizer) and optimizer.is_restricted:
            raise ServeError(
                f"serve_model: {optimizer!r} trains parameters of this process, which the worker does not have: have "
                "the factory return the model and its optimizer"
            )
        Policy(staleness, max_staleness, accumulate)
        check_recovery(recovery_seconds)
        if durability not in LEVELS:
            raise ServeError(f"serve_model: durability must be one of {LEVELS}, got {durability!r:.40}")
        options: dict[str, Any] = {"staleness": staleness, "max_staleness": max_staleness, "accumulate": accumulate}
        options |= {"durability": durability, "recovery_seconds": recovery_seconds, "compile": compile}
        chosen = [workers] if isinstance(workers, str | int) else workers
        answer = self._place(
            name,
            timeout,
            program=_written(factory, optimizer),
            replicas=replicas,
            resources={key: float(amount) for key, amount in (resources or {}).items()},
            store=None if store is None else str(Path(store).absolute()),
            options=options,
            workers=[str(worker) for worker in chosen],
            owner=self.client.id,
            owner_name=f"{getpass.getuser()}@{socket.gethostname()} (process {os.getpid()})",
            replace=replace,
        )
        if "error" in answer:
            raise ServeError(f"serve_model: {name!r} cannot be served: {answer['error']}")
        if answer["shared"]:
            print(
                f"labnet: {name!r}: {answer['shared']} of its {replicas} parts share a worker with another part; they "
                "move when more workers come"
            )
        calls = ClientOptions(timeout=_TIMEOUT if timeout is None else timeout, backoff=BACKOFF)
        return self._bound(name, answer, calls, blocking=blocking)

    def _place(self, name: str, timeout: float | None, **given: Any) -> dict[str, Any]:
        """Order a model and wait until it is served; cancel the order if that is interrupted or takes too long."""
        order, scheduler = secrets.token_hex(8), self._scheduler()

        async def placing() -> dict[str, Any]:
            loop = asyncio.get_running_loop()
            asking = asyncio.ensure_future(scheduler.labnet_serve(name=name, id=order, **given))
            until = loop.time() + (math.inf if timeout is None else timeout)
            told = ""
            while not (await asyncio.wait([asking], timeout=min(_TELL_SECONDS, max(0.0, until - loop.time()))))[0]:
                reason = await scheduler.labnet_waiting(name=name, order=order)
                if loop.time() >= until and await scheduler.labnet_cancel(name=name, order=order):
                    await asyncio.wait([asking])
                    return {"error": f"it was not served within {timeout:.3g} s: it waits for {reason or 'a worker'}"}
                if reason and reason != told:
                    print(f"labnet: {name!r} waits for {reason}", flush=True)
                    told = reason
            answer: dict[str, Any] = asking.result()
            return answer

        try:
            answer: dict[str, Any] = self.client.sync(placing)
            return answer
        except BaseException:
            with contextlib.suppress(Exception):  # the first error is raised
                self._submit("labnet_cancel", name=name, order=order).result(_CANCEL_SECONDS)
            raise

    def remote_model(
        self,
        name: str,
        *,
        timeout: float = 60.0,
        blocking: bool = False,
        client: str | None = None,
        backoff: Backoff | None = None,
        wire_dtype: str | None = None,
        state: str | os.PathLike[str] | None = None,
        local_steps: int | None = None,
        model: Any = None,
        optimizer: Any = None,
    ) -> ClusterModel:
        """Return the remote model for a name that the cluster serves.

        Parameters
        ----------
        timeout, blocking, client, backoff, wire_dtype, state, local_steps, model, optimizer
            As for `labnet.network.remote_model`. The call waits for a model that is being restarted.

        Raises
        ------
        LookupError
            If there is no such model.
        """
        answer = self._ask("labnet_resolve", name=name, wait=min(timeout, _TELL_SECONDS))
        if answer.get("trouble") and timeout > _TELL_SECONDS:
            print(f"labnet: {name!r} is not served now: {answer['trouble']}", flush=True)
            answer = self._ask("labnet_resolve", name=name, wait=timeout - _TELL_SECONDS)
        self._check_known(name, answer)
        if not any(endpoint["number"] == 0 for endpoint in answer["endpoints"]):
            raise LookupError(
                f"the model {name!r} was not back within {timeout:.3g} s: {answer['trouble']}; see "
                f"cluster.logs({name!r})"
            )
        options = ClientOptions(
            timeout=timeout,
            client=client,
            backoff=backoff or BACKOFF,
            wire_dtype=wire_dtype if local_steps is None else None,
            state=state,
        )
        remote = self._bound(name, answer, options, blocking=blocking)
        if local_steps is not None:
            remote.local = LocalTrainer(remote.fetch_weights, model, optimizer, local_steps, wire_dtype=wire_dtype)
        return remote

    def _bound(self, name: str, answer: dict[str, Any], options: ClientOptions, *, blocking: bool) -> ClusterModel:
        return ClusterModel(Directory(name, answer, self._submit, self._ssl()), options, blocking=blocking)

    def _ssl(self) -> tls.SSLContext | None:
        """Return the TLS settings of the cluster for connections, or None."""
        context: tls.SSLContext | None = self.client.security.get_connection_args("client").get("ssl_context")
        return context

    def pipeline(self, *stages: "str | ClusterModel", micro_batches: int = 4) -> Pipeline:
        """Return a pipeline of stages, in order, to be trained together.

        Parameters
        ----------
        *stages : str or ClusterModel
        micro_batches : int
            Number of pieces that each batch is split into.

        Raises
        ------
        LookupError
            If there is no such model.
        """
        models = [self.remote_model(stage) if isinstance(stage, str) else stage for stage in stages]
        return Pipeline(models, micro_batches=micro_batches)

    # Inspecting

    def models(self) -> Models:
        """Return a table of the served parts: worker, URL, version, hits, p99, restarts."""
        return Models([Row.of(row) for row in self.tree()])

    def tree(self) -> list[dict[str, Any]]:
        """Return the data of the panel: a row for each part of each model, with its statistics."""
        rows: list[dict[str, Any]] = list(self._ask("labnet_models"))
        return rows

    def logs(self, name: str) -> list[str]:
        """Return the output of a model on its workers and the scheduler's log of it, by part.

        Raises
        ------
        LookupError
            If there is no such model.
        """
        answer = self._ask("labnet_logs", name=name)
        self._check_known(name, answer)
        return [line for lines in answer.values() for line in lines]

    def timeline(self, *names: str) -> Utilisation:
        """Return the intervals in which parts of models computed; workers keep the last thousands.

        Raises
        ------
        LookupError
            If there is no such model.
        """
        parts: dict[str, Any] = {}
        for name in names or sorted({row.name for row in self.models()}):
            answer = self._ask("labnet_timeline", name=name)
            self._check_known(name, answer)
            parts |= answer
        return Utilisation(parts)

    def stop(self, name: str) -> None:
        """Stop serving a model; its store is kept.

        Raises
        ------
        LookupError
            If there is no such model.
        """
        if not self._ask("labnet_stop", name=name):
            self._check_known(name, self._ask("labnet_resolve", name=name))
            raise LookupError(f"the cluster serves no model {name!r}")

    def panel(self) -> Any:
        """Return the live panel of all served models, a widget for notebooks."""
        from labnet.cluster.source import Tree  # imported here because it starts a thread

        (view,) = entry_points(group="labnet.views", name="panel")
        return view.load()(Tree(self))

    # The connection

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        return "closed" if self.closed else str(self.client.scheduler.address)

    @property
    def closed(self) -> bool:
        """Whether the cluster or its client is closed."""
        return self._closed or self.client.scheduler is None

    @property
    def closing(self) -> bool:
        """Whether `close` has begun."""
        return self._closing or self.closed

    def _submit(self, operation: str, **arguments: Any) -> "Future[Any]":
        """Call an operation of the scheduler, from any thread."""
        scheduler = self._scheduler()

        async def asking() -> Any:
            return await getattr(scheduler, operation)(**arguments)

        return asyncio.run_coroutine_threadsafe(asking(), self.client.loop.asyncio_loop)

    def _ask(self, operation: str, **arguments: Any) -> Any:
        try:
            return self.client.sync(getattr(self._scheduler(), operation), **arguments)
        except (CommClosedError, TimeoutError, ConnectionError) as error:
            raise self._silence(error) from error
        except (OSError, RuntimeError) as error:  # Dask raises them for connections that are closed
            if self.client.status == "running" and type(error) is not OSError:
                raise
            raise self._silence(error) from error

    def _silence(self, error: BaseException) -> Unreachable:
        """Return the error for a scheduler that does not answer."""
        return Unreachable(
            f"the scheduler of the cluster does not answer ({type(error).__name__}: {error}); models that run go on, "
            "and are found by their names again when a scheduler runs at its address: connect to it then"
        )

    def _scheduler(self) -> Any:
        if self.client.scheduler is None:
            raise Unreachable("the cluster is closed: ln.cluster.connect() makes or finds one")
        return self.client.scheduler

    def _check_known(self, name: str, answer: dict[str, Any]) -> None:
        if answer.get("missing"):
            raise LookupError(f"the cluster serves no model {name!r}: it serves {list(answer['known'])}")

    def close(self) -> None:
        """Disconnect; a cluster that `connect` has started is shut down with all its servers."""
        self._closing = True
        if not self.closed and len(self._owned) > 1:  # for a cluster of its own: every server stops in order
            with contextlib.suppress(OSError, RuntimeError):  # the scheduler may have ended already
                for name in dict.fromkeys(row["name"] for row in self._ask("labnet_models", figures=False)):
                    self._ask("labnet_stop", name=name)
                self.client.run(_be_quiet)
        self._closed = True
        with _without_warnings("distributed.nanny") if len(self._owned) > 1 else contextlib.nullcontext():
            for owned in self._owned:
                owned.close()

    def __enter__(self) -> "Cluster":
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __repr__(self) -> str:
        return f"Cluster({self.address})"


#: Clusters that this process has started; closed at its end, before Dask closes their workers one after the other.
_own: "weakref.WeakSet[Cluster]" = weakref.WeakSet()


@atexit.register
def _close_all() -> None:
    for cluster in list(_own):
        with contextlib.suppress(Exception):  # the process ends
            cluster.close()


def _be_quiet() -> None:
    """End the log of a worker that is about to end: it would report that its scheduler is gone."""
    logging.disable(logging.CRITICAL)


@contextlib.contextmanager
def _without_warnings(name: str) -> Iterator[None]:
    """Leave out the warnings of a logger: that a worker without servers takes longer than 4 seconds to end."""
    logger = logging.getLogger(name)
    before = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(before)


def _factory(given: Any) -> Callable[[], Any]:
    """Return a function that returns the model, given one or a module.

    Raises
    ------
    ServeError
        If it is neither.
    """
    if isinstance(given, Module):
        return lambda: given
    if not callable(given):
        raise ServeError(
            f"serve_model: expected a function that returns the model, got {type(given).__name__} {given!r:.60}; "
            "a Module does too"
        )
    try:
        inspect.signature(given).bind()
    except TypeError as error:
        raise ServeError(
            f"serve_model: expected a function without arguments that returns the model, got {given!r:.60}: {error}; "
            "lambda: model does for a model that is a function"
        ) from None
    except ValueError:  # it has no signature
        pass
    return given  # type: ignore[no-any-return]


def _written(factory: Callable[[], Any], optimizer: Optimizer | None) -> bytes:
    """Serialize a factory and an optimizer with Dask."""
    try:
        written: bytes = serialize_bytes((factory, optimizer), on_error="raise")
    except Exception as error:  # any error of the object's own serialization
        raise ServeError(
            f"serve_model: the factory, the optimizer, or something that they use, cannot be sent to a worker: "
            f"{type(error).__name__}: {error}; make it inside the factory, or in a module that workers import"
        ) from error
    return written


def connect(client_or_address: Any = None, *, workers: int | None = None, **options: Any) -> Cluster:
    """Connect to a Dask cluster to serve models on it and to find served ones.

    Parameters
    ----------
    client_or_address : distributed.Client, cluster, str, optional
        A client, anything that Dask's client connects to, or the address of a scheduler. None starts a
        `LocalCluster` of processes on this machine; inside a factory, it is the cluster that the factory runs in.
    workers : int, optional
        Number of workers of the local cluster.
    **options
        For Dask's `Client`, or for the `LocalCluster`.

    Raises
    ------
    OSError
        If no scheduler answers.
    TypeError
        If the client is an asynchronous one.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.cluster.connect(workers=1) as here, ln.cluster.connect(here.client.scheduler.address) as cluster:
    ...     len(cluster.models())
    0
    """
    owned: list[Any] = []
    if isinstance(client_or_address, Client):
        client = client_or_address
        if client.asynchronous:
            raise TypeError(
                "connect: expected a client that blocks, got an asynchronous one; connect to the address of a "
                "scheduler in another process or thread, or have one made here: ln.cluster.connect()"
            )
    else:
        target, worker = client_or_address, host.current.get()
        if target is None and worker is not None:
            target, options = worker.scheduler.address, {"security": worker.security, **options}
        elif target is None:
            given = {"n_workers": workers, "threads_per_worker": 1, "dashboard_address": ":0", **options}
            target, options = _processes(given), {}
            owned.append(target)
        _refuse_own_loop(target)
        client = Client(target, set_as_default=False, **options)
        owned.insert(0, client)
    client.register_plugin(Registry())
    client.register_plugin(host.Host())
    return Cluster(client, owned=owned)


def _processes(options: Mapping[str, Any]) -> Processes:
    """Start a cluster of processes; each of them imports the script that runs here."""
    hint = (
        "connect() starts processes that import this script: call it below if __name__ == '__main__':, or pass the "
        "address of a cluster"
    )
    try:
        return Processes(**options)
    except RuntimeError as error:
        if hasattr(sys.modules["__main__"], "__file__"):
            raise RuntimeError(f"no worker could be started ({error}): {hint}") from error
        raise


def _refuse_own_loop(target: Any) -> None:
    """Raise `TypeError` if a scheduler runs on the event loop of this thread, which a call that blocks would stop."""
    try:
        loop = asyncio.get_running_loop()
    except RuntimeError:
        return
    address = getattr(target, "scheduler_address", target)
    for scheduler in Scheduler._instances:
        if scheduler.status.name == "running" and scheduler.loop.asyncio_loop is loop and scheduler.address == address:
            raise TypeError(
                f"connect: the scheduler at {address} runs on the event loop of this thread and cannot answer while "
                "connect waits here: start it in another process, or with LocalCluster(asynchronous=False)"
            )
