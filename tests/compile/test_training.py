"""Compiled training steps do what eager ones do, over many steps, and share their parameters with eager code."""

import itertools

import numpy as np
import pytest

import labnet as ln


def mlp(widths, activation=ln.nn.relu):
    layers = []
    for inner, outer in itertools.pairwise(widths):
        layers += [ln.nn.Linear(inner, outer), activation]
    return ln.nn.Sequential(*layers[:-1])


def pair(make):
    """Two models with the same parameters."""
    ln.manual_seed(3)
    first = make()
    second = make()
    second.load_state_dict(first.state_dict())
    return first, second


def step_of(model, optimizer, loss):
    def step(x, y):
        value = loss(model(x), y)
        optimizer(value.backward())
        return value

    return step


def data(batch, inner, outer, *, classes=False):
    rng = np.random.default_rng(1)
    x = ln.asarray(rng.standard_normal((batch, inner)).astype("float32"))
    if classes:
        return x, ln.asarray(rng.integers(0, outer, batch))
    return x, ln.asarray(rng.standard_normal((batch, outer)).astype("float32"))


OPTIMIZERS = {
    "sgd": lambda: ln.optim.SGD(lr=1e-2),
    "momentum": lambda: ln.optim.SGD(lr=1e-3, momentum=0.9),
    "adam": lambda: ln.optim.Adam(lr=1e-3),
    "adamw": lambda: ln.optim.AdamW(lr=1e-3),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_thousand_steps_end_where_eager_ones_end(name):
    """Losses agree to 1e-4 relative, parameters to 1e-4: sums are taken in another order, which adds up."""
    eager, compiled = pair(lambda: mlp((1, 8, 8, 8, 8, 1)))
    x, y = data(10, 1, 1)
    plain = step_of(eager, OPTIMIZERS[name](), ln.loss.mse)
    step = ln.jit(step_of(compiled, OPTIMIZERS[name](), ln.loss.mse))
    for _ in range(1000):
        expected, got = plain(x, y).item(), step(x, y).item()
    assert got == pytest.approx(expected, rel=1e-4)
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-4)
    assert step.specialisations == 1


def test_a_classifier_learns_as_eagerly():
    eager, compiled = pair(lambda: mlp((20, 32, 5), ln.tanh))
    x, y = data(16, 20, 5, classes=True)
    plain = step_of(eager, ln.optim.Adam(), ln.loss.cross_entropy)
    step = ln.jit(step_of(compiled, ln.optim.Adam(), ln.loss.cross_entropy))
    for _ in range(200):
        expected, got = plain(x, y).item(), step(x, y).item()
    assert got == pytest.approx(expected, rel=1e-4)


def small_convolution():
    first = (ln.nn.Conv2d(1, 4, 3), ln.nn.relu, ln.nn.MaxPool2d(2))
    return ln.nn.Sequential(*first, ln.nn.Conv2d(4, 8, 3), ln.nn.relu, ln.nn.Flatten(), ln.nn.Linear(32, 3))


#: Small forms of the models of `benchmarks/compiled.py`: model, optimizer, loss, input shape, classes or None.
MODELS = {
    "T2": (lambda: mlp((16, 16, 16)), lambda: ln.optim.SGD(lr=1e-2), ln.loss.mse, (12, 16), None),
    "T3": (lambda: mlp((30, 16, 5)), lambda: ln.optim.Adam(lr=1e-3), ln.loss.cross_entropy, (32, 30), 5),
    "T4": (small_convolution, lambda: ln.optim.SGD(lr=1e-2), ln.loss.cross_entropy, (6, 1, 10, 10), 3),
}


