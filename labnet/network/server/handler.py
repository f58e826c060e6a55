"""One request and its reply, independent of the transport that carries them.

A request is checked when its head has arrived, before memory is allocated for its body. A refused request is answered
with the reason in JSON.
"""

import logging
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import msgspec
from tornado.web import Application as Handlers

from labnet import wire
from labnet.network.protocol import inference_bodies
from labnet.network.protocol.digest import (
    content_digest,
    digest_of,
    mismatch,
    wanted_algorithm,
)
from labnet.network.protocol.headers import CALL, CLIENT, CONTENT_DIGEST, EPOCH, PROTOCOL, WANT_CONTENT_DIGEST
from labnet.network.server.admission import admit, too_large
from labnet.network.server.routing import Failure, Reply, Request, Route, failure_of
from labnet.network.transport.buffers import Memory
from labnet.tracebacks import trim

#: How many bodies of maximum length may be in memory at the same time.
_BODIES = 4
_MAX_CLIENT_ID = 64

log = logging.getLogger("labnet.network")


class Application(Protocol):
    """The part of a server that a transport needs."""

    routes: dict[str, Route]
    handlers: Handlers | None
    url: str
    epoch: str
    token: str | None
    loopback: bool
    max_body: int
    draining: bool

    async def answer(self, route: Route, request: Request) -> Reply:
        """Answer a request, and count it."""
        ...

    def stopping(self) -> Failure:
        """Return the refusal of a request while the server stops."""
        ...


class Budget:
    """The memory and the time for the bodies that a server receives and sends.

    Attributes
    ----------
    bytes_held : int
        Bytes of the bodies of unanswered requests and of replies that are still being sent.
    body_seconds, slowest : float
        Time limit for a body: `body_seconds` plus its length at `slowest` bytes a second.
    """

    def __init__(self) -> None:
        self.bytes_held = 0
        self.memory = Memory()
        self.body_seconds = 60.0
        self.slowest = float(1 << 17)

    def seconds_for(self, nbytes: int) -> float:
        """Return the time limit for a body, in seconds."""
        return self.body_seconds + nbytes / self.slowest

    def take(self, nbytes: int, most: int) -> memoryview:
        """Return memory for a body.

        Raises
        ------
        Failure
            If pending bodies use too much, or there is no memory.
        """
        if self.bytes_held and self.bytes_held + nbytes > most:
            raise Failure(
                429,
                "Overloaded",
                f"requests and replies under way hold {self.bytes_held} bytes, {nbytes} more are over {most}; "
                "try again",
                headers={"Retry-After": "1"},
            )
        try:  # untouched memory: a declared body that is never sent costs nothing
            body = self.memory.take(nbytes)
        except MemoryError:
            raise Failure(413, "TooLarge", f"there is no memory for the {nbytes} bytes of the body") from None
        self.bytes_held += nbytes
        return body

    def release(self, nbytes: int) -> None:
        """Return the memory of a body."""
        self.bytes_held -= nbytes


class Outgoing(NamedTuple):
    """A reply with all headers but those of its transport."""

    status: int
    headers: dict[str, str]
    body: wire.Body


