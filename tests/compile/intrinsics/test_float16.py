"""Compiled sums, squares and counts of float16 are those of eager code, which computes them in float32."""

import numpy as np
import pytest

import labnet as ln

pytestmark = pytest.mark.usefixtures("plain_steps")
LARGE = np.array([[300.0, -300.0, 600.0, 0.0]], "float16")
MANY = np.ones(70_000, "float16")


def slope(function):
    return lambda x: ln.grad(function(x), x)


CASES = {
    "layer_norm": (lambda x: ln.nn.layer_norm(x, 4), LARGE),
    "std": (ln.std, LARGE),
    "var": (lambda x: ln.var(x * 0.25, correction=1), LARGE),
    "mse": (lambda x: ln.loss.mse(x * 0.5, x), LARGE),
    "vector_norm": (ln.vector_norm, LARGE),
    "normalize": (ln.nn.normalize, LARGE),
    "batch norm": (lambda x: ln.nn.BatchNorm1d(2, affine=False, track_running_stats=False)(x.reshape((2, 2))), LARGE),
    "softmax": (lambda x: ln.nn.softmax(x, axis=0)[:3], MANY),
    "log_softmax": (lambda x: ln.nn.log_softmax(x, axis=0)[:3], MANY),
    "var of many": (ln.var, MANY),
    "sum": (lambda x: ln.cumulative_sum(x[:3000])[-1:], MANY),
    "slope of mean": (slope(lambda x: x.mean()), MANY),
    "slope of std": (slope(ln.std), LARGE),
    "slope of mae": (slope(lambda x: ln.loss.mae(x, x.detach() * 0)), MANY),
    "slope of logits": (slope(lambda x: ln.loss.binary_cross_entropy(x, x.detach())), MANY),
    "slope of layer_norm": (slope(lambda x: (ln.nn.layer_norm(x, 4) * x).sum()), LARGE),
}


@pytest.mark.parametrize("name", CASES)
def test_float16_is_computed_as_eagerly(name):
    function, values = CASES[name]
    x = ln.asarray(values, requires_grad=True)
    found, expected = ln.jit(function)(x), function(x)
    assert found.dtype == expected.dtype
    assert np.isfinite(expected.detach().numpy()).all()
    np.testing.assert_allclose(found.numpy(), expected.detach().numpy(), rtol=4e-3, atol=1e-7)
