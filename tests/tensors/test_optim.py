"""Optimizers: the first hundred steps of torch's, state that outlives the process, clipping, watchers."""

import copy
import gc
import itertools
import math
import pickle

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GradientError, ShapeError
from tests.helpers.tensors.torch_comparison import to_torch, torch_or_skip

OPTIMIZERS = {
    "sgd": (lambda **k: ln.optim.SGD(lr=0.05, **k), lambda torch, p: torch.optim.SGD(p, lr=0.05)),
    "momentum": (
        lambda **k: ln.optim.SGD(lr=0.05, momentum=0.9, **k),
        lambda torch, p: torch.optim.SGD(p, lr=0.05, momentum=0.9),
    ),
    "adam": (lambda **k: ln.optim.Adam(lr=0.01, **k), lambda torch, p: torch.optim.Adam(p, lr=0.01)),
    "adam-betas": (
        lambda **k: ln.optim.Adam(lr=0.01, betas=(0.5, 0.9), eps=1e-4, **k),
        lambda torch, p: torch.optim.Adam(p, lr=0.01, betas=(0.5, 0.9), eps=1e-4),
    ),
    "adamw": (lambda **k: ln.optim.AdamW(lr=0.01, **k), lambda torch, p: torch.optim.AdamW(p, lr=0.01)),
    "adamw-decay": (
        lambda **k: ln.optim.AdamW(lr=0.01, weight_decay=0.3, **k),
        lambda torch, p: torch.optim.AdamW(p, lr=0.01, weight_decay=0.3),
    ),
}


class Slow(ln.optim.Optimizer):
    """An optimizer of a user's own."""

    def __init__(self, lr=1e-3):
        super().__init__(lr)


class Curve(nn.Module):
    """A small float64 model with parameters of 0, 1 and 2 dimensions."""

    def __init__(self, seed=0):
        super().__init__()
        rng = np.random.default_rng(seed)
        self.weight = ln.asarray(rng.standard_normal((4, 3)), requires_grad=True)
        self.bias = ln.asarray(rng.standard_normal(4), requires_grad=True)
        self.scale = ln.asarray(np.float64(0.7), requires_grad=True)

    def forward(self, x):
        return ln.tanh(x @ self.weight.T + self.bias).sum(axis=1) * self.scale


def batches(steps, seed=1):
    rng = np.random.default_rng(seed)
    return [(rng.standard_normal((8, 3)), rng.standard_normal(8)) for _ in range(steps)]


