"""Op statistics: what is counted, where, and that nothing is paid while nobody counts."""

import asyncio
import threading

import numpy as np
import pytest

import labnet as ln
from labnet.nn.counting import FUSED
from labnet.ops.core import counting
from labnet.ops.core.registry import REGISTRY
from labnet.stats import ConsoleLogger, OpCount, OpStatistics
from labnet.stats.collecting import suspended

KERNELS = {name: op for name, op in REGISTRY.items() if not op.is_composed}


@pytest.fixture
def everywhere():
    yield ln.stats.enable
    ln.stats.disable()


def running():
    """Return what ops and their backwards run at the moment."""
    kernels = [cell.cell_contents for op in KERNELS.values() for cell in op.function.__closure__]
    vjps = [vars(kind)["vjp"] for kind in (*counting._vjp_classes(), *(fused.node for fused in FUSED))]
    return [id(each) for each in (*kernels, *vjps, *(vars(fused.place)[fused.attribute] for fused in FUSED))]


PLAIN = running()


def plain():
    """Tell whether every op runs exactly what it would run if nothing had ever been counted."""
    return running() == PLAIN


def test_an_op_is_counted_with_its_seconds_bytes_and_flops():
    with ln.stats.collect() as statistics:
        ln.ones((2, 3)) @ ln.ones((3, 4))
    cost = statistics.ops["matmul"]
    assert (cost.count, cost.bytes, cost.flops) == (1, 4 * (6 + 12 + 8), 2 * 2 * 3 * 4)
    assert 0 < cost.seconds < statistics.elapsed_seconds


FLOPS = {
    "elementwise": (lambda: ln.ones((2, 3)) + ln.ones(3), "add", 6),
    "number": (lambda: 2 * ln.ones(5), "multiply", 5),
    "reduction": (lambda: ln.ones((4, 5)).sum(), "sum", 20),
    "vectors": (lambda: ln.ones(4) @ ln.ones(4), "matmul", 8),
    "batches": (lambda: ln.ones((5, 2, 3)) @ ln.ones((3, 4)), "matmul", 5 * 2 * 2 * 3 * 4),
    "linear": (lambda: ln.nn.linear(ln.ones((2, 3)), ln.ones((4, 3)), ln.ones(4)), "linear", 2 * 4 * 7),
    "linear without bias": (lambda: ln.nn.linear(ln.ones((2, 3)), ln.ones((4, 3)), None), "linear", 2 * 4 * 6),
    "convolution": (lambda: ln.ops.conv2d(ln.ones((1, 2, 4, 4)), ln.ones((3, 2, 2, 2)), 0), "conv2d", 2 * 27 * 8),
    "view": (lambda: ln.ones((2, 3)).reshape((6,)), "reshape", 0),
    "moved": (lambda: ln.concat([ln.ones(2), ln.ones(3)]), "concat", 0),
}


@pytest.mark.parametrize("case", FLOPS)
def test_flops_follow_the_rule_of_the_op(case):
    compute, name, flops = FLOPS[case]
    with ln.stats.collect() as statistics:
        compute()
    assert statistics.ops[name].flops == flops


def test_a_backward_is_counted_as_an_op_of_its_own_and_its_rules_are_not_counted_again():
    weight = ln.ones((3, 4), requires_grad=True)
    x = ln.ones((2, 3), requires_grad=True)
    with ln.stats.collect() as statistics:
        (x @ weight).sum().backward()
    assert {name: cost.count for name, cost in statistics.ops.items()} == {
        "matmul": 1,
        "sum": 1,
        "matmul.backward": 1,
        "sum.backward": 1,
    }
    assert statistics.ops["matmul.backward"].flops == 2 * statistics.ops["matmul"].flops


def test_a_gradient_that_nobody_needs_costs_nothing():
    weight = ln.ones((3, 4), requires_grad=True)
    with ln.stats.collect() as statistics:
        (ln.ones((2, 3)) @ weight).sum().backward()
    assert statistics.ops["matmul.backward"].flops == statistics.ops["matmul"].flops


def test_gradients_are_the_same_while_counting():
    model = ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 2))
    x, target = ln.randn((5, 3)), ln.zeros((5, 2))

    def gradients():
        return [g.numpy() for g in ln.loss.mse(model(x), target).backward().values()]

    uncounted = gradients()
    with ln.stats.collect():
        counted = gradients()
    for one, other in zip(uncounted, counted, strict=True):
        np.testing.assert_array_equal(one, other)


def test_second_gradients_are_counted_too():
    x = ln.asarray([2.0], requires_grad=True)
    with ln.stats.collect() as statistics:
        (first,) = ln.grad((x**3).sum(), [x], create_graph=True)
        (second,) = ln.grad(first.sum(), [x])
    assert second.item() == pytest.approx(12.0)
    assert statistics.ops["pow.backward"].count >= 1


def test_an_op_written_in_others_is_counted_as_those():
    with ln.stats.collect() as statistics:
        ln.tensordot(ln.ones((2, 3)), ln.ones((3, 4)), axes=1)
    assert statistics.ops["matmul"].count == 1
    assert "tensordot" not in statistics.ops


