"""State that a compiled function changes: what it writes lands in tensors and settings outside, as in eager code."""

import copy
import pickle

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GradientError, TraceError
from tests.helpers.compile.training_programs import STEPS, Programs, data


@pytest.mark.parametrize("name", [name for name in vars(Programs) if name not in ("model",) and name[0] != "_"])
def test_twenty_steps_leave_what_eager_steps_leave(name, plain_steps):
    eager, watched = getattr(Programs(), name)()
    function, tensors = getattr(Programs(), name)()
    compiled = ln.jit(function)
    for number in range(STEPS):
        expected, found = eager(data(number, 4, 3)), compiled(data(number, 4, 3))
        pairs = zip(*[x if isinstance(x, tuple) else (x,) for x in (expected, found)], strict=True)
        for a, b in [*pairs, *zip(watched, tensors, strict=True)]:
            np.testing.assert_allclose(b.numpy(), a.numpy(), rtol=2e-4, atol=1e-5)
            assert a.dtype == b.dtype
    assert compiled.specialisations <= 2


def test_a_tensor_given_twice_has_one_gradient():
    def both(a, b):
        return ln.grad((a * b).sum(), [a, b])

    compiled, x, y = (
        ln.jit(both),
        ln.asarray([1.0, 2.0], requires_grad=True),
        ln.asarray([3.0, 4.0], requires_grad=True),
    )
    for given in ((x, y), (x, x), (y, x), (y, y), (x, y)):
        assert [g.tolist() for g in compiled(*given)] == [g.tolist() for g in both(*given)]


def test_a_write_into_an_argument_lands_in_it(plain_steps):
    def step(x, y):
        x[0] = y[1]
        x *= 2
        part = y[1:]
        part[...] = 7.0
        return x + y

    compiled = ln.jit(step)
    for _ in range(2):
        given, wanted = [ln.arange(3.0), ln.arange(3.0) + 5], [ln.arange(3.0), ln.arange(3.0) + 5]
        assert compiled(*given).tolist() == step(*wanted).tolist()
        assert [x.tolist() for x in given] == [x.tolist() for x in wanted]


def test_a_gradient_of_an_argument_is_collected_in_it(plain_steps):
    weight = ln.ones(2, requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.5, parameters=[weight])

    def step(x):
        loss = (weight * x * x).sum()
        optimizer(loss.backward())
        return loss

    compiled, x = ln.jit(step), ln.asarray([1.0, 2.0], requires_grad=True)
    twin = ln.asarray([1.0, 2.0], requires_grad=True)
    for _ in range(3):
        compiled(x)
    found, trained = x.grad.tolist(), weight.tolist()
    weight.assign([1.0, 1.0])
    for _ in range(3):
        step(twin)
    assert found == twin.grad.tolist()
    assert trained == weight.tolist()


def test_equations_with_gradients_of_inputs_are_solved_as_eagerly():
    def trained(compile):
        ln.manual_seed(0)
        net = ln.nn.Sequential(ln.nn.Linear(1, 16), ln.nn.tanh, ln.nn.Linear(16, 1))
        optimizer = ln.optim.Adam(lr=0.01, parameters=net.parameters())

        def step(points):
            x = ln.asarray(points, requires_grad=True)
            u = net(x)
            slope = ln.grad(u.sum(), x, create_graph=True)
            curve = ln.grad(slope.sum(), x, create_graph=True)
            loss = ((curve + u) ** 2).mean() + (net(ln.zeros((1, 1))) ** 2).sum()
            optimizer(loss.backward())
            return loss

        run, points = ln.jit(step) if compile else step, ln.linspace(-1, 1, 32).reshape((32, 1))
        losses = [run(points).item() for _ in range(STEPS)]
        return losses, [parameter.numpy() for parameter in net.parameters()]

    for found, expected in zip(trained(True), trained(False), strict=True):
        for a, b in zip(found, expected, strict=True):
            np.testing.assert_allclose(a, b, rtol=2e-3, atol=1e-4)