@pytest.mark.parametrize("name", MODELS)
def test_a_thousand_steps_of_each_kind_of_model_end_where_eager_ones_end(name):
    """Losses agree to 1e-3 relative, parameters to 1e-3: a relu that changes sides a step sooner adds to the order."""
    make, optimizer, loss, shape, classes = MODELS[name]
    eager, compiled = pair(make)
    rng = np.random.default_rng(2)
    x = ln.asarray(rng.standard_normal(shape).astype("float32"))
    y = ln.asarray(rng.integers(0, classes, shape[0]) if classes else rng.standard_normal(shape).astype("float32"))
    plain, step = step_of(eager, optimizer(), loss), ln.jit(step_of(compiled, optimizer(), loss))
    first = plain(x, y).item()
    assert step(x, y).item() == pytest.approx(first, rel=1e-5)
    for _ in range(999):
        expected, got = plain(x, y).item(), step(x, y).item()
    assert expected < 0.9 * first
    assert got == pytest.approx(expected, rel=1e-3)
    for a, b in zip(eager.parameters(), compiled.parameters(), strict=True):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-3)


def test_labels_out_of_range_are_refused_before_anything_changes():
    model = mlp((4, 3))
    x, y = data(2, 4, 3, classes=True)
    step = ln.jit(step_of(model, ln.optim.SGD(), ln.loss.cross_entropy))
    step(x, y)
    before = model.state_dict()
    with pytest.raises(IndexError, match=r"labels must lie in \[0, 3\)"):
        step(x, ln.asarray([0, 3]))
    for name, value in model.state_dict().items():
        assert value.tolist() == before[name].tolist()


def quadratic():
    weight, optimizer = ln.asarray([1.0, 2.0], requires_grad=True), ln.optim.SGD(lr=0.25)

    def step():
        loss = (weight * weight).sum()
        optimizer(loss.backward())
        return loss

    return weight, optimizer, ln.jit(step)


def test_the_learning_rate_is_read_at_each_call():
    weight, optimizer, step = quadratic()
    step()
    optimizer.lr = 0.5
    step()
    assert weight.tolist() == [0.0, 0.0]
    assert step.specialisations == 1


def test_arrays_handed_out_keep_their_values():
    weight, _, step = quadratic()
    step()
    kept = weight.numpy()
    step()
    assert kept.tolist() == [0.5, 1.0]
    assert weight.tolist() == [0.25, 0.5]


def test_a_graph_keeps_the_values_that_it_saw():
    weight, _, step = quadratic()
    step()
    out = (weight * weight).sum()
    step()
    assert ln.grad(out, weight).tolist() == [1.0, 2.0]


def test_assigned_parameters_are_used_by_the_next_step():
    weight, _, step = quadratic()
    step()
    weight.assign([4.0, 8.0])
    assert step().item() == 80.0
    assert weight.tolist() == [2.0, 4.0]


def test_views_follow_the_parameter():
    weight, _, step = quadratic()
    with ln.no_grad():
        view = weight[0:1]
    step()
    step()
    assert view.tolist() == [0.25]


def test_gradients_that_were_there_before_are_cleared():
    weight, _, step = quadratic()
    step()
    (weight * 3).sum().backward()
    step()
    assert weight.grad is None
    assert weight.tolist() == [0.25, 0.5]


def test_freezing_a_parameter_is_noticed():
    first, second = ln.ones(2, requires_grad=True), ln.ones(2, requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.5)

    def train():
        loss = (first * second).sum()
        optimizer(loss.backward())
        return loss

    step = ln.jit(train)
    step()
    second.requires_grad = False
    step()
    assert second.tolist() == [0.5, 0.5]
    assert first.tolist() == [0.25, 0.25]


def test_eager_and_compiled_steps_share_an_optimizers_state():
    weight, expected = (ln.asarray([1.0, 2.0], requires_grad=True) for _ in range(2))
    one, other = ln.optim.Adam(lr=0.1), ln.optim.Adam(lr=0.1)

    def train():
        optimizer_loss = (weight * weight).sum()
        one(optimizer_loss.backward())
        return optimizer_loss

    step = ln.jit(train)
    for run in (step, train, step, step, train):
        run()
        other((expected * expected).sum().backward())
    np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=1e-6)


