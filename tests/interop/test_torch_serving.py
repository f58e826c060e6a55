"""Modules of torch that are served: the same numbers as training them with torch, and labnet's guarantees."""

import copy
import signal
import subprocess
import sys
import threading

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GraphExpired, RemoteError, RemoteGradientError, ServeError, StaleGradient
from tests.helpers.libraries import torch_or_skip
from tests.helpers.network.client_calls import blocking, run
from tests.helpers.network.store_process import end, start
from tests.helpers.network.store_server import batch, make_torch
from tests.helpers.ports import free_port

torch = torch_or_skip()
nn = torch.nn


def normal(*shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Linear(8, 2))


def serve(module, optimizer=None, **options):
    return ln.network.serve_model(module, optimizer, port=0, **options)


def train(remote, x):
    """Make one step with the sum of squares; return the loss and the gradient of the input."""
    x = ln.asarray(x, requires_grad=True)
    loss = ln.square(remote(x)).sum()
    return loss.item(), loss.backward()[x].numpy()


def train_here(module, optimizer, x):
    x = torch.tensor(x, requires_grad=True)
    loss = module(x).square().sum()
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
    return loss.item(), x.grad.numpy()


def state(module):
    return {name: tensor.detach().numpy().copy() for name, tensor in module.state_dict().items()}


def assert_same(found, wanted):
    assert found.keys() == wanted.keys()
    for name, value in wanted.items():
        np.testing.assert_array_equal(np.asarray(found[name]), value, err_msg=name)


@pytest.mark.parametrize(
    "make",
    [
        lambda parameters: torch.optim.Adam(parameters, lr=0.01),
        lambda parameters: torch.optim.AdamW(parameters, lr=0.01, weight_decay=0.1),
        lambda parameters: torch.optim.SGD(parameters, lr=0.01, momentum=0.9, nesterov=True),
        lambda parameters: torch.optim.RMSprop(parameters, lr=0.01),
        lambda parameters: torch.optim.Adagrad(parameters, lr=0.01),
    ],
    ids=["Adam", "AdamW", "SGD", "RMSprop", "Adagrad"],
)
def test_a_served_module_is_trained_to_the_same_bits_as_in_torch(make):
    module, twin = network(), network()
    optimizer = make(twin.parameters())
    with serve(module, make(module.parameters())) as server:
        remote = blocking(server)
        for seed in range(3):
            x = normal(5, 4, seed=seed)
            loss, gradient = train(remote, x)
            wanted_loss, wanted = train_here(twin, optimizer, x)
            assert loss == pytest.approx(wanted_loss, rel=1e-5)  # a sum of another order
            np.testing.assert_array_equal(gradient, wanted)
        assert_same(remote.state_dict(), state(twin))
        assert_same(state(module), state(twin))
        assert server.statistics()["server"]["version"] == 3


def test_a_gradient_of_older_weights_is_the_one_of_those_weights():
    module = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 2))
    old = copy.deepcopy(module)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.5)) as server:
        remote = blocking(server)
        x = ln.asarray(normal(5, 4), requires_grad=True)
        first, second = remote(x), remote(x)
        ln.square(first).sum().backward()
        found = ln.square(second).sum().backward()[x].numpy()
    given = torch.tensor(normal(5, 4), requires_grad=True)
    old(given).square().sum().backward()
    np.testing.assert_array_equal(found, given.grad.numpy())


def test_a_stale_gradient_is_refused_where_the_server_says_so():
    module = nn.Linear(4, 2)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.5), max_staleness=0) as server:
        remote = blocking(server)
        first, second = remote(normal(1, 4)), remote(normal(1, 4))
        first.sum().backward()
        before = state(module)
        with pytest.raises(StaleGradient):
            second.sum().backward()
        assert_same(state(module), before)


