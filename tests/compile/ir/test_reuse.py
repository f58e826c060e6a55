"""Values that a compiled function reads more than once, in more than one order, while memory is used again."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.ir.fusion import Group, fuse
from labnet.compile.ir.memory_plan import plan
from labnet.compile.ir.simplification import simplify
from labnet.compile.ir.values import Builder, Program, Store, contiguous
from tests.helpers.compile.hazards import Hazard, verify

rng = np.random.default_rng(7)
F32 = np.dtype("float32")
ROWS = np.array([2, 0, 1])

#: How a square matrix is read in another order than it is computed in.
ORDERS = {
    "transposed": lambda y: y.T,
    "flipped": lambda y: ln.flip(y, axis=1),
    "rolled": lambda y: ln.roll(y, 1, axis=0),
    "a row": lambda y: y[0:1],
    "a column": lambda y: y[:, -1:],
    "every second, twice": lambda y: ln.concat([y[::2], y[1:2]]),
    "in another shape": lambda y: y.reshape((9,))[::-1].reshape((3, 3)),
    "gathered": lambda y: ln.take(y, ROWS, axis=0),
    "along an axis": lambda y: ln.take_along_axis(y, ln.argsort(y.detach(), axis=1), axis=1),
    "a diagonal spread": lambda y: y[np.arange(3), np.arange(3)][:, None],
    "scattered": lambda y: ln.grad((y.detach() * y[ROWS]).sum(), y),
    "stretched": lambda y: ln.broadcast_to(y[1], (3, 3)),
    "twice": lambda y: y.T * ln.flip(y, axis=0),
}
#: What is done with a value and with itself in another order.
USES = {
    "a sum": lambda y, z: y + z,
    "the other way round": lambda y, z: z - y,
    "a reduction": lambda y, z: (y * z).sum(axis=1),
    "both": lambda y, z: (y + z, (y * z).sum(), y),
    "a chain": lambda y, z: ln.tanh(y * z) + (y + z).T,
    "a product": lambda y, z: y @ y + z * y,
}


def values():
    return ln.asarray(rng.uniform(0.2, 1, (3, 3)).astype("float32"))


def alike(found, expected):
    if isinstance(expected, tuple | list):
        assert len(found) == len(expected)
        for one, other in zip(found, expected, strict=True):
            alike(one, other)
    else:
        np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=3e-6, atol=1e-6)


@pytest.mark.parametrize("use", USES)
@pytest.mark.parametrize("order", ORDERS)
def test_a_value_read_in_two_orders_is_whole_before_it_is_read(order, use, plain_steps):
    def function(x):
        y = ln.exp(x)
        return USES[use](y, ORDERS[order](y))

    x = values()
    x.requires_grad = order == "scattered"
    alike(ln.jit(function)(x), function(x))


@pytest.mark.parametrize("order", [name for name in ORDERS if name != "scattered"])
def test_gradients_of_a_value_read_in_two_orders_are_the_eager_ones(order, plain_steps):
    weight = values()
    weight.requires_grad = True

    def function():
        y = ln.exp(weight)
        return ln.grad((y * ORDERS[order](y) * ln.tanh(y)).sum(), weight)

    alike(ln.jit(function)(), function())


def test_machine_code_reads_values_in_two_orders():
    def function(x):
        return [use(y, order(y)) for use in USES.values() for y in [ln.exp(x)] for order in list(ORDERS.values())[:5]]

    alike(ln.jit(function)(x := values()), function(x))


@pytest.mark.parametrize("shape", [(), (1,), (1, 1), (1, 3), (3, 1), (1, 3, 3), (0, 3)])
def test_lengths_of_one_and_none_are_read_in_two_orders(shape, plain_steps):
    def function(x):
        y = ln.exp(x)
        turned = ln.permute_dims(y, tuple(reversed(range(y.ndim))))
        return y * ln.sum(y) - ln.flip(y), y + turned if turned.shape == y.shape else turned

    x = ln.asarray(rng.uniform(0.2, 1, shape).astype("float32"))
    alike(ln.jit(function)(x), function(x))


class Remembering(ln.optim.Optimizer):
    """Keeps the value of the step before, and reads what it keeps in another order."""

    slots = ("before", "turned")

    def formula(self, value, gradient, state, numbers):
        new = value - numbers[0] * gradient + 0.1 * state["before"] * state["turned"]
        state["turned"], state["before"] = state["before"].T, value.T
        return new


def trained(compile_step):
    weights = [ln.asarray(np.linspace(0.1, 0.9, 9).reshape(3, 3) + i, requires_grad=True) for i in range(2)]
    optimizer = Remembering(lr=0.1)

    def step():
        first, second = weights
        loss = (ln.exp(-first) * second.T).sum() + (first.T * first[::-1]).sum()
        seen = first.detach(), second.T.detach()
        optimizer(loss.backward())
        return loss, *seen, first + second.T

    run = compile_step(step)
    return [run() for _ in range(4)], weights


def test_updates_overwrite_a_value_after_its_last_read_in_any_order(plain_steps):
    (found, weights), (expected, eager) = trained(ln.jit), trained(lambda step: step)
    alike([*found, *weights], [*expected, *eager])


# The check itself


def source(builder, position, shape=(3, 3), origin="held"):
    return builder.make("source", shape=shape, dtype=F32, origin=origin, position=position)


def mapped(builder, name, *inputs):
    return builder.make("map", inputs, shape=(3, 3), dtype=F32, name=name, work=F32)


def turned(builder, value):
    return builder.make("view", [value], shape=(3, 3), dtype=F32, offset=0, strides=(1, 3))


def prepared(program):
    program = simplify(program)
    groups = fuse(program)
    return program, groups, plan(program, groups)


def test_what_is_held_is_exchanged_as_if_all_were_written_at_once():
    builder = Builder()
    a, b = source(builder, 0), source(builder, 1)
    for stores in (
        [Store(a, b), Store(b, a)],
        [Store(turned(builder, a), a)],
        [Store(turned(builder, a), b), Store(b, a)],
    ):
        verify(*prepared(Program(stores)))


def test_an_output_is_what_was_held_before_whatever_the_order_of_the_stores():
    builder = Builder()
    a = source(builder, 0)
    program = Program([Store(mapped(builder, "exp", a), a), Store(turned(builder, a), 0), Store(a, 1)])
    program, groups, layout = prepared(program)
    verify(program, groups, layout)


def reordered():
    """``exp(a) + exp(a).T``, written into ``a``."""
    builder = Builder()
    a = source(builder, 0)
    y = mapped(builder, "exp", a)
    return y, Program([Store(mapped(builder, "add", y, turned(builder, y)), a)])


def test_a_value_in_the_loops_that_read_it_in_another_order_is_a_hazard():
    y, program = reordered()
    groups = [Group((3, 3), [y, program.stores[0].value], list(program.stores))]
    with pytest.raises(Hazard, match="at other elements"):
        verify(program, groups, plan(program, groups))


def test_a_store_before_the_last_read_of_its_target_is_a_hazard():
    builder = Builder()
    a = source(builder, 0)
    turn, double = mapped(builder, "tanh", turned(builder, a)), mapped(builder, "exp", a)
    program = Program([Store(turn, 0), Store(double, a)])
    groups = [Group((3, 3), [double], [program.stores[1]]), Group((3, 3), [turn], [program.stores[0]])]
    with pytest.raises(Hazard, match="reads v0 after it is overwritten"):
        verify(program, groups, plan(program, groups))
    verify(program, groups[::-1], plan(program, groups[::-1]))


def test_a_value_read_before_the_group_that_computes_it_is_a_hazard():
    _, program = reordered()
    groups = fuse(program)[::-1]
    with pytest.raises(Hazard, match="before it is written"):
        verify(program, groups, plan(program, fuse(program)))


def test_memory_given_away_too_early_is_a_hazard():
    builder = Builder()
    a = source(builder, 0, origin="argument")
    y = mapped(builder, "exp", a)
    z = mapped(builder, "tanh", turned(builder, y))
    program = Program([Store(mapped(builder, "add", turned(builder, z), turned(builder, y)), 0)])
    groups = fuse(program)
    layout = plan(program, groups)
    verify(program, groups, layout)
    layout.offsets[z.number] = layout.offsets[y.number]
    with pytest.raises(Hazard, match="is written meanwhile"):
        verify(program, groups, layout)


def test_a_store_that_is_left_out_is_a_hazard():
    _, program = reordered()
    groups = fuse(program)
    groups[-1].stores = []
    with pytest.raises(Hazard, match="done 0 times"):
        verify(program, groups, plan(program, groups))


def test_a_view_behind_the_end_is_a_hazard():
    builder = Builder()
    a = source(builder, 0)
    beyond = builder.make("view", [a], shape=(3, 3), dtype=F32, offset=1, strides=contiguous((3, 3)))
    with pytest.raises(Hazard, match="outside of it"):
        verify(*prepared(Program([Store(beyond, 0)])))