def test_a_backward_without_an_optimizer_adds_to_grad():
    weight = ln.ones(2, requires_grad=True)

    def run(x):
        loss = (weight * x).sum()
        loss.backward()
        return loss

    step = ln.jit(run)
    step(ln.asarray([1.0, 2.0]))
    step(ln.asarray([1.0, 2.0]))
    assert weight.grad.tolist() == [2.0, 4.0]


def test_arguments_that_a_step_makes_leaves_have_their_gradients():
    weight = ln.ones(2, requires_grad=True)

    @ln.jit
    def step(x):
        x.requires_grad_()
        loss = (weight * x * x).sum()
        loss.backward()
        return loss

    first, second = ln.asarray([1.0, 2.0]), ln.asarray([3.0, 4.0])
    for x in (first, second, second):
        step(x)
    assert (first.requires_grad, first.grad.tolist(), second.grad.tolist()) == (True, [2.0, 4.0], [12.0, 16.0])
    assert weight.grad.tolist() == [19.0, 36.0]


def clipped(weight, x):
    weight.data.clamp_(-1.5, 1.5)


def scaled(weight, x):
    weight.data *= x


def replaced(weight, x):
    weight.data = weight.data * 0.5 + x


def filled(weight, x):
    weight.data[1:].zero_()
    weight.data.add_(x, alpha=-0.1)


@pytest.mark.parametrize("change", [clipped, scaled, replaced, filled], ids=lambda change: change.__name__)
def test_writes_into_data_of_a_leaf_are_not_recorded(change):
    def run(call):
        weight = ln.asarray([1.0, -2.0, 3.0], requires_grad=True)

        def step(x):
            change(weight, x)
            loss = (weight * weight * x).sum()
            loss.backward()
            weight.data.mul_(0.5)
            return loss

        step, found = call(step), []
        for number in range(3):
            found += [step(ln.asarray([1.0, 2.0, -1.0]) + number).item(), *weight.tolist(), *weight.grad.tolist()]
        return found

    np.testing.assert_allclose(run(ln.jit), run(lambda step: step), rtol=1e-6)


def only_backward(weight, optimizer, x):
    optimizer.zero_grad()
    loss = (weight * x).sum()
    loss.backward()
    return loss


def clipped_gradient(weight, optimizer, x):
    loss = only_backward(weight, optimizer, x)
    for parameter in (weight,):
        parameter.grad.data.clamp_(-1, 1)
    optimizer.step()
    return loss


def norm_of_gradient(weight, optimizer, x):
    only_backward(weight, optimizer, x)
    norm = weight.grad.norm()
    optimizer.step()
    return norm


def replaced_gradient(weight, optimizer, x):
    only_backward(weight, optimizer, x)
    weight.grad = weight.grad * 0.5
    (weight * weight).sum().backward()
    weight.grad += 1
    optimizer.step()
    return (weight * x).sum().detach()


def cleared_afterwards(weight, optimizer, x):
    loss = (weight * x).sum()
    loss.backward()
    weight.grad.mul_(2)
    optimizer.step()
    optimizer.zero_grad()
    return loss


def by_hand(weight, optimizer, x):
    weight.grad = None
    loss = (weight * x).sum()
    loss.backward()
    with ln.no_grad():
        weight -= 0.1 * weight.grad
        weight.grad.zero_()
    return loss


def asked_for_none(weight, optimizer, x):
    optimizer.zero_grad()
    is_blank = weight.grad is None
    loss = (weight * x).sum()
    loss.backward()
    if is_blank and weight.grad is not None:
        optimizer.step()
    return loss


GRADIENT_USERS = (
    only_backward,
    clipped_gradient,
    norm_of_gradient,
    replaced_gradient,
    cleared_afterwards,
    by_hand,
    asked_for_none,
)