def test_local_steps_of_a_labnet_copy_train_a_module_of_torch():
    rounds, steps, rate = 3, 2, 0.05
    module, twin = network(), network()
    outer = [torch.optim.SGD(m.parameters(), lr=0.7, momentum=0.9, nesterov=True) for m in (module, twin)]
    copies = [ln.interop.torch.from_torch(network()) for _ in range(2)]
    batches = [ln.asarray(normal(6, 4, seed=seed)) for seed in range(rounds * steps)]
    with serve(module, outer[0]) as server:
        optimizer = ln.optim.SGD(lr=rate)
        remote = ln.network.remote_model(
            server.url, blocking=True, local_steps=steps, model=copies[0], optimizer=optimizer
        )
        for x in batches:
            remote.step(x, ln.zeros((6, 2)), loss=ln.loss.mse)
    for number in range(rounds):
        trained = dict(copies[1].named_parameters())
        for name, parameter in twin.named_parameters():
            trained[name].assign(parameter.detach().numpy().copy())
        for x in batches[number * steps : (number + 1) * steps]:
            ln.optim.SGD(lr=rate)(ln.loss.mse(copies[1](x), ln.zeros((6, 2))).backward())
        for name, parameter in twin.named_parameters():
            parameter.grad = parameter.detach() - torch.tensor(trained[name].numpy())
        outer[1].step()
    for found, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_several_backwards_make_one_update_of_their_sum():
    module, twin = nn.Linear(4, 2), nn.Linear(4, 2)
    twin.load_state_dict(module.state_dict())
    xs = [normal(3, 4, seed=seed) for seed in range(2)]
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1), accumulate=2) as server:

        async def both():
            remotes = [ln.network.remote_model(server.url, client=name) for name in "ab"]
            losses = [(await remote(ln.asarray(x))).sum() for remote, x in zip(remotes, xs, strict=True)]
            await ln.network.all(*(loss.backward() for loss in losses))

        run(both())
        assert server.statistics()["server"]["version"] == 1
    optimizer = torch.optim.SGD(twin.parameters(), lr=0.1)
    sum(twin(torch.tensor(x)).sum() for x in xs).backward()
    optimizer.step()
    for found, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_a_gradient_is_applied_once():
    module = nn.Linear(4, 2)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.5)) as server:
        loss = blocking(server)(normal(1, 4)).sum()
        loss.backward(retain_graph=True)
        after = state(module)
        with pytest.raises(GraphExpired, match="applied: yes"):
            loss.backward()
        assert_same(state(module), after)


def test_calls_without_gradients_are_in_evaluation_mode_and_change_nothing():
    module = nn.Sequential(nn.BatchNorm1d(4), nn.Dropout(0.5), nn.Linear(4, 2))
    twin = copy.deepcopy(module).eval()
    with serve(module, torch.optim.Adam(module.parameters())) as server, ln.no_grad():
        found = blocking(server)(normal(5, 4)).numpy()
    np.testing.assert_array_equal(found, twin(torch.tensor(normal(5, 4))).detach().numpy())
    assert_same(state(module), state(twin))
    assert module.training


def test_frozen_parts_stay_as_they_are():
    module = network()
    module[0].requires_grad_(False)
    module[1].eval()
    before = state(module)
    with serve(module, torch.optim.SGD(module[3:].parameters(), lr=0.5)) as server:
        train(blocking(server), normal(5, 4))
    after = state(module)
    changed = {name for name in after if not np.array_equal(after[name], before[name])}
    assert changed == {"3.weight", "3.bias"}


class Several(nn.Module):
    """Two inputs by name, two outputs by name, and one weight under two names."""

    def __init__(self):
        super().__init__()
        self.left = nn.Linear(3, 3, bias=False)
        self.right = nn.Linear(3, 3, bias=False)
        self.right.weight = self.left.weight

    def forward(self, x, y):
        return {"sum": self.left(x) + self.right(y), "first": (x > 0).long().argmax(1)}


