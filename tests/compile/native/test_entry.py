"""The entry of a step: the same calls one after the other, as short steps have them, and in a table, as long ones."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.backends import cpu_program
from labnet.compile.native import entry, numba_compiler
from labnet.kernels.machine_code import loader


@pytest.fixture(params=[0, 10_000], ids=["table", "calls"])
def translated(request, monkeypatch):
    """Compile in this process, with all calls in a table or none."""
    monkeypatch.setattr(entry, "_MANY_CALLS", request.param)
    monkeypatch.setattr(
        cpu_program.cache, "load", lambda source: loader.load(numba_compiler.translate(source, "<a step of a test>"))
    )


def embedding_step():
    """Return a step with numbers of each call, held arrays, random numbers and a check of its argument."""
    ln.manual_seed(3)
    nn, optimizer = ln.nn, ln.optim.Adam()
    model = nn.Sequential(nn.Embedding(5, 4), nn.Linear(4, 3), nn.Dropout(0.5), nn.Linear(3, 2))

    def step(positions, target):
        loss = ln.loss.mse(model(positions), target)
        optimizer(loss.backward())
        return loss

    return step, list(model.parameters())


def test_a_step_trains_as_without_compiling(translated):
    positions, target = ln.asarray([0, 3, 3, 4]), ln.ones((4, 2))
    plain, expected = embedding_step()
    losses = [plain(positions, target).item() for _ in range(5)]
    step, parameters = embedding_step()
    compiled = ln.jit(step)
    np.testing.assert_allclose([compiled(positions, target).item() for _ in range(5)], losses, rtol=1e-5)
    for found, wanted in zip(parameters, expected, strict=True):
        np.testing.assert_allclose(found.array, wanted.array, rtol=1e-5, atol=1e-6)


def test_a_check_that_fails_ends_the_step_before_anything_is_written(translated):
    step, parameters = embedding_step()
    compiled = ln.jit(step)
    compiled(ln.asarray([0, 3, 3, 4]), ln.ones((4, 2)))
    before = [one.array.copy() for one in parameters]
    with pytest.raises(IndexError, match="5"):
        compiled(ln.asarray([0, 5, 3, 4]), ln.ones((4, 2)))
    assert all((one.array == old).all() for one, old in zip(parameters, before, strict=True))
    compiled(ln.asarray([0, 1, 3, 4]), ln.ones((4, 2)))


def test_a_step_of_nothing_but_its_argument(translated):
    assert ln.jit(lambda x: x)(ln.ones(3)).tolist() == [1.0, 1.0, 1.0]
    assert ln.jit(lambda x: x * 2)(ln.ones((0, 3))).shape == (0, 3)
