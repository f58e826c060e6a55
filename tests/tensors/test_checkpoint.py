"""Functions whose values are computed again in the backward: the same gradients, less memory, and clear refusals."""

import numpy as np
import pytest

import labnet as ln
from labnet.autograd import kept_nbytes
from labnet.errors import GradientError


def network(seed, *, dropout=0.0):
    ln.manual_seed(seed)
    return ln.nn.Sequential(*[ln.nn.TransformerEncoderLayer(8, 2, 16, dropout=dropout) for _ in range(3)])


def values(model, x, gradients):
    return [gradients[t].numpy() for t in (x, *model.parameters())]


def both(model, x, *, checkpointed=True):
    """Return the loss and all gradients of a model whose layers are computed again, or are not."""
    y = x
    for layer in model:
        y = ln.checkpoint(layer)(y) if checkpointed else layer(y)
    loss = (y * y).mean()
    return loss.item(), values(model, x, loss.backward())


def equal(first, second):
    assert first[0] == second[0]
    for a, b in zip(first[1], second[1], strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_loss_gradients_and_random_numbers_are_the_same_to_the_bit(dropout):
    model = network(0, dropout=dropout)
    x = ln.randn((2, 5, 8), requires_grad=True)
    outcomes, drawn = [], []
    for checkpointed in (True, False):
        ln.manual_seed(7)
        outcomes.append(both(model, x, checkpointed=checkpointed))
        drawn.append(ln.rand(3).tolist())
    equal(*outcomes)
    assert drawn[0] == drawn[1]


def test_the_backward_keeps_inputs_only():
    model = network(0)
    x = ln.randn((2, 5, 8), requires_grad=True)
    kept = [kept_nbytes(function(x).node) for function in (model, ln.checkpoint(model))]
    assert kept[1] < kept[0] / 20


def test_checkpoints_lie_inside_of_each_other():
    model = network(0)
    x = ln.randn((2, 5, 8), requires_grad=True)
    inner = [ln.checkpoint(layer) for layer in model]

    @ln.checkpoint
    def whole(x):
        for layer in inner:
            x = layer(x)
        return x

    loss = (whole(x) ** 2).mean()
    equal((loss.item(), values(model, x, loss.backward())), both(model, x, checkpointed=False))


def test_an_input_may_be_computed_from_another_one_and_from_what_the_function_refers_to():
    w = ln.asarray([2.0, 3.0], requires_grad=True)

    def loss(wrap):
        x = w * 2
        y = ln.exp(x) + w
        function = wrap(lambda a, *, b: a * b * x + ln.sin(b) * w)
        return (function(x, b=y) * y).sum()

    found = [loss(wrap).backward()[w].numpy() for wrap in (ln.checkpoint, lambda function: function)]
    np.testing.assert_allclose(*found, rtol=1e-6)


def test_higher_derivatives_are_those_of_the_function():
    x = ln.asarray([0.5, 1.5], requires_grad=True)
    w = ln.asarray(3.0, requires_grad=True)
    found = []
    for wrap in (ln.checkpoint, lambda function: function):
        slope = ln.grad(wrap(lambda x: ln.sin(x * w) ** 2)(x).sum(), x, create_graph=True)
        found.append([g.numpy() for g in ln.grad((slope * slope).sum(), (x, w))])
    for a, b in zip(*found, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6)


def test_writes_to_inputs_do_not_reach_the_backward():
    x = ln.asarray([1.0, 2.0])
    w = ln.asarray([3.0, 4.0], requires_grad=True)
    y = ln.checkpoint(lambda x: x * x * w)(x)
    x += 10
    assert y.sum().backward()[w].tolist() == [1.0, 4.0]


def test_a_parameter_that_changes_in_between_is_refused():
    layer = ln.nn.Linear(2, 2)
    loss = ln.checkpoint(layer)(ln.ones((1, 2))).sum()
    with ln.no_grad():
        layer.weight += 1
    with pytest.raises(GradientError, match=r"a tensor of shape \(2, 2\) that requires gradients was changed"):
        loss.backward()


def test_nothing_is_kept_without_gradients_and_an_identity_passes_them():
    x = ln.ones(2)
    assert ln.checkpoint(ln.exp)(x).node is None
    with ln.no_grad():
        assert ln.checkpoint(ln.exp)(ln.ones(2, requires_grad=True)).node is None
    x = ln.ones(2, requires_grad=True)
    assert ln.checkpoint(lambda x: x)(x).sum().backward()[x].tolist() == [1.0, 1.0]


def test_results_other_than_a_tensor_are_refused():
    with pytest.raises(TypeError, match="one tensor, got tuple"):
        ln.checkpoint(lambda x: (x, x))(ln.ones(2, requires_grad=True))


def test_a_graph_that_is_retained_is_pulled_back_again_and_a_freed_one_is_refused():
    x = ln.ones(2, requires_grad=True)
    loss = ln.checkpoint(ln.exp)(x).sum()
    first = loss.backward(retain_graph=True)[x].tolist()
    assert loss.backward()[x].tolist() == first
    with pytest.raises(GradientError, match="freed"):
        loss.backward()


def test_hooks_of_modules_and_compiled_steps_see_the_function():
    layer, seen = ln.nn.Linear(2, 2), []
    layer.register_full_backward_hook(lambda module, of_inputs, of_outputs: seen.append(of_outputs[0].shape))
    x = ln.ones((3, 2), requires_grad=True)
    ln.checkpoint(layer)(x).sum().backward()
    assert seen == [(3, 2)]
    step = ln.jit(lambda x: ln.grad(ln.checkpoint(lambda x: ln.sin(x) * x)(x).sum(), x))
    np.testing.assert_allclose(step(x).numpy(), np.cos(1) + np.sin(1) * np.ones((3, 2)), rtol=1e-6)


def test_a_served_model_trains_through_checkpoints_and_is_refused_inside_of_one():
    model = ln.nn.Sequential(ln.nn.Linear(2, 8), ln.nn.Tanh(), ln.nn.Linear(8, 1))
    before = [p.numpy().copy() for p in model.parameters()]
    with ln.network.serve_model(ln.checkpoint(model), ln.optim.SGD(lr=0.1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        remote(ln.ones((4, 2))).sum().backward()
        assert all((p.numpy() != old).any() for p, old in zip(model.parameters(), before, strict=True))
        with pytest.raises(GradientError, match="calls a served model"):
            ln.checkpoint(lambda x: remote(x) * 2)(ln.ones((4, 2), requires_grad=True))