@pytest.mark.parametrize("function", GRADIENT_USERS, ids=lambda function: function.__name__)
def test_gradients_are_read_and_written_as_eagerly(function):
    def run(call):
        weight = ln.asarray([1.0, -2.0, 3.0], requires_grad=True)
        optimizer = ln.optim.SGD([weight], lr=0.1)
        step, found = call(lambda x: function(weight, optimizer, x)), []
        for number in range(3):
            found += [step(ln.asarray([1.0, 2.0, -1.0]) + number).item(), *weight.tolist()]
            found += [7.0] if weight.grad is None else weight.grad.tolist()
        return found

    np.testing.assert_allclose(run(ln.jit), run(lambda step: step), rtol=1e-6)


def test_a_gradient_that_two_leaves_share_is_written_for_one():
    first, second = ln.ones(2, requires_grad=True), ln.ones(2, requires_grad=True)

    @ln.jit
    def step(x):
        first.grad = second.grad = None
        ((first + second) * x).sum().backward()
        first.grad.mul_(10)

    step(ln.asarray([1.0, 2.0]))
    assert (first.grad.tolist(), second.grad.tolist()) == ([10.0, 20.0], [1.0, 2.0])


def test_a_gradient_with_an_earlier_part_is_not_read():
    weight = ln.ones(2, requires_grad=True)

    @ln.jit
    def step(x):
        (weight * x).sum().backward()
        return weight.grad.sum()

    assert step(ln.ones(2)).item() == 2.0
    with pytest.raises(ln.errors.TraceError, match=r"earlier part.*zero_grad"):
        step(ln.ones(2))
    weight.grad = None
    assert step(ln.ones(2)).item() == 2.0


def test_writes_into_data_of_a_result_keep_its_history():
    weight = ln.asarray([1.0, 2.0], requires_grad=True)

    @ln.jit
    def step(x):
        y = x * weight
        y.data.fill_(3.0)
        (y * y).sum().backward()
        return y.detach()

    assert step(ln.ones(2)).tolist() == [3.0, 3.0]
    step(ln.ones(2))
    assert weight.grad.tolist() == [12.0, 12.0]


def test_arguments_that_a_step_freezes_are_frozen():
    frozen = ln.jit(lambda x, y: x.requires_grad_(False).sum() + y.sum())
    for _ in range(2):
        x = ln.ones(2, requires_grad=True)
        assert (frozen(x, ln.ones(2)).item(), x.requires_grad) == (4.0, False)


def test_an_argument_that_is_given_twice_is_not_made_a_leaf():
    @ln.jit
    def step(x, y):
        x.requires_grad_()
        (x * y).sum().backward()

    x, y = ln.ones(2), ln.full(2, 3.0)
    step(x, y)
    assert (x.grad.tolist(), y.requires_grad) == ([3.0, 3.0], False)
    with pytest.raises(ln.errors.TraceError, match="given twice"):
        step(y, y)
    assert not y.requires_grad


def test_those_who_watch_hear_of_compiled_steps():
    weight, _, step = quadratic()

    class Watch:
        seen = ()

        def __call__(self, changed):
            self.seen += (changed,)

    watch = Watch()
    ln.optim.watch(watch)
    step()
    step()
    assert watch.seen == (frozenset([id(weight)]),) * 2


def test_a_loaded_optimizer_state_is_used_by_the_next_step():
    weight, expected = (ln.asarray([1.0, 2.0], requires_grad=True) for _ in range(2))
    one, other = (ln.optim.SGD(lr=0.1, momentum=0.5) for _ in range(2))

    def train():
        one((weight * weight).sum().backward())

    def plain():
        other((expected * expected).sum().backward())

    step = ln.jit(train)
    saved = None
    for _ in range(3):
        step()
        plain()
        saved = saved or one.state_dict({"w": weight})
    one.load_state_dict(saved, {"w": weight})
    other.load_state_dict(saved, {"w": expected})
    for _ in range(3):
        step()
        plain()
    np.testing.assert_allclose(weight.numpy(), expected.numpy(), rtol=1e-6)


def test_momentum_that_begins_later_is_noticed():
    weight, optimizer, step = quadratic()
    step()
    optimizer.momentum = 0.5
    step()
    step()
    assert weight.tolist() == [0.0, 0.0]
    assert step.specialisations == 2
