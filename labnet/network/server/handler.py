"""HTTP on the server side: requests are read from connections, admitted and answered.

A request is checked when its head has arrived, before memory is allocated for its body. A refused body is read and
discarded, up to a limit, so that the client can read the reason.
"""

import asyncio
import logging
import socket
import time
from collections.abc import Mapping
from email.utils import formatdate
from functools import lru_cache
from http import HTTPStatus
from typing import Any, Protocol

import msgspec

from labnet import codec, wire
from labnet.network.protocol import inference_bodies
from labnet.network.protocol.digest import (
    content_digest,
    digest_of,
    mismatch,
    wanted_algorithm,
)
from labnet.network.protocol.headers import CALL, CLIENT, CONTENT_DIGEST, EPOCH, PROTOCOL, WANT_CONTENT_DIGEST
from labnet.network.server.admission import admit, declared_length, path_of
from labnet.network.server.routing import Failure, Reply, Request, Route, failure_of
from labnet.network.transport.buffers import Memory
from labnet.network.transport.connection import DRAIN, Connection
from labnet.network.transport.connection_limit import Connections, most_connections
from labnet.network.transport.heads import RequestHead, write_head
from labnet.network.transport.listener import Acceptor

#: How many bodies of maximum length may be in memory at the same time.
_BODIES = 4
_MAX_CLIENT_ID = 64

log = logging.getLogger("labnet.network")


class Application(Protocol):
    """The part of a server that HTTP needs."""

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


class Listener:
    """Accepts the connections of a server and starts an `Exchange` for every request.

    Attributes
    ----------
    idle_seconds, first_seconds : float
        Time limits for an idle connection and for the head of its first request.
    body_seconds, slowest : float
        Time limit for a body: `body_seconds` plus its length at `slowest` bytes a second.
    bytes_held : int
        Bytes of the bodies of unanswered requests and of replies that are still being sent.
    """

    def __init__(self, application: Application):
        self.application = application
        self.tasks: set[asyncio.Task[None]] = set()
        self.connections: Connections[Connection] = Connections(Connection.close, limit=most_connections())
        self.idle_seconds = 120.0
        self.body_seconds = 60.0
        self.slowest = float(1 << 17)
        self.first_seconds = 10.0
        self.bytes_held = 0
        self.memory = Memory()
        self._acceptor: Acceptor | None = None

    def listen(self, sock: socket.socket) -> None:
        """Accept connections on a listening socket and own it; runs on the loop."""
        self._acceptor = Acceptor(sock, self._accept, make_room=self.connections.make_room)

    def stop(self) -> None:
        """Stop accepting connections."""
        if self._acceptor is not None:
            self._acceptor.close()
            self._acceptor = None

    @property
    def is_sending(self) -> bool:
        """Whether a reply is being sent."""
        return any(connection.is_sending for connection in self.connections)

    def close(self) -> None:
        """Close all connections."""
        for connection in list(self.connections):
            connection.close()

    def abandon(self) -> None:
        """Leave the connections to the parent process, in a forked child."""
        for connection in list(self.connections):
            connection.abandon()

    def _accept(self, sock: socket.socket) -> None:
        self.connections.waits(Connection(self, sock, first_seconds=self.first_seconds))

    # Callbacks of connections

    def begin(self, connection: Connection, head: RequestHead) -> "Exchange":
        """Start the exchange of a request; only an authorized one protects its connection from eviction."""
        exchange = Exchange(self, connection, head)
        if exchange.is_trusted:
            self.connections.asks(connection)
        return exchange

    def reject(self, connection: Connection, status: int, reason: str) -> None:
        """Answer a malformed request and close its connection."""
        failure = Failure(status, "BadRequest", reason)
        document = {"error": failure.error, "message": reason, "call": None, "server": self.application.url}
        body = wire.Body(wire.JSON, [msgspec.json.encode(document)])
        connection.send([_head(self.application, status, body, {"Connection": "close"}), *body.parts], last=True)

    def waits(self, connection: Connection) -> None:
        """Mark a connection as waiting for its next request."""
        self.connections.waits(connection)

    def leaves(self, connection: Connection) -> None:
        """Remove a closed connection."""
        self.connections.leaves(connection)


