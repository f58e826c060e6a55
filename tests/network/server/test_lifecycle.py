"""Servers that are full, stopping or slow, and clients that wait, give up or go away."""

import asyncio
import contextlib
import socket
import threading
import time

import numpy as np
import psutil
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import Overloaded, ProtocolMismatch, RemoteTimeout, ServeError, ServerStopped, Unreachable
from labnet.network import Backoff
from labnet.network.model.calls import CallRecord, Calls
from labnet.network.protocol.keys import Key
from labnet.network.protocol.outcome import Expired
from labnet.network.server.ledger import Ledger
from labnet.network.server.port import Port
from labnet.network.server.routing import Request
from labnet.network.threads import IO
from labnet.network.transport import client as connections
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch, run
from tests.helpers.network.raw_http import (
    JSON,
    NATIVE,
    TOKEN,
    connection,
    forward_of,
    gradient_of,
    head,
    http,
    native,
    read_reply,
    scripted,
)
from tests.helpers.threads import together, wait_until

QUICK = Backoff(first=0.001, longest=0.01)


class Gate:
    """A handler that lets nobody through until it is opened, and counts who asked."""

    def __init__(self):
        self.asked = 0
        self.entered = threading.Semaphore(0)
        self.opened = threading.Event()

    async def __call__(self):
        self.asked += 1
        self.entered.release()
        await asyncio.to_thread(self.opened.wait, SECONDS)
        return "through"


def in_threads(count, function):
    results = []
    threads = [threading.Thread(target=lambda: results.append(function())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, results


# Overload


def test_a_full_queue_turns_others_away_and_the_accepted_are_served():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0, max_queue=3) as server:
        threads, results = in_threads(3, lambda: fetch(server.url + "/gate"))
        for _ in threads:
            assert gate.entered.acquire(timeout=SECONDS)
        for _ in range(10):
            reply = http(server, "POST", "/gate", b"1")
            assert (reply.status, reply.json()["error"], reply.headers["retry-after"]) == (429, "Overloaded", "1")
        queue = server.statistics()["server"]["queue"]
        assert queue == {"now": 3, "limit": 3, "refused": 10}
        gate.opened.set()
        for thread in threads:
            thread.join(SECONDS)
        assert results == ["through"] * 3
        assert gate.asked == 3
        assert fetch(server.url + "/gate") == "through"


def test_under_ten_times_the_load_the_accepted_wait_for_no_more_than_the_queue():
    places, queued = 4, []

    def work(x):
        queued.append(server.statistics()["server"]["queue"]["now"])
        time.sleep(0.005)
        return x

    def client():
        return [http(server, "POST", "/work", b"1").status for _ in range(20)]

    with ln.network.serve({"work": work}, port=0, max_queue=places) as server:
        statuses = [status for mine in together(*[client] * 10 * places) for status in mine]
    assert set(statuses) == {200, 429}
    assert statuses.count(429) > statuses.count(200)
    assert 1 <= max(queued) <= places


def test_a_client_that_is_turned_away_comes_back_with_the_same_key():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0, max_queue=1) as server:
        first, results = in_threads(1, lambda: fetch(server.url + "/gate"))
        assert gate.entered.acquire(timeout=SECONDS)
        second, others = in_threads(1, lambda: fetch(server.url + "/gate", backoff=QUICK))
        wait_until(lambda: server.statistics()["server"]["queue"]["refused"])
        gate.opened.set()
        for thread in first + second:
            thread.join(SECONDS)
        assert results + others == ["through"] * 2
        assert gate.asked == 2


def test_a_client_without_time_for_another_attempt_is_told_why():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0, max_queue=1) as server:
        threads, _ = in_threads(1, lambda: fetch(server.url + "/gate"))
        assert gate.entered.acquire(timeout=SECONDS)
        with pytest.raises(Overloaded, match="max_queue"):
            fetch(server.url + "/gate", timeout=0.9, backoff=Backoff(attempt=0.9))
        gate.opened.set()
        threads[0].join(SECONDS)


def test_health_and_statistics_are_answered_by_a_full_server():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0, max_queue=1) as server:
        threads, _ = in_threads(1, lambda: fetch(server.url + "/gate"))
        assert gate.entered.acquire(timeout=SECONDS)
        for route in ("/health", "/statistics"):
            assert http(server, "GET", route).status == 200
        gate.opened.set()
        threads[0].join(SECONDS)


def test_bodies_under_way_hold_a_bounded_number_of_bytes():
    limit = 1000
    with ln.network.serve({"echo": lambda x: x}, port=0, max_body=limit) as server:
        fields = {"Content-Type": JSON, "Content-Length": str(limit), TOKEN: server.token}
        request = head(server.port, "POST", "/echo", fields)
        with contextlib.ExitStack() as clients:
            for _ in range(4):
                sock, _ = clients.enter_context(connection(server.port))
                sock.sendall(request)
            wait_until(lambda: server._port._listener.budget.bytes_held == 4 * limit)
            reply = http(server, "POST", "/echo", b"[1.0]" + b" " * 500)
            assert (reply.status, reply.headers["retry-after"]) == (429, "1")
        wait_until(lambda: not server._port._listener.budget.bytes_held)
        assert http(server, "POST", "/echo", b"[1.0]").status == 200


