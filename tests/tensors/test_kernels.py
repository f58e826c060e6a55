"""Compiled kernels: the same bits as NumPy, whatever they are given, and nothing that a user could notice."""

import copy
import gc
import itertools
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet import kernels, nn
from labnet.compile.native.numba_compiler import undefined
from labnet.kernels import blas
from labnet.kernels.machine_code import array_layout, cache
from labnet.kernels.machine_code.compiler_process import compiled
from labnet.memory import ALONE

ALL = kernels.KERNELS


@pytest.fixture(autouse=True, scope="module")
def loaded():
    if not blas.link():
        pytest.skip("NumPy's BLAS has other names here, so there are no compiled kernels: NumPy does their work")
    assert kernels.load()


def with_and_without(compute):
    """Return what `compute` gives with compiled kernels, and with NumPy in their place."""
    fast = compute()
    compiled = [kernel.compiled for kernel in ALL]
    for kernel in ALL:
        kernel.compiled = None
    try:
        return fast, compute()
    finally:
        for kernel, function in zip(ALL, compiled, strict=True):
            kernel.compiled = function


def assert_same_bits(compute):
    fast, slow = with_and_without(compute)
    assert len(fast) == len(slow)
    for one, other in zip(fast, slow, strict=True):
        np.testing.assert_array_equal(one, other)


