"""Every gradient is applied exactly once: under faults, in any order, by many trainers, over several servers."""

import asyncio
import contextlib
import itertools
import json
import random
import signal
import socket
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.network import Backoff
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, hurried, run
from tests.helpers.network.fault_proxy import FAULTS, Proxy
from tests.helpers.network.raw_http import JSON, forward_of, gradient_of, http, scripted
from tests.helpers.threads import together

STEPS = 1000
QUICK = Backoff(first=0.001, longest=0.01, attempt=5.0)


def weights(*models):
    return [value.numpy().copy() for model in models for value in model.state_dict().values()]


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.view("uint32"), other.view("uint32"))


def layers(*sizes):
    ln.manual_seed(0)
    return [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]


def momentum():
    return ln.optim.SGD(lr=0.01, momentum=0.9)


def data(steps, size=3):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield ln.asarray(rng.standard_normal((4, size)).astype("float32"))


def through(proxy, server, **options):
    """Return a model that calls a server through a proxy, and comes back soon."""
    return ln.network.remote_model(proxy.url, token=server.token, backoff=QUICK, **options)


def optimize_hits(server):
    return server.statistics()["optimize"]["hits"]


# Under faults


@pytest.mark.slow
def test_a_thousand_steps_through_faults_equal_those_without_to_the_bit():
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
def test_a_chain_of_servers_with_faults_on_every_edge_equals_the_chain_here_to_the_bit():
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


def test_a_route_of_the_users_own_is_carried_out_once_for_each_of_its_calls_under_faults():
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


def test_a_damaged_reply_to_a_request_without_a_body_is_asked_for_again():
    model = nn.Linear(30, 30)
    with ln.network.serve_model(model, port=0) as server, Proxy(server.port, faults=("flip reply",)) as proxy:
        remote = ln.network.remote_model(proxy.url, blocking=True, token=server.token, backoff=QUICK)
        for _ in range(20):
            np.testing.assert_array_equal(remote.state_dict()["weight"].numpy(), model.weight.numpy())
        assert proxy.counts["flip reply"]


def test_a_request_without_a_body_is_carried_out_once_too():
    hits = []
    server = ln.network.serve({"count": lambda: hits.append(1)}, port=0)
    with server, Proxy(server.port, seed=5, faults=("lose reply", "cut reply", "duplicate")) as proxy:
        for _ in range(50):
            ln.network.tfetch(proxy.url + "/count", token=server.token, blocking=True, backoff=QUICK)
    assert len(hits) == 50


def test_a_branch_that_fails_is_named_and_completed_without_doubling_the_other():
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


def test_a_branch_that_fails_in_a_blocking_backward_is_completed_without_doubling_the_other():
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


def test_a_partial_failure_below_a_server_names_every_server_and_is_completed():
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


def test_a_server_that_fails_after_the_one_below_it_applied_is_completed_without_doubling():
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


# Orders


@pytest.mark.slow
def test_a_thousand_random_interleavings_of_forwards_and_backwards_equal_a_local_oracle():
    (here,), (there,) = layers(3, 2), layers(3, 2)
    choose = random.Random(0)
    update = momentum()
    inputs = data(10_000)
    with ln.network.serve_model(there, momentum(), port=0) as server:
        remote = blocking(server)
        for _ in range(1000):
            to_start, outstanding = choose.randint(2, 3), []
            while to_start or outstanding:
                if to_start and (not outstanding or choose.random() < 0.6):
                    x = next(inputs)
                    outstanding.append(((remote(x) ** 2).mean(), (here(x) ** 2).mean()))
                    to_start -= 1
                else:
                    far, near = outstanding.pop(choose.randrange(len(outstanding)))
                    far.backward()
                    update(near.backward())
            assert_same_bits(weights(there), weights(here))


@pytest.mark.parametrize("trainers", [2, 4, 8])
def test_the_result_of_several_trainers_is_that_of_some_serial_order(trainers):
    steps = 25
    (there,), (here,) = layers(3, 2), layers(3, 2)
    log, update = [], momentum()

    def model(x):
        log.append(("forward", float(x[0, 0])))
        return there(x)

    def optimizer(gradients):
        log.append(("update", [gradients[p].numpy().copy() for p in there.parameters()]))
        update(gradients)

    def train(number, server):
        remote = blocking(server)
        for step in range(steps):
            x = np.full((2, 3), number / 10 + step / 1000, "float32")
            (remote(ln.asarray(x)) ** 2).mean().backward()

    with ln.network.serve_model(model, optimizer, port=0) as server:
        together(*[lambda number=number: train(number, server) for number in range(trainers)])
    assert_explained(log, here, updates=trainers * steps)
    assert_same_bits(weights(there), weights(here))


