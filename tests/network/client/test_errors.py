"""What goes wrong: each time one clear error on the client, JSON on the wire, and a server that goes on."""

import asyncio
import http.server
import json
import socket
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import errors, nn
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch, run
from tests.helpers.network.raw_http import JSON, NATIVE, TOKEN, connection, head, native, raw, read_reply, scripted
from tests.helpers.network.raw_http import http as request
from tests.helpers.ports import free_port

LIMIT = 1 << 16


def fails(x):
    raise KeyError("the key")


@pytest.fixture
def server():
    """A server that must still answer when the test is over."""
    routes = {"echo": lambda x: x, "fails": fails, "odd": lambda: 1j}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes, max_body=LIMIT) as server:
        yield server
        assert blocking(server)(ln.ones((1, 2))).shape == (1, 1)
        assert server.statistics()["forward"]["in_flight"] == 0


# On the client


def caught(kind, call):
    with pytest.raises(errors.RemoteError) as info:
        call()
    assert type(info.value) is kind, repr(info.value)
    return info.value


CLIENT = {
    "wrong shape": (
        lambda s: blocking(s)(ln.ones((4, 5))),
        *(errors.RemoteShapeError, "/forward", ["(4, 5)", "2"]),
    ),
    "wrong dtype": (
        lambda s: blocking(s)(ln.ones((4, 2), dtype="float64")),
        *(errors.RemoteDTypeError, "/forward", ["float64", "float32"]),
    ),
    "unknown route": (lambda s: fetch(s.url + "/nothing"), errors.RouteNotFound, "/nothing", ["/nothing", "/echo"]),
    "wrong method": (
        lambda s: fetch(s.url + "/statistics", ln.ones(1)),
        *(errors.RouteNotFound, "/statistics", ["GET", "POST"]),
    ),
    "wrong token": (lambda s: fetch(s.url + "/echo", ln.ones(1), token="no"), errors.Unauthorized, "/echo", ["wrong"]),
    "no tensor": (lambda s: fetch(s.url + "/echo"), errors.BadRequest, "/echo", ["POST"]),
    "too large": (
        lambda s: fetch(s.url + "/echo", ln.ones(LIMIT)),
        *(errors.TooLarge, "/echo", [str(LIMIT), str(4 * LIMIT)[:3]]),
    ),
    "the handler raises": (
        lambda s: fetch(s.url + "/fails", ln.ones(1)),
        *(errors.RemoteFailure, "/fails", ["KeyError", "the key"]),
    ),
    "the handler returns nonsense": (lambda s: fetch(s.url + "/odd"), errors.RemoteDTypeError, "/odd", ["complex"]),
    "unexpected name": (
        lambda s: blocking(s)(unexpected=ln.ones((1, 2))),
        *(errors.RemoteFailure, "/forward", ["unexpected"]),
    ),
}


@pytest.mark.parametrize("name", CLIENT)
def test_the_client_raises_a_specific_error_that_names_server_and_route(name, server):
    call, kind, route, words = CLIENT[name]
    error = caught(kind, lambda: call(server))
    assert (error.server, error.route) == (server.url, route)
    for word in [server.url, route, *words]:
        assert word in str(error)
    assert server.token not in str(error)


def test_a_remote_shape_error_is_a_shape_error_and_a_remote_dtype_error_a_dtype_error(server):
    with pytest.raises(errors.ShapeError):
        blocking(server)(ln.ones((4, 5)))
    with pytest.raises(errors.DTypeError):
        blocking(server)(ln.ones((4, 2), dtype="float64"))


def test_an_async_call_raises_the_same_error(server):
    async def call():
        await ln.network.remote_model(server.url)(ln.ones((4, 5)))

    with pytest.raises(errors.RemoteShapeError, match=r"/forward.*\(4, 5\)"):
        run(call())


@pytest.mark.parametrize("megabytes", [64, 300])
def test_a_body_that_is_much_too_large_is_an_error_with_both_numbers(megabytes, server):
    size = megabytes << 20
    x = ln.asarray(np.zeros(size, "uint8"))
    error = caught(errors.TooLarge, lambda: fetch(server.url + "/echo", x))
    assert str(LIMIT) in str(error)
    assert f"has {size:d}"[:7] in str(error)


