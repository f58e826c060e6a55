"""Compiled functions block infinite gradients where eager ones do."""

import math

import numpy as np
import pytest

import labnet as ln
from tests.helpers.tensors.gradient_blocking import BLOCKING, FLAT, VALUES

pytestmark = pytest.mark.usefixtures("plain_steps")

CASES = {**{name: (function, VALUES) for name, function in BLOCKING.items()}, **FLAT}


@pytest.mark.parametrize("upstream", [1.0, math.inf, math.nan])
@pytest.mark.parametrize("name", [name for name in CASES if name != "dropout"])
def test_compiled_gradients_at_blocked_values_are_the_eager_ones(name, upstream):
    function, values = CASES[name]
    x = ln.asarray(np.array(values), requires_grad=True)

    def slope(x):
        y = function(x)
        return ln.grad(y, x, ln.full_like(y, upstream))

    with np.errstate(all="ignore"):
        np.testing.assert_allclose(ln.jit(slope)(x).numpy(), slope(x).numpy())


@pytest.mark.parametrize(("kernel", "stride", "padding"), [(2, 2, 1), (3, 1, 1), (2, 2, 0)])
@pytest.mark.parametrize("value", [-math.inf, math.nan])
def test_compiled_pooling_never_gives_a_gradient_to_the_padding(kernel, stride, padding, value):
    values = np.full((1, 4, 4), -math.inf)
    values[0, 1, 2] = value
    x = ln.asarray(values, requires_grad=True)

    def slope(x):
        return ln.grad(ln.nn.max_pool2d(x, kernel, stride, padding).sum(), x)

    np.testing.assert_array_equal(ln.jit(slope)(x).numpy(), slope(x).numpy())