@pytest.mark.parametrize("name", KERNELS)
def test_every_op_is_counted_when_it_runs_in_a_block(name):
    op = KERNELS[name]
    sample = op.samples[0]
    rng = np.random.default_rng(0)
    dtype = "float32" if "float32" in op.dtypes else op.dtypes[0]
    arrays = [ln.asarray(rng.uniform(*op.domain, shape).astype(dtype)) for shape in sample.shapes]
    with ln.stats.collect() as statistics:
        op.function(arrays, **sample.static) if op.variadic else op.function(*arrays, **sample.static)
    assert statistics.ops[name].count == 1


def test_a_run_of_linear_layers_is_counted_as_the_one_step_that_it_is():
    model = ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 2))
    with ln.stats.collect() as statistics:
        model(ln.ones((5, 3))).sum().backward()
    products = 5 * 2 * (3 * 4 + 4 * 2)
    assert statistics.ops["layers"].flops == products + 5 * (4 + 4 + 2)
    # the gradients of both weights and biases, and the way back through the second layer
    assert statistics.ops["layers.backward"].flops == products + 5 * (4 + 2) + 5 * 2 * 4 * 2
    assert statistics.ops["layers"].bytes > 0
    assert statistics.ops.keys() == {"layers", "layers.backward", "sum", "sum.backward"}


def test_the_steps_of_an_lstm_are_counted():
    lstm = ln.nn.LSTM(3, 4)
    with ln.stats.collect() as statistics:
        lstm(ln.ones((6, 2, 3)))[0].sum().backward()
    forward = 6 * 2 * (2 * 16 * 4 + 10 * 4)
    assert (statistics.ops["lstm_steps"].count, statistics.ops["lstm_steps"].flops) == (1, forward)
    assert statistics.ops["lstm_steps.backward"].flops == 2 * forward


# Zero cost, and no trace


def test_nothing_is_in_the_way_of_an_op_unless_somebody_counts():
    assert plain()
    with ln.stats.collect():
        assert not plain()
        with ln.stats.collect():
            pass
        assert not plain()
    assert plain()


def test_counting_ends_when_the_block_raises():
    with pytest.raises(ln.errors.ShapeError), ln.stats.collect():
        ln.ones((2, 3)) @ ln.ones((4, 5))
    assert plain()


def test_an_error_is_the_same_while_counting():
    with ln.stats.collect(), pytest.raises(ln.errors.ShapeError, match=r"\(2, 3\) @ \(4, 5\)"):
        ln.ones((2, 3)) @ ln.ones((4, 5))


# Who counts what


def test_nested_blocks_both_count():
    with ln.stats.collect() as outer:
        ln.ones(2) + 1
        with ln.stats.collect() as inner:
            ln.ones(2) + 1
    assert (outer.ops["add"].count, inner.ops["add"].count) == (2, 1)


def test_a_block_counts_its_own_thread_only():
    entered, done = threading.Event(), threading.Event()

    def elsewhere():
        entered.wait()
        ln.ones(2) * 3
        done.set()

    thread = threading.Thread(target=elsewhere)
    thread.start()
    with ln.stats.collect() as statistics:
        entered.set()
        done.wait()
        ln.ones(2) + 1
    thread.join()
    assert statistics.ops.keys() == {"add"}


def test_a_block_counts_its_own_tasks_only():
    async def adds(times):
        with ln.stats.collect() as statistics:
            for _ in range(times):
                ln.ones(2) + 1
                await asyncio.sleep(0)
        return statistics.ops["add"].count

    async def both():
        return await asyncio.gather(adds(3), adds(5))

    assert asyncio.run(both()) == [3, 5]


def test_the_process_is_counted_in_every_thread(everywhere):
    statistics = everywhere()
    threads = [threading.Thread(target=lambda: ln.ones(2) + 1) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert statistics.ops["add"].count == 4


def test_enabling_again_goes_on_counting(everywhere):
    first = everywhere()
    ln.ones(2) + 1
    assert everywhere() is first
    ln.ones(2) + 1
    assert first.ops["add"].count == 2
    first.reset()
    assert first.total == OpCount()


def test_after_disabling_nothing_is_counted():
    statistics = ln.stats.enable()
    ln.stats.disable()
    ln.stats.disable()
    ln.ones(2) + 1
    assert statistics.ops == {}
    assert plain()


def test_what_is_suspended_is_not_counted(everywhere):
    statistics = everywhere()
    with ln.stats.collect() as block, suspended():
        ln.ones(2) + 1
    assert statistics.ops == block.ops == {}


# Loggers


def test_a_logger_of_a_block_is_told_at_its_end():
    told = []
    with ln.stats.collect(lambda statistics: told.append(statistics.total.count)):
        ln.ones(2) + 1
        assert told == []
    assert told == [1]


def test_loggers_of_the_process_are_told_again_and_again_and_at_the_end():
    told = []
    ln.stats.enable(lambda statistics: told.append(statistics.ops["add"].count), interval_seconds=0)
    ln.ones(2) + 1
    ln.ones(2) + 1
    ln.stats.disable()
    assert told == [1, 2, 2]


def test_loggers_are_not_told_before_it_is_time(everywhere):
    told = []
    everywhere(told.append, interval_seconds=3600)
    ln.ones(2) + 1
    assert told == []
    ln.stats.flush()
    assert len(told) == 1


def test_a_logger_may_compute_without_being_counted():
    with ln.stats.collect(lambda statistics: ln.ones(2) * 3) as statistics:
        ln.ones(2) + 1
    assert statistics.ops.keys() == {"add"}


def test_a_logger_that_fails_disturbs_nobody(caplog):
    def fails(statistics):
        raise RuntimeError("disk full")

    told = []
    with ln.stats.collect(fails, told.append):
        ln.ones(2) + 1
    assert len(told) == 1
    assert "disk full" in caplog.text


def test_the_console_logger_writes_the_most_costly_ops(capsys):
    with ln.stats.collect(ConsoleLogger(most=1)):
        ln.randn((100, 100)) @ ln.randn((100, 100))
        ln.ones(1) + 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].endswith("%)")
    assert [line.split()[0] for line in lines[1:]] == ["op", "matmul", "other", "total"]


