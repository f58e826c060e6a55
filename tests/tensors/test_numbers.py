"""Ranges, and Python's numbers among tensors: which dtype they take, and where ranges end."""

import math

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError

SINGLE, DOUBLE = ln.asarray([1.5]), ln.asarray(np.array([1.5]))
SMALL, TRUTH = ln.asarray(np.array([1], "int8")), ln.asarray([True])


@pytest.mark.parametrize(
    ("values", "dtype", "expected"),
    [
        ([1, 2.5], "float32", [1.0, 2.5]),
        ([True, 2.5], "float32", [1.0, 2.5]),
        ([1, 2], "int64", [1, 2]),
        ([SINGLE, 2], "float32", [1.5, 2.0]),
        ([2.5, SINGLE], "float32", [2.5, 1.5]),
        ([DOUBLE, 2.5, 1], "float64", [1.5, 2.5, 1.0]),
        ([SMALL, 3], "int8", [1, 3]),
        ([TRUTH, 3], "int64", [1, 3]),
    ],
)
def test_joined_numbers_adapt_to_the_tensors_and_alone_have_their_default_dtype(values, dtype, expected):
    joined = ln.concat(values, axis=None)
    assert (joined.dtype, joined.tolist()) == (dtype, expected)
    stacked = ln.stack([x[0] if isinstance(x, ln.Tensor) else x for x in values])
    assert (stacked.dtype, stacked.tolist()) == (dtype, expected)
    compiled = ln.jit(lambda x: ln.concat([x, *values], axis=None))(joined)
    assert (compiled.dtype, compiled.tolist()) == (dtype, expected * 2)


@pytest.mark.parametrize("function", [ln.add, ln.multiply, ln.maximum, ln.pow, lambda a, b: ln.where(TRUTH, a, b)])
def test_functions_of_two_numbers_have_the_default_dtype(function):
    assert function(1, 2.5).dtype == "float32"
    assert function(2, 1).dtype == "int64"
    assert ln.result_type(1, 2.5) == "float32"


def test_lists_of_tensors_and_numbers_have_the_dtype_of_the_tensors():
    assert ln.asarray([SINGLE[0], 2]).dtype == "float32"
    assert ln.asarray([SMALL[0], 2]).dtype == "int8"


def test_gradients_pass_by_numbers():
    x = ln.asarray([1.0, 2.0], requires_grad=True)
    assert ln.concat([x, 3, 4.5], axis=None).backward(np.arange(4.0))[x].tolist() == [0.0, 1.0]
    assert ln.stack([x[0], 3]).backward(np.array([5.0, 6.0]))[x].tolist() == [5.0, 0.0]


def test_numbers_that_do_not_fit_are_refused():
    with pytest.raises(DTypeError, match="300"):
        ln.concat([SMALL, 300], axis=None)


RANGES = [
    (1e6, 1e6 + 10, 0.1),
    (1e8, 1e8 + 10, 0.5),
    (1e15, 1e15 + 10, 0.1),
    (1, 1.3, 0.1),
    (0, 1, 0.1),
    (5, -5, -0.7),
    (1, -1, -2 / 3),
    (-3, 0, 0.9),
    (0.5, 0.5, 1),
    (3, 0, 1),
    (0, 1e-3, 1e-4),
    (16777216, 16777226, 1),
]


@pytest.mark.parametrize("dtype", ["float32", "float64", "int64"])
@pytest.mark.parametrize(("start", "stop", "step"), RANGES)
def test_ranges_have_the_exact_number_of_elements_and_end_before_stop(start, stop, step, dtype):
    values = ln.arange(start, stop, step, dtype=dtype)
    assert values.dtype == dtype
    assert len(values) == max(0, math.ceil((stop - start) / step))
    found = values.numpy().astype("float64")
    assert (found < stop).all() if step > 0 else (found > stop).all()
    exact = start + step * np.arange(len(values))
    np.testing.assert_allclose(found, exact, rtol=1e-7, atol=1 if dtype == "int64" else 0)


def test_ranges_of_integers_are_exact_beyond_what_floats_hold():
    start = 2**60 + 1
    assert ln.arange(start, start + 3).tolist() == [start, start + 1, start + 2]


def test_ranges_take_numbers_of_numpy():
    assert ln.arange(np.float32(0), np.float32(1), np.float32(0.5)).tolist() == [0.0, 0.5]
    assert ln.arange(np.int32(3)).dtype == "int64"


@pytest.mark.parametrize("arguments", [(math.inf,), (0, math.nan), (0, 1, math.nan), (0, 1e300, 1e-300)])
def test_ranges_that_cannot_be_counted_are_refused(arguments):
    with pytest.raises(ValueError, match="cannot count"):
        ln.arange(*arguments)
