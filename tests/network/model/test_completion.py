"""A server in the middle that dies while others apply their part of a backward: what is missing is completed."""

import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.network.model.calls import call_prefix
from labnet.store import Intent, Store, intents
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.raw_http import http, native
from tests.helpers.network.store_process import NATIVE, end, start
from tests.helpers.network.store_server import make_linear, make_optimizer
from tests.helpers.ports import free_port


class Trap(Proxy):
    """Does something once, when the first backward comes by: before it is passed on, or before its reply is."""

    def __init__(self, port, spring, *, after):
        self._spring, self._after = spring, after
        super().__init__(port, share=0.0)

    def _do_none(self, client, request):
        if b"/optimize" not in request[0] or self._spring is None:
            return super()._do_none(client, request)
        spring, self._spring = self._spring, None
        if self._after:
            self._ask(request)
        spring()
        return False


def target(number):
    return ln.asarray([[number % 3 - 1.0, 0.5, float(number % 2)]])


def example(number):
    return ln.asarray([[number % 5 - 2.0, number % 3 - 1.0, 0.5]])


def values(model):
    return {name.removeprefix("own."): np.asarray(tensor) for name, tensor in model.state_dict().items()}


def same(found, wanted):
    return found.keys() == wanted.keys() and all(np.array_equal(found[name], wanted[name]) for name in wanted)


def without_faults(steps):
    """Return the weights of the three parts of a chain after so many steps in one process."""
    parts = [make_linear() for _ in range(3)]
    optimizers = [make_optimizer() for _ in parts]
    for number in range(steps):
        y = example(number)
        for part in parts:
            y = part(y)
        gradients = ln.loss.mse(y, target(number)).backward()
        for part, optimizer in zip(parts, optimizers, strict=True):
            own = {id(parameter) for parameter in part.parameters()}
            optimizer(ln.autograd.Gradients([(t, g) for t, g in gradients.items() if id(t) in own]))
    return [values(part) for part in parts]


def serve(**options):
    return ln.network.serve_model(make_linear(), make_optimizer(), port=0, **options)


TOKEN = "the token of all servers here"


class Middle:
    """A server in a process of its own whose model goes on in others; killed and started again."""

    def __init__(self, folder, durability, inner):
        self._place, self._inner = (folder, free_port(), durability), inner
        self.url = f"http://127.0.0.1:{self._place[1]}"
        self._process = self._restarting = None
        self._start()

    def _start(self):
        self._process, _ = start(*self._place, inner=self._inner, SERVER_TOKEN=TOKEN)

    def die(self):
        end(self._process, 9)
        self._restarting = threading.Thread(target=self._start)
        self._restarting.start()

    def client(self, **options):
        return ln.network.remote_model(self.url, blocking=True, token=TOKEN, timeout=2 * SECONDS, **options)

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        if self._restarting is not None:
            self._restarting.join(SECONDS)
        end(self._process)


@pytest.mark.parametrize("durability", ["group", "every"])
@pytest.mark.parametrize("kind", ["", "blocking "])
@pytest.mark.parametrize(("trapped", "after"), [(1, True), (0, False), (0, True)])
def test_a_middle_server_that_dies_between_two_others_completes_the_backward(
    tmp_path, durability, kind, trapped, after
):
    """The backward reaches the last server first: the trap is behind that, before the first one, or behind both."""
    with serve(token=TOKEN) as first, serve(token=TOKEN) as last:
        servers, middles = [first, last], []
        with Trap(servers[trapped].port, lambda: middles[0].die(), after=after) as trap:
            urls = [trap.url if server is servers[trapped] else server.url for server in servers]
            with Middle(tmp_path / "store", durability, kind + ",".join(urls)) as middle:
                middles.append(middle)
                model = middle.client()
                for number in range(3):
                    ln.loss.mse(model(example(number)), target(number)).backward()
                found = [values(remote) for remote in (model, *(blocking(s, token=TOKEN) for s in servers))]
                versions = [s.statistics()["server"]["version"] for s in (model, first, last)]
    assert versions == [3, 3, 3]
    assert all(same(one, other) for one, other in zip(found, without_faults(3), strict=True))


def test_the_forward_is_computed_again_with_the_weights_that_it_saw(tmp_path):
    """Others may have trained the server in the middle since."""
    with serve(token=TOKEN) as inner:
        middles = []
        with (
            Trap(inner.port, lambda: middles[0].die(), after=True) as trap,
            Middle(tmp_path / "store", "group", trap.url) as middle,
        ):
            middles.append(middle)
            model = middle.client()
            loss = ln.loss.mse(model(example(0)), target(0))
            trap._spring, spring = None, trap._spring
            ln.loss.mse(model(example(1)), target(1)).backward()  # between the forward and the backward
            trap._spring = spring
            loss.backward()
            assert model.statistics()["server"]["version"] == 2
            assert inner.statistics()["server"]["version"] == 2
            found = values(model)
    with serve(token=TOKEN) as inner, Middle(tmp_path / "other store", "group", inner.url) as middle:
        model = middle.client()
        loss = ln.loss.mse(model(example(0)), target(0))
        ln.loss.mse(model(example(1)), target(1)).backward()
        loss.backward()
        assert same(values(model), found)


class Chain(nn.Module):
    """A part of its own, and one on another server."""

    def __init__(self, url, own=make_linear):
        super().__init__()
        self.own = own()
        self._inner = ln.network.remote_model(url, blocking=True)

    def forward(self, x):
        return self._inner(self.own(x))


