"""Clients that say little or nothing keep no place from others; the name of a test says its row of the attacks."""

import contextlib
import socket
import threading

import pytest

import labnet as ln
from labnet import nn
from labnet.network.transport.connection_limit import Connections, most_connections
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import (
    connection,
    head,
    http,
    read_reply,
)
from tests.helpers.network.server_process import child
from tests.helpers.threads import wait_until


@pytest.fixture
def server():
    routes = {"echo": lambda x: x, "hello": lambda: "hi"}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes) as server:
        yield server


def test_row_10_six_hundred_slow_clients_do_not_keep_a_good_one_out():
    with child(module="tests.helpers.network.attack_audit") as (there, _), contextlib.ExitStack() as stack:
        slow = []
        for number in range(600):
            sock, _ = stack.enter_context(connection(there["port"]))
            if number % 2:  # some say nothing, some begin
                sock.sendall(b"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Slow: ")
            slow.append(sock)
        good = head(there["port"], "GET", "/health")
        with connection(there["port"]) as (sock, file):
            for _ in range(20):
                sock.sendall(good)
                assert read_reply(file).status == 200
        for sock in slow[:80]:  # the oldest were closed to make room
            with contextlib.suppress(ConnectionResetError):
                assert sock.recv(1) == b""


NOTHING_TO_SAY = {
    "a long body without the token": ("POST", "/echo", {"Content-Length": 1 << 27}, 1),
    "a body in place of the token": ("POST", "/server/stop", {"Content-Length": 10}, 1),
    "no request": ("hello", "", {}, 1),
    "more pages than are read": ("GET", "/panel.js", {}, 200),
}


@pytest.mark.parametrize("name", NOTHING_TO_SAY)
def test_row_10_nobody_without_the_token_keeps_a_place_from_those_who_have_it(server, name):
    method, path, headers, count = NOTHING_TO_SAY[name]
    server._port._listener.connections._limit = 8
    with contextlib.ExitStack() as stack:
        for _ in range(20):
            sock, _ = stack.enter_context(connection(server.port))
            sock.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                sock.send(head(server.port, method, path, headers) * count)
        for _ in range(3):
            assert http(server, "GET", "/hello").status == 200


def test_row_10_strangers_who_ask_for_statistics_do_not_keep_the_worker_busy():
    may_end, begun = threading.Event(), []

    def statistics():
        begun.append(1)
        may_end.wait(SECONDS)

    with ln.network.serve({"statistics": statistics, "hello": lambda: "hi"}, port=0) as server:
        with contextlib.ExitStack() as stack:
            asking = [stack.enter_context(connection(server.port)) for _ in range(30)]
            for sock, _ in asking:
                sock.sendall(head(server.port, "GET", "/statistics"))
            answered = [read_reply(file).json() for _, file in asking[-20:]]
            assert all("incomplete" in document["server"] for document in answered)
            may_end.set()
        assert http(server, "GET", "/hello").status == 200
        assert len(begun) <= 10


def test_row_10_a_server_that_may_open_no_more_files_closes_who_asks_for_nothing(server):
    resource = pytest.importorskip("resource")
    server._port._listener.server.first_seconds = 60.0
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.ExitStack() as stack:
        socks = [stack.enter_context(socket.socket()) for _ in range(20)]
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (max(sock.fileno() for sock in socks) + 6, before[1]))
            for sock in socks:
                sock.settimeout(SECONDS)
                sock.connect(("127.0.0.1", server.port))
            socks[-1].sendall(head(server.port, "GET", "/health"))
            assert socks[-1].recv(12) == b"HTTP/1.1 200"
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, before)


@pytest.mark.parametrize(("files", "most"), [(64, 32), (1024, 512), (1 << 20, 512)])
def test_row_10_half_of_the_files_of_a_process_are_not_for_connections(monkeypatch, files, most):
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(resource, "getrlimit", lambda kind: (files, 1 << 20))
    assert most_connections() == most


def test_row_10_a_connection_that_asks_for_nothing_is_closed_in_time(server):
    listener = server._port._listener
    listener.server.first_seconds = 0.01
    with connection(server.port) as (sock, _):
        sock.sendall(b"GET /health HTTP/1.1\r\nHost: ")
        assert sock.recv(1) == b""
    wait_until(lambda: len(listener.connections) == 0)


def test_row_10_a_client_that_asked_before_may_wait(server):
    server._port._listener.server.first_seconds = 1.0
    with connection(server.port) as (sock, file):
        for pause in (0, 1.5):
            threading.Event().wait(pause)
            sock.sendall(head(server.port, "GET", "/health"))
            assert read_reply(file).status == 200


def test_row_10_those_that_are_being_answered_are_never_closed_to_make_room():
    closed = []
    connections = Connections(closed.append, limit=2)
    for name in "ab":
        connections.waits(name)
        connections.asks(name)
    connections.waits("c")
    assert closed == ["c"]
    connections.leaves("a")
    connections.waits("d")
    assert closed == ["c"]
    assert len(connections) == 2
