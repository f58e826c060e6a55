"""Steps that run eagerly while they are compiled: nobody can tell from the results."""

import os
import subprocess
import sys
import threading

import numpy as np
import pytest

import labnet as ln
from labnet.errors import TraceError
from labnet.kernels.machine_code import cache


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet(tmp_path, monkeypatch):
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))


@pytest.fixture
def held_up(monkeypatch):
    """Let nothing be compiled before the event is set."""
    event, load = threading.Event(), cache.load

    def wait_and_load(source):
        event.wait()
        return load(source)

    monkeypatch.setattr(cache, "load", wait_and_load)
    yield event
    event.set()


def training():
    ln.manual_seed(5)
    model = ln.nn.Sequential(ln.nn.Linear(3, 8), ln.nn.Dropout(0.5), ln.nn.Linear(8, 2))
    optimizer = ln.optim.Adam(lr=0.01)

    def step(x):
        loss = (model(x) * model(x)).mean()
        optimizer(loss.backward())
        return loss

    ln.manual_seed(6)
    return model, step


def run(step, x, count):
    return [step(x).item() for _ in range(count)]


def test_switching_over_cannot_be_seen_in_parameters_losses_and_random_numbers(held_up):
    x = ln.asarray(np.random.default_rng(0).standard_normal((4, 3)).astype("float32"))
    model, plain = training()
    expected = run(plain, x, 12)
    other, function = training()
    step = ln.jit(function, wait=False)
    found = run(step, x, 6)
    assert step._last is None
    held_up.set()
    assert step.wait()
    found += run(step, x, 6)
    assert "def step" in step.source
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    for a, b in zip(model.parameters(), other.parameters(), strict=True):
        np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=1e-4, atol=1e-6)


def test_results_have_no_history_before_either(held_up):
    weight = ln.ones(2, requires_grad=True)
    step = ln.jit(lambda: {"out": (weight * 2, 7)}, wait=False)
    early = step()["out"]
    held_up.set()
    step.wait()
    late = step()["out"]
    assert not early[0].requires_grad
    assert not late[0].requires_grad
    assert early[0].tolist() == late[0].tolist()
    assert early[1] == late[1] == 7


def test_what_cannot_be_compiled_is_refused_by_the_first_call():
    with pytest.raises(TraceError, match=r"test_background\.py"):
        ln.jit(lambda x: float(x.sum()), wait=False)(ln.ones(2))


def test_an_error_of_the_compiler_is_a_warning_once_and_eager_goes_on(monkeypatch):
    def broken(source):
        raise RuntimeError("out of registers")

    monkeypatch.setattr(cache, "load", broken)
    step = ln.jit(lambda x: x * 2, wait=False)
    assert step(ln.ones(2)).tolist() == [2.0, 2.0]
    assert step.wait()
    with pytest.warns(UserWarning, match=r"goes on eagerly.*out of registers"):
        assert step(ln.ones(2)).tolist() == [2.0, 2.0]
    assert step(ln.ones(2)).tolist() == [2.0, 2.0]


def test_a_change_of_surroundings_meanwhile_is_seen(held_up):
    factor = 2.0
    step = ln.jit(lambda x: x * factor, wait=False)
    assert step(ln.ones(1)).tolist() == [2.0]
    factor = 3.0
    assert step(ln.ones(1)).tolist() == [3.0]
    held_up.set()
    assert step.wait()
    assert step(ln.ones(1)).tolist() == [3.0]
    factor = 2.0
    assert step(ln.ones(1)).tolist() == [2.0]
    assert step.specialisations == 2


def test_waiting_ends_when_the_time_is_over(held_up):
    step = ln.jit(lambda x: x + 1, wait=False)
    step(ln.ones(1))
    assert not step.wait(0)
    held_up.set()
    assert step.wait()


def test_what_was_compiled_before_runs_compiled_at_once():
    ln.jit(lambda x: x * 5)(ln.ones(3))
    step = ln.jit(lambda x: x * 5, wait=False)
    assert step(ln.ones(3)).tolist() == [5.0] * 3
    assert "def step" in step.source


def test_a_process_ends_in_good_order_while_it_compiles(tmp_path):
    code = "import labnet as ln\nstep = ln.jit(lambda x: ln.tanh(x), wait=False)\nprint(step(ln.zeros(2)).tolist())"
    environment = {**os.environ, "LABNET_CACHE": str(tmp_path)}
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=False)
    assert (result.returncode, result.stdout, result.stderr) == (0, "[0.0, 0.0]\n", "")
