"""Servers with a store: killed at any point, they come back with every update that was answered, once."""

import asyncio
import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GraphExpired, ServeError, StoreError
from labnet.network import discovery
from labnet.network.model.served import ServedModel
from labnet.network.server import port as ports
from labnet.store import Store, folder, records
from labnet.store.offline import contents, repair
from tests.helpers.child_processes import exit_code, forked, forked_without_hooks
from tests.helpers.constants import ROOT, SECONDS
from tests.helpers.network.client_calls import hurried, run
from tests.helpers.network.fork_server import fork_server
from tests.helpers.network.raw_http import http, native
from tests.helpers.network.store_server import batch, make_model, make_optimizer
from tests.helpers.ports import free_port

LEVELS = ["group", "every"]


class Program:
    """A server with a Python of its own, used like one that was forked."""

    def __init__(self, arguments):
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.helpers.network.store_server", *map(str, arguments)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self.pid = self._process.pid
        self.said = json.loads(self._process.stdout.readline())

    def signal(self, number):
        self._process.send_signal(number)

    def end(self):
        with self._process as process:
            return process.communicate(timeout=SECONDS)[0]

    def wait(self):
        self._process.communicate(timeout=SECONDS)


def start(folder, port, durability="group", death=0, inner="", *, fresh=False, **environment):
    """Start a server with a store; returns the process, and what it said, None if it died before that."""
    arguments = (folder, port, durability, death, inner)
    process = Program(arguments) if fresh else fork_server().start(*arguments, **environment)
    return process, process.said


def end(process, number=None):
    """Stop a server in an orderly way, or by a signal; returns the last line that it printed."""
    if number is None:
        return process.end().strip().rpartition("\n")[2]
    process.signal(number)
    process.wait()
    return ""


async def step(model, number):
    x, y = batch(number)
    await ln.loss.mse(await model(x), y).backward()


def expected(steps):
    """Return the weights after so many steps without any fault."""
    model, optimizer = make_model(), make_optimizer()
    for number in range(steps):
        x, y = batch(number)
        optimizer(ln.loss.mse(model(x), y).backward())
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}


def same(found, wanted):
    assert found.keys() == wanted.keys()
    return all(np.array_equal(np.asarray(found[name]), wanted[name]) for name in wanted)


def reopened(folder):
    """Return the weights and the version that a store has, as whoever opens it gets them."""
    model = make_model()
    store = Store(folder, model, make_optimizer())
    store.close()
    return {name: tensor.numpy() for name, tensor in model.state_dict().items()}, store


# Crashes


@pytest.mark.parametrize("durability", LEVELS)
def test_a_server_that_is_killed_again_and_again_loses_and_doubles_nothing(tmp_path, durability):
    steps, kills, port = 120, 6, free_port()
    process, _ = start(tmp_path, port, durability)
    chance = random.Random(7)
    deaths = sorted(chance.sample(range(5, steps - 5), kills))
    restarted = []

    def restart():
        nonlocal process
        threading.Event().wait(chance.uniform(0, 0.01))
        end(process, signal.SIGKILL)
        process, said = start(tmp_path, port, durability)
        restarted.append(said["version"])

    async def train():
        model = ln.network.remote_model(f"localhost:{port}", backoff=ln.network.Backoff(first=0.02, longest=0.1))
        restarting = None
        for number in range(steps):
            if number in deaths:
                if restarting is not None:
                    await asyncio.to_thread(restarting.join)
                restarting = threading.Thread(target=restart)
                restarting.start()
            await step(model, number)
        await asyncio.to_thread(restarting.join)

    try:
        run(train())
        assert len(restarted) == kills
        model = ln.network.remote_model(f"localhost:{port}", blocking=True)
        assert model.statistics()["server"]["version"] == steps
        assert same(model.state_dict(), expected(steps))
    finally:
        end(process)
    weights, store = reopened(tmp_path)
    assert store.version == steps
    assert same(weights, expected(steps))