def step(model, optimizer, batch):
    x, y = batch
    optimizer(ln.loss.mse(model(ln.asarray(x)), ln.asarray(y)).backward())


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_equal_torchs_in_float64(name):
    torch = torch_or_skip()
    ours, theirs = OPTIMIZERS[name]
    model = Curve()
    peers = {key: to_torch(p.numpy()).requires_grad_() for key, p in model.named_parameters()}
    optimizer, peer_optimizer = ours(), theirs(torch, peers.values())
    for x, y in batches(100):
        step(model, optimizer, (x, y))
        out = torch.tanh(to_torch(x) @ peers["weight"].T + peers["bias"]).sum(1) * peers["scale"]
        peer_optimizer.zero_grad()
        torch.nn.functional.mse_loss(out, to_torch(y)).backward()
        peer_optimizer.step()
        for key, parameter in model.named_parameters():
            np.testing.assert_allclose(parameter.numpy(), peers[key].detach().numpy(), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_hundred_steps_in_float32_stay_within_a_millionth_of_torchs(name):
    torch = torch_or_skip()
    ours, theirs = OPTIMIZERS[name]
    rng = np.random.default_rng(0)
    start, gradients = rng.standard_normal((5, 4)).astype("float32"), rng.standard_normal((100, 5, 4)).astype("float32")
    weight, peer = ln.asarray(start, requires_grad=True), to_torch(start).requires_grad_()
    optimizer, peer_optimizer = ours(), theirs(torch, [peer])
    for gradient in gradients:
        optimizer((weight * gradient).sum().backward())
        peer.grad = to_torch(gradient)
        peer_optimizer.step()
    np.testing.assert_allclose(weight.numpy(), peer.detach().numpy(), rtol=1e-6, atol=1e-6)
    assert weight.dtype == ln.float32


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_state_carries_over_to_another_model_and_optimizer(name, tmp_path):
    make = OPTIMIZERS[name][0]
    model, optimizer = Curve(), make()
    for batch in batches(10):
        step(model, optimizer, batch)
    optimizer.lr *= 0.5
    ln.io.save(tmp_path / "model", model.state_dict())
    ln.io.save(tmp_path / "optimizer", optimizer.state_dict(model.named_parameters()))

    twin, resumed = Curve(seed=5), make()
    twin.load_state_dict(ln.io.load(tmp_path / "model"))
    resumed.load_state_dict(ln.io.load(tmp_path / "optimizer"), twin.named_parameters())
    assert resumed.lr == optimizer.lr
    for batch in batches(100, seed=2):
        step(model, optimizer, batch)
        step(twin, resumed, batch)
    for ours, theirs in zip(model.parameters(), twin.parameters(), strict=True):
        np.testing.assert_array_equal(ours.numpy(), theirs.numpy())


def test_a_state_dict_does_not_change_with_further_steps():
    model, optimizer = Curve(), ln.optim.Adam()
    first, second = batches(2)
    step(model, optimizer, first)
    state = optimizer.state_dict(model.named_parameters())
    before = {name: value.numpy().copy() for name, value in state.items()}
    step(model, optimizer, second)
    for name, value in state.items():
        np.testing.assert_array_equal(value.numpy(), before[name])


def test_a_failing_step_changes_no_state_either():
    class Broken(ln.optim.Adam):
        broken = False

        def updated(self, value, gradient, state):
            new = super().updated(value, gradient, state)
            if self.broken and value.ndim == 0:
                raise RuntimeError("no step for the scale")
            return new

    model, optimizer = Curve(), Broken()
    first, second = batches(2)
    step(model, optimizer, first)
    before = optimizer.state_dict(model.named_parameters())
    optimizer.broken = True
    with pytest.raises(RuntimeError):
        step(model, optimizer, second)
    for name, value in optimizer.state_dict(model.named_parameters()).items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


def test_the_learning_rate_may_be_assigned_between_steps():
    weight = ln.asarray([1.0], requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.5)
    for rate in (0.5, 0.25):
        optimizer.lr = rate
        optimizer((weight * 1.0).sum().backward())
    assert weight.item() == 0.25


def test_state_is_forgotten_with_its_parameter():
    optimizer = ln.optim.Adam()
    weight = ln.ones(2, requires_grad=True)
    optimizer((weight * 2).sum().backward())
    del weight
    gc.collect()
    assert list(optimizer.state_dict([])) == ["lr"]


def test_sgd_as_a_function():
    weight = ln.asarray([1.0], requires_grad=True)
    ln.optim.sgd((weight * 2).sum().backward(), lr=0.25)
    assert weight.item() == 0.5


@pytest.mark.parametrize("max_norm", [0.5, 100.0])
def test_clip_norm_agrees_with_torch(max_norm):
    torch = torch_or_skip()
    model = Curve()
    (x, y), *_ = batches(1)
    gradients = ln.loss.mse(model(ln.asarray(x)), ln.asarray(y)).backward()
    clipped = ln.optim.clip_norm(gradients, max_norm)
    peers = []
    for tensor in gradients:
        peer = to_torch(tensor.numpy()).requires_grad_()
        peer.grad = to_torch(gradients[tensor].numpy())
        peers.append(peer)
    torch.nn.utils.clip_grad_norm_(peers, max_norm)
    for tensor, peer in zip(gradients, peers, strict=True):
        np.testing.assert_allclose(clipped[tensor].numpy(), peer.grad.numpy(), rtol=1e-12)
        assert clipped[tensor].dtype == tensor.dtype


@pytest.mark.parametrize("scale", [1e-12, 1e-3, 1.0, 1e25])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
def test_clip_norm_is_exact_for_gradients_of_any_size(scale, dtype):
    rng, scale = np.random.default_rng(0), min(max(scale, 1e-4), 10.0) if dtype == "float16" else scale
    values = [(rng.standard_normal(shape) * scale).astype(dtype) for shape in ((70, 130), (5,), (0,), (3, 4096))]
    weights = [ln.zeros(value.shape, dtype=dtype, requires_grad=True) for value in values]
    gradients = sum([(w * ln.asarray(v)).sum() for w, v in zip(weights, values, strict=True)], ln.zeros(())).backward()
    norm = math.sqrt(sum(float((value.astype("float64") ** 2).sum()) for value in values))
    clipped = ln.optim.clip_norm(gradients, norm / 2)
    for weight, value in zip(weights, values, strict=True):
        close = {"rtol": 1e-5 if dtype != "float16" else 2e-3, "atol": 1e-7 if dtype == "float16" else 0}
        expected = value.astype("float64") * (norm / 2) / (norm + 1e-6)
        np.testing.assert_allclose(clipped[weight].numpy(), expected, **close)


def test_watchers_hear_what_changed_and_are_held_weakly():
    heard = []

    class Watcher:
        def __call__(self, changed):
            heard.append(changed)

    watcher = Watcher()
    ln.optim.watch(watcher)
    a, b = ln.ones(1, requires_grad=True), ln.ones(1, requires_grad=True)
    ln.optim.SGD(parameters=[a])((a * b).sum().backward())
    assert heard == [{id(a)}]
    del watcher
    gc.collect()
    ln.optim.SGD()((a * b).sum().backward())
    assert len(heard) == 1


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda m, o: o.load_state_dict({}, m.named_parameters()), KeyError, "'lr'"),
        (lambda m, o: o.load_state_dict({"lr": 1.0, "x.step": 1}, m.named_parameters()), KeyError, r"x\.step.*weight"),
        (lambda m, o: o.load_state_dict({"lr": 1.0, "bias.speed": 1}, m.named_parameters()), KeyError, "exp_avg"),
        (
            lambda m, o: o.load_state_dict({"lr": 1.0, "bias.exp_avg": ln.ones(3)}, m.named_parameters()),
            ShapeError,
            r"\(3,\).*\(4,\)",
        ),
        (lambda m, o: o.state_dict(list(itertools.islice(m.named_parameters(), 1))), KeyError, r"no name"),
        (lambda m, o: ln.optim.clip_norm({}, 1.0), GradientError, "dict"),
        (lambda m, o: ln.optim.clip_norm(ln.Gradients(), 0), ValueError, "0"),
        (lambda m, o: ln.optim.sgd({}), GradientError, "dict"),
    ],
)
def test_misuse_names_what_was_wrong(call, error, words):
    model, optimizer = Curve(), ln.optim.Adam()
    step(model, optimizer, batches(1)[0])
    before = optimizer.state_dict(model.named_parameters())
    with pytest.raises(error, match=words):
        call(model, optimizer)
    for name, value in optimizer.state_dict(model.named_parameters()).items():
        np.testing.assert_array_equal(value.numpy(), before[name].numpy())


