"""float16 on a GPU gives what it gives on the CPU, states of optimizers included."""

import numpy as np
import pytest

import labnet as ln
from tests.helpers.cuda.device_arrays import assert_same

TALL = np.ones((3000, 2), "float16")
LARGE = np.array([[300.0, -300.0, 200.0, 100.0], [1.0, 2.0, 3.0, 500.0]], "float16")
CASES = {
    "mean": (ln.mean, np.ones(3000, "float16")),
    "sum of columns": (lambda x: ln.sum(x, axis=0), TALL),
    "norm": (lambda x: ln.vector_norm(x, axis=1), LARGE),
    "layer_norm": (lambda x: ln.nn.layer_norm(x, 4), LARGE),
    "softmax": (ln.nn.softmax, LARGE),
    "mse": (lambda x: ln.loss.mse(x, x.detach() * 0.5 + 10), LARGE),
    "bias": (lambda x: x[0] + ln.zeros((3000, 2), dtype=x.dtype, device=x.device), LARGE[:, :2]),
}


@pytest.mark.parametrize("name", CASES)
def test_sums_and_squares_do_not_overflow(name):
    function, values = CASES[name]
    here, there = (ln.asarray(values, device=device, requires_grad=True) for device in ("cpu", "cuda"))
    expected, found = function(here), function(there)
    assert_same(found, expected.numpy())
    slopes = np.ones(expected.shape, "float16")
    gradient = found.backward(ln.asarray(slopes, device="cuda"))[there]
    assert_same(gradient, expected.backward(slopes)[here].numpy(), atol=2e-3)


@pytest.mark.parametrize("create", [lambda: ln.optim.Adam(0.01), lambda: ln.optim.SGD(0.01, 0.9)])
def test_optimizers_remember_float32(create):
    pair = [ln.ones(3, dtype="float16", device=device, requires_grad=True) for device in ("cpu", "cuda")]
    slope = np.array([1e-4, -3e-4, 30.0], "float16")
    for weight in pair:
        optimizer = create()
        for _ in range(3):
            optimizer((weight * ln.asarray(slope, device=weight.device)).sum().backward())
        state = optimizer.state_dict({"w": weight})
        assert {value.dtype.name for name, value in state.items() if name[0] == "w" and value.ndim} == {"float32"}
    assert_same(pair[1], pair[0].numpy())
