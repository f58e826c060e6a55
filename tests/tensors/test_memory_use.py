"""Training for ever takes no more memory than training for a while, and nothing waits for the garbage collector."""

import gc
import tracemalloc

import pytest

import labnet as ln
from labnet.kernels.machine_code.background import BACKGROUND


def make_step():
    """One training step that records, reads, writes in place, makes views and takes a second order."""
    ln.manual_seed(0)
    weight, bias = ln.randn((8, 8), requires_grad=True), ln.zeros(8, requires_grad=True)
    x, seen = ln.randn((16, 8)), ln.zeros((4, 8))
    optimizer = ln.optim.SGD(lr=1e-3)

    def step(number):
        hidden = ln.tanh(x @ weight.mT + bias)
        hidden[:, 0] *= 2.0
        first, second = ln.unstack(hidden.reshape((2, 8, 8)))
        loss = (ln.concat([first, second], axis=-1).std(axis=-1) + ln.clip(first, -0.5, 0.5).sum(axis=-1)).mean()
        slope = ln.grad((hidden * hidden).mean(), bias, create_graph=True)
        optimizer((loss + (slope * slope).sum()).backward())
        seen[number % 4] = bias.detach()
        bias.numpy()

    return step


def test_memory_stays_flat_over_many_steps():
    step = make_step()
    tracemalloc.start()
    try:
        for number in range(900):  # NumPy and Python fill their caches of small blocks
            step(number)
        BACKGROUND.submit(lambda: None).result()  # the kernels that the steps asked for are there
        gc.collect()
        before, objects = tracemalloc.get_traced_memory()[0], len(gc.get_objects())
        for number in range(1200):
            step(number)
        gc.collect()
        after = tracemalloc.get_traced_memory()[0]
    finally:
        tracemalloc.stop()
    assert len(gc.get_objects()) - objects < 20
    assert after - before < 1200 * 50  # the smallest object that a step could leave behind is larger


def test_a_step_leaves_no_cycles_behind():
    step = make_step()
    step(0)
    gc.collect()
    gc.disable()
    try:
        for number in range(5):
            step(number)
        assert gc.collect() == 0
    finally:
        gc.enable()


def test_a_graph_that_is_freed_lets_go_of_its_arrays():
    x = ln.ones(1000, requires_grad=True)
    loss = (x * x).sum()
    node = loss.node
    assert ln.autograd.kept_nbytes(node) > 4000
    loss.backward()
    with pytest.raises(ln.errors.GradientError, match="freed"):
        ln.autograd.kept_nbytes(node)
