"""Compiled formulas return what eager ones do where integers wrap around, and where numbers are not finite."""

import math
import warnings

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import REGISTRY
from tests.helpers.compile.special_values import DTYPES, SIGNED, UNSIGNED, difference, special

INF, NAN = math.inf, math.nan
U64, I64 = 2**64 - 1, 2**63 - 1


@pytest.fixture(autouse=True)
def without_warnings():
    """Let NumPy divide by zero and overflow, which the tests are about."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def same(function, *arrays, bound=0, scale=0.0):
    """Check that a function of tensors, which returns a list, returns the same compiled: to the bit, or to steps."""
    tensors = [ln.asarray(array) for array in arrays]
    expected, got = function(*tensors), ln.jit(function)(*tensors)
    for position, (one, other) in enumerate(zip(got, expected, strict=True)):
        fault = difference(one.numpy(), other.numpy(), bound, arrays, scale)
        assert not fault, f"result {position}: {fault}"


# Integers


@pytest.mark.parametrize("dtype", SIGNED + UNSIGNED)
def test_integers_wrap_around_in_comparisons_and_in_loops(dtype):
    same(
        lambda x: [x + 1 > x, x - 1 < x, x * 2 // 2 == x, abs(x) >= 0, -x > 0, x * x, x * 7 - 1, x.sum() + 1 > x.sum()],
        special(dtype),
    )


@pytest.mark.parametrize("dtype", SIGNED + UNSIGNED)
def test_integers_meet_python_numbers(dtype):
    same(
        lambda x: [x // 2, x % 3, x >> 1, x << 1, x & 3, x**2, x**3, x / 2, x * 2.5, x // 0, x % 0, 1 - x, 7 // x],
        special(dtype),
    )


def test_comparisons_of_unsigned_and_signed_integers_are_exact():
    def run(x, y, z):
        return [op(a, b) for op in compare for a, b in ((x, y), (y, x), (z, y), (y, z))]

    compare = [getattr(ln, name) for name in ("equal", "not_equal", "less", "less_equal", "greater", "greater_equal")]
    same(run, np.array([-1, I64, 5, -I64 - 1]), np.array([U64, 2**63, 5, 0], "u8"), np.array([-1, 7, 5, 0], "i1"))


@pytest.mark.parametrize(("dtype", "number"), [("u1", 300), ("u1", -1), ("i8", 2**70), ("i8", U64), ("u8", -5)])
def test_numbers_that_no_element_can_have_are_compared(dtype, number):
    same(lambda x: [x == number, x != number, x < number, ln.less_equal(number, x), x >= number], special(dtype))


def test_negative_powers_of_integers_are_refused_at_each_call():
    power = ln.jit(lambda x, y: x**y)
    x = ln.asarray([2, 3])
    assert power(x, ln.asarray([3, 0])).tolist() == [8, 1]
    with pytest.raises(ln.errors.DTypeError, match="negative integer powers"):
        power(x, ln.asarray([1, -1]))


def test_integers_out_of_range_of_the_other_choice_wrap_around():
    same(lambda x: [ln.where(x > 0, x, -1)], np.array([1, 0], "u8"))
    same(lambda x, y: [ln.where(x > 2, x, y)], np.array([4, 1], "u8"), np.array([-4, 1]))


def test_means_of_large_integers_do_not_overflow():
    same(lambda x: [ln.mean(x), ln.var(x), ln.std(x)], np.array([2**62] * 4))
    same(lambda x: [ln.mean(x), ln.sum(x)], np.array([6e4] * 3, "f2"))


# Conversions


@pytest.mark.parametrize("dtype", DTYPES)
def test_conversions_are_those_of_numpy(dtype):
    whole = [d for d in DTYPES if np.dtype(dtype).kind != "f" or d != "uint32"]  # of which NumPy has two out of range
    same(lambda x: [x.astype(d) for d in whole], np.tile(special(dtype), 8))


def test_conversions_out_of_range_are_those_of_numpy():
    numbers = [3e9, 300.7, -300.7, 1e19, -1e19, 1e20, 65519.9, 65520.0, 2.0**63, -(2.0**63), 1e10, -1e10]
    chosen = ("int8", "uint8", "int16", "uint16", "int32", "int64", "uint64", "bool", "float16")
    for dtype in ("float32", "float64"):
        same(lambda x: [x.astype(d) for d in chosen], np.array(numbers * 4, dtype))


def test_float64_is_rounded_to_float16_once():
    halves = (np.arange(1, 2000) + 0.5) * 2.0**-11
    numbers = np.concatenate([halves, halves * (1 + 2.0**-40), halves * (1 - 2.0**-40), halves * 2.0**-14])
    same(lambda x: [x.astype("float16")], np.concatenate([numbers, -numbers]))


# Formulas


def test_float16_is_computed_beside_other_dtypes():
    x, y = np.array([1.1, -2.0, 6e4], "f2"), np.array([1.1, 3.0, 2.0], "f4")
    same(lambda x, y: [x + y, x * 2, x * x, x > y, ln.concat([x, y]), x.astype("f8"), x.sum(), ln.max(x), -x], x, y)
    same(lambda x, y: [ln.exp(x / 1e4), ln.mean(x), ln.sort(x), x.reshape((3, 1)) @ x.reshape((1, 3))], x, y, bound=2)


def test_gradients_in_float16_are_the_eager_ones():
    def run(x):
        return [ln.grad((x * x + ln.sqrt(x)).sum(), x)]

    x = ln.asarray(np.array([0.5, 1.5, 300.0], "f2"), requires_grad=True)
    (got,), (expected,) = ln.jit(run)(x), run(x)
    assert got.dtype == expected.dtype == "float16"
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=2e-3)


@pytest.mark.parametrize("exponent", [-2, -1, -0.5, 0, 0.5, 1, 2, 3, 2.5])
def test_powers_with_an_exponent_that_is_known(exponent):
    for dtype in ("float32", "float64"):
        same(lambda x: [x**exponent], special(dtype), bound=1)


def test_eager_cancellation_and_overflow_stay_as_they_are():
    def run(x):
        return [(x + 1e30) - 1e30, x * x - ln.square(x), x * 1e30 * 1e30 * 1e-30, x - x, x + 0.0, x * 1.0, x * 0.0]

    same(run, special("float32"))
    same(lambda x: [x / 2, x / 2.0**-149, x / 2.0**127, x / -0.0, (x + x) / 2, 1 / (1 / x)], special("float32"))


def test_division_of_floating_numbers_with_remainder():
    x = np.array([0.0, -0.0, 3.3, -3.3, INF, -INF, NAN, 0.3])
    same(lambda x: [x // 0.0, x % 0.0, x // INF, x % INF, INF // x, x // 0.1, x % -0.1, -x // 0.1], x)


def test_halves_are_rounded_to_even():
    x = np.array([0.5, 1.5, 2.5, -0.5, -1.5, 0.49999999999999994, 4503599627370495.5])
    same(lambda x: [ln.round(x), ln.floor(x), ln.ceil(x), ln.trunc(x)], x)


@pytest.mark.parametrize("values", [[1.0, 3.0], [1.0, 1.0], [2.0]])
def test_degrees_of_freedom_at_or_below_zero(values):
    def run(x):
        corrections = (0, 1, 2, 3, 5.5)
        return [f(x, correction=c) for f in (ln.var, ln.std) for c in corrections]

    same(run, np.array(values))
    x = ln.asarray(np.array(values), requires_grad=True)
    slopes = [lambda x, c=c: ln.grad(ln.var(x, correction=c), x) for c in (0, 1, 2, 3)]
    for slope in slopes:
        np.testing.assert_array_equal(ln.jit(slope)(x).numpy(), slope(x).numpy())


@pytest.mark.parametrize("shape", [(0, 3), (3, 0), (0,)])
def test_nothing_is_taken_together_as_eager_code_does(shape):
    joins = ("sum", "prod", "mean", "var", "std", "any", "all", "count_nonzero")
    same(lambda x: [REGISTRY[n].function(x, axis=a) for n in joins for a in (None, 0, -1)], np.zeros(shape))


LOGITS = [[INF, 0, 1], [-INF, 0, 1], [-INF, -INF, -INF], [NAN, 0, 1], [INF, INF, 0], [3e38, -3e38, 0], [0, 0, 0]]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_shares_of_infinite_logits(dtype):
    def run(x):
        found = [ln.nn.softmax(x), ln.nn.log_softmax(x), ln.nn.softmax(x, axis=0), ln.nn.log_softmax(x, axis=0)]
        return [*found, ln.ops.cross_entropy_with_logits(x, labels=np.array([0, 1, 2, 0, 0, 1, -1]))]

    same(run, np.array(LOGITS, dtype), bound=2, scale=1.0)


def test_order_of_elements_that_are_equal_or_nan():
    names = ("max", "min", "argmax", "argmin", "sort", "argsort", "any", "all", "count_nonzero", "cumulative_sum")

    def run(x):
        found = [REGISTRY[name].function(x) for name in names]
        return [*found, ln.median(x), *(f(x, descending=True) for f in (ln.sort, ln.argsort))]

    same(run, np.array([1, NAN, -0.0, 0.0, INF, -INF, NAN]))
    same(run, np.array([1, -0.0, 0.0, 1, -INF]))


def test_functions_and_their_inverses_are_both_computed():
    x = np.array([3.1, 0.7, 1e5])
    same(lambda x: [ln.exp(ln.log(x)), ln.tan(ln.atan(x)), ln.sinh(ln.asinh(x)), ln.sqrt(x * x)], x, bound=2)


# Indices

INDICES = [[], [[]], ([],), np.empty((0,), int), [True, False], np.zeros(2, bool), slice(1, 1), None, (), -1]


@pytest.mark.parametrize("index", INDICES, ids=str)
def test_an_index_that_names_nothing_or_little(index):
    same(lambda x: [x[index], ln.ops.setitem(x, ln.asarray(5.0), index)], np.array([4.0, 2.0]))


def test_indices_of_each_dtype_count_from_the_end_where_negative():
    for dtype in ("int8", "uint8", "int64", "uint64"):
        same(lambda x, i: [x[i]], np.array([4.0, 2.0]), np.array([1, 0, -1 if dtype[0] == "i" else 1], dtype))
    with pytest.raises(IndexError, match="integer"):
        ln.jit(lambda x, i: x[i])(ln.ones(2), ln.ones(1))


def test_padding_keeps_the_sign_of_zero():
    same(lambda x: [ln.pad(x, 1, constant_values=-0.0), ln.pad(x, 1)], np.array([4.0, -0.0]))


def test_labels_that_are_no_classes_are_refused_while_tracing():
    with pytest.raises(IndexError, match="5"):
        ln.jit(lambda x: ln.ops.cross_entropy_with_logits(x, labels=np.array([5])))(ln.ones((1, 3)))
