"""The registry alone, with a scheduler that does what it is told: no change is missed, no part is forgotten."""

import asyncio
from types import SimpleNamespace

import pytest

from labnet.cluster.registry import Registry

SECONDS = 120.0
A, B, C, D = (f"tcp://127.0.0.1:{number}" for number in range(1, 5))


class Scheduler:
    """Workers that answer requests to start a part with what a test says."""

    def __init__(self, *addresses, status="running"):
        self.clients, self.idle_timeout, self.idle_since = {}, 300.0, None
        self.status = SimpleNamespace(name="running")
        self.handlers, self.answers, self.asked, self.ended = {}, [], [], []
        self.ending = None  # a future that requests to end a part wait for
        self.workers = {address: self.state(address, status) for address in addresses}
        self.handlers["adaptive_target"] = lambda target_duration: 0

    @staticmethod
    def state(address, status):
        return SimpleNamespace(name=address, resources={}, status=SimpleNamespace(name=status))

    def rpc(self, address):
        async def start(*, part, **given):
            self.asked.append((address, part))
            answer = self.answers.pop(0) if self.answers else "lineage-of-16-hex-1"
            if isinstance(answer, BaseException):
                raise answer
            if isinstance(answer, asyncio.Future):
                answer = await answer
            if isinstance(answer, str):
                return {"port": 1000 + len(self.asked), "token": "t", "incarnation": answer, "tls": False}
            return answer

        async def end(*, part):
            if self.ending is not None:
                await asyncio.shield(self.ending)
            self.ended.append((address, part))

        async def lines(*, part):
            return [f"{part} says it"]

        return SimpleNamespace(labnet_start=start, labnet_end=end, labnet_lines=lines)


def order(**given):
    return {
        "name": "model",
        "program": b"",
        "replicas": 1,
        "resources": {},
        "store": None,
        "options": {},
        "workers": (),
        **given,
    }


def played(scenario, scheduler):
    """Let a scenario take its course with a registry in the scheduler."""

    async def playing():
        registry = Registry()
        await registry.start(scheduler)
        for worker in scheduler.workers:
            assert await registry.ready(worker)
        try:
            async with asyncio.timeout(SECONDS):
                return await scenario(registry)
        finally:
            await registry.stop("model")

    return asyncio.run(playing())


def only(registry, number=0):
    return registry._entries["model"].parts[number]


async def settled(condition):
    while not condition():
        await asyncio.sleep(0.001)


def test_a_change_before_the_waiting_for_it_begins_is_not_missed():
    async def scenario(registry):
        waiting = asyncio.ensure_future(registry._change())
        registry._tell()  # before the task has had its first turn
        await waiting

    played(scenario, Scheduler(A))


def test_a_worker_that_says_that_it_can_serve_before_the_scheduler_hears_that_it_runs_is_waited_for():
    scheduler = Scheduler(A, status="init")

    async def scenario(registry):
        serving = asyncio.ensure_future(registry.serve(**order()))
        await asyncio.sleep(0.05)
        assert not serving.done()
        scheduler.workers[A].status.name = "running"  # of which Dask tells nobody
        return await serving

    assert len(played(scenario, scheduler)["endpoints"]) == 1


def test_a_part_that_is_lost_waits_for_a_worker_that_is_paused():
    scheduler = Scheduler(A, B)

    async def scenario(registry):
        await registry.serve(**order(workers=(A, B)))
        lost, other = (A, B) if only(registry).worker == A else (B, A)
        scheduler.workers[other].status.name = "paused"
        del scheduler.workers[lost]
        registry.remove_worker(scheduler, lost)
        await settled(lambda: only(registry).state == "waiting")
        scheduler.workers[other].status.name = "running"
        await settled(lambda: only(registry).state == "running")
        return only(registry).worker == other

    assert played(scenario, scheduler)


