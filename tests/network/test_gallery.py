"""Every documented example of the namespace, with each server in a process of its own."""

import numpy as np
import pytest

import labnet as ln
from tests.helpers.network.client_calls import fetch, run
from tests.helpers.network.example_servers import LR, linear, local_weight, process, processes

STEPS = 5


def data():
    rng = np.random.default_rng(0)
    return [ln.asarray(rng.standard_normal((4, 3)).astype("float32")) for _ in range(2)]


def assert_same(found, expected):
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-4, atol=1e-6)


def assert_state(url, expected):
    found = ln.network.remote_model(url, blocking=True).state_dict()
    for name, value in expected.state_dict().items():
        assert_same(found[name], ln.asarray(value))


# serve and tfetch


def test_a_route_uses_the_backward_that_another_one_captured():
    with process("functions") as url:
        y = fetch(url + "/run_model", ln.ones((1, 3)))
        assert y.tolist() == [[6.0]]
        assert fetch(url + "/optimize_model", ln.ones((1, 1))) is None
        assert fetch(url + "/weight").tolist() == [[pytest.approx(1.9)]] * 3


def test_each_client_has_its_own_captured_backward():
    with process("functions") as url:
        fetch(url + "/run_model", ln.ones((1, 3)), client="a")
        fetch(url + "/run_model", ln.ones((1, 3)) * 10, client="b")
        fetch(url + "/optimize_model", ln.ones((1, 1)), client="a")
        assert fetch(url + "/weight").tolist() == [[pytest.approx(1.9)]] * 3


def test_without_a_tensor_a_get_is_made_and_with_one_a_post():
    with process("functions") as url:
        assert run(async_fetch(url + "/weight")).shape == (3, 1)
        assert run(async_fetch(url + "/run_model", ln.ones((2, 3)))).shape == (2, 1)


async def async_fetch(url, *tensor):
    return await ln.network.tfetch(url, *tensor)


# serve_model and remote_model


def test_a_model_in_another_process_is_trained_like_one_here():
    x, target = data()
    here, optimizer = linear(1), ln.optim.SGD(lr=LR)

    async def train(url):
        remote = ln.network.remote_model(url)
        for _ in range(STEPS):
            await ln.loss.mse(await remote(x), target).backward()

    with process("model", 1) as url:
        run(train(url))
        for _ in range(STEPS):
            optimizer(ln.loss.mse(here(x), target).backward())
        assert_state(url, here)


# Composition


class Local:
    """The same computation as the composed servers, in this process."""

    def __init__(self):
        self.a, self.b, self.c = linear(1), linear(2), linear(3)
        self.weight = local_weight()
        self.optimizer = ln.optim.SGD(lr=LR)

    def __call__(self, x):
        return self.c(self.a(x)) * self.b(x) @ self.weight


@pytest.fixture
def parts():
    with processes(("model", 1), ("model", 2), ("model", 3)) as urls:
        yield urls


def test_a_composed_model_is_trained_by_a_client_that_knows_nothing_of_its_parts(parts):
    (x, target), local = data(), Local()

    async def train(url):
        remote = ln.network.remote_model(url)
        for _ in range(STEPS):
            await ln.loss.mse(await remote(x), target).backward()

    with process("composed", *parts) as url:
        run(train(url))
        for _ in range(STEPS):
            local.optimizer(ln.loss.mse(local(x), target).backward())
        assert_same(fetch(url + "/weight"), local.weight.detach())
    for url, expected in zip(parts, (local.a, local.b, local.c), strict=True):
        assert_state(url, expected)


def test_the_input_of_a_composed_model_gets_its_gradient_through_all_parts(parts):
    x, target = data()
    here, there = ln.asarray(x.numpy(), requires_grad=True), ln.asarray(x.numpy(), requires_grad=True)
    with process("composed", *parts) as url:
        remote = ln.network.remote_model(url, blocking=True)
        found = ln.loss.mse(remote(there), target).backward()[there]
    expected = ln.loss.mse(Local()(here), target).backward()[here]
    assert_same(found, expected)


def test_a_composed_server_shows_the_statistics_of_its_parts(parts):
    x, target = data()
    with process("composed", *parts) as url:
        ln.loss.mse(ln.network.remote_model(url, blocking=True)(x), target).backward()
        tree = fetch(url + "/statistics")
    assert {name: tree[name]["optimize"]["hits"] for name in "ABC"} == {"A": 1, "B": 1, "C": 1}
    assert [tree[name]["server"]["name"] for name in "ABC"] == ["linear 1", "linear 2", "linear 3"]
    assert "incomplete" not in tree["server"]


# Models that Shumai could not differentiate


@pytest.mark.parametrize("kind", ["remote", "async", "lambda", "blocking"])
def test_a_model_that_returns_a_remote_output_is_trained_through(kind):
    (x, target), here = data(), linear(1)
    there = ln.asarray(x.numpy(), requires_grad=True)
    with process("model", 1) as inner, process("relay", kind, inner) as url:
        found = ln.loss.mse(ln.network.remote_model(url, blocking=True)(there), target).backward()[there]
        x = ln.asarray(x.numpy(), requires_grad=True)
        gradients = ln.loss.mse(here(x), target).backward()
        assert_same(found, gradients[x])
        ln.optim.SGD(lr=LR, parameters=here.parameters())(gradients)
        assert_state(inner, here)


@pytest.mark.parametrize("wants_gradient", [True, False])
def test_a_model_whose_first_op_has_no_parameter_is_trained(wants_gradient):
    x = ln.asarray([[1.0, -1.0, 2.0]], requires_grad=wants_gradient)
    with process("no_parameter_first") as url:
        gradients = ln.network.remote_model(url, blocking=True)(x).sum().backward()
        assert fetch(url + "/weight").tolist() == [[pytest.approx(2 - LR)], [2.0], [pytest.approx(2 - 2 * LR)]]
        if wants_gradient:
            assert gradients[x].tolist() == [[2.0, 0.0, 2.0]]


# Statistics


def test_statistics_count_the_hits_and_seconds_of_each_route():
    with process("model", 1) as url:
        remote = ln.network.remote_model(url, blocking=True)
        remote(ln.ones((1, 3))).sum().backward()
        found = fetch(url + "/statistics")
    assert {name: found[name]["hits"] for name in ("forward", "optimize")} == {"forward": 1, "optimize": 1}
    assert all(found[name]["seconds"] > 0 for name in ("forward", "optimize"))


def test_a_statistics_handler_of_ones_own_adds_its_fields():
    with process("own_statistics") as url:
        found = fetch(url + "/statistics")
    assert found["accuracy"] == 0.9
    assert found["forward"]["hits"] == 0
