"""Steps that are so long that they become several functions."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.codegen import function_source


@pytest.fixture
def parted(monkeypatch, tmp_path):
    """Make every group of loops a function of its own."""
    monkeypatch.setattr(function_source, "WHOLE", 0)
    monkeypatch.setattr(function_source, "PART", 1)
    monkeypatch.setenv("LABNET_CACHE", str(tmp_path))


def training(compile):
    ln.manual_seed(1)
    embedding, hidden = ln.nn.Embedding(7, 4), ln.nn.LSTM(4, 5)
    model, norm, optimizer = ln.nn.Linear(5, 3), ln.nn.LayerNorm(5), ln.optim.Adam(lr=0.01)
    dropout = ln.nn.Dropout(0.3)

    def step(words, labels):
        states, _ = hidden(embedding(words))
        loss = ln.loss.cross_entropy(model(dropout(norm(states[-1]))), labels)
        optimizer(ln.optim.clip_norm(loss.backward(), 1.0))
        return loss

    run = ln.jit(step) if compile else step
    rng = np.random.default_rng(0)
    losses = []
    for _ in range(4):
        words, labels = ln.asarray(rng.integers(0, 7, (6, 2))), ln.asarray(rng.integers(0, 3, 2))
        losses.append(run(words, labels).item())
    return run, losses, [p.numpy() for m in (embedding, hidden, model, norm) for p in m.parameters()]


def test_a_step_in_parts_is_the_eager_step(parted):
    run, losses, weights = training(compile=True)
    _, expected, eager = training(compile=False)
    assert run.source.count("@part") > 5
    np.testing.assert_allclose(losses, expected, rtol=1e-4)
    for one, other in zip(weights, eager, strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-3, atol=1e-5)


def test_a_check_that_fails_in_a_part_leaves_everything_as_it_was(parted):
    weight, optimizer = ln.ones((3, 3), requires_grad=True), ln.optim.SGD(lr=0.1)

    def step(x, labels):
        loss = ln.loss.cross_entropy(ln.nn.softmax(x @ weight), labels)
        optimizer(loss.backward())
        return loss

    compiled = ln.jit(step)
    compiled(ln.ones((2, 3)), ln.asarray([0, 2]))
    before = weight.numpy().copy()
    assert compiled.source.count("@part") > 2
    with pytest.raises(IndexError, match=r"labels must lie in \[0, 3\)"):
        compiled(ln.ones((2, 3)), ln.asarray([0, 3]))
    np.testing.assert_array_equal(weight.numpy(), before)


def test_a_long_step_is_divided_and_a_short_one_is_not():
    def chain(length):
        weights = [ln.ones((3, 3), requires_grad=True) for _ in range(length)]

        def step(x):
            for weight in weights:
                x = ln.nn.softmax(ln.nn.softmax(x @ weight, axis=0))
            return ln.grad((x * x).sum(), weights)

        return step

    x = ln.asarray(np.random.default_rng(0).standard_normal((3, 3)).astype("float32"))
    for length, divided in ((2, False), (16, True)):
        step = chain(length)
        compiled = ln.jit(step)
        for one, other in zip(compiled(x), step(x), strict=True):
            np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=1e-6)
        assert ("@part" in compiled.source) == divided


def test_a_part_leaves_in_memory_what_a_later_part_reads(parted):
    def function(x):
        return ln.max(~x) + x

    compiled = ln.jit(function)
    for last in (250, 100, 7):
        x = ln.asarray(np.linspace(0, last, 50).astype("uint8"))
        np.testing.assert_array_equal(compiled(x).numpy(), function(x).numpy())
    assert compiled.source.count("@part") == 1
