"""Random programs: values and gradients of compiled functions are those of eager ones."""

import os

import numpy as np
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labnet as ln

#: Programs per run; each is compiled, which takes a second. LABNET_PROGRAMS asks for more.
EXAMPLES = int(os.environ.get("LABNET_PROGRAMS", "15"))
UNARY = ("tanh", "exp", "negative", "abs", "square", "relu", "sigmoid", "softmax")
BINARY = ("add", "subtract", "multiply", "maximum", "minimum", "where")
SHAPING = ("transpose", "flip", "row", "slice", "sum0", "sum1", "mean", "max1", "flatten", "pair", "product", "stretch")


def shaped(name, x):
    """Change the shape of a tensor in one way; one that does not suit gets through unchanged."""
    if name in ("transpose", "sum1", "max1", "slice", "product") and x.ndim < 2:
        return x
    return {
        "transpose": lambda: ln.permute_dims(x, tuple(reversed(range(x.ndim)))),
        "flip": lambda: ln.flip(x, axis=0) if x.ndim else x,
        "row": lambda: x[0] if x.ndim and x.shape[0] else x,
        "slice": lambda: x[:, ::2],
        "sum0": lambda: ln.sum(x, axis=0, keepdims=True) if x.ndim else x,
        "sum1": lambda: ln.sum(x, axis=1),
        "mean": lambda: ln.mean(x) if x.size else x,
        "max1": lambda: ln.max(x, axis=-1, keepdims=True) if x.shape[-1] else x,
        "flatten": lambda: x.reshape((-1,)),
        "pair": lambda: ln.concat([x, x * 2], axis=0) if x.ndim else x,
        "product": lambda: (x @ ln.permute_dims(x, (*range(x.ndim - 2), x.ndim - 1, x.ndim - 2))) * 0.1,
        "stretch": lambda: x[None, ...] if x.ndim < 3 else x,
    }[name]()


def single(name, x):
    if name == "softmax":
        return ln.nn.softmax(x) if x.ndim and x.shape[-1] else x
    if name == "exp":
        return ln.exp(ln.minimum(x, 2.0))
    return getattr(ln, name, None)(x) if hasattr(ln, name) else getattr(ln.nn, name)(x)


def double(name, x, y):
    try:
        np.broadcast_shapes(x.shape, y.shape)
    except ValueError:
        y = ln.sum(y)
    if name == "where":
        return ln.where(x > y, x, y * 0.5)
    return getattr(ln, name)(x, y)


steps = st.lists(
    st.tuples(st.sampled_from(UNARY + BINARY + SHAPING), st.integers(0, 20), st.integers(0, 20)), min_size=1, max_size=8
)
shapes = st.lists(st.lists(st.sampled_from([1, 2, 3, 4]), min_size=0, max_size=3).map(tuple), min_size=1, max_size=3)


def program(plan):
    """Return the function that a plan describes: a scalar loss and the gradients of its inputs."""

    def run(*inputs):
        values = list(inputs)
        for name, first, second in plan:
            x, y = values[first % len(values)], values[second % len(values)]
            if name in SHAPING:
                values.append(shaped(name, x))
            else:
                values.append(single(name, x) if name in UNARY else double(name, x, y))
        loss = ln.sum(values[-1] * values[-1]) * 0.01 + ln.sum(ln.tanh(values[-1]))
        return [loss, values[-1], *ln.grad(loss, list(inputs))]

    return run


@settings(max_examples=EXAMPLES, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(steps, shapes, st.sampled_from(["float32", "float64"]))
def test_random_programs_compute_the_same_values_and_gradients(plan, shapes, dtype):
    rng = np.random.default_rng(len(plan))
    inputs = [ln.asarray(rng.uniform(-1, 1, shape).astype(dtype), requires_grad=True) for shape in shapes]
    function = program(plan)
    expected, got = function(*inputs), ln.jit(function)(*inputs)
    for right, found in zip(expected, got, strict=True):
        assert found.shape == right.shape
        assert found.dtype == right.dtype
        scale = max(1.0, float(np.abs(right.numpy()).max(initial=0.0)))
        tolerance = (2e-5 if dtype == "float32" else 1e-11) * scale
        np.testing.assert_allclose(found.numpy(), right.numpy(), rtol=tolerance, atol=tolerance)
