"""Compiled steps on a GPU: the same training as eagerly on the CPU, replayed from one recording."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DeviceError, TraceError


def drawn(*shape):
    return np.random.default_rng(0).standard_normal(shape).astype("float32")


def trained(build, loss_of, optimizer, arrays, device, compiled):
    ln.manual_seed(0)
    model = build().to(device)

    def step(*inputs):
        loss = loss_of(model, *inputs)
        optimizer(loss.backward())
        return loss

    run = ln.jit(step) if compiled else step
    losses = []
    for seed in range(3):
        ln.manual_seed(seed)
        losses.append(run(*[ln.asarray(array, device=device) for array in arrays]).item())
    weights = {name: p.to("cpu").numpy() for name, p in model.named_parameters()}
    return losses, weights, run


def squares(model, *inputs):
    found = model(*inputs)
    found = found[0] if isinstance(found, tuple) else found
    return (found * found).mean()


def in_order(model, x, rows):
    found = model(x)
    ordered = ln.sort(found, axis=0, descending=True)
    totals = ln.cumulative_sum(ordered, axis=1) + ln.cumulative_prod(found, axis=0)
    near = ln.take_along_axis(totals, ln.argsort(found.detach(), axis=1), axis=1)[rows]
    places = ln.searchsorted(ln.sort(found.detach()[0]), found.detach()).astype("float32")
    return (near * near).mean() + (found * places).sum()


CASES = {
    "classifier": (
        lambda: ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.relu, ln.nn.Linear(4, 2)),
        lambda model, x, y: ln.loss.cross_entropy(model(x), y),
        lambda: ln.optim.Adam(lr=0.05),
        (drawn(3, 3), np.array([0, 1, 1])),
    ),
    "dropout and momentum": (
        lambda: ln.nn.Sequential(ln.nn.Linear(3, 4), ln.nn.Dropout(0.5), ln.nn.silu),
        squares,
        lambda: ln.optim.SGD(lr=0.05, momentum=0.9),
        (drawn(2, 3),),
    ),
    "convolution": (
        lambda: ln.nn.Sequential(ln.nn.Conv2d(1, 2, 2), ln.nn.MaxPool2d(2)),
        squares,
        lambda: ln.optim.SGD(lr=0.05),
        (drawn(1, 1, 3, 3),),
    ),
    "layer norm": (lambda: ln.nn.LayerNorm(3), squares, lambda: ln.optim.AdamW(lr=0.05), (drawn(2, 3),)),
    "embedding": (
        lambda: ln.nn.Sequential(ln.nn.Embedding(5, 3, padding_idx=1), ln.nn.Linear(3, 2)),
        squares,
        lambda: ln.optim.Adam(lr=0.05),
        (np.array([[0, 4, 4, 1], [2, 4, 0, 1]]),),
    ),
    "order": (lambda: ln.nn.Linear(3, 5), in_order, lambda: ln.optim.SGD(lr=0.05), (drawn(4, 3), np.array([0, 3, 3]))),
    "recurrence": (lambda: ln.nn.LSTM(2, 2), squares, lambda: ln.optim.SGD(lr=0.1), (drawn(2, 1, 2),)),
}


@pytest.mark.parametrize("name", CASES)
def test_training_compiled_is_training(name):
    build, loss_of, optimizer, arrays = CASES[name]
    losses, weights, _ = trained(build, loss_of, optimizer(), arrays, "cpu", compiled=False)
    found, there, step = trained(build, loss_of, optimizer(), arrays, "cuda", compiled=True)
    np.testing.assert_allclose(found, losses, rtol=1e-4)
    for key, value in weights.items():
        np.testing.assert_allclose(there[key], value, rtol=1e-3, atol=1e-5, err_msg=key)
    assert step.specialisations == 1
    assert "launches on a GPU" in step.explain()


def test_a_learning_rate_is_read_at_each_call_and_weights_handed_out_stay():
    weight, optimizer = ln.ones(2, device="cuda", requires_grad=True), ln.optim.SGD(lr=0.5)

    @ln.jit
    def step(x):
        loss = (weight * x).sum()
        optimizer(loss.backward())
        return loss

    x = ln.asarray([1.0, 2.0], device="cuda")
    step(x)
    before = weight.detach()
    optimizer.lr = 0.25
    step(x)
    assert before.tolist() == [0.5, 0.0]
    assert weight.tolist() == [0.25, -0.5]
    weight.assign([1.0, 1.0])
    assert step(x).item() == 3.0


def test_one_function_is_compiled_for_each_device():
    pytest.importorskip("platformdirs", reason="steps on the CPU are kept where it says")
    double = ln.jit(lambda x: x * 2)
    assert double(ln.ones(2)).device == "cpu"
    assert double(ln.ones(2, device="cuda")).device == "cuda"
    assert double(ln.ones(2)).tolist() == double(ln.ones(2, device="cuda")).tolist() == [2.0, 2.0]
    assert double.specialisations == 2


def test_results_of_one_call_are_not_those_of_the_next():
    double = ln.jit(lambda x: x * 2)
    first = double(ln.asarray([1.0], device="cuda"))
    second = double(ln.asarray([5.0], device="cuda"))
    assert (first.tolist(), second.tolist()) == ([2.0], [10.0])


def test_labels_out_of_range_change_nothing():
    weight, optimizer = ln.zeros((2, 3), device="cuda", requires_grad=True), ln.optim.SGD(lr=1.0)

    @ln.jit
    def step(x, y):
        loss = ln.loss.cross_entropy(x @ weight, y)
        optimizer(loss.backward())
        return loss

    x = ln.ones((1, 2), device="cuda")
    step(x, ln.asarray([2], device="cuda"))
    before = weight.tolist()
    with pytest.raises(IndexError, match=r"labels must lie in \[0, 3\)"):
        step(x, ln.asarray([3], device="cuda"))
    assert weight.tolist() == before


def test_what_has_no_kernel_is_named():
    with pytest.raises(TraceError, match="pow has no kernel in compiled steps on 'cuda'"):
        ln.jit(lambda x: x**x)(ln.ones(2, dtype="int64", device="cuda"))


def test_devices_do_not_mix():
    weight = ln.ones(2)
    with pytest.raises(DeviceError, match=r"\.to\('cuda'\)"):
        ln.jit(lambda x: x * weight)(ln.ones(2, device="cuda"))


def test_a_step_sets_an_attribute_of_a_module_to_a_new_tensor_at_each_call():
    class Accumulator(ln.nn.Module):
        def __init__(self):
            super().__init__()
            self.total = ln.zeros(3, device="cuda")

        def forward(self, x):
            self.total = self.total + x
            return self.total * 2

    module, x = Accumulator(), ln.ones(3, device="cuda")
    step = ln.jit(module)
    for count in (1, 2, 3):
        assert step(x).tolist() == [2.0 * count] * 3
        assert module.total.tolist() == [1.0 * count] * 3
        assert module.total.device == "cuda"
