"""Random shapes, axes, indices and programs: against NumPy for values, against differences for gradients."""

import functools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import labnet as ln

SHAPES = hnp.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=4)
FILLED = hnp.array_shapes(min_dims=0, max_dims=4, min_side=1, max_side=4)
moderate = settings(max_examples=60, deadline=None)


def values(shape, seed, low=0.3, high=1.7):
    """Distinct numbers, away from the kinks and poles of most functions."""
    rng = np.random.default_rng(seed)
    size = int(np.prod(shape))
    return (low + (high - low) * (rng.permutation(size) + 0.5) / max(size, 1)).reshape(shape)


def check_gradients(function, *arrays, seed=0):
    """Compare gradients of both orders with differences along one random direction."""
    rng = np.random.default_rng(seed)
    directions = [rng.standard_normal(a.shape) for a in arrays]
    weights = rng.standard_normal(function(*map(ln.asarray, arrays)).shape)
    probes = [rng.standard_normal(a.shape) for a in arrays]

    def value(step):
        moved = [ln.asarray(a + step * d) for a, d in zip(arrays, directions, strict=True)]
        return float((function(*moved) * weights).sum())

    def slope(step):
        moved = [ln.asarray(a + step * d, requires_grad=True) for a, d in zip(arrays, directions, strict=True)]
        first = ln.grad((function(*moved) * weights).sum(), moved, create_graph=True)
        return sum((g * p).sum() for g, p in zip(first, probes, strict=True)), moved

    leaves = [ln.asarray(a, requires_grad=True) for a in arrays]
    first = ln.grad((function(*leaves) * weights).sum(), leaves)
    for gradient, leaf in zip(first, leaves, strict=True):
        assert (gradient.shape, gradient.dtype) == (leaf.shape, leaf.dtype)
    got = sum((g.numpy() * d).sum() for g, d in zip(first, directions, strict=True))
    assert got == pytest.approx((value(1e-6) - value(-1e-6)) / 2e-6, rel=1e-5, abs=1e-6)

    total, moved = slope(0.0)
    if isinstance(total, ln.Tensor) and total.requires_grad:
        second = ln.grad(total, moved)
        got = sum((g.numpy() * d).sum() for g, d in zip(second, directions, strict=True))
        assert got == pytest.approx((slope(1e-5)[0].item() - slope(-1e-5)[0].item()) / 2e-5, rel=1e-4, abs=1e-5)


@pytest.mark.parametrize(
    "name", ["add", "subtract", "multiply", "divide", "pow", "maximum", "minimum", "hypot", "atan2", "logaddexp"]
)
@moderate
@given(hnp.mutually_broadcastable_shapes(num_shapes=2, max_dims=3, min_side=0, max_side=3), st.integers(0, 99))
def test_binary_ops_broadcast(name, shapes, seed):
    first, second = shapes.input_shapes
    a, b = values(first, seed), values(second, seed + 1) + 0.001
    function = getattr(ln, name)
    peer = {"atan2": np.arctan2}.get(name) or getattr(np, name)
    np.testing.assert_allclose(function(ln.asarray(a), ln.asarray(b)).numpy(), peer(a, b))
    check_gradients(function, a, b, seed=seed)


@pytest.mark.parametrize("name", ["sum", "mean", "prod", "max", "min", "var", "std", "median", "vector_norm"])
@moderate
@given(st.data())
def test_reductions_over_any_axes(name, data):
    shape = data.draw(FILLED)
    chosen = (
        st.lists(st.integers(0, max(len(shape) - 1, 0)), unique=True, max_size=len(shape)) if shape else st.just([])
    )
    axes = data.draw(st.none() | chosen.map(lambda a: tuple(a)))
    if axes:
        axes = tuple(a - len(shape) if data.draw(st.booleans()) else a for a in axes)
    keepdims = data.draw(st.booleans())
    x = values(shape, data.draw(st.integers(0, 99)))
    spread = x.size // max(np.sum(x, axis=axes).size, 1) > 1
    if name in ("std", "var", "vector_norm") and not spread:
        return  # constant, or a kink of the absolute value
    function = functools.partial(getattr(ln, name), axis=axes, keepdims=keepdims)
    peer = np.linalg.vector_norm if name == "vector_norm" else getattr(np, name)
    if axes != ():
        np.testing.assert_allclose(function(ln.asarray(x)).numpy(), peer(x, axis=axes, keepdims=keepdims))
    check_gradients(function, x)


@pytest.mark.parametrize("name", ["cumulative_sum", "cumulative_prod", "sort", "flip", "diff"])
@moderate
@given(hnp.array_shapes(min_dims=1, max_dims=3, max_side=6), st.data())
def test_ops_along_any_axis(name, shape, data):
    axis = data.draw(st.integers(-len(shape), len(shape) - 1))
    x = values(shape, 1)
    if name == "cumulative_prod":  # zeros, also several of them, have a slope like any other number
        x[data.draw(hnp.arrays(bool, shape))] = 0
    peer = getattr(np, name)
    function = functools.partial(getattr(ln, name), axis=axis)
    np.testing.assert_allclose(function(ln.asarray(x)).numpy(), peer(x, axis=axis))
    check_gradients(function, x)


