"""Where mistakes hide: empty tensors, 0-d, ties, NaN, other dtypes, and what each misuse says."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet.errors import AxisError, DTypeError, GradientError, ShapeError


def leaf(values, dtype="float64"):
    return ln.asarray(np.array(values, dtype), requires_grad=True)


class TestGradients:
    def test_bounds_of_clip_get_what_the_elements_do_not(self):
        x, low, high = leaf([-2.0, 0.0, 0.5, 1.0, 3.0]), leaf(0.0), leaf(1.0)
        gradients = ln.clip(x, low, high).sum().backward()
        assert gradients[x].tolist() == [0.0, 1.0, 1.0, 1.0, 0.0]
        assert (gradients[low].item(), gradients[high].item()) == (1.0, 1.0)

    @pytest.mark.parametrize("dtype", ["uint8", "int8", "int64", "uint64"])
    def test_bounds_of_clip_beyond_a_dtype_are_its_ends(self, dtype):
        x = np.arange(5).astype(dtype)
        for low, high in ((-7, 300), (2, 2**70), (-(2**70), 3)):
            expected = np.array([min(max(int(each), low), high) for each in x], dtype)
            assert np.array_equal(ln.clip(ln.asarray(x), low, high).numpy(), expected)
            if abs(low) < 2**31 > high:
                bounds = np.asarray(low, "int32"), np.asarray(high, "int32")
                found = ln.clip(ln.asarray(x), *map(ln.asarray, bounds))
                assert found.dtype == dtype
                assert np.array_equal(found.numpy(), expected)

    def test_bounds_of_clip_are_of_its_dtype_however_they_are_given(self):
        x = ln.asarray(np.array([0, 5, 250], "uint8"))
        for low, high in ((1, 200), (np.int64(1), np.int64(200)), ([1, 1, 1], [200] * 3), (np.array(1), np.array(200))):
            for found in (ln.clip(x, low, high), ln.clip(x, min=low, max=high)):
                assert (found.dtype, found.tolist()) == ("uint8", [1, 5, 200])
        assert ln.clip(x, ln.asarray(-3.0), ln.asarray(300.0)).tolist() == [0.0, 5.0, 250.0]
        assert ln.clip(x, 1.5, 200.5).tolist() == [1.5, 5.0, 200.5]

    def test_minimum_and_maximum_share_ties_and_reduce_broadcast_operands(self):
        x, y = leaf([[1.0, 2.0], [3.0, 2.0]]), leaf([2.0])
        gradients = (ln.minimum(x, y) + 10 * ln.maximum(x, y)).sum().backward()
        assert gradients[x].tolist() == [[1.0, 5.5], [10.0, 5.5]]
        assert gradients[y].tolist() == [10.0 + 5.5 + 1.0 + 5.5]

    @pytest.mark.parametrize("name", ["floor", "ceil", "trunc", "round", "sign"])
    def test_steps_have_the_gradient_zero(self, name):
        x = leaf([-1.5, 0.3])
        assert getattr(ln, name)(x).sum().backward()[x].tolist() == [0.0, 0.0]

    @pytest.mark.parametrize(
        "function",
        [
            ln.sum,
            ln.prod,
            lambda x: ln.concat([x, x]),
            lambda x: ln.stack([x, x]),
            lambda x: ln.cumulative_sum(x, axis=0),
            lambda x: ln.cumulative_prod(x, axis=-1),
            lambda x: ln.sort(x, axis=0),
            lambda x: ln.max(x, axis=1),
            lambda x: ln.vector_norm(x, axis=1),
            lambda x: x[:, 1:],
            lambda x: ln.pad(x, 1),
            lambda x: ln.tile(x, (2, 2)),
            lambda x: ln.repeat(x, 2, axis=0),
            lambda x: ln.diff(x),
            lambda x: ln.where(x > 0, x, 1.0),
            lambda x: x @ ln.ones((3, 2), dtype="float64"),
            lambda x: x.T @ x,
            lambda x: ln.tensordot(x, x, axes=2),
        ],
    )
    def test_empty_tensors_have_empty_gradients(self, function):
        x = leaf(np.zeros((0, 3)))
        out = function(x)
        assert out.backward(np.ones(out.shape))[x].shape == (0, 3)

    @pytest.mark.parametrize(
        ("left", "right"),
        [((5, 5, 0), (0, 5)), ((0, 5), (5, 5, 0)), ((2, 0, 3), (3, 4)), ((0,), (0,)), ((2, 3, 0), (0,))],
    )
    @pytest.mark.parametrize("compiled", [False, True])
    def test_products_over_nothing_are_zeros_with_gradients(self, left, right, compiled):
        x, y = leaf(np.zeros(left)), leaf(np.zeros(right))

        def product(x, y):
            return (x @ y).sum()

        def gradients(x, y):
            return ln.grad(product(x, y), [x, y])

        assert product(x, y).item() == 0
        first, second = (ln.jit(gradients) if compiled else gradients)(x, y)
        assert (first.shape, second.shape) == (left, right)

    @pytest.mark.parametrize("function", [ln.nn.softmax, ln.nn.log_softmax])
    @pytest.mark.parametrize("shape", [(0,), (5, 0, 0), (0, 3), (3, 0)])
    def test_a_softmax_over_nothing_is_nothing(self, function, shape):
        for axis in range(-len(shape), len(shape)):
            x = leaf(np.zeros(shape))
            out = function(x, axis=axis)
            assert (out.shape, out.dtype) == (shape, "float64")
            assert out.sum().backward()[x].shape == shape
            assert ln.jit(lambda x, axis=axis: function(x, axis=axis))(x).shape == shape
        with pytest.raises(AxisError):
            function(x, axis=3)

    @pytest.mark.parametrize("function", [ln.nn.softmax, ln.nn.log_softmax])
    @pytest.mark.parametrize("shape", [(2, 3), (0, 3), (2, 0)])
    def test_a_softmax_of_integers_is_floating(self, function, shape):
        x = ln.ones(shape, dtype="int64")
        assert (function(x).dtype, function(x).shape) == ("float64", shape)
        assert ln.jit(function)(x).dtype == "float64"

    @pytest.mark.parametrize("function", [ln.max, ln.min, ln.argmax, ln.argmin])
    def test_extremes_of_truths_compile(self, function):
        x = ln.asarray(np.array([[True, False], [False, False]]))
        for axis in (None, 0, 1):
            expected = function(x, axis=axis)
            found = ln.jit(lambda x, axis=axis: function(x, axis=axis))(x)
            assert (found.dtype, found.tolist()) == (expected.dtype, expected.tolist())

    def test_an_infinite_slope_is_a_result_without_a_warning(self):
        x = leaf([0.0])
        assert ln.sqrt(x).sum().backward()[x].tolist() == [math.inf]

    def test_a_median_of_two_halves_the_gradient(self):
        x = leaf([1.0, 5.0, 3.0, 4.0])
        assert ln.median(x).backward()[x].tolist() == [0.0, 0.0, 0.5, 0.5]

    def test_a_sort_takes_the_gradient_back_to_its_place(self):
        x = leaf([[3.0, 1.0, 2.0]])
        out = ln.sort(x, descending=True)
        assert (out * ln.asarray([1.0, 2.0, 3.0])).sum().backward()[x].tolist() == [[1.0, 3.0, 2.0]]

    def test_integer_results_carry_no_gradient(self):
        x = leaf([1.5, 2.5])
        assert not x.argmax().requires_grad
        assert not x.astype("int32").requires_grad
        assert not (x > 1).requires_grad

    @pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
    def test_a_gradient_has_the_dtype_of_its_leaf(self, dtype):
        x = leaf([1.0, 2.0, 3.0], dtype)
        loss = ln.erf(ln.std(x) + ln.median(x) + ln.logaddexp(x, 1.0).mean() + ln.vector_norm(x) + ln.prod(x)) * 2.5
        assert loss.dtype == dtype
        assert loss.backward()[x].dtype == dtype


class TestValues:
    def test_nan_passes_through(self):
        x = ln.asarray([1.0, math.nan, 3.0])
        for function in (ln.max, ln.min, ln.sum, ln.mean, ln.median, ln.std, ln.prod):
            assert math.isnan(function(x).item())
        assert math.isnan(ln.sort(x)[-1].item())
        assert ln.sign(x).tolist()[0] == 1.0
        assert ln.isnan(ln.maximum(x, 2.0)).tolist() == [False, True, False]

    def test_erf_at_its_limits(self):
        x = ln.asarray([-math.inf, -0.0, 0.0, 1e-300, math.inf, math.nan], dtype="float64")
        out = ln.erf(x).numpy()
        np.testing.assert_array_equal(out[[0, 1, 2, 4]], [-1.0, 0.0, 0.0, 1.0])
        assert np.signbit(out[1])
        assert out[3] == pytest.approx(math.erf(1e-300))
        assert np.isnan(out[5])

    def test_small_integers_add_up_in_large_ones(self):
        x = ln.full(1000, 100, dtype="int8")
        assert (x.sum().item(), x.sum().dtype, ln.cumulative_sum(x).dtype) == (100_000, ln.int64, ln.int64)

    def test_results_of_0d_tensors_are_tensors(self):
        x = ln.asarray(2.0)
        for out in (x + 1, -x, x.sum(), x.reshape(()), x[...], ln.sort(x.reshape((1,)))[0], x.astype("int8"), x == 2):
            assert isinstance(out, ln.Tensor)
            assert out.shape == ()

    def test_methods_and_operators_are_the_functions(self):
        x = ln.asarray([[4, 7], [1, 2]])
        assert (x // 2).tolist() == [[2, 3], [0, 1]]
        assert (7 % x).tolist() == [[3, 0], [0, 1]]
        assert ((x & 3) | (x ^ 1)).tolist() == [[5, 7], [1, 3]]
        assert (1 << x >> 1).tolist() == [[8, 64], [1, 2]]
        assert (~x, abs(-x), +x)[1].tolist() == x.tolist()
        assert [part.tolist() for part in x.nonzero()] == [[0, 0, 1, 1], [0, 1, 0, 1]]
        assert x.std(axis=0, correction=1).shape == (2,)

    def test_array_likes_are_taken_everywhere(self):
        assert ln.stack([[1, 2], np.array([3, 4])]).tolist() == [[1, 2], [3, 4]]
        assert ln.take([5, 6, 7], [0, -1]).tolist() == [5, 7]
        assert ln.median([1.0, 3.0]).item() == 2.0
        assert ln.exp(0.0).dtype == ln.float32
        assert ln.add(1, 2).item() == 3


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ln.concat([ln.ones((2, 3)), ln.ones((3, 2))]), ShapeError, r"concat.*\(2, 3\).*\(3, 2\)"),
        (lambda: ln.stack([ln.ones(2), ln.ones(3)]), ShapeError, r"stack.*\(2,\).*\(3,\)"),
        (lambda: ln.unstack(ln.ones(2), axis=1), AxisError, r"unstack.*1.*\(2,\)"),
        (lambda: ln.broadcast_arrays(ln.ones(2), ln.ones(3)), ShapeError, r"\(2,\).*\(3,\)"),
        (lambda: ln.meshgrid(ln.ones(2), indexing="yx"), ValueError, "'ij'.*'yx'"),
        (lambda: ln.tensordot(ln.ones((2, 3)), ln.ones((2, 3)), axes=1), ShapeError, r"\(2, 3\).*\(2, 3\)"),
        (lambda: ln.vecdot(ln.ones(2), ln.ones(3)), ShapeError, r"axis=-1.*\(2,\).*\(3,\)"),
        (lambda: ln.squeeze(ln.ones((2, 1)), 0), ShapeError, r"squeeze.*\(2, 1\).*axis=0"),
        (lambda: ln.cumulative_sum(ln.ones((2, 2))), ShapeError, r"cumulative_sum.*\(2, 2\).*axis"),
        (lambda: ln.take(ln.ones((2, 2)), [0]), ShapeError, r"take.*\(2, 2\).*axis"),
        (lambda: ln.take_along_axis(ln.ones((2, 2)), [0]), ShapeError, r"\(2, 2\).*\(1,\)"),
        (lambda: ln.diff(ln.ones(2), axis=1), AxisError, r"diff.*1.*\(2,\)"),
        (lambda: ln.expand_dims(ln.ones(2), axis=3), AxisError, r"expand_dims.*\(2,\).*axis=3"),
        (lambda: ln.nonzero(ln.asarray(1)), ShapeError, r"nonzero.*\(\)"),
        (lambda: ln.ones(3).T, ShapeError, r"\(3,\).*permute_dims"),
        (lambda: ln.ones(3).mT, ShapeError, r"matrix_transpose.*\(3,\)"),
        (lambda: ln.max(ln.zeros(0)), ShapeError, r"max.*\(0,\)"),
        (lambda: ln.pad(ln.ones(2), ((1, 2), (3, 4), (5, 6))), ShapeError, r"pad.*\(2,\)"),
        (lambda: ln.bitwise_and(ln.ones(1), 1), DTypeError, "bitwise_and.*float32"),
        (lambda: ln.vector_norm(ln.asarray([3])), DTypeError, "int64.*astype"),
        (lambda: ln.asarray([2, 3]) ** -1, DTypeError, "pow.*int64"),
        (lambda: ln.asarray([1], dtype="uint8") + 300, DTypeError, "add.*300"),
        (lambda: ln.finfo("int8"), DTypeError, "int8.*iinfo"),
        (lambda: ln.iinfo("float32"), DTypeError, "float32.*finfo"),
        (lambda: ln.asarray([1.0], copy=False), ValueError, "list.*copy"),
        (lambda: ln.ones(1).to_device("tpu"), ln.errors.DeviceError, "tpu.*cpu.*cuda"),
        (lambda: ln.sum(ln.ones(2), None, None), TypeError, "positional"),
        (lambda: ln.argmax(leaf([1.0])).backward(), GradientError, "requires_grad"),
    ],
)
def test_misuse_names_the_op_and_both_values(call, error, words):
    with pytest.raises(error, match=words):
        call()
