"""Compiled convolutions in float32, and gradients of images, filters and bias, beside torch's in float64."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import labnet as ln
from labnet.compile.backends import cpu_program
from labnet.compile.intrinsics.correlation import Correlation
from labnet.compile.intrinsics.tiling import evenly, most_filters, widest
from labnet.kernels.machine_code import processor
from tests.helpers.compile import interpreter

torch = pytest.importorskip("torch", reason="comparison with torch: pip install torch==2.13.0 (extra `peers`)")

#: (images, filters, options): rows of whole vectors and others, few and many filters, more than a part of a window.
CASES = [
    ((1, 1, 1, 1), (1, 1, 1, 1), {}),
    ((2, 3, 5, 7), (4, 3, 3, 3), {}),
    ((2, 3, 5, 7), (5, 3, 3, 2), {"padding": 1}),
    ((1, 2, 9, 4), (3, 2, 4, 1), {"padding": (2, 0)}),
    ((3, 2, 8, 16), (13, 2, 3, 3), {"padding": 1}),
    ((2, 2, 6, 32), (14, 2, 3, 3), {"padding": 1}),
    ((2, 2, 6, 48), (27, 2, 1, 1), {}),
    ((1, 4, 11, 50), (7, 4, 5, 5), {"padding": 2}),
    ((1, 40, 6, 8), (9, 40, 3, 3), {"padding": 1}),
    ((1, 40, 7, 9), (33, 40, 3, 3), {}),
    ((5, 3, 6, 6), (2, 3, 3, 3), {"padding": "same"}),
    ((2, 3, 9, 9), (4, 3, 3, 3), {"dilation": 2}),
    ((2, 3, 9, 8), (4, 3, 2, 3), {"dilation": (3, 1), "padding": (1, 2)}),
    ((2, 3, 9, 9), (4, 3, 3, 3), {"stride": 2}),
    ((2, 3, 9, 32), (4, 3, 3, 3), {"stride": 2, "padding": 1}),
    ((2, 3, 10, 13), (4, 3, 3, 4), {"stride": (1, 3), "padding": (0, 1)}),
    ((2, 3, 10, 13), (4, 3, 2, 2), {"stride": (3, 2), "padding": 1, "dilation": (2, 3)}),
    ((1, 2, 9, 9), (3, 2, 1, 1), {"stride": 4}),
    ((2, 6, 7, 8), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
    ((2, 6, 7, 32), (6, 1, 3, 3), {"padding": 1, "groups": 6}),
    ((2, 3, 9, 9), (6, 1, 5, 5), {"padding": 2, "groups": 3}),
    ((2, 4, 9, 9), (4, 1, 3, 3), {"stride": 2, "padding": 1, "groups": 4}),
    ((2, 6, 7, 8), (9, 2, 3, 3), {"padding": 1, "groups": 3}),
    ((3, 4, 3, 3), (2, 4, 3, 3), {}),
    ((2, 2, 3, 3), (2, 2, 2, 2), {"padding": 1}),
    ((40, 1, 4, 5), (3, 1, 2, 2), {}),
    ((2, 1, 3, 200), (2, 1, 2, 3), {}),
    ((1, 100, 48, 48), (3, 100, 1, 1), {}),
]


def normal(rng, shape):
    return rng.standard_normal(shape).astype("float32")


def arrays_of(case):
    images, filters, _ = case
    rng = np.random.default_rng(sum(images) + sum(filters))
    return normal(rng, images), normal(rng, filters), normal(rng, filters[:1])


def theirs(case, arrays):
    """Return torch's convolution and gradients of the sum of its squares."""
    given = [torch.from_numpy(x).double().requires_grad_() for x in arrays]
    out = torch.nn.functional.conv2d(*given, **case[2])
    return [x.detach().numpy() for x in (out, *torch.autograd.grad((out * out).sum(), given))]


def ours(cases):
    """Return a function of the operands of all cases that gives what `theirs` does for each."""

    def function(*given):
        found = []
        for (_, _, options), *operands in zip(cases, given[::3], given[1::3], given[2::3], strict=True):
            out = ln.nn.conv2d(*operands, **options)
            found += [out, *ln.grad((out * out).sum(), operands)]
        return found

    return function


def compare(cases):
    """Compile all cases in one function."""
    arrays = [arrays_of(case) for case in cases]
    got = ln.jit(ours(cases))(*(ln.asarray(x, requires_grad=True) for case in arrays for x in case))
    for position, case in enumerate(cases):
        found = got[4 * position : 4 * position + 4]
        for name, x, y in zip(("out", "images", "filters", "bias"), found, theirs(case, arrays[position]), strict=True):
            assert x.shape == y.shape
            scale = max(1.0, float(np.abs(y).max(initial=0.0)))
            np.testing.assert_allclose(x.numpy(), y, rtol=0, atol=1e-5 * scale, err_msg=f"{name} of {case}")


@pytest.mark.parametrize("case", CASES, ids=str)
def test_values_and_gradients_are_torchs(monkeypatch, case):
    monkeypatch.setattr(cpu_program.cache, "load", interpreter.load)
    compare([case])


def test_values_and_gradients_of_machine_code_are_torchs():
    compare(CASES)


