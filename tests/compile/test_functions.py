"""Compiled functions compute what the same functions compute eagerly."""

import itertools
import math

import numpy as np
import pytest

import labnet as ln

rng = np.random.default_rng(0)


def normal(*shape, dtype="float32"):
    return ln.asarray(rng.standard_normal(shape).astype(dtype))


def close(got, expected, tolerance=2e-6):
    assert got.shape == expected.shape
    assert got.dtype == expected.dtype
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=tolerance, atol=tolerance)


FUNCTIONS = {
    "broadcast": (lambda x, y: x * y + 2, (3, 4), (4,)),
    "columns": (lambda x, y: (x + y).sum(axis=0), (5, 4), (5, 1)),
    "rows": (lambda x, y: ln.max(x - y, axis=-1, keepdims=True), (5, 4), (4,)),
    "middle": (lambda x, y: ln.sum(x * y, axis=(0, 2)), (3, 4, 5), (4, 1)),
    "everything": (lambda x, y: ln.mean(ln.exp(x) / (1 + y * y)), (3, 4), (3, 4)),
    "matmul": (lambda x, y: x @ y, (3, 4), (4, 5)),
    "wide": (lambda x, y: x @ y + x.T @ x @ y, (5, 5), (5, 19)),
    "turned": (lambda x, y: (x.T @ y.T).T, (3, 4), (5, 3)),
    "vectors": (lambda x, y: x @ y, (4,), (4, 5)),
    "batches": (lambda x, y: x @ y, (2, 1, 3, 4), (5, 4, 2)),
    "stack": (lambda x, y: x @ y, (2, 3, 4), (4, 2)),
    "reshape": (lambda x, y: ln.permute_dims(x, (1, 0)).reshape((2, 6)) + y, (3, 4), (6,)),
    "flip": (lambda x, y: ln.flip(x, axis=1) - y, (3, 4), (3, 4)),
    "softmax": (lambda x, y: ln.nn.softmax(x, axis=0) * ln.nn.log_softmax(y), (3, 4), (3, 4)),
    "activations": (lambda x, y: ln.nn.relu(x) + ln.nn.sigmoid(y) * ln.tanh(x) - ln.nn.gelu(y), (3, 4), (3, 4)),
    "choice": (lambda x, y: ln.where(x > y, x, 0) + ln.clip(y, -0.5, 0.5), (3, 4), (3, 4)),
    "powers": (lambda x, y: ln.abs(x) ** 1.5 + y**2 - (ln.abs(y) + 1) ** -0.5, (3, 4), (3, 4)),
    "statistics": (lambda x, y: ln.var(x, axis=0) + ln.std(y, axis=0), (6, 4), (6, 4)),
    "normalised": (lambda x, y: ln.nn.layer_norm(x, 4) * y, (3, 4), (4,)),
    "empty": (lambda x, y: (x + y).sum(axis=0), (0, 4), (4,)),
}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_functions_compute_what_they_compute_eagerly(name, dtype):
    function, *shapes = FUNCTIONS[name]
    arguments = [normal(*shape, dtype=dtype) for shape in shapes]
    close(ln.jit(function)(*arguments), function(*arguments), 3e-6 if dtype == "float32" else 1e-12)


def test_elementwise_functions_are_exact_to_single_precision_everywhere():
    x = np.concatenate([np.linspace(-105, 90, 20001), [np.inf, -np.inf, np.nan, 0.0, 1e-40, -1e-3]]).astype("float32")
    both = ln.jit(lambda x: (ln.exp(x), ln.log(ln.abs(x)), ln.tanh(x), ln.nn.sigmoid(x), ln.nn.relu(x)))
    with np.errstate(all="ignore"):
        wide = x.astype("float64")
        expected = (np.exp(wide), np.log(np.abs(wide)), np.tanh(wide), 1 / (1 + np.exp(-wide)), np.maximum(wide, 0))
        for got, right in zip(both(ln.asarray(x)), expected, strict=True):
            single = right.astype("float32")
            np.testing.assert_allclose(got.numpy(), single, rtol=4e-7, atol=2e-38)


