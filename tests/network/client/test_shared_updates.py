"""One remote model called several times in one loss: one backward is one update, as of a model in this process."""

import asyncio
import json

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.network.model import rounds
from labnet.store import journal
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, hurried, run
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.raw_http import JSON, NATIVE, forward_of, gradient_of, http, native

ROUND = "c0ffee00 0 0"
QUICK = ln.network.Backoff(first=0.01, longest=0.05, attempt=0.5)


def make_model():
    ln.manual_seed(3)
    return nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 3))


def make_optimizer():
    return ln.optim.Adam(lr=0.05)


def data(step):
    generator = np.random.default_rng(step)
    return [ln.asarray(generator.standard_normal((2, 3)).astype("float32")) for _ in range(3)]


def twice(model, step):
    x, y, _ = data(step)
    return ln.loss.mse(model(x), y) + ln.loss.mse(model(y), x)


def three_times(model, step):
    x, y, z = data(step)
    return ln.loss.mse(model(x), y) + ln.loss.mse(model(y), z) * 0.5 + ln.loss.mse(model(z), x)


def behind_itself(model, step):
    x, y, _ = data(step)
    return ln.loss.mse(model(model(model(x))), y)


def with_a_branch(model, step):
    x, y, _ = data(step)
    hidden = model(x)
    return ln.loss.mse(hidden * model(hidden), y)


LOSSES = [twice, three_times, behind_itself, with_a_branch]


def trained_here(loss, steps=4):
    model, optimizer = make_model(), make_optimizer()
    for step in range(steps):
        optimizer(loss(model, step).backward())
    return model.state_dict()


def same(found, wanted):
    return all(np.array_equal(np.asarray(found[name]), np.asarray(wanted[name])) for name in wanted)


def version(server):
    return server.statistics()["server"]["version"]


def serve(**options):
    return ln.network.serve_model(make_model(), make_optimizer(), port=0, **options)


