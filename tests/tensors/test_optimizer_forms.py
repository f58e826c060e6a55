"""Optimizers in torch's form: `step` and `zero_grad`, groups of parameters, schedules; eager, compiled and served."""

import asyncio
import copy
import pickle

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GradientError, ShapeError
from labnet.optim import lr_scheduler
from tests.helpers.tensors.torch_comparison import normal, to_torch, torch_or_skip

CASES = {
    "SGD": {"lr": 0.05, "momentum": 0.0},
    "SGD-decay": {"lr": 0.05, "weight_decay": 0.1},
    "SGD-momentum-decay": {"lr": 0.05, "momentum": 0.9, "weight_decay": 0.1},
    "SGD-nesterov": {"lr": 0.05, "momentum": 0.9, "nesterov": True, "weight_decay": 0.01},
    "Adam": {"lr": 0.01},
    "Adam-decay": {"lr": 0.01, "weight_decay": 0.2},
    "Adam-amsgrad": {"lr": 0.01, "amsgrad": True},
    "AdamW": {"lr": 0.01, "weight_decay": 0.3},
    "AdamW-amsgrad": {"lr": 0.01, "amsgrad": True},
    "RMSprop": {"lr": 0.01},
    "RMSprop-momentum": {"lr": 0.01, "momentum": 0.5, "weight_decay": 0.1},
    "RMSprop-centered": {"lr": 0.01, "centered": True, "eps": 1e-4},
    "Adagrad": {"lr": 0.05, "lr_decay": 0.1, "weight_decay": 0.1},
    "Lion": {"lr": 0.01, "weight_decay": 0.1},
    "Muon": {"lr": 0.01},
}


def make(name, module, parameters, **more):
    return getattr(module, name.partition("-")[0])(parameters, **CASES[name], **more)


def network(seed=3):
    ln.manual_seed(seed)
    bias = {"bias": False}
    return nn.Sequential(
        nn.Linear(3, 6, **bias), nn.Tanh(), nn.Linear(6, 4, **bias), nn.Tanh(), nn.Linear(4, 1, **bias)
    )


def peer(model):
    torch = torch_or_skip()
    linear = [torch.nn.Linear(*reversed(one.shape), bias=False) for one in model.parameters()]
    layers = [linear[0], torch.nn.Tanh(), linear[1], torch.nn.Tanh(), linear[2]]
    theirs = torch.nn.Sequential(*layers)
    theirs.load_state_dict({name: to_torch(value.numpy()) for name, value in model.state_dict().items()})
    return theirs


def batches(count):
    return [(normal(8, 3, seed=i), normal(8, 1, seed=100 + i)) for i in range(count)]


