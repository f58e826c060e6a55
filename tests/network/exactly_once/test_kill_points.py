"""Servers that are killed at named points of an exchange: every part of a backward is applied, once."""

import contextlib
import json

import numpy as np
import pytest

import labnet as ln
from labnet.errors import RemoteError
from tests.chaos import replayed
from tests.helpers.network.kill_traps import TOKEN, PathProxy, Running, Trap, connect, die
from tests.helpers.network.store_server import batch, make_linear, make_model, make_optimizer
from tests.helpers.network.topologies import TOPOLOGIES, total, values, without_faults
from tests.helpers.threads import together

X, Y = batch(0)


@pytest.fixture
def servers():
    """Start what ends with the test, the last one first: ``servers(Running, folder)``."""
    with contextlib.ExitStack() as stack:
        yield lambda kind, *arguments, **options: stack.enter_context(kind(*arguments, **options))


@pytest.fixture
def chain(servers, tmp_path):
    """Start a server in front of another one, with a trap between them and one before both."""

    class Chain:
        inner = servers(Running, tmp_path / "inner")

        def __init__(self, kind="", **environment):
            self.between = servers(Trap, self.inner.port)
            self.middle = servers(Running, tmp_path / "middle", f"{kind} {self.between.url}".strip(), **environment)
            self.front = servers(Trap, self.middle.port)
            self.victims = {"middle": (self.middle,), "inner": (self.inner,), "both": (self.middle, self.inner)}

        def model(self):
            return connect(self.front.url)

        def check(self, topology="composed"):
            check((self.inner, self.middle), without_faults(1, TOPOLOGIES[topology]))

    return Chain


def check(running, wanted):
    """Check that each server has made one update, and has the weights of a run without faults, to the bit."""
    assert [server.version for server in running] == [1] * len(running)
    for server, expected in zip(running, wanted, strict=True):
        found, expected = server.weights, {name.removeprefix("own."): value for name, value in expected.items()}
        assert found.keys() == expected.keys()
        assert all(np.array_equal(found[name], expected[name]) for name in found)


def updated(models, loss):
    """Return the weights of models of this process after one update each, by a loss of them."""
    gradients = loss.backward()
    for model in models:
        own = {id(parameter) for parameter in model.parameters()}
        make_optimizer()(ln.autograd.Gradients([(t, g) for t, g in gradients.items() if id(t) in own]))
    return [values(model) for model in models]


# A forward that is renewed

RENEWED = {
    "before the forward is renewed": ("/forward", {}),
    "after the forward was renewed": ("/forward", {"after": True}),
    "before the renewed call is applied": ("/optimize", {"number": 2}),  # the first one is refused
    "after the renewed call was applied": ("/optimize", {"after": True}),
}


@pytest.mark.parametrize("victims", ["middle", "inner", "both"])
@pytest.mark.parametrize("moment", RENEWED)
def test_a_backward_whose_inner_forward_is_renewed_survives_kills(chain, moment, victims):
    servers = chain()
    loss = ln.loss.mse(servers.model()(X), Y)
    servers.inner.restart()  # its graph is gone, and nothing was applied
    route, when = RENEWED[moment]
    spring = servers.between.set(route, lambda: die(*servers.victims[victims]), **when)
    loss.backward()
    assert spring.sprung
    servers.check()


@pytest.mark.parametrize("victims", ["middle", "inner", "both"])
@pytest.mark.parametrize("after", [False, True])
def test_a_backward_survives_kills_before_and_after_the_inner_server_has_applied_it(chain, victims, after):
    servers = chain()
    loss = ln.loss.mse(servers.model()(X), Y)
    spring = servers.between.set("/optimize", lambda: die(*servers.victims[victims]), after=after)
    loss.backward()
    assert spring.sprung
    servers.check()