def half_done(folder, inner, *, steps=0, kind=Chain):
    """Leave a store with a backward that was handed on and not applied; returns its call and the gradient."""
    port = free_port()
    server = ln.network.serve_model(kind(inner.url), make_optimizer(), port=port, store=folder)
    model = blocking(server)
    for number in range(steps):
        ln.loss.mse(model(example(number)), target(number)).backward()
    forward = http(server, "POST", "/forward", native({"tensor": np.ones((1, 3), "float32")}), **NATIVE)
    call, store = forward.headers["labnet-call"], server._model.store
    gradient = native({"tensor": np.ones((1, 3), "float32")})

    def fail(*arguments):
        raise RuntimeError("the process dies here")

    real, server._model.updates._update = server._model.updates._update, fail
    reply = http(server, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key='"ana:2"', **NATIVE)
    assert (reply.status, reply.json()["servers"][inner.url]) == (500, "yes")
    assert call in store.intents
    server._model.updates._update = real
    return server, call, gradient, port


def optimize(server, call, gradient, key):
    return http(server, "POST", "/optimize", gradient, Labnet_Call=call, Idempotency_Key=f'"{key}"', **NATIVE)


@pytest.mark.parametrize("closed", [True, False])
def test_what_is_half_done_survives_an_orderly_end_too(tmp_path, closed):
    with ln.network.serve_model(make_linear(), make_optimizer(), port=0) as inner:
        server, call, gradient, port = half_done(tmp_path, inner, steps=2)
        assert inner.statistics()["server"]["version"] == 3
        if not closed:
            server._model.store.abandon()
        server.stop()
        with ln.network.serve_model(Chain(inner.url), make_optimizer(), port=port, store=tmp_path) as server:
            assert server.statistics()["server"]["version"] == 2
            done = optimize(server, call, gradient, "ana:2")
            assert (done.status, done.headers["labnet-version"]) == (200, "3")
            assert inner.statistics()["server"]["version"] == 3
            assert len(server._model.store.intents) == 0


def test_random_numbers_are_drawn_again_as_they_were(tmp_path):
    class Dropping(Chain):
        def forward(self, x):
            return super().forward(nn.dropout(x, 0.5, training=self.training))

    with ln.network.serve_model(make_linear(), make_optimizer(), port=0) as inner:
        server, call, gradient, port = half_done(tmp_path, inner, steps=1, kind=Dropping)
        server.stop()
        model = Dropping(inner.url)
        ln.manual_seed(0)
        after = ln.rand(3).tolist()
        ln.manual_seed(0)
        with ln.network.serve_model(model, make_optimizer(), port=port, store=tmp_path) as server:
            assert ln.rand(3).tolist() == after  # serving drew nothing that anybody notices
            assert optimize(server, call, gradient, "ana:2").status == 200


def test_a_backward_whose_forward_cannot_be_computed_again_is_told_to_be_unknown(tmp_path, caplog):
    """Here because the model has another forward by now."""

    class Other(Chain):
        def forward(self, x):
            return super().forward(x) * 2.0

    class More(Chain):
        def forward(self, x):
            return self._inner(super().forward(x))

    with ln.network.serve_model(make_linear(), make_optimizer(), port=0) as inner:
        server, call, gradient, port = half_done(tmp_path, inner)
        server.stop()
        for kind, reason in ((Other, "its output is another one"), (More, "a request that was not recorded")):
            with ln.network.serve_model(kind(inner.url), make_optimizer(), port=port, store=tmp_path) as server:
                assert reason in caplog.text
                reply = optimize(server, call, gradient, "ana:2")
                assert (reply.status, reply.json()["applied"]) == (410, "unknown")
        assert inner.statistics()["forward"]["hits"] == 1


def test_a_gradient_is_not_too_stale_once_others_have_applied_their_part(tmp_path):
    with ln.network.serve_model(make_linear(), make_optimizer(), port=0) as inner:
        options = {"port": 0, "store": tmp_path, "max_staleness": 0}
        with ln.network.serve_model(Chain(inner.url), make_optimizer(), **options) as server:
            model = blocking(server)
            late = ln.loss.mse(model(example(0)), target(0))
            ln.loss.mse(model(example(1)), target(1)).backward()
            with pytest.raises(ln.errors.StaleGradient):
                late.backward()
            assert inner.statistics()["server"]["version"] == 1
            begun = ln.loss.mse(model(example(2)), target(2))
            real = server._model.updates._update

            def fail(*arguments):
                raise RuntimeError("not now")

            server._model.updates._update = fail
            with pytest.raises(ln.errors.PartialUpdate) as caught:
                begun.backward()
            assert caught.value.servers == {inner.url: "yes", server.url: "no"}
            server._model.updates._update = real
            ln.loss.mse(model(example(3)), target(3)).backward()
            begun.backward()
            versions = [s.statistics()["server"]["version"] for s in (server, inner)]
            assert versions == [3, 3]


def test_what_is_noted_of_backwards_that_never_come_to_an_end_is_bounded(tmp_path, monkeypatch):
    monkeypatch.setattr(intents, "_WHOLE", 3)
    monkeypatch.setattr(intents, "_CALLS", 5)
    model = make_linear()
    store = Store(tmp_path, model, make_optimizer())
    calls = [call_prefix(store.lineage, 0) + f"{number:016x}" for number in range(8)]
    for call in calls:
        store.intend(Intent(call, ("http://inner",), 0, {"input/tensor": np.ones(3, "float32")}, "{}", values(model)))
    for reopened in range(3):
        found = list(store.intents)
        assert [intent.call for intent in found] == calls[3:]
        assert [bool(intent.forward) for intent in found] == [False, False, True, True, True]
        assert all(same(intent.weights, values(model)) for intent in found if intent.forward)
        assert store.intents.forgotten == 1
        store.close() if reopened else store.abandon()
        store = Store(tmp_path, model, make_optimizer())
    store.close()