def test_a_body_of_just_the_limit_is_accepted(server):
    overhead = len(native({"tensor": np.zeros(1, "uint8")}, form="tensor")) - 1
    for size, status in ((LIMIT - overhead - 8, 200), (LIMIT + 1, 413)):
        body = native({"tensor": np.zeros(size, "uint8")}, form="tensor")
        assert request(server, "POST", "/echo", body, Content_Type=NATIVE).status == status


def test_a_server_that_is_down_is_unreachable():
    port = free_port()
    for call in (
        lambda: fetch(f"localhost:{port}/echo", timeout=0.2),
        lambda: ln.network.remote_model(f"127.0.0.1:{port}", blocking=True, timeout=0.2)(ln.ones(1)),
    ):
        error = caught(errors.Unreachable, call)
        assert str(port) in str(error)
        assert "running" in str(error)


def test_a_host_without_a_name_is_unreachable():
    assert "no-such-host.invalid" in str(caught(errors.Unreachable, lambda: fetch("no-such-host.invalid:3000/echo")))


@pytest.mark.parametrize("url", ["", ":3000", "ftp://localhost/x", "localhost:x", "localhost:99999", 3000, None])
def test_what_is_no_address_is_a_value_error(url):
    with pytest.raises(ValueError, match=r"host:port|localhost:3000"):
        ln.network.remote_model(url)


@pytest.mark.parametrize("timeout", [0, -1, float("nan")])
def test_a_timeout_must_be_positive(timeout):
    with pytest.raises(ValueError, match="timeout"):
        ln.network.remote_model("localhost:3000", timeout=timeout)


def test_a_plain_web_server_is_a_protocol_mismatch():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.send_header("Content-Length", "4")
            self.end_headers()
            self.wfile.write(b"<p/>")

        def log_message(self, *arguments):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as other:
        thread = threading.Thread(target=other.serve_forever)
        thread.start()
        url = f"localhost:{other.server_port}"
        try:
            assert "text/html" in str(caught(errors.ProtocolMismatch, lambda: fetch(url + "/page")))
            error = caught(errors.ProtocolMismatch, lambda: fetch(url + "/page", ln.ones(1)))
            assert "501" in str(error)
        finally:
            other.shutdown()
            thread.join()


def reply(status="200 OK", body=b"", content_type=JSON, length=None, **headers):
    fields = {"Labnet-Protocol": "1", "Content-Type": content_type, "Content-Length": length or len(body), **headers}
    lines = [f"HTTP/1.1 {status}", *(f"{k.replace('_', '-')}: {v}" for k, v in fields.items() if v is not None)]
    return ("\r\n".join(lines) + "\r\n\r\n").encode() + body


ODD_REPLIES = {
    "cut in the body": (reply(body=b"[1, 2", length=100), errors.Unreachable),
    "cut in the headers": (b"HTTP/1.1 200 OK\r\nContent-", errors.Unreachable),
    "nothing": (b"", errors.Unreachable),
    "not JSON though it says so": (reply(body=b"<p>"), errors.ProtocolMismatch),
    "not a message though it says so": (reply(body=b"123", content_type=NATIVE), errors.ProtocolMismatch),
    "a redirect": (reply("302 Found", Location="http://127.0.0.1/"), errors.ProtocolMismatch),
    "an error page": (reply("502 Bad Gateway", b"<h1>", "text/html"), errors.ProtocolMismatch),
    "an error of another system": (reply("403 Forbidden", b'{"message": "no"}'), errors.ProtocolMismatch),
    "an error list": (reply("403 Forbidden", b"[]"), errors.ProtocolMismatch),
    "an unknown error": (reply("400 Bad", b'{"error": "New", "message": "later"}'), errors.RemoteFailure),
    "an error that is no remote error": (
        reply("400 Bad", b'{"error": "LabnetError", "message": "m"}'),
        errors.RemoteFailure,
    ),
    "a builtin as an error": (reply("400 Bad", b'{"error": "__name__", "message": "m"}'), errors.RemoteFailure),
}


@pytest.mark.parametrize("name", ODD_REPLIES)
def test_an_odd_reply_is_one_clear_error(name):
    data, kind = ODD_REPLIES[name]
    with scripted(data) as port:
        seconds = 0.5 if kind is errors.Unreachable else SECONDS  # those are waited out
        error = caught(kind, lambda: fetch(f"localhost:{port}/route", timeout=seconds))
    assert f"{port}/route" in str(error)


