"""Compiled pooling in float32 beside eager pooling, which torch's is the model of."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.backends import cpu_program
from tests.helpers.compile import interpreter

#: (shape, kernel, options): windows that fill rows or not, of whole vectors or less, that overlap or reach outside.
CASES = [
    ((2, 3, 4, 4), 2, {}),
    ((1, 1, 2, 2), 2, {}),
    ((2, 1, 6, 26), 2, {}),
    ((2, 2, 7, 33), 2, {}),
    ((1, 2, 9, 32), (3, 1), {}),
    ((1, 2, 5, 70), (1, 3), {}),
    ((3, 9, 100), (3, 4), {}),
    ((9, 11), 3, {}),
    ((2, 2, 5, 5), 1, {}),
    ((2, 2, 9, 9), 3, {"stride": 2}),
    ((2, 2, 9, 9), 2, {"padding": 1}),
    ((2, 2, 9, 9), 2, {"stride": 3}),
]


def images(shape, values):
    """Return images with few different numbers, so that windows have several greatest elements, or with some NaN."""
    rng = np.random.default_rng(sum(shape))
    if values == "ties":
        return rng.integers(-1, 2, shape).astype("float32")
    x = rng.standard_normal(shape).astype("float32")
    x[rng.random(shape) < {"normal": 0.0, "nan": 0.1}[values]] = np.nan
    return x


def pooled(x, kernel, options):
    out = ln.nn.max_pool2d(x, kernel, **options)
    weights = ln.reshape(ln.arange(1, out.size + 1, dtype="float32"), out.shape)
    return out, ln.grad((out * weights).sum(), x)


def compare(cases):
    given = [ln.asarray(images(shape, values), requires_grad=True) for (shape, _, _), values in cases]

    def function(*given):
        return [pooled(x, kernel, options) for ((_, kernel, options), _), x in zip(cases, given, strict=True)]

    for case, got, wanted in zip(cases, ln.jit(function)(*given), function(*given), strict=True):
        for one, other in zip(got, wanted, strict=True):
            np.testing.assert_array_equal(one.numpy(), other.numpy(), err_msg=str(case), strict=True)


@pytest.mark.parametrize("values", ["normal", "ties", "nan"])
@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_greatest_and_its_gradient_are_eager_ones(monkeypatch, case, values):
    monkeypatch.setattr(cpu_program.cache, "load", interpreter.load)
    compare([(case, values)])


@pytest.mark.parametrize("values", ["normal", "ties", "nan"])
def test_machine_code_finds_the_greatest_and_its_gradient(values):
    compare([(case, values) for case in CASES])


def test_second_gradients_are_eager_ones():
    x = ln.asarray(images((2, 2, 6, 6), "normal"), requires_grad=True)

    def function(x):
        slope = ln.grad((ln.nn.max_pool2d(x, 2) ** 3).sum(), x, create_graph=True)
        return ln.grad((slope * slope).sum(), x)

    np.testing.assert_allclose(ln.jit(function)(x).numpy(), function(x).numpy(), rtol=1e-5)
