"""Random numbers on a GPU: the bits that NumPy draws, and the stream goes on where NumPy would."""

import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import labnet as ln
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.kernels import random
from labnet.ops.core.creation import random_state, restart_at
from tests.helpers.cuda.device_arrays import few

FLOATS = ("float32", "float64", "float16")
#: Numbers that every thread of the largest grid draws one of.
ONCE_AROUND = current_gpu().threads * current_gpu().multiprocessors * random._BLOCKS


def expected(generator, shape, dtype):
    """Return what the host draws for a dtype."""
    drawn = generator.random(shape, dtype="float64" if dtype == "float64" else "float32")
    return np.asarray(drawn).astype(dtype)


def assert_bits(found, wanted):
    found = found.host()
    assert (found.shape, found.dtype) == (wanted.shape, wanted.dtype)
    assert found.tobytes() == wanted.tobytes()


def both(seed=0):
    return np.random.default_rng(seed), np.random.default_rng(seed)


DRAWS = st.one_of(
    st.tuples(st.just("device"), st.sampled_from(FLOATS), st.integers(0, 40)),
    st.tuples(st.just("host"), st.sampled_from(FLOATS), st.integers(0, 5)),
    st.tuples(st.sampled_from(["normal", "integers"]), st.none(), st.integers(0, 5)),
)


@few
@given(st.integers(0, 2**64), st.lists(DRAWS, max_size=8))
def test_draws_of_both_devices_follow_each_other_in_one_stream(seed, draws):
    ours, theirs = both(seed)
    for where, dtype, size in draws:
        if where == "device":
            assert_bits(random.uniform(ours, size, np.dtype(dtype)), expected(theirs, size, dtype))
        elif where == "host":
            np.testing.assert_array_equal(expected(ours, size, dtype), expected(theirs, size, dtype))
        elif where == "normal":
            np.testing.assert_array_equal(ours.standard_normal(size), theirs.standard_normal(size))
        else:
            kept = {"dtype": np.int32}  # takes halves of words, as single precision does
            np.testing.assert_array_equal(ours.integers(9, size=size, **kept), theirs.integers(9, size=size, **kept))
        assert ours.bit_generator.state == theirs.bit_generator.state


@few
@given(st.integers(0, 2**128 - 1), st.integers(0, 2**127 - 1), st.integers(0, 1), st.integers(0, 2**32 - 1))
def test_every_state_of_the_generator_is_one_to_start_from(state, stream, has_half, half):
    ours, theirs = both()
    for generator in (ours, theirs):
        generator.bit_generator.state = {
            "bit_generator": "PCG64",
            "state": {"state": state, "inc": 2 * stream + 1},
            "has_uint32": has_half,
            "uinteger": half,
        }
    for dtype in FLOATS:
        assert_bits(random.uniform(ours, 9, np.dtype(dtype)), expected(theirs, 9, dtype))
        assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("dtype", FLOATS)
@pytest.mark.parametrize("size", [ONCE_AROUND - 1, ONCE_AROUND + 1, 2 * ONCE_AROUND, 5 * ONCE_AROUND + 3])
def test_threads_step_on_as_often_as_it_takes(size, dtype):
    ours, theirs = both()
    for generator in (ours, theirs):
        generator.random(dtype="float32")  # leaves half of a word
    assert_bits(random.uniform(ours, size, np.dtype(dtype)), expected(theirs, size, dtype))
    assert ours.bit_generator.state == theirs.bit_generator.state


@pytest.mark.parametrize("dtype", [*FLOATS, "int8", "uint64", "bool"])
@pytest.mark.parametrize("shape", [(), 3, (0, 2), (2, 3, 5)])
def test_a_seed_gives_the_same_tensors_on_both_devices(shape, dtype):
    found = {}
    for device in ("cpu", "cuda"):
        ln.manual_seed(3)
        first = ln.rand(shape, dtype=dtype, device=device)
        assert first.device == device
        mixed = ln.randn(3, dtype="float32", device=device), ln.rand(3, device=device)
        found[device] = [x.to("cpu").numpy().tobytes() for x in (first, *mixed)], random_state()
    assert found["cpu"] == found["cuda"]


