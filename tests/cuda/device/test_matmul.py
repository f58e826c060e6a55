"""Products of matrices of every layout."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.kernels import matmul
from tests.helpers.cuda.device_arrays import DTYPES, SIMULATED, assert_same, drawn, few

SHAPES = [
    ((3,), (3,)), ((3,), (3, 2)), ((2, 3), (3,)), ((2, 3), (3, 4)), ((1, 5), (5, 1)),
    ((5, 1), (1, 5)), ((1, 1), (1, 1)),
    ((2, 2, 3), (3, 2)), ((2, 3), (4, 3, 2)), ((2, 1, 2, 3), (3, 3, 2)), ((3, 2, 3), (3, 3, 2)), ((0, 3), (3, 2)),
    ((2, 0), (0, 3)), ((0, 2, 3), (3, 1)), ((17, 19), (19, 18)),
]  # fmt: skip


@pytest.mark.parametrize("shapes", SHAPES, ids=str)
def test_shapes(shapes):
    first, second = drawn(shapes[0], "float32"), drawn(shapes[1], "float32", 1)
    assert_same(np.matmul(DeviceArray.upload(first), DeviceArray.upload(second)), np.matmul(first, second))


@pytest.mark.parametrize("dtype", DTYPES)
def test_dtypes(dtype):
    first, second = drawn((3, 5), dtype), drawn((5, 2), dtype, 1)
    assert_same(np.matmul(DeviceArray.upload(first), DeviceArray.upload(second)), np.matmul(first, second), rtol=1e-2)


def test_promotion():
    first, second = drawn((3, 5), "float32"), drawn((5, 2), "float64", 1)
    assert_same(np.matmul(DeviceArray.upload(first), DeviceArray.upload(second)), np.matmul(first, second))


def rearranged(array, how):
    """Return a view of the shape of an array, with the memory in another order."""
    if how == "transposed":
        return np.swapaxes(np.swapaxes(array, -1, -2).copy(), -1, -2)
    if how == "flipped":
        return np.flip(np.flip(array, -1).copy(), -1)
    if how == "every second":
        return np.concatenate([array, array], -2)[..., ::2, :]
    if how == "part":
        wide = np.concatenate([array, array], -1)
        return wide[..., : array.shape[-1]]
    if how == "one row":
        return np.broadcast_to(array[..., :1, :], array.shape)
    return np.moveaxis(np.moveaxis(array, 0, -1).copy(), -1, 0) if how == "batch last" else array


HOW = ["as is", "transposed", "flipped", "every second", "part", "one row", "batch last"]


@few
@given(st.sampled_from(HOW), st.sampled_from(HOW), st.tuples(*[st.integers(1, 4)] * 3), st.integers(1, 3))
def test_layouts(one, other, sizes, batch):
    rows, inner, columns = sizes
    first, second = drawn((batch, rows, inner), "float32"), drawn((batch, inner, columns), "float32", 1)
    expected = np.matmul(rearranged(first, one), rearranged(second, other))
    there = [DeviceArray.upload(first), DeviceArray.upload(second)]
    found = np.matmul(rearranged(there[0], one), rearranged(there[1], other))
    assert_same(found, expected)


def test_more_products_and_rows_than_a_grid_has_blocks(monkeypatch):
    monkeypatch.setattr(matmul, "_MOST", 2)
    monkeypatch.setattr(matmul, "_cublas", lambda: None)
    side = 2 * current_gpu().tile * matmul.PER_THREAD
    first, second = drawn((3, side + 1, 2), "float32"), drawn((3, 2, 1), "float32", 1)
    assert_same(np.matmul(DeviceArray.upload(first), DeviceArray.upload(second)), np.matmul(first, second))


@pytest.mark.skipif(SIMULATED, reason="the simulator has no cuBLAS")
def test_our_own_kernel_agrees_with_cublas(monkeypatch):
    first, second = drawn((200, 130), "float32"), drawn((130, 70), "float32", 1)
    there = DeviceArray.upload(first), DeviceArray.upload(second)
    expected = np.matmul(*there).host()
    monkeypatch.setattr(matmul, "_cublas", lambda: None)
    np.testing.assert_allclose(np.matmul(*there).host(), expected, rtol=1e-4, atol=1e-4)


def test_inner_dimensions_that_differ_are_named():
    with pytest.raises(ValueError, match=r"\(2, 3\) @ \(4, 2\)"):
        np.matmul(DeviceArray.upload(np.ones((2, 3))), DeviceArray.upload(np.ones((4, 2))))


def test_truths_of_many_terms():
    for count in (255, 256, 257, 512):
        row, column = np.ones((1, count), bool), np.ones((count, 1), bool)
        assert_same(DeviceArray.upload(row) @ DeviceArray.upload(column), row @ column)
