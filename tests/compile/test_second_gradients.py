"""Gradients of gradients: those of a compiled function are those of an eager one."""

import numpy as np
import pytest

import labnet as ln
from labnet.nn.layers.recurrence import recur

FUNCTIONS = {
    **{name: (getattr(ln, name), (3, 2)) for name in ("exp", "tanh", "sqrt", "reciprocal", "square", "sin", "log")},
    "sigmoid": (ln.nn.sigmoid, (3, 2)),
    "softmax": (ln.nn.softmax, (3, 2)),
    "gelu": (ln.nn.gelu, (3, 2)),
    "norm": (lambda x: ln.nn.layer_norm(x, 3), (2, 3)),
    "quotient": (lambda x, y: x / y, (2, 3), (3,)),
    "power": (lambda x, y: x**y, (3,), (3,)),
    "product": (lambda x, y: ln.tanh(x @ ln.matrix_transpose(y)), (2, 3), (4, 3)),
    "parts": (lambda x, y: ln.tanh(ln.concat([x[:, :2] * x[:, 1:], y], axis=1)), (2, 3), (2, 2)),
    "greatest": (lambda x: ln.max(x * x, axis=0), (3, 2)),
    "LSTM": (recur, (2, 1, 8), (8, 2), (1, 2), (1, 2)),
}


@pytest.mark.parametrize("name", FUNCTIONS)
def test_second_gradients_are_those_of_eager_code(name, plain_steps):
    function, *shapes = FUNCTIONS[name]
    rng = np.random.default_rng(0)
    given = [ln.asarray(rng.uniform(0.2, 1.2, shape), requires_grad=True) for shape in shapes]

    def run(*inputs):
        out = function(*inputs)
        slopes = ln.grad((out * out).sum(), list(inputs), create_graph=True)
        total = slopes[0].sum()
        for slope in slopes:
            total = total + (slope * slope).sum()
        return [total, *ln.grad(total, list(inputs))]

    for right, found in zip(run(*given), ln.jit(run)(*given), strict=True):
        np.testing.assert_allclose(found.numpy(), right.numpy(), rtol=1e-9, atol=1e-12)
