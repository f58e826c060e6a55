"""Kernels of scans, selection and convolution: used where they fit, and the same bits as NumPy."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet import kernels, nn
from labnet.errors import ShapeError
from labnet.kernels.threads import THREADS
from labnet.ops.selection.order_statistics import argselect
from tests.tensors.test_kernels import loaded, with_and_without  # noqa: F401

SPECIAL = (np.nan, np.inf, -np.inf, -0.0, 0.0)


def normal(*shape, seed=0, special=False):
    x = np.random.default_rng(seed).standard_normal(shape).astype("float32")
    if special:
        x.flat[3 : 3 + 7 * len(SPECIAL) : 7] = SPECIAL[: len(x.flat[3 : 3 + 7 * len(SPECIAL) : 7])]
    return x


def passes(function, *arrays):
    """Return a function that computes the result of an op and its gradients."""

    def compute():
        leaves = [ln.asarray(array, requires_grad=True) for array in arrays]
        out = function(*leaves)
        found = out.backward(ln.asarray(normal(*out.shape, seed=9)))
        return [out.numpy(), *(found[leaf].numpy() for leaf in leaves)]

    return compute


def assert_computed(monkeypatch, compute, names):
    """Check that these kernels compute, and that NumPy computes the same bits without them."""
    statuses = {}
    with monkeypatch.context() as patch:
        for name in names:
            kernel = getattr(kernels, name)

            def run(*arguments, compiled=kernel.compiled, name=name):
                statuses.setdefault(name, []).append(compiled(*arguments))
                return statuses[name][-1]

            patch.setattr(kernel, "compiled", run)
            patch.setattr(THREADS, "run", lambda function, parts: all(function(*part) for part in parts))
        with np.errstate(all="ignore"):
            fast, slow = with_and_without(compute)
    assert set(statuses) == set(names)
    assert all(all(status) for status in statuses.values())
    assert_same_bits(fast, slow)


def _order(x):
    """Return the order of an array's dimensions in memory, which decides the order of later sums."""
    return [step for step, length in zip(x.strides, x.shape, strict=True) if length > 1]


def assert_same_bits(fast, slow):
    for one, other in zip(fast, slow, strict=True):
        assert (one.dtype, one.shape) == (other.dtype, other.shape)
        assert one.size < 2 or _order(one) == _order(other)
        missing = np.isnan(one)
        np.testing.assert_array_equal(missing, np.isnan(other))
        bits = [np.where(missing, 0, x).view(f"u{x.itemsize}") for x in (one, other)]
        np.testing.assert_array_equal(*bits)


# Cumulative sums and products


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize("op", [ln.cumulative_sum, ln.cumulative_prod])
@pytest.mark.parametrize(
    ("shape", "axis"),
    [((1,), 0), ((7,), 0), ((1000,), 0), ((5, 1), 1), ((1, 5), 0), ((6, 130), -1), ((130, 6), 0), ((3, 40, 5), 1)],
)
def test_scans_have_the_same_bits(monkeypatch, op, shape, axis, special):
    x = normal(*shape, special=special)
    assert_computed(monkeypatch, passes(lambda x: op(x, axis=axis), x), ["scan"])


def test_no_elements_are_left_to_numpy():
    x = ln.zeros((3, 0), requires_grad=True)
    for axis in (0, 1):
        assert ln.cumulative_sum(x, axis=axis).backward(ln.zeros((3, 0)))[x].shape == (3, 0)
        assert ln.prod(x, axis=axis).shape == (0,) if axis == 0 else (3,)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis"), [((256,), None), ((257,), 0), ((1000, 3), None), ((3, 1000), 1), ((2, 3, 20, 31), (2, 3))]
)
def test_products_have_the_same_bits(monkeypatch, shape, axis, special):
    x = np.exp(normal(*shape, special=special) * np.float32(0.1))
    assert_computed(monkeypatch, lambda: [ln.prod(ln.asarray(x), axis=axis).numpy()], ["prod"])


def test_products_are_those_of_numpy():
    x = np.exp(normal(6, 1003) * np.float32(0.1))
    for axis, keepdims in ((None, False), (1, False), (1, True), ((0, 1), True), (-1, False), (0, False)):
        out = ln.prod(ln.asarray(x), axis=axis, keepdims=keepdims)
        np.testing.assert_allclose(out.numpy(), np.prod(x.astype("float64"), axis=axis, keepdims=keepdims), rtol=1e-4)
    with pytest.raises(ln.errors.AxisError):
        ln.prod(ln.asarray(x), axis=2)


