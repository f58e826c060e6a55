"""Devices of tensors: created, moved, mixed, counted, and shared with other libraries."""

import threading

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DeviceError
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import materialize_readers
from tests.helpers.cuda.device_arrays import SIMULATED, assert_same, drawn


def test_tensors_are_made_where_it_is_said():
    for tensor in (
        ln.ones(2, device="cuda"),
        ln.zeros((0, 3), device="cuda"),
        ln.full(2, 7, device="cuda"),
        ln.arange(3, device="cuda"),
        ln.linspace(0, 1, 3, device="cuda"),
        ln.eye(2, device="cuda"),
        ln.asarray([1.0, 2.0], device="cuda:0"),
        ln.zeros_like(ln.ones(2, device="cuda")),
    ):
        assert tensor.device == "cuda"
        assert tensor.to("cpu").device == "cpu"


def test_the_default_device_is_that_of_set_device():
    ln.set_device("cuda")
    try:
        assert ln.ones(2).device == "cuda"
        assert ln.asarray([1.0]).device == "cuda"
        assert ln.ones(2, device="cpu").device == "cpu"
        assert ln.nn.Linear(2, 1)(ln.ones((1, 2))).device == "cuda"
    finally:
        ln.set_device("cpu")
    assert ln.ones(2).device == "cpu"


def test_devices_do_not_mix_and_the_error_says_what_to_do():
    here, there = ln.ones((2, 3)), ln.ones((2, 3), device="cuda")
    for call in (
        lambda: here + there,
        lambda: there * here,
        lambda: there @ here.T,
        lambda: ln.where(there > 0, here, there),
    ):
        with pytest.raises(DeviceError, match=r"on 'cuda'.*\(\d, \d\) on 'cpu'.*\.to\('cuda'\)"):
            call()
    with pytest.raises(DeviceError, match=r"\.to\('cpu'\)"):
        there.numpy()
    with pytest.raises(DeviceError, match=r"\.to\('cpu'\)"):
        np.asarray(there)
    assert (there + 1).tolist() == [[2.0] * 3] * 2


def test_values_reach_python_from_the_gpu():
    x = ln.asarray([[1.5, -2.0]], device="cuda")
    assert x.tolist() == [[1.5, -2.0]]
    assert x.sum().item() == -0.5
    assert float(x[0, 0]) == 1.5
    assert bool(x[0, 0] > 0)
    assert "1.5" in repr(x)
    assert "cuda" in repr(x)
    assert [row.tolist() for row in x] == [[1.5, -2.0]]
    with pytest.raises(IndexError):
        x[2]


def test_files_hold_the_values_of_the_gpu(tmp_path):
    x = ln.asarray(drawn((2, 3), "float32"), device="cuda")
    ln.io.save(tmp_path / "x.safetensors", {"x": x, "part": x[:, 1:]})
    loaded = ln.io.load(tmp_path / "x.safetensors")
    assert_same(loaded["x"], x.to("cpu").numpy())
    assert_same(loaded["part"], x.to("cpu").numpy()[:, 1:])


@pytest.mark.parametrize("key", [1, (1, 2), (1, 2, ...), (0, slice(None)), ..., (1, None)], ids=str)
def test_what_is_a_view_on_the_cpu_is_one_here_and_nothing_else(key):
    found = []
    for device in ("cpu", "cuda"):
        x = ln.asarray(np.arange(6.0).reshape(2, 3), device=device)
        part = x[key]
        part[...] = 9.0
        x[...] = x * 2
        found.append((x.tolist(), part.tolist()))
    assert found[0] == found[1]


def test_a_row_at_a_number_that_a_tensor_holds_is_a_copy():
    for device in ("cpu", "cuda"):
        x = ln.asarray([[1.0, 2.0], [3.0, 4.0]], device=device)
        row = x[ln.asarray(1, device=device)]
        row[...] = 9.0
        assert x.tolist() == [[1.0, 2.0], [3.0, 4.0]]


def test_values_are_not_brought_along_silently():
    x, mask = ln.zeros(3, device="cuda"), ln.asarray([True, False, True], device="cuda")
    for key in (mask, slice(2), ln.asarray([0, 1], device="cuda")):
        with pytest.raises(DeviceError, match=r"expected values on 'cuda', got .* \(2,\) on 'cpu'.*\.to\('cuda'\)"):
            x[key] = ln.ones(2)
        x[key] = [1.0, 2.0]
    x[mask] = ln.asarray(5.0)
    assert x.tolist() == [5.0, 2.0, 5.0]
    here = ln.zeros(3)
    here[0] = ln.asarray(5.0, device="cuda")  # one number goes anywhere
    assert here.tolist() == [5.0, 0.0, 0.0]


def test_a_view_of_what_was_computed_is_written_at_positions_and_masks():
    found = []
    for device in ("cpu", "cuda"):
        x = ln.asarray(np.arange(6.0).reshape(2, 3), device=device, requires_grad=True)
        y = x * 1.0
        y[0][ln.asarray([True, False, True], device=device)] = -1.0
        y[1][ln.asarray([2, 0], device=device)] = 7.0
        (y * y).sum().backward()
        found.append((y.tolist(), x.grad.tolist()))
    assert found[0] == found[1]


def test_an_upload_is_a_copy():
    array = np.ones(3)
    there = DeviceArray.upload(array)
    array[...] = 5.0
    assert there.tolist() == [1.0, 1.0, 1.0]


def test_threads_may_compute_and_write_at_once():
    weights = DeviceArray.upload(np.zeros(4))
    found, failures = [], []

    def reading():
        try:
            for _ in range(20):
                found.append(set((weights * 2 + 1).host().tolist()))
        except Exception as error:  # the assertion below shows it
            failures.append(error)

    threads = [threading.Thread(target=reading) for _ in range(3)]
    for thread in threads:
        thread.start()
    for value in range(20):
        weights[...] = float(value)
        materialize_readers(weights.block)
    for thread in threads:
        thread.join()
    assert not failures
    assert all(one <= {2.0 * value + 1 for value in range(20)} for one in found)


@pytest.mark.skipif(SIMULATED, reason="the simulator has no memory to share")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_memory_is_shared_with_torch_both_ways(dtype):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("torch sees no GPU")
    array = drawn((3, 4), dtype)
    ours = ln.asarray(array, device="cuda")
    theirs = torch.from_dlpack(ours.T)
    np.testing.assert_array_equal(theirs.cpu().numpy(), array.T)
    assert theirs.data_ptr() == ours.array.address
    back = ln.from_dlpack(theirs)
    assert back.device == "cuda"
    assert back.array.address == ours.array.address
    assert_same(back, array.T)
    assert_same(ln.asarray(torch.as_tensor(array, device="cuda")), array)


@pytest.mark.skipif(SIMULATED, reason="the simulator has no memory to share")
@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "uint8", "bool"])
def test_memory_is_shared_with_cupy_both_ways(dtype):
    cupy = pytest.importorskip("cupy")
    array = drawn((3, 4), dtype)
    ours = ln.asarray(array, device="cuda")
    try:
        for theirs in (cupy.from_dlpack(ours.T), cupy.asarray(ours.T)):
            np.testing.assert_array_equal(cupy.asnumpy(theirs), array.T)
            assert theirs.data.ptr == ours.array.address
            for back in (ln.from_dlpack(theirs), ln.asarray(theirs)):
                assert back.device == "cuda"
                assert_same(back, array.T)
        assert back.array.address == ours.array.address
    except cupy.cuda.runtime.CUDARuntimeError as error:
        pytest.skip(f"CuPy sees no GPU: {error}")
