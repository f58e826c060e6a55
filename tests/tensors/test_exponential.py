"""Exponentials, log(1 + x) and the normal distribution, written as arithmetic: exact, with the same bits in kernels."""

import numpy as np
import pytest

import labnet as ln
from labnet.kernels.exponential import exp, expm1, exponential
from labnet.kernels.logarithm import log1p
from labnet.kernels.scalar_program import NotElementwise, exponent, power_of_two
from labnet.ops.core import single_pass
from tests.tensors.test_single_pass import assert_same_bits, at_once, by_numpy, numbers, outcome  # noqa: F401

FEW = np.float32([0.0, -0.0, -1e-42, -1e-10, -0.5, -87.4, -103.9, -104.0, -1e30, -np.inf, np.nan])
#: Where the functions change their course.
EDGES = np.float32(
    [0.0, -0.0, 1e-45, -1e-45, 1e-38, 0.34, -0.34, -1, -1 + 2**-24, 1, 3, 88.72284, -17.4, -87.4, -103.9]
)
EDGES = np.concatenate([EDGES, np.float32([-104, 100, -100, 3e38, 2.4e38, -2, -3e38, np.inf, -np.inf, np.nan])])


def every(step, first=-1e-9, last=-105):
    """Return every `step`-th number of float32 between two of the same sign."""
    return np.arange(*(int(np.float32(x).view("uint32")) for x in (first, last)), step, dtype="uint32").view("float32")


def error(found, exact):
    """Return the greatest difference, in units in the last place of float32."""
    place = np.maximum(np.frexp(exact)[1] - 24, -149)  # results below 2**-126 have fewer digits
    return np.max(np.abs(found - exact) / np.exp2(place.astype("float64")))


def test_exponentials_are_exact_to_a_unit_in_the_last_place():
    x = np.concatenate([every(1009), FEW[:-2]])
    assert error(exponential(x), np.exp(x.astype("float64"))) <= 1


@pytest.mark.parametrize(
    ("function", "exact", "low", "high", "bound"),
    [(exp, np.exp, -105, 88.72, 1), (expm1, np.expm1, -105, 88.72, 1.1), (log1p, np.log1p, -0.99999994, 3.4e38, 1)],
)
def test_functions_of_all_numbers_are_exact_to_about_a_unit_in_the_last_place(function, exact, low, high, bound):
    x = np.concatenate([every(1009, -0.0, low), every(1009, 0.0, high), every(97, 0.01, 2), every(97, -0.01, -0.9)])
    assert error(function(x), exact(x.astype("float64"))) <= bound


@pytest.mark.parametrize(("function", "numpys"), [(exp, np.exp), (expm1, np.expm1), (log1p, np.log1p)])
def test_infinities_nan_and_signs_are_those_of_numpy(function, numpys):
    with np.errstate(all="ignore"):
        expected = numpys(EDGES.astype("float64")).astype("float32")
    with np.errstate(all="raise"):
        found = function(EDGES)
        alone = np.float32([function(np.array(x)) for x in EDGES])
    np.testing.assert_array_equal(found, alone)
    known = ~np.isnan(expected)
    np.testing.assert_array_equal(np.signbit(found)[known], np.signbit(expected)[known])
    np.testing.assert_allclose(found, expected, rtol=2**-22, atol=0)
    few = np.isin(EDGES, (0.0, np.inf, -np.inf, -1e-45, 1e-45, -3e38)) | np.isnan(EDGES)
    np.testing.assert_array_equal(found[few], expected[few])


@pytest.mark.parametrize("name", ["exp", "expm1", "log1p"])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int32"])
def test_functions_of_other_dtypes_are_those_of_numpy(name, dtype, at_once):  # noqa: F811
    x = np.linspace(0, 9, 3000).astype(dtype)
    np.testing.assert_array_equal(getattr(ln, name)(ln.asarray(x)).numpy(), getattr(np, name)(x))


@pytest.mark.parametrize(("name", "value"), [("exp", 1000.0), ("expm1", 1000.0), ("log1p", -2.0)])
@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_functions_do_not_warn_before_a_kernel_is_there_nor_after(name, value, dtype, at_once, monkeypatch):  # noqa: F811
    function, x = getattr(ln, name), ln.asarray([value, -1.0], dtype=dtype)
    with np.errstate(all="raise"):
        np.testing.assert_array_equal(function(x).numpy(), by_numpy(lambda: function(x), monkeypatch).numpy())
    assert at_once


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_exponents_are_those_of_powers_of_two(dtype):
    x = np.array([1.5, 0.99, 2.0, 1e-30, 1e30], dtype)
    np.testing.assert_array_equal(exponent(x), np.floor(np.log2(x)))
    bias = 2.0 ** (np.finfo(dtype).nexp - 1) - 1
    np.testing.assert_array_equal(power_of_two(exponent(x) + (2.0 ** np.finfo(dtype).nmant + bias)), 2 ** exponent(x))
    for function in (exponent, power_of_two):
        with pytest.raises(NotElementwise, match="in float16"):
            function(np.ones(3, "float16"))


def test_exponentials_of_infinities_and_nan():
    found = exponential(FEW)
    assert found[:3].tolist() == [1, 1, 1]
    assert found[5:7].tolist() == np.exp(FEW[5:7].astype("float64")).astype("float32").tolist()
    assert found[7:10].tolist() == [0, 0, 0]
    assert np.isnan(found[10])
    with np.errstate(all="raise"):
        assert exponential(np.float32(-100.0)) > 0