@pytest.mark.parametrize("options", [{}, {"max_staleness": 0}, {"staleness": "scale"}], ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_the_weights_are_those_of_a_model_here_to_the_bit(loss, options):
    with serve(**options) as server:
        remote = blocking(server)
        for step in range(4):
            loss(remote, step).backward()
        assert version(server) == 4
        assert same(remote.state_dict(), trained_here(loss))


async def awaited(remote, step):
    """The loss of `three_times`, whose calls are answered in another order than they are made in."""
    x, y, z = data(step)
    outputs = await ln.network.all(*[remote(part) for part in (x, y, z)])
    losses = [ln.loss.mse(out, wanted) for out, wanted in zip(outputs, (y, z, x), strict=True)]
    return losses[0] + losses[1] * 0.5 + losses[2]


def test_calls_that_are_awaited_side_by_side_are_added_in_the_order_in_which_they_were_made():
    async def train(server):
        remote = ln.network.remote_model(server.url)
        for step in range(4):
            await (await awaited(remote, step)).backward()
        return await remote.state_dict()

    with serve() as server:
        found = run(train(server))
        assert version(server) == 4
    assert same(found, trained_here(three_times))


def test_two_clients_that_accumulate_count_as_two():
    async def train(server):
        models = [ln.network.remote_model(server.url, client=name) for name in ("a", "b")]
        for step in range(2):
            losses = [await awaited(model, 2 * step + number) for number, model in enumerate(models)]
            await asyncio.wait_for(asyncio.gather(*[loss.backward() for loss in losses]), SECONDS)

    with serve(accumulate=2) as server:
        run(train(server))
        assert version(server) == 2


def test_two_remote_models_of_one_server_share_its_update():
    with serve() as server:
        one, other = blocking(server), blocking(server)
        x, y, _ = data(0)
        (ln.loss.mse(one(x), y) + ln.loss.mse(other(y), x)).backward()
        assert version(server) == 1
        assert same(one.state_dict(), trained_here(twice, steps=1))


def test_a_served_model_that_calls_another_twice_makes_one_update_there():
    class Outer(nn.Module):
        def __init__(self, url):
            super().__init__()
            self.own = nn.Linear(3, 3)
            self.inner = ln.network.remote_model(url)

        async def forward(self, x):
            hidden = await self.inner(self.own(x))
            return await self.inner(hidden) + await self.inner(x)

    with serve(name="inner") as inner:
        with ln.network.serve_model(Outer(inner.url), ln.optim.SGD(lr=0.1), port=0, name="outer") as outer:
            remote = blocking(outer)
            for step in range(3):
                ln.loss.mse(remote(data(step)[0]), data(step)[1]).backward()
            assert version(outer) == 3
        assert version(inner) == 3


def test_a_part_that_fails_leaves_the_server_of_the_others_untrained_until_it_is_completed():
    other = nn.Linear(3, 3)
    with serve(name="a") as a, ln.network.serve_model(other, ln.optim.SGD(lr=0.1), port=0, name="b") as b:

        async def scenario(proxy):
            left = ln.network.remote_model(a.url, backoff=QUICK)
            right = ln.network.remote_model(proxy.url, token=b.token, backoff=QUICK)
            x, y, _ = data(0)
            outputs = await ln.network.all(left(x), left(y), right(x))
            loss = ln.loss.mse(outputs[0] + outputs[1], outputs[2])
            proxy.close()
            with hurried(right, 0.3), pytest.raises(ln.errors.RemoteError):
                await loss.backward()
            assert (version(a), version(b)) == (0, 0)
            with Proxy(b.port, share=0.0, at=proxy.port):
                await loss.backward()
            assert (version(a), version(b)) == (1, 1)

        run(scenario(Proxy(b.port, share=0.0)))


def test_a_gradient_that_was_held_may_be_followed_by_another_one_of_the_same_calls():
    with serve() as server:
        remote = blocking(server)
        x, y, _ = data(0)
        outputs = remote(x), remote(y)
        with pytest.raises(ln.errors.BadGradient):  # of the call that is pulled last
            (outputs[0] * ln.asarray(np.nan) + outputs[1]).sum().backward(retain_graph=True)
        assert version(server) == 0
        (ln.loss.mse(outputs[0], y) + ln.loss.mse(outputs[1], x)).backward()
        assert version(server) == 1
        assert same(remote.state_dict(), trained_here(twice, steps=1))


def test_an_update_that_fails_is_made_when_backward_is_called_again():
    failures = [RuntimeError("once")]
    model, optimizer = make_model(), make_optimizer()

    def update(gradients):
        if failures:
            raise failures.pop()
        optimizer(gradients)

    with ln.network.serve_model(model, update, port=0) as server:
        loss = twice(blocking(server), 0)
        with pytest.raises(ln.errors.RemoteFailure, match="once"):
            loss.backward()
        assert version(server) == 0
        loss.backward()
        assert version(server) == 1
    assert same(model.state_dict(), trained_here(twice, steps=1))


def test_what_the_server_holds_no_longer_is_sent_again(monkeypatch):
    monkeypatch.setattr(rounds, "_SHARED_SECONDS", 0.0)  # whatever is held goes when the next one comes
    with serve() as server:
        remote = blocking(server)
        with pytest.raises(ln.errors.GraphExpired):  # it never holds all of them at the same time
            three_times(remote, 0).backward()
        assert version(server) == 0
        monkeypatch.undo()
        three_times(remote, 0).backward()
        assert version(server) == 1
        assert same(remote.state_dict(), trained_here(three_times, steps=1))


def hold(server, call):
    body = native({"tensor": np.ones((2, 3), "float32")})
    return http(server, "POST", "/optimize", body, Content_Type=NATIVE, Labnet_Call=call, Labnet_Round=ROUND)


def settle(server, *calls):
    return http(server, "POST", "/settle", json.dumps(calls).encode(), Content_Type=JSON, Labnet_Round=ROUND).json()


def test_on_the_wire_all_calls_that_are_named_are_applied_at_once_and_only_then():
    with serve() as server:
        one, other = (forward_of(server, part).headers["labnet-call"] for part in data(0)[:2])
        assert hold(server, one).status == 200
        assert settle(server, one, other) == {one: "held", other: "no"}
        assert version(server) == 0
        assert hold(server, other).headers["labnet-round"] == ROUND
        assert settle(server, one, other) == settle(server, one, other) == {one: "yes", other: "yes"}
        assert version(server) == 1
        again = gradient_of(server, one, np.ones((2, 3), "float32"))
        assert (again.status, again.json()["applied"]) == (410, "yes")


def optimize(server, call, **headers):
    body = native({"tensor": np.ones((2, 3), "float32")})
    return http(server, "POST", "/optimize", body, Content_Type=NATIVE, Labnet_Call=call, **headers)


def two_calls(server):
    """Make a forward twice; return the ids of the calls."""
    return [forward_of(server, data(0)[0]).headers["labnet-call"] for _ in range(2)]


def test_a_late_request_for_the_update_of_repeated_forwards_applies_nothing_that_was_applied():
    with serve() as server:
        first, again = two_calls(server)
        assert optimize(server, again, Labnet_Renews=first, Labnet_Round=ROUND).status == 200
        assert optimize(server, first).status == 200
        assert settle(server, again) == {again: "yes"}
        assert version(server) == 1


@pytest.mark.parametrize("stored", [False, True], ids=["in memory", "stored"])
def test_a_gradient_that_is_refused_is_refused_for_every_repetition_of_its_forward(tmp_path, stored):
    store = {"store": tmp_path} if stored else {}
    with serve(**store) as server:
        first, again = two_calls(server)
        body = json.dumps([first]).encode()
        refused = http(server, "POST", "/settle", body, Content_Type=JSON, Labnet_Refuse="1")
        assert refused.json() == {first: "no"}
        for reply in (optimize(server, again, Labnet_Renews=first), optimize(server, first)):
            assert (reply.status, reply.json()["applied"]) == (410, "no")
        assert version(server) == 0
    if stored:
        with serve(**store) as server:
            again = forward_of(server, data(0)[0]).headers["labnet-call"]
            assert optimize(server, again, Labnet_Renews=first).json()["applied"] == "no"
            assert version(server) == 0


def test_a_gradient_that_was_applied_is_not_refused():
    with serve() as server:
        call, _ = two_calls(server)
        assert optimize(server, call).status == 200
        told = http(server, "POST", "/settle", json.dumps([call]).encode(), Content_Type=JSON, Labnet_Refuse="1")
        assert told.json() == {call: "yes"}


def test_an_update_that_cannot_be_written_for_a_while_is_made_when_it_can(tmp_path, monkeypatch):
    real, left = journal.Journal.append, [2]

    def append(self, *arguments, **options):
        if left[0]:
            left[0] -= 1
            self.broken = OSError(5, "Input/output error")  # nor can it be taken out again
            raise self.broken
        real(self, *arguments, **options)

    with serve(store=tmp_path) as server:
        remote = ln.network.remote_model(server.url, blocking=True, backoff=QUICK)
        loss = twice(remote, 0)
        monkeypatch.setattr(journal.Journal, "append", append)
        loss.backward()
        assert (version(server), left) == (1, [0])
        assert same(remote.state_dict(), trained_here(twice, steps=1))