def test_several_inputs_and_outputs_go_by_name_and_shared_weights_stay_shared():
    module, twin = Several(), Several()
    twin.load_state_dict(module.state_dict())
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1)) as server:
        remote = blocking(server)
        x, y = (ln.asarray(normal(2, 3, seed=seed), requires_grad=True) for seed in range(2))
        outputs = remote(x=x, y=y)
        assert outputs["first"].dtype == ln.int64
        gradients = ln.square(outputs["sum"]).sum().backward()
        found = remote.state_dict()
    given = [torch.tensor(normal(2, 3, seed=seed), requires_grad=True) for seed in range(2)]
    twin(*given)["sum"].square().sum().backward()
    torch.optim.SGD(twin.parameters(), lr=0.1).step()
    for tensor, wanted in zip((x, y), given, strict=True):
        np.testing.assert_array_equal(gradients[tensor].numpy(), wanted.grad.numpy())
    assert_same(found, state(twin))


@pytest.mark.parametrize("optimizer", [ln.optim.SGD(lr=0.1), ln.optim.Adam(lr=0.1)], ids=["SGD", "Adam"])
def test_an_optimizer_of_labnet_trains_a_module_of_torch(optimizer):
    module, twin = nn.Linear(4, 2), nn.Linear(4, 2)
    twin.load_state_dict(module.state_dict())
    theirs = {"SGD": torch.optim.SGD, "Adam": torch.optim.Adam}[type(optimizer).__name__](twin.parameters(), lr=0.1)
    with serve(module, optimizer) as server:
        for seed in range(3):
            train(blocking(server), normal(5, 4, seed=seed))
            train_here(twin, theirs, normal(5, 4, seed=seed))
    for found, wanted in zip(module.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(found, wanted)


def test_an_optimizer_that_fails_leaves_weights_and_state_as_they_were():
    class Failing(torch.optim.SGD):
        fails = False

        def step(self, closure=None):
            super().step(closure)
            if self.fails:
                raise ArithmeticError("half-way")

    module = nn.Linear(4, 2)
    optimizer = Failing(module.parameters(), lr=0.5, momentum=0.9)
    with serve(module, optimizer) as server:
        remote = blocking(server)
        train(remote, normal(5, 4))
        before, momentum = state(module), copy.deepcopy(optimizer.state_dict()["state"])
        optimizer.fails = True
        loss = ln.square(remote(normal(5, 4))).sum()
        with pytest.raises(RemoteError, match="half-way"):
            loss.backward(retain_graph=True)
        assert_same(state(module), before)
        for slot, value in optimizer.state_dict()["state"].items():
            torch.testing.assert_close(value["momentum_buffer"], momentum[slot]["momentum_buffer"], rtol=0, atol=0)
        optimizer.fails = False
        loss.backward()
        assert server.statistics()["server"]["version"] == 2


def test_the_panel_has_the_norms_and_the_loss():
    module = nn.Linear(4, 2)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1)) as server:
        loss, _ = train(blocking(server), normal(5, 4))
        shown = server.snapshot()
    weights = np.sqrt(sum(float((p.detach() ** 2).sum()) for p in module.parameters()))
    assert shown["norms"]["weights"]["values"] == [pytest.approx(weights, rel=1e-5)]
    assert shown["norms"]["gradient"]["values"][0] > 0
    assert shown["loss"]["values"] == [pytest.approx(loss)]


def test_graphs_of_torch_count_for_the_memory_of_kept_calls():
    module = nn.Sequential(nn.Linear(4, 1000), nn.Tanh(), nn.Linear(1000, 2))
    with serve(module) as server:
        y = blocking(server)(normal(50, 4))
        kept = server.served.calls.nbytes
        assert 50 * 1000 * 4 <= kept < 2 * 50 * 1000 * 4, "the output of tanh, and not the weights"
        del y


def test_a_tensor_that_is_changed_in_place_before_its_backward_is_an_error():
    class Spoiled(nn.Linear):
        def forward(self, x):
            h = super().forward(x).exp()
            y = h * 2
            h.add_(1)
            return y

    module = Spoiled(4, 2)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1)) as server:
        loss = blocking(server)(normal(5, 4)).sum()
        with pytest.raises(RemoteGradientError, match=r"changed a tensor of shape \(5, 2\) in place"):
            loss.backward()