class Exchange:
    """A request that arrives, and its reply.

    Attributes
    ----------
    refusal : Failure or None
        Why the request is refused.
    body : memoryview or None
        Memory for the body; None if it is discarded or has no declared length.
    """

    def __init__(
        self,
        application: Application,
        budget: Budget,
        method: str,
        path: str,
        headers: Mapping[str, str],
    ):
        self._application = application
        self._budget = budget
        self._method, self._path, self._headers = method, path, headers
        self._route: Route | None = None
        self._limit = 0
        self._chunks: list[bytes] = []
        self._received = 0
        self._held = 0
        self._answering = False
        self.refusal: Failure | None = None
        self.body: memoryview | None = None

    def admit(self, length: int | None, *, authorized: bool = False) -> None:
        """Find the route, and allocate memory for the body.

        Parameters
        ----------
        length : int or None
            Declared length of the body; None for a chunked body.
        authorized : bool
            Whether the connection has shown the token.

        Raises
        ------
        Failure
            If the request is refused.
        """
        application = self._application
        self._route, self._limit = admit(
            application, self._method, self._path, self._headers, length, authorized=authorized
        )
        if length or self._route.counted:
            self.body = self._budget.take(length or 0, _BODIES * application.max_body)
            self._held = length or 0
        else:
            self.body = memoryview(b"")

    @property
    def is_trusted(self) -> bool:
        """Whether the request was authorized by the token, or the server needs none."""
        route = self._route
        return self.refusal is None and route is not None and not (route.readable or route.sealed)

    def add(self, chunk: bytes, *, chunked: bool) -> None:
        """Store the next bytes of the body.

        Raises
        ------
        Failure
            If a chunked body is too long.
        """
        if self.body is None:
            return
        received = self._received + len(chunk)
        if chunked:
            if received > self._limit:
                raise too_large(received, self._limit)
            self._budget.release(-len(chunk))
            self._held += len(chunk)
            self._chunks.append(chunk)
        else:
            self.body[self._received : received] = chunk
        self._received = received

    def refuse(self, failure: Failure) -> None:
        """Refuse the request, and free its memory."""
        self.refusal = failure
        self.release()

    def release(self) -> None:
        """Free the memory of the body; idempotent."""
        self._budget.release(self._held)
        self._held, self._chunks, self.body = 0, [], None

    def leave(self) -> None:
        """Drop a request whose connection is closed; a reply in progress is still stored under its key."""
        if not self._answering:
            self.release()

    async def respond(self) -> Outgoing:
        """Answer the request, which is complete or refused."""
        self._answering = True
        try:
            reply = await self._answer()
            return self._outgoing(200 if reply.body.content_type else 204, reply.body, reply.headers)
        except Exception as error:
            return self._failed(error)
        finally:
            self.release()

    def _failed(self, error: Exception) -> Outgoing:
        failure = failure_of(error)
        if failure.status == 500 and not isinstance(error, Failure):
            log.warning("%s %s failed", self._method, self._path, exc_info=trim(error))
        try:
            return self._outgoing(failure.status, self._error_body(failure), failure.headers)
        except (TypeError, ValueError) as unsendable:
            return self.unsendable(f"error {failure.error}", unsendable)

    def unsendable(self, what: str, reason: Exception) -> Outgoing:
        """Return the reply in place of one that cannot be sent."""
        failure = Failure(500, "RemoteFailure", f"the {what} cannot be sent: {reason}")
        return self._outgoing(failure.status, self._error_body(failure), {})

    async def _answer(self) -> Reply:
        if self.refusal is not None:
            raise self.refusal
        if self._application.draining:
            raise self._application.stopping()
        assert self._route is not None, "refused otherwise"
        assert self.body is not None, "refused otherwise"
        body = memoryview(b"".join(self._chunks)) if self._chunks else self.body.toreadonly()
        client = self._headers.get(CLIENT)
        request = Request(
            method=self._method,
            path=self._path,
            headers=self._headers,
            body=body,
            client=client if client and len(client) <= _MAX_CLIENT_ID else None,
            digest=self._digest(body),
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

    def _outgoing(self, status: int, body: wire.Body, extra: Mapping[str, str]) -> Outgoing:
        headers = {PROTOCOL: wire.PROTOCOL, EPOCH: self._application.epoch, **extra}
        algorithm = wanted_algorithm(self._headers.get(CONTENT_DIGEST), self._headers.get(WANT_CONTENT_DIGEST))
        if algorithm is not None:
            headers[CONTENT_DIGEST] = content_digest(body, algorithm)
        if body.content_type is not None:
            headers["Content-Type"] = body.content_type
        return Outgoing(status, headers, body)