@pytest.mark.parametrize("answer", [asyncio.CancelledError(), OSError("broken"), None, {"port": 0}, 7])
def test_a_part_is_asked_for_again_whatever_becomes_of_the_request_to_start_it(answer):
    scheduler = Scheduler(A)

    async def scenario(registry):
        await registry.serve(**order())
        scheduler.answers = [answer]
        worker = scheduler.workers.pop(A)
        registry.remove_worker(scheduler, A)
        scheduler.workers[A] = worker
        await registry.ready(A)
        await settled(lambda: only(registry).restarts == 1)
        assert scheduler.ended == [(A, "model/0")] * 2  # as soon as it was there again; and it may have begun unheard
        return only(registry).state, len(scheduler.asked)

    assert played(scenario, scheduler) == ("running", 3)


def test_a_replica_that_began_before_its_primary_came_back_as_another_is_started_anew():
    scheduler = Scheduler(A, B)

    async def scenario(registry):
        starting = asyncio.get_running_loop().create_future()
        scheduler.answers = ["1" * 24, starting]
        serving = asyncio.ensure_future(registry.serve(**order(replicas=2)))
        await settled(lambda: len(scheduler.asked) == 2)  # the replica is given the first primary
        scheduler.answers = ["2" * 24, "2" * 24]
        registry._entries["model"].lost["model/0"].set()
        await settled(lambda: only(registry).incarnation == "2" * 24)
        starting.set_result("1" * 24)
        await serving
        await settled(lambda: only(registry, 1).incarnation == "2" * 24 and only(registry, 1).state == "running")

    played(scenario, scheduler)


def test_of_two_that_replace_a_model_at_once_the_first_serves_nothing():
    scheduler = Scheduler(A)

    async def scenario(registry):
        await registry.serve(**order())
        scheduler.ending = asyncio.get_running_loop().create_future()
        first = asyncio.ensure_future(registry.serve(**order()))
        await asyncio.sleep(0.01)  # it waits for the end of what was served
        second = asyncio.ensure_future(registry.serve(**order()))
        await asyncio.sleep(0.01)
        scheduler.ending.set_result(None)
        return await asyncio.gather(first, second)

    first, second = played(scenario, scheduler)
    assert first == {"error": "it was stopped or replaced meanwhile"}
    assert len(second["endpoints"]) == 1
    assert len(scheduler.asked) == 2


def test_what_is_stopped_while_a_lost_part_is_being_ended_is_ended_all_the_same():
    scheduler = Scheduler(A)

    async def scenario(registry):
        await registry.serve(**order())
        scheduler.ending = asyncio.get_running_loop().create_future()
        registry._entries["model"].lost["model/0"].set()
        await settled(lambda: only(registry).state == "waiting")
        stopping = asyncio.ensure_future(registry.stop("model"))
        await asyncio.sleep(0.01)
        assert not stopping.done()
        scheduler.ending.set_result(None)
        await stopping

    played(scenario, scheduler)
    assert (A, "model/0") in scheduler.ended


@pytest.mark.parametrize("turns", range(16))
def test_a_stop_is_not_missed_by_a_part_that_has_its_answer_at_that_moment(turns):
    """What is refused at its first start is stopped while its worker is asked to end it: whichever comes first."""
    scheduler = Scheduler(A)

    async def scenario(registry):
        answer, scheduler.ending = (asyncio.get_running_loop().create_future() for _ in range(2))
        scheduler.answers = [answer, *[{"error": "no"}] * 1000]
        serving = asyncio.ensure_future(registry.serve(**order()))
        await settled(lambda: scheduler.asked)
        tasks = registry._entries["model"].tasks
        answer.set_result({"error": "the weights are missing"})
        for _ in range(turns):
            await asyncio.sleep(0)
        scheduler.ending.set_result(None)
        return await serving, all(task.done() for task in tasks)

    assert played(scenario, scheduler) == ({"error": "the weights are missing"}, True)
    assert len(scheduler.asked) == 1