@pytest.mark.parametrize("zeros", [[], [3], [3, 7]])
@pytest.mark.parametrize("op", [ln.prod, ln.cumulative_prod])
def test_gradients_of_products_with_and_without_zeros(op, zeros):
    x = np.exp(np.random.default_rng(1).standard_normal((2, 11)))
    x[1, zeros] = 0
    g = np.random.default_rng(2).standard_normal((2,) if op is ln.prod else (2, 11))
    leaf = ln.asarray(x, requires_grad=True)
    found = op(leaf, axis=1).backward(ln.asarray(g))[leaf].numpy()
    expected = np.zeros_like(x)
    for i in range(11):  # the product is linear in each factor
        one = [np.where(np.arange(11) == i, value, x) for value in (1.0, 0.0)]
        slope = np.subtract(*((np.prod if op is ln.prod else np.cumprod)(part, axis=1) for part in one))
        expected[:, i] = g * slope if op is ln.prod else (g * slope).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-10, atol=1e-12)


def test_the_gradient_of_a_product_that_is_too_small_for_a_float_is_not_zero():
    x = ln.asarray([1e-30, 1e-30], requires_grad=True)
    np.testing.assert_allclose(ln.prod(x).backward()[x].numpy(), [1e-30, 1e-30], rtol=1e-6)


# Positions along a dimension


def positions(length, shape):
    return np.random.default_rng(3).integers(-length, length, shape)


@pytest.mark.parametrize("special", [False, True])
@pytest.mark.parametrize(
    ("shape", "axis", "count"), [((40,), 0, 100), ((9, 30), 1, 70), ((30, 9), 0, 8), ((3, 20, 5), 1, 30)]
)
def test_reading_along_a_dimension_has_the_same_bits(monkeypatch, shape, axis, count, special):
    index = positions(shape[axis], (*shape[:axis], count, *shape[axis + 1 :]))
    x = normal(*shape, special=special)
    compute = passes(lambda x: ln.take_along_axis(x, ln.asarray(index), axis=axis), x)
    assert_computed(monkeypatch, compute, ["gather", "scatter_add"])
    expected = np.zeros(shape, "float32")
    np.add.at(expected, _grid(index, axis), normal(*index.shape, seed=9))
    out, gradient = compute()
    np.testing.assert_array_equal(out, np.take_along_axis(x, index, axis))
    np.testing.assert_array_equal(gradient, expected)


def _grid(index, axis):
    grid = list(np.ogrid[tuple(slice(n) for n in index.shape)])
    grid[axis] = index
    return tuple(grid)


@pytest.mark.parametrize(("shape", "axis"), [((40,), 0), ((40, 6), 0), ((6, 40), 1), ((2, 40, 3), 1)])
def test_gradients_of_rows_have_the_same_bits(monkeypatch, shape, axis):
    index = positions(40, (20, 5))
    assert_computed(monkeypatch, passes(lambda x: ln.take(x, index, axis=axis), normal(*shape)), ["scatter_add"])


def test_sums_at_positions_are_added_in_their_order(monkeypatch):
    values, index = np.asarray([1e8, 1, -1e8, 1] * 40, "float32"), np.asarray([5] * 160)
    compute = passes(lambda x, v: ln.scatter_add(x, 0, index, v), np.zeros(9, "float32"), values)
    assert_computed(monkeypatch, compute, ["scatter_add", "gather"])
    expected = np.zeros(9, "float32")
    np.add.at(expected, index, values)
    np.testing.assert_array_equal(compute()[0], expected)


@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "bool"])
@pytest.mark.parametrize("wrong", [-6, 5])
def test_positions_out_of_bounds_are_refused(dtype, wrong):
    x, index = ln.ones((5, 70)).astype(dtype), np.zeros((2, 70), int)
    index[1, 3] = wrong
    with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for axis 0 with size 5"):
        ln.take_along_axis(x, index, axis=0)
    with pytest.raises(IndexError, match=f"index {wrong} is out of bounds for axis 0 with size 5"):
        ln.take(x, index.reshape(-1), axis=0)