def assert_explained(log, model, *, updates):
    """Carry out a log of forwards and updates here; each update must be that of exactly one forward."""
    outstanding, update, done = {}, momentum(), 0
    for kind, value in log:
        if kind == "forward":
            x = ln.full((2, 3), value)
            outstanding[value] = (model(x) ** 2).mean().backward()
            continue
        found = [
            key
            for key, gradients in outstanding.items()
            if all(np.array_equal(gradients[p].numpy(), v) for p, v in zip(model.parameters(), value, strict=True))
        ]
        assert len(found) == 1
        update(outstanding.pop(found[0]))
        done += 1
    assert (done, outstanding) == (updates, {})


def test_no_forward_sees_weights_of_two_versions():
    updates = 200

    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = ln.zeros(64, requires_grad=True)
            self.other = ln.zeros(64, requires_grad=True)

        def forward(self, x):
            first = (x * self.one).sum()
            for _ in range(20):
                x = ln.tanh(x)
            return ln.stack([first, (ln.ones(64) * self.other).sum()])

    done = threading.Event()

    def hammer(server):
        remote, seen = blocking(server), set()
        with ln.no_grad():
            while not done.is_set():
                one, other = remote(ln.ones(64)).tolist()
                assert one == other
                seen.add(one)
        return seen

    def train(server):
        remote = blocking(server)
        try:
            for _ in range(updates):
                remote(ln.ones(64)).sum().backward()
        finally:
            done.set()
        return set()

    def add_one(gradients):
        for tensor in gradients:
            tensor.assign(tensor.numpy() + 1)

    with ln.network.serve_model(Twins(), add_one, port=0) as server:
        seen = set().union(*together(*[lambda: hammer(server)] * 4, lambda: train(server)))
        assert len(seen) > 5
        assert server.statistics()["server"]["version"] == updates


# Cancelled, expired, restarted


def test_a_cancelled_backward_never_lends_its_key_to_another_gradient():
    (there,) = layers(3, 2)
    entered, opened = threading.Event(), threading.Event()
    seen = []

    def optimizer(gradients):
        entered.set()
        assert opened.wait(SECONDS)
        seen.extend(gradients[there.bias].tolist())

    async def scenario(server):
        y = await ln.network.remote_model(server.url)(ln.ones((1, 3)))
        first = asyncio.ensure_future(_awaited(y.backward(ln.full((1, 2), 1.0))))
        await asyncio.to_thread(entered.wait, SECONDS)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        opened.set()
        with pytest.raises(ln.errors.GraphExpired) as caught:
            await y.backward(ln.full((1, 2), 2.0))
        assert caught.value.applied == "yes"

    with ln.network.serve_model(there, optimizer, port=0) as server:
        run(scenario(server))
        assert seen == [1.0, 1.0]


def test_a_cancelled_backward_with_the_same_gradient_is_completed_once():
    (there,) = layers(3, 2)
    entered, opened = threading.Event(), threading.Event()

    def optimizer(gradients):
        entered.set()
        assert opened.wait(SECONDS)

    async def scenario(server):
        x = ln.ones((1, 3), requires_grad=True)
        loss = (await ln.network.remote_model(server.url)(x)).sum()
        first = asyncio.ensure_future(_awaited(loss.backward()))
        await asyncio.to_thread(entered.wait, SECONDS)
        first.cancel()
        with pytest.raises(asyncio.CancelledError):
            await first
        opened.set()
        assert (await loss.backward())[x].shape == (1, 3)

    with ln.network.serve_model(there, optimizer, port=0) as server:
        run(scenario(server))
        assert server.statistics()["server"]["version"] == 1


def test_an_interrupted_backward_is_completed_once():
    (there,) = layers(3, 2)
    entered, opened = threading.Event(), threading.Event()

    def optimizer(gradients):
        entered.set()
        assert opened.wait(SECONDS)

    def interrupt():
        assert entered.wait(SECONDS)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    with ln.network.serve_model(there, optimizer, port=0) as server:
        loss = blocking(server)(ln.ones((1, 3))).sum()
        interrupting = threading.Thread(target=interrupt)
        interrupting.start()
        with pytest.raises(KeyboardInterrupt):
            loss.backward()
        interrupting.join()
        opened.set()
        loss.backward()
        assert server.statistics()["server"]["version"] == 1


async def _awaited(gradients):
    return await gradients