def test_a_lost_replica_leaves_the_idle_worker_to_its_primary(monkeypatch):
    monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 3600.0)
    scheduler = Scheduler(A, B)

    async def scenario(registry):
        await registry.serve(**order(replicas=2))
        replica, primary = only(registry, 1).worker, only(registry).worker
        for worker in (replica, primary):  # the replica is lost first
            del scheduler.workers[worker]
            registry.remove_worker(scheduler, worker)
        await settled(lambda: only(registry).state == only(registry, 1).state == "waiting")
        scheduler.workers[C] = scheduler.state(C, "running")
        await registry.ready(C)
        await settled(lambda: only(registry).state == "running")
        return only(registry).worker, scheduler.asked[-1]

    assert played(scenario, scheduler) == (C, (C, "model/0"))


def test_a_replica_that_starts_when_its_primary_is_lost_gives_its_worker_back(monkeypatch):
    monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 3600.0)
    scheduler = Scheduler(A, B)

    async def scenario(registry):
        scheduler.answers = ["1" * 24, asyncio.get_running_loop().create_future()]  # the replica never answers
        serving = asyncio.ensure_future(registry.serve(**order(replicas=2)))
        await settled(lambda: len(scheduler.asked) == 2)
        primary, idle = only(registry).worker, only(registry, 1).worker
        del scheduler.workers[primary]
        registry.remove_worker(scheduler, primary)
        await settled(lambda: only(registry).restarts == 1)
        assert only(registry).worker == idle
        serving.cancel()

    played(scenario, scheduler)


def test_a_replica_of_one_model_leaves_the_idle_worker_to_the_primary_of_another(monkeypatch):
    monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 3600.0)
    scheduler = Scheduler(A, B, C)

    async def scenario(registry):
        await registry.serve(**order(replicas=2, workers=(A, B, D)))
        await registry.serve(**order(name="other", workers=(C, D)))
        for worker in (only(registry, 1).worker, C):
            del scheduler.workers[worker]
            registry.remove_worker(scheduler, worker)
        scheduler.workers[D] = scheduler.state(D, "running")
        await registry.ready(D)
        await settled(lambda: registry._entries["other"].parts[0].restarts == 1)
        found = registry._entries["other"].parts[0].worker
        await registry.stop("other")
        return found

    assert played(scenario, scheduler) == D


def of(owner, user="ana@here (process 1)", **given):
    return order(owner=owner, owner_name=user, id=f"order of {owner}", **given)


def test_a_name_is_taken_over_by_another_client_only_where_it_says_so():
    scheduler = Scheduler(A)
    scheduler.clients = {"a": None, "b": None}

    async def scenario(registry):
        first = await registry.serve(**of("a"))
        refused = await registry.serve(**of("b", "bob@there (process 2)"))
        again = await registry.serve(**of("a"))
        taken = await registry.serve(**of("b", "bob@there (process 2)", replace=True))
        return first, refused, again, taken

    first, refused, again, taken = played(scenario, scheduler)
    assert refused["error"].startswith("the name belongs to ana@here (process 1)")
    assert first["model_id"] == again["model_id"] != taken["model_id"]
    assert taken["owner"] == "bob@there (process 2)"


@pytest.mark.parametrize(
    ("user", "is_served"), [("ana@here (process 7)", True), ("ana@elsewhere (process 7)", False), ("bob@here", False)]
)
def test_a_model_whose_client_has_left_is_replaced_by_its_user(user, is_served):
    scheduler = Scheduler(A)

    async def scenario(registry):
        scheduler.clients = {"a": None, "b": None}
        first = await registry.serve(**of("a"))
        del scheduler.clients["a"]
        return first, await registry.serve(**of("b", user))

    first, second = played(scenario, scheduler)
    assert ("error" not in second) == is_served
    assert first["model_id"] != second.get("model_id")


