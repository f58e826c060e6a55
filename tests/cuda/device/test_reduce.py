"""Sums, extremes and their positions over any dimensions, and running sums."""

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnet.kernels.cuda.array.array import DeviceArray
from tests.helpers.cuda.device_arrays import DTYPES, assert_same, drawn, few, layouts

SHAPE = (2, 3, 4)
AXES = [None, *[axes for count in (1, 2, 3) for axes in itertools.combinations(range(3), count)], -1]
FUNCTIONS = (np.sum, np.prod, np.max, np.min, np.all, np.any)


@pytest.mark.parametrize("axis", AXES, ids=str)
def test_every_choice_of_dimensions(axis):
    array = drawn(SHAPE, "float32")
    there = DeviceArray.upload(array)
    for function in (np.sum, np.max, np.mean):
        assert_same(function(there, axis=axis), function(array, axis=axis))
    assert_same(np.sum(there, axis=axis, keepdims=True), np.sum(array, axis=axis, keepdims=True))


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    array = drawn((2, 5), dtype)
    there = DeviceArray.upload(array)
    for function in (*FUNCTIONS, np.argmax, np.argmin):
        for axis in (0, 1):
            assert_same(function(there, axis=axis), function(array, axis=axis))


@few
@given(layouts(), st.sampled_from(["float32", "int64"]), st.data())
def test_any_layout(layout, dtype, data):
    shape, view = layout
    array, there = view(drawn(shape, dtype)), view(DeviceArray.upload(drawn(shape, dtype)))
    axes = data.draw(st.sets(st.integers(0, array.ndim - 1)) if array.ndim else st.just(set()))
    assert_same(np.sum(there, axis=tuple(axes)), np.sum(array, axis=tuple(axes)))
    if array.size and array.ndim:
        axis = data.draw(st.integers(0, array.ndim - 1))
        assert_same(np.argmax(there, axis=axis), np.argmax(array, axis=axis))
        assert_same(np.max(there, axis=axis), np.max(array, axis=axis))


def test_nothing_to_reduce():
    empty = DeviceArray.empty((0, 3), np.dtype("float32"))
    assert_same(np.sum(empty, axis=0), np.zeros(3, "float32"))
    assert_same(np.prod(empty, axis=0), np.ones(3, "float32"))
    assert_same(np.sum(empty, axis=1), np.zeros(0, "float32"))
    for function in (np.max, np.argmax):
        with pytest.raises(ValueError, match=r"empty|identity|zero-size"):
            function(empty, axis=0)


@pytest.mark.parametrize("shape", [(40,), (2, 40), (40, 2)])
@pytest.mark.parametrize("axis", [0, -1])
def test_long_sums_are_computed_in_parts(shape, axis):
    array = drawn(shape, "float32")
    assert_same(np.sum(DeviceArray.upload(array), axis=axis), np.sum(array, axis=axis))


def test_the_first_of_equals_and_the_first_nan_are_the_extreme():
    array = np.array([[1.0, 3.0, 3.0, 0.0], [np.nan, 9.0, np.nan, 1.0], [-0.0, 0.0, 0.0, -0.0]])
    there = DeviceArray.upload(array)
    for function in (np.argmax, np.argmin):
        assert_same(function(there, axis=1), function(array, axis=1))
        assert_same(function(there, axis=0), function(array, axis=0))
    assert_same(np.max(there, axis=1), np.max(array, axis=1))
    assert_same(np.min(there, axis=0), np.min(array, axis=0))


def test_what_is_pending_is_reduced_without_a_result_of_its_own():
    from labnet.kernels.cuda.driver.gpu import current_gpu

    x = DeviceArray.upload(drawn((4, 3), "float32"))
    before = current_gpu().launches
    found = np.sum(x * x + 1, axis=1)
    assert current_gpu().launches == before + 1
    assert_same(found, np.sum(x.host() * x.host() + np.float32(1), axis=1))


def test_equal_values_give_equal_bits():
    array = drawn((7, 33), "float32")
    first, second = (np.sum(DeviceArray.upload(array)).host() for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("dtype", ["bool", "int8", "float16", "float32", "float64"])
@pytest.mark.parametrize("function", [np.cumsum, np.cumprod])
def test_running_sums(function, dtype):
    array = drawn((2, 6), dtype)
    there = DeviceArray.upload(array)
    near = {"rtol": 2e-2, "atol": 2e-2} if dtype == "float16" else {}  # which NumPy rounds after every step
    for axis in (0, 1, None):
        assert_same(function(there, axis=axis), function(array, axis=axis), **near)


def test_running_sums_of_any_layout():
    array = drawn((2, 5, 2), "float32")
    there = DeviceArray.upload(array)
    assert_same(np.cumsum(there.T[::-1], axis=1), np.cumsum(array.T[::-1], axis=1))
    assert_same(np.cumsum(DeviceArray.upload(array[:0]), axis=0), np.cumsum(array[:0], axis=0))