class Exchange:
    """One request and its reply."""

    def __init__(self, listener: Listener, connection: Connection, head: RequestHead):
        self._listener = listener
        self._application = listener.application
        self._connection = connection
        self._method, target, version, self._headers = head
        self._path = path_of(target)
        self._last = version == "HTTP/1.0" or "close" in self._headers.get("Connection", "").lower()
        self._refusal: Failure | None = None
        self._route: Route | None = None
        self._answering = False
        self.length = 0
        self.body: memoryview | None = None
        try:
            self._route, self.length = admit(self._application, self._method, self._path, self._headers)
            if version == "HTTP/1.1" and "Host" not in self._headers:
                raise Failure(400, "BadRequest", "a request of HTTP/1.1 needs a header Host")
            self._allocate_body()
        except Failure as failure:
            self._refuse(failure)

    @property
    def is_trusted(self) -> bool:
        """Whether the request was authorized by the token, or the server needs none."""
        route = self._route
        return self._refusal is None and route is not None and not (route.readable or route.sealed)

    def _refuse(self, failure: Failure) -> None:
        """Answer with a failure after the body was read; at once if it is too long, expected later, or unbounded."""
        self._refusal = failure
        length = declared_length(self._headers)
        if length is None or length > DRAIN or (length and "Expect" in self._headers):
            length, self._last = 0, True
        self.length = length

    def _allocate_body(self) -> None:
        """Allocate memory for the body unless pending bodies use too much."""
        held, most = self._listener.bytes_held, _BODIES * self._application.max_body
        if held and held + self.length > most and (self.length or (self._route is not None and self._route.counted)):
            raise Failure(
                429,
                "Overloaded",
                f"requests and replies under way hold {held} bytes, {self.length} more are over {most}; try again",
                headers={"Retry-After": "1"},
            )
        try:  # untouched memory: a declared body that is never sent costs nothing
            self.body = self._listener.memory.take(self.length)
        except MemoryError:
            raise Failure(413, "TooLarge", f"there is no memory for the {self.length} bytes of the body") from None
        self._listener.bytes_held += self.length

    def _release_memory(self) -> None:
        if self.body is not None:
            self._listener.bytes_held -= self.length
            self.body = None

    def finish(self) -> None:
        """Answer the request, which is complete or refused."""
        self._answering = True
        task = asyncio.ensure_future(self._respond())
        self._listener.tasks.add(task)
        task.add_done_callback(self._listener.tasks.discard)

    def leave(self) -> None:
        """Drop a request whose connection is closed; a reply in progress is still stored under its key."""
        if not self._answering:
            self._release_memory()

    async def _respond(self) -> None:
        try:
            try:
                reply = await self._answer()
                parts = self._parts(200 if reply.body.content_type else 204, reply.body, reply.headers)
            except Exception as error:
                parts = self._failed(error)
            finally:
                self._release_memory()
            self._connection.send(parts, last=self._last)
        except BaseException:  # no reply will follow: do not let the client wait
            self._connection.close()
            raise

    def _failed(self, error: Exception) -> list[codec.Part]:
        """Return the reply to a request that failed."""
        failure = failure_of(error)
        if failure.status == 500 and not isinstance(error, Failure):
            log.warning("%s %s failed", self._method, self._path, exc_info=error)
        try:
            return self._parts(failure.status, self._error_body(failure), failure.headers)
        except (TypeError, ValueError) as unsendable:
            other = Failure(500, "RemoteFailure", f"the error {failure.error} cannot be sent: {unsendable}")
            return self._parts(other.status, self._error_body(other), other.headers)

    async def _answer(self) -> Reply:
        if self._refusal is not None:
            raise self._refusal
        if self._application.draining:
            raise Failure(503, "Overloaded", "the server is stopping", headers={"Retry-After": "1"})
        assert self._route is not None, "refused otherwise"
        assert self.body is not None, "refused otherwise"
        client = self._headers.get(CLIENT)
        request = Request(
            method=self._method,
            path=self._path,
            headers=self._headers,
            body=self.body.toreadonly(),
            client=client if client and len(client) <= _MAX_CLIENT_ID else None,
            digest=self._digest(self.body),
        )
        return await self._application.answer(self._route, request)

    def _digest(self, body: memoryview) -> str:
        """Return the digest of the body; refuse a body that differs from its declared digest."""
        if self._method != "POST":
            return ""
        found, announced = digest_of([body]), self._headers.get(CONTENT_DIGEST)
        if announced is not None:
            try:
                wrong = mismatch(announced, body, found)
            except ValueError as error:
                raise Failure(400, "BadRequest", str(error)) from error
            if wrong is not None:
                raise Failure(400, "Corrupted", f"{wrong}: send it again")
        return found.hex()

    def _error_body(self, failure: Failure) -> wire.Body:
        message = failure.message.encode("utf-8", "backslashreplace").decode()
        if inference_bodies.is_below(self._path):
            return wire.Body(wire.JSON, [msgspec.json.encode({"error": message})])
        document: dict[str, Any] = {
            "error": failure.error,
            "message": message,
            "call": self._headers.get(CALL),
            "server": self._application.url,
            **failure.details,
        }
        return wire.Body(wire.JSON, [msgspec.json.encode(document)])

    def _parts(self, status: int, body: wire.Body, extra: Mapping[str, str]) -> list[codec.Part]:
        """Return a reply as parts to send."""
        headers = dict(extra)
        if PROTOCOL not in self._headers:  # a browser, which does not send this header
            headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **headers, "Date": _date()}
        algorithm = wanted_algorithm(self._headers.get(CONTENT_DIGEST), self._headers.get(WANT_CONTENT_DIGEST))
        if algorithm is not None:
            headers[CONTENT_DIGEST] = content_digest(body, algorithm)
        if self._last:
            headers["Connection"] = "close"
        head = _head(self._application, status, body, headers)
        first, others = wire.in_one_piece(body.parts if self._method != "HEAD" else [])
        return [head + first, *others]


def _head(application: Application, status: int, body: wire.Body, extra: Mapping[str, str]) -> bytes:
    headers = {PROTOCOL: wire.PROTOCOL, EPOCH: application.epoch, **extra}
    if body.content_type is not None:
        headers |= {"Content-Type": body.content_type, "Content-Length": str(body.nbytes)}
    return write_head(_first_line(status), headers)


@lru_cache
def _first_line(status: int) -> str:
    return f"HTTP/1.1 {status} {HTTPStatus(status).phrase}"


def _date() -> str:
    return formatdate(time.time(), usegmt=True)
