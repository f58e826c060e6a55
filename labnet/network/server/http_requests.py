"""Requests over HTTP: Tornado reads and writes the messages."""

import asyncio
import contextlib
import socket
import ssl
import time
from collections.abc import Awaitable
from email.utils import formatdate
from http import HTTPStatus
from typing import Any
from urllib.parse import urlsplit

from tornado.http1connection import HTTP1Connection
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    HTTPServerConnectionDelegate,
    HTTPServerRequest,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import StreamClosedError
from tornado.web import Application as Handlers

from labnet import wire
from labnet.network.protocol.frames import PATH, UPGRADE
from labnet.network.protocol.headers import PROTOCOL, TOKEN_HEADER
from labnet.network.server.admission import authorize, check_protocol
from labnet.network.server.channel_requests import ChannelRequests
from labnet.network.server.handler import Application, Budget, Exchange, Outgoing
from labnet.network.server.routing import Failure, path_of
from labnet.network.transport.connection_limit import Connections
from labnet.network.transport.server import Open, TornadoServer

#: Longest refused body that is still read, so that the client can read the error, in bytes.
_DRAIN = 1 << 28
#: Headers that must not be repeated, because a proxy may have decided by another one of them.
_ONCE = ("Host", "Content-Length", "Transfer-Encoding", "Origin", TOKEN_HEADER, "Idempotency-Key")
_HUGE = 1 << 62


class Listener(HTTPServerConnectionDelegate):
    """The connections of a server and the requests that they bring.

    Attributes
    ----------
    tasks : set of asyncio.Task
        The replies in progress.
    """

    def __init__(self, application: Application):
        self.application = application
        self.budget = Budget()
        self.channels = ChannelRequests(application, self.budget, self.keep)
        self.tasks: set[asyncio.Task[None]] = set()
        self._server: TornadoServer | None = None

    def listen(self, bound: socket.socket, context: ssl.SSLContext | None) -> None:
        """Accept connections on a bound socket, which is taken over; runs on the event loop."""
        self._server = TornadoServer.on(bound, self, context)

    @property
    def server(self) -> TornadoServer:
        """The Tornado server."""
        assert self._server is not None, "listens"
        return self._server

    def stop(self, *, returns: bool) -> None:
        """Stop accepting connections, and tell the clients."""
        if self._server is not None:
            self._server.stop()
        self.channels.announce_stop(returns=returns)

    @property
    def connections(self) -> Connections[Open]:
        """The open connections."""
        return self.server.connections

    @property
    def is_sending(self) -> bool:
        """Whether a reply is being sent."""
        return self._server is not None and self._server.is_sending

    def close(self) -> None:
        """Close all connections."""
        if self._server is not None:
            for connection in list(self._server.connections):
                connection.close()

    def abandon(self) -> None:
        """Leave the connections to the parent process, in a forked child."""
        if self._server is not None:
            self._server.abandon()

    def start_request(self, server_conn: Any, request_conn: Any) -> HTTPMessageDelegate:
        """Start a request on a connection, whose previous one has been answered."""
        if self.connections.is_active(server_conn.stream):  # by a Tornado handler
            self.connections.waits(server_conn.stream)
        return _HttpExchange(self, server_conn, request_conn)

    def keep(self, task: "asyncio.Task[None]") -> None:
        """Let a stopping server wait for a reply in progress."""
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)