@pytest.mark.parametrize("victims", ["middle", "both"])
def test_the_reply_to_a_backward_of_which_all_is_done_survives_kills(chain, victims):
    servers = chain()
    loss = ln.loss.mse(servers.model()(X), Y)
    spring = servers.front.set("/optimize", lambda: die(*servers.victims[victims]), after=True)
    loss.backward()
    assert spring.sprung
    servers.check()


def test_a_backward_whose_inner_forward_gives_another_output_is_told_to_be_not_applied(chain):
    """Another client has trained both servers since the forward, whose graph the inner one has lost."""
    servers = chain()
    late = ln.loss.mse(servers.model()(X), Y)
    servers.inner.restart()
    ln.loss.mse(servers.model()(X), Y).backward()
    with pytest.raises(RemoteError) as caught:
        late.backward()
    assert caught.value.applied == "no"
    servers.check()


# One server that another one calls twice


@pytest.mark.parametrize("kind", ["branches", "twins"])
@pytest.mark.parametrize("number", [1, 2])
def test_calls_that_come_in_another_order_after_a_restart_keep_their_gradients(servers, tmp_path, kind, number):
    """A server is called twice, behind two others, of which the one that was slower is the faster one then."""
    left, right = (servers(Running, tmp_path / name, "linear") for name in ("left", "right"))
    inner = servers(Running, tmp_path / "inner")
    ways = [servers(Trap, left.port, latency=0.1), servers(Trap, right.port), servers(Trap, inner.port)]
    outer = servers(Running, tmp_path / "outer", f"{kind} {','.join(way.url for way in ways)}")
    loss = ln.loss.mse(outer.client()(X), Y)

    def exchange():
        die(outer)
        ways[0].latency, ways[1].latency = ways[1].latency, ways[0].latency

    spring = ways[2].set("/optimize", exchange, after=True, number=number)
    loss.backward()
    assert spring.sprung
    one, other, last, first = models = [make_linear(), make_linear(), make_model(), make_linear()]
    hidden, factor = first(X), 0.5 if kind == "branches" else 1.0
    alone = ln.loss.mse(last(one(hidden)) + last(other(hidden * factor)), Y)
    check((left, right, inner, outer), updated(models, alone))


POLICIES = {"plain": {}, "max_staleness=0": {"max_staleness": 0}, "scale": {"staleness": "scale"}}
#: Moments of a backward whose two gradients are held.
HELD = {
    "never": None,
    "after the first is held": ("/optimize", {"after": True}),
    "after the second is held": ("/optimize", {"after": True, "number": 2}),
    "before they are settled": ("/settle", {}),
    "after they were settled": ("/settle", {"after": True}),
}


def held(*victims):
    """Return the pairs of a moment and of what is killed then."""
    return [(moment, victim) for moment in HELD for victim in (victims if HELD[moment] else ("none",))]


def set_trap(trap, moment, action):
    """Set a trap for a moment of `HELD`; returns what tells whether that came."""
    if HELD[moment] is None:
        return lambda: True
    route, when = HELD[moment]
    spring = trap.set(route, action, **when)
    return lambda: spring.sprung


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("moment", HELD)
def test_a_loss_that_uses_one_server_twice_makes_one_update(servers, tmp_path, moment, policy):
    options = json.dumps(POLICIES[policy])
    server = servers(Running, tmp_path / "store", SERVER_OPTIONS=options)
    trap = servers(Trap, server.port)
    model, topology = connect(trap.url), TOPOLOGIES["twice"]
    examples = topology.examples(0)
    loss = total([model(x) for x, _ in examples], examples)
    came = set_trap(trap, moment, lambda: die(server))
    loss.backward()
    assert came()
    check((server,), without_faults(1, topology))


