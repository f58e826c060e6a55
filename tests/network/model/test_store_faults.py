"""Servers whose disk or optimizer fails, and stores that cannot be opened."""

import contextlib
import os

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import ServeError, StoreError
from labnet.store import Store
from tests.helpers.child_processes import exit_code, forked, forked_without_hooks
from tests.helpers.network.client_calls import hurried, run
from tests.helpers.network.store_process import end, expected, reopened, same, start, step
from tests.helpers.network.store_server import batch, make_model, make_optimizer
from tests.helpers.ports import free_port

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
            hurried(model, 4.0),
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
    with hurried(model, 4.0), monkeypatch.context() as patched:
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


def test_a_gradient_without_its_graph_is_refused_once_a_failed_update_is_out_of_the_journal(tmp_path, monkeypatch):
    from labnet.store import journal

    def fail(*arguments):
        raise OSError(5, "Input/output error")

    x, y = batch(0)
    with ln.network.serve_model(make_model(), make_optimizer(), port=0, store=tmp_path, durability="every") as server:
        model, other = (ln.network.remote_model(server.url, blocking=True) for _ in range(2))
        old, new = ln.loss.mse(model(x), y), ln.loss.mse(other(x), y)
        new.backward()  # the forward again would have another output
        server._model.calls.clear()
        failed = ln.loss.mse(other(x), y)
        with hurried(model, 1.0), hurried(other, 1.0), monkeypatch.context() as patched:
            patched.setattr(journal.os, "fsync", fail)
            patched.setattr(journal.os, "ftruncate", fail)
            for loss in (failed, old):
                with pytest.raises((ln.errors.StorageUnavailable, ln.errors.RemoteTimeout)) as caught:
                    loss.backward()
                assert caught.value.applied == "unknown"
        with pytest.raises(ln.errors.StaleGradient) as caught:
            old.backward()
        assert caught.value.applied == "no"
        failed.backward()
        assert server.statistics()["server"]["version"] == 2
    assert reopened(tmp_path)[1].version == 2


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
        (lambda: ln.nn.Sequential(ln.nn.LazyLinear(2)), {}, "of '0', a LazyLinear, are made by its first call"),
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


def test_groups_of_parameters_come_back_from_a_store_with_their_rates_and_states(tmp_path):
    def make():
        model = make_model()
        optimizer = ln.optim.Adam(model[0].parameters(), lr=0.1)
        optimizer.add_param_group({"params": list(model[2].parameters()), "lr": 0.02})
        return model, optimizer

    def train(model, first, last):
        for number in range(first, last):
            x, y = batch(number)
            ln.loss.mse(model(x), y).backward()

    kept, optimizer = make()
    for number in range(6):
        x, y = batch(number)
        optimizer(ln.loss.mse(kept(x), y).backward())
    for first, last in ((0, 3), (3, 6)):  # the second server starts from what the first one has stored
        model, optimizer = make()
        with ln.network.serve_model(model, optimizer, port=0, store=tmp_path) as server:
            train(ln.network.remote_model(server.url, blocking=True), first, last)
            assert server.statistics()["server"]["version"] == last
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.02]
    assert same(model.state_dict(), kept.state_dict())
