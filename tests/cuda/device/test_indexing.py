"""Reading, writing and adding at an index do what NumPy does, repeated elements included."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from tests.helpers.cuda.device_arrays import DTYPES, assert_same, drawn, few, layouts

KEYS = [
    0, -1, slice(1, 3), (1, 2), (slice(None, None, -1), 0), (..., 1),
    (None, slice(0, 2)), (slice(2, 2),), (0, 1, 2), (),
    [0, 2, 2], ([0, 1], [1, 3]), (slice(None), [1, 1, 0]), ([[0, 1], [2, 2]], slice(None), [0]), (..., [-1, 0]),
    ([0, 2], None, slice(None), [1, 2]), ([2], slice(1, 3), 0), np.array([True, False, True]), [],
    (slice(None), np.array([True, False, True, True])), (0, slice(None), [3, 0]),
    (slice(None, None, 2), [0, 3], [1, 1]),
]  # fmt: skip


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_reading(key):
    array = drawn((3, 4, 5), "float32")
    assert_same(DeviceArray.upload(array)[key], array[key])


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_writing(key):
    array = drawn((3, 4, 5), "float32")
    values = drawn(array[key].shape, "float32", 1)
    for value in (values, np.float32(7), values[..., :1] if values.ndim else values):
        here, there = array.copy(), DeviceArray.upload(array)
        here[key] = value
        there[key] = DeviceArray.upload(value) if value.ndim else value
        assert_same(there, here)


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_adding(key):
    array = drawn((3, 4, 5), "float32")
    values = drawn(array[key].shape, "float32", 1)
    there = DeviceArray.upload(array)
    np.add.at(there, key, DeviceArray.upload(values))
    np.add.at(array, key, values)
    assert_same(there, array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_every_dtype(dtype):
    array, values = drawn((4, 3), dtype), drawn((5, 3), dtype, 1)
    key = [0, 3, 0, 1, 0]
    there = DeviceArray.upload(array)
    assert_same(there[key], array[key])
    there[key] = DeviceArray.upload(values)
    array[key] = values
    assert_same(there, array)
    np.add.at(there, key, DeviceArray.upload(values))
    np.add.at(array, key, values)
    assert_same(there, array)


def test_of_several_values_for_one_place_the_last_stays():
    there = DeviceArray.upload(np.zeros(3))
    there[[1, 1, 1, 0]] = DeviceArray.upload(np.array([1.0, 2.0, 3.0, 4.0]))
    assert there.tolist() == [4.0, 3.0, 0.0]


@few
@given(layouts(), st.data())
def test_arrays_of_integers_and_any_layout(layout, data):
    shape, view = layout
    array = view(drawn(shape, "float32"))
    there = view(DeviceArray.upload(drawn(shape, "float32")))
    if not array.ndim:
        return
    axis = data.draw(st.integers(0, array.ndim - 1))
    length = array.shape[axis]
    index = data.draw(st.lists(st.integers(-length, length - 1), max_size=4)) if length else []
    key = (slice(None),) * axis + (np.array(index, "int64"),)
    assert_same(there[key], array[key])
    if 0 not in array.strides:
        added = array.copy()
        copy = there.copy()
        values = drawn(array[key].shape, "float32", 2)
        np.add.at(added, key, values)
        np.add.at(copy, key, DeviceArray.upload(values))
        assert_same(copy, added)


@pytest.mark.parametrize("key", [3, -4, [0, 3], ([0], [4]), (slice(None), [-5]), (0, 0, 0, 0), [[True, False]], [0.5]])
def test_what_numpy_refuses_is_refused(key):
    array = drawn((3, 4, 5), "float32")
    there = DeviceArray.upload(array)
    with pytest.raises(IndexError):
        array[np.asarray(key) if isinstance(key, list) else key]
    with pytest.raises(IndexError):
        there[np.asarray(key) if isinstance(key, list) else key]
    with pytest.raises(IndexError):
        there[np.asarray(key) if isinstance(key, list) else key] = 0.0
    assert_same(there, array)


@pytest.mark.parametrize("axis", [0, 1, -1])
def test_along_a_dimension(axis):
    array = drawn((3, 4), "float32")
    index = np.argsort(array, axis)[:2] if axis == 0 else np.argsort(array, axis)[:, :3] - 4
    there, positions = DeviceArray.upload(array), DeviceArray.upload(index)
    assert_same(np.take_along_axis(there, positions, axis), np.take_along_axis(array, index, axis))
    np.put_along_axis(there, positions, DeviceArray.upload(drawn(index.shape, "float32", 1)), axis)
    np.put_along_axis(array, index, drawn(index.shape, "float32", 1), axis)
    assert_same(there, array)


def test_tensors_on_the_gpu_are_indices_too():
    x = ln.asarray(np.arange(12.0).reshape(3, 4), device="cuda")
    rows = ln.asarray([2, 0], device="cuda")
    assert x[rows].tolist() == [[8.0, 9.0, 10.0, 11.0], [0.0, 1.0, 2.0, 3.0]]
    assert x[x > 9.0].tolist() == [10.0, 11.0]
    assert x[rows[0]].tolist() == [8.0, 9.0, 10.0, 11.0]


def test_a_write_is_seen_by_every_view_and_by_no_graph():
    x = ln.asarray(np.arange(6.0), device="cuda")
    view = x[2:4]
    weight = ln.ones(6, dtype="float64", device="cuda", requires_grad=True)
    loss = (weight * x).sum()
    x[2] = 50.0
    assert view.tolist() == [50.0, 3.0]
    assert loss.backward()[weight].tolist() == [0.0, 1.0, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(
    "look",
    [
        ln.squeeze,
        lambda x: ln.squeeze(x, axis=()),
        lambda x: ln.astype(x, "float32", copy=False),
        lambda x: ln.broadcast_to(x, (1, 3, 4)),
        lambda x: ln.flip(x, axis=()),
        lambda x: x.to("float32"),
        lambda x: x[...],
    ],
)
def test_writing_through_an_identity_is_seen(look):
    x = ln.zeros((3, 4), device="cuda")
    look(x)[...] = 5
    assert x.tolist() == [[5.0] * 4] * 3
