"""Memory that a compiled step shares with others: views, arrays handed out, and arguments."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import TraceError


def training():
    """A parameter and a step that trains it, and returns what depends on its argument before and after."""
    weight, optimizer = ln.asarray([1.0, 2.0, 3.0, 4.0], requires_grad=True), ln.optim.SGD(lr=0.25)

    def step(x):
        loss = ((weight * 2 + 1) * (weight * weight) * x).sum() + (x * x).sum()
        optimizer(loss.backward())
        return loss

    return weight, step


def followed(compile_step):
    """What a view follows, and what an array keeps that was handed out after the view was gone."""
    weight, step = training()
    step = compile_step(step)
    with ln.no_grad():
        view = weight[0:1]
    step(ln.ones(4))
    seen = view.tolist()
    del view
    step(ln.ones(4))
    kept = weight.numpy()
    before = kept.tolist()
    step(ln.ones(4))
    assert kept.tolist() == before
    return [*seen, *before, *weight.tolist()]


def test_arrays_handed_out_keep_their_values_after_a_view_is_gone(plain_steps):
    np.testing.assert_allclose(followed(ln.jit), followed(lambda step: step), rtol=1e-6)


def detached(weight):
    return weight.detach()


def shared(weight):
    return ln.asarray(weight.numpy())


def view(weight):
    with ln.no_grad():
        return weight[0:4]


@pytest.mark.parametrize("argument", [detached, shared, view])
def test_an_argument_that_shares_memory_with_a_parameter_is_read_as_it_was(argument, plain_steps):
    eager, plain = training()
    compiled, function = training()
    step = ln.jit(function)
    for _ in range(3):
        expected = plain(argument(eager)).item()
        np.testing.assert_allclose(step(argument(compiled)).item(), expected, rtol=1e-5)
        np.testing.assert_allclose(compiled.numpy(), eager.numpy(), rtol=1e-5)


def test_an_update_beside_a_view_from_outside_is_refused():
    weight, optimizer = ln.asarray([1.0, 2.0], requires_grad=True), ln.optim.SGD(lr=0.5)
    with ln.no_grad():
        turned = weight[::-1]

    def step():
        loss = (weight * turned).sum()
        optimizer(loss.backward())
        return loss

    with pytest.raises(TraceError, match="make the view in the function"):
        ln.jit(step)()
    assert step().item() == 4.0


def test_a_view_from_outside_that_does_not_lie_in_rows_follows_its_base(plain_steps):
    base = ln.asarray([1.0, 2.0, 3.0])
    turned = base[::-1]
    function = ln.jit(lambda x: turned * x)
    assert function(ln.ones(3)).tolist() == [3.0, 2.0, 1.0]
    base[0] = 7.0
    assert turned.tolist() == [3.0, 2.0, 7.0]
    assert function(ln.ones(3)).tolist() == [3.0, 2.0, 7.0]
    assert function.specialisations == 1
