"""Servers with a store: killed at any point, they come back with every update that was answered, once."""

import asyncio
import contextlib
import random
import shutil
import signal
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GraphExpired, StoreError
from labnet.store.offline import repair
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import run
from tests.helpers.network.raw_http import http, native
from tests.helpers.network.store_process import LEVELS, NATIVE, end, expected, reopened, same, start, step
from tests.helpers.network.store_server import batch, make_model, make_optimizer
from tests.helpers.ports import free_port


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
    with pytest.warns(RuntimeWarning, match="server restarted"), pytest.raises(GraphExpired) as caught:
        loss.backward()
    assert caught.value.applied == "unknown"
    end(process)


@pytest.mark.parametrize("kind", ["", "blocking "])
def test_a_server_that_dies_before_its_own_part_is_written_applies_it_once_it_is_back(tmp_path, kind):
    """A retry must not begin anew: its forward would see weights of the other server that have changed."""
    with ln.network.serve_model(nn.Linear(3, 3), ln.optim.SGD(lr=0.1), port=0) as inner:
        url = kind + inner.url
        process, said = start(tmp_path, free_port(), inner=url, SERVER_DIES="1")
        model = ln.network.remote_model(said["url"], blocking=True, timeout=2 * SECONDS)
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
