"""How the gradients of backwards change the weights of a served model."""

import asyncio
import contextlib
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
from labnet.store import Intent, Outcome, Store
from labnet.tensor import Tensor, on_host

Optimizer = Callable[[Gradients], Any]

#: After so many failures of the disk in a row clients are asked to wait for a second.
_SOON = 4


class Contribution(NamedTuple):
    """The gradients of one backward, ready to be applied.

    Attributes
    ----------
    client, key, call : str
        Where the gradients of several are summed, they are in the order of these.
    outcome : callable, optional
        Returns what a store is to remember of it, given the version that it led to.
    renews : str
        The call that this one stands for, if its forward was made again.
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
        """Where it stands among others."""
        return self.client, Key.parse(self.key).sequence, self.call


class _Waiting(NamedTuple):
    """The contributions of one backward that wait for those of others."""

    contributions: tuple[Contribution, ...]
    applied: "asyncio.Future[int]"

    def fail(self, error: Exception) -> None:
        """Tell that no update was made."""
        if not self.applied.done():
            self.applied.set_exception(error)


@dataclass
class Version:
    """How often the weights were updated: one count for all models that follow each other on a port."""

    number: int = 0


class Updates:
    """The updates of a model's weights, one after the other on the server's worker.

    Attributes
    ----------
    staleness : Histogram
        How stale the gradients were that were applied.
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
    ):
        self._times = times or GpuTimes(model)
        self._store = store
        self._model = model
        self._optimizer = optimizer
        self._worker = worker
        self._policy = policy
        self._version: Version = previous._version if previous else Version()
        if store is not None:
            self._version = Version(store.version)
        self.staleness = Histogram()
        self.norms = Norms()
        self._round: list[_Waiting] = []
        self._closed: str | None = None
        self._failures = 0  # of the last attempts to write to the store

    @property
    def version(self) -> int:
        """How often the weights were updated."""
        return self._version.number

    @property
    def in_doubt(self) -> bool:
        """Whether an update that failed may be carried out after all if the process ended now."""
        return self._store is not None and self._store.in_doubt

    def drain(self, reason: str) -> None:
        """Send away the gradients that wait for others to make an update with, now and from now on."""
        self._closed = reason
        waiting, self._round = self._round, []
        for one in waiting:
            one.fail(_sent_away(reason))

    def check_staleness(self, version: int) -> None:
        """Refuse a gradient of weights that have changed too often since."""
        staleness = self.version - version
        if not self._policy.allows(staleness):
            raise _too_stale(staleness, self._policy)

    def apply_now(self, contribution: Contribution) -> int | None:
        """Train with a contribution at once, if the policy wants no others with it; runs on the worker."""
        if self._policy.accumulate > 1:
            return None
        version = self._update([contribution])
        self.staleness.add(version - 1 - contribution.version)
        return version

    async def apply(self, *contributions: Contribution) -> int:
        """Train with the contributions of one backward, with others where the policy says so; return the new version.

        Several are added up in their order, and count as one.
        """

        def alone() -> int:
            for contribution in contributions:
                if not contribution.graph.handed_on:
                    self.check_staleness(contribution.version)
            return self._update(list(contributions))

        if self._policy.accumulate == 1:
            version = await self._worker.run(alone)
        else:
            await self._worker.run(lambda: [self.trained(one) for one in contributions])  # refuses what is not finite
            version = await self._join(_Waiting(contributions, asyncio.get_running_loop().create_future()))
        for contribution in contributions:
            self.staleness.add(version - 1 - contribution.version)
        return version

    async def apply_any(self, contribution: Contribution) -> int:
        """Train with a contribution as `apply_now` and `apply` do."""
        version = await self._worker.run(lambda: self.apply_now(contribution))
        return version if version is not None else await self.apply(contribution)

    def follow(self, version: int) -> None:
        """Take note of the version of weights that were taken over from elsewhere."""
        self._version.number = version

    async def check(self, contribution: Contribution) -> None:
        """Refuse a contribution that could not be applied."""
        if self._closed is not None:
            raise _sent_away(self._closed)
        await self._worker.run(lambda: self.trained(contribution))

    async def apply_all(self, contributions: list[Contribution]) -> int:
        """Make one update of contributions, summed in their order; return the version it led to."""
        version = await self._worker.run(lambda: self._update(contributions))
        for contribution in contributions:
            self.staleness.add(version - 1 - contribution.version)
        return version

    async def _join(self, waiting: _Waiting) -> int:
        """Wait until enough backwards are there; the last one makes the update for all."""
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
        if len(contributions) == 1 and not contributions[0].graph.handed_on:
            self.check_staleness(contributions[0].version)
        with self._times.sample("update") as sample:
            total = self.trained(contributions[0])
            for other in contributions[1:]:
                total = total + self.trained(other)
            with self._stored(total, contributions):
                if self._optimizer is not None and len(total):
                    with _all_or_nothing(list(total)), sample.part("optimizer"):
                        self._optimizer(total)
                self._version.number += 1
        with contextlib.suppress(MemoryError):  # the update is made: an error would have the client make it again
            self.norms.measure(self.version, total)
        return self.version

    def hand_on(self, call: str, graph: Graph, version: int) -> None:
        """Take note that a backward is about to reach other servers, if it is, and write that; runs on the worker."""
        if graph.handed_on or (self._store is None and self._policy.max_staleness is None):
            return
        nodes = [node for node in graph.nodes if isinstance(node, RemoteNode)]
        if not nodes:
            return
        if self._store is not None and call not in self._store.intents:
            with self._writing():
                self._store.intend(self._intent(call, graph, version, nodes))
        graph.handed_on = True

    def _intent(self, call: str, graph: Graph, version: int, nodes: list[RemoteNode]) -> Intent:
        """Return what the store is to note of a backward that is handed on."""
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
        )

    def give_up(self, call: str) -> None:
        """Write that no gradient of a call is applied any more; runs on the worker."""
        assert self._store is not None, "there is something to write to"
        try:
            self._store.refuse(call)
        except OSError as error:
            raise Failure(
                503,
                "StorageUnavailable",
                f"it cannot be written to the store {self._store.path} that the call {call:.40} is given up: "
                f"{error.strerror or error} (applied: unknown)",
                headers={"Retry-After": "1"},
                details={"applied": "unknown"},
            ) from error

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turn a failure of the disk into the reply that has the client come again: soon, or in a second."""
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
        """Write an update to the store before it is carried out, and take it back if that fails."""
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
        """Return the gradients of the model's own parameters, scaled as the policy wants, all of them finite."""
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


def note_used(calls: Calls, contribution: Contribution) -> None:
    """Take note that the gradient of a call was used, and of the call that it stands for."""
    for call in filter(None, (contribution.call, contribution.renews)):
        calls.used(call, contribution.key)


@contextlib.contextmanager
def _all_or_nothing(parameters: list[Tensor]) -> Iterator[None]:
    """Take back what an optimizer wrote before it failed."""
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
