"""Backward: graphs of any depth and shape, accumulation, freeing, and the values that a backward sees."""

import asyncio
import contextlib
import gc

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet import autograd
from labnet.errors import GradientError, ShapeError


def leaf(*values):
    return ln.asarray(list(values), requires_grad=True)


def test_gradients_are_a_read_only_mapping_of_leaves():
    x, y = leaf(1.0, 2.0), leaf(3.0, 4.0)
    gradients = (x * y).sum().backward()
    assert len(gradients) == 2
    assert {id(t) for t in gradients} == {id(x), id(y)}
    assert gradients[x].tolist() == [3.0, 4.0]
    assert x in gradients
    assert ln.ones(2) not in gradients
    with pytest.raises(TypeError):
        gradients[x] = y
    with pytest.raises(KeyError):
        gradients[ln.ones(2)]


def test_grad_adds_up_over_calls_and_gradients_do_not():
    x = leaf(1.0)
    first = (x * 2).sum().backward()
    second = (x * 3).sum().backward()
    assert (first[x].item(), second[x].item()) == (2.0, 3.0)
    assert x.grad.item() == 5.0
    total = first + second
    assert total[x].item() == 5.0
    assert x.grad.item() == 5.0


def test_gradients_of_two_leaves_can_be_changed_one_by_one():
    x, y, seed = leaf(1.0, 2.0), leaf(3.0, 4.0), ln.ones(2)
    gradients = (x + y).backward(seed)
    x.grad *= 10
    gradients[y][0] = 7.0
    assert (x.grad.tolist(), y.grad.tolist()) == ([10.0, 10.0], [1.0, 1.0])
    assert (gradients[x].tolist(), gradients[y].tolist(), seed.tolist()) == ([1.0, 1.0], [7.0, 1.0], [1.0, 1.0])
    first, second = ln.grad((x + y).sum(), [x, y])
    first += 1
    assert second.tolist() == [1.0, 1.0]


def test_an_optimizer_applies_exactly_what_it_is_given_and_clears_grad():
    x = leaf(1.0)
    (x * 100).sum().backward()
    ln.optim.SGD(lr=0.5)((x * 2).sum().backward())
    assert x.item() == 0.0
    assert x.grad is None


def test_a_tensor_used_many_times_collects_every_use():
    x = leaf(3.0)
    y = x * x + x * x * x + x
    assert y.sum().backward()[x].item() == 2 * 3 + 3 * 9 + 1


def test_a_diamond_is_walked_once_per_node():
    x = leaf(1.0)
    y = x
    for _ in range(60):
        y = y + y
    assert y.sum().backward()[x].item() == 2.0**60


def test_a_chain_of_fifty_thousand_nodes_does_not_recurse():
    x = leaf(1.0)
    y = x
    for _ in range(50_000):
        y = y + 1
    assert y.sum().backward()[x].item() == 1.0
    del y
    gc.collect()


def test_a_deep_graph_that_is_never_used_can_be_dropped():
    x = leaf(1.0)
    y = x
    for _ in range(200_000):
        y = y * 1.0
    del y
    gc.collect()


def test_a_backward_sees_the_weights_that_its_forward_saw():
    weight = leaf(2.0)
    x = leaf(5.0)
    y = (weight * x).sum()
    ln.optim.SGD(lr=1.0)(ln.ops.sum(weight * 1.0).backward())
    assert weight.item() == 1.0
    assert y.backward()[x].item() == 2.0


def test_an_array_handed_out_never_changes():
    weight = leaf(2.0)
    seen, detached = weight.numpy(), weight.detach()
    ln.optim.SGD(lr=1.0)(weight.sum().backward())
    weight.assign([7.0])
    assert (seen.item(), detached.item(), weight.item()) == (2.0, 2.0, 7.0)
    with pytest.raises(ValueError, match="read-only"):
        seen[0] = 1.0


def test_no_grad_records_nothing_and_nests():
    x = leaf(1.0)
    with ln.no_grad():
        assert not (x * 2).requires_grad
        with ln.no_grad():
            pass
        assert not (x * 2).requires_grad
    assert (x * 2).requires_grad


def test_retain_graph_allows_a_second_backward():
    x = leaf(3.0)
    y = (x * x).sum()
    assert y.backward(retain_graph=True)[x].item() == 6.0
    assert y.backward()[x].item() == 6.0
    with pytest.raises(GradientError, match="freed"):
        y.backward()


def test_shared_part_of_two_graphs_is_freed_with_the_first():
    x = leaf(3.0)
    shared = x * x
    (shared * 1).sum().backward()
    with pytest.raises(GradientError, match="retain_graph"):
        (shared * 2).sum().backward()


def test_gradient_with_respect_to_an_intermediate_tensor():
    x = leaf(2.0)
    middle = x * x
    assert ln.grad((middle * middle).sum(), middle).item() == 8.0


def test_grad_leaves_dot_grad_alone_and_gives_zeros_for_the_unrelated():
    x, other = leaf(2.0), leaf(1.0, 1.0)
    gx, go = ln.grad((x * x).sum(), [x, other])
    assert (gx.item(), go.tolist()) == (4.0, [0.0, 0.0])
    assert x.grad is None