def mlp(widths, *, last_relu=False):
    layers = [part for i, o in itertools.pairwise(widths) for part in (nn.Linear(i, o), nn.relu)]
    return nn.Sequential(*(layers if last_relu else layers[:-1]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads the symbols of ELF files")
@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_every_kernel_lets_other_threads_run(kernel):
    name = cache.digest(kernel.source)
    code = cache.read(name) or cache.unpack(compiled(kernel.source, name))  # others may have taken its place
    assert {"PyEval_SaveThread", "PyEval_RestoreThread"} <= undefined(code.objects[0])


@pytest.mark.parametrize("kernel", ALL, ids=lambda kernel: kernel.name)
def test_wrong_arguments_of_a_kernel_are_refused(kernel):
    with pytest.raises(TypeError):
        kernel.compiled()
    with pytest.raises(TypeError):
        kernel.compiled(*["seven"] * 9)


def test_array_objects_are_read_where_python_has_them():
    assert array_layout.is_known()


@settings(max_examples=60, deadline=None)
@given(
    rows=st.integers(1, 40),
    widths=st.lists(st.integers(1, 70), min_size=2, max_size=5),
    last_relu=st.booleans(),
    seed=st.integers(0, 99),
)
def test_layers_have_the_same_bits(rows, widths, last_relu, seed):
    def compute():
        ln.manual_seed(seed)
        model, x = mlp(widths, last_relu=last_relu), ln.randn((rows, widths[0]), requires_grad=True)
        out = model(x)
        found = out.backward(ln.randn(out.shape))
        return [out.numpy(), *(gradient.numpy() for gradient in found.values())]

    assert_same_bits(compute)


@pytest.mark.parametrize("rows", [1, 8, 127, 128, 129, 300])
def test_gradients_of_one_output_have_the_same_bits(rows):
    def compute():
        ln.manual_seed(0)
        model = mlp((3, 16, 1))
        found = ln.loss.mse(model(ln.randn((rows, 3))), ln.zeros((rows, 1))).backward()
        return [gradient.numpy() for gradient in found.values()]

    assert_same_bits(compute)


@settings(max_examples=40, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=2, max_size=4),
    tile=st.tuples(st.integers(1, 3), st.integers(1, 3)),
    seed=st.integers(0, 99),
    broken=st.booleans(),
)
def test_pooling_and_relu_have_the_same_bits(shape, tile, seed, broken):
    shape = [max(a, b) for a, b in zip(shape, [1] * (len(shape) - 2) + list(tile), strict=True)]

    def compute():
        rng = np.random.default_rng(seed)
        values = np.round(rng.standard_normal(shape), 1).astype("float32")  # rounded, so that some are equal
        if broken:
            values.flat[seed % values.size] = np.nan
        x = ln.asarray(values, requires_grad=True)
        out = nn.relu(nn.max_pool2d(x * 1.0, tile))
        found = out.backward(ln.asarray(rng.standard_normal(out.shape).astype("float32")))
        return [out.numpy(), found[x].numpy()]

    assert_same_bits(compute)


@pytest.mark.parametrize("width", [2, 3, 5, 9, 13, 15, 16, 17, 18, 30, 31, 39])
def test_tiles_of_two_have_the_same_bits(width):
    def compute():
        rng = np.random.default_rng(width)
        values = np.round(rng.standard_normal((3, 5, width)), 1).astype("float32")
        values.flat[rng.integers(0, values.size, 4)] = np.nan, -0.0, np.inf, -np.inf
        x = ln.asarray(values, requires_grad=True)
        out = nn.max_pool2d(x, 2)
        found = out.backward(ln.asarray(rng.standard_normal(out.shape).astype("float32")))
        return [out.numpy(), found[x].numpy()]

    assert_same_bits(compute)


OPTIMIZERS = {
    "sgd": lambda: ln.optim.SGD(0.1),
    "momentum": lambda: ln.optim.SGD(0.1, 0.9),
    "adam": lambda: ln.optim.Adam(0.01),
    "adamw": lambda: ln.optim.AdamW(0.01, weight_decay=0.1),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_training_has_the_same_bits(name):
    def compute():
        ln.manual_seed(1)
        model, optimizer = mlp((3, 8, 2)), OPTIMIZERS[name]()
        x, y = ln.randn((10, 3)), ln.randn((10, 2))
        for _ in range(30):
            optimizer(ln.loss.mse(model(x), y).backward())
        state = optimizer.state_dict(model.named_parameters())
        return [p.numpy() for p in model.parameters()] + [state[key].numpy() for key in sorted(state)]

    assert_same_bits(compute)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_the_kernels_may_come_in_the_middle_of_a_training(name):
    def train(switch_at):
        ln.manual_seed(2)
        model, optimizer = mlp((3, 4, 1)), OPTIMIZERS[name]()
        x, y = ln.randn((6, 3)), ln.randn((6, 1))

        def steps(count):
            for _ in range(count):
                optimizer(ln.loss.mse(model(x), y).backward())
            return [p.numpy() for p in model.parameters()]

        with_and_without_steps = with_and_without(lambda: steps(switch_at // 2))  # first compiled, then NumPy
        assert len(with_and_without_steps) == 2
        return steps(20 - 2 * (switch_at // 2))

    for one, other in zip(train(0), train(10), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_anyone_holds_does_not_change_under_them(name):
    optimizer, weight = OPTIMIZERS[name](), ln.asarray(np.arange(4, dtype="float32"), requires_grad=True)
    held = []
    for _ in range(6):
        loss = (weight * weight).sum()  # the graph keeps the value that it saw
        held.append((weight.numpy(), weight.numpy().copy()))
        held.append((weight.detach().numpy(), weight.numpy().copy()))
        held.append((np.from_dlpack(weight), weight.numpy().copy()))
        held.append((memoryview(weight.numpy()), weight.numpy().copy()))
        optimizer(loss.backward())
    state = optimizer.state_dict({"weight": weight})
    before = {key: value.numpy().copy() for key, value in state.items()}
    optimizer((weight * weight).sum().backward())
    for view, copied in held:
        np.testing.assert_array_equal(np.asarray(view), copied)
    for key, value in state.items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_a_graph_that_is_kept_sees_the_weights_of_its_forward():
    weight, optimizer = ln.asarray([2.0, 3.0], requires_grad=True), ln.optim.SGD(0.1)
    for _ in range(3):
        optimizer((weight * weight).sum().backward())
    value = weight.numpy().copy()
    kept = (weight * weight * weight).sum()
    for _ in range(5):
        optimizer((weight * weight).sum().backward())
    np.testing.assert_array_equal(kept.backward()[weight].numpy(), (value * value + value * value) + value * value)


def test_steps_take_turns_with_two_arrays():
    weight, optimizer = ln.zeros(1000, requires_grad=True), ln.optim.SGD(0.1)
    seen = set()
    for _ in range(20):
        optimizer((weight * 2).sum().backward())
        seen.add(weight.array.ctypes.data)
    # the first value was the user's; from then on no step takes new memory
    assert len(seen) <= 4


def test_views_of_a_parameter_follow():
    weight = ln.zeros(4, requires_grad=True)
    with ln.no_grad():
        view = weight[1:3]
    optimizer = ln.optim.SGD(1.0)
    for step in range(1, 4):
        optimizer((weight * 1.0).sum().backward())
        assert view.tolist() == [-step, -step]


def test_a_reference_more_is_noticed():
    array = np.empty(3)
    assert sys.getrefcount(array) == ALONE
    other = array
    assert sys.getrefcount(array) > ALONE
    del other


@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_gradients_in_any_order_of_memory_are_taken(dtype):
    weight = ln.ones((2, 3), dtype=dtype, requires_grad=True)
    for optimizer in (make() for make in OPTIMIZERS.values()):
        before = weight.numpy().copy()
        optimizer((weight.T @ ln.ones((2, 4), dtype=dtype)).sum().backward())
        assert weight.dtype == dtype
        assert (weight.numpy() < before).all()


# Sequential takes layers together


def one_by_one(model, x):
    for layer in model:
        x = layer(x)
    return x


@pytest.mark.parametrize(
    "model",
    [
        lambda: mlp((3, 4, 2)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.relu, nn.Linear(4, 2), nn.tanh, nn.Linear(2, 1)),
        lambda: nn.Sequential(nn.relu, nn.Linear(3, 3), nn.Linear(3, 3, bias=False), nn.relu, nn.Linear(3, 2)),
        lambda: nn.Sequential(nn.Linear(3, 4), nn.Sequential(nn.Linear(4, 4), nn.relu), nn.Linear(4, 2)),
    ],
)
@pytest.mark.parametrize("shape", [(5, 3), (1, 3), (0, 3), (3,), (2, 5, 3)])
def test_a_sequence_is_its_layers(model, shape):
    ln.manual_seed(0)
    model, x = model(), ln.randn(shape, requires_grad=True)
    together, apart = model(x), one_by_one(model, x)
    np.testing.assert_allclose(together.numpy(), apart.numpy(), rtol=1e-5, atol=1e-6)
    grad = ln.randn(together.shape)
    found, expected = together.backward(grad), apart.backward(grad)
    assert len(found) == len(expected)
    for leaf, gradient in expected.items():
        np.testing.assert_allclose(found[leaf].numpy(), gradient.numpy(), rtol=1e-4, atol=1e-6)


def test_second_order_goes_through_layers_taken_together():
    ln.manual_seed(0)
    model, x = mlp((3, 4, 1)), ln.randn((5, 3), requires_grad=True)

    def penalty(out):
        slope = ln.grad(out.sum(), x, create_graph=True)
        return (slope * slope).sum().backward()

    found, expected = penalty(model(x)), penalty(one_by_one(model, x))
    for leaf, gradient in expected.items():
        np.testing.assert_allclose(found[leaf].numpy(), gradient.numpy(), rtol=1e-5, atol=1e-6)


def test_replaced_layers_and_weights_count_from_then_on():
    model, x = mlp((2, 3, 1)), ln.ones((4, 2))
    model(x)
    setattr(model, "2", nn.Linear(3, 5))
    assert model(x).shape == (4, 5)
    model[0].weight = ln.zeros((3, 2), requires_grad=True)
    np.testing.assert_allclose(model(x).numpy(), one_by_one(model, x).numpy(), rtol=1e-6)
    model[0].forward = lambda x: x @ ln.ones((2, 3))
    np.testing.assert_allclose(model(x).numpy(), one_by_one(model, x).numpy(), rtol=1e-6)


def test_frozen_and_shared_parameters_keep_their_meaning():
    layer = nn.Linear(3, 3)
    model = nn.Sequential(layer, nn.relu, layer, nn.relu)
    layer.bias.requires_grad = False
    x = ln.ones((2, 3))
    found, expected = model(x).sum().backward(), one_by_one(model, x).sum().backward()
    assert set(map(id, found)) == {id(layer.weight)} == set(map(id, expected))
    np.testing.assert_allclose(found[layer.weight].numpy(), expected[layer.weight].numpy(), rtol=1e-5)


def test_a_copied_sequence_has_weights_of_its_own():
    model = mlp((2, 3, 1))
    model(ln.ones((1, 2)))
    other = copy.deepcopy(model)
    other[0].weight.assign(np.zeros((3, 2)))
    np.testing.assert_allclose(other(ln.ones((1, 2))).numpy(), one_by_one(other, ln.ones((1, 2))).numpy(), rtol=1e-6)
    assert model[0].weight.numpy().any()


@pytest.mark.parametrize(
    ("x", "error"),
    [
        (lambda: ln.ones((2, 4)), ln.errors.ShapeError),
        (lambda: ln.ones((2, 3), dtype="float64"), ln.errors.DTypeError),
        (lambda: ln.ones((2, 3), dtype="int32"), ln.errors.DTypeError),
    ],
)
def test_a_wrong_input_names_the_layer(x, error):
    with pytest.raises(error, match=r"Linear\(3, 4\)"):
        mlp((3, 4, 2))(x())


def test_inputs_that_lie_anyhow_in_memory_are_taken():
    model, columns = mlp((3, 4, 2)), np.asfortranarray(np.ones((5, 3), "float32"))
    for x in (columns, columns[::2], np.broadcast_to(np.float32(1), (5, 3))):
        np.testing.assert_allclose(model(ln.asarray(x)).numpy(), one_by_one(model, ln.asarray(x)).numpy(), rtol=1e-6)


def test_training_in_double_precision_stays_in_double_precision():
    model = mlp((2, 3, 1))
    for layer in (model[0], model[2]):
        layer.weight = ln.asarray(layer.weight.numpy().astype("float64"), requires_grad=True)
        layer.bias = ln.asarray(layer.bias.numpy().astype("float64"), requires_grad=True)
    optimizer = ln.optim.Adam()
    optimizer(model(ln.ones((4, 2), dtype="float64")).sum().backward())
    assert {p.dtype.name for p in model.parameters()} == {"float64"}


def test_memory_stays_flat_over_many_steps():
    model, optimizer = mlp((4, 8, 1)), ln.optim.Adam()
    x, y = ln.ones((16, 4)), ln.zeros((16, 1))

    def objects():
        gc.collect()
        return len(gc.get_objects())

    for _ in range(10):
        optimizer(ln.loss.mse(model(x), y).backward())
    before = objects()
    for _ in range(500):
        optimizer(ln.loss.mse(model(x), y).backward())
    assert objects() - before < 50


LONG_TRAINING = """
import sys, time
import labnet as ln
from labnet import kernels
model, optimizer = ln.nn.Sequential(ln.nn.Linear(2, 3), ln.nn.relu, ln.nn.Linear(3, 1)), ln.optim.SGD()
x, y = ln.ones((4, 2)), ln.zeros((4, 1))
def step():
    optimizer(ln.loss.mse(model(x), y).backward())
step()
assert "numba" not in sys.modules
end = time.monotonic() + 120
while kernels.sgd.compiled is None and time.monotonic() < end:
    step()
print(kernels.sgd.compiled is not None)
"""


def test_a_process_that_trains_gets_them_in_the_background_and_ends_cleanly():
    result = subprocess.run([sys.executable, "-W", "error", "-c", LONG_TRAINING], capture_output=True, text=True)
    assert (result.returncode, result.stdout.strip(), result.stderr) == (0, "True", "")