def deaths(folder, steps):
    """Return how many writes to the disk so many steps take."""
    process, said = start(folder, 0, "every")
    model = ln.network.remote_model(said["url"], token=said["token"])

    async def train():
        for number in range(steps):
            await step(model, number)

    run(train())
    return int(end(process))


class Dead(Exception):
    """The server has died meanwhile."""


async def until_death(process, doing):
    """Do something as long as a process lives."""
    task = asyncio.ensure_future(doing)
    while not (await asyncio.wait([task], timeout=0.02))[0]:
        if not process.is_alive:
            task.cancel()
            raise Dead
    await task


def test_a_server_that_dies_at_any_write_to_the_disk_comes_back_with_what_it_had_answered(tmp_path):
    steps = 4
    count = deaths(tmp_path / "none", steps)
    assert count > 20
    for death in range(1, count + 1):
        folder, port, answered = tmp_path / str(death), free_port(), 0
        process, said = start(folder, port, "every", death)
        if said is not None:
            model = ln.network.remote_model(said["url"], token=said["token"])

            async def train(process=process, model=model):
                nonlocal answered
                for number in range(steps):
                    await until_death(process, step(model, number))
                    answered += 1

            with contextlib.suppress(Dead):
                run(train())
        end(process)
        weights, store = reopened(folder)
        assert answered <= store.version <= answered + 1, death
        assert same(weights, expected(store.version)), death
        shutil.rmtree(folder)


def test_a_client_gets_its_stored_reply_across_a_crash(tmp_path):
    process, said = start(tmp_path, 0, fresh=True)
    there = _There(said)
    forward = http(there, "POST", "/forward", native({"tensor": np.ones((1, 3), "float32")}), **NATIVE)
    call = forward.headers["labnet-call"]
    gradient = native({"tensor": np.ones((1, 2), "float32")})
    first = http(there, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key='"ana:2"', **NATIVE)
    assert first.status == 200
    end(process, signal.SIGKILL)
    process, said = start(tmp_path, said["port"], fresh=True)
    there = _There(said)
    again = http(there, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key='"ana:2"', **NATIVE)
    assert (again.status, again.body, again.headers["labnet-replayed"]) == (200, first.body, "1")
    assert again.headers["labnet-version"] == first.headers["labnet-version"] == "1"
    other = http(there, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key='"ana:3"', **NATIVE)
    assert (other.status, other.json()["applied"]) == (410, "yes")
    unknown = http(there, "POST", "/optimize", gradient, Labnet_Call="f" * 32, Idempotency_Key='"ana:4"', **NATIVE)
    assert (unknown.status, unknown.json()["applied"]) == (410, "unknown")
    of_this_store = call[:-16] + "f" * 16
    never = http(there, "POST", "/optimize", gradient, Labnet_Call=of_this_store, Idempotency_Key='"ana:5"', **NATIVE)
    assert (never.status, never.json()["applied"]) == (410, "no")
    end(process)


def test_a_client_of_a_store_that_lost_its_journal_is_told_that_nobody_knows(tmp_path):
    process, said = start(tmp_path, free_port(), fresh=True)
    there = _There(said)
    forward = http(there, "POST", "/forward", native({"tensor": np.ones((1, 3), "float32")}), **NATIVE)
    gradient, call = native({"tensor": np.ones((1, 2), "float32")}), forward.headers["labnet-call"]
    assert http(there, "POST", "/optimize", gradient, Labnet_Call=call, **NATIVE).status == 200
    end(process, signal.SIGKILL)
    (journal,) = tmp_path.glob("journal-*")
    journal.unlink()
    with pytest.raises(StoreError, match=f"{journal} is missing.*'labnet store repair {tmp_path}'"):
        ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path)
    repair(tmp_path)
    process, said = start(tmp_path, said["port"], fresh=True)
    late = http(_There(said), "POST", "/optimize", gradient, Labnet_Call=call, **NATIVE)
    assert (late.status, late.json()["applied"]) == (410, "unknown")
    end(process)


NATIVE = {"Content_Type": "application/x-labnet"}


