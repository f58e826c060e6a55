"""Transformations of functions: values of torch.func, nesting, and what history their results have."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GradientError, ShapeError

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")

pytestmark = pytest.mark.filterwarnings("ignore:`torch.jit.script` is deprecated")

X, Y = np.array([0.5, -1.25, 2.0]), np.array([1.5, 0.25, -0.75])


def curve(x, y):
    return x.sin() * y + x.sum() * x


def height(x, y):
    return (curve(x, y) ** 2).sum()


CASES = {
    "grad": lambda m, t: m.func.grad(height)(t(X), t(Y)),
    "grad of several": lambda m, t: m.func.grad(height, argnums=(0, 1))(t(X), t(Y)),
    "grad of grad": lambda m, t: m.func.grad(lambda x: m.func.grad(height)(x, t(Y)).sum())(t(X)),
    "jvp": lambda m, t: m.func.jvp(curve, (t(X), t(Y)), (t(Y), t(X))),
    "vjp": lambda m, t: m.func.vjp(curve, t(X), t(Y))[1](t(Y)),
    "hessian": lambda m, t: m.func.hessian(height)(t(X), t(Y)),
    "vmap": lambda m, t: m.func.vmap(height)(t(np.stack([X, Y])), t(np.stack([Y, Y]))),
    "vmap of one": lambda m, t: m.func.vmap(height, in_dims=(1, None))(t(np.stack([X, Y], 1)), t(Y)),
    "vmap of grad": lambda m, t: m.func.vmap(m.func.grad(height))(t(np.stack([X, Y])), t(np.stack([Y, X]))),
    "vmap of vmap": lambda m, t: m.func.vmap(m.func.vmap(lambda a: a * a, out_dims=0), out_dims=1)(t(np.outer(X, Y))),
}


def flat(found):
    parts = found if isinstance(found, tuple) else (found,)
    return [part.detach().numpy() for part in parts]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("compiled", [False, True])
def test_values_are_torchs(name, compiled):
    run = CASES[name]

    def ours():
        return run(ln, ln.tensor)

    found = ln.jit(lambda x: [ours(), x])(ln.ones(1))[0] if compiled else ours()
    for got, expected in zip(flat(found), flat(run(torch, torch.tensor)), strict=True):
        np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_jacobians_are_torchs():
    found = ln.func.jacobian(curve, argnums=(0, 1))(ln.tensor(X), ln.tensor(Y))
    expected = torch.func.jacrev(curve, argnums=(0, 1))(torch.tensor(X), torch.tensor(Y))
    for got, wanted in zip(found, expected, strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-12)


def test_value_and_anything_else_come_with_the_gradient():
    (value, note), slope = ln.func.value_and_grad(lambda x: (x.sum(), "seen"), has_aux=True)(ln.tensor(X))
    assert (value.item(), note, slope.tolist()) == (1.25, "seen", [1.0] * 3)
    slope, note = ln.func.grad(lambda x: (x.sum(), "seen"), has_aux=True)(ln.tensor(X))
    assert (slope.tolist(), note) == ([1.0] * 3, "seen")


def test_results_have_only_the_history_of_what_is_outside():
    x, weight = ln.tensor(X), ln.tensor(Y, requires_grad=True)
    value, slope = ln.func.value_and_grad(lambda v: (v * v).sum())(x)
    assert not value.requires_grad
    assert not slope.requires_grad
    slope = ln.func.grad(lambda v: (weight * v * v).sum())(x)
    assert slope.sum().backward()[weight].tolist() == (2 * X).tolist()
    nested = ln.func.grad(lambda a: ln.func.grad(lambda b: a * b * b)(ln.tensor(2.0)))(ln.tensor(3.0))
    assert (nested.item(), nested.requires_grad) == (4.0, False)


def test_derivatives_are_taken_inside_of_no_grad():
    with ln.no_grad():
        assert ln.func.grad(lambda v: (v * v).sum())(ln.tensor(X)).tolist() == (2 * X).tolist()


def test_a_constant_has_the_gradient_zero():
    assert ln.func.grad(lambda x: ln.tensor(1.0))(ln.tensor(X)).tolist() == [0.0] * 3


def test_misuse_names_what_was_expected():
    with pytest.raises(GradientError, match="int64"):
        ln.func.grad(lambda x: x.sum())(ln.tensor([1, 2]))
    with pytest.raises(ShapeError, match=r"\(2,\).*\(3,\)"):
        ln.func.jvp(lambda x: x, (ln.tensor(X),), (ln.ones(2),))
    with pytest.raises(ShapeError, match=r"\[2, 3\]"):
        ln.func.vmap(lambda x, y: x)(ln.ones(2), ln.ones(3))
    with pytest.raises(ShapeError, match="1 arguments and 2 in_dims"):
        ln.func.vmap(lambda x: x, in_dims=(0, 0))(ln.ones(2))
