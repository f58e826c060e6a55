"""A cached plan is right for the next call: other values, numbers, forms and overlaps."""

import itertools

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.compile.backends import cuda_step
from labnet.stats import collect
from tests.helpers.cuda.device_arrays import assert_same, drawn


def both(shape, dtype="float32", seed=0, **named):
    array = drawn(shape, dtype, seed)
    return ln.asarray(array, **named), ln.asarray(array, device="cuda", **named)


@pytest.mark.parametrize("op", [ln.exp, ln.nn.relu, ln.nn.gelu, ln.abs], ids=lambda op: op.__name__)
def test_ops_of_one_tensor(op):
    for seed, shape in enumerate([(3, 4), (3, 4), (4, 3), (3, 4), (0, 4), (0, 4)]):
        host, gpu = both(shape, seed=seed)
        assert_same(op(gpu), op(host).numpy())
        assert_same(op(gpu.T), op(host.T).numpy())


def test_ops_of_two_tensors_that_are_one_and_that_are_not():
    (x, gx), (y, gy), (row, grow) = both((3, 4)), both((3, 4), seed=1), both((4,), seed=2)
    pairs = [(x, x, gx, gx), (x, y, gx, gy), (y, x, gy, gx), (x, x, gx, gx), (x, row, gx, grow), (row, x, grow, gx)]
    for one, other, on_gpu, beside in [*pairs, *pairs]:
        assert_same(on_gpu - beside, (one - other).numpy())
        assert_same(on_gpu < beside, (one < other).numpy())
        assert_same(on_gpu * 2.0, (one * 2.0).numpy())
        assert_same(on_gpu * 3.0, (one * 3.0).numpy())
    whole, on_gpu = both((3, 4), "int32")
    for _ in range(2):
        assert_same(on_gpu + gx, (whole + x).numpy())
        assert_same(on_gpu + on_gpu, (whole + whole).numpy())


def test_numbers_that_are_equal_and_not_the_same():
    x, gpu = both((3, 4))
    for value in (0.0, -0.0, 0.0, 1.0, 2.0):
        expected = ln.nn.threshold(x, 0.5, value).numpy()
        found = ln.nn.threshold(gpu, 0.5, value).to("cpu").numpy()
        np.testing.assert_array_equal(np.signbit(found), np.signbit(expected))
        assert_same(found, expected)
    for value in (np.float32(0.0), np.float32(-0.0), np.float64(0.0), np.float64(-0.0)):
        expected = ln.nn.threshold(x, 0.5, value).numpy()
        np.testing.assert_array_equal(
            np.signbit(ln.nn.threshold(gpu, 0.5, value).to("cpu").numpy()), np.signbit(expected)
        )
    whole, on_gpu = both((3, 4), "int32")
    for limit in (1, 1.0, 1):
        assert_same(ln.clip(on_gpu, -1, limit), ln.clip(whole, -1, limit).numpy())


def test_products():
    for seed in range(2):
        (x, gx), (y, gy) = both((3, 5), seed=seed), both((5, 4), seed=seed + 9)
        square, on_gpu = both((2, 3, 3), seed=seed)
        assert_same(gx @ gy, (x @ y).numpy())
        assert_same(gx.T @ gx, (x.T @ x).numpy())
        assert_same(on_gpu @ on_gpu.mT, (square @ square.mT).numpy())
        assert_same(gx @ gy[:, ::2], (x @ y[:, ::2]).numpy())
        assert_same(gx[0] @ gy, (x[0] @ y).numpy())


def test_reductions_of_arrays_that_lie_in_different_orders():
    for seed in range(2):
        (x, gx), (column, gcolumn) = both((70, 9), seed=seed), both((70, 1), seed=seed + 9)
        for axis in (0, 1, None):
            assert_same((gx.array * gcolumn.array).sum(axis), (x.numpy() * column.numpy()).sum(axis), atol=1e-4)
            assert_same(np.mean(gx.array.T - gcolumn.array.T, axis), np.mean(x.numpy().T - column.numpy().T, axis))
    whole, on_gpu = both((3, 4), "int32")
    assert_same(ln.mean(on_gpu.astype("float64"), axis=0), ln.mean(whole.astype("float64"), axis=0).numpy())
    assert_same(ln.mean(ln.zeros((0, 3), device="cuda"), axis=0), np.full(3, np.nan, "float32"))


def test_ops_are_counted_again_too():
    x = ln.asarray(drawn((3, 4), "float32"), device="cuda")
    x + x, ln.nn.gelu(x)
    with collect() as counted:
        for _ in range(3):
            x + x, ln.nn.gelu(x)
    assert {name: op.count for name, op in counted.ops.items()} == {"add": 3, "gelu": 3}


@pytest.mark.parametrize(
    "change",
    [lambda x, layer: x.__setitem__(..., 5.0), lambda x, layer: layer.weight.assign(np.zeros(4, "float32"))],
    ids=["input", "weight"],
)
def test_what_was_kept_for_a_backward_is_what_was_there(change):
    found = {}
    for device in ("cpu", "cuda"):
        ln.manual_seed(0)
        layer = nn.LayerNorm(4).to(device)
        leaf = ln.asarray(drawn((3, 4), "float32"), device=device, requires_grad=True)
        x = leaf * 1.0
        out = layer(x)
        loss = (out * out * ln.asarray(drawn((3, 4), "float32", 1), device=device)).sum()
        with ln.no_grad():
            change(x, layer)
        gradients = loss.backward()
        found[device] = [gradients[leaf], gradients[layer.weight], gradients[layer.bias], out]
    for gpu, host in zip(found["cuda"], found["cpu"], strict=True):
        assert_same(gpu, host.numpy(), atol=1e-4, rtol=1e-4)