@pytest.mark.parametrize("lr", [np.float32(0.5), np.array(0.5), np.array([0.5]), ln.asarray(0.5)])
def test_a_step_size_may_be_an_array_of_one_number(lr):
    assert ln.optim.SGD(lr).lr == 0.5


@pytest.mark.parametrize("name", ["lr", "momentum"])
def test_what_is_no_step_size_or_momentum_is_refused_at_once(name):
    with pytest.raises(TypeError, match=f"{name} must be a number, got str 'a'"):
        ln.optim.SGD(**{name: "a"})
    with pytest.raises(TypeError, match=f"{name} must be a number, got ndarray"):
        ln.optim.SGD(**{name: np.ones(2)})
    with pytest.raises(ValueError, match=f"{name} must not be negative, got -1"):
        ln.optim.SGD(**{name: -1})


@pytest.mark.parametrize("make", [ln.optim.SGD, ln.optim.Adam, ln.optim.AdamW, Slow])
@pytest.mark.parametrize(
    ("name", "value", "error", "words"),
    [
        ("lr", "a", TypeError, "lr must be a number, got str 'a'"),
        ("lr", None, TypeError, "lr must be a number, got NoneType None"),
        ("lr", math.nan, ValueError, "lr must not be negative, got nan"),
        ("lr", -1, ValueError, "lr must not be negative, got -1"),
        ("momentum", -0.5, ValueError, "momentum must not be negative, got -0.5"),
        ("betas", 0.9, TypeError, "betas must be two numbers, got float 0.9"),
        ("betas", (0.9, "b"), TypeError, r"betas\[1\] must be a number, got str 'b'"),
        ("betas", (0.9, 1.0), ValueError, r"betas must be below 1, got \(0.9, 1.0\)"),
        ("eps", -1e-8, ValueError, "eps must not be negative, got -1e-08"),
        ("weight_decay", [1], TypeError, r"weight_decay must be a number, got list \[1\]"),
    ],
)
def test_a_number_that_cannot_be_trained_with_is_refused_when_it_is_assigned(make, name, value, error, words):
    optimizer = make()
    if not hasattr(optimizer, name):
        return
    before = vars(optimizer).copy()
    with pytest.raises(error, match=words):
        setattr(optimizer, name, value)
    assert vars(optimizer) == before