def test_what_comes_behind_a_reply_is_not_taken_for_the_next_one():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)

        def work():
            first, _ = listener.accept()
            with first:
                first.recv(1 << 16)
                first.sendall(reply(body=b"1") + reply(body=b"2"))
                second, _ = listener.accept()
                with second:
                    second.recv(1 << 16)
                    second.sendall(reply(body=b"3"))

        thread = threading.Thread(target=work)
        thread.start()
        url = f"localhost:{listener.getsockname()[1]}/route"
        assert [fetch(url), fetch(url, timeout=SECONDS)] == [1, 3]
        thread.join()


def test_a_forward_without_a_call_id_is_a_protocol_mismatch():
    body = native({"tensor": np.ones(1, "float32")}, form="tensor")
    with scripted(reply(body=body, content_type=NATIVE)) as port:
        remote = ln.network.remote_model(f"localhost:{port}", blocking=True)
        assert "Labnet-Call" in str(caught(errors.ProtocolMismatch, lambda: remote(ln.ones(1))))


def test_a_server_that_takes_too_long_is_a_timeout_with_the_seconds():
    opened = threading.Event()
    with ln.network.serve({"slow": lambda: opened.wait(SECONDS), "quick": lambda: "quick"}, port=0) as server:
        error = caught(errors.RemoteTimeout, lambda: fetch(server.url + "/slow", timeout=0.1))
        opened.set()
        assert isinstance(error, TimeoutError)
        assert "0.1 s" in str(error)
        assert (error.server, error.route) == (server.url, "/slow")
        assert fetch(server.url + "/quick") == "quick"


def test_a_connection_is_not_reused_after_a_timeout():
    opened, entered = threading.Event(), threading.Event()

    def slow():
        entered.set()
        opened.wait(SECONDS)
        return "late"

    with ln.network.serve({"slow": slow, "quick": lambda: "quick"}, port=0) as server:
        fetch(server.url + "/quick")
        caught(errors.RemoteTimeout, lambda: fetch(server.url + "/slow", timeout=0.2))
        assert entered.wait(SECONDS)
        opened.set()
        assert [fetch(server.url + "/quick") for _ in range(5)] == ["quick"] * 5


def test_a_server_that_was_started_anew_is_found_by_a_client_that_knew_the_old_one():
    async def calls():
        with ln.network.serve({"one": lambda: 1}, port=0) as old:
            remote = old.url + "/one"
            assert await ln.network.tfetch(remote) == 1
        # this event loop had no chance to see that its connection was closed
        with ln.network.serve({"one": lambda: 2}, port=old.port):
            assert await ln.network.tfetch(remote) == 2

    run(calls())


def test_a_cancelled_call_leaves_the_client_usable():
    entered, opened = threading.Event(), threading.Event()

    def slow():
        entered.set()
        opened.wait(SECONDS)

    async def scenario(server):
        call = asyncio.ensure_future(ln.network.tfetch(server.url + "/slow"))
        await asyncio.to_thread(entered.wait, SECONDS)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call
        opened.set()
        assert await ln.network.tfetch(server.url + "/quick") == "quick"

    with ln.network.serve({"slow": slow, "quick": lambda: "quick"}, port=0) as server:
        run(scenario(server))


# On the wire

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
    "no length": (*POST_ECHO, {"Content-Type": JSON}, b"", 411, "BadRequest"),
    "chunked": (
        *POST_ECHO,
        {"Content-Type": JSON, "Transfer-Encoding": "chunked"},
        *(b"3\r\n[1]\r\n0\r\n\r\n", 411, "BadRequest"),
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
    assert reply.headers["allow"] == "GET, POST"


def test_the_same_connection_is_usable_after_an_error(server):
    ends_the_connection = [name for name in RAW if name.startswith(("announced", "GET with a body of many", "chunked"))]
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
        assert read_reply(file, method="HEAD").status in (200, 404, 405)
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
        error = caught(errors.RemoteFailure, lambda: fetch(server.url + "/route", timeout=3.0))
        assert "ValueError" in str(error)


def test_an_exception_whose_text_cannot_be_made_is_still_answered():
    class Broken(Exception):
        def __str__(self):
            raise RuntimeError("no text")

    def raises():
        raise Broken

    with ln.network.serve({"route": raises}, port=0) as server:
        assert "Broken" in str(caught(errors.RemoteFailure, lambda: fetch(server.url + "/route", timeout=3.0)))


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
