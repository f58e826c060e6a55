"""A user's Tornado handlers beside a model: behind the token, on the same port, without an effect on its routes."""

import asyncio
import contextlib

import numpy as np
import pytest
from tornado.httpclient import HTTPRequest
from tornado.web import RequestHandler, StaticFileHandler, stream_request_body
from tornado.websocket import WebSocketClosedError, WebSocketHandler, websocket_connect

import labnet as ln
from labnet import nn
from labnet.errors import ServeError
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import TOKEN, connection, forward_of, head, http, raw, read_reply
from tests.helpers.threads import wait_until


class Greeting(RequestHandler):
    """Answers in the ways that handlers have."""

    async def get(self, name):
        await asyncio.sleep(0)
        self.set_header("X-Greeting", "yes")
        self.finish({"hello": name, "query": self.get_query_argument("q", None)})

    def post(self, name):
        self.write(self.request.body[::-1])

    def delete(self, name):
        raise ValueError("a handler that fails")


class Chunks(RequestHandler):
    """Writes its reply in pieces."""

    async def get(self):
        for number in range(3):
            self.write(f"{number}\n")
            await self.flush()


@stream_request_body
class Counter(RequestHandler):
    """Counts the bytes of a body while it arrives."""

    pieces: list[int] = []  # noqa: RUF012

    def prepare(self):
        self.pieces.clear()

    def data_received(self, chunk):
        self.pieces.append(len(chunk))

    def put(self):
        self.finish(str(sum(self.pieces)))

    post = put


class Echo(WebSocketHandler):
    """Sends each message back."""

    open_ones: set = set()  # noqa: RUF012

    def open(self):
        self.open_ones.add(self)

    def on_message(self, message):
        self.write_message(message, binary=isinstance(message, bytes))

    def on_close(self):
        self.open_ones.discard(self)


HANDLERS = [
    (r"/greet/(\w+)", Greeting),
    (r"/chunks", Chunks),
    (r"/count", Counter),
    (r"/echo", Echo),
    (r"/forward", Greeting),  # a route of the model, which comes first
]


@pytest.fixture
def server():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, handlers=HANDLERS) as server:
        yield server


@pytest.fixture
def open_server():
    with ln.network.serve_model(nn.Linear(2, 1), port=0, token=None, handlers=HANDLERS) as server:
        yield server


def trains(server):
    """Return whether the model of a server can be trained."""
    before = server.statistics()["server"]["version"]
    ln.network.remote_model(server.url, blocking=True)(ln.ones((1, 2))).sum().backward()
    return server.statistics()["server"]["version"] == before + 1


def test_a_handler_answers_with_the_token_and_else_is_a_401(server):
    reply = http(server, "GET", "/greet/ana?q=1")
    assert (reply.status, reply.json()) == (200, {"hello": "ana", "query": "1"})
    assert reply.headers["x-greeting"] == "yes"
    for token in (None, "wrong"):
        reply = http(server, "GET", "/greet/ana", token=token)
        assert (reply.status, reply.json()["error"]) == (401, "Unauthorized")
    assert trains(server)


def test_a_connection_serves_handlers_and_routes_in_turn(server):
    with connection(server.port) as (sock, file):
        for path in ("/greet/a", "/health", "/greet/b", "/missing", "/greet/c"):
            sock.sendall(head(server.port, "GET", path, {TOKEN: server.token}))
            assert read_reply(file).status == (404 if path == "/missing" else 200)


def test_a_refused_body_for_a_handler_is_not_taken_for_a_request(server):
    inner = head(server.port, "GET", "/health")
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "POST", "/greet/ana", {"Content-Length": len(inner)}) + inner)
        assert read_reply(file).status == 401
        sock.sendall(head(server.port, "GET", "/greet/ana", {TOKEN: server.token}))
        assert read_reply(file).json()["hello"] == "ana"