def test_a_dropped_graph_is_made_again_where_the_output_is_the_same():
    (there,), (here,) = layers(3, 2), layers(3, 2)
    ln.optim.SGD(lr=0.1)(here(ln.ones((1, 3))).sum().backward())
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=0) as server:
        loss = blocking(server)(ln.ones((1, 3))).sum()
        server._model.calls.clear()
        loss.backward()
        assert server.statistics()["server"]["version"] == 1
    assert_same_bits(weights(there), weights(here))


def test_a_dropped_graph_of_weights_that_have_changed_is_a_stale_gradient():
    (there,) = layers(3, 2)
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=0) as server:
        remote = blocking(server)
        loss = remote(ln.ones((1, 3))).sum()
        remote(ln.ones((1, 3))).sum().backward()
        server._model.calls.clear()
        with pytest.raises(ln.errors.StaleGradient) as caught:
            loss.backward()
        assert caught.value.applied == "no"
        assert server.statistics()["server"]["version"] == 1


def test_after_a_restart_the_client_goes_on_and_says_what_it_does_not_know():
    (there,) = layers(3, 2)
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=0) as old:
        remote = ln.network.remote_model(old.url, blocking=True, backoff=QUICK)
        loss = remote(ln.ones((1, 3))).sum()
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=old.port) as new:
        with pytest.raises(ln.errors.GraphExpired, match="applied: unknown") as caught:
            loss.backward()
        assert caught.value.applied == "unknown"
        remote(ln.ones((1, 3))).sum().backward()
        assert new.statistics()["server"]["version"] == 1


def test_a_call_in_doubt_is_not_carried_out_by_a_server_that_was_started_anew():
    hits, carried_out = [], threading.Event()
    options = {"blocking": True, "backoff": QUICK, "token": "the same"}

    def step(x):
        hits.append(1)
        carried_out.set()

    def call(proxy, errors):
        with pytest.raises(ln.errors.CallExpired, match=r"started anew.*applied: unknown") as caught:
            ln.network.tfetch(proxy.url + "/step", ln.ones(1), **options)
        errors.append(caught.value.applied)

    old = ln.network.serve({"step": step, "one": lambda: 1}, port=0, token="the same")
    with old, Proxy(old.port, share=0.0, faults=("lose reply",)) as proxy:
        ln.network.tfetch(proxy.url + "/one", **options)
        proxy.share, errors = 1.0, []
        caller = threading.Thread(target=call, args=(proxy, errors))
        caller.start()
        assert carried_out.wait(SECONDS)
        old.stop()
        with ln.network.serve({"step": step}, port=old.port, token="the same"):
            proxy.share = 0.0
            caller.join(SECONDS)
    assert (errors, hits) == (["unknown"], [1])


def test_a_client_waits_for_a_server_that_it_knows_to_come_back():
    with ln.network.serve({"one": lambda: 1}, port=0) as old:
        assert ln.network.tfetch(old.url + "/one", blocking=True) == 1
    results = []
    patient = Backoff(first=0.01, longest=0.01)
    caller = threading.Thread(
        target=lambda: results.append(ln.network.tfetch(old.url + "/one", blocking=True, backoff=patient))
    )
    caller.start()
    with ln.network.serve({"one": lambda: 2}, port=old.port):
        caller.join(SECONDS)
    assert results == [2]


class Losing(Proxy):
    """Loses the replies to requests by number."""

    def __init__(self, port, *numbers):
        self._numbers, self._count = numbers, -1
        super().__init__(port, share=0.0)

    def _choose(self):
        self._count += 1
        return "lose reply" if self._count in self._numbers else "none"


@pytest.mark.parametrize("lost", [0, 1], ids=["its epoch", "its reply"])
def test_the_first_request_to_a_server_is_not_carried_out_again_by_the_one_that_comes_after_it(lost):
    hits, asked = [], threading.Event()
    options = {"blocking": True, "backoff": QUICK, "token": "the same"}

    class Watched(Losing):
        def _do_lose_reply(self, client, request):
            super()._do_lose_reply(client, request)
            self.old.stop()
            asked.set()
            return False

    def step(x):
        hits.append(1)

    def call(url, told):
        try:
            ln.network.tfetch(url + "/step", ln.ones(1), **options)
        except ln.errors.CallExpired as error:
            told.append(error.applied)

    old, told = ln.network.serve({"step": step}, port=0, token="the same"), []
    with contextlib.closing(Watched(old.port, lost)) as proxy:
        proxy.old = old
        caller = threading.Thread(target=call, args=(proxy.url, told))
        caller.start()
        assert asked.wait(SECONDS)
        with ln.network.serve({"step": step}, port=old.port, token="the same"):
            caller.join(SECONDS)
    assert hits == [1]
    assert told == (["unknown"] if lost else [])