def labels_of(device):
    return ln.asarray(np.array([0, 3, 1]), device=device)


def test_compiled_steps_on_arguments_as_they_lie(monkeypatch):
    """Steps whose arguments are large launch their kernels; here all are."""
    monkeypatch.setattr(cuda_step, "_COPIED_MEANWHILE", 0)
    found = {}
    for device in ("cpu", "cuda"):
        ln.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 5), nn.relu, nn.Linear(5, 4)).to(device)
        optimizer = ln.optim.Adam(lr=0.1)

        @ln.jit
        def step(x, labels, model=model, optimizer=optimizer):
            y = model(x)
            loss = ln.loss.cross_entropy(y, labels)
            optimizer(loss.backward())
            return loss, y, x, x[1:], y, x * 2, model[0].bias

        kept = []
        for seed in range(4):
            x = ln.asarray(drawn((3, 4), "float32", seed), device=device)
            outputs = step(x, labels_of(device))
            kept.append([each.to("cpu").numpy() for each in outputs])
            with ln.no_grad():
                outputs[1][...] = 9.0  # memory of its own, of nobody else
                outputs[2][...] = 9.0
            assert_same(outputs[4], kept[-1][4])
            assert_same(x, drawn((3, 4), "float32", seed))
        found[device] = [*[each for outputs in kept for each in outputs], *[p.to("cpu") for p in model.parameters()]]
        if device == "cuda":
            assert "as they lie" in step.explain()
    for gpu, host in zip(found["cuda"], found["cpu"], strict=True):
        np.testing.assert_allclose(np.asarray(gpu), np.asarray(host), rtol=1e-4, atol=1e-5)


def test_compiled_steps_on_arguments_as_they_lie_check_labels(monkeypatch):
    monkeypatch.setattr(cuda_step, "_COPIED_MEANWHILE", 0)
    loss = ln.jit(lambda x, labels: ln.loss.cross_entropy(x, labels))
    x = ln.asarray(drawn((3, 4), "float32"), device="cuda")
    expected = ln.loss.cross_entropy(x, labels_of("cuda")).item()
    assert loss(x, labels_of("cuda")).item() == pytest.approx(expected, rel=1e-5)
    with pytest.raises(IndexError, match=r"\[0, 4\)"):
        loss(x, labels_of("cuda") + 1)
    assert loss(x, labels_of("cuda")).item() == pytest.approx(expected, rel=1e-5)


def test_who_holds_a_parameter_sees_no_compiled_step():
    layer, optimizer = nn.Linear(4, 4).to("cuda"), ln.optim.SGD(lr=1.0)

    @ln.jit
    def step(x):
        loss = (layer(x) * layer(x)).sum()
        optimizer(loss.backward())
        return loss

    x = ln.asarray(drawn((3, 4), "float32"), device="cuda")
    seen = []
    for _ in range(4):
        held = layer.weight.detach(), layer.weight.T
        array = layer.bias.array
        before = [each.to("cpu").numpy() for each in held], array.host()
        step(x)
        for each, expected in zip(held, before[0], strict=True):
            assert_same(each, expected)
        assert_same(array, before[1])
        seen.append(layer.weight.to("cpu").numpy())
        del held, array
    assert all((one != other).any() for one, other in itertools.pairwise(seen))


VIEWS = {
    "rows": lambda x: x,
    "T": lambda x: x.T,
    "backwards": lambda x: x[::-1, ::-1],
    "every other": lambda x: x[:, ::2],
    "a column": lambda x: x[:, 1:2],
    "one row often": lambda x: ln.broadcast_to(x[:1], (4, 4)),
}


@pytest.mark.parametrize("least", [0, 1 << 25], ids=["as they lie", "copied"])
@pytest.mark.parametrize("view", VIEWS)
def test_compiled_functions_of_arguments_that_lie_in_other_orders(view, least, monkeypatch):
    monkeypatch.setattr(cuda_step, "_COPIED_MEANWHILE", least)
    x, gpu = both((4, 4))
    kept, on_gpu = both((4, 8), seed=1)

    def functions(captured):
        return [
            lambda x: x.reshape((-1,)) * 1,
            lambda x: x @ x.T,
            lambda x: x[0] + x,
            lambda x: ln.flip(x, axis=0),
            lambda x: ln.sort(x, axis=0),
            lambda x: ln.take(x, ln.asarray([0, 0], device=x.device), axis=1),
            lambda x: captured[1:, :1] * x[1:],
            lambda x: captured.T @ x,
        ]

    for there, here in zip(
        functions(VIEWS[view](on_gpu[:, ::2])[:4]), functions(VIEWS[view](kept[:, ::2])[:4]), strict=True
    ):
        found = ln.jit(there)
        for _ in range(2):
            assert_same(found(VIEWS[view](gpu)), here(VIEWS[view](x)).numpy(), atol=1e-5)


def test_shapes_that_are_no_tuples():
    for shape in (np.array([2, 3]), [2, 3], range(2, 4), (np.int64(2), 3)):
        assert_same(ln.zeros(shape, device="cuda"), ln.zeros(shape).numpy())
    assert_same(ln.ones(np.int64(3), device="cuda"), np.ones(3, "float32"))


def test_second_derivatives_of_pooling():
    found = []
    for device in ("cpu", "cuda"):
        x = ln.asarray(drawn((1, 1, 4, 4), "float32"), device=device, requires_grad=True)
        first = ln.grad((ln.nn.max_pool2d(x, 2) ** 3.0).sum(), x, create_graph=True)
        found.append(ln.grad((first * first).sum(), x))
    assert_same(found[1], found[0].numpy(), rtol=1e-4)