def test_the_routes_of_the_model_come_before_handlers(server):
    assert forward_of(server, np.ones((1, 2), "float32")).status == 200
    assert "hello" not in http(server, "GET", "/forward").json()


def test_paths_of_no_handler_are_a_404_of_labnet(server):
    reply = http(server, "GET", "/nothing")
    assert (reply.status, reply.json()["error"]) == (404, "RouteNotFound")


def test_a_handler_that_fails_is_a_500_without_its_reason(server):
    reply = http(server, "DELETE", "/greet/ana")
    assert reply.status == 500
    assert b"a handler that fails" not in reply.body
    assert trains(server)


def test_a_method_that_a_handler_lacks_is_a_405(server):
    assert http(server, "PATCH", "/greet/ana").status == 405


def test_a_reply_in_pieces(server):
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "GET", "/chunks", {TOKEN: server.token, "Connection": "close"}))
        whole = file.read()
    assert b"Transfer-Encoding: chunked" in whole
    assert whole.endswith(b"2\r\n0\n\r\n2\r\n1\n\r\n2\r\n2\n\r\n0\r\n\r\n")


@pytest.mark.parametrize("method", ["PUT", "POST"])
def test_a_handler_may_read_a_body_as_it_arrives(server, method):
    body = bytes(1 << 24)
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, method, "/count", {TOKEN: server.token, "Content-Length": len(body)}))
        sock.sendall(body)
        assert read_reply(file).body == str(len(body)).encode()
    assert len(Counter.pieces) > 1


@pytest.mark.parametrize("framing", [{"Content-Length": 5000}, {"Transfer-Encoding": "chunked"}])
def test_a_body_for_a_handler_is_bounded_as_others_are(framing):
    body = b"1388\r\n" + bytes(5000) + b"\r\n0\r\n\r\n" if "Transfer-Encoding" in framing else bytes(5000)
    with ln.network.serve({"one": lambda: 1}, port=0, max_body=1000, handlers=HANDLERS) as server:
        with connection(server.port) as (sock, file):
            sock.sendall(head(server.port, "POST", "/greet/ana", {TOKEN: server.token, **framing}) + body)
            assert file.readline() == b"HTTP/1.1 400 Bad Request\r\n"
        assert http(server, "GET", "/one").json() == 1


def test_a_handler_may_read_a_chunked_body(server):
    head_of = head(server.port, "POST", "/count", {TOKEN: server.token, "Transfer-Encoding": "chunked"})
    reply = raw(server.port, head_of + b"5\r\nhello\r\n3\r\nyou\r\n0\r\n\r\n")
    assert reply.body == b"8"


def test_files_can_be_served(tmp_path):
    (tmp_path / "page.html").write_text("<p>hello")
    handlers = [(r"/files/(.*)", StaticFileHandler, {"path": str(tmp_path)})]
    with ln.network.serve({"one": lambda: 1}, port=0, handlers=handlers) as server:
        assert http(server, "GET", "/files/page.html").body == b"<p>hello"
        assert http(server, "GET", "/files/page.html", token=None).status == 401
        assert http(server, "GET", "/files/../secret").status in (403, 404)


# WebSockets


async def connect(server, *, token=None, **headers):
    fields = {name.replace("_", "-"): value for name, value in headers.items()}
    fields |= {TOKEN: token} if token else {}
    request = HTTPRequest(f"ws://127.0.0.1:{server.port}/echo", headers=fields, connect_timeout=SECONDS)
    return await websocket_connect(request)


def test_a_websocket_answers_with_the_token(server):
    async def talk():
        opened = await connect(server, token=server.token)
        for message in ("hello", b"\x00\x01", "x" * 100_000):
            await opened.write_message(message, binary=isinstance(message, bytes))
            assert await asyncio.wait_for(opened.read_message(), SECONDS) == message
        opened.close()
        assert await asyncio.wait_for(opened.read_message(), SECONDS) is None

    asyncio.run(talk())
    wait_until(lambda: not Echo.open_ones)
    assert trains(server)


