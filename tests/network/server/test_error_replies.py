"""What goes wrong on the wire: errors are JSON with a status, and the server goes on."""

import json
import socket
import threading

import pytest

import labnet as ln
from labnet import errors
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.error_server import LIMIT, caught, error_server, fails
from tests.helpers.network.raw_http import JSON, NATIVE, TOKEN, connection, head, raw, read_reply
from tests.helpers.network.raw_http import http as request


@pytest.fixture
def server():
    with error_server() as server:
        yield server


POST_ECHO = ("POST", "/echo")

RAW = {
    "unknown route": ("GET", "/nothing", {}, b"", 404, "RouteNotFound"),
    "the root of a prefix": ("GET", "/echo/more", {}, b"", 404, "RouteNotFound"),
    "a trailing slash": ("GET", "/echo/", {}, b"", 404, "RouteNotFound"),
    "dots": ("GET", "/../echo", {}, b"", 404, "RouteNotFound"),
    "wrong method": ("POST", "/statistics", {"Content-Length": 0}, b"", 405, "RouteNotFound"),
    "delete": ("DELETE", "/echo", {}, b"", 405, "RouteNotFound"),
    "malformed JSON": (*POST_ECHO, {"Content-Type": JSON, "Content-Length": 3}, b"[1,", 400, "BadRequest"),
    "malformed message": (*POST_ECHO, {"Content-Type": NATIVE, "Content-Length": 3}, b"abc", 400, "BadRequest"),
    "empty message": (*POST_ECHO, {"Content-Type": NATIVE, "Content-Length": 0}, b"", 400, "BadRequest"),
    "wrong content type": (*POST_ECHO, {"Content-Type": "image/png", "Content-Length": 1}, b"x", 415, "BadRequest"),
    "no content type": (*POST_ECHO, {"Content-Length": 1}, b"x", 415, "BadRequest"),
    "no length": (*POST_ECHO, {"Content-Type": JSON}, b"", 400, "BadRequest"),
    "chunked": (
        *POST_ECHO,
        {"Content-Type": JSON, "Transfer-Encoding": "chunked"},
        *(b"3\r\n[1,\r\n0\r\n\r\n", 400, "BadRequest"),
    ),
    "chunks over the limit": (
        *POST_ECHO,
        {"Content-Type": JSON, "Transfer-Encoding": "chunked"},
        *(b"%x\r\n%b\r\n0\r\n\r\n" % (LIMIT + 1, b" " * (LIMIT + 1)), 413, "TooLarge"),
    ),
    "compressed": (
        *POST_ECHO,
        {"Content-Type": JSON, "Content-Encoding": "gzip", "Content-Length": 3},
        *(b"[1]", 415, "BadRequest"),
    ),
    "GET with a body": ("GET", "/echo", {"Content-Length": 3}, b"[1]", 400, "BadRequest"),
    "one byte over the limit": (
        *POST_ECHO,
        {"Content-Type": JSON, "Content-Length": LIMIT + 1},
        *(b" " * (LIMIT + 1), 413, "TooLarge"),
    ),
    "announced 64 GB": (*POST_ECHO, {"Content-Type": JSON, "Content-Length": 64 << 30}, b"", 413, "TooLarge"),
    "announced 2**62": (*POST_ECHO, {"Content-Type": JSON, "Content-Length": 1 << 62}, b"", 413, "TooLarge"),
    "announced 10**20": (*POST_ECHO, {"Content-Type": JSON, "Content-Length": 10**20}, b"", 413, "TooLarge"),
    "announced with many zeros": (
        *POST_ECHO,
        {"Content-Type": JSON, "Content-Length": f"{LIMIT + 1:030d}"},
        *(b" " * (LIMIT + 1), 413, "TooLarge"),
    ),
    "GET with a body of many zeros": (
        "GET",
        "/statistics",
        {"Content-Length": f"{100:030d}"},
        b"x" * 100,
        400,
        "BadRequest",
    ),
    "gradient without a call": (
        *("POST", "/optimize", {"Content-Type": JSON, "Content-Length": 3}),
        *(b"[1]", 400, "BadRequest"),
    ),
    "wrong shape": (
        *("POST", "/forward", {"Content-Type": JSON, "Content-Length": 5}),
        *(b"[1.5]", 422, "RemoteShapeError"),
    ),
    "an object without names": (
        *("POST", "/forward", {"Content-Type": JSON, "Content-Length": 2}),
        *(b"{}", 400, "BadRequest"),
    ),
    "handler raises": (
        *("POST", "/fails", {"Content-Type": JSON, "Content-Length": 3}),
        *(b"[1]", 500, "RemoteFailure"),
    ),
}


@pytest.mark.parametrize("name", RAW)
def test_an_error_is_json_with_its_status(name, server):
    method, path, headers, body, status, error = RAW[name]
    found = raw(server.port, head(server.port, method, path, {TOKEN: server.token, **headers}) + body)
    assert found.status == status
    assert found.headers["content-type"] == JSON
    document = found.json()
    assert document.keys() == {"error", "message", "call", "server"}
    assert document["error"] == error
    assert document["message"]
    assert document["server"] == server.url
    assert issubclass(getattr(errors, error), errors.RemoteError)


def test_the_error_for_a_wrong_method_says_which_are_right(server):
    reply = request(server, "DELETE", "/echo")
    assert reply.headers["allow"] == "GET, POST, HEAD"