def test_exponentials_in_float64_are_exact_to_about_a_unit_in_the_last_place():
    x = np.concatenate([-np.geomspace(1e-12, 744, 100_000), np.linspace(-1, 0, 100_000), np.linspace(-745, -707, 1000)])
    exact = np.exp(x.astype("longdouble"))
    place = np.maximum(np.frexp(exact)[1] - 53, -1074)
    assert np.max(np.abs(exponential(x) - exact) / np.ldexp(np.longdouble(1), place)) <= 1.5
    edges = np.array([0.0, -0.0, -5e-324, -745.0, -745.2, -1e300, -np.inf, np.nan])
    np.testing.assert_array_equal(exponential(edges), [1, 1, 1, 5e-324, 0, 0, 0, np.nan])


def test_exponentials_of_float16_are_those_of_numpy():
    x = np.linspace(-30, 0, 3000).astype("float16")
    np.testing.assert_array_equal(exponential(x), np.exp(x))


def test_kernels_compute_the_same_exponentials_in_float64(at_once, monkeypatch):  # noqa: F811
    in_one_pass = single_pass.in_one_pass(exponential)
    for size in (0, 1, 7, 129, 40_000):
        for x in (-np.abs(numbers((size,), "float64")), np.linspace(-750, 0, size)):
            slow = by_numpy(lambda: in_one_pass(x), monkeypatch)  # noqa: B023
            assert_same_bits([in_one_pass(x), in_one_pass(x[::-1])], [slow, exponential(np.ascontiguousarray(x[::-1]))])
    assert at_once


@pytest.mark.parametrize("size", [0, 1, 7, 128, 129, 1000, 40_000])
def test_kernels_compute_the_same_exponentials(size, at_once, monkeypatch):  # noqa: F811
    for function in (exponential, exp, expm1, log1p):
        in_one_pass = single_pass.in_one_pass(function)
        several = [numbers((size,), "float32"), np.resize(every(100_003), size), np.resize(EDGES, size)]
        several.append(np.resize(every(100_003, 1e-9, 105), size))
        for x in [-np.abs(x) for x in several[:3]] if function is exponential else several:
            for given in (x, x[::2], x[::-1], x.reshape(1, -1)[:, 1:]):
                fast = in_one_pass(given)
                slow = by_numpy(lambda: in_one_pass(given), monkeypatch)  # noqa: B023
                assert_same_bits([fast, fast], [slow, function(np.ascontiguousarray(given))])
    assert len(set(at_once)) == 4


@pytest.mark.parametrize("name", ["softplus", "logsigmoid", "hardsigmoid", "hardswish", "mish"])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_activations_with_expressions_have_kernels_of_their_gradients(name, dtype, at_once, monkeypatch):  # noqa: F811
    function = getattr(ln.nn.functional, name)
    for shape in [(0,), (7,), (129,), (70, 100)]:
        x, g = numbers(shape, dtype), numbers(shape, dtype, 9)
        fast = outcome(function, [x], {}, g)
        assert_same_bits(fast, by_numpy(lambda: outcome(function, [x], {}, g), monkeypatch))  # noqa: B023
    assert len(set(at_once)) > 1


@pytest.mark.parametrize("name", ["sigmoid", "silu", "gelu"])
def test_arrays_in_any_order_of_memory_go_to_kernels(name, at_once, monkeypatch):  # noqa: F811
    run, found = single_pass._Plan._run_in_order, []

    def counted(*given):
        found.append(run(*given))
        return found[-1]

    monkeypatch.setattr(single_pass._Plan, "_run_in_order", counted)
    function = getattr(ln.nn, name)
    x = numbers((60, 50), "float32")
    cube = numbers((9, 40, 61), "float32").transpose(0, 2, 1)
    for given in (x.T, x[::-1].T, np.repeat(x, 2, 0)[::2].T, cube, cube[::2, ::-1, 3:]):
        alike, other = np.empty_like(given), numbers(given.shape, "float32", 9)
        alike[...] = other
        for g in (alike, other):
            fast = outcome(function, [given], {}, g)
            assert_same_bits(fast, by_numpy(lambda: outcome(function, [given], {}, g), monkeypatch))  # noqa: B023
    assert sum(array is not None for array in found) >= 5


@pytest.mark.parametrize("op", ["ndtr", "gelu"])
def test_the_normal_distribution_is_exact_to_two_units_in_the_last_place_of_one_half(op):
    x = np.linspace(-9, 9, 100_001).astype("float32")
    single, double = (getattr(ln.ops, op)(ln.asarray(x.astype(dtype))).numpy() for dtype in ("float32", "float64"))
    assert np.max(np.abs(single - double) / (np.maximum(np.abs(x), 1) if op == "gelu" else 1)) <= 2 * 2.0**-24
    edges = np.float32([-np.inf, np.inf, -6, 6, 0, np.nan])
    np.testing.assert_array_equal(ln.ops.ndtr(ln.asarray(edges)).numpy(), np.float32([0, 1, 0, 1, 0.5, np.nan]))


@pytest.mark.parametrize("name", ["exp", "log1p", "expm1"])
def test_repeated_elements_have_results_in_the_order_of_memory_of_other_functions(name):
    x = ln.broadcast_to(ln.asarray(np.linspace(0, 1, 1000, dtype="float32").reshape(20, 1, 50)), (20, 30, 50))
    assert getattr(ln, name)(x).numpy().strides == ln.tanh(x).numpy().strides == (6000, 200, 4)


@pytest.mark.parametrize("name", ["exp", "log1p", "expm1", "erf", "ndtr"])
def test_a_number_has_the_value_of_an_array_of_it(name):
    function = getattr(ln.ops, name)
    for dtype in ("float32", "float64"):
        number = ln.asarray(np.array(0.6, dtype))
        assert function(number).item() == function(number.reshape((1,))).item() != number.item()