def test_a_negative_interval_is_refused():
    with pytest.raises(ValueError, match="-1"):
        ln.stats.enable(interval_seconds=-1)
    assert plain()


# Figures


def test_rates_and_utilization_follow_from_the_figures():
    statistics = OpStatistics("lab", 7)
    statistics.add("matmul", OpCount(2, 0.5, 1000, 4000))
    data = statistics.summary() | {"elapsed_seconds": 2.0}
    read = OpStatistics.read(data)
    assert (read.flops_per_second, read.flops_per_elapsed_second) == (8000.0, 2000.0)
    assert (read.bytes_per_second, read.utilization) == (2000.0, 0.25)


def test_statistics_of_other_processes_are_kept_apart_and_add_up():
    own, first, second = OpStatistics("a", 1), OpStatistics("b", 2), OpStatistics("c", 3)
    for statistics, count in ((own, 1), (first, 10), (second, 100)):
        statistics.add("add", OpCount(count, 1.0, 0, 0))
    first.merge(second)
    own.merge(first)
    own.merge(OpStatistics.read(first.summary()))
    assert {key: remote.ops["add"].count for key, remote in own.remotes.items()} == {("b", 2): 20, ("c", 3): 200}
    assert own.everywhere.ops["add"].count == 221
    assert own.ops["add"].count == 1
    assert str(own).count("process") == 3


def test_the_cost_of_ops_that_are_not_listed_is_added_up():
    statistics = OpStatistics("a", 1)
    for position in range(5):
        statistics.add(f"op{position}", OpCount(1, float(position), 1, 1))
    summary = statistics.summary(most=2)
    assert summary["ops"].keys() == {"op4", "op3", "other"}
    assert summary["ops"]["other"]["count"] == 3
    assert OpStatistics.read(summary).total == statistics.total


GOOD = OpStatistics("a", 1).summary()
COST = {"count": 1, "seconds": 1.0, "bytes": 1, "flops": 1}
BAD = {
    "nothing": None,
    "a list": [],
    "a field missing": {"host": "a"},
    "a process that is text": GOOD | {"process": "1"},
    "a host that is a number": GOOD | {"host": 1},
    "seconds that are infinite": GOOD | {"elapsed_seconds": float("inf")},
    "seconds that are negative": GOOD | {"elapsed_seconds": -1.0},
    "an op without a cost": GOOD | {"ops": {"add": None}},
    "an op with another field": GOOD | {"ops": {"add": COST | {"x": 1}}},
    "a count that is negative": GOOD | {"ops": {"add": COST | {"count": -1}}},
    "a count that is true": GOOD | {"ops": {"add": COST | {"count": True}}},
    "remotes of remotes": GOOD | {"remotes": [GOOD | {"remotes": [GOOD]}]},
}


@pytest.mark.parametrize("case", BAD)
def test_what_are_no_statistics_is_refused(case):
    with pytest.raises(ValueError, match=r"expected|statistics"):
        OpStatistics.read(BAD[case])


def test_ops_are_counted_by_the_lines_that_led_to_them():
    def square(x):
        return x * x

    with ln.stats.collect(stacks=True) as statistics:
        x = ln.ones(2, requires_grad=True)
        (square(x) + square(x)).sum().backward()
    inner = {stack[-1].rsplit(" ", 1)[1] for stack in statistics.stacks}
    assert inner == {"square", "test_ops_are_counted_by_the_lines_that_led_to_them"}
    (of_square,) = (ops for stack, ops in statistics.stacks.items() if stack[-1].endswith(" square"))
    assert of_square["multiply"].count == statistics.ops["multiply"].count == 2
    assert not any("labnet/ops" in line for stack in statistics.stacks for line in stack)
    with ln.stats.collect() as statistics:
        square(ln.ones(1))
    assert statistics.stacks is None