@moderate
@given(FILLED, st.data())
def test_products_of_zeros_have_exact_gradients(shape, data):
    x = values(shape, 2)
    x[data.draw(hnp.arrays(bool, shape))] = 0
    check_gradients(ln.prod, x)


@moderate
@given(SHAPES, st.data())
def test_reading_and_writing_at_basic_indices(shape, data):
    key = data.draw(hnp.basic_indices(shape, allow_newaxis=True, max_dims=6))
    x = values(shape, 3)
    assert x[key].shape == ln.asarray(x)[key].shape
    np.testing.assert_array_equal(ln.asarray(x)[key].numpy(), x[key])
    check_gradients(lambda t: t[key], x)
    check_gradients(lambda t, v: ln.ops.setitem(t, v, key), x, values(np.shape(x[key]), 4))


@moderate
@given(hnp.array_shapes(min_dims=1, max_dims=3, max_side=4), st.data())
def test_reading_and_writing_at_integer_and_boolean_arrays(shape, data):
    x = values(shape, 5)
    if data.draw(st.booleans()):
        key = data.draw(hnp.arrays(bool, shape))
    else:
        key = data.draw(hnp.integer_array_indices(shape, result_shape=hnp.array_shapes(max_dims=2, max_side=3)))
    np.testing.assert_array_equal(ln.asarray(x)[key].numpy(), x[key])
    check_gradients(lambda t: t[key], x)
    written = x.copy()
    v = values(x[key].shape, 6)
    written[key] = v
    np.testing.assert_array_equal(ln.ops.setitem(x, v, key).numpy(), written)
    check_gradients(lambda t, v: ln.ops.setitem(t, v, key), x, v)


@moderate
@given(st.data())
def test_matmul_of_any_batch_shapes(data):
    shapes = data.draw(
        hnp.mutually_broadcastable_shapes(signature=np.matmul.signature, max_dims=2, min_side=1, max_side=3)
    )
    a, b = (values(shape, i) for i, shape in enumerate(shapes.input_shapes))
    np.testing.assert_allclose(ln.matmul(a, b).numpy(), np.matmul(a, b))
    check_gradients(ln.matmul, a, b)


#: Ways to make a view, given NumPy's or labnet's array and a key.
LOOKS = [
    lambda x, key: x[(*key, ...)] if ... not in key else x[key],  # never one of NumPy's scalars
    lambda x, key: x.mT if x.ndim > 1 else x,
    lambda x, key: x.reshape((-1, *x.shape)) if x.size else x,
    lambda x, key: x[None, ..., ::-1] if x.ndim else x,
]


@st.composite
def view_programs(draw):
    """Steps that make views of a (3, 4) array and write to them."""
    steps, shapes = [], [(3, 4)]
    for _ in range(draw(st.integers(1, 8))):
        source = draw(st.integers(0, len(shapes) - 1))
        key = draw(hnp.basic_indices(shapes[source], allow_newaxis=True, max_dims=4))
        key = key if isinstance(key, tuple) else (key,)
        kind = draw(st.sampled_from(["view", "view", "write", "add", "hold"]))
        look = draw(st.integers(0, len(LOOKS) - 1))
        if kind == "view":
            shapes.append(np.shape(LOOKS[look](np.empty(shapes[source]), key)))
        steps.append((kind, source, key, look))
    return steps


def run(steps, x, factor, held):
    """Carry out a program on arrays or tensors; `held` collects what must not change from then on."""
    made = [x]
    for number, (kind, source, key, look) in enumerate(steps):
        target = made[source]
        if kind == "view":
            made.append(LOOKS[look](target, key))
        elif kind == "write":
            target[key] = factor * (number + 2.0)
        elif kind == "add":
            target += factor
        elif isinstance(x, ln.Tensor):
            held.append((target.numpy(), target.tolist()))
    return made


@settings(max_examples=200, deadline=None)
@given(view_programs())
def test_programs_of_views_and_writes_equal_numpys(steps):
    held = []
    ours = run(steps, ln.asarray(np.arange(12.0).reshape(3, 4)), 1.5, held)
    theirs = run(steps, np.arange(12.0).reshape(3, 4), 1.5, [])
    for tensor, array in zip(ours, theirs, strict=True):
        np.testing.assert_array_equal(tensor.numpy(), array)
    for array, before in held:
        assert array.tolist() == before


@settings(max_examples=100, deadline=None)
@given(view_programs())
def test_gradients_pass_through_programs_of_views_and_writes(steps):
    def function(x, factor):
        made = run(steps, x * 1.0, factor, [])
        return ln.concat([m * m for m in made], axis=None)

    check_gradients(function, np.arange(12.0).reshape(3, 4) / 10, np.array(1.5))
