"""The emulated GPU computes what the PTX ISA says, and finds the mistakes that it is there to find."""

import ctypes
import re
import threading
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from labnet.errors import DeviceError
from labnet.kernels.cuda.driver import driver
from tests.helpers.cuda.emulator import arithmetic
from tests.helpers.cuda.emulator.libcuda import Library
from tests.helpers.cuda.emulator.memory import Fault

pytest.importorskip("numba.cuda", reason='needs numba-cuda: pip install "labnet[cuda]"')
singles, doubles = (st.floats(-1e6, 1e6, width=width) for width in (32, 64))


@pytest.fixture(scope="module")
def library():
    return Library()


@pytest.fixture
def gpu(library, monkeypatch):
    """A driver whose library is the emulated GPU; what that found wrong is forgotten afterwards."""
    monkeypatch.setattr(driver, "_library", lambda: library)
    yield driver.Driver()
    library.recover()


def launched(gpu, body, threads=64, blocks=1):
    """Run a kernel on two arrays; the first one is the numbers from zero."""
    lines = "\n".join(f"    {line}" for line in body.strip().splitlines())
    head = "def kernel(x, out):\n    i = i8(cuda.grid(1))\n    t = i8(cuda.threadIdx.x)"
    launch = gpu.kernel(f"{head}\n{lines}\n", ("pf4", "pf4"))
    addresses = gpu.allocate(256), gpu.allocate(256)
    gpu.upload(addresses[0], np.arange(64, dtype="float32"))
    launch((blocks,), (threads,), *addresses)
    out = np.empty(64, "float32")
    gpu.download(out, addresses[1])
    return out


@given(singles, singles, singles)
def test_products_and_sums_of_single_precision_are_rounded_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    found = arithmetic.fma(np.float32(a), np.float32(b), np.float32(c), "f4")
    near = np.float32(float(exact))
    nearest = min((np.nextafter(near, np.float32(-np.inf)), near, np.nextafter(near, np.float32(np.inf))),
                  key=lambda one: abs(Fraction(float(one)) - exact))  # fmt: skip
    assert abs(Fraction(float(found)) - exact) == abs(Fraction(float(nearest)) - exact)


