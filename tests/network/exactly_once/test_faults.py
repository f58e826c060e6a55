"""Every gradient is applied exactly once under faults of the network, over one server or several."""

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.network.client_calls import blocking, hurried, run
from tests.helpers.network.exact_training import QUICK, assert_same_bits, data, layers, momentum, weights
from tests.helpers.network.fault_proxy import FAULTS, Proxy

STEPS = 1000


def through(proxy, server, **options):
    """Return a model that calls a server through a proxy, and comes back soon."""
    return ln.network.remote_model(proxy.url, token=server.token, backoff=QUICK, **options)


def optimize_hits(server):
    return server.statistics()["optimize"]["hits"]


@pytest.mark.slow
def test_a_thousand_steps_through_faults_equal_those_without_to_the_bit(transport):
    (here,), (there,) = layers(3, 2), layers(3, 2)
    update = momentum()
    for x in data(STEPS):
        update((here(x) ** 2).mean().backward())
    with ln.network.serve_model(there, momentum(), port=0) as server, Proxy(server.port, seed=1) as proxy:
        remote = through(proxy, server, blocking=True)
        for x in data(STEPS):
            (remote(x) ** 2).mean().backward()
        state = server.statistics()["server"]
        assert state["version"] == STEPS
        assert optimize_hits(server) == STEPS
        assert state["calls"]["replayed"] + state["calls"]["joined"] > STEPS / 20
    assert all(proxy.counts[fault] > STEPS / 50 for fault in FAULTS)
    assert_same_bits(weights(there), weights(here))


@pytest.mark.slow
def test_a_chain_of_servers_with_faults_on_every_edge_equals_the_chain_here_to_the_bit(transport):
    steps = 250
    here, there = layers(3, 4, 4, 1), layers(3, 4, 4, 1)
    update = momentum()
    for x in data(steps):
        update((here[2](here[1](here[0](x))) ** 2).mean().backward())
    first, last = there[0], there[2]
    with (
        ln.network.serve_model(there[1], momentum(), port=0) as inner,
        Proxy(inner.port, seed=2) as inner_edge,
    ):
        ask = through(inner_edge, inner)

        class Outer(nn.Module):
            def __init__(self):
                super().__init__()
                self.first, self.last = first, last

            async def forward(self, x):
                return self.last(await ask(self.first(x)))

        with (
            ln.network.serve_model(Outer(), momentum(), port=0) as outer,
            Proxy(outer.port, seed=3) as outer_edge,
        ):
            remote = through(outer_edge, outer, blocking=True)
            for x in data(steps):
                (remote(x) ** 2).mean().backward()
            assert (optimize_hits(outer), optimize_hits(inner)) == (steps, steps)
            assert all("/" in client for client in inner._port.once.ledger._windows), "keys derived from the outer ones"
    assert_same_bits(weights(*there), weights(*here))


def test_a_route_of_the_users_own_is_carried_out_once_for_each_of_its_calls_under_faults(transport):
    steps = 300
    weight = ln.zeros(3, requires_grad=True)
    applied = []

    def run_model(user, x):
        y = x * weight
        user.opt = lambda jacobian: ln.optim.sgd(y.backward(jacobian), lr=0.5)
        return y

    def optimize_model(user, jacobian):
        applied.append(float(jacobian.sum()))
        user.opt(jacobian)

    server = ln.network.serve({"run_model": run_model, "optimize_model": optimize_model}, port=0)
    with server, Proxy(server.port, seed=4) as proxy:
        for step in range(steps):
            options = {"token": server.token, "blocking": True, "backoff": QUICK, "client": "one"}
            ln.network.tfetch(proxy.url + "/run_model", ln.ones(3), **options)
            ln.network.tfetch(proxy.url + "/optimize_model", ln.full(3, float(step)), **options)
    assert applied == [3.0 * step for step in range(steps)]
    assert weight.tolist() == [-0.5 * sum(range(steps))] * 3


def test_a_damaged_reply_to_a_request_without_a_body_is_asked_for_again(transport):
    model = nn.Linear(30, 30)
    with ln.network.serve_model(model, port=0) as server, Proxy(server.port, faults=("flip reply",)) as proxy:
        remote = ln.network.remote_model(proxy.url, blocking=True, token=server.token, backoff=QUICK)
        for _ in range(20):
            np.testing.assert_array_equal(remote.state_dict()["weight"].numpy(), model.weight.numpy())
        assert proxy.counts["flip reply"]


def test_a_request_without_a_body_is_carried_out_once_too(transport):
    hits = []
    server = ln.network.serve({"count": lambda: hits.append(1)}, port=0)
    with server, Proxy(server.port, seed=5, faults=("lose reply", "cut reply", "duplicate")) as proxy:
        for _ in range(50):
            ln.network.tfetch(proxy.url + "/count", token=server.token, blocking=True, backoff=QUICK)
    assert len(hits) == 50