def test_the_same_connection_is_usable_after_an_error(server):
    ends_the_connection = [name for name in RAW if name.startswith(("announced", "GET with a body of many", "chunks"))]
    with connection(server.port) as (sock, file):
        for name in RAW.keys() - ends_the_connection:
            method, path, headers, body, _, _ = RAW[name]
            sock.sendall(head(server.port, method, path, {TOKEN: server.token, **headers}) + body)
            assert read_reply(file).status >= 400
            sock.sendall(head(server.port, "GET", "/health"))
            assert read_reply(file).status == 200


def test_a_body_of_64_megabytes_over_a_raw_socket_gets_its_reply(server):
    size = 64 << 20
    start = head(server.port, *POST_ECHO, {TOKEN: server.token, "Content-Type": JSON, "Content-Length": size})
    document = raw(server.port, start + bytes(size)).json()
    assert document["error"] == "TooLarge"
    assert str(size) in document["message"]
    assert str(LIMIT) in document["message"]


def test_a_length_with_leading_zeros_does_not_open_the_door_to_any_body(server):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "GET", "/statistics", {"Content-Length": f"{1 << 34:030d}"}))
        assert read_reply(file).status >= 400  # the refusal comes before the body


@pytest.mark.parametrize("path", ["/%65cho", "/ech%6F"])
def test_an_escaped_path_is_the_same_route(path, server):
    reply = request(server, "POST", path, b"[1.0]")
    assert (reply.status, reply.json()) == (200, [1.0])


def test_a_query_does_not_change_the_route(server):
    assert request(server, "POST", "/echo?a=1", b"[1.0]").status == 200


@pytest.mark.parametrize("path", ["/statistics", "/echo", "/nothing"])
def test_head_is_answered_without_a_body_and_the_connection_goes_on(path, server, caplog):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "HEAD", path, {TOKEN: server.token}))
        assert read_reply(file, method="HEAD").status in (200, 400, 404)
        sock.sendall(head(server.port, "GET", "/health"))
        assert read_reply(file).json()["status"] == "ok"
    assert "Traceback" not in caplog.text
    assert "never retrieved" not in caplog.text


def test_two_requests_sent_at_once_are_answered_in_order(server):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "GET", "/health") + head(server.port, "GET", "/nothing", {TOKEN: server.token}))
        assert [read_reply(file).status, read_reply(file).status] == [200, 404]


@pytest.mark.parametrize(
    "data",
    [
        b"\r\n\r\n",
        b"nonsense\r\n\r\n",
        b"GET / HTTP/9.9\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost : localhost\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\n folded\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: a\0b\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: +4\r\n\r\nabcd",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1_0\r\n\r\nabcdefghij",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: -1\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nContent-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nxyz\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        b"GET /health HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000 + b"\r\n\r\n",
    ],
    ids=lambda data: repr(data[:60]),
)
def test_what_is_not_http_is_refused(data, server):
    with connection(server.port) as (sock, file):
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)
        try:
            found = read_reply(file)
        except ConnectionResetError:
            found = None  # closed without a word, which is a refusal too
        assert found is None or found.status >= 400


def test_a_client_that_leaves_in_the_middle_of_its_body_is_forgotten(server):
    before = server.statistics()["echo"]
    with connection(server.port) as (sock, _):
        headers = {TOKEN: server.token, "Content-Type": JSON, "Content-Length": 100}
        sock.sendall(head(server.port, *POST_ECHO, headers) + b"[1")
    assert server.statistics()["echo"] == before


def test_a_client_that_leaves_before_its_reply_does_not_disturb(caplog):
    entered, opened, done = threading.Event(), threading.Event(), threading.Event()

    def slow():
        entered.set()
        opened.wait(SECONDS)
        done.set()
        return "x" * 1_000_000

    with ln.network.serve({"slow": slow, "quick": lambda: 1}, port=0) as server:
        with connection(server.port) as (sock, _):
            sock.sendall(head(server.port, "GET", "/slow", {TOKEN: server.token}))
            assert entered.wait(SECONDS)
        opened.set()
        assert done.wait(SECONDS)
        assert fetch(server.url + "/quick") == 1
    assert "Traceback" not in caplog.text


@pytest.mark.parametrize("text", ["\ud800", "a\0b", "<img onerror=alert(1)>", "x" * 1_000_000, "{}%s"])
def test_any_message_of_a_handler_reaches_the_client(text):
    def raises():
        raise ValueError(text)

    with ln.network.serve({"route": raises}, port=0) as server:
        error = caught(errors.RemoteFailure, lambda: fetch(server.url + "/route"))
        assert "ValueError" in str(error)


def test_an_exception_whose_text_cannot_be_made_is_still_answered():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def raises():
        raise Broken

    with ln.network.serve({"route": raises}, port=0) as server:
        assert "Broken" in str(caught(errors.RemoteFailure, lambda: fetch(server.url + "/route")))


def test_a_handlers_failure_is_logged_with_its_traceback_on_the_server(caplog):
    with ln.network.serve({"fails": fails}, port=0) as server:
        caught(errors.RemoteFailure, lambda: fetch(server.url + "/fails", ln.ones(1)))
    assert "the key" in caplog.text
    assert "Traceback" in caplog.text


def test_a_refused_request_is_not_logged(server, caplog):
    request(server, "GET", "/nothing")
    request(server, "POST", "/echo", b"[")
    assert caplog.text == ""


def test_an_error_names_the_call_it_belongs_to(server):
    reply = request(server, "POST", "/optimize", b"[[1.0]]", Labnet_Call="some call")
    assert reply.json()["call"] == "some call"
    assert json.loads(reply.body)["error"] == "GraphExpired"