NARROW = """
from labnet.kernels.machine_code import processor
from tests.compile.intrinsics import test_convolution, test_products
assert processor.registers() == (16, 8), processor.registers()
test_convolution.compare(test_convolution.CASES[::4])
test_products.compare([("a @ b", sizes) for sizes in test_products.IN_TILES], "float32")
print("equal")
"""


@pytest.mark.skipif(not processor.has("avx2"), reason="this processor cannot run code for Haswell")
def test_code_for_a_processor_with_fewer_and_shorter_registers_computes_the_same():
    environment = {**os.environ, "NUMBA_CPU_NAME": "haswell"}
    done = subprocess.run([sys.executable, "-c", NARROW], env=environment, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (0, "equal\n"), done.stderr


def test_a_convolution_in_float64_is_torchs():
    case = ((2, 4, 9, 8), (6, 2, 3, 3), {"stride": 2, "padding": 1, "groups": 2})
    arrays = [x.astype("float64") for x in arrays_of(case)]
    got = ln.jit(ours([case]))(*(ln.asarray(x, requires_grad=True) for x in arrays))
    for x, y in zip(got, theirs(case, arrays), strict=True):
        np.testing.assert_allclose(x.numpy(), y, rtol=1e-12, atol=1e-12)


def test_second_gradients_and_views_of_images_are_eager_ones():
    rng = np.random.default_rng(0)
    x, weight = normal(rng, (2, 9, 7, 3)), normal(rng, (4, 3, 3, 3))

    def function(x, weight):
        out = ln.nn.conv2d(ln.flip(ln.permute_dims(x, (0, 3, 1, 2)), axis=3), weight, padding=1)
        slope = ln.grad(ln.tanh(out).sum(), x, create_graph=True)
        return out, *ln.grad((slope * slope).sum(), [x, weight])

    given = [ln.asarray(each, requires_grad=True) for each in (x, weight)]
    for got, wanted in zip(ln.jit(function)(*given), function(*given), strict=True):
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=1e-3, atol=1e-4)


def test_an_infinite_number_in_one_channel_leaves_the_slopes_of_the_others_finite():
    x, weight = ln.ones((1, 3, 5, 5)), ln.ones((2, 3, 2, 2), requires_grad=True)
    x[0, 1] = math.inf

    slopes = ln.jit(lambda x: ln.grad(ln.nn.conv2d(x, weight), weight, ln.ones((1, 2, 4, 4))))(x).numpy()
    assert not np.isfinite(slopes[:, 1]).any()
    np.testing.assert_array_equal(slopes[:, ::2], 16)


def test_no_images_and_images_of_a_batch_of_none_compile():
    weight = ln.ones((3, 2, 3, 3))
    assert ln.jit(lambda x: ln.nn.conv2d(x, weight))(ln.ones((0, 2, 5, 5))).shape == (0, 3, 3, 3)


@pytest.mark.parametrize(("name", "registers"), [("haswell", (16, 8)), ("skylake-avx512", (32, 16))])
@pytest.mark.skipif(not processor.has("avx2"), reason="names of another family of processors")
def test_tiles_follow_the_processor_that_code_is_compiled_for(monkeypatch, name, registers):
    monkeypatch.setenv("NUMBA_CPU_NAME", name)
    monkeypatch.delenv("NUMBA_CPU_FEATURES", raising=False)
    assert processor.registers() == registers
    for filters in (1, 2, 3, 5, 8, 16, 64):
        wide = widest(filters, registers[0])
        high = min(filters, most_filters(wide, registers[0]))
        assert high >= 1
        assert high * wide + wide + 1 <= registers[0]


@pytest.mark.parametrize("count", [0, 1, 5, 6, 7, 13, 64])
def test_parts_cover_everything_once(count):
    covered = [first + size * turn for first, size, times in evenly(count, 6) for turn in range(times)]
    sizes = [size for _, size, times in evenly(count, 6) for _ in range(times)]
    assert sum(sizes) == count
    assert covered == [sum(sizes[:position]) for position in range(len(sizes))]
    assert max(sizes, default=6) - min(sizes, default=6) <= 1


def test_steps_and_copies_locate_each_window_in_the_workspace():
    shape = Correlation(1, 2, 1, 1, (5, 6), (2, 3), (2, 1), (1, 2), (1, 0), (3, 2), (16, 8))
    assert Correlation.of(*shape.numbers) == shape
    workspace = np.zeros(shape.workspace)
    image = np.arange(1.0, 61.0).reshape(2, 5, 6)
    for channel in range(2):
        flat = image[channel].ravel()
        for to, rows, start, columns in shape.copies():
            for row in range(rows):
                first = channel * shape.channel + to + row * shape.sides[1]
                source = start + row * shape.stride[0] * shape.image[1]
                workspace[first : first + columns] = flat[source : source + columns * shape.stride[1] : shape.stride[1]]
    padded = np.pad(image, ((0, 0), (1, 1), (0, 0)))
    for u in range(3):
        for v in range(2):
            window = padded[:, 2 * u : 2 * u + 2, v : v + 5 : 2]
            begin = u * shape.down + v
            assert [workspace[begin + step] for step in shape.steps] == window.ravel().tolist()
    assert shape.flops == 2 * math.prod(shape.out) * shape.inner
