"""Sorting and searching do what NumPy does: stably, NaN last, along any dimension."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.errors import DeviceError
from labnet.kernels.cuda.array.array import DeviceArray
from tests.helpers.cuda.device_arrays import DTYPES, SIMULATED, assert_same, drawn, few, layouts

LENGTHS = (0, 1, 2, 3, 4, 5, 8, 9, 31) if SIMULATED else (0, 1, 31, 255, 256, 257, 513, 5000)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype_with_equal_elements(dtype):
    array = drawn((3, 13), dtype)
    there = DeviceArray.upload(array)
    assert_same(np.sort(there), np.sort(array))
    assert_same(np.argsort(there, stable=True), np.argsort(array, stable=True))


@pytest.mark.parametrize("length", LENGTHS)
def test_every_length(length):
    array = drawn((3, length), "int8")
    there = DeviceArray.upload(array)
    assert_same(np.sort(there), np.sort(array))
    assert_same(np.argsort(there), np.argsort(array, stable=True))


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_infinities_and_nan(dtype):
    array = np.array([np.nan, 1, -np.inf, np.nan, 0.0, np.inf, -0.0, -1, np.nan, 1, -np.inf], dtype)
    there = DeviceArray.upload(array)
    assert_same(np.argsort(there), np.argsort(array, stable=True))
    assert_same(np.sort(there), np.sort(array))
    for side in ("left", "right"):
        found = np.searchsorted(np.sort(there), there, side)
        assert_same(found, np.searchsorted(np.sort(array), array, side))


def test_the_ends_of_integers():
    for dtype in ("int64", "uint64", "int8"):
        ends = np.iinfo(dtype)
        array = np.array([ends.max, 0, ends.min, 5, ends.max, 1], dtype)
        assert_same(np.sort(DeviceArray.upload(array)), np.sort(array))


@few
@given(layouts(), st.sampled_from(["float32", "int16"]), st.data())
def test_any_layout_and_dimension(layout, dtype, data):
    shape, view = layout
    array, there = view(drawn(shape, dtype)), view(DeviceArray.upload(drawn(shape, dtype)))
    axis = data.draw(st.sampled_from([None, *range(-array.ndim, array.ndim)]))
    assert_same(np.sort(there, axis=axis), np.sort(array, axis=axis))
    if array.ndim or axis is not None:
        assert_same(np.argsort(there, axis=axis), np.argsort(array, axis=axis, stable=True))


@few
@given(st.lists(st.integers(-3, 3), max_size=40), st.lists(st.integers(-5, 5), max_size=9), st.booleans())
def test_searching(row, wanted, right):
    row, wanted = np.sort(np.array(row, "int32")), np.array(wanted, "float32")
    there, those = DeviceArray.upload(row), DeviceArray.upload(wanted)
    side = "right" if right else "left"
    assert_same(np.searchsorted(there, those, side), np.searchsorted(row, wanted, side))
    assert_same(np.searchsorted(there[::-1][::-1], those[::-2], side), np.searchsorted(row, wanted[::-2], side))


def test_searching_with_an_order():
    x, wanted = np.array([3.0, 1.0, 2.0], "float32"), np.array([[1.5], [0.0]], "float32")
    expected = ln.searchsorted(ln.asarray(x), ln.asarray(wanted), sorter=ln.argsort(ln.asarray(x)))
    there = ln.asarray(x, device="cuda")
    for order in (ln.argsort(there), np.argsort(x), np.argsort(x).tolist()):
        assert_same(ln.searchsorted(there, ln.asarray(wanted, device="cuda"), sorter=order), expected.numpy())
    with pytest.raises(ValueError, match="sorter"):
        np.searchsorted(there.array, there.array, "left", np.array([0, 1]))


@pytest.mark.parametrize("descending", [False, True])
def test_tensors_are_sorted_in_both_directions_with_gradients(descending):
    array = drawn((3, 7), "int8").astype("float32")
    here, there = (ln.asarray(array, device=device, requires_grad=True) for device in ("cpu", "cuda"))
    weights = drawn((7, 3), "float32", 1).T
    for x in (here, there):
        out = ln.sort(x, axis=0, descending=descending)
        (out * ln.asarray(weights, device=x.device)).sum().backward()
    assert_same(there.grad, here.grad.numpy())
    expected = ln.argsort(here, axis=1, descending=descending)
    assert_same(ln.argsort(there, axis=1, descending=descending), expected.numpy())


def test_what_has_no_dimension_is_refused_as_ever():
    nothing = DeviceArray.upload(np.array(5.0))
    with pytest.raises(np.exceptions.AxisError):
        np.sort(nothing)
    with pytest.raises(np.exceptions.AxisError):
        np.argsort(DeviceArray.upload(np.ones((2, 2))), axis=2)


def test_searchsorted_takes_numbers_and_no_arrays_of_the_host():
    ordered = np.array([1.0, 3.0, 5.0], "float32")
    there = ln.asarray(ordered, device="cuda")
    for number in (3, 4.5, np.float32(1), -(2**40)):
        found = ln.searchsorted(there, number)
        assert (found.device, found.shape) == ("cuda", ())
        assert found.item() == np.searchsorted(ordered, number)
    for pair in ((there, ln.asarray(ordered)), (ln.asarray(ordered), there)):
        with pytest.raises(DeviceError, match=r"cuda.*\.to\("):
            ln.searchsorted(*pair)