def test_no_grad_around_a_call_does_what_it_does_eagerly(plain_steps):
    weight, optimizer = ln.ones(2, requires_grad=True), ln.optim.SGD(lr=0.5)

    def step(x):
        loss = (weight * x).sum()
        optimizer(loss.backward())
        return loss

    compiled = ln.jit(step)
    compiled(ln.ones(2))
    before = weight.tolist()
    for run in (step, compiled):
        with ln.no_grad(), pytest.raises(GradientError, match="nothing here requires gradients"):
            run(ln.ones(2))
    assert weight.tolist() == before
    compiled(ln.ones(2))
    assert weight.tolist() != before


def test_leaves_are_written_inside_no_grad_only(plain_steps):
    weight = ln.ones(2, requires_grad=True)

    def step(x):
        weight[0] = 3.0
        return x * weight

    for run in (step, ln.jit(step)):
        with pytest.raises(GradientError, match="requires gradients cannot be modified in place"):
            run(ln.ones(2))


@pytest.mark.parametrize(
    ("write", "error"),
    [
        (lambda buffer, x: buffer.assign(x[:1]), ln.errors.ShapeError),
        (lambda buffer, x: buffer.__setitem__(0, x), ln.errors.ShapeError),
        (lambda buffer, x: buffer.astype("int64").__setitem__(..., x), ln.errors.DTypeError),
    ],
)
def test_what_does_not_fit_is_refused_as_eagerly(write, error, plain_steps):
    buffer = ln.zeros(2)
    for run in (write, ln.jit(lambda x: write(buffer, x))):
        with pytest.raises(error):
            run(*([buffer] if run is write else []), ln.ones(2))
    assert buffer.tolist() == [0.0, 0.0]


def test_a_history_does_not_outlive_the_call(plain_steps):
    weight, state = ln.ones(2, requires_grad=True), ln.zeros(2)

    def step(x):
        state[...] = weight * x
        return state * 1

    with pytest.raises(TraceError, match="write its detach"):
        ln.jit(step)(ln.ones(2))
    assert state.tolist() == [0.0, 0.0]


def test_arrays_that_were_handed_out_keep_what_they_had(plain_steps):
    buffer = ln.zeros(2)
    compiled = ln.jit(lambda x: buffer.assign(buffer + x))
    compiled(ln.ones(2))
    kept = buffer.numpy()
    view = buffer[0:1]
    compiled(ln.ones(2))
    assert kept.tolist() == [1.0, 1.0]
    assert view.tolist() == [2.0]
    assert compiled(ln.ones(2)).tolist() == [3.0, 3.0]


def test_a_served_forward_writes_its_running_statistics():
    class Counting(ln.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight, self.seen = ln.ones(2, requires_grad=True), ln.zeros(2)

        def forward(self, x):
            self.seen.assign(self.seen + x.sum(axis=0).detach())
            return x * self.weight

    model, twin = Counting(), Counting()
    with ln.network.serve_model(model, port=0, compile=True) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        for number in range(4):
            remote(data(number, 3, 2))
            twin(data(number, 3, 2))
            np.testing.assert_allclose(model.seen.numpy(), twin.seen.numpy(), rtol=1e-5)


class Holder(ln.nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = ln.ones(2, requires_grad=True)
        self.run = ln.jit(self.plain)

    def plain(self, x):
        return x * self.weight

    def forward(self, x):
        return self.run(x)


@ln.jit
def doubled(x):
    return x * 2


def tripled(x):
    return x * 3


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda x: pickle.loads(pickle.dumps(x))])
def test_compiled_functions_and_modules_that_hold_them_are_copied(copied, plain_steps):
    holder = Holder()
    assert holder(ln.ones(2)).tolist() == [1.0, 1.0]
    other = copied(holder)
    other.weight.assign([5.0, 5.0])
    assert other(ln.ones(2)).tolist() == [5.0, 5.0]
    assert holder(ln.ones(2)).tolist() == [1.0, 1.0]
    assert copied(doubled)(ln.ones(2)).tolist() == [2.0, 2.0]
    again = copied(ln.jit(tripled))
    assert again(ln.ones(2)).tolist() == [3.0, 3.0]
    assert copy.copy(again)(ln.ones(2)).tolist() == [3.0, 3.0]