def test_what_an_order_waits_for_is_told_and_it_can_be_cancelled():
    scheduler = Scheduler(A)
    scheduler.workers[A].resources = {"GPU": 1}

    async def scenario(registry):
        await registry.serve(**order(name="other", resources={"GPU": 1}))
        serving = asyncio.ensure_future(registry.serve(**of("a", resources={"GPU": 1})))
        await settled(lambda: "model" in registry._entries)
        waits = await registry.waiting("model", "order of a")
        assert not await registry.cancel("model", "another order")
        assert await registry.cancel("model", "order of a")
        answer = await serving
        await registry.stop("other")
        return waits, answer, len(scheduler.asked)

    waits, answer, asked = played(scenario, scheduler)
    assert waits == f"the resources {{'GPU': 1}}, which are in use on worker {A} by other"
    assert (answer, asked) == ({"error": "it was stopped or replaced meanwhile"}, 1)


def test_an_order_that_waits_for_the_first_worker_can_be_cancelled():
    scheduler = Scheduler(A, status="init")

    async def scenario(registry):
        serving = asyncio.ensure_future(registry.serve(**of("a")))
        await settled(lambda: registry._orders)
        waits = await registry.waiting("model", "order of a")
        assert await registry.cancel("model", "order of a")
        return waits, await serving

    assert played(scenario, scheduler) == (
        "a worker that can serve: workers are starting, or none has joined yet",
        {"error": "it was cancelled"},
    )


def test_what_a_client_that_ended_was_waiting_for_is_not_served_later():
    scheduler = Scheduler(A, B)

    async def scenario(registry):
        scheduler.answers = [asyncio.get_running_loop().create_future()]  # a factory that does not return
        serving = asyncio.ensure_future(registry.serve(**of("a")))
        await settled(lambda: scheduler.asked)
        waits = await registry.waiting("model", "order of a")
        await registry.serve(**of("a", name="served"))
        registry.remove_client(scheduler, "b")
        registry.remove_client(scheduler, "a")
        answer, left = await serving, set(registry._entries)
        await registry.stop("served")
        return waits, answer, left

    waits, answer, left = played(scenario, scheduler)
    assert waits == f"its factory, which runs on worker {A}"
    assert (answer, left) == ({"error": "it was stopped or replaced meanwhile"}, {"served"})


def test_workers_that_serve_are_not_idle_and_parts_that_wait_ask_for_workers():
    scheduler = Scheduler(A, B)
    for address, state in scheduler.workers.items():
        state.address = address

    async def scenario(registry):
        assert scheduler.idle_timeout == 300.0
        await registry.serve(**order(workers=(A,)))
        spare = registry.valid_workers_downscaling(scheduler, list(scheduler.workers.values()))
        targets = [await scheduler.handlers["adaptive_target"](target_duration="5s")]
        scheduler.workers.pop(A)
        registry.remove_worker(scheduler, A)
        await settled(lambda: only(registry).state == "waiting")
        targets.append(await registry.adaptive_target())
        kept = scheduler.idle_timeout
        await registry.stop("model")
        return [state.address for state in spare], targets, await registry.adaptive_target(), kept

    assert played(scenario, scheduler) == ([B], [1, 1], 0, None)
    assert scheduler.idle_timeout == 300.0


def test_a_replica_moves_away_from_its_primary_when_a_worker_comes():
    scheduler = Scheduler(A)

    async def scenario(registry):
        answer = await registry.serve(**order(replicas=3))
        lines = (await registry.logs("model"))["model/1"]
        for worker in (B, C):
            scheduler.workers[worker] = scheduler.state(worker, "running")
            await registry.ready(worker)
        parts = registry._entries["model"].parts
        await settled(lambda: {part.worker for part in parts if part.state == "running"} == {A, B, C})
        return answer["shared"], lines, parts[0].restarts, (await registry.resolve("model"))["shared"]

    shared, lines, restarts, after = played(scenario, scheduler)
    assert (shared, restarts, after) == (2, 0, 0)
    assert any("shares worker" in line for line in lines)