def train(model, optimizer, data, wrap=lambda step: step):
    @wrap
    def step(x, y):
        optimizer.zero_grad()
        loss = ln.loss.mse(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    return [step(ln.asarray(x), ln.asarray(y)).item() for x, y in data]


def train_peer(model, optimizer, data):
    torch = torch_or_skip()
    losses = []
    for x, y in data:
        optimizer.zero_grad()
        loss = torch.nn.functional.mse_loss(model(to_torch(x)), to_torch(y))
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("name", [name for name in CASES if name not in ("Lion", "Muon")])
def test_thirty_steps_equal_torchs(name):
    torch, model = torch_or_skip(), network()
    theirs = peer(model)
    ours = train(model, make(name, ln.optim, model.parameters()), batches(30))
    expected = train_peer(theirs, make(name, torch.optim, theirs.parameters()), batches(30))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    for (_, parameter), other in zip(model.named_parameters(), theirs.parameters(), strict=True):
        np.testing.assert_allclose(parameter.numpy(), other.detach().numpy(), rtol=1e-4, atol=1e-5)


def test_muon_follows_torchs_which_iterates_in_bfloat16():
    torch, model = torch_or_skip(), network()
    theirs = peer(model)
    ours = train(model, make("Muon", ln.optim, model.parameters()), batches(20))
    expected = train_peer(theirs, make("Muon", torch.optim, theirs.parameters()), batches(20))
    np.testing.assert_allclose(ours, expected, rtol=0.02)


def test_lion_follows_the_paper():
    weight = ln.asarray([1.0, -2.0], requires_grad=True)
    optimizer, value, mean = ln.optim.Lion([weight], lr=0.1, weight_decay=0.5), np.array([1.0, -2.0]), np.zeros(2)
    for gradient in np.random.default_rng(0).standard_normal((10, 2)):
        (weight * gradient).sum().backward()
        optimizer.step()
        value = value * (1 - 0.1 * 0.5) - 0.1 * np.sign(0.9 * mean + 0.1 * gradient)
        mean = 0.99 * mean + 0.01 * gradient
        np.testing.assert_allclose(weight.numpy(), value, rtol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_compiled_steps_equal_eager_ones(name):
    model = network()
    twin = copy.deepcopy(model)
    eager = train(model, make(name, ln.optim, model.parameters()), batches(6))
    compiled = train(twin, make(name, ln.optim, twin.parameters()), batches(6), wrap=ln.jit)
    np.testing.assert_allclose(compiled, eager, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("name", CASES)
def test_state_carries_over(name):
    model = network()
    optimizer = make(name, ln.optim, model.parameters())
    train(model, optimizer, batches(5))
    twin = network(seed=9)
    resumed = make(name, ln.optim, twin.parameters())
    twin.load_state_dict(model.state_dict())
    resumed.load_state_dict(optimizer.state_dict())
    assert train(twin, resumed, batches(5)) == train(model, optimizer, batches(5))


@pytest.mark.parametrize("name", ["Adam-amsgrad", "RMSprop-centered", "Adagrad", "Lion", "Muon", "SGD-nesterov"])
def test_a_served_model_resumes_from_its_store(name, tmp_path):
    def serve(model):
        return ln.network.serve_model(model, make(name, ln.optim, model.parameters()), store=tmp_path / "store")

    async def teach(server, data):
        remote = ln.network.remote_model(server.url)
        for x, y in data:
            await ln.loss.mse(await remote(ln.asarray(x)), ln.asarray(y)).backward()

    model, alone = network(), network()
    server = serve(model)
    asyncio.run(teach(server, batches(3)))
    server.stop()
    resumed = network(seed=8)
    server = serve(resumed)
    asyncio.run(teach(server, batches(3)))
    server.stop()
    optimizer = make(name, ln.optim, alone.parameters())
    train(alone, optimizer, batches(3))
    train(alone, optimizer, batches(3))
    for ours, theirs in zip(resumed.parameters(), alone.parameters(), strict=True):
        np.testing.assert_allclose(ours.numpy(), theirs.numpy(), rtol=1e-5, atol=1e-6)


def test_the_first_argument_is_a_learning_rate_or_parameters():
    weight = ln.ones(2, requires_grad=True)
    for optimizer in (ln.optim.SGD(0.5, 0.9), ln.optim.SGD([weight], 0.5, 0.9), ln.optim.SGD(lr=0.5, momentum=0.9)):
        assert (optimizer.lr, optimizer.momentum) == (0.5, 0.9)
    assert ln.optim.Adam(nn.Linear(1, 1).named_parameters()).lr == 1e-3
    with pytest.raises(TypeError, match=r"takes tensors, such as model\.parameters\(\)"):
        ln.optim.SGD(nn.Sequential(nn.Linear(1, 1)))


def test_a_step_without_parameters_says_what_to_write():
    with pytest.raises(GradientError, match=r"Adam\(model\.parameters\(\), lr=0\.1\)"):
        ln.optim.Adam(lr=0.1).step()


def test_gradients_add_up_until_the_step():
    weight = ln.ones(1, requires_grad=True)
    optimizer = ln.optim.SGD([weight], lr=0.1)
    for _ in range(3):
        (weight * 2).sum().backward()
    optimizer.step()
    np.testing.assert_allclose(weight.numpy(), [0.4], rtol=1e-6)
    (weight * 2).sum().backward()
    optimizer.zero_grad()
    optimizer.step()
    np.testing.assert_allclose(weight.numpy(), [0.4], rtol=1e-6)


def test_an_unknown_hyperparameter_is_refused():
    optimizer = ln.optim.Adam(lr=0.1)
    with pytest.raises(AttributeError, match=r"Adam has no hyperparameter 'learning_rate'; it has lr, betas"):
        optimizer.learning_rate = 3
    with pytest.raises(TypeError, match="unexpected keyword argument"):
        ln.optim.SGD(learning_rate=3)


def groups(module, model):
    first, *rest = model.parameters()
    return module.Adam([{"params": [first], "lr": 0.1, "weight_decay": 0.1}, {"params": rest}], lr=0.01)


@pytest.mark.parametrize("wrap", [lambda step: step, ln.jit], ids=["eager", "compiled"])
def test_groups_of_parameters_have_hyperparameters_of_their_own(wrap):
    torch, model = torch_or_skip(), network()
    theirs = peer(model)
    optimizer, other = groups(ln.optim, model), groups(torch.optim, theirs)
    ours, expected = train(model, optimizer, batches(5), wrap), train_peer(theirs, other, batches(5))
    for both in (optimizer, other):
        for group in both.param_groups:
            group["lr"] *= 0.5
    ours += train(model, optimizer, batches(5), wrap)
    expected += train_peer(theirs, other, batches(5))
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)
    assert [group.lr for group in optimizer.groups] == [0.05, 0.005]


def test_groups_survive_copies_pickles_and_state_dicts():
    model = network()
    optimizer = groups(ln.optim, model)
    train(model, optimizer, batches(3))
    optimizer.groups[1].lr = 0.2
    loaded = groups(ln.optim, fresh := network(seed=5))
    fresh.load_state_dict(model.state_dict())
    loaded.load_state_dict(optimizer.state_dict())
    assert [group.lr for group in loaded.groups] == [0.1, 0.2]
    pairs = [copy.deepcopy((model, optimizer)), pickle.loads(pickle.dumps((model, optimizer))), (fresh, loaded)]
    expected = train(model, optimizer, batches(3))
    for twin, resumed in pairs:
        assert train(twin, resumed, batches(3)) == expected


def test_setting_a_hyperparameter_sets_it_in_all_groups():
    optimizer = groups(ln.optim, network())
    optimizer.lr = 0.5
    assert [group["lr"] for group in optimizer.param_groups] == [0.5, 0.5]
    with pytest.raises(AttributeError, match="no hyperparameter 'rate'"):
        ln.optim.SGD([{"params": [ln.ones(1, requires_grad=True)], "rate": 3}])
    weight = ln.ones(1, requires_grad=True)
    with pytest.raises(ValueError, match="in one group only"):
        ln.optim.SGD([{"params": [weight]}, {"params": [weight]}])


def test_muon_refuses_vectors():
    weight = ln.ones(3, requires_grad=True)
    (weight * 2).sum().backward()
    with pytest.raises(ShapeError, match=r"Muon: expected weight matrices, got a parameter of shape \(3,\)"):
        ln.optim.Muon([weight]).step()


SCHEDULES = {
    "StepLR": {"step_size": 3, "gamma": 0.5},
    "MultiStepLR": {"milestones": [2, 5], "gamma": 0.3},
    "ExponentialLR": {"gamma": 0.9},
    "LinearLR": {"start_factor": 0.1, "total_iters": 4},
    "CosineAnnealingLR": {"T_max": 10, "eta_min": 0.01},
    "LambdaLR": {"lr_lambda": lambda epoch: 0.95**epoch},
    "OneCycleLR": {"max_lr": 0.5, "total_steps": 12},
}


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("kind", ["SGD", "Adam"])
def test_schedules_are_torchs(name, kind):
    torch, numbers = torch_or_skip(), {"momentum": 0.9} if kind == "SGD" else {}
    ours = getattr(ln.optim, kind)([ln.ones(1, requires_grad=True)], lr=0.2, **numbers)
    theirs = getattr(torch.optim, kind)([torch.ones(1, requires_grad=True)], lr=0.2, **numbers)
    schedule = getattr(lr_scheduler, name)(ours, **SCHEDULES[name])
    other = getattr(torch.optim.lr_scheduler, name)(theirs, **SCHEDULES[name])
    for _ in range(11):
        group, given = theirs.param_groups[0], ours.param_groups[0]
        np.testing.assert_allclose(ours.lr, group["lr"], rtol=1e-9)
        for key in {"momentum", "betas"} & given.keys():
            np.testing.assert_allclose(given[key], group[key], rtol=1e-9)
        theirs.step()
        schedule.step()
        other.step()
    resumed = getattr(lr_scheduler, name)(ln.optim.Adam(lr=1.0), **SCHEDULES[name])
    resumed.load_state_dict(schedule.state_dict())
    assert resumed.get_last_lr() == schedule.get_last_lr()


def test_a_warm_up_is_followed_by_a_decay():
    torch = torch_or_skip()
    found = []
    for module in (ln.optim, torch.optim):
        optimizer = module.SGD([(ln if module is ln.optim else torch).ones(1, requires_grad=True)], lr=0.3)
        schedules = module.lr_scheduler
        parts = [schedules.LinearLR(optimizer, 0.1, total_iters=3), schedules.CosineAnnealingLR(optimizer, 8)]
        schedule = schedules.SequentialLR(optimizer, parts, milestones=[3])
        rates = []
        for _ in range(9):
            rates.append(schedule.get_last_lr()[0])
            if module is torch.optim:
                optimizer.step()
            schedule.step()
        found.append(rates)
    np.testing.assert_allclose(*found, rtol=1e-9)


@pytest.mark.parametrize("settings", [{}, {"mode": "max"}, {"threshold_mode": "abs", "threshold": 0.1, "cooldown": 2}])
def test_a_plateau_lowers_the_rate_as_in_torch(settings):
    torch = torch_or_skip()
    ours, theirs = ln.optim.SGD(lr=1.0), torch.optim.SGD([torch.ones(1)], lr=1.0)
    schedule = lr_scheduler.ReduceLROnPlateau(ours, patience=1, **settings)
    other = torch.optim.lr_scheduler.ReduceLROnPlateau(theirs, patience=1, **settings)
    for metric in [3.0, 2.0, 2.0, 2.1, 1.95, 1.9, 1.9, 1.9, 1.8, 4.0, 5.0, 5.0, 5.0, 5.0]:
        schedule.step(metric)
        other.step(metric)
        np.testing.assert_allclose(ours.lr, theirs.param_groups[0]["lr"], rtol=1e-9)


def test_a_compiled_step_follows_a_schedule_without_a_new_trace():
    model = network()
    optimizer = ln.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    schedule = lr_scheduler.CosineAnnealingLR(optimizer, 5)
    twin = copy.deepcopy(model)
    other = ln.optim.SGD(twin.parameters(), lr=0.1, momentum=0.9, nesterov=True)
    decay = lr_scheduler.CosineAnnealingLR(other, 5)

    @ln.jit
    def step(x, y):
        loss = ln.loss.mse(model(x), y)
        loss.backward()
        optimizer.step()
        return loss

    for x, y in batches(5):
        found = step(ln.asarray(x), ln.asarray(y)).item()
        np.testing.assert_allclose(found, train(twin, other, [(x, y)])[0], rtol=1e-4)
        schedule.step()
        decay.step()
    assert step.specialisations == 1


def test_clip_value_agrees_with_torch():
    torch = torch_or_skip()
    values = normal(20) * 3
    weight, other = ln.asarray(values, requires_grad=True), to_torch(values).requires_grad_()
    gradients = ln.optim.clip_value((weight * weight).sum().backward(), 2.0)
    (other * other).sum().backward()
    torch.nn.utils.clip_grad_value_([other], 2.0)
    np.testing.assert_allclose(gradients[weight].numpy(), other.grad.numpy(), rtol=1e-6)
    with pytest.raises(ValueError, match="expected value > 0, got 0"):
        ln.optim.clip_value(gradients, 0)


def test_the_moving_average_of_weights_is_torchs():
    torch, model = torch_or_skip(), network()
    theirs = peer(model)
    average = ln.optim.EMA(model, decay=0.9)
    other = torch.optim.swa_utils.AveragedModel(theirs, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(0.9))
    other.update_parameters(theirs)  # torch takes the first weights as they are
    optimizer, peers = ln.optim.SGD(model.parameters(), lr=0.1), torch.optim.SGD(theirs.parameters(), lr=0.1)
    for batch in batches(5):
        train(model, optimizer, [batch])
        train_peer(theirs, peers, [batch])
        average.update()
        other.update_parameters(theirs)
    x = normal(4, 3)
    np.testing.assert_allclose(average(ln.asarray(x)).numpy(), other(to_torch(x)).detach().numpy(), atol=1e-5)


@pytest.mark.parametrize("make", [lambda o, p: o.SGD(p, lr=0.1, momentum=0.9), lambda o, p: o.Adam(p, lr=0.1)])
@pytest.mark.parametrize("wrap", [lambda step: step, ln.jit], ids=["eager", "compiled"])
def test_a_group_is_added_while_training_goes_on(make, wrap):
    torch, found = pytest.importorskip("torch", reason="comparison with torch"), []
    for module, layers, optim in ((ln, ln.nn, ln.optim), (torch, torch.nn, torch.optim)):
        model = layers.Sequential(layers.Linear(2, 2), layers.Linear(2, 1))
        for place, parameter in enumerate(model.parameters()):
            rng = np.random.default_rng(place)
            parameter.data = module.tensor(rng.standard_normal(parameter.shape).astype("float32"))
        optimizer = make(optim, model[0].parameters())

        def step(model=model, optimizer=optimizer, module=module):
            optimizer.zero_grad()
            (model(module.tensor(np.ones((3, 2), "float32"))) ** 2).mean().backward()
            optimizer.step()

        run = wrap(step) if module is ln else step
        run(), run()
        optimizer.add_param_group({"params": list(model[1].parameters()), "lr": 0.01})
        run(), run()
        assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.01]
        found.append([parameter.detach().numpy() for parameter in model.parameters()])
    for ours, theirs in zip(*found, strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-4, atol=1e-5)


def test_a_group_that_cannot_be_added_is_refused():
    weight = ln.ones(2, requires_grad=True)
    with pytest.raises(ln.errors.GradientError, match="without parameters"):
        ln.optim.SGD(lr=0.1).add_param_group({"params": [weight]})
    optimizer = ln.optim.SGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="already"):
        optimizer.add_param_group({"params": [weight]})
    with pytest.raises(AttributeError, match="no hyperparameter 'rate'"):
        optimizer.add_param_group({"params": [ln.ones(1, requires_grad=True)], "rate": 1.0})
    assert len(optimizer.param_groups) == 1