@pytest.mark.parametrize("make", [ln.optim.SGD, lambda lr: ln.optim.SGD(lr, momentum=0.9), ln.optim.Adam])
def test_an_optimizer_of_everything_moves_arguments_as_eagerly(make, plain_steps):
    def trained(compile):
        ln.manual_seed(0)
        net, optimizer = ln.nn.Sequential(ln.nn.Linear(1, 4), ln.nn.tanh, ln.nn.Linear(4, 1)), make(lr=0.05)
        optimizer._warned = True  # that it moves inputs; a filter would be lost when a thread compiles meanwhile

        def step(x):
            loss = (net(x) ** 2 + ln.grad(net(x).sum(), x, create_graph=True) ** 2).mean()
            optimizer(loss.backward())
            return loss

        run = ln.jit(step) if compile else step
        fixed = ln.ones((8, 1), requires_grad=True)
        fresh = [ln.asarray(data(n, 8, 1), requires_grad=True) for n in range(3)]
        losses = [run(x).item() for x in (fixed, fixed, *fresh, fixed, fixed)]
        return [losses, fixed, *fresh, *net.parameters()]

    for a, b in zip(trained(True), trained(False), strict=True):
        np.testing.assert_allclose(np.asarray(a), np.asarray(b), rtol=1e-4, atol=1e-6)


def test_parameters_that_a_step_makes_itself_are_trained_in_it(plain_steps):
    def step(x):
        inner = ln.asarray(x * 0.5, requires_grad=True)
        other, optimizer = ln.zeros(3, requires_grad=True), ln.optim.Adam(lr=0.1)
        for _ in range(4):
            optimizer(((inner - x) ** 2 + (other - 1) ** 2).sum().backward())
        return inner.detach(), other.detach()

    compiled = ln.jit(step)
    for number in range(3):
        for a, b in zip(compiled(data(number, 3)), step(data(number, 3)), strict=True):
            np.testing.assert_allclose(a.numpy(), b.numpy(), rtol=1e-5)


def test_an_optimizer_trains_arguments_that_are_its_parameters(plain_steps):
    weight, twin = ln.ones(3, requires_grad=True), ln.ones(3, requires_grad=True)

    def stepping(optimizer):
        def step(w):
            loss = (w * w).sum()
            optimizer(loss.backward())
            return loss

        return step

    compiled = ln.jit(stepping(ln.optim.Adam(lr=0.1, parameters=[weight])))
    eager = stepping(ln.optim.Adam(lr=0.1, parameters=[twin]))
    for _ in range(4):
        np.testing.assert_allclose(compiled(weight).item(), eager(twin).item(), rtol=1e-5)
    np.testing.assert_allclose(weight.numpy(), twin.numpy(), rtol=1e-5)


@pytest.mark.parametrize(
    "make",
    [
        lambda x: x.astype("float32"),
        lambda x: x.astype("float32", copy=False),
        lambda x: ln.tile(x, (1,)),
        lambda x: x * 1,
        lambda x: x.reshape(x.shape),
        lambda x: ln.reshape(x, (3,), copy=True),
        lambda x: x.detach(),
    ],
)
def test_a_write_after_an_identity_lands_where_it_lands_eagerly(make, plain_steps):
    def function(x):
        base = x + 1
        other = make(base)
        other[0] = 5.0
        other[...] = other * 2
        return base, other

    for a, b in zip(ln.jit(function)(ln.ones(3)), function(ln.ones(3)), strict=True):
        assert a.tolist() == b.tolist()