class _HttpExchange(HTTPMessageDelegate):
    """One request over HTTP."""

    def __init__(self, owner: Listener, server_conn: Any, connection: HTTP1Connection):
        self._owner = owner
        self._stream = server_conn.stream
        self._server_conn = server_conn
        self._connection = connection
        self._exchange: Exchange | None = None
        self._handler: HTTPMessageDelegate | None = None
        self._method = ""
        self._chunked = self._replied = self._is_browser = self._last = False

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> Awaitable[None] | None:
        """Check a request whose head has arrived."""
        assert isinstance(start_line, RequestStartLine)
        owner, application = self._owner, self._owner.application
        owner.server.head_arrived(self._stream)
        self._connection.set_max_body_size(_HUGE)
        self._method, self._is_browser = start_line.method, PROTOCOL not in headers
        self._chunked = "Transfer-Encoding" in headers
        method = "GET" if self._method == "HEAD" else self._method
        self._last = "close" in headers.get("Connection", "").lower().replace(" ", "").split(",")
        _normalize_expectation(start_line, headers)
        length: int | None = None if self._chunked else _declared_length(headers)
        repeated = length == -1 and "," in headers["Content-Length"]
        if length == -1 and not repeated:
            return None  # Tornado refuses it
        length = _HUGE if repeated else length
        self._connection.set_body_timeout(owner.budget.seconds_for(application.max_body if length is None else length))
        path = path_of(start_line.path)
        exchange = Exchange(application, owner.budget, method, path, headers)
        try:
            _check_once(headers)
            if repeated:
                raise Failure(400, "BadRequest", f"Content-Length is {headers['Content-Length']!r:.40}, not one number")
            if path == PATH:
                _check_host(start_line, headers)
                self._open_channel(headers)
                return None
            if path not in application.routes and application.handlers is not None:
                handler = self._find_handler(application.handlers, start_line, headers)
                if handler is not None:
                    authorize(application, headers, readable=False)
                    _check_host(start_line, headers)
                    owner.connections.asks(self._stream)
                    self._connection.set_max_body_size(application.max_body)
                    self._handler = handler
                    return handler.headers_received(start_line, headers)
            exchange.admit(length)
            _check_host(start_line, headers)
        except Failure as failure:
            exchange.refuse(failure)
        self._exchange = exchange
        if exchange.is_trusted:
            owner.connections.asks(self._stream)
        if exchange.refusal is not None and (length is None or length > _DRAIN or (length and "Expect" in headers)):
            self._last = True
            return self._reply()
        return None

    def _find_handler(
        self, handlers: Handlers, start_line: RequestStartLine, headers: HTTPHeaders
    ) -> HTTPMessageDelegate | None:
        """Return the Tornado handler of a request."""
        request = HTTPServerRequest(
            connection=self._connection, server_connection=self._server_conn, start_line=start_line, headers=headers
        )
        return handlers.wildcard_router.find_handler(request)

    def _open_channel(self, headers: HTTPHeaders) -> None:
        """Hand the connection over to a channel.

        Raises
        ------
        Failure
            If the request does not ask for one, or is refused.
        """
        application = self._owner.application
        authorize(application, headers, readable=False)
        check_protocol(headers)
        if self._method != "GET" or headers.get("Upgrade", "").lower() != UPGRADE:
            raise Failure(
                426,
                "BadRequest",
                f"{PATH} opens a channel: send GET with Connection: Upgrade and Upgrade: {UPGRADE}",
                headers={"Upgrade": UPGRADE, "Connection": "Upgrade"},
            )
        if application.draining:
            raise application.stopping()
        accepted = HTTPHeaders({"Connection": "Upgrade", "Upgrade": UPGRADE, PROTOCOL: wire.PROTOCOL})
        self._connection.write_headers(ResponseStartLine("HTTP/1.1", 101, "Switching Protocols"), accepted)
        self._replied = True
        self._owner.channels.open(self._connection.detach(), self._owner.connections)

    def data_received(self, chunk: bytes) -> Awaitable[None] | None:
        """Store a part of the body."""
        if self._handler is not None:
            return self._handler.data_received(chunk)
        if self._exchange is not None and not self._replied:
            try:
                self._exchange.add(chunk, chunked=self._chunked)
            except Failure as failure:
                self._exchange.refuse(failure)
                self._last = True
                return self._reply()
        return None

    def finish(self) -> None:
        """Answer the request, which is complete."""
        if self._handler is not None:
            self._handler.finish()
        elif self._exchange is not None and not self._replied:
            self._reply()

    def on_connection_close(self) -> None:
        """Drop the request."""
        if self._handler is not None:
            self._handler.on_connection_close()
        elif self._exchange is not None:
            self._exchange.leave()

    def _reply(self) -> "asyncio.Task[None]":
        self._replied = True
        assert self._exchange is not None, "made for every request without a Tornado handler"
        self._task = asyncio.ensure_future(self._respond(self._exchange))
        self._owner.keep(self._task)
        return self._task

    async def _respond(self, exchange: Exchange) -> None:
        try:
            outgoing = await exchange.respond()
            try:
                await self._send(outgoing)
            except (ValueError, TypeError) as error:
                await self._send(exchange.unsendable("reply", error))
        except BaseException:  # no reply will follow: do not let the client wait
            self._stream.close()
            raise
        if self._last:
            self._stream.close()
        elif not self._stream.closed():
            self._owner.connections.waits(self._stream)

    async def _send(self, outgoing: Outgoing) -> None:
        """Send a reply; close the connection of a client that does not read it in time."""
        body, headers = outgoing.body, HTTPHeaders()
        for name, value in outgoing.headers.items():
            headers.add(name, value)
        if self._is_browser:
            for name, value in (("Cache-Control", "no-store"), ("X-Content-Type-Options", "nosniff")):
                if name not in headers:
                    headers[name] = value
            headers["Date"] = formatdate(time.time(), usegmt=True)
        if outgoing.status != 204:
            headers["Content-Length"] = str(body.nbytes)
        if self._last:
            headers["Connection"] = "close"
        first, others = wire.in_one_piece(body.parts if self._method != "HEAD" else [])
        line = ResponseStartLine("HTTP/1.1", outgoing.status, HTTPStatus(outgoing.status).phrase)
        sent = self._connection.write_headers(line, headers, first)
        for part in others:
            sent = self._connection.write(part)  # type: ignore[arg-type]  # a memoryview is sent without a copy
        self._connection.finish()
        if sent.done():
            sent.exception()
            return
        self._owner.budget.release(-body.nbytes)
        try:
            async with asyncio.timeout(self._owner.budget.seconds_for(body.nbytes)):
                with contextlib.suppress(StreamClosedError):
                    await sent
        except TimeoutError:
            self._stream.close()
        finally:
            self._owner.budget.release(body.nbytes)