@pytest.mark.parametrize("limit", [0, -1, 1.5, None])
def test_a_queue_must_have_a_place(limit):
    with pytest.raises(ServeError, match="max_queue"):
        ln.network.serve({"one": lambda: 1}, port=0, max_queue=limit)


# Stopping


def test_a_server_that_stops_serves_who_was_accepted_and_turns_others_away():
    gate = Gate()
    server = ln.network.serve({"gate": gate}, port=0)
    with connection(server.port) as (sock, file):
        request = head(server.port, "GET", "/gate", {TOKEN: server.token})
        sock.sendall(head(server.port, "GET", "/health"))
        assert read_reply(file).status == 200
        threads, results = in_threads(1, lambda: fetch(server.url + "/gate"))
        assert gate.entered.acquire(timeout=SECONDS)
        stopper, _ = in_threads(1, server.stop)
        wait_until(lambda: server._port.draining)
        sock.sendall(request)
        reply = read_reply(file)
        assert (reply.status, reply.json()["error"]) == (503, "ServerStopped")
        gate.opened.set()
        for thread in threads + stopper:
            thread.join(SECONDS)
    assert results == ["through"]
    assert gate.asked == 1


def test_a_server_that_this_process_stopped_is_not_waited_for_until_another_one_has_its_port():
    def call(**options):
        return run(ln.network.tfetch(address, ln.ones(1), **options))

    server = ln.network.serve({"one": lambda x: x}, port=0)
    address, port = f"{server.url}/one", server.port
    call()
    server.stop()
    with pytest.raises(ServerStopped):
        call(timeout=600)
    with scripted(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n[1", port=port), pytest.raises(Unreachable) as info:
        call(timeout=0.5)
    assert type(info.value) is Unreachable


def test_gradients_that_wait_for_others_are_sent_away_when_the_server_stops():
    server = ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, accumulate=2)
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    threads, replies = in_threads(1, lambda: gradient_of(server, call, np.ones((1, 1), "float32")))
    wait_until(lambda: server._model.updates._round)
    server.stop()
    threads[0].join(SECONDS)
    assert (replies[0].status, replies[0].headers["retry-after"]) == (503, "1")
    assert server._model.version == 0


# Timeouts


def test_an_attempt_that_takes_too_long_is_followed_by_one_that_joins_it():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0) as server:
        impatient = Backoff(first=0.001, longest=0.002, attempt=0.05)
        threads, results = in_threads(1, lambda: fetch(server.url + "/gate", backoff=impatient))
        wait_until(lambda: server.statistics()["server"]["calls"]["joined"] >= 3)
        gate.opened.set()
        threads[0].join(SECONDS)
        assert results == ["through"]
        assert gate.asked == 1


def test_a_timeout_says_that_it_is_not_known_what_became_of_the_call():
    gate = Gate()
    with ln.network.serve({"gate": gate}, port=0) as server:
        with pytest.raises(RemoteTimeout, match="applied: unknown") as caught:
            fetch(server.url + "/gate", timeout=1.0, backoff=QUICK)
        assert caught.value.applied == "unknown"
        gate.opened.set()


def test_a_deadline_holds_for_all_attempts_together():
    server = ln.network.serve({"one": lambda: 1}, port=0)
    fetch(server.url + "/one")
    server._stop(returns=True)  # as at the end of a process
    began = time.monotonic()
    with pytest.raises(ln.errors.Unreachable) as caught:
        fetch(server.url + "/one", timeout=0.5, backoff=QUICK)
    assert time.monotonic() - began < 30.0
    assert caught.value.applied == "no"
    assert "attempts" in str(caught.value)


def test_a_server_that_accepts_and_never_answers_is_a_timeout():
    with socket.create_server(("127.0.0.1", 0)) as silent:
        began = time.monotonic()
        with pytest.raises(RemoteTimeout, match=r"0\.4 s .*applied: unknown"):
            fetch(f"127.0.0.1:{silent.getsockname()[1]}/step", ln.ones(1), timeout=0.4, backoff=QUICK)
        assert time.monotonic() - began < 30.0


BUSY = (
    b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 40\r\nRetry-After: 60\r\n\r\n"
    b'{"error": "Overloaded", "message": "no"}'
)
PAGE = b"HTTP/1.1 502 Bad Gateway\r\nContent-Type: text/html\r\nContent-Length: 4\r\n\r\n<h1>"