def test_old_memory_of_parameters_is_used_again_once_it_is_free():
    module = nn.Sequential(nn.Linear(300, 200), nn.ReLU(), nn.Linear(200, 2), nn.Tanh())
    weight, places = module[0].weight, []
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1)) as server:
        remote = blocking(server)
        for _ in range(6):
            remote(normal(5, 300)).sum().backward()
            places.append(weight.data_ptr())
        assert len(set(places[1:])) == 2, "graphs of calls that are over keep nothing"
        kept = weight.detach()
        values = kept.clone()
        for _ in range(3):
            remote(normal(5, 300)).sum().backward()
        assert torch.equal(kept, values)


def test_a_module_whose_output_is_detached_says_so():
    class Detached(nn.Linear):
        def forward(self, x):
            return super().forward(x).detach()

    module = Detached(4, 2)
    with serve(module, torch.optim.SGD(module.parameters(), lr=0.1)) as server:
        loss = blocking(server)(normal(5, 4)).sum()
        with pytest.raises(RemoteGradientError, match=r"no output of the torch module Detached depends on"):
            loss.backward()


def of_another():
    module = nn.Linear(2, 2)
    return module, torch.optim.SGD(nn.Linear(2, 2).parameters(), lr=0.1)


def with_lbfgs():
    module = nn.Linear(2, 2)
    return module, torch.optim.LBFGS(module.parameters())


@pytest.mark.parametrize(
    ("made", "told"),
    [
        (lambda: (nn.LazyLinear(3), None), "call the module once"),
        (of_another, "2 of the 2 parameters of the optimizer SGD are not the module's"),
        (with_lbfgs, "LBFGS computes the loss several times"),
        (lambda: (nn.Linear(2, 2), lambda gradients: None), "cannot train this model"),
        (lambda: (ln.nn.Linear(2, 2), of_another()[1]), "a torch optimizer trains a torch.nn.Module"),
        (lambda: (nn.Linear, None), r"did you mean Linear\(\)"),
        (lambda: (nn.Linear(2, 2, dtype=torch.complex64), None), "is complex"),
    ],
)
def test_what_cannot_be_served_is_refused_at_once(made, told):
    with pytest.raises(ServeError, match=told):
        serve(*made())


def test_an_option_of_another_library_is_refused():
    with pytest.raises(ServeError, match="method= is not for this model"):
        serve(nn.Linear(2, 2), method="predict")
    with pytest.raises(ServeError, match=r"torch\.compile"):
        serve(nn.Linear(2, 2), compile=True)
    with pytest.raises(ServeError, match="torch cannot move the module to 'nowhere'"):
        serve(nn.Linear(2, 2), device="nowhere")


def test_a_device_is_that_of_the_module_and_of_what_it_is_given():
    class Where(nn.Linear):
        def forward(self, x):
            assert x.device == self.weight.device == torch.device("cpu")
            return super().forward(x)

    with serve(Where(4, 2), device="cpu") as server:
        assert blocking(server)(normal(3, 4)).shape == (3, 2)


def test_a_function_around_a_module_of_torch_leads_to_the_module():
    module = nn.Linear(4, 2)
    with serve(lambda x: module(x)) as server, pytest.raises(RemoteError, match="serve the torch module itself"):
        blocking(server)(normal(5, 4))