class _There:
    """A server of another process, as far as `http` needs it."""

    def __init__(self, said):
        self.port, self.token = said["port"], said["token"]


def test_without_the_store_s_promise_a_crash_is_told_to_the_client(tmp_path):
    """With "memory" the updates since the last checkpoint are gone, and nobody takes that for their not having been."""
    process, said = start(tmp_path, free_port(), "memory")
    model = ln.network.remote_model(said["url"], blocking=True)
    x, y = batch(0)
    ln.loss.mse(model(x), y).backward()
    loss = ln.loss.mse(model(x), y)
    end(process, signal.SIGKILL)
    process, said = start(tmp_path, said["port"], "memory")
    assert said["version"] == 0
    with pytest.raises(GraphExpired) as caught:
        loss.backward()
    assert caught.value.applied == "unknown"
    end(process)


@pytest.mark.parametrize("kind", ["", "blocking "])
def test_a_server_that_dies_before_its_own_part_is_written_applies_it_once_it_is_back(tmp_path, kind):
    """A retry must not begin anew: its forward would see weights of the other server that have changed."""
    with ln.network.serve_model(nn.Linear(3, 3), ln.optim.SGD(lr=0.1), port=0) as inner:
        url = kind + inner.url
        process, said = start(tmp_path, free_port(), inner=url, SERVER_DIES="1")
        model = ln.network.remote_model(said["url"], blocking=True, timeout=20.0)
        y = model(ln.ones((1, 3)))
        again = []

        def restart():
            process.wait()  # it kills itself before its own part is written down
            again.append(start(tmp_path, said["port"], inner=url)[0])

        restarting = threading.Thread(target=restart)
        restarting.start()
        y.sum().backward()
        restarting.join(SECONDS)
        assert inner.statistics()["server"]["version"] == model.statistics()["server"]["version"] == 1
        end(process)
        end(again[0])


# Orderly ends


@pytest.mark.parametrize("durability", ["memory", *LEVELS])
def test_a_model_goes_on_where_it_was_stopped(tmp_path, durability):
    for begin in range(0, 30, 10):
        with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path, durability=durability) as s:
            assert s.statistics()["server"]["version"] == begin
            model = ln.network.remote_model(s.url)

            async def train(model=model, begin=begin):
                for number in range(begin, begin + 10):
                    await step(model, number)

            run(train())
    weights, store = reopened(tmp_path)
    assert (store.version, store.replayed) == (30, 0)
    assert same(weights, expected(30))


def test_a_backward_whose_forward_was_before_a_restart_is_applied_once(tmp_path):
    port = free_port()
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path):
        model = ln.network.remote_model(f"localhost:{port}", blocking=True)
        x, y = batch(0)
        loss = ln.loss.mse(model(x), y)
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path) as server:
        loss.backward()
        assert server.statistics()["server"]["version"] == 1
        assert same(model.state_dict(), expected(1))


def test_a_cell_that_is_run_again_goes_on_with_its_store(tmp_path):
    port, epoch = free_port(), None
    for begin in range(3):
        server = ln.network.serve_model(make_model(), make_optimizer(), port=port, name="kept", store=tmp_path)
        assert server.statistics()["server"]["version"] == begin
        assert epoch in (server._port.epoch, None)  # the same incarnation: it knows what was answered
        epoch = server._port.epoch
        run(step(ln.network.remote_model(server.url), begin))
    assert same(ln.network.remote_model(server.url, blocking=True).state_dict(), expected(3))
    with pytest.raises(StoreError, match="another model"):
        ln.network.serve_model(nn.Linear(3, 2), make_optimizer(), port=port, name="kept", store=tmp_path)
    run(step(ln.network.remote_model(server.url), 3))  # what was there serves on, with its store
    server.stop()
    assert reopened(tmp_path)[1].version == 4


def test_a_model_without_a_store_in_its_place_gives_the_store_free(tmp_path):
    port = free_port()
    ln.network.serve_model(make_model(), make_optimizer(), port=port, name="kept", store=tmp_path)
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, name="kept"):
        reopened(tmp_path)


