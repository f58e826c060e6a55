"""Every op that is compiled for the CPU is compiled for a GPU too, and gives what it gives eagerly on the CPU."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.differentiable import Differentiable
from labnet.errors import DeviceError, TraceError
from labnet.ops.core.registry import REGISTRY
from tests.compile.trace.test_indexing import KEYS
from tests.compile.trace.test_registry import COMPILED, slopes
from tests.helpers.cuda.device_arrays import assert_same, drawn, tolerance
from tests.tensors.test_registry import draw, invoke, trainable


def cases_of(op):
    """Return samples with float32 where there is such an op, and one more dtype each, in turn."""
    found = []
    for place, sample in enumerate(op.samples):
        others = [dtype for dtype in op.dtypes if dtype != "float32"]
        others = others[place % len(others) :][:1] if others else []
        found += [(sample, dtype) for dtype in ("float32", *others) if dtype in op.dtypes]
    return found


def moved(tensors, device):
    return [ln.asarray(t.numpy(), device=device, requires_grad=t.requires_grad) for t in tensors]


def without_kernel(run, inputs):
    """Say that an op has none, where that is so."""
    with pytest.raises(TraceError, match="has no kernel in compiled steps on 'cuda'"):
        run(*inputs)


@pytest.mark.parametrize("name", COMPILED)
def test_values_are_those_of_the_cpu(name):
    op = REGISTRY[name]
    for sample, dtype in cases_of(op):
        here = [ln.asarray(array) for array in draw(op, sample, dtype)]

        def run(*tensors, sample=sample):
            return [out for out in invoke(op, tensors, sample.static) if isinstance(out, ln.Tensor)]

        if name == "nextafter" or (name == "pow" and "int" in dtype):
            without_kernel(ln.jit(run), moved(here, "cuda"))
            continue
        for found, expected in zip(ln.jit(run)(*moved(here, "cuda")), run(*here), strict=True):
            assert_same(found, expected.numpy())


@pytest.mark.parametrize("name", [name for name in COMPILED if REGISTRY[name].differentiable])
def test_gradients_are_those_of_the_cpu(name):
    op = REGISTRY[name]
    for sample in op.samples:
        if np.dtype(sample.static.get("dtype", "float32")).kind != "f":
            continue
        here = trainable(op, sample, draw(op, sample, "float32"))

        def run(*tensors, sample=sample):
            return slopes(op, sample, tensors)

        near = 8 * tolerance("float32")
        for found, expected in zip(ln.jit(run)(*moved(here, "cuda")), run(*here), strict=True):
            assert_same(found, expected.numpy(), rtol=near, atol=near)


@pytest.mark.parametrize("name", KEYS)
def test_reading_and_adding_at_positions_have_the_bits_of_eager_code(name):
    array = np.arange(24.0).reshape(3, 4, 2).astype("float32") / 7

    def run(weight, i):
        out = weight[KEYS[name](i)]
        return out, ln.grad((out * out).sum(), weight)

    outs = []
    for device in ("cpu", "cuda"):
        step = ln.jit(run) if device == "cuda" else run
        weight = ln.asarray(array, device=device, requires_grad=True)
        outs.append([step(weight, ln.asarray(i, device=device)) for i in ([2, -1, 0], [1, 1, 1])])
    for here, there in zip(*outs, strict=True):
        for expected, found in zip(here, there, strict=True):
            np.testing.assert_array_equal(found.detach().to("cpu").numpy(), expected.detach().numpy())


@pytest.mark.parametrize("first", [[0, 1], [0, 2]], ids=["a later call", "the first call"])
def test_positions_out_of_range_are_refused_before_anything_is_written(first):
    weight, optimizer = ln.asarray([1.0, 2.0, 3.0], device="cuda", requires_grad=True), ln.optim.SGD(lr=1.0)

    @ln.jit
    def step(i):
        loss = weight[i * 2].sum()
        optimizer(loss.backward())
        return loss

    if first == [0, 1]:
        assert step(ln.asarray(first, device="cuda")).item() == 4.0
    before = weight.tolist()
    with pytest.raises(IndexError, match=r"positions must lie in \[-3, 3\)"):
        step(ln.asarray([0, 2], device="cuda"))
    assert weight.tolist() == before
    assert step(ln.asarray([1, 1], device="cuda")).item() == 2 * before[2]
    assert weight.tolist() == [*before[:2], before[2] - 2]


def test_a_long_row_is_sorted_in_place_of_the_recording():
    rng = np.random.default_rng(0)
    sort = ln.jit(lambda x: (ln.sort(x), ln.argsort(x, descending=True)))
    for length in (3, 4, 9, 33):
        for _ in range(2):
            array = rng.integers(-3, 3, (2, length)).astype("float32")
            values, order = sort(ln.asarray(array, device="cuda"))
            assert_same(values, np.sort(array))
            assert_same(order, ln.argsort(ln.asarray(array), descending=True).numpy())


def test_a_forward_and_a_backward_compiled_apart_for_one_of_several_results():
    weight = ln.asarray([[2.0, 1.0], [0.5, 3.0]], device="cuda", requires_grad=True)

    def model(x, rows):
        return ln.sort(x * weight[rows], axis=0), ln.cumulative_sum(weight, axis=0), x + 1

    function = Differentiable(model)
    x, rows = ln.asarray(drawn((3, 2), "float32").T[:2, :2].T, device="cuda"), ln.asarray([1, -1], device="cuda")
    for used in (0, 1, [0, 1]):
        for _ in range(2):
            picked = [used] if isinstance(used, int) else used
            gradients = []
            for run in (model, function):
                outs = run(x, rows)
                weights = [ln.asarray(drawn(outs[i].shape, "float32", i), device="cuda") for i in picked]
                loss = sum(((outs[i] * outs[i] * w).sum() for i, w in zip(picked, weights, strict=True)), start=0.0)
                gradients.append((*outs, loss.backward()[weight]))
            for expected, found in zip(*gradients, strict=True):
                assert_same(found.detach(), expected.detach().to("cpu").numpy())
    assert function.versions == 1
    with pytest.raises(IndexError, match=r"positions must lie in \[-2, 2\)"):
        function(x, ln.asarray([0, 2], device="cuda"))
    with pytest.raises(DeviceError, match=r"\.to\('cuda'\)"):
        Differentiable(lambda x: x * ln.ones(2))(x)
