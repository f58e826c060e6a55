"""A Tornado HTTP server on a bound socket, with a limit of open connections."""

import asyncio
import contextlib
import errno
import json
import os
import socket
import ssl
from collections.abc import Callable, Hashable
from typing import Any, Protocol

from tornado.httpserver import HTTPServer
from tornado.httputil import HTTPServerConnectionDelegate
from tornado.iostream import IOStream

from labnet.network.protocol.frames import MAX_HEAD
from labnet.network.transport.connection_limit import Connections, most_connections

#: Longest time that an open connection may be without a request, in seconds; and that a new one may take to send the
#: head of its first request.
IDLE_SECONDS = 120.0
FIRST_SECONDS = 10.0
_CHUNK = 1 << 18
_TOO_MANY_FILES = (errno.EMFILE, errno.ENFILE)


class Open(Hashable, Protocol):
    """An open connection: a stream of Tornado's, or a channel on one.

    Attributes
    ----------
    socket : socket
        Its socket.
    """

    socket: Any

    def writing(self) -> bool:
        """Return whether a reply is being sent."""
        ...

    def close(self) -> None:
        """Close it."""


class ListeningSocket(socket.socket):
    """A listening socket that stays usable when the process has no file descriptor left.

    An idle connection is closed to make room. If there is none, the new connection is accepted with a spare
    descriptor and closed, so that its client does not wait and the event loop does not spin.
    """

    make_room: Callable[[], bool]
    _spare: int

    @classmethod
    def of(cls, bound: socket.socket, make_room: Callable[[], bool]) -> "ListeningSocket":
        """Take over a bound socket."""
        made = cls(bound.family, bound.type, bound.proto, fileno=bound.detach())
        made.setblocking(False)
        made.make_room = make_room
        made._spare = os.open(os.devnull, os.O_RDONLY)
        return made

    def accept(self) -> tuple[socket.socket, Any]:
        """Accept a connection; see `socket.socket.accept`."""
        while True:
            try:
                return super().accept()
            except OSError as error:
                if error.errno not in _TOO_MANY_FILES:
                    raise
            if not self.make_room():
                self._refuse()

    def _refuse(self) -> None:
        """Accept a connection with the spare descriptor, and close it."""
        os.close(self._spare)
        try:
            super().accept()[0].close()
        except OSError as error:
            if error.errno in _TOO_MANY_FILES:  # another thread took the descriptor
                raise BlockingIOError from None
            raise
        finally:
            with contextlib.suppress(OSError):
                self._spare = os.open(os.devnull, os.O_RDONLY)

    def close(self) -> None:
        """Close the socket and the spare descriptor."""
        if self.fileno() >= 0:
            with contextlib.suppress(OSError):
                os.close(self._spare)
        super().close()


def _refusal(error: str, message: str) -> bytes:
    """Return a reply for a client that has another idea of the transport."""
    body = json.dumps({"error": error, "message": message, "call": None, "server": None})
    head = f"HTTP/1.1 400 Bad Request\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    return f"{head}Connection: close\r\n\r\n{body}".encode()


_SPEAKS_HTTP = _refusal("ProtocolMismatch", "this server speaks http, not https: use http:// in its address")
_SPEAKS_HTTPS = _refusal("ProtocolMismatch", "this server speaks https, not http: use https:// in its address")
#: First byte of a client that begins with TLS.
_HANDSHAKE = 0x16


class _PlainStream(IOStream):
    """A connection that is refused at once if its client begins with TLS, which would wait for the handshake."""

    def read_from_fd(self, buf: Any) -> int | None:
        """Read the first bytes; further ones are read as by every stream."""
        count = super().read_from_fd(buf)
        if count:
            self.read_from_fd = super().read_from_fd  # type: ignore[method-assign]
            if buf[0] == _HANDSHAKE:
                with contextlib.suppress(OSError):
                    self.socket.send(_SPEAKS_HTTP)
                return 0  # the end
        return count


class _TlsSocket(ssl.SSLSocket):
    """A connection that answers a client without TLS in its own language."""

    def do_handshake(self, block: bool = False) -> None:
        """Perform the handshake; see `ssl.SSLSocket.do_handshake`."""
        try:
            super().do_handshake(block)
        except ssl.SSLError as error:
            if error.reason == "HTTP_REQUEST":
                with contextlib.suppress(OSError):
                    socket.socket.recv(self, _CHUNK)  # unread bytes would reset the connection
                    socket.socket.send(self, _SPEAKS_HTTPS)
            raise


class TornadoServer(HTTPServer):
    """An HTTP server that tracks its connections.

    Attributes
    ----------
    first_seconds : float
        Time limit for the head of the first request of a connection.
    """

    connections: Connections[Open]
    first_seconds = FIRST_SECONDS
    _first: dict[IOStream, asyncio.TimerHandle]
    _handed_over: set[IOStream]
    _listening: ListeningSocket

    @classmethod
    def on(
        cls, bound: socket.socket, requests: HTTPServerConnectionDelegate, context: ssl.SSLContext | None
    ) -> "TornadoServer":
        """Serve requests on a bound socket, which is taken over; runs on the event loop."""
        if context is not None and context.sslsocket_class is ssl.SSLSocket:
            context.sslsocket_class = _TlsSocket
        server = cls(
            requests,
            ssl_options=context,
            idle_connection_timeout=IDLE_SECONDS,
            max_header_size=MAX_HEAD,
            chunk_size=_CHUNK,
        )
        server.connections = Connections(lambda connection: connection.close(), limit=most_connections())
        server._first, server._handed_over = {}, set()
        server._listening = ListeningSocket.of(bound, server.connections.make_room)
        server.add_socket(server._listening)
        return server

    def stop(self) -> None:
        """Stop accepting connections."""
        with contextlib.suppress(OSError):  # some systems support it for connections only
            self._listening.shutdown(socket.SHUT_RDWR)  # a process that was just forked may share the socket
        super().stop()

    def abandon(self) -> None:
        """Close only the descriptors of a forked child; the parent keeps the connections."""
        self._listening.close()
        for connection in self.connections:
            if connection.socket is not None:
                connection.socket.close()

    @property
    def is_sending(self) -> bool:
        """Whether a reply is being sent."""
        return any(connection.writing() for connection in self.connections)

    def _handle_connection(self, connection: socket.socket, address: Any) -> None:
        if self.ssl_options is not None:
            super()._handle_connection(connection, address)
        else:
            stream = _PlainStream(
                connection, max_buffer_size=self.max_buffer_size, read_chunk_size=self.read_chunk_size
            )
            self.handle_stream(stream, address)

    def handle_stream(self, stream: IOStream, address: Any) -> None:
        """Serve a new connection."""
        for closed in [handed for handed in self._handed_over if handed.closed()]:
            self._handed_over.discard(closed)
            self.connections.leaves(closed)
        self._first[stream] = asyncio.get_running_loop().call_later(self.first_seconds, self._overdue, stream)
        self.connections.waits(stream)
        super().handle_stream(stream, address)

    def on_close(self, server_conn: Any) -> None:
        """Remove a connection that was closed; one that a WebSocket has taken over counts until then."""
        super().on_close(server_conn)
        stream = server_conn.stream
        self.head_arrived(stream)
        if stream.closed():
            self.connections.leaves(stream)
        elif self.connections.is_active(stream):
            self._handed_over.add(stream)

    def head_arrived(self, stream: IOStream) -> None:
        """Record that the head of a request has arrived."""
        first = self._first.pop(stream, None)
        if first is not None:
            first.cancel()

    def _overdue(self, stream: IOStream) -> None:
        del self._first[stream]
        stream.close()