def test_grad_takes_torchs_keywords():
    x = leaf(1.0, 2.0)
    y = x * x
    first = ln.grad(y, [x], grad_outputs=ln.ones(2), retain_graph=True)[0]
    assert first.tolist() == ln.grad(y, [x], ln.ones(2))[0].tolist() == [2.0, 4.0]
    with pytest.raises(GradientError, match="retain_graph"):
        ln.grad(y, [x], grad_outputs=ln.ones(2))
    kept = ln.grad((x**3).sum(), [x], create_graph=True)[0]
    assert ln.grad(kept.sum(), [x], retain_graph=False)[0].tolist() == [6.0, 12.0]
    with pytest.raises(TypeError, match="two names of one argument"):
        ln.grad(y, [x], ln.ones(2), grad_outputs=ln.ones(2))


def test_third_order():
    x = ln.asarray(2.0, requires_grad=True, dtype="float64")
    y = x**4
    for expected in (32.0, 48.0, 48.0):
        y = ln.grad(y, x, create_graph=True)
        assert y.item() == pytest.approx(expected)


def test_awaiting_a_local_backward_is_free():
    import asyncio

    async def main():
        x = leaf(2.0)
        return (await (x * x).sum().backward())[x].item()

    assert asyncio.run(main()) == 4.0


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ln.ones(()).backward(), GradientError, "requires_grad=True"),
        (lambda: (leaf(1.0, 2.0) * 2).backward(), GradientError, r"\(2,\)"),
        (lambda: (leaf(1.0, 2.0) * 2).backward([1.0]), ShapeError, r"\(1,\).*\(2,\)"),
        (lambda: ln.asarray([1], requires_grad=True), GradientError, "int64"),
        (lambda: (leaf(1.0) * 2).assign([1.0]), GradientError, "detach"),
        (lambda: leaf(1.0).assign([1.0, 2.0]), ShapeError, r"\(2,\).*\(1,\)"),
        (lambda: ln.asarray([1]).assign([1.5]), TypeError, "float32.*int64"),
        (lambda: setattr(leaf(1.0) * 2, "requires_grad", False), GradientError, "leaf"),
        (lambda: ln.grad(leaf(1.0).sum(), ln.ones(1)), GradientError, "tensor 0"),
        (lambda: ln.optim.SGD()({}), GradientError, "dict"),
    ],
)
def test_misuse_of_gradients_raises_one_specific_error(call, error, words):
    with pytest.raises(error, match=words):
        call()


@st.composite
def programs(draw):
    """A random straight-line program over float64 vectors: (op, left operand, right operand)."""
    steps = []
    for position in range(draw(st.integers(1, 12))):
        name = draw(st.sampled_from(["add", "multiply", "tanh", "subtract", "maximum", "matmul"]))
        steps.append((name, draw(st.integers(0, position + 1)), draw(st.integers(0, position + 1))))
    return steps


def run_program(steps, a, b):
    values = [a, b]
    for name, i, j in steps:
        left, right = values[i], values[j]
        if name == "tanh":
            values.append(ln.tanh(left))
        elif name == "matmul":
            values.append(ln.matmul(left, right) * 0.1)
        else:
            values.append(getattr(ln, name)(left, right))
    return (values[-1] * values[-1]).sum()


@settings(max_examples=60, deadline=None)
@given(programs(), st.integers(0, 1000))
def test_random_graphs_match_differences(steps, seed):
    rng = np.random.default_rng(seed)
    a, b, da, db = rng.uniform(-1, 1, (4, 2, 2))

    def value(step):
        return run_program(steps, ln.asarray(a + step * da), ln.asarray(b + step * db)).item()

    ta, tb = ln.asarray(a, requires_grad=True), ln.asarray(b, requires_grad=True)
    gradients = run_program(steps, ta, tb).backward()
    got = sum((gradients[t].numpy() * d).sum() for t, d in ((ta, da), (tb, db)) if t in gradients)
    expected = (value(1e-6) - value(-1e-6)) / 2e-6
    # a kink of maximum may lie on the path: compare only where both one-sided slopes agree
    forward, backward = (value(1e-6) - value(0)) / 1e-6, (value(0) - value(-1e-6)) / 1e-6
    if abs(forward - backward) < 1e-3 * max(1.0, abs(expected)):
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5)


class Fork(autograd.Node):
    """Hands its gradient to both parents."""

    __slots__ = ()

    def vjp(self, gradient, run):
        return [gradient, gradient]


class Waiting(autograd.Node):
    """A node that has to be awaited; the first pulls fail where it is told so, before or while it waits."""

    __slots__ = ("fails", "pulls")
    awaits = True

    def __init__(self, parents, *, fails=()):
        super().__init__(parents)
        self.fails, self.pulls = list(fails), 0

    def vjp(self, gradient, run):
        fails = self.fails.pop(0) if self.fails else None
        if fails == "at once":
            raise ConnectionError("at once")

        async def later():
            if fails == "later":
                raise ConnectionError("later")
            self.pulls += 1
            return [gradient]

        return later()


@pytest.mark.parametrize("first", [(), ("later",), ("at once",)])
@pytest.mark.parametrize("second", [("later",), ("at once",)])
def test_a_backward_that_failed_in_any_way_is_taken_up_where_it_stopped(first, second):
    x, y = (ln.ones(1, requires_grad=True) for _ in range(2))
    branches = Waiting([x.node], fails=first), Waiting([y.node], fails=second)
    sweep = autograd.Sweep(Fork(branches), 1.0, run=autograd.Run())

    async def carry_on():
        for _ in range(4):
            with contextlib.suppress(ConnectionError):
                return await autograd.sweep_async(sweep, retain_graph=False)
        raise AssertionError("it never came to its end")

    assert asyncio.run(carry_on()) == {x.node: 1.0, y.node: 1.0}
    assert [branch.pulls for branch in branches] == [1, 1]