@pytest.mark.parametrize("dtype", ["uint8", "int16", "int32", "uint64"])
@pytest.mark.parametrize(
    "view", [lambda x: x, lambda x: x.T, lambda x: x[::2], lambda x: np.broadcast_to(x[:1], x.shape)]
)
def test_arrays_and_positions_of_any_layout_and_dtype(view, dtype):
    x = view(normal(80, 80))
    x.flags.writeable = False
    index = np.random.default_rng(4).integers(0, 40, x.shape).astype(dtype)
    for positions in (index, np.asfortranarray(index)):
        leaf = ln.asarray(x, requires_grad=True)
        out = ln.take_along_axis(leaf, ln.asarray(positions), axis=0)
        expected = np.zeros(x.shape, "float32")
        np.add.at(expected, _grid(index, 0), 1)
        np.testing.assert_array_equal(out.numpy(), np.take_along_axis(x, index.astype(int), 0))
        np.testing.assert_array_equal(out.sum().backward()[leaf].numpy(), expected)


# Ranks

ROWS = {
    "normal": lambda shape: normal(*shape),
    "ties": lambda shape: np.round(normal(*shape)),
    "integers": lambda shape: np.random.default_rng(5).integers(-3, 4, shape),
    "bytes": lambda shape: np.random.default_rng(5).integers(0, 256, shape).astype("uint8"),
    "double": lambda shape: normal(*shape).astype("float64"),
    "missing": lambda shape: np.where(normal(*shape) > 1, np.float32(np.nan), normal(*shape, seed=1)),
    "infinite": lambda shape: np.where(normal(*shape) > 0, np.float32(np.inf), normal(*shape, seed=1)),
    "zeros": lambda shape: np.where(normal(*shape) > 0, np.float32(-0.0), np.float32(0)),
    "ascending": lambda shape: np.sort(normal(*shape), axis=0),
    "periodic": lambda shape: (np.arange(math.prod(shape)) % 37).reshape(shape).astype("float32"),
}


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(
    ("shape", "axis"), [((7,), 0), ((300,), 0), ((5, 300), 1), ((300, 5), 0), ((2, 3, 700), -1), ((20_000,), 0)]
)
def test_ranks_are_those_of_a_stable_sort(rows, shape, axis):
    x = ROWS[rows](shape)
    length = shape[axis]
    middle = (length - 1) // 2
    ranges = [
        (0, 1),
        (0, 3),
        (0, length // 3),
        (0, 0),
        (middle, middle + 1),
        (middle, middle + 2),
        (length - 1, length),
    ]
    for descending in (False, True):
        order = ln.argsort(ln.asarray(x), axis=axis, descending=descending).numpy()
        for start, stop in ranges:
            found = argselect(ln.asarray(x), start, stop, axis=axis, descending=descending).numpy()
            np.testing.assert_array_equal(
                found, np.take(order, range(start, stop), axis), f"{start}:{stop} {descending}"
            )


@pytest.mark.parametrize("rows", ROWS)
@pytest.mark.parametrize(("shape", "axis"), [((3000,), 0), ((3000, 3), 0), ((3, 3000), -1)])
def test_the_order_of_many_elements_is_numpys(rows, shape, axis):
    x = ROWS[rows](shape)
    ascending = np.argsort(x, axis=axis, stable=True)
    backwards = shape[axis] - 1 - np.argsort(np.flip(x, axis), axis=axis, stable=True)
    np.testing.assert_array_equal(ln.argsort(ln.asarray(x), axis=axis).numpy(), ascending)
    found = ln.argsort(ln.asarray(x), axis=axis, descending=True).numpy()
    np.testing.assert_array_equal(found, np.flip(backwards, axis))
    ordered = np.take_along_axis(x, ascending, axis)
    assert_same_bits([ln.sort(ln.asarray(x), axis=axis).numpy()], [ordered])
    assert_same_bits([ln.sort(ln.asarray(x), axis=axis, descending=True).numpy()], [np.flip(ordered, axis)])


def test_gradients_of_many_ordered_elements_go_back():
    x, g = ln.asarray(np.round(normal(3000)), requires_grad=True), normal(3000, seed=1)
    found = ln.sort(x).backward(ln.asarray(g))[x].numpy()
    np.testing.assert_array_equal(found[np.argsort(x.numpy(), stable=True)], g)


@pytest.mark.parametrize("rows", ["normal", "ties", "missing", "infinite"])
@pytest.mark.parametrize("shape", [(9,), (10,), (4, 31), (4, 40), (20_000,)])
def test_the_median_is_numpys(rows, shape):
    x = ROWS[rows](shape)
    with np.errstate(invalid="ignore"):
        np.testing.assert_array_equal(ln.median(ln.asarray(x), axis=-1).numpy(), np.median(x, axis=-1))
        np.testing.assert_array_equal(ln.median(ln.asarray(x)).numpy(), np.median(x))


def test_the_gradient_of_a_median_goes_to_the_middle():
    x = ln.asarray([5.0, 1.0, 3.0, 2.0], requires_grad=True)
    assert ln.median(x).backward()[x].tolist() == [0, 0, 0.5, 0.5]
    x = ln.asarray([5.0, math.nan, 3.0], requires_grad=True)
    assert ln.median(x).backward()[x].tolist() == [0, 1, 0]


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64", "bool", "float32", "uint64"])
@pytest.mark.parametrize("spread", [3, 100, 10**9])
def test_distinct_elements_are_those_of_numpy(dtype, spread):
    x = (np.random.default_rng(6).integers(-spread, spread, (20, 15)) % (1 << 31)).astype(dtype)
    for name in ("unique_all", "unique_counts", "unique_inverse"):
        for one, other in zip(getattr(ln, name)(ln.asarray(x)), getattr(np, name)(x), strict=True):
            assert one.dtype == other.dtype
            np.testing.assert_array_equal(one.numpy(), other)
    np.testing.assert_array_equal(ln.unique_values(ln.asarray(x)).numpy(), np.unique(x))


def test_of_two_zeros_the_first_is_the_distinct_one():
    for zeros in ([0.0, -0.0], [-0.0, 0.0]):
        found = ln.unique_values(ln.asarray([1.0, *zeros, math.nan, -1.0, math.nan])).numpy()
        assert found.shape == (5,)
        assert np.signbit(found[1]) == np.signbit(zeros[0])


# Convolution

GEOMETRIES = {
    "plain": ((2, 3, 8, 9), (4, 3, 3, 3), {}),
    "padding": ((2, 3, 33, 32), (4, 3, 3, 3), {"padding": 1}),
    "short rows": ((3, 4, 7, 7), (5, 4, 3, 3), {"padding": 1}),
    "stride": ((1, 3, 20, 21), (5, 3, 7, 7), {"stride": 2, "padding": 3}),
    "all": ((2, 4, 16, 17), (6, 2, 3, 2), {"stride": (2, 3), "padding": (1, 2), "dilation": (1, 2), "groups": 2}),
    "strided points": ((2, 4, 9, 9), (4, 4, 1, 1), {"stride": 2}),
    "points": ((3, 4, 16, 16), (5, 4, 1, 1), {}),
    "points of groups": ((2, 8, 40, 40), (64, 4, 1, 1), {"groups": 2}),
    "one filter": ((2, 3, 18, 19), (1, 3, 3, 3), {"padding": 1}),
    "one filter in each group": ((2, 4, 18, 19), (2, 2, 3, 3), {"groups": 2}),
    "some tiles": ((3, 16, 32, 30), (32, 16, 3, 3), {"padding": 1}),
    "tiles of short rows": ((2, 32, 40, 9), (40, 32, 3, 3), {"padding": 1}),
    "large tiles": ((2, 64, 30, 30), (64, 64, 3, 3), {}),
    "tiles of strided windows": ((2, 3, 60, 63), (32, 3, 7, 7), {"stride": 2, "padding": 3, "dilation": 2}),
    "step of three": ((2, 3, 60, 63), (8, 3, 3, 4), {"stride": 3, "padding": (2, 1)}),
}
DEPTHWISE = {
    "3x3": ((2, 6, 11, 13), (6, 1, 3, 3), {"padding": 1}),
    "5x5": ((2, 6, 12, 12), (6, 1, 5, 5), {"padding": 2}),
    "dilation": ((2, 6, 12, 14), (6, 1, 3, 3), {"padding": 2, "dilation": 2}),
    "same": ((1, 2, 5, 6), (2, 1, 2, 3), {"padding": "same"}),
    "points": ((2, 3, 5, 6), (3, 1, 1, 1), {}),
}
STRIDED = {
    "stride": ((2, 6, 11, 14), (6, 1, 3, 3), {"padding": 1, "stride": 2}),
    "all": ((2, 6, 12, 40), (6, 1, 5, 3), {"stride": (1, 3), "padding": (2, 1), "dilation": (2, 2)}),
    "much padding": ((1, 4, 6, 5), (4, 1, 2, 3), {"padding": (0, 4)}),
}


@pytest.mark.parametrize(
    ("case", "names"),
    [
        *((case, ["convolve", "convolve_input", "convolve_weight"]) for case in GEOMETRIES.values()),
        *((case, ["depthwise", "depthwise_weight"]) for case in DEPTHWISE.values()),
        *((case, ["depthwise", "depthwise_input", "depthwise_weight"]) for case in STRIDED.values()),
    ],
    ids=[*GEOMETRIES, *(f"depthwise {name}" for name in (*DEPTHWISE, *STRIDED))],
)
@pytest.mark.parametrize("special", [False, True])
def test_convolutions_have_the_same_bits(monkeypatch, case, names, special):
    images, weight, static = case
    static = static | {"groups": images[1]} if weight[1] == 1 else static
    arrays = normal(*images, special=special), normal(*weight, seed=1), normal(weight[0], seed=2)
    assert_computed(monkeypatch, passes(lambda *leaves: nn.conv2d(*leaves, **static), *arrays), names)


@pytest.mark.parametrize("channels", [4, 16, 40])
def test_a_gradient_that_is_the_image_has_the_same_bits(monkeypatch, channels):
    """NumPy multiplies a matrix with its own transpose by another function of BLAS."""
    x = ln.asarray(normal(2, channels, 7, 9))
    weight = ln.asarray(normal(channels, channels, 1, 1, seed=1), requires_grad=True)
    compute = lambda: [nn.conv2d(x, weight).backward(x)[weight].numpy()]  # noqa: E731
    assert_computed(monkeypatch, compute, ["convolve_weight"])


@pytest.mark.parametrize("shape", [(2, 4, 5, 3), (4, 2, 3, 5), (1, 4, 3, 5), (120,)])
@pytest.mark.parametrize("groups", [1, 4])
def test_gradients_of_another_shape_are_refused(shape, groups):
    g = ln.asarray(normal(*shape))
    weight = (4, 3, 3, 3) if groups == 1 else (4, 1, 3, 3)
    images = (2, weight[1] * groups, 5, 7)
    with pytest.raises(ShapeError, match=r"expected gradients of shape \(2, 4, 3, 5\)"):
        ln.ops.conv2d_input(g, ln.asarray(normal(*weight)), shape=images, groups=groups)
    with pytest.raises(ShapeError, match=r"expected gradients of shape \(2, 4, 3, 5\)"):
        ln.ops.conv2d_weight(ln.asarray(normal(*images)), g, shape=weight, groups=groups)


def test_depthwise_convolutions_are_those_of_their_channels():
    x, weight = normal(2, 3, 8, 9).astype("float64"), normal(3, 1, 3, 3, seed=1).astype("float64")
    for static in ({}, {"stride": 2, "padding": 1}, {"dilation": 2, "padding": 3}):
        together = nn.conv2d(ln.asarray(x), ln.asarray(weight), groups=3, **static).numpy()
        for channel in range(3):
            part = slice(channel, channel + 1)
            apart = nn.conv2d(ln.asarray(x[:, part]), ln.asarray(weight[part]), **static).numpy()
            np.testing.assert_allclose(together[:, part], apart, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    ("images", "weight"),
    [((2, 3, 3, 3), (4, 3, 3, 3)), ((2, 1, 4, 5), (1, 1, 1, 1)), ((1, 16, 3, 195), (32, 16, 3, 3))],
)
def test_products_with_a_vector_are_the_same_with_and_without_kernels(images, weight):
    arrays = normal(*images), normal(*weight, seed=1), normal(weight[0], seed=2)
    assert_same_bits(*with_and_without(passes(nn.conv2d, *arrays)))


@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_of_permuted_arrays_have_the_same_bits(monkeypatch, size):
    images, weight = normal(2, 20, 21, 6), normal(size, size, 6, 34, seed=1)
    compute = passes(lambda x, w: nn.conv2d(x.permute((0, 3, 1, 2)), w.permute((3, 2, 0, 1))), images, weight)
    assert_computed(monkeypatch, compute, ["convolve", "convolve_input", "convolve_weight"])


def test_windows_are_divided_into_tiles_that_do_not_change_the_result():
    x, weight = normal(2, 16, 32, 30).astype("float64"), normal(32, 16, 3, 3, seed=1).astype("float64")
    single = passes(nn.conv2d, x.astype("float32"), weight.astype("float32"))()
    for one, other in zip(single, passes(nn.conv2d, x, weight)(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-3)


def test_a_gradient_of_one_column_is_left_to_numpy():
    arrays = normal(2, 4, 9, 3), normal(4, 1, 3, 3)
    compute = passes(lambda x, w: nn.conv2d(x, w, groups=4), *arrays)
    assert_same_bits(*with_and_without(compute))
