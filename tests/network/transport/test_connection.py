"""Connections of a server: requests in any pieces, replies in order, and every way in which one can end."""

import asyncio
import contextlib
import random
import socket
import struct
import threading
import time

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import labnet as ln
from labnet.errors import PartialUpdate, ShapeError
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import JSON, TOKEN, connection, head, native, raw, read_reply
from tests.helpers.threads import wait_until

NATIVE = "application/x-labnet"


@pytest.fixture
def server():
    with ln.network.serve({"echo": lambda x: x, "hello": lambda: "hi"}, port=0, max_body=1 << 26) as server:
        yield server


def post(server, body, kind=JSON, **more):
    headers = {TOKEN: server.token, "Content-Type": kind, "Content-Length": len(body)}
    return head(server.port, "POST", "/echo", headers | {k.replace("_", "-"): v for k, v in more.items()}) + body


def get(server, path="/hello", **more):
    return head(server.port, "GET", path, {TOKEN: server.token} | more)


def closed(sock):
    """Tell whether the server has closed its side."""
    try:
        return sock.recv(1) == b""
    except ConnectionResetError:
        return True


# Requests in pieces


@settings(max_examples=40, suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_requests_in_any_pieces_get_the_same_replies_in_order(server, data):
    numbers = data.draw(st.lists(st.integers(0, 3000), min_size=1, max_size=6))
    stream = b"".join(post(server, b"[" + b"1," * number + b"2]") if number % 3 else get(server) for number in numbers)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(stream)), max_size=12)))
    with connection(server.port) as (sock, file):
        for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
            sock.sendall(stream[begin:end])
        for number in numbers:
            reply = read_reply(file)
            assert reply.status == 200
            assert reply.body == b"hi" if number % 3 == 0 else len(reply.json()) == number + 1


def test_a_request_byte_by_byte(server):
    with connection(server.port) as (sock, file):
        for byte in post(server, b"[1.5]"):
            sock.sendall(bytes([byte]))
        assert read_reply(file).json() == [1.5]


def test_an_empty_line_in_front_of_a_request_is_forgiven(server):
    with connection(server.port) as (sock, file):
        for _ in range(2):
            sock.sendall(b"\r\n" + get(server))
            assert read_reply(file).body == b"hi"


def test_an_empty_line_in_pieces_is_forgiven_too(server):
    with connection(server.port) as (sock, file):
        for _ in range(2):
            for byte in b"\r\n" + get(server):
                sock.sendall(bytes([byte]))
            assert read_reply(file).body == b"hi"


def test_large_bodies_pass_in_both_directions_while_nobody_reads(server):
    x = np.arange(1 << 23, dtype="float32")  # 32 MB: more than all buffers on the way
    body = native({"tensor": x})
    replies = []
    with connection(server.port) as (sock, file):
        sending = threading.Thread(target=sock.sendall, args=(post(server, body, NATIVE) * 2,))
        sending.start()
        for _ in range(2):
            replies.append(read_reply(file))
        sending.join(SECONDS)
    assert [reply.body.endswith(x.tobytes()) for reply in replies] == [True, True]


# Heads that are refused


