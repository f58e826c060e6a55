"""Servers as modules of torch, in training loops of torch."""

import asyncio
import copy
import pickle
import threading

import numpy as np
import pytest

import labnet as ln
from labnet.errors import GradientError, RemoteFailure, Unreachable
from tests.helpers.libraries import torch_or_skip
from tests.helpers.network.client_calls import blocking, run
from tests.helpers.ports import free_port

torch = torch_or_skip()
nn = torch.nn
interop = ln.interop.torch


def served(module, rate=0.1, **options):
    return ln.network.serve_model(module, torch.optim.SGD(module.parameters(), lr=rate), port=0, **options)


def test_a_training_loop_with_layers_on_both_sides_is_the_one_of_torch():
    torch.manual_seed(0)
    middle = nn.Linear(8, 8)
    here = nn.Sequential(nn.Linear(4, 8), nn.Tanh(), copy.deepcopy(middle), nn.ReLU(), nn.Linear(8, 2))
    with served(middle) as server:
        parts = copy.deepcopy(here)
        parts[2] = interop.remote_module(server.url)
        models = [(model, torch.optim.SGD(model.parameters(), lr=0.1)) for model in (here, parts)]
        for _ in range(3):
            x, losses = torch.randn(5, 4), []
            for model, optimizer in models:
                optimizer.zero_grad()
                loss = model(x).square().mean()
                loss.backward()
                optimizer.step()
                losses.append(loss.item())
            assert losses[0] == pytest.approx(losses[1], rel=1e-6)
    torch.testing.assert_close(middle.state_dict(), here[2].state_dict())
    torch.testing.assert_close(parts[0].state_dict(), here[0].state_dict())


def test_outputs_require_a_gradient_where_torchs_would():
    with served(nn.Linear(4, 2)) as server:
        remote, x = interop.remote_module(server.url), torch.randn(3, 4)
        assert remote(x).requires_grad, "the parameters of the server are trained"
        assert remote(x.requires_grad_()).requires_grad
        with torch.no_grad():
            assert not remote(x).requires_grad
        assert not remote.eval()(x).requires_grad
        assert list(remote.parameters()) == []


def test_a_server_that_only_gets_data_is_trained():
    module = nn.Linear(4, 2)
    before = copy.deepcopy(module)
    with served(module) as server:
        interop.remote_module(server.url)(torch.ones(3, 4)).sum().backward()
    before(torch.ones(3, 4)).sum().backward()
    torch.testing.assert_close(module.bias, before.bias - 0.1 * before.bias.grad)


def test_calls_without_gradients_keep_nothing_and_are_in_evaluation_mode():
    with ln.network.serve_model(nn.Dropout(0.5), port=0) as server:
        with torch.no_grad():
            y = interop.remote_module(server.url)(torch.ones(50))
        assert torch.equal(y, torch.ones(50))
        assert server.statistics()["server"]["version"] == 0
        assert len(server.served.calls) == 0


def test_two_servers_side_by_side_compute_at_the_same_time():
    met = threading.Barrier(2)

    class Meeting(nn.Linear):
        def forward(self, x):
            met.wait(60)  # fails if the other server is called after this one
            return super().forward(x)

    torch.manual_seed(0)
    left, right = Meeting(4, 2), Meeting(4, 3)
    here = nn.Linear(4, 2), nn.Linear(4, 3)
    for one, other in zip(here, (left, right), strict=True):
        one.load_state_dict(other.state_dict())
    with served(left) as one, served(right) as other:
        both = interop.Parallel(interop.remote_module(one.url), interop.remote_module(other.url))
        x, y = torch.randn(5, 4, requires_grad=True), None
        y = both(x)
        (y[0].sum() + y[1].square().sum()).backward()
    wanted = x.detach().clone().requires_grad_()
    (here[0](wanted).sum() + here[1](wanted).square().sum()).backward()
    torch.testing.assert_close(x.grad, wanted.grad)
    torch.testing.assert_close(right.weight, here[1].weight - 0.1 * here[1].weight.grad)


def test_inputs_and_outputs_by_name():
    def model(x, y):
        return {"sum": x + y, "product": x * y, "order": ln.argmax(x)}

    with ln.network.serve_model(model, port=0) as server:
        x, y = torch.tensor([1.0, 2.0], requires_grad=True), torch.tensor([3.0, 4.0], requires_grad=True)
        outputs = interop.remote_module(server.url)(x=x, y=y)
        assert outputs["order"].dtype == torch.int64
        (outputs["sum"].sum() + outputs["product"].sum()).backward()
    assert x.grad.tolist() == [4.0, 5.0]
    assert y.grad.tolist() == [2.0, 3.0]