def test_a_branch_that_fails_is_named_and_completed_without_doubling_the_other(transport):
    (here,), (a,), (b,) = layers(3, 2), layers(3, 2), layers(3, 2)
    ln.optim.SGD(lr=0.1)((here(ln.ones((1, 3))) * 1.0).sum().backward())

    async def scenario(good, bad, proxy):
        # the proxy is closed after the forward: nobody answers at that branch
        left = ln.network.remote_model(good.url, backoff=QUICK)
        right = ln.network.remote_model(proxy.url, token=bad.token, backoff=QUICK)
        y, z = await ln.network.all(left(ln.ones((1, 3))), right(ln.ones((1, 3))))
        loss = (y + z).sum()
        proxy.close()
        with hurried(right, 0.3), pytest.raises(ln.errors.PartialUpdate) as caught:
            await loss.backward()
        assert caught.value.servers[good.url] == "yes"
        assert caught.value.servers[proxy.url] in ("no", "unknown")
        assert good.url in str(caught.value)
        with Proxy(bad.port, share=0.0, at=proxy.port):
            await loss.backward()

    with (
        ln.network.serve_model(a, ln.optim.SGD(lr=0.1), port=0, name="a") as good,
        ln.network.serve_model(b, ln.optim.SGD(lr=0.1), port=0, name="b") as bad,
    ):
        run(scenario(good, bad, Proxy(bad.port, share=0.0)))
        assert (optimize_hits(good), optimize_hits(bad)) == (1, 1)
    assert_same_bits(weights(a, b), weights(here, here))


def test_a_branch_that_fails_in_a_blocking_backward_is_completed_without_doubling_the_other(transport):
    (a,), (b,) = layers(3, 2), layers(3, 2)
    failed = []

    def fails_once(gradients):
        if not failed:
            failed.append(1)
            raise RuntimeError("once")

    with (
        ln.network.serve_model(a, ln.optim.SGD(lr=0.1), port=0, name="a") as good,
        ln.network.serve_model(b, fails_once, port=0, name="b") as bad,
    ):
        x = ln.ones((1, 3), requires_grad=True)
        loss = (blocking(bad)(x) + blocking(good)(x)).sum()  # the call made last is pulled first
        with pytest.raises(ln.errors.PartialUpdate) as caught:
            loss.backward()
        assert caught.value.servers == {good.url: "yes", bad.url: "no"}
        assert loss.backward()[x].shape == (1, 3)
        assert (good.statistics()["server"]["version"], bad.statistics()["server"]["version"]) == (1, 1)


def test_a_partial_failure_below_a_server_names_every_server_and_is_completed(transport):
    (a,), (b,) = layers(3, 2), layers(3, 2)

    async def scenario(good, bad, proxy):
        ask_good = ln.network.remote_model(good.url, backoff=QUICK)
        ask_bad = ln.network.remote_model(proxy.url, token=bad.token, backoff=QUICK)

        async def both(x):
            y, z = await ln.network.all(ask_good(x), ask_bad(x))
            return y + z

        with ln.network.serve_model(both, lambda gradients: None, port=0, name="outer") as outer:
            x = ln.ones((1, 3), requires_grad=True)
            loss = (await ln.network.remote_model(outer.url)(x)).sum()
            proxy.close()
            with hurried(ask_bad, 0.3), pytest.raises(ln.errors.PartialUpdate) as caught:
                await loss.backward()
            states = caught.value.servers
            assert (states[good.url], states[outer.url]) == ("yes", "no")
            assert states[proxy.url] in ("no", "unknown")
            with Proxy(bad.port, share=0.0, at=proxy.port):
                assert (await loss.backward())[x].shape == (1, 3)
            assert outer.statistics()["server"]["version"] == 1

    with (
        ln.network.serve_model(a, ln.optim.SGD(lr=0.1), port=0, name="a") as good,
        ln.network.serve_model(b, ln.optim.SGD(lr=0.1), port=0, name="b") as bad,
    ):
        run(scenario(good, bad, Proxy(bad.port, share=0.0)))
        assert (optimize_hits(good), optimize_hits(bad)) == (1, 1)


def test_a_server_that_fails_after_the_one_below_it_applied_is_completed_without_doubling(transport):
    (below,) = layers(3, 2)
    failed = []

    def fails_once(gradients):
        if not failed:
            failed.append(1)
            raise RuntimeError("once")

    class Outer(nn.Module):
        def __init__(self, ask):
            super().__init__()
            self.ask, self.scale = ask, ln.ones((), requires_grad=True)

        def forward(self, x):
            return self.ask(x) * self.scale

    with (
        ln.network.serve_model(below, ln.optim.SGD(lr=0.1), port=0, name="inner") as inner,
        ln.network.serve_model(Outer(blocking(inner)), fails_once, port=0, name="outer") as outer,
    ):
        loss = blocking(outer)(ln.ones((1, 3))).sum()
        with pytest.raises(ln.errors.PartialUpdate, match="once") as caught:
            loss.backward()
        assert caught.value.servers == {inner.url: "yes", outer.url: "no"}
        loss.backward()
        assert [s.statistics()["server"]["version"] for s in (inner, outer)] == [1, 1]