@pytest.mark.parametrize("fault", ["route", "token file", "checkpoint"])
def test_a_model_that_cannot_take_the_place_of_another_leaves_it_training(tmp_path, monkeypatch, fault):
    place = {"port": free_port(), "name": "kept", "store": tmp_path}
    server = ln.network.serve_model(make_model(), make_optimizer(), **place)
    model = ln.network.remote_model(server.url)
    run(step(model, 0))

    def fail(*arguments):
        raise OSError(28, "No space left on device")

    routes = {"forward": lambda x: x} if fault == "route" else {}
    with monkeypatch.context() as patched:
        if fault == "token file":
            patched.setattr(discovery, "publish", fail)
        if fault == "checkpoint":
            patched.setattr(folder, "write_pair", fail)
        with pytest.raises((ServeError, OSError)):
            ln.network.serve_model(make_model(), make_optimizer(), routes=routes, **place)
    run(step(model, 1))
    server = ln.network.serve_model(make_model(), make_optimizer(), **place)
    run(step(model, 2))
    server.stop()
    weights, store = reopened(tmp_path)
    assert store.version == 3
    assert same(weights, expected(3))


def test_an_orderly_end_waits_for_the_checkpoint_however_long_that_takes(tmp_path, monkeypatch):
    monkeypatch.setattr(ports, "DRAIN_SECONDS", 0.05)
    real = folder.write_pair

    def slowly(*arguments):
        threading.Event().wait(0.5)
        return real(*arguments)

    server = ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path, durability="memory")
    run(step(ln.network.remote_model(server.url), 0))
    monkeypatch.setattr(folder, "write_pair", slowly)
    server.stop()
    assert contents(tmp_path).version == 1


def test_an_orderly_end_without_a_checkpoint_says_what_is_lost(tmp_path, monkeypatch, caplog):
    def fail(*arguments):
        raise MemoryError

    for durability, said in (("memory", "1 updates since its last checkpoint are lost"), ("group", "has the rest")):
        place = {"port": 0, "store": tmp_path / durability, "durability": durability}
        server = ln.network.serve_model(make_model(), make_optimizer(), **place)
        run(step(ln.network.remote_model(server.url), 0))
        with monkeypatch.context() as patched:
            patched.setattr(folder, "write_pair", fail)
            server.stop()
        assert said in caplog.text


def test_every_route_of_a_model_is_known_before_it_is_made():
    with ln.network.serve_model(make_model(), port=0) as server:
        assert set(server._model.routes()) == set(ServedModel.ROUTES)


def test_after_more_updates_than_are_remembered_a_backward_still_goes_on_across_a_restart(tmp_path, monkeypatch):
    monkeypatch.setattr(records, "_KEYS", 3)
    port = free_port()
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path) as server:
        there = server
        old = http(there, "POST", "/forward", native({"tensor": np.ones((1, 3), "float32")}), **NATIVE)
        model = ln.network.remote_model(f"localhost:{port}", blocking=True)
        for number in range(6):
            x, y = batch(number)
            ln.loss.mse(model(x), y).backward()
        x, y = batch(6)
        loss = ln.loss.mse(model(x), y)
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path) as server:
        loss.backward()
        assert same(model.state_dict(), expected(7))
        gradient, call = native({"tensor": np.ones((1, 2), "float32")}), old.headers["labnet-call"]
        late = http(server, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key='"old:2"', **NATIVE)
        assert (late.status, late.json()["applied"]) == (410, "unknown")  # it may be one that was forgotten


def test_summed_updates_are_kept_with_everybody_s_replies(tmp_path):
    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path, accumulate=2) as server:
        models = [ln.network.remote_model(server.url, client=name) for name in ("ana", "bob")]

        async def train():
            for number in range(5):
                await ln.network.all(*[step(model, number) for model in models])

        run(train())
        weights = {name: np.asarray(t) for name, t in run(models[0].state_dict()).items()}
    found, store = reopened(tmp_path)
    assert (store.version, len(store.outcomes)) == (5, 10)
    assert same(found, weights)