def test_error_function_and_its_like_are_exact_to_single_precision_everywhere():
    x = np.concatenate([np.linspace(-9, 9, 20001), 10.0 ** np.arange(-30, 30), -(10.0 ** np.arange(-30, 2))])
    x = np.concatenate([x, [np.inf, -np.inf, np.nan, 0.0, -1.0]]).astype("float32")
    compiled = ln.jit(lambda x: (ln.erf(x), ln.expm1(x), ln.log1p(ln.maximum(x, -1.0))))
    with np.errstate(all="ignore"):
        wide = x.astype("float64")
        expected = (np.vectorize(math.erf)(wide), np.expm1(wide), np.log1p(np.maximum(wide, -1)))
        for got, right in zip(compiled(ln.asarray(x)), expected, strict=True):
            np.testing.assert_allclose(got.numpy(), right.astype("float32"), rtol=5e-7, atol=1e-38)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_nan_is_the_greatest_and_the_smallest_of_a_row(dtype):
    x = rng.standard_normal((5, 70)).astype(dtype)
    x[1, 3], x[2, 69], x[3], x[4] = np.nan, -np.nan, -np.inf, np.inf
    compiled = ln.jit(lambda x: (ln.max(x, axis=1), ln.min(x, axis=1), ln.max(x, axis=0), ln.min(x)))
    for got, expected in zip(compiled(ln.asarray(x)), (x.max(1), x.min(1), x.max(0), x.min()), strict=True):
        np.testing.assert_array_equal(got.numpy(), expected)


def test_results_may_be_tuples_lists_and_dicts():
    function = ln.jit(lambda x: {"twice": x * 2, "both": (x, [x + 1, 7])})
    found = function(ln.asarray([1.0, 2.0]))
    assert found["twice"].tolist() == [2.0, 4.0]
    assert found["both"][0].tolist() == [1.0, 2.0]
    assert found["both"][1][0].tolist() == [2.0, 3.0]
    assert found["both"][1][1] == 7


def test_results_of_two_calls_do_not_share_memory():
    function = ln.jit(lambda x: x + 1)
    first = function(ln.zeros(3))
    function(ln.ones(3))
    assert first.tolist() == [1.0, 1.0, 1.0]


def test_integers_and_booleans():
    function = ln.jit(lambda x: (x * 2, x > 1, (x > 1).astype("float32"), x / 2, ln.sum(x > 0)))
    x = ln.asarray([1, 2, 3])
    for got, expected in zip(function(x), function._function(x), strict=True):
        assert got.dtype == expected.dtype
        assert got.tolist() == expected.tolist()


def test_arguments_that_do_not_lie_in_rows_are_understood():
    function = ln.jit(lambda x: x * 2)
    x = normal(3, 4)
    function(x.T.astype("float64").astype("float32"))
    close(function(ln.asarray(x.numpy().T)), x.T * 2)


def test_named_arguments_numpy_arrays_and_constants():
    function = ln.jit(lambda x, scale, *, offset: x * scale + offset)
    assert function(np.ones(2, "float32"), 3, offset=ln.ones(2)).tolist() == [4.0, 4.0]
    assert function(np.ones(2, "float32"), 4, offset=ln.ones(2)).tolist() == [5.0, 5.0]
    assert function(np.ones(2, "float32"), 4, offset=ln.zeros(2)).tolist() == [4.0, 4.0]
    assert function.specialisations == 2


def test_gradients_inside_a_function():
    def slope(x):
        weight = x * 1.0
        return ln.grad((weight * weight * weight).sum(), x)

    x = ln.asarray([1.0, 2.0], requires_grad=True)
    assert ln.jit(slope)(x).tolist() == [3.0, 12.0]


def test_random_numbers_are_those_of_the_eager_stream():
    drop = ln.nn.Dropout(0.5)
    compiled, x = ln.jit(lambda x: drop(x) + ln.randn((2, 3))), ln.ones((2, 3))
    ln.manual_seed(4)
    expected = [compiled._function(x).tolist() for _ in range(3)]
    ln.manual_seed(4)
    assert [compiled(x).tolist() for _ in range(3)] == expected


PARTS = {
    "slices": lambda x: x[1:, ::2] * x[0, 1],
    "joined": lambda x: ln.concat([x, x[:1] * 2, ln.zeros((1, 4))]),
    "stacked": lambda x: ln.stack([x, -x], axis=1),
    "padded": lambda x: ln.pad(x, ((1, 0), (0, 2))),
    "triangle": lambda x: ln.tril(x) + ln.triu(x, k=1) * 2,
}


