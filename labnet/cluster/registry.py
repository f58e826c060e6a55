"""The registry of models in the scheduler: it places their parts on workers and replaces lost ones.

A client orders what to serve, but never reports where something is served. The host of an address is that of a
registered worker; the port is the worker's answer to the scheduler's own request. Only placement and lookup pass
through here, no call of a model.
"""

import asyncio
import contextlib
import logging
import math
import secrets
from collections.abc import Awaitable, Sequence
from typing import Any

from distributed.comm import get_address_host
from distributed.diagnostics.plugin import SchedulerPlugin

from labnet.cluster.placement import Candidate, choose, what_is_missing, why_not
from labnet.cluster.records import Order, Part
from labnet.eviction import BoundedMap
from labnet.network.client.retry import Backoff
from labnet.network.protocol.headers import LINEAGE

log = logging.getLogger("labnet.cluster")

#: Seconds that a lost worker has to return before a busy worker takes over its parts.
PATIENCE_SECONDS = 10.0
#: Waits between attempts to restart a part, and the least of them in seconds: a part that is refused at its first start
#: is stopped meanwhile.
_BACKOFF, _LEAST_PAUSE = Backoff(first=0.1, longest=5.0), 0.1
_ANSWER_SECONDS, _BEGIN_SECONDS, _END_SECONDS = 5.0, 10.0, 20.0
#: Seconds between checks for a usable worker: Dask does not announce that one has started or resumed.
_LOOK_SECONDS = 0.2
#: Seconds after which a task that is still running is cancelled again.
_CANCEL_SECONDS = 0.1
#: Seconds without a request of an adaptive cluster, by default one a second, until it counts as ended.
_ADAPTING_SECONDS = 30.0
#: Number of models that could not be served whose output is kept.
_PAST = 100


class Entry:
    """The entry of one model."""

    def __init__(self, order: Order):
        self.order = order
        self.parts = [Part(order.name, number) for number in range(order.replicas)]
        self.lost = {part.id: asyncio.Event() for part in self.parts}
        self.tasks: list[asyncio.Task[None]] = []
        self.refused: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        #: Whether all parts have been served, so that its client has its answer.
        self.is_served = False
        #: Whether it was taken over from workers that have served it under a scheduler before this one.
        self.is_restored = False
        #: Id of the model for its clients; it changes with its owner.
        self.model_id = secrets.token_hex(8)

    def trouble(self) -> str:
        """Return why the primary does not run; empty if it runs."""
        primary = self.parts[0]
        return "" if primary.state == "running" else primary.trouble or f"{primary.id} is {primary.state}"