@pytest.mark.parametrize(
    ("replies", "kind", "applied"),
    [
        ((BUSY,), Overloaded, None),
        ((b"", BUSY), Overloaded, "unknown"),
        ((PAGE, BUSY), Overloaded, "unknown"),
        ((PAGE.replace(b"502 Bad Gateway", b"500 Internal Server Error"),), ProtocolMismatch, "unknown"),
    ],
    ids=["turned away", "lost and then turned away", "a proxy without its server", "an error of a system in between"],
)
def test_an_error_says_that_a_call_is_in_doubt_where_it_is(replies, kind, applied):
    with scripted(*replies) as port, pytest.raises(kind) as caught:
        fetch(f"127.0.0.1:{port}/step", ln.ones(1), timeout=5.0, backoff=QUICK)
    assert caught.value.applied == applied


def test_connections_to_servers_that_are_gone_do_not_pile_up():
    def connected():
        return [c for c in psutil.Process().net_connections(kind="tcp") if c.status != psutil.CONN_LISTEN]

    before = len(connected())
    for _ in range(20):
        with ln.network.serve({"one": lambda: 1}, port=0) as server:
            assert fetch(server.url + "/one") == 1
    wait_until(lambda: len(connected()) - before <= 2)


def test_connections_that_nobody_uses_are_closed_after_a_while(monkeypatch):
    monkeypatch.setattr(connections, "_IDLE_SECONDS", 0.5)
    with ln.network.serve({"one": lambda: 1}, port=0) as server:

        async def idle():
            await ln.network.tfetch(server.url + "/one")
            kept = await connections.pool()
            assert kept._links
            async with asyncio.timeout(SECONDS):
                while kept._idle or kept._links:
                    await asyncio.sleep(0.01)
            assert kept._sweeping is None

        run(idle())


def test_cancelled_calls_leave_no_connection():
    with ln.network.serve({"one": lambda: 1}, port=0) as server:

        def connected():
            return [c for c in psutil.Process().net_connections(kind="tcp") if c.raddr and c.raddr.port == server.port]

        async def cancel_at_every_moment():
            for moment in range(300):
                call = asyncio.ensure_future(ln.network.tfetch(server.url + "/one"))
                await asyncio.sleep(moment % 60 * 5e-5)
                call.cancel()
                with contextlib.suppress(asyncio.CancelledError):
                    await call
                (await connections.pool()).close()
            async with asyncio.timeout(SECONDS):
                while connected():
                    await asyncio.sleep(0.01)

        asyncio.run(cancel_at_every_moment())


def test_cancelling_a_client_leaves_the_server_as_it_was():
    gate = Gate()

    async def scenario(server):
        call = asyncio.ensure_future(ln.network.tfetch(server.url + "/gate"))
        assert await asyncio.to_thread(gate.entered.acquire, timeout=SECONDS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        gate.opened.set()
        assert await ln.network.tfetch(server.url + "/gate") == "through"

    with ln.network.serve({"gate": gate}, port=0) as server:
        run(scenario(server))
        wait_until(lambda: not server.statistics()["server"]["queue"]["now"])


# Memory


def test_a_hundred_thousand_graphs_and_keys_stay_within_bounds():
    calls, ledger = Calls(), Ledger()
    for number in range(100_000):
        now = number / 1000
        assert ledger.begin(Key("ana", (number,)), "print", now=now) is None
        calls.keep(str(number), CallRecord("graph", 0, 1 << 12, born=now))
        ledger.finish(Key("ana", (number,)), "reply", nbytes=1 << 12, now=now)
    assert (len(calls), calls.nbytes, calls.evicted) == (1024, 1024 << 12, 100_000 - 1024)
    assert ledger.summary()["keys"] == ledger.bounds.window
    assert ledger.nbytes <= ledger.bounds.nbytes
    with pytest.raises(Expired) as caught:
        calls.take("0", now=100.0)
    assert caught.value.applied == "no"


def test_forwards_without_a_backward_take_bounded_memory_and_the_evicted_are_answered_410():
    many, batch = 20_000, 250

    async def forwards(port: Port, start):
        route = port.routes["/forward"]
        body = native({"tensor": np.ones((1, 2), "float32")}, form="tensor")

        async def forward(number):
            headers = {"Content-Type": NATIVE, "Accept": NATIVE, "Idempotency-Key": f"ana:{number}"}
            reply = await port.answer(route, Request("POST", "/forward", headers, body, "ana"))
            return reply.headers["Labnet-Call"]

        return await asyncio.gather(*map(forward, range(start, start + batch)))

    process = psutil.Process()
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        first = IO.run(forwards(server._port, 0))[0]
        for start in range(batch, many, batch):
            if start == many // 4:
                before = process.memory_info().rss
            IO.run(forwards(server._port, start))
        grown = process.memory_info().rss - before
        state = server.statistics()["server"]
        assert (state["graphs"]["count"], state["graphs"]["evicted"]) == (1024, many - 1024)
        assert state["calls"]["keys"] <= 4096
        assert grown < 32 << 20
        reply = gradient_of(server, first, np.ones((1, 1), "float32"))
        assert (reply.status, reply.json()["applied"]) == (410, "no")
        assert server._model.version == 0