@pytest.mark.parametrize("name", PARTS)
def test_parts_are_read_and_put_together_with_their_gradients(name):
    def run(x):
        out = PARTS[name](x)
        return out, ln.grad((out * out).sum(), x)

    x = ln.asarray(rng.standard_normal((3, 4)).astype("float32"), requires_grad=True)
    for got, expected in zip(ln.jit(run)(x), run(x), strict=True):
        close(got, expected)


def test_copies_that_are_asked_for_are_copies():
    def function(x):
        return x.T.reshape((4,)), ln.reshape(x, (4,), copy=True), ln.reshape(x.T, (4,), copy=True), x.T

    x = normal(2, 2)
    for got, expected in zip(ln.jit(function)(x), function(x), strict=True):
        close(got, expected)


def test_matrices_are_turned():
    shapes = [(8, 8), (16, 24), (2, 3, 8, 16), (9, 8), (8, 12)]
    given = [
        np.arange(np.prod(shape)).reshape(shape).astype(dtype) for shape in shapes for dtype in ("float32", "int64")
    ]
    turned = ln.jit(lambda given: [ln.matrix_transpose(x).reshape((-1,)) for x in given])
    for x, found in zip(given, turned([ln.asarray(x) for x in given]), strict=True):
        assert found.tolist() == np.swapaxes(x, -1, -2).ravel().tolist()


@pytest.mark.parametrize("turned", ["left", "right", "neither"])
def test_products_of_small_matrices(turned):
    def as_given(x, side):
        return ln.asarray(np.ascontiguousarray(np.swapaxes(x, -1, -2) if turned == side else x))

    def product(x, y):
        x = ln.matrix_transpose(x) if turned == "left" else x
        return x @ (ln.matrix_transpose(y) if turned == "right" else y)

    rng = np.random.default_rng(0)
    sizes = [*itertools.product([()], [1, 8, 13], [1, 8, 27]), ((3,), 5, 16)]
    pairs = [
        [rng.standard_normal((*batch, *shape)).astype("float32") for shape in ((rows, 6), (6, columns))]
        for batch, rows, columns in sizes
    ]
    products = ln.jit(lambda pairs: [product(x, y) for x, y in pairs])
    found = products([(as_given(a, "left"), as_given(b, "right")) for a, b in pairs])
    for (a, b), c in zip(pairs, found, strict=True):
        np.testing.assert_allclose(c.numpy(), a @ b, rtol=1e-5, atol=1e-5)


def test_tanh_keeps_signs_and_limits():
    numbers = np.asarray([0.0, -0.0, np.inf, -np.inf, np.nan, 9.1, -9.1, 1e-30], "float32")
    found = ln.jit(ln.tanh)(ln.asarray(numbers)).numpy()
    np.testing.assert_array_equal(np.signbit(found[:4]), [False, True, False, True])
    assert found[2:4].tolist() == [1.0, -1.0]
    assert np.isnan(found[4])
    assert found[5:7].tolist() == [1.0, -1.0]
    assert found[7] == numbers[7]
    wide = np.linspace(-12, 12, 100_001, dtype="float32")
    exact = np.tanh(wide.astype("float64"))
    found = ln.jit(ln.tanh)(ln.asarray(wide)).numpy()
    assert np.abs(found).max() <= 1
    np.testing.assert_allclose(found, exact, rtol=4e-7, atol=0)


OF_INTEGERS = {
    "sigmoid": ln.nn.sigmoid,
    "silu": ln.nn.silu,
    "softmax": ln.nn.softmax,
    "log_softmax": ln.nn.log_softmax,
    "logsumexp": ln.logsumexp,
    "logit": ln.logit,
    "binary cross entropy": lambda x: ln.ops.binary_cross_entropy_with_logits(x, x),
    "mean squared error": lambda x: ln.ops.mean_squared_error(x, ln.flip(x)),
}


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint8", "uint16", "int64"])
@pytest.mark.parametrize("name", OF_INTEGERS)
def test_integers_are_not_subtracted_and_negated_as_integers(name, dtype):
    function = OF_INTEGERS[name]
    x = ln.asarray(np.asarray([0, 1, 2, 3, 100, 7], dtype))
    with np.errstate(divide="ignore", invalid="ignore"):  # odds of 0 and 1, and of what is no probability
        eager, exact = function(x), function(x.astype("float64"))
    tolerance = 2e-3 if eager.dtype == "float16" else 1e-6
    np.testing.assert_allclose(eager.numpy().astype("float64"), exact.numpy(), rtol=tolerance, atol=tolerance)
    close(ln.jit(function)(x), eager, tolerance)
