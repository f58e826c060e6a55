"""What goes wrong on the client: each time one clear error that names server and route."""

import asyncio
import http.server
import socket
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import errors
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch, run
from tests.helpers.network.error_server import LIMIT, caught, error_server
from tests.helpers.network.raw_http import JSON, NATIVE, native, scripted
from tests.helpers.network.raw_http import http as request
from tests.helpers.ports import free_port


@pytest.fixture
def server():
    with error_server() as server:
        yield server


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
        lambda: fetch(f"localhost:{port}/echo", timeout=1.0),
        lambda: ln.network.remote_model(f"127.0.0.1:{port}", blocking=True, timeout=1.0)(ln.ones(1)),
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
        seconds = 1.0 if kind is errors.Unreachable else SECONDS  # those are waited out
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
                    second.sendall(reply("404 Not Found", b"{}"))  # no channel
                third, _ = listener.accept()
                with third:
                    third.recv(1 << 16)
                    third.sendall(reply(body=b"3"))

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
        caught(errors.RemoteTimeout, lambda: fetch(server.url + "/slow", timeout=1.0))
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
