"""Selection by value: masks, nonzero and distinct elements; and cumulative sums in parts."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.kernels import scan
from tests.helpers.cuda.device_arrays import DTYPES, assert_same, drawn, few, layouts

upload = DeviceArray.upload


@pytest.fixture
def fetched(monkeypatch):
    """Give a list of how many bytes were waited for."""
    found, own = [], current_gpu().download

    def download(target, address):
        found.append(target.nbytes)
        own(target, address)

    monkeypatch.setattr(current_gpu(), "download", download, raising=False)
    return found


def several(shape, dtype, seed=0):
    """Return numbers of a dtype that repeat, with NaN and both zeros among them."""
    found = drawn(shape, dtype, seed)
    if found.dtype.kind == "f":
        found = np.rint(found)
        found.ravel()[1::5] = np.nan
        found.ravel()[2::7] = -0.0
    return found


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(7,), (3, 4), (2, 1, 5), (0,), (2, 0)], ids=str)
def test_elements_that_are_not_zero(dtype, shape):
    array = several(shape, dtype)
    for found, expected in zip(np.nonzero(upload(array)), np.nonzero(array), strict=True):
        assert_same(found, expected)


@few
@given(layouts(), st.sampled_from(["bool", "float32"]))
def test_any_layout_has_elements_that_are_not_zero(layout, dtype):
    shape, view = layout
    array = view(drawn(shape, dtype))
    if array.ndim:
        for found, expected in zip(np.nonzero(view(upload(drawn(shape, dtype)))), np.nonzero(array), strict=True):
            assert_same(found, expected)


def test_a_number_has_no_positions():
    with pytest.raises(ValueError, match="0d"):
        np.nonzero(upload(np.array(3.0)))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(9,), (3, 4), (0,), (2, 0), ()], ids=str)
def test_distinct_elements(dtype, shape):
    array = several(shape, dtype)
    there = upload(array)
    for found, expected in zip(np.unique_all(there), np.unique_all(array), strict=True):
        assert_same(found, expected)
    assert_same(np.unique_values(there), np.unique_all(array).values)
    for function in (np.unique_counts, np.unique_inverse):
        for found, expected in zip(function(there), function(array), strict=True):
            assert_same(found, expected)


def test_distinct_elements_of_a_view():
    array = several((4, 6), "int32")
    for found, expected in zip(np.unique_all(upload(array).T[::-2]), np.unique_all(array.T[::-2]), strict=True):
        assert_same(found, expected)


#: Masks for an array of shape (3, 4, 5), and what stands beside them in the index.
MASKS = {
    "of everything": lambda m: (m((3, 4, 5)),),
    "of rows": lambda m: (m((3,)),),
    "of two dimensions": lambda m: (m((3, 4)),),
    "of two dimensions, then a slice": lambda m: (m((3, 4)), slice(None, None, -2)),
    "behind a slice": lambda m: (slice(1, None), m((4,))),
    "behind all": lambda m: (..., m((4, 5))),
    "behind a number": lambda m: (1, m((4, 5))),
    "beside a new dimension": lambda m: (m((3,)), None, slice(2)),
    "beside positions": lambda m: (m((3,)), np.array([1])),
    "two": lambda m: (np.array([True, False, True]), slice(None), np.array([True, True, False, False, False])),
    "of nothing": lambda m: (np.zeros((3, 4), bool),),
}


def masked(case):
    """Return an index with a mask, of the host and of the GPU."""
    here = MASKS[case](lambda shape: np.arange(np.prod(shape)).reshape(shape) % 3 != 1)
    return here, tuple(upload(part) if isinstance(part, np.ndarray) else part for part in here)


@pytest.mark.parametrize("case", MASKS)
@pytest.mark.parametrize("turned", [False, True])
def test_masks_are_read_written_and_added_at(case, turned):
    key, there_key = masked(case)
    array = drawn((3, 4, 5), "float32")
    there = upload(array)
    if turned:
        there = upload(np.ascontiguousarray(array.T)).T
    assert_same(there[there_key], array[key])
    values = drawn(array[key].shape, "float32", 1)
    given = [values, np.float32(7), *([values[:1], values[0]] if len(values) else [])]
    for value in given:
        here, copy = array.copy(), there.copy()
        here[key] = value
        copy[there_key] = upload(value) if value.ndim else value
        assert_same(copy, here)
        np.add.at(here, key, value)
        np.add.at(copy, there_key, upload(np.asarray(value)))
        assert_same(copy, here)


@pytest.mark.parametrize("dtype", DTYPES)
def test_elements_of_every_dtype_are_chosen(dtype):
    array, mask = drawn((4, 3), dtype), drawn((4, 3), "bool", 2)
    there, chosen = upload(array), upload(mask)
    assert_same(there[chosen], array[mask])
    values = drawn((int(mask.sum()),), dtype, 3)
    np.add.at(there, chosen, upload(values))
    np.add.at(array, mask, values)
    assert_same(there, array)
    there[chosen], array[mask] = upload(values), values
    assert_same(there, array)
    there[chosen], array[mask] = 1, 1
    assert_same(there, array)


def test_what_is_written_is_converted_as_numpy_does():
    mask = np.array([True, False, True])
    for dtype, value in [("int64", np.array(2.75)), ("int64", np.float32(-1.5)), ("float32", np.array(1, "int64"))]:
        array = np.array([2**53 + 1, 5, 7]).astype(dtype)
        there = upload(array)
        array[mask] = value
        there[upload(mask)] = upload(np.asarray(value))
        assert_same(there, array)


def test_a_mask_may_be_what_it_writes_to_and_a_view_of_it():
    array = drawn((4, 4), "bool", 3)
    for pick in (lambda x: x, lambda x: x.T, lambda x: x[::-1]):
        here, there = array.copy(), upload(array)
        here[pick(here).copy()] = False
        there[pick(there)] = False
        assert_same(there, here)


@pytest.mark.parametrize("shape", [(2,), (4,), (3, 5), (3, 4, 5, 1), ()], ids=str)
def test_a_mask_of_another_shape_is_refused_before_anything_is_written(shape):
    array, mask = drawn((3, 4, 5), "float32"), np.ones(shape, bool)
    there = upload(array)
    for call in (lambda: there[upload(mask)], lambda: there.__setitem__(upload(mask), 1.0)):
        with pytest.raises(IndexError, match=r"boolean index did not match|too many indices|single boolean"):
            call()
    assert_same(there, array)


@pytest.mark.parametrize("shape", [(2,), (4, 1), (2, 4)], ids=str)
def test_values_that_do_not_fit_a_mask_are_refused(shape):
    array, mask = drawn((3, 4), "float32"), np.array([True, False, True])
    values = np.ones(shape, "float32")
    there = upload(array)
    try:
        array[mask] = values
    except ValueError:
        with pytest.raises(ValueError, match="broadcast"):
            there[upload(mask)] = upload(values)
    else:
        there[upload(mask)] = upload(values)
    assert_same(there, array)


def test_only_the_number_of_elements_of_a_mask_is_waited_for(fetched):
    x, mask, values = (
        upload(drawn((300,), "float32")),
        upload(np.arange(300) % 3 == 0),
        upload(drawn((100,), "float32")),
    )
    x[mask]
    x[mask] = values
    np.add.at(x, mask, values)
    np.nonzero(x)
    np.unique_all(x)
    assert fetched == [4] * 5


def test_nothing_is_waited_for_where_every_place_gets_the_same(fetched):
    x, mask = upload(drawn((6, 5), "float32")), upload(drawn((6,), "bool"))
    x[mask] = 0.0
    x[mask] = upload(drawn((5,), "float32"))
    x[x > 1] = x.sum()
    assert fetched == []


def test_gradients_of_what_a_mask_chooses_and_of_what_is_written_there():
    found = []
    for device in ("cpu", "cuda"):
        x, values = (ln.asarray(drawn(s, "float32"), device=device, requires_grad=True) for s in ((3, 4), (3,)))
        mask = ln.asarray(
            np.array([[True, False, True, False], [False] * 4, [False, True, False, False]]), device=device
        )
        chosen, written, filled = x[mask], ln.ops.setitem(x, values, mask), ln.ops.setitem(x, values[0], mask)
        ((chosen * chosen).sum() + (written * written).sum() + (filled * filled).sum()).backward()
        found.append((chosen, written, filled, x.grad, values.grad))
    for here, there in zip(*found, strict=True):
        assert_same(there, here.numpy())


def test_repeats_that_a_tensor_holds():
    for device in ("cpu", "cuda"):
        x, times = ln.asarray([[1.0, 2.0], [3.0, 4.0]], device=device), ln.asarray([2, 0], device=device)
        assert ln.repeat(x, times, axis=0).tolist() == [[1.0, 2.0], [1.0, 2.0]]
        assert ln.repeat(x, times, axis=0).device == device


@pytest.mark.parametrize(
    "view",
    [lambda x: x[:, ::2], lambda x: x[::-1], lambda x: x.T, lambda x: x[1], lambda x: x[0, ::2], lambda x: x[:1, :1]],
)
@pytest.mark.parametrize("wide", [(), (5,)], ids=str)
def test_views_with_steps_are_masks_and_have_distinct_elements(view, wide):
    array = np.random.default_rng(5).integers(0, 3, (3, 8))
    here, there = (view(x) for x in (array, upload(array)))
    if wide:
        here, there = (np.broadcast_to(x, (*wide, *x.shape)) for x in (here, there))
    for function in (np.unique_all, np.nonzero):
        for found, expected in zip(function(there), function(here), strict=True):
            assert_same(found, expected)
    mask = np.broadcast_to(view(upload(array > 1)), here.shape)
    assert_same(upload(np.ascontiguousarray(here))[mask], here[here > 1])
    changed, target = here.copy(), upload(np.ascontiguousarray(here))
    values = np.arange((here > 1).sum())
    changed[here > 1] = values
    target[mask] = upload(values)
    assert_same(target, changed)


@pytest.mark.parametrize(
    ("key", "shape"), [(np.zeros(3, bool), (2,)), (np.zeros(3, bool), (2, 4)), (np.zeros(0, int), (5, 17))]
)
def test_values_that_fit_nowhere_are_refused_also_where_the_index_names_nothing(key, shape):
    for array in (np.zeros((3, 4), "float32"), upload(np.zeros((3, 4), "float32"))):
        there = isinstance(array, DeviceArray)
        with pytest.raises(ValueError, match=r"broadcast|mismatch"):
            array[upload(key) if there else key] = upload(np.ones(shape)) if there else np.ones(shape)


# Running sums in parts


def test_running_sums_and_products_of_truths():
    array = np.array([[0.0, 0.5, 0.0], [2.0, 0.0, 1.0]])
    for function in (np.cumsum, np.cumprod):
        for axis in (0, 1):
            assert_same(function(upload(array), axis=axis, dtype=bool), function(array, axis=axis, dtype=bool))


def test_a_long_row_overflows_only_where_its_results_do():
    length = 2 * scan.SHARED_FROM
    sums = np.full(length, 20, "float16")
    sums[: scan.PART] = -15
    exact = np.cumsum(sums, dtype="float64")
    found = np.cumsum(upload(sums)).host()
    fits = np.abs(exact) < 65_504
    np.testing.assert_allclose(found[fits], exact[fits], rtol=2e-3, atol=16)
    products = np.full(length, 1.05, "float32")
    products[0] = 0
    assert not np.cumprod(upload(products)).host().any()


@pytest.mark.parametrize("shape", [(1,), (7,), (8,), (9,), (12,), (33,), (2, 31), (3, 2, 40), (40, 3)], ids=str)
@pytest.mark.parametrize(("function", "dtype"), [(np.cumsum, "int32"), (np.cumsum, "float64"), (np.cumprod, "float32")])
def test_long_rows_are_gone_through_in_parts(monkeypatch, shape, function, dtype):
    monkeypatch.setattr(scan, "SHARED_FROM", 8)
    monkeypatch.setattr(scan, "PART", 4)
    array = drawn(shape, dtype) if function is np.cumsum else np.exp(drawn(shape, dtype) / 40)
    for axis in range(-1, array.ndim - 1):
        assert_same(function(upload(array), axis=axis), function(array, axis=axis))


def test_a_row_that_is_as_long_as_that_is_right_too():
    array = drawn((3 * scan.SHARED_FROM + 5,), "int64")
    assert_same(np.cumsum(upload(array)), np.cumsum(array))
