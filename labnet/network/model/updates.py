"""The updates of a served model: gradients of backwards change its weights."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from labnet.autograd import Gradients
from labnet.network.client.partial_update import RemoteNode, states_of
from labnet.network.model.calls import Calls
from labnet.network.model.graph import Graph
from labnet.network.model.recovery import intent_of
from labnet.network.model.staleness import Histogram, Policy
from labnet.network.monitor.gpu_times import GpuTimes
from labnet.network.monitor.norms import Norms
from labnet.network.protocol.keys import Key
from labnet.network.server.routing import Failure
from labnet.network.threads import Worker
from labnet.nn import Module
from labnet.stats import Clients
from labnet.store import Intent, Outcome, Store
from labnet.tensor import Tensor, on_host

Optimizer = Callable[[Gradients], Any]

#: After this many disk failures in a row clients are asked to wait for a second.
_SOON = 4


class Contribution(NamedTuple):
    """The gradients of one backward, ready to be applied.

    Attributes
    ----------
    client, key, call : str
        Contributions are summed in the order of these.
    outcome : callable, optional
        Returns the record for the store, given the new version.
    renews : str
        The original call, if the forward was repeated.
    """

    client: str
    key: str
    call: str
    graph: Graph
    version: int
    gradients: Gradients
    outcome: Callable[[int], Outcome] | None = None
    renews: str = ""

    @property
    def order(self) -> tuple[str, tuple[int, ...], str]:
        """Sort key among contributions."""
        return self.client, Key.parse(self.key).sequence, self.call


class _Waiting(NamedTuple):
    """The contributions of one backward, waiting for other backwards."""

    contributions: tuple[Contribution, ...]
    applied: "asyncio.Future[int]"

    def fail(self, error: Exception) -> None:
        """Report that no update was made."""
        if not self.applied.done():
            self.applied.set_exception(error)


@dataclass
class Version:
    """The number of updates, one count for all successive models of a port."""

    number: int = 0


class Updates:
    """The updates of a model's weights, one after the other on the server's worker.

    Attributes
    ----------
    staleness : Histogram
        Staleness of the applied gradients.
    optimizer : callable, optional
        Applies the gradients.
    norms : Norms
        Norms of gradients and weights, for the panel.
    """

    def __init__(
        self,
        model: Callable[..., Any],
        optimizer: Optimizer | None,
        *,
        worker: Worker,
        policy: Policy,
        previous: "Updates | None" = None,
        store: Store | None = None,
        times: GpuTimes | None = None,
        clients: Clients | None = None,
    ):
        self._times = times or GpuTimes(model)
        self._clients = clients or Clients()
        self._store = store
        self._model = model
        self.optimizer = optimizer
        self._worker = worker
        self._policy = policy
        self._version: Version = previous._version if previous else Version()
        if store is not None:
            self._version = Version(store.version)
        self.staleness = Histogram()
        self.norms = Norms()
        self._round: list[_Waiting] = []
        self._closed: str | None = None
        self._failures = 0  # consecutive failed writes to the store

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        return self._version.number

    @property
    def in_doubt(self) -> bool:
        """Whether a failed update could still be replayed from the journal if the process ended now."""
        return self._store is not None and self._store.in_doubt

    def drain(self, reason: str) -> None:
        """Refuse waiting and further gradients that need others for an update."""
        self._closed = reason
        waiting, self._round = self._round, []
        for one in waiting:
            one.fail(_sent_away(reason))

    def check_staleness(self, version: int) -> None:
        """Refuse a gradient that exceeds the maximum staleness."""
        staleness = self.version - version
        if not self._policy.allows(staleness):
            raise _too_stale(staleness, self._policy)

    def apply_now(self, contribution: Contribution) -> int | None:
        """Apply a contribution at once; None if the policy accumulates several. Runs on the worker."""
        if self._policy.accumulate > 1:
            return None
        version = self._update([contribution])
        self._count(contribution, version)
        return version

    async def apply(self, *contributions: Contribution) -> int:
        """Apply the contributions of one backward, with others if the policy accumulates; return the new version.

        Several contributions are summed in their order and count as one.
        """

        def alone() -> int:
            for contribution in contributions:
                if not contribution.graph.forwarded:
                    self.check_staleness(contribution.version)
            return self._update(list(contributions))

        if self._policy.accumulate == 1:
            version = await self._worker.run(alone)
        else:
            await self._worker.run(lambda: [self.trained(one) for one in contributions])  # refuses non-finite gradients
            version = await self._join(_Waiting(contributions, asyncio.get_running_loop().create_future()))
        for contribution in contributions:
            self._count(contribution, version)
        return version

    def _count(self, contribution: Contribution, version: int) -> None:
        """Count a gradient that is part of an update."""
        staleness = version - 1 - contribution.version
        self.staleness.add(staleness)
        self._clients.updated(contribution.client, staleness=staleness, now=time.monotonic())

    async def apply_any(self, contribution: Contribution) -> int:
        """Apply a contribution with `apply_now`, or with `apply` where that returns None."""
        version = await self._worker.run(lambda: self.apply_now(contribution))
        return version if version is not None else await self.apply(contribution)

    def follow(self, version: int) -> None:
        """Set the version to that of weights received from another server."""
        self._version.number = version

    async def check(self, contribution: Contribution) -> None:
        """Refuse a contribution that cannot be applied."""
        if self._closed is not None:
            raise _sent_away(self._closed)
        await self._worker.run(lambda: self.trained(contribution))

    async def apply_all(self, contributions: list[Contribution]) -> int:
        """Make one update of contributions, summed in their order; return the new version."""
        version = await self._worker.run(lambda: self._update(contributions))
        for contribution in contributions:
            self._count(contribution, version)
        return version

    async def _join(self, waiting: _Waiting) -> int:
        """Wait until enough backwards have arrived; the last one makes the update for all."""
        if self._closed is not None:
            raise _sent_away(self._closed)
        self._round.append(waiting)
        if len(self._round) == self._policy.accumulate:
            together, self._round = sorted(self._round, key=lambda other: other.contributions[0].order), []
            contributions = [one for other in together for one in other.contributions]
            try:
                version = await self._worker.run(lambda: self._update(contributions))
            except Exception as error:
                for other in together:
                    other.fail(error)
            else:
                for other in together:
                    if not other.applied.done():
                        other.applied.set_result(version)
        return await waiting.applied

    def _update(self, contributions: list[Contribution]) -> int:
        """Train the parameters with the sum of the contributions; return the new version."""
        if len(contributions) == 1 and not contributions[0].graph.forwarded:
            self.check_staleness(contributions[0].version)
        with self._times.sample("update") as sample:
            total = self.trained(contributions[0])
            for other in contributions[1:]:
                total = total + self.trained(other)
            with self._stored(total, contributions):
                if self.optimizer is not None and len(total):
                    with _all_or_nothing(list(total)), sample.part("optimizer"):
                        self.optimizer(total)
                self._version.number += 1
        with contextlib.suppress(MemoryError):  # the update is made: an error would make the client repeat it
            self.norms.measure(self.version, total)
        return self.version

    def record_forwarding(self, call: str, graph: Graph, version: int) -> None:
        """Log a backward that is about to reach other servers; runs on the worker."""
        if graph.forwarded or (self._store is None and self._policy.max_staleness is None):
            return
        nodes = [node for node in graph.nodes if isinstance(node, RemoteNode)]
        if not nodes:
            return
        if self._store is not None and call not in self._store.intents:
            with self._writing():
                self._store.intend(self._intent(call, graph, version, nodes))
        graph.forwarded = True

    def _intent(self, call: str, graph: Graph, version: int, nodes: list[RemoteNode]) -> Intent:
        """Return the log record of a backward that reaches other servers."""
        servers = tuple(states_of(nodes))
        if graph.seen is None:
            return Intent(call, servers, version)
        return intent_of(
            call,
            servers,
            version,
            inputs=graph.inputs,
            outputs=graph.outputs,
            by_name=graph.by_name,
            key=graph.key,
            state=graph.seen,
            recorded=[node.record() for node in nodes],
            renews=graph.renews,
        )

    def give_up(self, call: str) -> None:
        """Log that no gradient of a call is applied from now on; runs on the worker."""
        assert self._store is not None, "there is something to write to"
        with self._deciding(f"the call {call:.40} is given up"):
            self._store.refuse(call)

    async def end_doubt(self) -> None:
        """Remove a failed update from the journal, if one is there: its call is not applied then.

        Raises
        ------
        Failure
            503 if that cannot be written.
        """
        store = self._store
        if store is not None and store.in_doubt:
            with self._deciding("a failed update is not carried out"):
                await self._worker.run(store.mend)

    @contextlib.contextmanager
    def _deciding(self, what: str) -> Iterator[None]:
        """Turn a disk failure into a 503, so that the client asks again: the outcome is unknown until the write."""
        try:
            yield
        except OSError as error:
            assert self._store is not None, "there is something to write to"
            raise Failure(
                503,
                "StorageUnavailable",
                f"it cannot be written to the store {self._store.path} that {what}: "
                f"{error.strerror or error} (applied: unknown)",
                headers={"Retry-After": "1"},
                details={"applied": "unknown"},
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a disk failure into a retryable reply, with no delay or a second of delay."""
        try:
            yield
        except OSError as error:
            assert self._store is not None, "there is something to write to"
            applied, addition = "no", ""
            if self.in_doubt:
                applied, addition = "unknown", ", but it would be carried out if the server were started anew now"
            self._failures += 1
            raise Failure(
                503,
                "StorageUnavailable",
                f"the update cannot be written to the store {self._store.path}: {error.strerror or error}; no weight "
                f"has changed{addition} (applied: {applied})",
                headers={"Retry-After": "0" if self._failures < _SOON else "1"},
                details={"applied": applied},
            ) from error
        self._failures = 0

    @contextlib.contextmanager
    def _stored(self, total: Gradients, contributions: list[Contribution]) -> Iterator[None]:
        """Write an update to the store before it is applied; undo the write if applying fails."""
        store = self._store
        if store is None:
            yield
            return
        outcomes = [c.outcome(self.version + 1) for c in contributions if c.outcome is not None]
        with self._writing():
            store.append(total, outcomes)
        try:
            yield
        except BaseException:
            with self._writing():
                store.take_back()
            raise
        store.applied(outcomes)

    def trained(self, contribution: Contribution) -> Gradients:
        """Return the gradients of the model's own parameters, scaled by the policy; refuse non-finite ones."""
        inputs = {id(tensor) for tensor in contribution.graph.inputs.values()}
        pairs = contribution.gradients.items()
        if isinstance(self._model, Module):
            own = {id(parameter) for parameter in self._model.parameters()}
            trained = [(t, g) for t, g in pairs if id(t) in own]
        else:
            trained = [(t, g) for t, g in pairs if id(t) not in inputs]
        if not all(np.isfinite(on_host(gradient)).all() for _, gradient in trained):
            raise Failure(422, "BadGradient", "the gradient of a parameter is not finite; no weight has changed")
        factor = self._policy.factor(self.version - contribution.version)
        return Gradients(trained if factor == 1.0 else [(t, g * factor) for t, g in trained])


def record_used(calls: Calls, contribution: Contribution) -> None:
    """Record that the gradient of a call was used, and of its original call."""
    for call in filter(None, (contribution.call, contribution.renews)):
        calls.used(call, contribution.key)


@contextlib.contextmanager
def _all_or_nothing(parameters: list[Tensor]) -> Iterator[None]:
    """Restore the parameters if the optimizer fails."""
    before = [parameter.detach() for parameter in parameters]
    try:
        yield
    except BaseException:
        for parameter, value in zip(parameters, before, strict=True):
            parameter.assign(value)
        raise


def _sent_away(reason: str) -> Failure:
    return Failure(503, "Overloaded", reason, headers={"Retry-After": "1"})


def _too_stale(staleness: int, policy: Policy) -> Failure:
    return Failure(
        412,
        "StaleGradient",
        f"the weights have changed {staleness} times since the forward of this gradient, this server accepts at most "
        f"{policy.max_staleness}; compute the loss again (applied: no)",
        details={"applied": "no"},
    )