#: What Tornado's reader refuses: with a bare status, or by closing the connection.
MALFORMED = {
    "no request": b"hello\r\n\r\n",
    "another version": b"GET / HTTP/2.0\r\n\r\n",
    "lower case version": b"GET / http/1.1\r\n\r\n",
    "two spaces": b"GET  / HTTP/1.1\r\n\r\n",
    "a control character in the path": b"GET /\x01 HTTP/1.1\r\n\r\n",
    "no colon": b"GET / HTTP/1.1\r\nNo Colon\r\n\r\n",
    "no length": b"POST /echo HTTP/1.1\r\nHost: localhost\r\nContent-Length: x\r\n\r\n",
    "too long": b"GET / HTTP/1.1\r\nX: " + b"y" * 70_000,
    "only a long line": b"GET /" + b"y" * 70_000,
}
#: What labnet refuses where Tornado's reader joins or accepts.
AMBIGUOUS = {
    "two lengths": b"POST /echo HTTP/1.1\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\n",
    "a list of lengths": b"POST /echo HTTP/1.1\r\nContent-Length: 1, 1\r\n\r\n",
    "two tokens": b"GET / HTTP/1.1\r\nX-Labnet-Token: a\r\nX-Labnet-Token: b\r\n\r\n",
    "two keys": b'GET / HTTP/1.1\r\nIdempotency-Key: "a:1"\r\nIdempotency-Key: "a:2"\r\n\r\n',
    "two hosts": b"GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nHOST: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_head_ends_its_connection_and_nothing_else(server, name):
    with connection(server.port) as (sock, file):
        sock.sendall(MALFORMED[name])
        first = file.readline()
        assert first in (b"HTTP/1.1 400 Bad Request\r\n", b"")
        file.read()
    assert raw(server.port, get(server)).body == b"hi"


@pytest.mark.parametrize("name", AMBIGUOUS)
def test_an_ambiguous_head_is_refused_with_the_reason(server, name):
    with connection(server.port) as (sock, file):
        sock.sendall(AMBIGUOUS[name])
        reply = read_reply(file)
        assert (reply.status, reply.json()["error"]) == (400, "BadRequest")
    assert raw(server.port, get(server)).body == b"hi"


@pytest.mark.parametrize("version", ["HTTP/1.1", "HTTP/1.0"])
def test_a_request_names_its_host_since_http_1_1(server, version):
    data = f"GET /hello {version}\r\n{TOKEN}: {server.token}\r\n\r\n".encode()
    assert raw(server.port, data).status == (400 if version == "HTTP/1.1" else 200)


def test_an_empty_length_is_none(server):
    inner = get(server)
    with connection(server.port) as (sock, file):
        sock.sendall(post(server, inner, Content_Length=""))
        assert read_reply(file).status == 400
        assert closed(sock)


# Refused requests: their bodies pass by


def test_the_body_of_a_refused_request_is_not_taken_for_a_request(server):
    inner = get(server)
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "POST", "/echo", {"Content-Type": JSON, "Content-Length": len(inner)}) + inner)
        assert read_reply(file).status == 401
        sock.sendall(get(server))
        assert read_reply(file).body == b"hi"


@pytest.mark.parametrize("size", [10, 1 << 20, (1 << 26) + 1])
def test_a_client_that_only_sends_gets_to_read_why_it_was_refused(server, size):
    with connection(server.port) as (sock, file):
        sock.sendall(post(server, bytes(size), "text/html"))
        assert read_reply(file).status == 415
        sock.sendall(get(server))
        assert read_reply(file).status == 200


def test_a_huge_body_is_refused_before_it_comes(server):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "POST", "/echo", {TOKEN: server.token, "Content-Length": 1 << 40}))
        reply = read_reply(file)
        assert reply.status == 415  # no content type was given
        assert reply.headers["connection"] == "close"
        assert closed(sock)


def test_a_client_may_wait_to_be_told_to_send_its_body(server):
    with connection(server.port) as (sock, file):
        whole = post(server, b"[1.0]", Expect="100-continue")
        sock.sendall(whole[: -len(b"[1.0]")])
        assert file.readline().startswith(b"HTTP/1.1 100 ")
        assert file.readline() == b"\r\n"
        sock.sendall(b"[1.0]")
        assert read_reply(file).json() == [1.0]


