"""A model that is served from a GPU, and trained over HTTP, ends with the weights of one trained at home on the CPU."""

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.cuda.device_arrays import assert_same

pytest.importorskip("tornado")
STEPS = 5


def batches():
    rng = np.random.default_rng(0)
    for _ in range(STEPS):
        yield rng.standard_normal((4, 3)).astype("float32"), rng.integers(0, 2, 4)


def make_model():
    ln.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.relu, nn.Linear(4, 2))


@pytest.mark.parametrize("make_optimizer", [lambda: ln.optim.SGD(lr=0.1, momentum=0.9), lambda: ln.optim.Adam(lr=0.01)])
def test_training_over_http_gives_the_weights_of_the_cpu(make_optimizer):
    here, optimizer = make_model(), make_optimizer()
    served = make_model()
    losses = []
    for x, y in batches():
        loss = ln.loss.cross_entropy(here(ln.asarray(x)), ln.asarray(y))
        losses.append(loss.item())
        optimizer(loss.backward())
    with ln.network.serve_model(served, make_optimizer(), port=0, device="cuda") as server:
        assert all(parameter.device == "cuda" for parameter in served.parameters())
        remote = ln.network.remote_model(server.url, blocking=True)
        for (x, y), expected in zip(batches(), losses, strict=True):
            loss = ln.loss.cross_entropy(remote(ln.asarray(x)), ln.asarray(y))
            assert loss.item() == pytest.approx(expected, rel=1e-4)
            loss.backward()
    for name, value in here.state_dict().items():
        assert_same(served.state_dict()[name], value.numpy(), rtol=1e-4, atol=1e-5)


def test_functions_are_served_from_the_gpu_too():
    seen = []

    def double(x):
        seen.append(x.device)
        return x * 2

    with ln.network.serve_model(double, port=0, device="cuda") as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        out = remote(ln.asarray([1.0, 2.0]))
    assert out.device == "cpu"
    assert out.tolist() == [2.0, 4.0]
    assert seen == ["cuda"]


def test_the_statistics_of_a_server_tell_what_the_gpu_computed_op_by_op():
    with ln.network.serve_model(make_model(), ln.optim.Adam(), port=0, device="cuda") as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        assert server.statistics()["server"]["device"]["kernels"] is None
        for x, y in batches():
            ln.loss.cross_entropy(remote(ln.asarray(x)), ln.asarray(y)).backward()
        kernels = server.statistics()["server"]["device"]["kernels"]
    ops = kernels["ops"]
    assert {"linear", "linear.backward", "optimizer"} <= ops.keys()
    assert kernels["calls"] == 3 * STEPS
    assert 3 <= kernels["measured"] <= kernels["calls"]
    assert ops["optimizer"]["count"] == STEPS
    assert ops["linear"]["count"] == 2 * STEPS
    assert sum(op["seconds"] for op in ops.values()) == pytest.approx(kernels["seconds"])


def test_functions_on_the_gpu_tell_it_too():
    with ln.network.serve_model(lambda x: x * 2, port=0, device="cuda") as server:
        ln.network.remote_model(server.url, blocking=True)(ln.ones(3))
        assert server.statistics()["server"]["device"]["kernels"]["ops"]["multiply"]["count"] == 1