@pytest.mark.parametrize("moment", ["never", "after the second is held", "after they were settled"])
def test_two_clients_that_use_one_server_twice_make_one_update_where_it_accumulates(servers, tmp_path, moment):
    """All numbers are such that float32 adds them without rounding, in whatever order."""
    server = servers(Running, tmp_path / "store", "linear", SERVER_OPTIONS=json.dumps({"accumulate": 2}))
    trap = servers(Trap, server.port)
    inputs = [ln.asarray([[float(n), 0.5, -1.0]]) for n in range(4)]

    def loss_of(model, one, other):
        first, second = model(one), model(other)
        return (first * first).sum() + (second * second).sum()

    losses = [loss_of(connect(trap.url, client=f"client {n}"), *inputs[2 * n : 2 * n + 2]) for n in range(2)]
    came = set_trap(trap, moment, lambda: die(server))
    together(*[loss.backward for loss in losses])
    assert came()
    layer = make_linear()
    check((server,), updated([layer], loss_of(layer, *inputs[:2]) + loss_of(layer, *inputs[2:])))


@pytest.mark.parametrize(("moment", "victims"), held("middle", "inner", "both"))
def test_a_server_that_calls_another_one_twice_has_it_make_one_update(chain, moment, victims):
    servers = chain("twice")
    loss = ln.loss.mse(servers.model()(X), Y)
    came = set_trap(servers.between, moment, lambda: die(*servers.victims[victims]))
    loss.backward()
    assert came()
    servers.check("composed-twice")


@pytest.mark.parametrize(("moment", "victims"), held("middle", "both"))
def test_a_loss_that_uses_a_chain_twice_makes_one_update_of_each_server(chain, moment, victims):
    servers = chain()
    model, examples = servers.model(), TOPOLOGIES["twice"].examples(0)
    loss = total([model(x) for x, _ in examples], examples)
    came = set_trap(servers.front, moment, lambda: die(*servers.victims[victims]))
    loss.backward()
    assert came()
    inner, middle = models = make_model(), make_linear()
    check((servers.inner, servers.middle), updated(models, total([inner(middle(x)) for x, _ in examples], examples)))


# Forwards that are another one each time


@pytest.mark.parametrize("victims", ["middle", "both"])
@pytest.mark.parametrize("after", [False, True])
def test_a_forward_with_dropout_survives_the_end_of_its_server(chain, victims, after):
    servers = chain(SERVER_DROPOUT="0.5")
    spring = servers.between.set("/forward", lambda: die(*servers.victims[victims]), after=after)
    loss = ln.loss.mse(servers.model()(X), Y)
    assert spring.sprung
    loss.backward()
    running = servers.inner, servers.middle
    check(running, [replayed(server) for server in running])


# What a client knows of a server


@pytest.mark.parametrize("after", [False, True])
def test_servers_under_paths_of_one_host_are_told_apart(servers, tmp_path, after):
    """A retry names the epoch of the server that it goes to, not that of its neighbour, which has answered since."""
    running = {name: servers(Running, tmp_path / name) for name in "ab"}
    proxy = servers(PathProxy, {name: server.port for name, server in running.items()})
    a, b = (connect(f"{proxy.url}/{name}") for name in running)
    loss = ln.loss.mse(a(X), Y)
    b(X)
    spring = proxy.set("/a/optimize", lambda: None, after=after)  # the request is lost, or its reply
    loss.backward()
    assert spring.sprung
    check((running["a"],), without_faults(1, TOPOLOGIES["single"]))
    assert running["b"].version == 0


def test_an_effect_whose_server_dies_before_its_first_reply_happens_once_at_most(servers, tmp_path):
    effects = tmp_path / "effects"
    server = servers(Running, tmp_path / "store", SERVER_EFFECTS=str(effects))
    trap = servers(Trap, server.port)
    spring = trap.set("/effect", lambda: die(server), after=True)
    with pytest.raises(RemoteError) as caught:
        ln.network.tfetch(trap.url + "/effect", [1.0], blocking=True, token=TOKEN)
    assert caught.value.applied == "unknown"
    assert spring.sprung
    assert effects.read_text().splitlines() == ["carried out"]