def test_a_bfloat16_module_is_trained_and_told_of_as_float32():
    module = nn.Linear(4, 2, dtype=torch.bfloat16)

    class Wide(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = module

        def forward(self, x):
            return self.inner(x.to(torch.bfloat16))

    wide = Wide()
    before = state_floats(module)
    with serve(wide, torch.optim.SGD(wide.parameters(), lr=0.5)) as server:
        train(blocking(server), normal(5, 4))
        assert blocking(server).state_dict()["inner.weight"].dtype == ln.float32
    assert module.weight.dtype == torch.bfloat16
    assert not np.array_equal(state_floats(module)["weight"], before["weight"])


def state_floats(module):
    return {name: tensor.detach().float().numpy().copy() for name, tensor in module.state_dict().items()}


def test_a_restarted_server_goes_on_with_the_bits_of_weights_running_means_and_optimizer(tmp_path):
    def session(folder, batches):
        module, optimizer = make_torch()
        with serve(module, optimizer, store=folder, name="kept") as server:
            for number in batches:
                x, y = batch(number)
                ln.loss.mse(blocking(server)(ln.concat((x, x * 2))), ln.concat((y, y))).backward()
            return state(module), optimizer.state_dict(), server.statistics()["server"]["version"]

    session(tmp_path / "halves", range(4))
    found, found_optimizer, version = session(tmp_path / "halves", range(4, 8))
    wanted, wanted_optimizer, _ = session(tmp_path / "whole", range(8))
    assert version == 8
    assert_same(found, wanted)
    for slot, values in wanted_optimizer["state"].items():
        for name, value in values.items():
            assert torch.equal(found_optimizer["state"][slot][name], value)


@pytest.mark.parametrize("durability", ["group", "every"])
def test_a_server_of_torch_that_is_killed_loses_and_doubles_nothing(tmp_path, durability):
    steps, deaths, port = 24, (7, 15), free_port()
    process, _ = start(tmp_path / "killed", port, durability, inner="torch")
    calm, said = start(tmp_path / "calm", 0, durability, inner="torch")

    def restart():
        nonlocal process
        end(process, signal.SIGKILL)
        process, _ = start(tmp_path / "killed", port, durability, inner="torch")

    async def twice(model, number):
        x, y = batch(number)
        await ln.loss.mse(await model(ln.concat((x, x * 2))), ln.concat((y, y))).backward()

    async def train_through_deaths():
        quick = ln.network.Backoff(first=0.02, longest=0.1)
        model = ln.network.remote_model(f"localhost:{port}", backoff=quick, timeout=240.0)  # torch is imported again
        calmly = ln.network.remote_model(said["url"], token=said["token"])
        restarting = []
        for number in range(steps):
            if number in deaths:
                restarting.append(threading.Thread(target=restart))
                restarting[-1].start()
            await twice(model, number)
            await twice(calmly, number)
        for thread in restarting:
            thread.join()
        return [(await one.statistics(), await one.state_dict()) for one in (model, calmly)]

    try:
        (statistics, found), (_, wanted) = run(train_through_deaths())
    finally:
        end(process)
        end(calm)
    assert statistics["server"]["version"] == steps
    assert_same(found, {name: tensor.numpy() for name, tensor in wanted.items()})


def test_a_store_of_another_optimizer_is_refused(tmp_path):
    module = nn.Linear(2, 2)
    serve(module, torch.optim.SGD(module.parameters(), lr=0.1), store=tmp_path).stop()
    with pytest.raises(ln.errors.StoreError, match=r"was trained with torch\.optim\.SGD, not with torch\.optim\.Adam"):
        serve(module, torch.optim.Adam(module.parameters()), store=tmp_path)


def test_a_learning_rate_that_changes_is_replayed():
    module = nn.Linear(2, 2)
    optimizer = torch.optim.SGD(module.parameters(), lr=0.5)
    with serve(module, optimizer) as server:
        optimizer.param_groups[0]["lr"] = 0.0
        before = state(module)
        train(blocking(server), normal(3, 2))
    assert_same(state(module), before)


def test_labnet_imports_torch_only_for_objects_of_torch():
    code = (
        "import sys, labnet as ln\n"
        "ln.network.serve_model(ln.nn.Linear(2, 2), ln.optim.SGD(), port=0).stop()\n"
        "ln.network.serve_model(lambda x: x, port=0).stop()\n"
        "print([name for name in ('torch', 'jax', 'sklearn') if name in sys.modules])"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert told.stdout.strip() == "[]"