def test_a_client_of_http_1_0_is_not_told_to_send_its_body(server):
    with connection(server.port) as (sock, file):
        sock.sendall(post(server, b"[1.0]", Expect="100-continue").replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert read_reply(file).json() == [1.0]


def test_a_client_that_waits_is_told_at_once_that_it_is_refused(server):
    with connection(server.port) as (sock, file):
        headers = {"Content-Type": JSON, "Content-Length": 5, "Expect": "100-continue"}
        sock.sendall(head(server.port, "POST", "/echo", headers))
        reply = read_reply(file)
        assert (reply.status, reply.headers["connection"]) == (401, "close")


# The end


@pytest.mark.parametrize("header", ["close", "Close", "keep-alive, close"])
def test_a_connection_is_closed_after_the_reply_if_the_client_wants(server, header):
    with connection(server.port) as (sock, file):
        sock.sendall(get(server, Connection=header))
        reply = read_reply(file)
        assert (reply.body, reply.headers["connection"]) == (b"hi", "close")
        assert closed(sock)


def test_http_1_0_gets_one_reply(server):
    with connection(server.port) as (sock, file):
        sock.sendall(get(server).replace(b"HTTP/1.1", b"HTTP/1.0"))
        assert read_reply(file).body == b"hi"
        assert closed(sock)


def test_a_reply_to_head_has_no_body(server):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "HEAD", "/hello", {TOKEN: server.token}))
        assert read_reply(file, method="HEAD").status == 200
        sock.sendall(get(server))
        assert read_reply(file).body == b"hi"


@pytest.fixture
def impatient(server):
    listener = server._port._listener
    listener.budget.body_seconds, listener.budget.slowest = 0.05, 1e12
    return server


def test_whoever_does_not_send_what_was_announced_is_given_up(impatient):
    with connection(impatient.port) as (sock, _):
        sock.sendall(post(impatient, b"[1.0]")[:-1])
        assert closed(sock)


def test_whoever_does_not_read_its_reply_is_given_up(impatient):
    x = np.ones(1 << 24, "float32")
    with ln.network.serve({"large": lambda: x}, port=0) as server, connection(server.port) as (sock, file):
        sock.sendall(get(server, "/health"))
        assert read_reply(file).status == 200
        assert len(server._port._listener.connections) == 1
        server._port._listener.budget.body_seconds, server._port._listener.budget.slowest = 0.05, 1e12
        sock.sendall(get(server, "/large", Accept=NATIVE))
        wait_until(lambda: not len(server._port._listener.connections))
        assert len(file.read()) < x.nbytes


def test_replies_that_nobody_reads_are_bounded_like_bodies():
    x = np.ones(1 << 22, "float32")
    with ln.network.serve({"large": lambda: x}, port=0, max_body=1 << 23) as server:
        listener = server._port._listener
        with connection(server.port) as (sock, file):
            sock.sendall(get(server, "/large", Accept=NATIVE))
            wait_until(lambda: listener.budget.bytes_held > 4 << 22)
            with connection(server.port) as (other, others):
                other.sendall(get(server, "/large", Accept=NATIVE))
                wait_until(lambda: listener.budget.bytes_held > 4 << 23)
                refused = raw(server.port, get(server, "/large", Accept=NATIVE))
                assert (refused.status, refused.headers["retry-after"]) == (429, "1")
                assert raw(server.port, get(server, "/statistics")).status == 200
                assert read_reply(others).body.endswith(x.tobytes())
            assert read_reply(file).body.endswith(x.tobytes())
            wait_until(lambda: listener.budget.bytes_held == 0)
            assert raw(server.port, get(server, "/large", Accept=NATIVE)).status == 200


def test_a_stopped_server_sends_what_it_has_begun_to_send():
    x = np.arange(1 << 22, dtype="float32")
    with ln.network.serve({"echo": lambda x: x}, port=0) as server:
        body = native({"tensor": x})
        with connection(server.port) as (sock, file):
            sock.sendall(post(server, body, NATIVE))
            assert sock.recv(1, socket.MSG_PEEK)  # the reply is on its way, and nobody reads it
            stopping = threading.Thread(target=server.stop)
            stopping.start()
            assert read_reply(file).body.endswith(x.tobytes())
            stopping.join(SECONDS)


# What goes wrong in between


def partial():
    raise PartialUpdate("a", servers={"b": object()})


async def cancel():
    asyncio.current_task().cancel()
    await asyncio.sleep(0)


class Speechless(ShapeError):
    def __str__(self):
        raise ValueError("no text")


def speechless():
    raise Speechless("a")


def leave():
    raise SystemExit


