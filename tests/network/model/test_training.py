"""Training over HTTP: the same weights as at home, and each call its own gradients."""

import asyncio
import gc
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GradientError, PartialUpdate, RemoteFailure
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, run
from tests.helpers.network.digits import OPTIMIZERS, batches, make_model
from tests.helpers.network.server_process import child
from tests.helpers.network.training_checks import assert_unchanged, linear, version, weights
from tests.helpers.threads import together

STEPS = 300


def assert_close(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, **(tolerance or {"rtol": 1e-5, "atol": 1e-6}))


def trained_here(optimizer):
    model, update = make_model(), OPTIMIZERS[optimizer]()
    for x, y in batches(STEPS):
        update(ln.loss.cross_entropy(model(x), y).backward())
    return weights(model)


# As at home


@pytest.mark.parametrize("optimizer", OPTIMIZERS)
@pytest.mark.slow
def test_training_in_another_process_equals_training_here(optimizer):
    with child(optimizer) as (there, _):
        remote = ln.network.remote_model(there["url"], blocking=True)
        for x, y in batches(STEPS):
            ln.loss.cross_entropy(remote(x), y).backward()
        found = weights(remote)
    assert_close(found, trained_here(optimizer), rtol=0, atol=1e-5)


def test_async_training_in_another_process_equals_training_here():
    async def train(url):
        remote = ln.network.remote_model(url)
        for x, y in batches(STEPS):
            await ln.loss.cross_entropy(await remote(x), y).backward()
        return {name: value.numpy() for name, value in (await remote.state_dict()).items()}

    with child("sgd") as (there, _):
        found = run(train(there["url"]))
    assert_close(found, trained_here("sgd"), rtol=0, atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float32", "float64"])
def test_the_gradient_of_the_input_equals_the_local_one(dtype):
    def model(x):
        return (x * x).sum(axis=1)

    x = np.array([[1.0, 2.0], [3.0, -1.0]], dtype)
    with ln.network.serve_model(model, port=0) as server:
        here, there = (ln.asarray(x, requires_grad=True) for _ in range(2))
        (model(here) * 3).sum().backward()
        gradients = (blocking(server)(there) * 3).sum().backward()
    assert gradients[there].dtype == dtype
    np.testing.assert_array_equal(there.grad.numpy(), here.grad.numpy())


def test_layers_on_both_sides_of_the_network_are_trained():
    def both():
        ln.manual_seed(0)
        return nn.Linear(2, 4), nn.Linear(4, 3), nn.Linear(3, 1)

    x = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
    first, middle, last = both()
    ln.optim.SGD(lr=0.1)(last(middle(first(x))).sum().backward())
    expected = [weights(layer) for layer in (first, middle, last)]
    first, middle, last = both()
    with ln.network.serve_model(middle, ln.optim.SGD(lr=0.1), port=0) as server:
        ln.optim.SGD(lr=0.1)(last(blocking(server)(first(x))).sum().backward())
    for layer, there in zip((first, middle, last), expected, strict=True):
        assert_close(weights(layer), there)


def test_gradients_that_were_not_awaited_send_nothing():
    async def forget(server):
        remote = ln.network.remote_model(server.url)
        gradients = (await remote(ln.ones((1, 2)))).sum().backward()
        assert repr(gradients) == "Gradients(not awaited: nothing was sent; write `await loss.backward()`)"
        with pytest.raises(GradientError, match="await "):
            ln.optim.SGD(lr=0.1)(gradients)
        assert "optimize" in server.statistics()
        assert server.statistics()["optimize"]["hits"] == 0
        await gradients
        await gradients
        assert server.statistics()["optimize"]["hits"] == 1

    with ln.network.serve_model(linear(), ln.optim.SGD(lr=0.1), port=0) as server:
        run(forget(server))


def test_a_forward_under_no_grad_is_not_connected():
    with ln.network.serve_model(linear(), port=0) as server:
        with ln.no_grad():
            y = blocking(server)(ln.ones((1, 2)))
        with pytest.raises(GradientError, match="nothing here requires gradients"):
            y.sum().backward()


# Several calls


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
def test_two_forwards_in_flight_keep_their_own_gradients(order):
    inputs = [np.array([[1.0, 2.0]], "float32"), np.array([[-5.0, 3.0]], "float32")]
    seen = []

    def record(gradients):
        seen.append({tensor.shape: gradient.numpy() for tensor, gradient in gradients.items()})

    with ln.network.serve_model(linear(), record, port=0) as server:
        remote = blocking(server)
        tensors = [ln.asarray(x, requires_grad=True) for x in inputs]
        losses = [(remote(x) * (k + 1)).sum() for k, x in enumerate(tensors)]
        found = [losses[k].backward()[tensors[k]].numpy() for k in order]
    for k, gradients, gradient in zip(order, seen, found, strict=True):
        np.testing.assert_allclose(gradients[3, 2], (k + 1) * np.repeat(inputs[k], 3, axis=0))
        np.testing.assert_allclose(gradients[3,], np.full(3, k + 1.0))
        np.testing.assert_allclose(gradient, (k + 1) * linear().weight.numpy().sum(axis=0, keepdims=True), rtol=1e-6)


def test_parallel_branches_to_two_servers_are_forward_and_backward_at_the_same_time():
    meet = threading.Barrier(2)

    def optimizer(gradients):
        meet.wait(SECONDS)  # passes only if both servers are here at once

    class Meeting(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = linear()

        def forward(self, x):
            meet.wait(SECONDS)
            return self.inner(x)

    async def train(urls):
        a, b = map(ln.network.remote_model, urls)
        x = ln.ones((1, 2), requires_grad=True)
        left, right = await ln.network.all(a(x), b(x))
        return (await (left * right).sum().backward())[x].numpy()

    with (
        ln.network.serve_model(Meeting(), optimizer, port=0) as first,
        ln.network.serve_model(Meeting(), optimizer, port=0) as second,
    ):
        found = run(train([first.url, second.url]))
    x, model = ln.ones((1, 2), requires_grad=True), linear()
    np.testing.assert_allclose(found, (model(x) * model(x)).sum().backward()[x].numpy(), rtol=1e-5)


def test_a_chain_of_two_servers_equals_the_chain_here():
    def layers():
        ln.manual_seed(3)
        return nn.Linear(2, 4), nn.Linear(4, 1)

    a, b = layers()
    x = ln.ones((5, 2))
    with (
        ln.network.serve_model(a, ln.optim.SGD(lr=0.1), port=0) as first,
        ln.network.serve_model(b, ln.optim.SGD(lr=0.1), port=0) as second,
    ):
        blocking(second)(blocking(first)(x)).sum().backward()
    here = layers()
    ln.optim.SGD(lr=0.1)(here[1](here[0](x)).sum().backward())
    for found, expected in zip((a, b), here, strict=True):
        assert_close(weights(found), weights(expected))


def test_several_trainers_on_one_server_lose_no_step():
    model = nn.Linear(2, 1)
    before = weights(model)
    trainers, steps = 6, 30

    def train(server):
        remote = blocking(server)
        for _ in range(steps):
            remote(ln.ones((1, 2))).sum().backward()

    with ln.network.serve_model(model, ln.optim.SGD(lr=0.5), port=0) as server:
        together(*[lambda: train(server)] * trainers)
        assert version(server) == trainers * steps
        assert server.statistics()["server"]["graphs"]["count"] == 0
    np.testing.assert_allclose(model.bias.numpy(), before["bias"] - 0.5 * trainers * steps)


def test_an_async_client_works_on_one_event_loop_after_the_other():
    async def step(url):
        await (await ln.network.remote_model(url)(ln.ones((1, 2)))).sum().backward()

    with ln.network.serve_model(linear(), ln.optim.SGD(lr=0.1), port=0) as server:
        for _ in range(3):
            asyncio.run(step(server.url))
        assert version(server) == 3
    gc.collect()


def test_gradients_that_failed_at_one_server_are_taken_up_where_they_stopped():
    failed = []

    def fails_once(gradients):
        if not failed:
            failed.append(True)
            raise RuntimeError("once")

    async def train(urls):
        a, b = map(ln.network.remote_model, urls)
        x = ln.ones((1, 2))
        y, z = await ln.network.all(a(x), b(x))
        gradients = (y + z).sum().backward()
        with pytest.raises(PartialUpdate, match="once") as caught:
            await gradients
        assert caught.value.servers == {urls[0]: "yes", urls[1]: "no"}
        assert len(await gradients) == 0

    with (
        ln.network.serve_model(linear(), lambda gradients: None, port=0) as good,
        ln.network.serve_model(linear(), fails_once, port=0) as bad,
    ):
        run(train([good.url, bad.url]))
        assert good.statistics()["optimize"]["hits"] == 1


# What the optimizer is given


def test_the_optimizer_never_sees_the_input():
    seen = []

    def record(gradients):
        seen.extend(gradients)

    weight = ln.ones((2, 1), requires_grad=True)
    for model in (nn.Linear(2, 1), lambda x: x @ weight, nn.Sequential(lambda x: x @ weight)):
        with ln.network.serve_model(model, record, port=0) as server:
            x = ln.ones((1, 2), requires_grad=True)
            assert blocking(server)(x).sum().backward()[x].shape == (1, 2)
    assert {tensor.shape for tensor in seen} == {(1, 2), (1,), (2, 1)}
    assert {id(tensor) for tensor in seen if tensor.shape == (2, 1)} == {id(weight)}
    assert [tensor.shape for tensor in seen].count((1, 2)) == 1


def test_serving_leaves_grad_alone():
    model = nn.Linear(2, 1)
    model(ln.ones((1, 2))).sum().backward()
    before = model.weight.grad.numpy()
    with ln.network.serve_model(model, lambda gradients: None, port=0) as server:
        blocking(server)(ln.ones((1, 2))).sum().backward()
    np.testing.assert_array_equal(model.weight.grad.numpy(), before)


def test_without_an_optimizer_the_input_still_gets_its_gradient():
    model = nn.Linear(2, 1)
    before = weights(model)
    with ln.network.serve_model(model, port=0) as server:
        x = ln.ones((1, 2), requires_grad=True)
        gradient = blocking(server)(x).sum().backward()[x]
    np.testing.assert_array_equal(gradient.numpy(), before["weight"])
    assert_unchanged(model, before)


def test_a_model_that_returns_its_input_passes_the_gradient_through():
    with ln.network.serve_model(lambda x: x, port=0) as server:
        x = ln.ones(2, requires_grad=True)
        assert (blocking(server)(x) * 5).sum().backward()[x].tolist() == [5.0, 5.0]


def test_the_loss_is_reported_where_the_backward_begins_at_a_scalar():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = blocking(server)
        y = remote(ln.ones((2, 2)))
        y.backward(ln.ones((2, 1)))
        assert server.statistics()["server"]["loss"] is None
        loss = ln.loss.mse(remote(ln.ones((2, 2))), ln.zeros((2, 1)))
        loss.backward()
        assert server.statistics()["server"]["loss"] == pytest.approx(loss.item())


# Models that call models


def outer_models(url):
    ask = ln.network.remote_model(url, blocking=True)
    ask_async = ln.network.remote_model(url)

    async def awaits(x):
        return (await ask_async(x)) * 2

    def returns_awaitable(x):
        return ask_async(x * 2)

    class Outer(nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = ln.full((), 2.0, requires_grad=True)

        def forward(self, x):
            return ask(x) * self.scale

    return {"blocking": lambda x: ask(x) * 2, "async": awaits, "awaitable": returns_awaitable, "module": Outer()}


@pytest.mark.parametrize("kind", ["blocking", "async", "awaitable", "module"])
def test_a_remote_model_inside_a_served_model_just_works(kind):
    inner, expected = linear(), linear()
    x = ln.asarray([[1.0, 2.0]], requires_grad=True)
    gradients = (expected(x) * 2).sum().backward()
    gradient = gradients[x].numpy()
    ln.optim.SGD(lr=0.1, parameters=expected.parameters())(gradients)
    with ln.network.serve_model(inner, ln.optim.SGD(lr=0.1), port=0, name="inner") as a:
        with ln.network.serve_model(outer_models(a.url)[kind], lambda g: None, port=0, name="outer") as b:
            there = ln.asarray([[1.0, 2.0]], requires_grad=True)
            y = blocking(b)(there)
            bias_of_doubled = linear().bias.numpy() if kind == "awaitable" else 0
            found = y.sum().backward()
        assert version(a) == 1
    np.testing.assert_allclose(y.numpy() + bias_of_doubled, (linear()(ln.asarray([[1.0, 2.0]])) * 2).numpy(), rtol=1e-5)
    np.testing.assert_allclose(found[there].numpy(), gradient, rtol=1e-5)
    if kind != "awaitable":
        assert_close(weights(inner), weights(expected))


@pytest.mark.parametrize("kind", ["blocking", "async", "awaitable", "module"])
def test_a_call_in_eval_mode_is_one_for_the_inner_model_too(kind):
    with ln.network.serve_model(linear(), port=0, name="inner") as a:
        with ln.network.serve_model(outer_models(a.url)[kind], port=0, name="outer") as b, ln.no_grad():
            blocking(b)(ln.ones((1, 2)))
        assert a.statistics()["server"]["graphs"]["count"] == 0


def test_an_error_of_the_inner_model_reaches_the_client_with_its_message():
    with ln.network.serve_model(linear(), port=0, name="inner") as a:
        outer = ln.network.serve_model(outer_models(a.url)["blocking"], port=0, name="outer")
        with outer, pytest.raises(RemoteFailure, match=r"\(1, 5\)"):
            blocking(outer)(ln.ones((1, 5)))


# Several inputs and outputs


class Pair(nn.Module):
    """Two named inputs, two named outputs that share a weight, and one of integers."""

    def __init__(self):
        super().__init__()
        self.weight = ln.asarray([[1.0, -2.0], [0.5, 3.0]], requires_grad=True)

    def forward(self, left, right):
        shared = left @ self.weight
        return {"sum": shared + right, "product": shared * right, "count": ln.asarray([1, 2])}


def pair_loss(outputs):
    return (outputs["sum"] * outputs["sum"]).sum() + outputs["product"].sum()


@pytest.mark.parametrize("use", [pair_loss, lambda outputs: (outputs["product"] ** 2).sum()])
def test_named_inputs_and_outputs_train_as_they_do_locally(use):
    local, served = Pair(), Pair()
    x, y = (ln.asarray([[1.0, 2.0]], requires_grad=True) for _ in range(2))
    expected = use(local(left=x, right=y)).backward()
    ln.optim.SGD(lr=0.1)(ln.autograd.Gradients((t, g) for t, g in expected.items() if t is local.weight))
    with ln.network.serve_model(served, ln.optim.SGD(lr=0.1), port=0) as server:
        outputs = blocking(server)(left=x, right=y)
        assert outputs["count"].tolist() == [1, 2]
        got = use(outputs).backward()
        assert server.statistics()["optimize"]["hits"] == 1
    for leaf in (x, y):
        np.testing.assert_allclose(got[leaf].numpy(), expected[leaf].numpy(), rtol=1e-6)
    np.testing.assert_allclose(served.weight.numpy(), local.weight.numpy(), rtol=1e-6)


def test_named_outputs_are_awaited_as_one_call():
    async def train(url):
        remote = ln.network.remote_model(url)
        outputs = await remote(left=ln.ones((1, 2)), right=ln.ones((1, 2)))
        await pair_loss(outputs).backward()

    with ln.network.serve_model(Pair(), ln.optim.SGD(lr=0.1), port=0) as server:
        run(train(server.url))
        assert (server.statistics()["forward"]["hits"], server.statistics()["optimize"]["hits"]) == (1, 1)