@given(doubles, doubles, doubles)
def test_products_and_sums_of_double_precision_are_rounded_once(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    if exact and abs(exact) < Fraction(1, 10**200):
        return  # what is rounded off of numbers as small as that has no number
    assert float(arithmetic.fma(np.float64(a), np.float64(b), np.float64(c), "f8")) == float(exact)


@given(singles, singles, singles)
def test_roundings_have_a_direction(a, b, c):
    exact = Fraction(a) * Fraction(b) + Fraction(c)
    down, up, zero = (
        Fraction(float(arithmetic.fma(np.float32(a), np.float32(b), np.float32(c), "f4", how)))
        for how in ("rm", "rp", "rz")
    )
    assert down <= exact <= up
    assert zero == (down if exact > 0 else up)
    assert np.nextafter(np.float32(float(down)), np.float32(np.inf)) >= np.float32(float(up))


@given(st.integers(-(2**63), 2**63 - 1), st.integers(-(2**63), 2**63 - 1))
def test_integers_are_divided_towards_zero(a, b):
    wide = np.array([a], "i8"), np.array([b], "i8")
    if b == 0 or (a, b) == (-(2**63), -1):
        return
    sign = -1 if (a < 0) != (b < 0) else 1
    assert arithmetic.quotient(*wide)[0] == sign * (abs(a) // abs(b))
    assert arithmetic.remainder(*wide)[0] == a - sign * (abs(a) // abs(b)) * b
    with np.errstate(over="ignore"):
        assert int(arithmetic.high_product(*wide)[0]) == a * b >> 64


def test_conversions_saturate():
    values = np.array([np.nan, 1e30, -1e30, 2.5, 3.5, -2.5], "f4")
    assert arithmetic.to_integer(values, "i4", "rni").tolist() == [0, 2**31 - 1, -(2**31), 2, 4, -2]
    assert arithmetic.to_integer(values, "u1", "rzi").tolist() == [0, 255, 0, 2, 3, 0]
    assert arithmetic.saturated(values, True).tolist() == [0, 1, 0, 1, 1, 0]
    assert arithmetic.left(np.array([1], "u4"), np.array([32], "u4")).tolist() == [0]
    assert arithmetic.right(np.array([-8], "i4"), np.array([40], "u4")).tolist() == [-1]


def test_threads_branch_loop_and_wait_for_each_other(gpu):
    found = launched(
        gpu,
        """
shared = cuda.shared.array(64, f4_)
total = f4(0)
k = i8(0)
while k < t % 5:
    total += x[k]
    k += 1
shared[t] = total
cuda.syncthreads()
out[i] = shared[63 - t] if t % 2 else f4(-1)
""",
    )
    sums = [sum(range(t % 5)) for t in range(64)]
    assert found.tolist() == [sums[63 - t] if t % 2 else -1 for t in range(64)]


MISTAKES = {
    "beyond the end": ("out[i + 1] = x[i]", {}, "not of any allocation"),
    "before the beginning": ("out[i] = x[i - 1]", {}, "not of any allocation"),
    "the same place twice": ("out[i // 2] = x[i]", {}, "two threads write global memory"),
    "of different blocks": ("out[i % 32] = x[i]", {"threads": 32, "blocks": 2}, "two threads write"),
    "read what another writes": ("out[i] = x[i]\nx[i] = out[63 - i]", {}, "races with a write"),
    "shared without a barrier": (
        "shared = cuda.shared.array(64, f4_)\nshared[t] = x[i]\nout[i] = shared[63 - t]",
        {},
        "a read of shared memory races",
    ),
    "shared beyond its end": (
        "shared = cuda.shared.array(16, f4_)\nshared[t] = x[i]\ncuda.syncthreads()\nout[i] = shared[t]",
        {},
        "shared memory of 64 bytes",
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_found(gpu, library, name):
    body, how, text = MISTAKES[name]
    with pytest.raises(DeviceError, match="illegal memory access"):
        launched(gpu, body, **how)
    assert isinstance(library.faults[0], Fault)
    assert text in str(library.faults[0])


def test_addresses_have_to_be_aligned(gpu, library):
    launch = gpu.kernel("def kernel(out):\n    out[0] = f8(1)\n", ["pf8"])
    launch((1,), (1,), gpu.allocate(64) + 4)
    with pytest.raises(DeviceError, match="illegal memory access"):
        gpu.synchronize()
    assert "not aligned" in str(library.faults[0])


def test_a_barrier_that_some_threads_never_reach_is_found(gpu, library):
    body = """
if t < 32:
    cuda.syncthreads()
    out[i] = x[i]
else:
    out[i] = f4(1)
    cuda.syncthreads()
    out[i] = f4(2)
"""
    with pytest.raises(DeviceError):
        launched(gpu, body)
    assert "different barriers" in str(library.faults[0])


def test_after_a_fault_nothing_works_any_more(gpu):
    with pytest.raises(DeviceError):
        launched(gpu, MISTAKES["beyond the end"][0])
    with pytest.raises(DeviceError, match="illegal memory access"):
        gpu.allocate(64)


def test_freed_memory_is_inaccessible(gpu, library):
    launch = gpu.kernel("def kernel(out):\n    out[0] = f4(1)\n", ["pf4"])
    address = gpu.allocate(64)
    gpu.free(address)
    launch((1,), (1,), address)
    with pytest.raises(DeviceError):
        gpu.synchronize()
    assert "not of any allocation" in str(library.faults[0])
    with pytest.raises(DeviceError):
        gpu.free(address)


def test_what_waits_is_refused_while_a_stream_records_and_spoils_the_recording(gpu):
    with pytest.raises(DeviceError, match="cannot synchronize"), gpu.captured():
        gpu.synchronize()
    with pytest.raises(DeviceError, match="not permitted when stream is capturing"), gpu.captured():
        gpu._check("cuStreamSynchronize", gpu.stream)
    with pytest.raises(DeviceError, match="previous error during capture"), gpu.captured():
        gpu._library.cuStreamSynchronize(gpu.stream)


def test_a_recording_is_done_again_by_each_replay(gpu):
    launch = gpu.kernel("def kernel(out):\n    out[i8(cuda.grid(1))] += f4(1)\n", ["pf4"])
    address = gpu.allocate(16)
    gpu.clear(address, 16)
    with gpu.captured() as replay:
        launch((1,), (4,), address)
    out = np.empty(4, "float32")
    for count in range(3):
        gpu.download(out, address)
        assert out.tolist() == [count] * 4
        replay()


def test_work_is_done_when_it_is_waited_for_not_before(gpu, library):
    address = gpu.allocate(1 << 20)
    array = np.ones(1 << 18, "float32")
    size = ctypes.c_size_t(array.nbytes)
    gpu._check("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), ctypes.c_void_p(array.ctypes.data), size, gpu.stream)
    array[:] = 2
    found = np.empty_like(array)
    gpu.download(found, address)
    assert (found == 2).all()


def test_arguments_of_another_size_are_refused(gpu):
    launch = gpu.kernel("def kernel(a, out):\n    out[0] = a\n", ["f4", "pf4"])
    wrong = gpu._launcher(ctypes.c_void_p(_function_of(launch)), ["f4"])
    with pytest.raises(DeviceError, match="invalid argument"):
        wrong((1,), (1,), 1.0)
    with pytest.raises(DeviceError, match="invalid argument"):
        launch((1,), (2048,), 1.0, gpu.allocate(64))


def _function_of(launch):
    names = launch.__code__.co_freevars
    return launch.__closure__[names.index("place")].cell_contents


def test_a_thread_without_the_context_is_refused(gpu, library):
    codes = []
    thread = threading.Thread(target=lambda: codes.append(library.cuStreamSynchronize(gpu.stream)))
    thread.start()
    thread.join()
    assert codes == [201]


def test_what_is_not_emulated_is_named(gpu, library):
    with pytest.raises(DeviceError):
        launched(gpu, "out[i] = x[i]\ncuda.threadfence()")
    assert re.search(r"membar|fence", str(library.faults[0]))
