"""Every gradient is applied exactly once by calls that are cancelled, expire, or outlive their server."""

import asyncio
import contextlib
import json
import signal
import socket
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.network import Backoff
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, run
from tests.helpers.network.exact_training import QUICK, assert_same_bits, layers, weights
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.raw_http import JSON, forward_of, gradient_of, http, scripted


def test_a_cancelled_backward_never_lends_its_key_to_another_gradient(transport):
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


def test_a_cancelled_backward_with_the_same_gradient_is_completed_once(transport):
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


def test_an_interrupted_backward_is_completed_once(transport):
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


def test_a_dropped_graph_is_made_again_where_the_output_is_the_same(transport):
    (there,), (here,) = layers(3, 2), layers(3, 2)
    ln.optim.SGD(lr=0.1)(here(ln.ones((1, 3))).sum().backward())
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=0) as server:
        loss = blocking(server)(ln.ones((1, 3))).sum()
        server._model.calls.clear()
        loss.backward()
        assert server.statistics()["server"]["version"] == 1
    assert_same_bits(weights(there), weights(here))


def test_a_dropped_graph_of_weights_that_have_changed_is_a_stale_gradient(transport):
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


def test_after_a_restart_the_client_goes_on_and_says_what_it_does_not_know(transport):
    (there,) = layers(3, 2)
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=0) as old:
        remote = ln.network.remote_model(old.url, blocking=True, backoff=QUICK)
        loss = remote(ln.ones((1, 3))).sum()
    with ln.network.serve_model(there, ln.optim.SGD(lr=0.1), port=old.port) as new:
        with (
            pytest.warns(RuntimeWarning, match="server restarted"),
            pytest.raises(ln.errors.GraphExpired, match="applied: unknown") as caught,
        ):
            loss.backward()
        assert caught.value.applied == "unknown"
        remote(ln.ones((1, 3))).sum().backward()
        assert new.statistics()["server"]["version"] == 1


def test_a_call_in_doubt_is_not_carried_out_by_a_server_that_was_started_anew(transport):
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


def test_a_client_waits_for_a_server_that_it_knows_to_come_back(transport):
    old = ln.network.serve({"one": lambda: 1}, port=0)
    assert ln.network.tfetch(old.url + "/one", blocking=True) == 1
    old._stop(returns=True)  # as at the end of a process
    results = []
    patient = Backoff(first=0.01, longest=0.01)
    caller = threading.Thread(
        target=lambda: results.append(ln.network.tfetch(old.url + "/one", blocking=True, backoff=patient))
    )
    caller.start()
    with ln.network.serve({"one": lambda: 2}, port=old.port):
        caller.join(SECONDS)
    assert results == [2]


@pytest.mark.parametrize("blocks", [False, True], ids=["awaits", "blocks"])
def test_a_client_of_a_server_that_was_stopped_on_purpose_does_not_wait(blocks):
    with ln.network.serve({"one": lambda: 1}, port=0) as server:

        async def calls():
            return [await ln.network.tfetch(server.url + "/one") for _ in range(3)]

        def last():
            return ln.network.tfetch(server.url + "/one", blocking=True)

        if blocks:
            assert [last() for _ in range(3)] == [1, 1, 1]
            server.stop()
            with pytest.raises(ln.errors.ServerStopped, match="was stopped"):
                last()
        else:

            async def scenario():
                assert await calls() == [1, 1, 1]
                await asyncio.to_thread(server.stop)
                with pytest.raises(ln.errors.ServerStopped, match="was stopped"):
                    await calls()

            run(scenario())
    with ln.network.serve({"one": lambda: 2}, port=server.port):
        assert last() == 2


class Losing(Proxy):
    """Loses the replies to requests by number."""

    def __init__(self, port, *numbers):
        self._numbers, self._count = numbers, -1
        super().__init__(port, share=0.0)

    def _choose(self):
        self._count += 1
        return "lose reply" if self._count in self._numbers else "none"


@pytest.mark.parametrize("lost", [0, 1], ids=["its epoch", "its reply"])
def test_the_first_request_to_a_server_is_not_carried_out_again_by_the_one_that_comes_after_it(lost, transport):
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


def test_a_request_that_asks_for_the_epoch_is_not_carried_out(transport):
    hits = []
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as server:
        send = {"Content_Type": JSON, "Idempotency_Key": '"ana:1"'}
        asked = http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="?", **send)
        assert (asked.status, hits) == (428, [])
        epoch = asked.headers["labnet-epoch"]
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch=epoch, **send).status == 204
        again = http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="?", **send)
        assert (again.status, again.headers["labnet-replayed"], hits) == (204, "1", [1])


def test_a_gradient_that_comes_while_another_one_is_tried_waits_for_what_becomes_of_that(transport):
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


def test_the_version_of_the_weights_is_theirs(transport):
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


def test_a_proxy_without_its_server_is_asked_again_and_leaves_doubt(transport):
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


def test_a_first_request_for_another_incarnation_is_not_carried_out(transport):
    hits = []
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as server:
        send = {"Content_Type": JSON, "Idempotency_Key": '"ana:1"'}
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="0123456789abcdef?", **send).status == 428
        assert http(server, "POST", "/step", b"[1.0]", Labnet_Epoch="0123456789abcdef", **send).status == 409
        own = http(server, "GET", "/health").headers["labnet-epoch"]
        assert (http(server, "POST", "/step", b"[1.0]", Labnet_Epoch=own + "?", **send).status, hits) == (204, [1])


def test_a_client_goes_on_with_a_server_that_was_started_anew(transport):
    hits = []
    options = {"blocking": True, "backoff": QUICK}
    with ln.network.serve({"step": lambda x: hits.append(1)}, port=0) as old:
        ln.network.tfetch(old.url + "/step", ln.ones(1), **options)
    with ln.network.serve({"step": lambda x: hits.append(2)}, port=old.port):
        ln.network.tfetch(old.url + "/step", ln.ones(1), **options)
    assert hits == [1, 2]
