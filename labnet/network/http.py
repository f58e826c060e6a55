"""HTTP on the server's side: Tornado's messages become requests, replies become messages.

A request is checked when its headers are there, before any memory is taken for its body: path, method, token
or Host and Origin, length, content type. A refused body is read and thrown away as long as it is not huge, so
that the client gets to read the reason.
"""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable
from http import HTTPStatus
from typing import Any, Protocol, cast
from urllib.parse import unquote

import msgspec
import numpy as np
from tornado.httpserver import HTTPServer
from tornado.httputil import (
    HTTPConnection,
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError

from labnet import wire
from labnet.network import oip_bodies
from labnet.network.checksum import CHECKSUM, checksum_of
from labnet.network.connections import Connections
from labnet.network.names import CALL, EPOCH
from labnet.network.routes import Failure, Reply, Request, Route, failure_of
from labnet.network.security import TOKEN_HEADER, is_from_another_site, is_trusted_origin, same_token

CLIENT = "Labnet-Client"
PROTOCOL = "Labnet-Protocol"

#: Longest refused body that is read to the end for the sake of a readable error, in bytes.
_DRAIN = 1 << 28
_HUGE = 1 << 62
#: How many bodies of the greatest length may be held at the same time.
_BODIES = 4
_MAX_CLIENT_ID = 64
#: Longest body that may come without a token, in bytes.
_SEALED = 256

log = logging.getLogger("labnet.network")


class Application(Protocol):
    """What the HTTP side needs to know of a server."""

    routes: dict[str, Route]
    url: str
    epoch: str
    token: str | None
    loopback: bool
    max_body: int
    draining: bool

    async def answer(self, route: Route, request: Request) -> Reply:
        """Answer a request, and count it."""
        ...


class Listener(HTTPServerConnectionDelegate):
    """Makes an `Exchange` of every request of a server."""

    def __init__(self, application: Application):
        self.application = application
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections = Connections(_close)
        #: Bytes of the bodies of requests that were not answered yet.
        self.bytes_held = 0

    def start_request(self, server_conn: object, request_conn: HTTPConnection) -> HTTPMessageDelegate:
        """Begin to wait for a request on a connection."""
        self.connections.waits(server_conn)
        return Exchange(self, server_conn, request_conn)

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        self.connections.leaves(server_conn)


class ListeningServer(HTTPServer):
    """Tornado's server, made to tell its listener of closed connections too."""

    def on_close(self, server_conn: object) -> None:
        """Forget a connection."""
        super().on_close(server_conn)
        cast(Listener, self.request_callback).on_close(server_conn)


def _close(connection: Any) -> None:
    connection.stream.close()


class Exchange(HTTPMessageDelegate):
    """One request and its reply."""

    def __init__(self, listener: Listener, peer: object, connection: HTTPConnection):
        self._listener = listener
        self._application = listener.application
        self._peer = peer
        self._connection = connection
        self._refusal: Failure | None = None
        self._body = memoryview(b"")
        self._received = 0
        self._path = ""
        self._route: Route | None = None
        self._start_line: RequestStartLine
        self._headers: HTTPHeaders
        self._answering = False

    def headers_received(
        self, start_line: RequestStartLine | ResponseStartLine, headers: HTTPHeaders
    ) -> Awaitable[None] | None:
        """Decide whether the request will be answered, and make room for its body."""
        assert isinstance(start_line, RequestStartLine)
        self._start_line, self._headers = start_line, headers
        self._listener.connections.asks(self._peer)
        try:
            self._path = unquote(start_line.path.partition("?")[0])
            self._route = self._find()
            self._check_protocol()
            self._make_room(self._expected_bytes())
        except Failure as failure:
            self._refusal = failure
            if _declared_length(headers) > _DRAIN:
                self._spawn()
        return None

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Take a piece of the body."""
        if self._refusal is None and self._received + len(chunk) <= len(self._body):
            end = self._received + len(chunk)
            self._body[self._received : end] = chunk
            self._received = end
        return None

    def finish(self) -> None:
        """Answer: the request is complete."""
        self._spawn()

    def on_connection_close(self) -> None:
        """Forget the request if the client has gone before it was complete; else its reply is kept by its key."""
        if not self._answering:
            self._give_room_back()

    def _make_room(self, length: int) -> None:
        """Take memory for the body, unless those that are under way hold too much of it."""
        held, most = self._listener.bytes_held, _BODIES * self._application.max_body
        if held and held + length > most:
            raise Failure(
                429,
                "Overloaded",
                f"requests under way hold {held} bytes, with {length} more they would hold over {most}; try again",
                headers={"Retry-After": "1"},
            )
        self._listener.bytes_held += length
        # untouched memory: what was announced and not sent costs nothing
        self._body = np.empty(length, np.uint8).data

    def _give_room_back(self) -> None:
        self._listener.bytes_held -= len(self._body)
        self._body = memoryview(b"")

    def _spawn(self) -> None:
        if self._answering:  # a huge body was refused before it was read
            return
        self._answering = True
        task = asyncio.ensure_future(self._respond())
        self._listener.tasks.add(task)
        task.add_done_callback(self._listener.tasks.discard)

    # Checks

    def _find(self) -> Route:
        path, route = self._path, self._application.routes.get(self._path)
        if not self._is_sealed(route):
            self._authorize(readable=route is None or route.readable)
        if route is None:
            known = ", ".join(sorted(p for p, r in self._application.routes.items() if r.counted and not r.label))
            raise Failure(404, "RouteNotFound", f"no route {path!r:.80}; this server has {known}")
        method = self._start_line.method
        if method not in route.methods:
            allowed = ", ".join(route.methods)
            raise Failure(
                405, "RouteNotFound", f"{path} answers {allowed}, not {method:.20}", headers={"Allow": allowed}
            )
        return route

    def _is_sealed(self, route: Route | None) -> bool:
        """Tell whether the body is to be judged by the route in place of a token."""
        sealed = route is not None and route.sealed and self._start_line.method in route.methods
        return sealed and _declared_length(self._headers) > 0

    def _authorize(self, *, readable: bool) -> None:
        application, headers = self._application, self._headers
        given = headers.get(TOKEN_HEADER)
        if application.token is not None and same_token(application.token, given):
            return
        open_to_all = application.token is None or (readable and application.loopback)
        if not open_to_all:
            reason = "is wrong" if given else "is missing"
            raise Failure(
                401,
                "Unauthorized",
                f"the token {reason}: send it in the header {TOKEN_HEADER}, or pass token= to remote_model; "
                "the server's owner gets it from server.share()",
            )
        fetched_by, mode = headers.get("Sec-Fetch-Site"), headers.get("Sec-Fetch-Mode")
        if is_from_another_site(fetched_by) and not (readable and mode == "navigate"):
            raise Failure(403, "Unauthorized", f"a web page of another site ({fetched_by!r:.20}) needs the token")
        if not is_trusted_origin(headers.get("Host"), headers.get("Origin")):
            raise Failure(
                403,
                "Unauthorized",
                f"host {headers.get('Host')!r:.80} with origin {headers.get('Origin')!r:.80} "
                "is not allowed without a token",
            )

    def _check_protocol(self) -> None:
        """Refuse another version of the protocol; a request without a version, as from curl, means this one."""
        given = self._headers.get(PROTOCOL, wire.PROTOCOL)
        if given != wire.PROTOCOL:
            raise Failure(
                400,
                "ProtocolMismatch",
                f"the request speaks version {given!r:.20} of the protocol, this server version {wire.PROTOCOL!r}: "
                "install the same version of labnet on both sides",
            )

    def _expected_bytes(self) -> int:
        headers = self._headers
        announced = headers.get("Content-Length", "0")
        if not (announced.isascii() and announced.isdigit()):
            raise Failure(400, "BadRequest", f"Content-Length is {announced!r:.40}: expected one number")
        if "Transfer-Encoding" in headers:
            raise Failure(411, "BadRequest", "a body needs a Content-Length; chunked bodies are not accepted")
        if "Content-Encoding" in headers:
            raise Failure(415, "BadRequest", f"Content-Encoding {headers['Content-Encoding']!r:.40} is not accepted")
        if self._start_line.method != "POST":
            if _declared_length(headers):
                raise Failure(400, "BadRequest", f"{self._start_line.method} takes no body")
            return 0
        if "Content-Length" not in headers:
            raise Failure(411, "BadRequest", "a body needs a Content-Length")
        kind = headers.get("Content-Type", "").partition(";")[0].strip().lower()
        accepted = self._route.content_types if self._route is not None else ()
        if kind not in accepted or (not kind and "Origin" in headers):
            expected = " or ".join(filter(None, accepted))
            raise Failure(415, "BadRequest", f"content type {kind!r:.60} is not accepted: send {expected}")
        length = _declared_length(headers)
        limit = _SEALED if self._is_sealed(self._route) else self._application.max_body
        if length > limit:
            raise Failure(
                413,
                "TooLarge",
                f"the body has {length} bytes, the limit of this server is {limit}; "
                "send less, or serve with a larger max_body",
            )
        return length

    def _checksum(self) -> int:
        """Return the checksum of the body, which must be the announced one if there is one."""
        if self._start_line.method != "POST":
            return 0
        found, announced = checksum_of([self._body]), self._headers.get(CHECKSUM)
        if announced is not None and announced.lower() != f"{found:08x}":
            raise Failure(
                400, "Corrupted", f"the body has the checksum {found:08x}, announced was {announced:.20}: send it again"
            )
        return found

    # Reply

    async def _respond(self) -> None:
        try:
            if self._refusal is not None:
                raise self._refusal
            if self._application.draining:
                raise Failure(503, "Overloaded", "the server is stopping", headers={"Retry-After": "1"})
            assert self._route is not None, "headers_received found one, or refused"
            client = self._headers.get(CLIENT)
            request = Request(
                method=self._start_line.method,
                path=self._path,
                headers=self._headers,
                body=self._body.toreadonly(),
                client=client if client and len(client) <= _MAX_CLIENT_ID else None,
                checksum=self._checksum(),
            )
            reply = await self._application.answer(self._route, request)
            await self._write(200 if reply.body.content_type else 204, reply.body, reply.headers)
        except StreamClosedError:
            pass  # the client is gone; whatever was computed is kept for it where that matters
        except Exception as error:
            await self._respond_error(error)
        finally:
            self._give_room_back()

    async def _respond_error(self, error: Exception) -> None:
        failure = failure_of(error)
        if failure.status == 500 and not isinstance(error, Failure):
            log.warning("%s %s failed", self._start_line.method, self._path, exc_info=error)
        with contextlib.suppress(StreamClosedError):
            await self._write(failure.status, self._error_body(failure), failure.headers)

    def _error_body(self, failure: Failure) -> wire.Body:
        message = failure.message.encode("utf-8", "backslashreplace").decode()
        if oip_bodies.is_below(self._path):
            return wire.Body(wire.JSON, [msgspec.json.encode({"error": message})])
        document: dict[str, Any] = {
            "error": failure.error,
            "message": message,
            "call": self._headers.get(CALL),
            "server": self._application.url,
            **failure.details,
        }
        return wire.Body(wire.JSON, [msgspec.json.encode(document)])

    async def _write(self, status: int, body: wire.Body, extra: dict[str, str]) -> None:
        headers = HTTPHeaders(extra)
        headers[PROTOCOL] = wire.PROTOCOL
        headers[EPOCH] = self._application.epoch
        if PROTOCOL not in self._headers:  # what no browser sends of its own accord
            headers.setdefault("Cache-Control", "no-store")
            headers["X-Content-Type-Options"] = "nosniff"
        if body.content_type is not None:
            headers["Content-Type"] = body.content_type
            headers["Content-Length"] = str(body.nbytes)
        if CHECKSUM in self._headers:
            headers[CHECKSUM] = f"{checksum_of(body.parts):08x}"
        start_line = ResponseStartLine("HTTP/1.1", status, HTTPStatus(status).phrase)
        first, others = wire.in_one_piece(body.parts if self._start_line.method != "HEAD" else [])
        sent = self._connection.write_headers(start_line, headers, first)
        for part in others:
            sent = self._connection.write(part)  # type: ignore[arg-type]  # a memoryview is written without a copy
        self._connection.finish()
        if not sent.done() or sent.exception() is not None:
            await sent


def _declared_length(headers: HTTPHeaders) -> int:
    """Return the announced length of the body; what is not a number is refused by Tornado right after."""
    text = headers.get("Content-Length", "0").lstrip("0") or "0"
    return min(int(text[:20]), _HUGE) if text.isascii() and text.isdigit() else 0