class Registry(SchedulerPlugin):  # type: ignore[misc]  # Dask is not typed
    """Keeps every model served; see `labnet.cluster.connect`."""

    name = "labnet"
    idempotent = True

    async def start(self, scheduler: Any) -> None:
        """Start answering clients and workers."""
        self._scheduler = scheduler
        self._id = secrets.token_hex(8)
        self._entries: dict[str, Entry] = {}
        self._orders: dict[str, Order] = {}
        self._cancelling: set[asyncio.Task[bool]] = set()
        self._past_lines: BoundedMap[str, dict[str, list[str]]] = BoundedMap(_PAST)
        self._adapted = -math.inf  # when an adaptive cluster has asked for the last time
        self._idle_timeout = scheduler.idle_timeout
        self._adaptive_target = scheduler.handlers.get("adaptive_target")
        self._ready: set[str] = set()
        self._changed = asyncio.Event()
        scheduler.handlers.update(
            labnet_ready=self.ready,
            labnet_serve=self.serve,
            labnet_resolve=self.resolve,
            labnet_models=self.models,
            labnet_logs=self.logs,
            labnet_stop=self.stop,
            labnet_timeline=self.timeline,
            labnet_cancel=self.cancel,
            labnet_waiting=self.waiting,
            adaptive_target=self.adaptive_target,
        )

    async def close(self) -> None:
        """Stop answering; the workers end with the scheduler."""
        for entry in self._entries.values():
            for task in entry.tasks:
                task.cancel()

    # Events of workers

    async def ready(self, worker: str, parts: Sequence[dict[str, Any]] = ()) -> bool:
        """Record that a worker can serve; return whether it belongs to this cluster.

        Parameters
        ----------
        parts : sequence of dict
            What it serves already, by order of a scheduler before this one.
        """
        if worker not in self._scheduler.workers:
            log.warning("%r says that it can serve, and is no worker of this cluster", worker)
            return False
        self._ready.add(worker)
        for part in parts:
            await self._adopt(worker, part)
        self._spread()
        self._tell()
        return True

    async def _adopt(self, worker: str, found: dict[str, Any]) -> None:
        """Take a part over that a worker serves; end it if its name or its number has been given to another one."""
        order = Order(**{**found["order"], "workers": tuple(found["order"]["workers"])})
        entry = self._entries.get(order.name)
        if entry is None:
            entry = self._entries[order.name] = Entry(order)
            entry.model_id, entry.is_served, entry.is_restored = str(found["model_id"]), True, True
            self._hold_scheduler()
            entry.tasks = [asyncio.create_task(self._keep(entry, part)) for part in entry.parts]
        part = entry.parts[int(found["number"])]
        if part.worker == worker and part.incarnation == found["incarnation"]:  # it is told again
            return
        if entry.order.id != order.id or part.worker or not part.is_placed:
            await self._release(Part(order.name, part.number, worker=worker))
            return
        part.start(worker)
        part.run(address_of(worker, found), str(found["token"]), str(found["incarnation"]))

    async def _await_return(self, entry: Entry, part: Part) -> None:
        """Wait until a part is taken over, or its worker is given up."""
        until = asyncio.get_running_loop().time() + PATIENCE_SECONDS
        while part.state == "waiting" and (left := until - asyncio.get_running_loop().time()) > 0:
            await self._change(left)
        if part.state == "waiting":
            part.restarts = 0  # it ran before

    def _spread(self) -> None:
        """Move replicas that share a worker with another part of their model to idle workers."""
        for entry in self._entries.values():
            for part in reversed(entry.parts[1:]):
                order, shared = entry.order, self._sharing(entry, part)
                idle = choose(self._candidates(), order.name, order.resources, workers=order.workers, only_idle=True)
                if shared and idle is not None:
                    part.moves_to = idle.address
                    entry.lost[part.id].set()
                    return  # the next one when this one has moved

    def _sharing(self, entry: Entry, part: Part) -> bool:
        """Return whether a running part shares its worker with an earlier part of its model."""
        return part.state == "running" and any(
            other.worker == part.worker and other.state in ("starting", "running")
            for other in entry.parts[: part.number]
        )

    # Workers that serve are not idle

    def valid_workers_downscaling(self, scheduler: Any, workers: list[Any]) -> list[Any]:
        """Exclude workers that serve from those that an adaptive cluster may close."""
        serving = {candidate.address for candidate in self._candidates() if candidate.served}
        return [worker for worker in workers if worker.address not in serving]

    async def adaptive_target(self, target_duration: str | float | None = None) -> int:
        """Return how many workers an adaptive cluster should have: one more for each part that waits or shares one."""
        self._adapted = asyncio.get_running_loop().time()
        parts = [part for entry in self._entries.values() for part in entry.parts]
        serving = {part.worker for part in parts if part.state in ("starting", "running")}
        waiting = sum(part.state == "waiting" for part in parts)
        waiting += sum(self._sharing(entry, part) for entry in self._entries.values() for part in entry.parts)
        waiting += sum(order.replicas for order in self._orders.values())
        target: int = self._adaptive_target(target_duration=target_duration)
        return max(target, len(serving) + waiting)

    def _hold_scheduler(self) -> None:
        """Keep the scheduler from ending for lack of tasks while it has models."""
        self._scheduler.idle_since = None
        self._scheduler.idle_timeout = None if self._entries else self._idle_timeout

    def remove_worker(self, scheduler: Any, worker: str, **details: Any) -> None:
        """Record that a worker is lost with all its parts."""
        if scheduler.status.name in ("closing", "closed"):  # all workers end with it
            return
        self._ready.discard(worker)
        for entry in self._entries.values():
            for part in entry.parts:
                if part.worker == worker and part.state in ("starting", "running"):
                    entry.lost[part.id].set()
                    if not part.number:  # replicas that are starting would wait for it, on workers that it may need
                        part.is_placed = False
                        self._give_up_starting(entry)
        self._tell()

    def _give_up_starting(self, entry: Entry) -> None:
        """Give up the starts of a model's replicas; they are placed again when there is a primary to follow."""
        for part in entry.parts[1:]:
            if part.state == "starting":
                entry.lost[part.id].set()

    def _tell(self) -> None:
        """Wake all tasks that wait for a change."""
        self._changed.set()
        self._changed = asyncio.Event()

    def _change(self, seconds: float | None = None) -> Awaitable[None]:
        """Return an awaitable of the next change from now on, even if it is awaited later."""
        return _waiting(self._changed, seconds)

    def _candidates(self) -> list[Candidate]:
        found = {}
        for address in self._ready & self._scheduler.workers.keys():
            state = self._scheduler.workers[address]
            if state.status.name == "running":
                found[address] = Candidate(address, str(state.name), dict(state.resources))
        for entry in self._entries.values():
            for part in entry.parts:
                candidate = found.get(part.worker) if part.state in ("starting", "running") else None
                if candidate is not None:
                    candidate.served.append(part.name)
                    for key, amount in entry.order.resources.items():
                        candidate.used[key] = candidate.used.get(key, 0.0) + amount
        return list(found.values())

    def _is_beginning(self) -> bool:
        """Return whether a worker has just started and will soon be able to serve, or may, since there is none."""
        workers = self._scheduler.workers
        return not workers or any(
            address not in self._ready or state.status.name == "init" for address, state in workers.items()
        )

    # Supervision of parts

    async def _keep(self, entry: Entry, part: Part) -> None:
        """Keep a part served until it is stopped: restart it whenever it is lost."""
        failures, reason = 0, ""
        if entry.is_restored:
            await self._await_return(entry, part)
        while True:
            lost, trouble = entry.lost[part.id], ""
            if part.state != "running":  # it was not taken over
                before = part.worker
                await self._place(entry, part)
                if reason:  # only now: at the end of a cluster all workers are lost, and none takes over
                    log.warning("%s was on worker %s and starts on %s: %s", part.id, before, part.worker, reason)
                    reason = ""
                lost.clear()
                if part.worker not in self._scheduler.workers or (part.number and entry.parts[0].state != "running"):
                    part.state = "waiting"
                    continue
                trouble = await self._start(entry, part)
            if trouble:
                is_given_up = lost.is_set() and part.worker in self._scheduler.workers
                part.lose(trouble)
                if part.restarts < 0 and not is_given_up and not entry.refused.done():
                    entry.refused.set_result(trouble)
                self._tell()
                await self._release(part)  # the worker may still serve the part, and a store allows one process only
                await asyncio.sleep(_BACKOFF.wait(failures, at_least=_LEAST_PAUSE))
                failures += 1
                continue
            failures = 0
            self._end_strangers(entry)
            if self._sharing(entry, part):
                part.note(f"shares worker {part.worker} with another part of {part.name!r} until more workers come")
            self._spread()
            self._tell()
            await lost.wait()
            is_there = part.worker in self._scheduler.workers
            reason = "its primary came back without what it had answered" if is_there else "it was lost"
            if part.moves_to:
                reason, part.moves_to = f"it moves to the idle worker {part.moves_to}", ""
            part.lose(f"on worker {part.worker}: {reason}")
            self._tell()
            await self._release(part)  # a replica is restarted even if its worker keeps running

    def _end_strangers(self, entry: Entry) -> None:
        """Restart the replicas of a primary that has returned without its answered updates."""
        if entry.parts[0].state != "running":  # it resolves the primary when it starts
            return
        lineage = entry.parts[0].incarnation[:LINEAGE]
        for part in entry.parts[1:]:
            if part.state == "running" and part.incarnation[:LINEAGE] != lineage:
                entry.lost[part.id].set()

    async def _place(self, entry: Entry, part: Part) -> None:
        """Wait for a worker for a part: first for an idle one, then for any.

        Primaries come first: a replica waits until its own one runs, and leaves a worker to one that waits for it.
        """
        order, loop = entry.order, asyncio.get_running_loop()
        while part.number and entry.parts[0].state != "running":
            await self._change()
        until = loop.time() + (PATIENCE_SECONDS if part.restarts >= 0 else 0.0)
        part.is_placed = False
        try:
            while True:
                left = until - loop.time()
                found = choose(
                    self._candidates(), part.name, order.resources, workers=order.workers, only_idle=left > 0
                )
                if found is not None and not (part.number and self._is_wanted(found)):
                    part.start(found.address)
                    return
                await self._change(_LOOK_SECONDS)
        finally:
            part.is_placed = True

    def _is_wanted(self, candidate: Candidate) -> bool:
        """Return whether a primary waits for a worker like this one."""
        return any(
            not entry.parts[0].is_placed
            and choose([candidate], entry.order.name, entry.order.resources, workers=entry.order.workers) is not None
            for entry in self._entries.values()
        )

    async def _start(self, entry: Entry, part: Part) -> str:
        """Ask a worker to serve a part; return the reason of a failure, or an empty string."""
        order, lost = entry.order, entry.lost[part.id]
        primary = None
        if part.number:
            primary = {**entry.parts[0].endpoint(), "id": self._id, "model_id": entry.model_id}
        origin = {"order": {**vars(order), "program": b""}, "model_id": entry.model_id, "number": part.number}
        asking = asyncio.ensure_future(
            self._scheduler.rpc(part.worker).labnet_start(
                part=part.id,
                name=order.name,
                program=order.program,
                store=None if part.number else order.store,
                options=order.options,
                replicas=order.replicas,
                primary=primary,
                origin=origin,
            )
        )
        ended = asyncio.ensure_future(lost.wait())
        try:
            await asyncio.wait([asking, ended], return_when=asyncio.FIRST_COMPLETED)
            if not asking.done():
                if part.worker in self._scheduler.workers:
                    return "its primary was lost while it started"
                return _ended(part)
            if asking.cancelled():  # cancelled by Dask after the connection was lost
                return f"its worker {part.worker} was not asked to the end"
            answer = asking.result()
        except OSError:
            return _ended(part)
        except Exception as error:  # any class: Dask raises the worker's exception here
            return f"its worker {part.worker} did not start it: {type(error).__name__}: {error}"
        finally:
            for task in (asking, ended):
                task.cancel()
        try:
            if "error" in answer:
                return str(answer["error"])
            part.run(address_of(part.worker, answer), str(answer["token"]), str(answer["incarnation"]))
        except (ValueError, KeyError, TypeError) as error:
            return f"its worker {part.worker} answers what cannot be: {error}"
        return ""

    # Operations for clients

    async def serve(self, **given: Any) -> dict[str, Any]:
        """Serve a model under a name, replacing any other; return when all parts are served."""
        order = Order(**{**given, "workers": tuple(given["workers"])})
        if order.id:
            self._orders[order.id] = order
        try:
            until = asyncio.get_running_loop().time() + _BEGIN_SECONDS
            while reason := self._why_refused(order) or why_not(self._candidates(), order.resources, order.workers):
                now = asyncio.get_running_loop().time()
                is_adapting = not self._candidates() and now < self._adapted + _ADAPTING_SECONDS
                if not is_adapting and (now >= until or not self._is_beginning()):
                    break
                if order.id and order.id not in self._orders:
                    break
                await self._change(_LOOK_SECONDS)
            if order.id and order.id not in self._orders:
                reason = "it was cancelled"
        finally:
            self._orders.pop(order.id, None)
        if reason:
            return {"error": reason}
        before, entry = self._entries.get(order.name), Entry(order)
        if before is not None and before.order.owner == order.owner:
            entry.model_id = before.model_id
        self._entries[order.name] = entry  # first, so that the name always resolves
        self._past_lines.pop(order.name)
        self._hold_scheduler()
        if before is not None:
            await self._stop(before)
            if self._entries.get(order.name) is not entry:  # do not leave its parts running
                return {"error": "it was stopped or replaced meanwhile"}
        entry.tasks = [asyncio.create_task(self._keep(entry, part)) for part in entry.parts]
        while not all(part.state == "running" for part in entry.parts):
            if entry.refused.done():
                if self._entries.get(order.name) is entry:
                    await self.stop(order.name)
                    self._past_lines.put(order.name, await self._lines(entry))
                return {"error": entry.refused.result()}
            if self._entries.get(order.name) is not entry:
                return {"error": "it was stopped or replaced meanwhile"}
            changed: asyncio.Future[Any] = asyncio.ensure_future(self._change())
            await asyncio.wait({changed, entry.refused}, return_when=asyncio.FIRST_COMPLETED)
            changed.cancel()
        entry.is_served = True
        return self._found(entry)

    def _why_refused(self, order: Order) -> str:
        """Return why an order may not take its name; empty if it may."""
        entry = self._entries.get(order.name)
        if entry is None or order.may_replace(entry.order, self._owners()):
            return ""
        return (
            f"the name belongs to {entry.order.owner_name or 'another client'}, who serves a model under it: choose "
            "another name, or pass replace=True to replace that model, whose clients then get an error"
        )

    def _owners(self) -> set[str]:
        """Return the ids of the clients that are connected."""
        return set(self._scheduler.clients)

    async def cancel(self, name: str, order: str) -> bool:
        """Cancel an order; return whether it was still there."""
        if self._orders.pop(order, None) is not None:
            self._tell()
            return True
        entry = self._entries.get(name)
        return entry is not None and entry.order.id == order and await self.stop(name)

    def remove_client(self, scheduler: Any, client: str) -> None:
        """Cancel what a client has ordered that is not served yet: its process has ended."""
        unserved = [entry.order for entry in self._entries.values() if not entry.is_served]
        for order in [*self._orders.values(), *unserved]:
            if order.owner == client:
                task = asyncio.ensure_future(self.cancel(order.name, order.id))
                self._cancelling.add(task)
                task.add_done_callback(self._cancelling.discard)

    async def waiting(self, name: str, order: str) -> str:
        """Return what an order waits for; empty if it does not wait."""
        return self._missing(name, order)

    def _missing(self, name: str, order_id: str) -> str:
        entry = self._entries.get(name)
        if order_id in self._orders:
            return "a worker that can serve: workers are starting, or none has joined yet"
        if entry is None or entry.order.id != order_id:
            return ""
        order, reasons = entry.order, []
        for part in entry.parts:
            if part.state == "starting":
                reasons.append(f"its factory, which runs on worker {part.worker}")
            elif part.state == "waiting" and (not part.number or entry.parts[0].state == "running"):
                reasons.append(part.trouble or what_is_missing(self._candidates(), order.resources, order.workers))
        return "; ".join(dict.fromkeys(reasons))

    async def resolve(self, name: str, wait: float = 0.0) -> dict[str, Any]:
        """Return the locations of a model's parts; wait up to `seconds` for its primary."""
        until = asyncio.get_running_loop().time() + wait
        while (entry := self._entries.get(name)) is not None:
            left = until - asyncio.get_running_loop().time()
            if entry.parts[0].state == "running" or left <= 0:
                return self._found(entry)
            await self._change(left)
        return {"missing": True, "known": sorted(self._entries)}

    def _found(self, entry: Entry) -> dict[str, Any]:
        running = [part.endpoint() for part in entry.parts if part.state == "running"]
        shared = sum(self._sharing(entry, part) for part in entry.parts)
        return {
            "id": self._id,
            "model_id": entry.model_id,
            "owner": entry.order.owner_name,
            "replicas": entry.order.replicas,
            "endpoints": running,
            "options": entry.order.options,
            "trouble": entry.trouble(),
            "shared": shared,
        }

    async def models(self, figures: bool = True) -> list[dict[str, Any]]:
        """Return a row for each part of each model, with the statistics from its worker."""
        parts = [part for entry in self._entries.values() for part in entry.parts]
        found = await asyncio.gather(*[self._ask(part, "labnet_figures") if figures else _nothing() for part in parts])
        return [{**part.row(), "statistics": figure} for part, figure in zip(parts, found, strict=True)]

    async def logs(self, name: str) -> dict[str, Any]:
        """Return the lines of each part of a model, oldest first."""
        entry = self._entries.get(name)
        if entry is None and name in self._past_lines:
            return self._past_lines.entries[name]
        if entry is None:
            return {"missing": True, "known": sorted(self._entries)}
        return await self._lines(entry)

    async def _lines(self, entry: Entry) -> dict[str, list[str]]:
        found = await asyncio.gather(*[self._ask(part, "labnet_lines") for part in entry.parts])
        return {part.id: [*part.lines, *(lines or ())] for part, lines in zip(entry.parts, found, strict=True)}

    async def timeline(self, name: str) -> dict[str, Any]:
        """Return the intervals in which each part of a model computed."""
        entry = self._entries.get(name)
        if entry is None:
            return {"missing": True, "known": sorted(self._entries)}
        found = await asyncio.gather(*[self._ask(part, "labnet_intervals") for part in entry.parts])
        return {part.id: intervals or [] for part, intervals in zip(entry.parts, found, strict=True)}

    async def _ask(self, part: Part, what: str) -> Any:
        """Call an operation of a part's worker; return None without an answer."""
        if part.worker not in self._scheduler.workers:
            return None
        try:
            asked = getattr(self._scheduler.rpc(part.worker), what)(part=part.id)
            return await asyncio.wait_for(asked, _ANSWER_SECONDS)
        except (OSError, TimeoutError):
            return None

    async def stop(self, name: str) -> bool:
        """Stop a model; return whether there was one."""
        entry = self._entries.pop(name, None)
        if entry is not None:
            self._hold_scheduler()
            await self._stop(entry)
        return entry is not None

    async def _stop(self, entry: Entry) -> None:
        """Stop every part of a model."""
        left = set(entry.tasks)
        while left:  # a task may miss its cancellation at the moment of its result (bpo-37658, until Python 3.12)
            for task in left:
                task.cancel()
            _, left = await asyncio.wait(left, timeout=_CANCEL_SECONDS)
        await asyncio.gather(*entry.tasks, return_exceptions=True)
        await asyncio.gather(*[self._end(part) for part in entry.parts[1:]])
        await self._end(entry.parts[0])  # last: replicas may still send it gradients
        self._tell()

    async def _end(self, part: Part) -> None:
        if part.worker:  # also a lost part: its worker may still serve it or be about to end it
            await self._release(part)
        part.state = "stopped"

    async def _release(self, part: Part) -> None:
        """Ask the worker of a part to stop it, if the worker is still there; log any failure."""
        if part.worker in self._scheduler.workers:
            try:
                await asyncio.wait_for(self._scheduler.rpc(part.worker).labnet_end(part=part.id), _END_SECONDS)
            except Exception as error:  # any class, as above
                text = "%s could not be stopped by its worker %s: %s: %s"
                log.warning(text, part.id, part.worker, type(error).__name__, error)