def pinn_step(model, x, optimizer):
    optimizer((model(x) * model(x)).mean().backward())


def test_an_input_that_is_moved_beside_a_module_is_named_once():
    model, optimizer = ln.nn.Linear(1, 1), ln.optim.SGD()
    points = ln.ones((64, 1), requires_grad=True)
    with pytest.warns(UserWarning, match=r"SGD\(lr=0.001\) .*\(64, 1\) .*parameters=model.parameters\(\)") as caught:
        pinn_step(model, points, optimizer)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    pinn_step(model, points, optimizer)
    pinn_step(model, ln.ones((64, 1), requires_grad=True), optimizer)


def test_coordinates_that_inputs_are_made_of_are_named_also_after_a_call_without_them():
    model = ln.nn.Linear(2, 1)
    model(ln.ones((1, 2)))
    x, t = (ln.ones((64, 1), requires_grad=True) for _ in range(2))
    optimizer = ln.optim.SGD()
    with pytest.warns(UserWarning, match=r"shape \(64, 1\), \(64, 1\) that a module was called with, beside 2"):
        optimizer(model(ln.concat([x, t * 2], axis=1)).sum().backward())


def test_bare_parameters_beside_modules_are_trained_without_a_word():
    encoder, decoder = ln.nn.Linear(2, 3), ln.nn.Linear(3, 3)
    weight = ln.ones((3, 1), requires_grad=True)
    optimizer = ln.optim.SGD(lr=0.1)
    for _ in range(2):
        optimizer((decoder(encoder(ln.ones((4, 2)))) @ weight).sum().backward())
    assert weight.tolist() != [[1.0]] * 3


def test_an_input_stays_where_the_optimizer_knows_its_parameters():
    model = ln.nn.Linear(1, 1)
    points = ln.ones((4, 1), requires_grad=True)
    pinn_step(model, points, ln.optim.Adam(parameters=model.parameters()))
    assert points.tolist() == [[1.0]] * 4


@pytest.mark.parametrize("freeze", [False, True])
def test_parameters_are_known_after_copying_and_freezing(freeze):
    model = copy.deepcopy(ln.nn.Sequential(ln.nn.Linear(1, 2), ln.nn.Linear(2, 1)))
    if freeze:
        for parameter in model.parameters():
            parameter.requires_grad = False
            parameter.requires_grad = True
    pinn_step(model, ln.ones((4, 1)), ln.optim.SGD())
    pinn_step(pickle.loads(pickle.dumps(model)), ln.ones((4, 1)), ln.optim.SGD())


def test_bare_tensors_are_parameters():
    weight, bias = ln.ones(1, requires_grad=True), ln.ones(1, requires_grad=True)
    ln.optim.SGD(lr=1.0)((weight * 2 + bias).sum().backward())
    assert (weight.item(), bias.item()) == (-1.0, 0.0)


def test_an_input_of_a_compiled_step_is_named_too():
    model, optimizer = ln.nn.Linear(1, 1), ln.optim.SGD()
    points = ln.ones((8, 1), requires_grad=True)

    @ln.jit
    def step():
        optimizer(model(points).sum().backward())

    with pytest.warns(UserWarning, match=r"\(8, 1\)"):
        step()


def test_an_optimizer_of_other_parameters_says_that_it_changes_nothing():
    model, other = ln.nn.Linear(1, 1), ln.nn.Linear(1, 1)
    optimizer = ln.optim.SGD(parameters=other.parameters())
    with pytest.warns(UserWarning, match="none of the 2 leaves"):
        pinn_step(model, ln.ones((4, 1)), optimizer)
    pinn_step(model, ln.ones((4, 1)), optimizer)
    pinn_step(other, ln.ones((4, 1)), optimizer)
