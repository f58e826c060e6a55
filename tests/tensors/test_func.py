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


# vmap

A, B = np.random.default_rng(0).standard_normal((2, 4, 3, 5))
M, LABELS = np.random.default_rng(1).standard_normal((5, 2)), np.array([1, 0, 4, 2])

#: Functions of one slice of `A` (3, 5), and of `B` where it has two arguments.
SLICES = {
    "elementwise": lambda m, x, y: (x * y + 2).exp() / (1 + x * x) - y.tanh(),
    "other ranks": lambda m, x, y: x * y[0] + y[:, :1],
    "constants": lambda m, x, y: x @ m.tensor(M) + m.tensor(M[0]),
    "comparison": lambda m, x, y: m.where(x > y, x, y * 2),
    "sums": lambda m, x, y: x.sum() + x.sum(1).sum() + (x.mean(0) * y.mean(-1, keepdim=True)).sum(),
    "extremes": lambda m, x, y: x.amax(1) + y.amin((0, 1)) + m.var(x, dim=1) + x.prod(0).sum(),
    "positions": lambda m, x, y: x.argmax(1) + y.argmin() + y.max(dim=1)[1],
    "orders": lambda m, x, y: x.sort(dim=0)[0] + y.argsort(1) + x.cumsum(1),
    "softmax": lambda m, x, y: x.softmax(-1) * y.log_softmax(0),
    "matmul": lambda m, x, y: x @ y.T + (x @ y[0])[:, None],
    "vectors": lambda m, x, y: x[0] @ y[1] + (y[2] @ x.T).sum(),
    "shapes": lambda m, x, y: x.reshape(5, -1) + y.T + y.flatten()[:3] + x.unsqueeze(0).squeeze(0).permute(1, 0),
    "parts": lambda m, x, y: m.stack([x[0], y[1]]) @ m.cat([x, y[:, 2:4]], dim=1)[:2, :5].T,
    "indices": lambda m, x, y: x[:, [0, 2, 2]] + y[0, 1] + x[1:2, :3] + y[[0, 1, 2], [1, 2, 3]],
    "flip": lambda m, x, y: x.flip(0) + y.flip((0, 1)) + m.movedim(x, 0, 1).T,
    "norm": lambda m, x, y: x.norm(dim=1) + m.logsumexp(y, 1) + m.lerp(x, y, 0.3)[:, 0],
    "expand": lambda m, x, y: x[:1].expand(3, 5) + y.tril() + y.roll(1, 0),
}


def cases_of_slices():
    return [pytest.param(name, id=name) for name in SLICES]


