"""Statistics tell the time of ops on a GPU without waiting for each op."""

import numpy as np
import pytest

import labnet as ln
from labnet.kernels.cuda.driver.gpu import current_gpu
from tests.helpers.cuda.device_arrays import SIMULATED


def array(*shape, **named):
    return ln.asarray(np.random.default_rng(0).standard_normal(shape).astype("float32"), device="cuda", **named)


def test_an_op_is_counted_with_its_seconds_on_the_gpu():
    x, y = array(6, 5), array(5, 4)
    with ln.stats.collect() as statistics:
        x @ y
        x + x
        x.reshape((30,))
    cost = statistics.ops["matmul"]
    assert (cost.count, cost.bytes, cost.flops) == (1, 4 * (30 + 20 + 24), 2 * 6 * 5 * 4)
    assert cost.seconds > 0
    assert statistics.ops["add"].seconds > 0
    assert statistics.ops["reshape"].seconds == 0
    assert statistics.total.seconds <= statistics.elapsed_seconds + 0.1


def test_a_backward_and_its_rules_are_one_op():
    x = array(3, 4, requires_grad=True)
    with ln.stats.collect() as statistics:
        (x * x).sum().backward()
    counts = {name: cost.count for name, cost in statistics.ops.items()}
    assert counts == {"multiply": 1, "sum": 1, "multiply.backward": 1, "sum.backward": 1}
    assert statistics.ops["multiply.backward"].seconds > 0


def test_no_op_waits(monkeypatch):
    def wait():
        raise AssertionError("an op waited for the GPU")

    x = array(4, 4, requires_grad=True)
    (x @ x).sum().backward()
    with ln.stats.collect() as statistics, monkeypatch.context() as patch:
        patch.setattr(current_gpu(), "synchronize", wait)
        (x @ x).sum().backward()
    assert statistics.ops["matmul.backward"].seconds > 0


def test_ops_of_the_cpu_are_timed_by_the_clock_of_the_host_beside_those_of_the_gpu():
    x = array(4)
    with ln.stats.collect() as statistics:
        ln.ones((64, 64)) @ ln.ones((64, 64))
        x * 2
    assert statistics.ops["matmul"].seconds > 0
    assert statistics.ops["multiply"].seconds > 0


def test_an_lstm_is_one_op_with_its_seconds():
    layer = ln.nn.LSTM(2, 2).to("cuda")
    with ln.stats.collect() as statistics:
        layer(array(2, 1, 2))[0].sum().backward()
    assert statistics.ops["lstm_steps"].seconds > 0
    assert statistics.ops["lstm_steps.backward"].seconds > 0


def test_a_compiled_step_is_one_row():
    layer, optimizer = ln.nn.Linear(3, 2).to("cuda"), ln.optim.SGD(lr=0.1)

    @ln.jit
    def step(x):
        loss = (layer(x) ** 2).mean()
        optimizer(loss.backward())
        return loss

    x = array(4, 3)
    step(x)
    with ln.stats.collect() as statistics:
        step(x)
        step(x)
    assert statistics.ops.keys() == {"compiled step"}
    cost = statistics.ops["compiled step"]
    assert cost.count == 2
    assert cost.seconds > 0
    assert cost.flops > 2 * (2 * 4 * 3 * 2)
    assert cost.bytes > 2 * 4 * (12 + 6 + 2)


def test_a_compiled_step_is_not_counted_without_a_count():
    step = ln.jit(lambda x: ln.tanh(x) * 2)
    x = array(3)
    with ln.stats.collect() as statistics:
        pass
    step(x)
    assert statistics.ops == {}


def test_nothing_is_timed_without_a_count():
    with ln.stats.collect():
        array(2) + 1
    assert current_gpu().clock.asked == 0


@pytest.mark.skipif(not SIMULATED, reason="the clock of the simulator")
def test_a_replay_is_told_once_whatever_is_in_it():
    class Told(list):
        def expect(self):
            pass

        tell = list.append

    told, gpu = Told(), current_gpu()
    place = gpu.allocate(64)
    with gpu.clock.telling(told), gpu.captured() as replay:
        gpu.clear(place, 8)
        gpu.copy(place + 8, place, 8)
    assert told == []
    with gpu.clock.telling(told):
        replay()
    assert len(told) == 1