def _declared_length(headers: HTTPHeaders) -> int:
    """Return the declared length of a body; -1 if it is no number."""
    text = headers.get("Content-Length", "0")
    if not (text.isascii() and text.isdigit()):
        return -1
    return min(int(text.lstrip("0")[:20] or "0"), _HUGE)


def _normalize_expectation(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Let Tornado see an expectation in any case of letters, and none in HTTP/1.0, which does not have it."""
    if "Expect" in headers:
        if start_line.version == "HTTP/1.0":
            del headers["Expect"]
        else:
            headers["Expect"] = headers["Expect"].lower()


def _check_once(headers: HTTPHeaders) -> None:
    """Refuse a request that repeats a header by which others may have decided.

    Raises
    ------
    Failure
        If it does.
    """
    for name in _ONCE:
        if len(headers.get_list(name)) > 1:
            raise Failure(400, "BadRequest", f"header {name!r} came twice")


def _check_host(start_line: RequestStartLine, headers: HTTPHeaders) -> None:
    """Refuse a request without a host, or with two different ones.

    Raises
    ------
    Failure
        If it is one.
    """
    if start_line.version == "HTTP/1.1" and "Host" not in headers:
        raise Failure(400, "BadRequest", "a request of HTTP/1.1 needs a header Host")
    target = start_line.path
    if target.startswith(("http://", "https://")) and urlsplit(target).netloc != headers.get("Host"):
        raise Failure(400, "BadRequest", f"host {headers.get('Host')!r:.80} is not that of {target!r:.80}")
