"""A step is a list of calls of functions; groups that compute the same share one function."""

import numpy as np
import pytest

import labnet as ln


def functions(compiled):
    return compiled.source.count("\n@function")


def calls(compiled):
    return compiled.source.partition("\ndef step(")[2].count("(")


def layers(count, optimizer):
    ln.manual_seed(0)
    encoder = ln.nn.TransformerEncoder(ln.nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0), count)

    def step(x):
        loss = ln.loss.mse(encoder(x), x)
        optimizer(loss.backward())
        return loss

    return step, encoder


def test_equal_layers_are_compiled_once():
    x = ln.asarray(np.random.default_rng(0).standard_normal((2, 3, 8)).astype("f4"))
    found = {}
    for count in (2, 3, 6):
        compiled = ln.jit(layers(count, ln.optim.Adam())[0])
        compiled(x)
        found[count] = functions(compiled), calls(compiled)
    assert found[6][0] == found[3][0] == found[2][0]
    assert found[6][1] - found[3][1] == 3 * (found[3][1] - found[2][1]) > 0


def test_steps_that_share_functions_train_like_eager_ones():
    x = ln.asarray(np.random.default_rng(0).standard_normal((2, 3, 8)).astype("f4"))
    (step, model), (eager, expected) = (layers(3, ln.optim.SGD(lr=0.1, momentum=0.9)) for _ in range(2))
    compiled = ln.jit(step)
    for _ in range(4):
        np.testing.assert_allclose(compiled(x).item(), eager(x).item(), rtol=1e-4)
    for one, other in zip(model.parameters(), expected.parameters(), strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=1e-3, atol=1e-5)


def test_groups_that_differ_in_which_memory_they_share_are_apart():
    """``x * x`` and ``x * y`` have the same loops, but a function may rely on its pointers being different ones."""
    x, y = (ln.asarray(np.random.default_rng(seed).standard_normal(300).astype("f4")) for seed in (0, 1))
    compiled = ln.jit(lambda x, y: [(x * x).sum(), (x * y).sum(), (y * y).sum(), (y * x).sum()])
    for got, (one, other) in zip(compiled(x, y), [(x, x), (x, y), (y, y), (y, x)], strict=True):
        np.testing.assert_allclose(got.item(), (one.numpy() * other.numpy()).sum(), rtol=1e-5)


def test_a_check_that_fails_leaves_everything_as_it_was():
    weight, optimizer = ln.ones((3, 3), requires_grad=True), ln.optim.SGD(lr=0.1)

    def step(x, labels):
        loss = ln.loss.cross_entropy(ln.nn.softmax(x @ weight), labels)
        optimizer(loss.backward())
        return loss

    compiled = ln.jit(step)
    compiled(ln.ones((2, 3)), ln.asarray([0, 2]))
    before = weight.numpy().copy()
    assert "    status = f" in compiled.source
    for wrong in ([0, 3], [-1, 0]):
        with pytest.raises(IndexError, match=r"labels must lie in \[0, 3\)"):
            compiled(ln.ones((2, 3)), ln.asarray(wrong))
        np.testing.assert_array_equal(weight.numpy(), before)


def test_a_function_leaves_in_memory_what_a_later_one_reads():
    def function(x):
        return ln.max(~x) + x

    compiled = ln.jit(function)
    for last in (250, 100, 7):
        x = ln.asarray(np.linspace(0, last, 50).astype("uint8"))
        np.testing.assert_array_equal(compiled(x).numpy(), function(x).numpy())
    assert functions(compiled) == 2


def test_a_learning_rate_is_read_at_each_call_by_every_function():
    weights = [ln.ones(3, requires_grad=True) for _ in range(3)]
    optimizer = ln.optim.SGD(lr=1.0)

    @ln.jit
    def step(x):
        optimizer(sum((weight * x).sum() for weight in weights).backward())

    step(ln.ones(3))
    optimizer.lr = 0.5
    step(ln.ones(3))
    for weight in weights:
        np.testing.assert_allclose(weight.numpy(), -0.5)