@pytest.mark.parametrize("name", cases_of_slices())
def test_functions_run_once_for_all_slices(name):
    function, calls = SLICES[name], []

    def ours(x, y):
        calls.append(x.shape)
        return function(ln, x, y)

    found = ln.func.vmap(ours)(ln.tensor(A), ln.tensor(B))
    assert calls == [(3, 5)]
    one = [function(torch, x, y) for x, y in zip(torch.tensor(A), torch.tensor(B), strict=True)]
    np.testing.assert_allclose(found.numpy(), torch.stack(one).numpy(), rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("name", [name for name in SLICES if name != "positions"])
def test_gradients_of_slices_are_torchs(name):
    def slopes(m, t):
        return m.func.vmap(
            m.func.grad(lambda x, y: (SLICES[name](m, x, y) ** 2).sum(), argnums=(0, 1)), in_dims=(0, None)
        )(t(A), t(B[0]))

    def each():
        for x in torch.tensor(A):
            yield torch.func.grad(lambda x, y: (SLICES[name](torch, x, y) ** 2).sum(), argnums=(0, 1))(
                x, torch.tensor(B[0])
            )

    for got, expected in zip(slopes(ln, ln.tensor), zip(*each(), strict=True), strict=True):
        np.testing.assert_allclose(got.numpy(), torch.stack(expected).numpy(), rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("compiled", [False, True])
def test_gradients_per_sample_of_a_model_are_torchs(compiled):
    weights = [np.random.default_rng(k).standard_normal(s) for k, s in enumerate([(6, 5), (6,), (5, 6), (5,)])]
    rows, calls = A[:, 0], []

    def loss(functional):
        def function(w1, b1, w2, b2, x, label):
            if not compiled:
                calls.append(1)
            hidden = functional.relu(functional.linear(x, w1, b1))
            return functional.cross_entropy(functional.linear(hidden, w2, b2)[None], label[None])

        return function

    def slopes(m, functional):
        per_sample = m.func.vmap(m.func.grad(loss(functional), argnums=(0, 1, 2, 3)), in_dims=(None,) * 4 + (0, 0))
        run = ln.jit(per_sample) if compiled and m is ln else per_sample
        return run(*map(m.tensor, weights), m.tensor(rows), m.tensor(LABELS))

    for got, expected in zip(slopes(ln, ln.nn.functional), slopes(torch, torch.nn.functional), strict=True):
        np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=1e-8, atol=1e-10)
    assert len(calls) == (0 if compiled else 2)
    per_sample = ln.func.vmap(ln.func.grad(loss(ln.nn.functional)), in_dims=(None,) * 4 + (0, 0))
    with pytest.raises(IndexError, match=r"\[0, 5\)"):
        per_sample(*map(ln.tensor, weights), ln.tensor(rows), ln.tensor(LABELS + 4))


def test_layers_run_once_for_all_slices():
    model = ln.nn.Sequential(
        ln.nn.Conv2d(2, 3, 2), ln.nn.ReLU(), ln.nn.MaxPool2d(2), ln.nn.Flatten(), ln.nn.Linear(6, 4)
    )
    images = ln.asarray(np.random.default_rng(0).standard_normal((5, 1, 2, 5, 3)).astype("float32"))
    calls = []

    def run(x):
        calls.append(x.shape)
        return model(x)

    found = ln.func.vmap(run)(images)
    assert calls == [(1, 2, 5, 3)]
    np.testing.assert_allclose(found.numpy(), np.stack([model(x).numpy() for x in images]), rtol=1e-5, atol=1e-6)
    ln.grad((found**2).sum(), list(model.parameters()))


def test_higher_derivatives_of_slices():
    hessian = ln.func.vmap(ln.func.hessian(lambda x: (x.sin() * x.sum()).sum()))(ln.tensor(A[:, 0]))
    expected = torch.func.vmap(torch.func.hessian(lambda x: (x.sin() * x.sum()).sum()))(torch.tensor(A[:, 0]))
    np.testing.assert_allclose(hessian.numpy(), expected.numpy(), rtol=1e-9, atol=1e-12)
    nested = ln.func.vmap(ln.func.vmap(ln.func.grad(lambda x: (x**3).sum())))(ln.tensor(A))
    np.testing.assert_allclose(nested.numpy(), 3 * A**2, rtol=1e-12)


def test_a_function_that_decides_on_elements_runs_once_per_slice():
    calls = []

    def function(x):
        calls.append(1)
        return x * 2 if x.sum() > 0 else -x

    found = ln.func.vmap(function)(ln.tensor(A))
    np.testing.assert_allclose(found.numpy(), np.stack([x * 2 if x.sum() > 0 else -x for x in A]))
    assert len(calls) == 1 + len(A)


def test_an_op_without_a_rule_runs_once_per_slice():
    @ln.op(vjp=lambda g, out, x: g * 2)
    def twice(x):
        return np.asarray([2.0]) * x

    found = ln.func.vmap(ln.func.grad(lambda x: (twice(x) ** 2).sum()))(ln.tensor(A))
    np.testing.assert_allclose(found.numpy(), 8 * A)
    np.testing.assert_allclose(
        ln.func.vmap(lambda x: ln.pad(x, 1))(ln.tensor(A)).numpy(), np.pad(A, ((0, 0), (1, 1), (1, 1)))
    )


def test_slices_get_other_random_numbers_and_constants_are_repeated():
    ln.manual_seed(0)
    found, constant = ln.func.vmap(lambda x: (x * 0 + ln.rand(2), ln.ones(2)))(ln.zeros((3, 1)))
    assert len({tuple(row) for row in found.tolist()}) == 3
    assert constant.tolist() == [[1.0, 1.0]] * 3


def test_errors_have_the_shapes_of_one_slice():
    with pytest.raises(ShapeError, match=r"\(3, 5\) @ \(3, 5\)"):
        ln.func.vmap(lambda x: x @ x)(ln.tensor(A))
    with pytest.raises(ln.errors.AxisError, match=r"axis 2|\(3, 5\)"):
        ln.func.vmap(lambda x: x.sum(axis=2))(ln.tensor(A))
    assert (ln.ones(2) + 1).tolist() == [2.0, 2.0]