def test_the_default_device_draws():
    ln.set_device("cuda")
    try:
        assert ln.rand(2).device == "cuda"
    finally:
        ln.set_device("cpu")


def test_restarted_draws_are_drawn_again():
    ln.rand(3, device="cuda")
    before = random_state()
    first = ln.rand(5, device="cuda").tolist()
    restart_at(before)
    assert ln.rand(5, device="cuda").tolist() == first
    restart_at(before)
    assert ln.rand(5).tolist() == first


def test_what_is_refused_draws_nothing():
    before = random_state()
    with pytest.raises(ValueError, match="negative dimensions are not allowed"):
        ln.rand((2, -1), device="cuda")
    assert random_state() == before


def test_threads_share_one_stream_and_no_number():
    ours, theirs = both()
    found = []

    def draw(on_host):
        for _ in range(6):
            numbers = ours.random(3) if on_host else random.uniform(ours, 3, np.dtype("float64")).host()
            found.extend(numbers.tolist())

    threads = [threading.Thread(target=draw, args=(place % 2,)) for place in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(found) == sorted(theirs.random(72).tolist())


def test_dropout_and_its_gradient_are_those_of_the_cpu():
    found = {}
    for device in ("cpu", "cuda"):
        ln.manual_seed(1)
        x = ln.asarray(np.linspace(-1, 1, 35, dtype="float32").reshape(5, 7), device=device, requires_grad=True)
        out = ln.nn.dropout(x, 0.3)
        gradient = (out * out).sum().backward()[x]
        found[device] = [tensor.to("cpu").numpy().tobytes() for tensor in (out, gradient)], random_state()
    assert found["cpu"] == found["cuda"]


def dropped_steps(device, compiled):
    """Return what three steps with dropout of odd sizes give, and where the stream is afterwards."""
    ln.manual_seed(2)
    weight = ln.ones((3, 5), device=device, requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.5)

    def step(x):
        out = ln.nn.dropout(x, 0.5) + ln.nn.dropout(weight, 0.25)
        optimizer(out.sum().backward())
        return out

    run = ln.jit(step) if compiled else step
    x = ln.asarray(np.arange(15, dtype="float32").reshape(3, 5), device=device)
    outs = [run(x).to("cpu").numpy().tobytes() for _ in range(3)]
    return outs, weight.to("cpu").numpy().tobytes(), random_state()


def test_compiled_dropout_is_that_of_eager_steps_and_of_the_cpu():
    compiled = dropped_steps("cuda", compiled=True)
    assert compiled == dropped_steps("cuda", compiled=False)
    assert compiled == dropped_steps("cpu", compiled=False)


def test_a_step_without_arguments_draws_like_any_other():
    x = ln.ones(9, device="cuda")
    step = ln.jit(lambda: ln.nn.dropout(x, 0.5))
    for seed in (1, 2):
        ln.manual_seed(seed)
        found = step().tolist()
        ln.manual_seed(seed)
        assert found == ln.nn.dropout(ln.ones(9), 0.5).tolist()


def test_no_number_of_a_compiled_step_comes_from_the_host(monkeypatch):
    step = ln.jit(lambda x: ln.nn.dropout(x, 0.5))
    x = ln.ones((4, 4), device="cuda")
    step(x)
    crossed = []
    monkeypatch.setattr(current_gpu(), "upload", lambda *args: crossed.append(args))
    monkeypatch.setattr(DeviceArray, "host", lambda *args: crossed.append(args))
    step(x)
    assert not crossed


def test_a_call_that_came_to_nothing_leaves_its_numbers_to_the_next():
    logits = ln.zeros((2, 3), device="cuda")
    step = ln.jit(lambda x, y: (ln.nn.dropout(x, 0.5), ln.loss.cross_entropy(logits, y)))
    x = ln.ones(9, device="cuda")
    right, wrong = ln.asarray([0, 2], device="cuda"), ln.asarray([0, 3], device="cuda")
    step(x, right)
    ln.manual_seed(5)
    wanted = ln.nn.dropout(x, 0.5).tolist()
    ln.manual_seed(5)
    with pytest.raises(IndexError):
        step(x, wrong)
    assert step(x, right)[0].tolist() == wanted
