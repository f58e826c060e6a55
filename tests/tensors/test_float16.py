"""float16: sums, squares and counts are float32 inside, forward and backward."""

import numpy as np
import pytest

import labnet as ln
from labnet import nn

LONG = np.ones(70000, "float16")
TALL = np.ones((5000, 2), "float16")
LARGE = np.array([[300.0, -300.0, 200.0, 100.0], [1.0, 2.0, 3.0, 500.0]], "float16")
SMALL = np.full((2, 4), 1e-4, "float16")

#: What adds up, squares or counts, in float16 and what it is in float64.
CASES = {
    "mean": (ln.mean, LONG),
    "mean of columns": (lambda x: ln.mean(x, axis=0), TALL),
    "sum of columns": (lambda x: ln.sum(x, axis=0), TALL),
    "sum of everything": (lambda x: ln.sum(x * 0.25), LONG),
    "cumulative_sum": (lambda x: ln.cumulative_sum(x, axis=0), TALL),
    "product": (lambda x: ln.prod(x * 0.01, axis=1), LARGE),
    "var": (lambda x: ln.var(x, axis=1), np.array([[-250.0, 250.0]], "float16")),
    "std": (lambda x: ln.std(x, axis=1), LARGE),
    "norm": (lambda x: ln.vector_norm(x, axis=1), LARGE),
    "norm of order 3": (lambda x: ln.vector_norm(x, axis=1, ord=3), LARGE),
    "small norm": (ln.vector_norm, SMALL),
    "normalize": (nn.normalize, LARGE),
    "softmax": (nn.softmax, LONG),
    "log_softmax": (nn.log_softmax, LONG),
    "layer_norm": (lambda x: nn.layer_norm(x, 4), LARGE),
    "mse": (lambda x: ln.loss.mse(x, x.detach() * 0.5 + 10), LARGE),
    "mae": (lambda x: ln.loss.mae(x, x.detach() * 0), LONG),
    "cross_entropy": (lambda x: ln.loss.cross_entropy(x, ln.zeros(5000, dtype="int64")), TALL),
    "cross_entropy of many classes": (lambda x: ln.loss.cross_entropy(x, ln.asarray(3)), LONG),
    "vecdot": (lambda x: ln.vecdot(x, x * 0.001), LARGE),
    "matmul": (lambda x: ln.matrix_transpose(x) @ x, TALL),
    "broadcast": (lambda x: ln.broadcast_to(x[0], (5000, 2)), TALL),
    "bias": (lambda x: x[0] + ln.zeros((5000, 2), dtype=x.dtype), TALL),
    "linear": (lambda x: nn.linear(ln.ones((5000, 2), dtype=x.dtype), x[:3], x[:3, 0]), TALL),
    "indexing": (lambda x: x[ln.zeros(5000, dtype="int64")], TALL),
    "maximum": (ln.max, LONG),
    "avg_pool2d": (lambda x: nn.avg_pool2d(x.reshape((1, 100, 100)), 100), np.ones((100, 100), "float16")),
    "conv2d": (
        lambda x: nn.conv2d(ln.ones((1, 1, 80, 80), dtype=x.dtype), x.reshape((1, 1, 2, 2))),
        np.full(4, 0.5, "float16"),
    ),
    "atan2": (lambda x: ln.atan2(x, x.detach() * 2), LARGE),
    "atan": (ln.atan, LARGE),
    "asinh": (ln.asinh, LARGE),
    "hypot": (lambda x: ln.hypot(x, x.detach()), LARGE),
    "gelu": (lambda x: nn.gelu(x, approximate="tanh"), LARGE),
    "median": (lambda x: ln.median(x, axis=1), LARGE),
}


@pytest.mark.parametrize("name", CASES)
def test_float16_gives_what_float64_gives_rounded_once(name):
    function, values = CASES[name]
    half, full = ln.asarray(values, requires_grad=True), ln.asarray(values.astype("float64"), requires_grad=True)
    y, z = function(half), function(full)
    gradient = y.backward(np.ones(y.shape, "float16"))[half]
    assert (y.dtype, gradient.dtype) == ("float16", "float16")
    np.testing.assert_allclose(y.numpy(), z.numpy().astype("float16"), rtol=4e-3, atol=1e-6)
    expected = z.backward(np.ones(z.shape))[full].numpy().astype("float16")
    np.testing.assert_allclose(gradient.numpy(), expected, rtol=4e-3, atol=2e-6)


def test_gradients_of_biases_and_filters_count_beyond_2048():
    x, weight = ln.ones((5000, 2), dtype="float16"), ln.ones((3, 2), dtype="float16", requires_grad=True)
    bias = ln.ones(3, dtype="float16", requires_grad=True)
    found = nn.linear(x, weight, bias).backward(np.ones((5000, 3), "float16"))
    assert found[bias].tolist() == [5000.0] * 3
    assert found[weight].tolist() == [[5000.0] * 2] * 3


def test_layers_in_a_sequence_count_beyond_2048():
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU())
    layer = model[0]
    layer.weight, layer.bias = (ln.ones(p.shape, dtype="float16", requires_grad=True) for p in layer.parameters())
    found = model(ln.ones((5000, 2), dtype="float16")).backward(np.ones((5000, 3), "float16"))
    assert found[layer.bias].tolist() == [5000.0] * 3


def test_second_gradients_are_computed_in_float32_too():
    x = ln.asarray(LARGE, requires_grad=True)
    slope = ln.grad(ln.vector_norm(x), x, create_graph=True)
    second = ln.grad((slope * slope).sum(), x)
    assert second.dtype == "float16"
    assert ln.isfinite(second).all()


@pytest.mark.parametrize(
    "create", [lambda: ln.optim.Adam(0.01), lambda: ln.optim.AdamW(0.01), lambda: ln.optim.SGD(0.01, 0.9)]
)
def test_optimizers_remember_float32_for_parameters_of_float16(create):
    half, full = (ln.ones(4, dtype=dtype, requires_grad=True) for dtype in ("float16", "float64"))
    one, other = create(), create()
    slope = np.array([1e-4, -3e-4, 1e-3, 300.0])
    for _ in range(5):
        one((half * ln.asarray(slope.astype("float16"))).sum().backward())
        other((full * ln.asarray(slope)).sum().backward())
    assert half.dtype == "float16"
    np.testing.assert_allclose(half.numpy(), full.numpy(), rtol=1e-3, atol=1e-3)
    state = one.state_dict({"w": half})
    assert {value.dtype.name for name, value in state.items() if name.startswith("w.") and value.ndim} == {"float32"}
    again = create()
    again.load_state_dict(state, {"w": half})
    again((half * ln.asarray(slope.astype("float16"))).sum().backward())
    assert ln.isfinite(half).all()