def address_of(worker: str, answer: dict[str, Any]) -> str:
    """Return the URL of a server, with the registered host of its worker.

    Raises
    ------
    ValueError
        If the port is invalid.

    Examples
    --------
    >>> address_of("tcp://10.0.0.7:4000", {"port": 5000, "tls": False})
    'http://10.0.0.7:5000'
    >>> address_of("tls://10.0.0.7:4000", {"port": "80@evil.example", "tls": True})
    Traceback (most recent call last):
    ValueError: a port is a number from 1 to 65535, got '80@evil.example'
    """
    port = answer["port"]
    if type(port) is not int or not 0 < port < 1 << 16:
        raise ValueError(f"a port is a number from 1 to 65535, got {port!r:.40}")
    host = "127.0.0.1" if worker.startswith("inproc://") else get_address_host(worker)
    scheme = "https" if answer.get("tls") else "http"
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _ended(part: Part) -> str:
    """Return the reason where the process of a worker ends or is cut off during a start."""
    return (
        f"its worker {part.worker} ended or was cut off while it started: the factory called os._exit or crashed, or "
        "the system killed the process, as it does where memory runs out; see the log of the worker"
    )


async def _nothing() -> None:
    return None


async def _waiting(event: asyncio.Event, seconds: float | None) -> None:
    with contextlib.suppress(TimeoutError):
        await asyncio.wait_for(event.wait(), seconds)