def test_workers_that_end_with_their_scheduler_are_not_called_lost(caplog):
    scheduler = Scheduler(A)

    async def scenario(registry):
        await registry.serve(**order())
        scheduler.status.name = "closing"
        registry.remove_worker(scheduler, A)
        await asyncio.sleep(0.01)

    played(scenario, scheduler)
    assert not caplog.records


def test_what_a_model_wrote_that_could_not_be_served_is_in_its_logs():
    scheduler = Scheduler(A)

    async def scenario(registry):
        scheduler.answers = [{"error": "the weights are missing"}]
        assert await registry.serve(**order()) == {"error": "the weights are missing"}
        lines = (await registry.logs("model"))["model/0"]
        await registry.serve(**order())
        return lines, await registry.stop("model"), (await registry.logs("model"))

    lines, _, after = played(scenario, scheduler)
    assert lines[0].endswith("the weights are missing")
    assert lines[1:] == ["model/0 says it"]
    assert after == {"missing": True, "known": []}


def test_a_model_waits_for_the_first_worker_of_an_adaptive_cluster(monkeypatch):
    monkeypatch.setattr("labnet.cluster.registry._BEGIN_SECONDS", 0.0)
    scheduler = Scheduler()

    async def scenario(registry):
        assert "has no worker" in (await registry.serve(**of("a")))["error"]
        assert await registry.adaptive_target() == 0
        serving = asyncio.ensure_future(registry.serve(**of("a", replicas=2)))
        await settled(lambda: registry._orders)
        assert await registry.adaptive_target() == 2
        scheduler.workers[A] = scheduler.state(A, "running")
        await registry.ready(A)
        return await serving

    assert len(played(scenario, scheduler)["endpoints"]) == 2


def test_what_workers_serve_already_is_taken_over_and_only_what_is_missing_is_started(monkeypatch):
    scheduler = Scheduler(A, B)
    given = of("a", replicas=2, workers=[])
    found = [
        {"order": given, "model_id": "of before", "number": number, "port": 50 + number, "token": "t", "tls": False}
        for number in range(2)
    ]

    async def scenario(registry):
        monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 3600.0)
        for worker, part in ((B, found[1]), (A, found[0]), (A, found[0])):  # a worker may tell twice
            await registry.ready(worker, [{**part, "incarnation": "1" * 24}])
        await settled(lambda: len(registry._found(registry._entries["model"])["endpoints"]) == 2)
        answer = await registry.resolve("model")
        assert (scheduler.asked, scheduler.ended) == ([], [])
        stranger = {**found[0], "order": {**given, "id": "another order"}, "incarnation": "2" * 24}
        await registry.ready(B, [stranger])
        ended = list(scheduler.ended)
        scheduler.workers.pop(A)
        registry.remove_worker(scheduler, A)
        monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 0.0)
        await settled(lambda: only(registry).worker == B and only(registry).state == "running")
        return answer, ended

    answer, ended = played(scenario, scheduler)
    assert answer["model_id"] == "of before"
    assert sorted(endpoint["url"] for endpoint in answer["endpoints"]) == ["http://127.0.0.1:50", "http://127.0.0.1:51"]
    assert ended == [(B, "model/0")]


def test_a_part_that_does_not_come_back_with_its_worker_is_started_on_another(monkeypatch):
    monkeypatch.setattr("labnet.cluster.registry.PATIENCE_SECONDS", 0.05)
    scheduler = Scheduler(A, B)
    given = of("a", replicas=2, workers=[])
    part = {"order": given, "model_id": "m", "number": 1, "port": 51, "token": "t", "tls": False}

    async def scenario(registry):
        await registry.ready(A, [{**part, "incarnation": "1" * 24}])
        await settled(lambda: only(registry).state == "running")
        return only(registry).worker, scheduler.asked[0]

    assert played(scenario, scheduler) == (B, (B, "model/0"))