@pytest.mark.parametrize("token", [None, "wrong"])
def test_a_websocket_without_the_token_is_refused(server, token):
    with pytest.raises(Exception, match="401"):
        asyncio.run(connect(server, token=token))


def test_an_open_server_refuses_websockets_of_pages_of_others(open_server):
    for origin in ("https://evil.example", f"http://127.0.0.1:{open_server.port}.evil.example", "null"):
        with pytest.raises(Exception, match="403"):
            asyncio.run(connect(open_server, Origin=origin))
    opened = http(open_server, "GET", "/greet/ana", token=None, Origin="https://evil.example")
    assert opened.status == 403

    async def talk(**headers):
        opened = await connect(open_server, **headers)
        await opened.write_message("hello")
        answer = await asyncio.wait_for(opened.read_message(), SECONDS)
        opened.close()
        assert await asyncio.wait_for(opened.read_message(), SECONDS) is None  # the connection is closed
        return answer

    assert asyncio.run(talk()) == "hello"
    assert asyncio.run(talk(Origin=f"http://127.0.0.1:{open_server.port}")) == "hello"


def test_an_open_websocket_does_not_hold_up_training_or_the_end_of_the_server():
    async def scenario():
        with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, handlers=HANDLERS) as server:
            opened = await connect(server, token=server.token)
            assert await asyncio.to_thread(trains, server)
            await asyncio.to_thread(server.stop)
        assert await asyncio.wait_for(opened.read_message(), SECONDS) is None
        with contextlib.suppress(WebSocketClosedError):
            opened.close()

    asyncio.run(scenario())
    wait_until(lambda: not Echo.open_ones)


def test_open_websockets_count_as_connections(server):
    async def scenario():
        opened = [await connect(server, token=server.token) for _ in range(3)]
        assert len(server._port._listener.connections) == 3
        for one in opened:
            one.close()
            await one.read_message()

    asyncio.run(scenario())

    def only_one_is_left():
        with connection(server.port):  # closed ones are found when another one comes
            return len(server._port._listener.connections) == 1

    wait_until(only_one_is_left)


def test_an_idle_connection_makes_room_after_a_handler_has_answered(server):
    server._port._listener.connections._limit = 2
    with contextlib.ExitStack() as stack:
        opened = []
        for _ in range(3):
            sock, file = stack.enter_context(connection(server.port))
            sock.sendall(head(server.port, "GET", "/greet/ana", {TOKEN: server.token}))
            assert read_reply(file).status == 200
            opened.append(sock)
        assert opened[0].recv(1) == b""


# Replacement, and arguments that are refused


def test_serving_again_replaces_the_handlers():
    with ln.network.serve({"one": lambda: 1}, port=0, handlers=[(r"/a", Chunks)]) as server:
        assert http(server, "POST", "/a").status == 405
        with ln.network.serve({"one": lambda: 1}, port=server.port, handlers=[(r"/b", Chunks)]):
            assert http(server, "POST", "/a").status == 404
            assert http(server, "POST", "/b").status == 405


@pytest.mark.parametrize(
    "given",
    [
        [("/a",)],
        [("/a", "no handler")],
        [(1, Greeting)],
        [("(", Greeting)],
        [("/a", Greeting, "no arguments")],
        ["/a"],
        [None],
        {"/a": Greeting},
        "/a",
        5,
        Greeting,
    ],
    ids=repr,
)
def test_handlers_that_are_no_rules_of_tornado_are_refused_before_anything_is_served(given):
    for serve in (ln.network.serve_model, lambda model, **options: ln.network.serve({"one": model}, **options)):
        with pytest.raises(ServeError, match="handlers must be Tornado rules such as"):
            serve(nn.Linear(1, 1), port=0, handlers=given)
    assert ln.network.servers() == {}
