"""Gradients on a GPU are blocked where they are on the CPU."""

import math

import numpy as np
import pytest

import labnet as ln
from tests.helpers.cuda.device_arrays import assert_same
from tests.helpers.tensors.gradient_blocking import BLOCKING, FLAT, VALUES

CASES = {**{name: (function, VALUES) for name, function in BLOCKING.items()}, **FLAT}


def slope(function, values, upstream, device):
    x = ln.asarray(np.array(values, "float32"), device=device, requires_grad=True)
    with np.errstate(all="ignore"):
        out = function(x)
        return out.backward(ln.full_like(out, upstream))[x]


@pytest.mark.parametrize("upstream", [1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", CASES)
def test_gradients_at_blocked_values_are_those_of_the_cpu(name, upstream):
    function, values = CASES[name]
    expected = slope(function, values, upstream, "cpu")
    assert_same(slope(function, values, upstream, "cuda"), expected.numpy())


@pytest.mark.parametrize("value", [-math.inf, math.nan, 1.0])
@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 1), (3, 1, 1), (2, 2, 0)])
def test_pooling_never_gives_a_gradient_to_the_padding(value, kernel, stride, padding):
    values = np.full((1, 4, 4), -math.inf)
    values[0, 1, 2] = value

    def pool(x):
        return ln.nn.max_pool2d(x, kernel, stride, padding)

    assert_same(slope(pool, values, 1.0, "cuda"), slope(pool, values, 1.0, "cpu").numpy())


def test_a_query_without_keys_attends_to_nothing():
    values = np.random.default_rng(0).standard_normal((2, 3, 4)).astype("float32")
    mask = np.array([[[True] * 3] * 3, [[False] * 3, [True] * 3, [False, True, False]]])

    def attend(x):
        return ln.nn.scaled_dot_product_attention(x, x, x, ln.asarray(mask, device=x.device))

    assert_same(slope(attend, values, 1.0, "cuda"), slope(attend, values, 1.0, "cpu").numpy(), rtol=1e-4, atol=1e-5)
