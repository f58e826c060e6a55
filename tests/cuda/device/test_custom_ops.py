"""Ops that users declare run on a GPU: as one kernel from an expression, or by what NumPy's functions lead to."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet.kernels.cuda.driver.gpu import current_gpu


def opaque(x):
    return np.array([math.tanh(one) for one in np.ravel(x)], x.dtype).reshape(x.shape) * 2


TANH2 = {"vjp": lambda g, out, x: g * 2 * (1 - out * out / 4)}
OPS = {
    "an expression, and a body that no GPU runs": lambda: ln.op(**TANH2, scalar="2 * tanh(x)")(opaque),
    "an expression alone": lambda: ln.op(scalar="x * sigmoid(x) if x > 0 else y ** 2")(lambda x, y: None),
    "NumPy": lambda: ln.op(**TANH2)(lambda x: 2 * np.tanh(x)),
    "ops": lambda: ln.op(**TANH2)(lambda x: ln.tanh(x) * 2),
    "one rule for two inputs": lambda: ln.custom_vjp(lambda x, y: x * y, lambda g, out, x, y: (g * y, g * x)),
}


@pytest.mark.parametrize("name", OPS)
def test_values_gradients_and_compiled_steps_are_those_of_the_cpu(name):
    function = OPS[name]()
    assert ln.testing.check(function, order=0)[-1] == "on the GPU"
    x, y = (np.linspace(low, 2, 6, dtype="float32").reshape(2, 3) for low in (-2, 0.5))
    count = 2 if name in ("an expression alone", "one rule for two inputs") else 1

    def step(*given):
        return ln.grad((function(*given) ** 2).sum(), list(given))

    slopes = []
    for device in ("cpu", "cuda"):
        given = [ln.asarray(one, device=device, requires_grad=True) for one in (x, y)[:count]]
        slopes += [step(*given), ln.jit(step)(*given)]
    for others in slopes[1:]:
        for one, other in zip(slopes[0], others, strict=True):
            np.testing.assert_allclose(other.to("cpu").numpy(), one.numpy(), rtol=1e-5, atol=1e-6)


def test_an_expression_is_one_kernel():
    function = OPS["an expression, and a body that no GPU runs"]()
    x = ln.ones(5, device="cuda")
    before = current_gpu().launches
    function(x)
    assert current_gpu().launches == before + 1
