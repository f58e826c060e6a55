"""Servers with a store that end in an orderly way, and go on where they were."""

import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import ServeError, StoreError
from labnet.network import discovery
from labnet.network.model.served import ServedModel
from labnet.network.server import port as ports
from labnet.store import Store, folder, records
from labnet.store.offline import contents
from tests.helpers.network.client_calls import run
from tests.helpers.network.raw_http import http, native
from tests.helpers.network.store_process import LEVELS, NATIVE, expected, reopened, same, step
from tests.helpers.network.store_server import batch, make_model, make_optimizer
from tests.helpers.ports import free_port


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