def test_a_request_that_asks_for_the_epoch_is_not_carried_out():
    hits = []
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as server:
        send = {"Content_Type": JSON, "Idempotency_Key": '"ana:1"'}
        asked = http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="?", **send)
        assert (asked.status, hits) == (428, [])
        epoch = asked.headers["labnet-epoch"]
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch=epoch, **send).status == 204
        again = http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="?", **send)
        assert (again.status, again.headers["labnet-replayed"], hits) == (204, "1", [1])


def test_a_gradient_that_comes_while_another_one_is_tried_waits_for_what_becomes_of_that():
    tried, failing = threading.Event(), threading.Event()

    def optimizer(gradients):
        if not tried.is_set():
            tried.set()
            assert failing.wait(SECONDS)
            raise RuntimeError("the first one fails")

    with ln.network.serve_model(nn.Linear(3, 2), optimizer, port=0) as server:
        call = forward_of(server, np.ones((1, 3), "float32")).headers["labnet-call"]
        replies = []

        def send(value):
            replies.append(gradient_of(server, call, np.full((1, 2), value, "float32")))

        first, second = threading.Thread(target=send, args=(1.0,)), threading.Thread(target=send, args=(2.0,))
        first.start()
        assert tried.wait(SECONDS)
        second.start()
        asked = threading.Thread(target=lambda: replies.append(http(server, "POST", "/settle", f'["{call}"]'.encode())))
        asked.start()
        failing.set()
        for thread in (first, second, asked):
            thread.join(SECONDS)
        assert sorted(reply.status for reply in replies) == [200, 200, 500]
        assert server.statistics()["server"]["version"] == 1


def test_the_version_of_the_weights_is_theirs():
    model = nn.Linear(1, 1, bias=False)
    model.weight.assign(ln.zeros((1, 1)))

    def optimizer(gradients):
        model.weight.assign(model.weight.detach() + 1)

    with ln.network.serve_model(model, optimizer, port=0) as server:
        remote, ended = blocking(server), threading.Event()

        def train():
            while not ended.is_set():
                remote(ln.ones((1, 1))).sum().backward()

        trainer = threading.Thread(target=train)
        trainer.start()
        try:
            for _ in range(300):
                reply = http(server, "GET", "/weights", Accept=JSON)
                assert json.loads(reply.body)["weight"] == [[float(reply.headers["labnet-version"])]]
        finally:
            ended.set()
            trainer.join(SECONDS)


def test_a_proxy_without_its_server_is_asked_again_and_leaves_doubt():
    away = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 0\r\n\r\n"
    here = b"HTTP/1.1 200 OK\r\nLabnet-Protocol: 1\r\nContent-Type: application/json\r\nContent-Length: 1\r\n\r\n7"
    with scripted(away, away.replace(b"502 Bad Gateway", b"504 Gateway Timeout"), here) as port:
        assert ln.network.tfetch(f"127.0.0.1:{port}/seven", blocking=True, backoff=QUICK) == 7
    with scripted(*[away] * 50) as port:
        with pytest.raises(ln.errors.RemoteError) as caught:
            ln.network.tfetch(f"127.0.0.1:{port}/seven", ln.ones(1), blocking=True, backoff=QUICK, timeout=0.5)
        for _ in range(50):  # the rest of the script
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)) as sock:
                sock.sendall(b"GET / HTTP/1.1\r\n\r\n")
                sock.recv(10)
    assert caught.value.applied == "unknown"


def test_a_first_request_for_another_incarnation_is_not_carried_out():
    hits = []
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as server:
        send = {"Content_Type": JSON, "Idempotency_Key": '"ana:1"'}
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="0123456789abcdef?", **send).status == 428
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="0123456789abcdef", **send).status == 409
        own = http(server, "GET", "/health").headers["labnet-epoch"]
        assert (http(server, "POST", "/step", b"[1.0]", Labnet_Epoch=own + "?", **send).status, hits) == (204, [1])


def test_a_client_goes_on_with_a_server_that_was_started_anew():
    hits = []
    options = {"blocking": True, "backoff": QUICK}
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as old:
        ln.network.tfetch(old.url + "/step", ln.ones(1), **options)
    with ln.network.serve({"step": lambda x: hits.append(2)}, port=old.port):
        ln.network.tfetch(old.url + "/step", ln.ones(1), **options)
    assert hits == [1, 2]