def test_running_means_are_kept_with_the_updates(tmp_path):
    class Counting(nn.Module):
        """Changes a buffer in every forward, as batch normalisation does."""

        def __init__(self):
            super().__init__()
            self.weight = ln.ones(3, requires_grad=True)
            self.mean = ln.zeros(3)

        def forward(self, x):
            self.mean.assign(self.mean * 0.9 + x.detach().mean(axis=0) * 0.1)
            return x * self.weight + self.mean

    make = Counting

    model, optimizer = make(), make_optimizer()
    store = Store(tmp_path, model, optimizer)
    for number in range(3):
        gradients = (
            model(ln.asarray(np.random.default_rng(number).normal(size=(8, 3)).astype("float32"))).sum().backward()
        )
        store.append(gradients, [])
        optimizer(gradients)
        store.applied([])
    wanted = {name: tensor.numpy() for name, tensor in model.state_dict().items()}
    store.abandon()
    again = make()
    found = Store(tmp_path, again, make_optimizer())
    assert found.replayed == 3
    assert same({name: tensor.numpy() for name, tensor in again.state_dict().items()}, wanted)
    found.close()


# Faults of the disk


def test_an_update_that_cannot_be_written_changes_nothing_and_is_tried_again(tmp_path, monkeypatch):
    from labnet.store import journal

    real, left = os.fsync, [1 << 30]

    def fsync(file):
        if left[0]:
            left[0] -= 1
            raise OSError(28, "No space left on device")
        real(file)

    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path, durability="every") as server:
        model = ln.network.remote_model(server.url, backoff=ln.network.Backoff(first=0.01, longest=0.02))
        run(step(model, 0))
        monkeypatch.setattr(journal.os, "fsync", fsync)
        with (
            hurried(model, 1.0),
            pytest.raises(ln.errors.StorageUnavailable, match=r"No space left on device.*no weight has changed"),
        ):
            run(step(model, 1))
        assert server.statistics()["server"]["version"] == 1
        left[0] = 3
        run(step(model, 1))  # busy for a while, and then it succeeds
        monkeypatch.undo()
        run(step(model, 2))
        assert same(run(model.state_dict()), expected(3))
    assert same(reopened(tmp_path)[0], expected(3))


def test_a_failed_update_that_cannot_be_taken_back_is_told_to_be_unknown(tmp_path, monkeypatch):
    """It is in the journal: if the process died now, the next one would carry it out."""
    from labnet.store import journal

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    port = free_port()
    server = ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path, durability="every")
    model = ln.network.remote_model(server.url, blocking=True)
    x, y = batch(0)
    loss = ln.loss.mse(model(x), y)
    with hurried(model, 1.0), monkeypatch.context() as patched:
        patched.setattr(journal.os, "fsync", fail)
        patched.setattr(journal.os, "ftruncate", fail)
        with pytest.raises(ln.errors.StorageUnavailable, match="if the server were started anew") as caught:
            loss.backward()
        assert caught.value.applied == "unknown"
        assert server.statistics()["server"]["version"] == 0
        server._model.store.abandon()
    server.stop()
    with ln.network.serve_model(make_model(), make_optimizer(), port=port, store=tmp_path) as server:
        assert server.statistics()["server"]["version"] == 1
        loss.backward()  # the same backward again: it gets the reply, and is not made twice
        assert server.statistics()["server"]["version"] == 1
        assert same(model.state_dict(), expected(1))


def test_an_update_whose_norms_do_not_fit_into_memory_is_made_once(tmp_path, monkeypatch):
    def fail(*arguments):
        raise MemoryError

    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path) as server:
        monkeypatch.setattr(server._model.updates.norms, "measure", fail)
        run(step(ln.network.remote_model(server.url), 0))
    assert reopened(tmp_path)[1].version == 1


