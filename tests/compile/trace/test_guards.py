"""What a compiled function has read outside of itself is compared before each call: nothing of it is a constant."""

import os
import random
import sys
import threading
import time
import types
from pathlib import Path

import numpy as np
import pytest

import labnet as ln
from labnet.compile.trace import origins
from labnet.errors import TraceError
from tests.helpers.compile import guard_cases

pytestmark = pytest.mark.usefixtures("plain_steps")


@pytest.fixture(autouse=True)
def restored(monkeypatch):
    """Restore the module of the cases, which their changes alter."""
    before = dict(vars(guard_cases))
    yield
    for name in set(vars(guard_cases)) - set(before):
        delattr(guard_cases, name)
    vars(guard_cases).update(before)


@pytest.mark.parametrize("name", guard_cases.CASES)
def test_what_was_read_is_compared_before_each_call(name):
    function, change = guard_cases.CASES[name]
    x = ln.asarray([4.0])
    compiled = ln.jit(function)
    for _ in range(2):
        assert compiled(x).tolist() == function(x).tolist()
    assert compiled.specialisations == 1
    before = function(x).tolist()
    change()
    assert compiled(x).tolist() == function(x).tolist()
    if name != "requires_grad":
        assert function(x).tolist() != before
    assert compiled(x).tolist() == function(x).tolist()


def test_a_served_model_follows_what_it_reads():
    model = guard_cases.Model()
    x = ln.ones((1, 1))
    with ln.network.serve_model(model, port=0, compile=True) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for change in (
            lambda: None,
            lambda: setattr(model, "_k", 3.0),
            lambda: setattr(guard_cases.Model, "scale", 7.0),
        ):
            change()
            np.testing.assert_allclose(remote(x).numpy(), model(x).numpy(), rtol=1e-6)
    guard_cases.Model.scale = 2.0


def test_what_does_not_matter_is_not_compared():
    model = guard_cases.Model()
    compiled = ln.jit(lambda x: model(x))
    x = ln.ones((1, 1))
    for step in range(3):
        model.epoch = step  # nobody reads it
        model._head.note = step
        guard_cases.Config.unused = step
        compiled(x)
    assert compiled.specialisations == 1


def test_equal_values_in_new_objects_are_the_same():
    space = types.SimpleNamespace(factor=2.5, pair=(1.0, 2.0))
    compiled = ln.jit(lambda x: x * space.factor * space.pair[1])
    for _ in range(3):
        compiled(ln.ones(1))
        space.factor, space.pair = float("2.5"), (float("1"), float("2"))
    assert compiled.specialisations == 1


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda x: x * time.time(), "reading the clock"),
        (lambda x: x * time.perf_counter(), "reading the clock"),
        (lambda x: x * random.random(), "random numbers of Python"),
        (lambda x: x * random.choice([1.0, 2.0]), "random numbers of Python"),
        (lambda x: x * np.random.rand(), "random numbers of Python or NumPy"),
        (lambda x: x * GENERATOR.normal(), "random numbers of Python or NumPy"),
        (lambda x: x * np.random.default_rng().normal(), "random numbers of Python or NumPy"),
        (lambda x: x * next(ITERATOR), "an iterator"),
        (lambda x: x * len(Path(__file__).read_text()), "reading a file"),
        (lambda x: x * len(os.urandom(3)), "random numbers of Python or NumPy"),
    ],
)
def test_what_cannot_be_compared_is_refused_with_its_line(call, words):
    with pytest.raises(TraceError, match=rf"{words}.*test_guards\.py:\d+"):
        ln.jit(call)(ln.ones(1))


GENERATOR, ITERATOR = np.random.default_rng(0), iter([1.0, 2.0, 3.0])


def test_a_refusal_that_the_function_catches_is_raised_all_the_same():
    def step(x):
        try:
            return x * time.time()
        except Exception:
            return x

    with pytest.raises(TraceError, match="reading the clock"):
        ln.jit(step)(ln.ones(1))


def test_objects_that_a_function_makes_are_its_own():
    class Scratch:
        def __init__(self, factor):
            self.factor = factor
            self.seen = []

        def run(self, x):
            self.factor += 1
            self.seen.append(x)
            return sum(self.seen, x) * self.factor

    def step(x):
        scratch, plain, parts = Scratch(2.0), types.SimpleNamespace(), {}
        plain.total = scratch.run(x)
        parts["a"] = scratch.run(plain.total)
        parts.setdefault("b", x)
        return parts["a"] + parts["b"] * scratch.factor

    compiled = ln.jit(step)
    for _ in range(3):
        assert compiled(ln.ones(2)).tolist() == step(ln.ones(2)).tolist()
    assert compiled.specialisations == 1


def test_other_threads_may_import_while_a_function_is_traced():
    done = threading.Event()

    def import_and_forget():
        names = [f"labnet_test_module_{number}" for number in range(50)]
        while not done.is_set():
            for name in names:
                sys.modules[name] = types.ModuleType(name)
            for name in names:
                del sys.modules[name]

    thread, interval = threading.Thread(target=import_and_forget), sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    thread.start()
    try:
        for _ in range(20):
            origins.is_library.cache_clear()
            assert ln.jit(lambda x: x * np.float64(2).item() + np.mean(x))(ln.ones(2)).tolist() == [3, 3]
    finally:
        done.set()
        thread.join()
        sys.setswitchinterval(interval)