def test_an_output_that_the_loss_leaves_out_needs_no_gradient():
    with ln.network.serve_model(lambda x: {"one": x * 2, "other": x * 3}, port=0) as server:
        x = torch.ones(2, requires_grad=True)
        interop.remote_module(server.url)(x)["one"].sum().backward()
    assert x.grad.tolist() == [2.0, 2.0]


class Rows(torch.utils.data.Dataset):
    def __init__(self, model=None):
        self.model = model

    def __len__(self):
        return 8

    def __getitem__(self, position):
        return torch.full((4,), float(position))


def test_workers_of_a_data_loader_do_not_break_it():
    with served(nn.Linear(4, 2), rate=0.01) as server:
        remote = interop.remote_module(server.url)
        remote(torch.ones(1, 4)).sum().backward()
        for rows in torch.utils.data.DataLoader(Rows(remote), batch_size=4, num_workers=1):
            remote(rows).sum().backward()
        assert server.statistics()["server"]["version"] == 3


def test_copies_and_pickles_connect_to_the_same_server():
    with served(nn.Linear(4, 2)) as server:
        remote = interop.remote_module(server.url, timeout=30.0)
        for twin in (copy.deepcopy(remote), pickle.loads(pickle.dumps(remote))):
            assert twin.url == server.url
            torch.testing.assert_close(twin(torch.ones(1, 4)), remote(torch.ones(1, 4)))


def test_a_client_of_labnet_and_one_of_torch_train_one_server():
    module = nn.Linear(4, 1)
    with served(module, rate=0.01) as server:
        remote = interop.remote_module(server.url)

        async def by_labnet():
            model = ln.network.remote_model(server.url, client="labnet")
            for _ in range(20):
                await ln.square(await model(ln.ones((2, 4)))).sum().backward()

        def by_torch():
            for _ in range(20):
                remote(torch.ones(2, 4)).square().sum().backward()

        thread = threading.Thread(target=by_torch)
        thread.start()
        run(by_labnet())
        thread.join()
        assert server.statistics()["server"]["version"] == 40
        assert blocking(server)(ln.ones((1, 4))).item() == pytest.approx(0.0, abs=0.1)


def test_it_works_where_a_loop_runs_as_in_a_notebook():
    async def cell():
        remote = interop.remote_module(server.url)
        x = torch.ones(3, 4, requires_grad=True)
        interop.Parallel(remote, remote)(x)[0].sum().backward()
        return x.grad

    with served(nn.Linear(4, 2)) as server:
        assert asyncio.run(cell()).shape == (3, 4)


def test_errors_are_those_of_the_server():
    with served(nn.Linear(4, 2)) as server:
        remote = interop.remote_module(server.url)
        with pytest.raises(RemoteFailure, match="cannot be multiplied"):
            remote(torch.ones(3, 5))
        with pytest.raises(TypeError, match="takes tensors of torch, got ndarray"):
            remote(np.ones((3, 4), "float32"))
        y = remote(torch.ones(3, 4)).sum()
        y.backward()
        with pytest.raises((GradientError, RuntimeError)):
            y.backward()
    with pytest.raises(Unreachable):
        interop.remote_module(f"localhost:{free_port()}", timeout=1.0)(torch.ones(1))
    with pytest.raises(TypeError, match="expected remote modules, got Linear"):
        interop.Parallel(nn.Linear(2, 2))


def test_a_gradient_through_a_server_cannot_be_differentiated_again():
    with served(nn.Linear(4, 2)) as server:
        x = torch.ones(3, 4, requires_grad=True)
        (gradient,) = torch.autograd.grad(interop.remote_module(server.url)(x).square().sum(), x, create_graph=True)
        with pytest.raises(RuntimeError, match="once_differentiable"):
            gradient.sum().backward()


def test_a_served_module_may_go_on_at_another_server():
    torch.manual_seed(0)
    last, first = nn.Linear(3, 1), nn.Linear(2, 3)
    here = nn.Sequential(copy.deepcopy(first), copy.deepcopy(last))
    with served(last) as inner, served(nn.Sequential(first, interop.remote_module(inner.url))) as outer:
        x = torch.ones(2, 2, requires_grad=True)
        interop.remote_module(outer.url)(x).sum().backward()
        assert inner.statistics()["server"]["version"] == outer.statistics()["server"]["version"] == 1
    given = torch.ones(2, 2, requires_grad=True)
    here(given).sum().backward()
    torch.optim.SGD(here.parameters(), lr=0.1).step()
    torch.testing.assert_close(x.grad, given.grad)
    torch.testing.assert_close(first.state_dict(), here[0].state_dict())
    torch.testing.assert_close(last.state_dict(), here[1].state_dict())