def test_an_optimizer_that_fails_leaves_the_update_out_of_the_store(tmp_path):
    class Failing(ln.optim.SGD):
        fail = False

        def __call__(self, gradients):
            if self.fail:
                raise RuntimeError("not now")
            super().__call__(gradients)

    optimizer = Failing(lr=0.1)
    with ln.network.serve_model(nn.Linear(2, 1), optimizer, port=0, store=tmp_path) as server:
        model = ln.network.remote_model(server.url, blocking=True)
        for fail in (False, True, False):
            optimizer.fail = fail
            with pytest.raises(ln.errors.RemoteFailure, match="not now") if fail else contextlib.nullcontext():
                model(ln.ones((1, 2))).sum().backward()
        wanted = {name: np.asarray(tensor) for name, tensor in model.state_dict().items()}
    found = nn.Linear(2, 1)
    store = Store(tmp_path, found, Failing(lr=0.1))
    assert store.version == 2
    assert same({name: tensor.numpy() for name, tensor in found.state_dict().items()}, wanted)
    store.close()


# Stores that cannot be opened


def test_a_store_is_for_one_process_at_a_time(tmp_path):
    process, _ = start(tmp_path, 0)
    with pytest.raises(StoreError, match=f"in use by process {process.pid}"):
        ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path)
    end(process)
    reopened(tmp_path)


@pytest.mark.parametrize(
    ("model", "optimizer", "message"),
    [
        (lambda: nn.Linear(3, 2), make_optimizer, "of another model: '0.bias'"),
        (make_model, lambda: ln.optim.SGD(lr=0.1), "trained with Adam, not with SGD"),
        (make_model, lambda: None, "trained with Adam, not with no optimizer"),
    ],
)
def test_a_store_of_something_else_is_left_alone(tmp_path, model, optimizer, message):
    reopened(tmp_path)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    with pytest.raises(StoreError, match=message):
        ln.network.serve_model(model(), optimizer(), port=0, store=tmp_path)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name != "lock"} == {
        name: content for name, content in before.items() if name != "lock"
    }


@pytest.mark.parametrize("which", ["checkpoint", "journal"])
def test_a_damaged_store_says_which_file_and_is_left_alone(tmp_path, which):
    model, optimizer = make_model(), make_optimizer()
    store = Store(tmp_path, model, optimizer)
    for number in range(3):
        x, y = batch(number)
        gradients = ln.loss.mse(model(x), y).backward()
        store.append(gradients, [])
        optimizer(gradients)
    store.abandon()
    (path,) = [path for path in tmp_path.iterdir() if path.name.startswith(which)]
    content = bytearray(path.read_bytes())
    content[30] ^= 255
    path.write_bytes(content)
    fresh = make_model()
    with pytest.raises(StoreError, match=f"{which}-.*damaged"):
        ln.network.serve_model(fresh, make_optimizer(), port=0, store=tmp_path)
    assert path.read_bytes() == bytes(content)
    assert same({name: tensor.numpy() for name, tensor in fresh.state_dict().items()}, expected(0))


@pytest.mark.parametrize(
    ("model", "options", "message"),
    [
        (lambda: lambda x: x, {}, "needs a Module"),
        (make_model, {"durability": "always"}, "durability must be one of 'memory', 'group', 'every', got 'always'"),
        (make_model, {"optimizer": lambda gradients: None}, "needs an optimizer of labnet.optim"),
    ],
)
def test_what_cannot_be_stored_is_refused(tmp_path, model, options, message):
    with pytest.raises(ServeError, match=message):
        ln.network.serve_model(model(), **options, port=0, store=tmp_path / "store")
    assert not (tmp_path / "store").exists()


@pytest.mark.parametrize("fork", [forked, forked_without_hooks])
def test_a_forked_child_does_not_hold_the_store(tmp_path, fork):
    server = ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path)
    with fork():
        server.stop()
        reopened(tmp_path)
        ln.network.serve_model(make_model(), make_optimizer(), port=server.port).stop()


def test_a_forked_child_leaves_the_store_to_its_parent(tmp_path):
    server = ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path)
    with forked(server.stop) as child:
        assert exit_code(child) == 0
    with pytest.raises(StoreError, match="in use by this process"):
        reopened(tmp_path)
    server.stop()
    reopened(tmp_path)
