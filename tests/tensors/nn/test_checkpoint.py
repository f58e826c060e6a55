"""Checkpoints: loaded when present, saved as updates come, exact resumption, nothing left behind."""

import copy
import gc
import os
import subprocess
import sys
import weakref

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import WireError


def make_model(seed):
    ln.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.LayerNorm(8), nn.Linear(8, 2))


def train(model, optimizer, steps, seed):
    rng = np.random.default_rng(seed)
    losses = []
    for _ in range(steps):
        x, labels = rng.standard_normal((8, 4)).astype("float32"), rng.integers(0, 2, 8)
        loss = ln.loss.cross_entropy(model(ln.asarray(x)), ln.asarray(labels))
        optimizer(loss.backward())
        losses.append(loss.item())
    return losses


@pytest.fixture
def clock(monkeypatch):
    """A clock that the test moves."""

    class Clock:
        now = 100.0

    monkeypatch.setattr("labnet.nn.checkpoint.time.monotonic", lambda: Clock.now)
    return Clock


@pytest.mark.parametrize("make", [lambda: ln.optim.Adam(lr=0.01), lambda: ln.optim.SGD(lr=0.1, momentum=0.9)])
def test_resumed_training_takes_exactly_the_same_next_hundred_steps(make, tmp_path):
    path = tmp_path / "model.safetensors"
    model, optimizer = make_model(0), make()
    assert not model.checkpoint(path, every_seconds=0, optimizer=optimizer).resumed
    train(model, optimizer, 20, seed=1)
    saved = path.read_bytes()
    expected = train(model, optimizer, 100, seed=2)

    path.write_bytes(saved)  # as if the process had ended there
    resumed, again = make_model(99), make()
    assert resumed.checkpoint(path, optimizer=again).resumed
    assert train(resumed, again, 100, seed=2) == expected
    for ours, theirs in zip(resumed.parameters(), model.parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def with_groups(model):
    first, *others = model.parameters()
    optimizer = ln.optim.Adam([{"params": [first], "lr": 0.02}, {"params": others[:1]}], lr=0.01)
    optimizer.add_param_group({"params": others[1:], "lr": 0.03})
    return optimizer


def test_groups_of_parameters_resume_with_their_rates_and_states(tmp_path):
    path = tmp_path / "model.safetensors"
    model = make_model(0)
    optimizer = with_groups(model)
    model.checkpoint(path, every_seconds=0, optimizer=optimizer)
    train(model, optimizer, 5, seed=1)
    optimizer.param_groups[1]["lr"] = 0.005
    train(model, optimizer, 5, seed=2)
    saved = path.read_bytes()
    expected = train(model, optimizer, 10, seed=3)

    path.write_bytes(saved)
    resumed = make_model(99)
    again = with_groups(resumed)
    assert resumed.checkpoint(path, optimizer=again).resumed
    assert [group["lr"] for group in again.param_groups] == [0.02, 0.005, 0.03]
    assert train(resumed, again, 10, seed=3) == expected


def test_it_saves_when_the_time_has_come_and_an_update_comes(tmp_path, clock):
    path = tmp_path / "file"
    model, optimizer = make_model(0), ln.optim.SGD(lr=0.1)
    model.checkpoint(path)
    clock.now += 29
    train(model, optimizer, 3, seed=0)
    assert not path.exists()
    clock.now += 1
    assert not path.exists()
    train(model, optimizer, 1, seed=0)
    first = path.stat().st_mtime_ns
    np.testing.assert_array_equal(ln.io.load(path)["0.weight"].numpy(), model[0].weight.numpy())
    train(model, optimizer, 5, seed=0)
    assert path.stat().st_mtime_ns == first


def test_updates_of_other_modules_are_none_of_its_business(tmp_path):
    model, other = make_model(0), make_model(1)
    model.checkpoint(tmp_path / "file", every_seconds=0)
    train(other, ln.optim.SGD(), 3, seed=0)
    assert os.listdir(tmp_path) == []


def test_save_writes_at_once_and_the_file_is_a_state_dict(tmp_path):
    model = make_model(0)
    model.checkpoint(tmp_path / "file").save()
    make_model(1).load_state_dict(ln.io.load(tmp_path / "file"))


def test_nothing_is_left_behind_when_the_module_is_dropped(tmp_path):
    model = make_model(0)
    checkpoint = weakref.ref(model.checkpoint(tmp_path / "file"))
    gc.collect()
    assert checkpoint() is not None
    gc.disable()
    try:
        del model
        assert checkpoint() is None
    finally:
        gc.enable()
    with pytest.raises(ReferenceError, match="file"):
        make_model(0).checkpoint(tmp_path / "file").save()


def test_a_copy_of_the_module_does_not_write_to_the_same_file(tmp_path):
    model = make_model(0)
    model.checkpoint(tmp_path / "file", every_seconds=0)
    twin = copy.deepcopy(model)
    train(twin, ln.optim.SGD(), 1, seed=0)
    assert os.listdir(tmp_path) == []


def test_a_file_of_another_model_changes_neither(tmp_path):
    path = tmp_path / "file"
    other = nn.Linear(3, 3)
    other.checkpoint(path).save()
    before, model = path.read_bytes(), make_model(0)
    weights = model.state_dict()
    with pytest.raises(KeyError) as caught:
        model.checkpoint(path)
    assert str(path) in caught.value.__notes__[0]
    assert path.read_bytes() == before
    for name, value in model.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name].numpy())


def test_a_file_of_another_optimizer_changes_no_weight(tmp_path):
    model, optimizer = make_model(0), ln.optim.SGD(momentum=0.5)
    model.checkpoint(tmp_path / "file", every_seconds=0, optimizer=optimizer)
    train(model, optimizer, 1, seed=0)
    other = make_model(1)
    weights = other.state_dict()
    with pytest.raises(KeyError, match="momentum_buffer"):
        other.checkpoint(tmp_path / "file", optimizer=ln.optim.Adam())
    for name, value in other.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), weights[name].numpy())


def test_a_damaged_file_is_named(tmp_path):
    (tmp_path / "file").write_bytes(b"damaged")
    with pytest.raises(WireError, match="file"):
        make_model(0).checkpoint(tmp_path / "file")
    with pytest.raises(ValueError, match="-1"):
        make_model(0).checkpoint(tmp_path / "other", every_seconds=-1)


def test_the_last_updates_are_saved_when_the_process_ends(tmp_path):
    code = """
import sys, labnet as ln
model = ln.nn.Linear(2, 1)
model.checkpoint(sys.argv[1], every_seconds=1000)
ln.optim.SGD()(model(ln.ones((1, 2))).sum().backward())
print(model.weight.tolist())
"""
    path = tmp_path / "file"
    result = subprocess.run([sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=True)
    assert ln.io.load(path)["weight"].tolist() == eval(result.stdout)