@pytest.mark.parametrize("handler", [partial, cancel, speechless, leave])
@pytest.mark.parametrize("key", [None, '"ana:1"'])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_whatever_a_handler_raises_its_client_is_answered(handler, key):
    with ln.network.serve({"fail": handler}, port=0) as server:
        headers = {TOKEN: server.token} | ({"Idempotency-Key": key} if key else {})
        with connection(server.port) as (sock, file):
            for _ in range(2):
                sock.sendall(head(server.port, "GET", "/fail", headers))
                assert read_reply(file).status >= 422
        wait_until(lambda: not len(server._port._listener.connections))


def test_a_body_for_which_there_is_no_memory_is_not_taken_for_requests():
    with ln.network.serve({"echo": lambda x: x, "hello": lambda: "hi"}, port=0, max_body=1 << 60) as server:
        for before in (b"", get(server)):  # read for itself, or with the request in front of it
            with connection(server.port) as (sock, file):
                headers = {TOKEN: server.token, "Content-Type": JSON, "Content-Length": 1 << 58}
                sock.sendall(before + head(server.port, "POST", "/echo", headers) + get(server))
                if before:
                    assert read_reply(file).body == b"hi"
                assert read_reply(file).status == 413
                assert closed(sock)
        assert server._port._listener.budget.bytes_held == 0


def test_a_connection_of_which_nothing_is_known_any_more_is_closed(server, monkeypatch, caplog):
    def fail(*arguments, **named):
        raise RuntimeError("a defect")

    monkeypatch.setattr("labnet.network.server.handler.admit", fail)
    with connection(server.port) as (sock, _):
        sock.sendall(post(server, get(server)))
        assert closed(sock)
    wait_until(lambda: "a defect" in caplog.text)


def is_quiet():
    """Return whether this process computes for less than half of a fifth of a second."""
    before = time.process_time()
    threading.Event().wait(0.2)
    return time.process_time() - before < 0.1


def misbehave(server, draw, sock):
    """Do something on a connection that a program might do by mistake or on purpose; tell whether it is still open."""
    kind = draw.choice(["begin", "whole", "many", "junk", "end", "read", "wait", "last", "leave", "break"])
    whole = post(server, b"[" + b"1," * draw.choice([0, 5000]) + b"2]", Connection="close" if kind == "last" else "x")
    paths = draw.choices(["/hello", "/large", "/panel.js", "/nothing"], k=draw.choice([1, 50]))
    data = {
        "begin": whole[: draw.randrange(len(whole))],
        "whole": whole if draw.random() < 0.5 else whole.replace(server.token.encode(), b"wrong"),
        "many": b"".join(get(server, path, Accept=NATIVE) for path in paths),
        "junk": draw.randbytes(draw.choice([1, 100, 70_000])),
        "wait": post(server, b"", Expect="100-continue", Content_Length=5),
        "last": whole * 2,
    }
    with contextlib.suppress(OSError):
        if kind in data:
            sock.send(data[kind])
        elif kind == "end":
            sock.shutdown(socket.SHUT_WR)
        elif kind == "read":
            sock.recv(draw.choice([1, 1 << 20]))
        else:
            if kind == "break":
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            sock.close()
    return sock.fileno() >= 0


@pytest.mark.parametrize("seed", range(4))
def test_good_clients_are_answered_among_those_that_do_anything(seed):
    draw, misbehaving = random.Random(seed), []
    large = np.ones(1 << 19, "float32")
    routes = {"echo": lambda x: x, "hello": lambda: "hi", "large": lambda: large}
    with ln.network.serve(routes, port=0) as server, connection(server.port) as (good, file):
        listener = server._port._listener
        for number in range(100):
            sock = socket.create_connection(("127.0.0.1", server.port))
            sock.setblocking(False)
            misbehaving.append(sock)
            misbehaving = [sock for sock in misbehaving if misbehave(server, draw, sock)]
            good.sendall(post(server, f"[{number}]".encode()) + get(server))
            assert read_reply(file).json() == [number]
            assert read_reply(file).body == b"hi"
        for sock in misbehaving:
            sock.close()
        wait_until(lambda: len(listener.connections) == 1 and not listener.tasks)
        assert listener.budget.bytes_held == 0
        wait_until(is_quiet)  # nobody goes round in circles
