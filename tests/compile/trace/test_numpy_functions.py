"""NumPy's functions on traced tensors are compiled where they are ops, and refused where they are none."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import TraceError
from tests.helpers.tensors.numpy_calls import CASES, IDS
from tests.tensors.test_numpy_functions import UNIVERSAL, arguments, leaves, tensors

pytestmark = pytest.mark.usefixtures("plain_steps")


def is_array(leaf):
    return isinstance(leaf, ln.Tensor)


def compare(function, args, named):
    """Compile a call and compare its results; None where the eager call is no op."""
    given = tensors(args)
    with np.errstate(all="ignore"):
        expected = [leaf for leaf in leaves(function(*given, **named)) if is_array(leaf)]
    inputs = [leaf for leaf in leaves(given) if is_array(leaf)]

    def call(*traced):
        replaced = iter(traced)

        def filled(value):
            if isinstance(value, list | tuple):
                return type(value)(map(filled, value))
            return next(replaced) if is_array(value) else value

        return [leaf for leaf in leaves(function(*filled(given), **named)) if is_array(leaf)]

    try:
        found = ln.jit(call)(*inputs)
    except TraceError:
        return not expected
    for one, other in zip(found, expected, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        np.testing.assert_allclose(
            one.numpy(), other.numpy(), rtol=1e-6 if one.dtype == "float32" else 1e-9, atol=1e-12
        )
    return True


#: Functions whose results have a shape that depends on the elements, or that need them before they are there.
REFUSED = ("where", "nonzero", "flatnonzero", "argwhere", "unique", "compress", "extract", "repeat", "select")


@pytest.mark.parametrize(("name", "function", "args", "named"), CASES, ids=IDS)
def test_compiled_functions_give_what_eager_ones_give(name, function, args, named):
    assert compare(function, args, named) or name.startswith(REFUSED)


@pytest.mark.parametrize("ufunc", UNIVERSAL, ids=lambda ufunc: ufunc.__name__)
def test_compiled_universal_functions_give_what_eager_ones_give(ufunc):
    assert compare(ufunc, arguments(ufunc), {})


def test_a_step_that_is_written_in_numpy_trains_as_the_eager_one():
    x = ln.asarray(np.linspace(-1, 1, 8))

    def train(compiled):
        w, optimizer = ln.asarray(np.array([0.5, -0.25]), requires_grad=True), ln.optim.SGD(0.1)

        def step(x):
            y = np.sin(x) * w[0] + np.maximum(x, 0) @ np.ones((8,)) * w[1]
            loss = np.mean((y - np.square(x)) ** 2)
            optimizer(loss.backward())
            return loss

        run = ln.jit(step) if compiled else step
        return [run(x).item() for _ in range(3)], w.tolist()

    for one, other in zip(train(compiled=True), train(compiled=False), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-12)


@pytest.mark.parametrize("function", [np.cbrt, np.sinc, np.linalg.inv, lambda x: np.interp(x, [0, 1], [0, 1])])
def test_functions_that_are_no_ops_are_refused_with_the_line(function):
    with pytest.raises(TraceError, match=r"numpy\(\).*test_numpy_functions\.py"):
        ln.jit(lambda x: function(x))(ln.ones((2, 2)))
