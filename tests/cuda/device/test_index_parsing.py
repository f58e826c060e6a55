"""Arrays of integers on the GPU as indices: offsets are computed there, and errors are those of NumPy."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from tests.helpers.cuda.device_arrays import DTYPES, assert_same, drawn, few, layouts

upload = DeviceArray.upload
INTEGERS = [dtype for dtype in DTYPES if "int" in dtype]


def at(*parts):
    """Return an index with its arrays on the GPU."""
    return tuple(upload(part) if isinstance(part, np.ndarray) else part for part in parts)


def same_everywhere(array, key, there=None):
    """Read, write and add at an index on both devices."""
    there = upload(array) if there is None else there
    assert_same(there[at(*key)], array[key])
    values = drawn(array[key].shape, array.dtype, 1)
    for value in (values, values[..., :1] if values.ndim else values):
        here, copy = array.copy(), there.copy()
        here[key] = value
        copy[at(*key)] = upload(value)
        assert_same(copy, here)
        np.add.at(here, key, value)
        np.add.at(copy, at(*key), upload(value))
        assert_same(copy, here)


KEYS = [
    (np.array([0, 2, 2, -1]),),
    (slice(None), np.array([[3, 0], [-4, 0]])),
    (..., np.array([4, -5, 4])),
    (np.array([1, 0]), np.array([3, -1])),
    (np.array([[1], [0]]), slice(None), np.array([4, 4, -2])),
    (slice(None, None, -1), np.array([1, 1]), slice(1, None, 2)),
    (None, np.array([2, 2]), 1),
    (np.array([2, 2]), None, slice(None), np.array([1, 1])),
    (np.array([0, 1]), np.array([True, False, True, False])),
    ([0, 2], np.array([3, 3])),
    (np.array([], "int64"),),
    (np.zeros((2, 0), "int64"), np.zeros((1, 1), "int64")),
    (2, np.array([0, 0, 1]), np.array([[1], [2]])),
]


@pytest.mark.parametrize("key", KEYS, ids=repr)
def test_reading_writing_and_adding(key):
    same_everywhere(drawn((3, 4, 5), "float32"), key)


@pytest.mark.parametrize("dtype", INTEGERS)
def test_integers_of_every_kind_are_indices(dtype):
    index = np.array([2, 0, 2] if dtype[0] == "u" else [2, -3, 2], dtype)
    same_everywhere(drawn((3, 2), "float32"), (index,))


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_of_every_dtype_are_read_and_written(dtype):
    same_everywhere(drawn((4, 3), dtype), (np.array([0, 3, 0, 1, 0]),))


@few
@given(layouts(), st.data())
def test_any_layout_with_repeated_and_negative_positions(layout, data):
    shape, view = layout
    array = view(drawn(shape, "float32"))
    if not array.ndim or 0 in array.strides:
        return
    axis = data.draw(st.integers(0, array.ndim - 1))
    length = array.shape[axis]
    index = data.draw(st.lists(st.integers(-length, length - 1), max_size=6)) if length else []
    key = (slice(None),) * axis + (np.array(index, "int64"),)
    there = view(upload(drawn(shape, "float32")))
    assert_same(there[at(*key)], array[key])
    same_everywhere(np.ascontiguousarray(array), key, there)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(st.data())
def test_several_arrays_broadcast_together(data):
    array = drawn((3, 4, 2), "float32")
    shape = data.draw(st.sampled_from([(), (3,), (2, 2), (0,)]))
    parts = []
    for length in array.shape:
        kind = data.draw(st.sampled_from(["array", "slice", "number"]))
        if kind == "array":
            own = tuple(n if data.draw(st.booleans()) else 1 for n in shape)
            count = int(np.prod(own))
            found = data.draw(st.lists(st.integers(-length, length - 1), min_size=count, max_size=count))
            parts.append(np.array(found, "int64").reshape(own))
        else:
            parts.append(slice(None, None, -1) if kind == "slice" else 1)
    same_everywhere(array, tuple(parts))


@pytest.mark.parametrize(
    "key",
    [
        (np.array([0, 3]),),
        (np.array([-4, 0]),),
        (slice(None), np.array([[1], [9]])),
        (None, np.array([5])),
        (np.array([5]), np.array([1, 2, 9])),
        (np.array([[1], [7]]), np.array([1, 2, -9])),
        (0, np.array([9])),
        (np.array([1, 2]), np.array([1, 2, 0])),
        (np.array([1.0]),),
        (np.array([0]),) * 4,
        (np.array([0, 1]), [0, 7]),
        (np.array([True, False, True]), np.array([0, 4])),
    ],
    ids=repr,
)
def test_the_complaints_are_those_of_numpy_and_come_before_anything_is_written(key):
    array = drawn((3, 4, 5), "float32")
    there = upload(array)
    with pytest.raises(IndexError) as expected:
        array[key]
    for call in (
        lambda: there[at(*key)],
        lambda: there.__setitem__(at(*key), 7.0),
        lambda: np.add.at(there, at(*key), 1.0),
    ):
        with pytest.raises(IndexError) as found:
            call()
        assert str(found.value) == str(expected.value)
    assert_same(there, array)


def test_an_empty_list_names_nothing_and_an_empty_array_of_floats_is_no_index():
    array = drawn((3, 4), "float32")
    for key in ([], [[]], (slice(None), [])):
        assert_same(upload(array)[key], array[key])
    for empty in (np.zeros(0), upload(np.zeros(0))):
        with pytest.raises(IndexError, match="integer"):
            upload(array)[empty]


def test_no_position_is_out_of_bounds_where_nothing_is_read():
    key = np.array([7]), np.zeros(0, "int64")
    array = drawn((3, 4), "float32")
    assert_same(upload(array)[at(*key)], array[key])


def test_of_several_values_for_one_place_the_last_stays():
    there, index = upload(np.zeros(3)), upload(np.array([1, -2, 1, 0] * 9))
    there[index] = upload(np.arange(36.0))
    assert there.tolist() == [35.0, 34.0, 0.0]


def test_additions_have_the_bits_of_numpy_each_time():
    rng = np.random.default_rng(0)
    values, index = rng.standard_normal((60, 2)).astype("float32") * 1e4, rng.integers(0, 3, 60)
    expected = np.zeros((3, 2), "float32")
    np.add.at(expected, index, values)
    for _ in range(2):
        there = upload(np.zeros((3, 2), "float32"))
        np.add.at(there, upload(index), upload(values))
        assert there.host().tobytes() == expected.tobytes()


def test_only_a_flag_is_waited_for(monkeypatch):
    fetched = []
    own = current_gpu().download

    def download(target, address):
        fetched.append(target.nbytes)
        own(target, address)

    x, index, values = upload(drawn((5, 2), "float32")), upload(np.array([1, -1, 4] * 5)), upload(drawn((15, 2), "f4"))
    monkeypatch.setattr(current_gpu(), "download", download, raising=False)
    x[index]
    x[index] = values
    np.add.at(x, index, values)
    np.take(x, index, axis=0)
    np.sort(x, axis=0)
    np.searchsorted(upload(np.arange(3)), index)
    assert fetched == [1, 1, 1, 1]


def test_an_embedding_learns_as_on_the_cpu():
    found = []
    for device in ("cpu", "cuda"):
        ln.manual_seed(0)
        layer = ln.nn.Embedding(6, 3, padding_idx=1).to(device)
        index = ln.asarray(np.array([[0, 5, 5], [1, 0, 2]]), device=device)
        out = layer(index)
        (out * out).sum().backward()
        found.append((out, layer.weight.grad))
    for here, there in zip(*found, strict=True):
        assert_same(there, here.numpy())
    with pytest.raises(IndexError, match=r"indices must lie in \[0, 6\), got -1 to 6"):
        layer(ln.asarray([-1, 6], device="cuda"))


def test_taking_along_a_dimension():
    array = drawn((3, 4), "float32")
    index = np.array([[0, -1], [3, 3], [1, -4]])
    here, there = (ln.asarray(array, device=device, requires_grad=True) for device in ("cpu", "cuda"))
    outs = [ln.take_along_axis(x, ln.asarray(index, device=x.device), axis=1) for x in (here, there)]
    assert_same(outs[1], outs[0].detach().numpy())
    for out in outs:
        (out * out).sum().backward()
    assert_same(there.grad, here.grad.numpy())
    with pytest.raises(IndexError, match="index 4 is out of bounds for axis 1 with size 4"):
        ln.take_along_axis(there, ln.asarray(index + 1, device="cuda"), axis=1)


def test_the_gradient_of_writing_at_positions_goes_to_the_values_that_stay():
    found = []
    for device in ("cpu", "cuda"):
        x, values = (
            ln.asarray(drawn(shape, "float32"), device=device, requires_grad=True) for shape in ((3, 2), (4, 2))
        )
        index = ln.asarray([2, 0, -1, 2], device=device)
        out = ln.ops.setitem(x, values, index)
        (out * out).sum().backward()
        found.append((out, x.grad, values.grad))
    for here, there in zip(*found, strict=True):
        assert_same(there, here.numpy())
