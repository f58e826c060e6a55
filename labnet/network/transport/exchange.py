"""One HTTP request and its reply on an open connection, over Tornado's HTTP/1.1.

One request at a time per connection, and no redirects. Replies may come from a proxy, in every framing of HTTP/1.1.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tornado.http1connection import HTTP1Connection, HTTP1ConnectionParameters
from tornado.httputil import (
    HTTPHeaders,
    HTTPMessageDelegate,
    RequestStartLine,
    ResponseStartLine,
)
from tornado.iostream import IOStream, StreamClosedError

from labnet import codec, wire
from labnet.network.protocol.frames import MAX_HEAD
from labnet.network.transport.buffers import Memory
from labnet.network.transport.response import MAX_REPLY, Response, Stage

_PARAMETERS = HTTP1ConnectionParameters(
    max_header_size=MAX_HEAD, max_body_size=MAX_REPLY, chunk_size=1 << 18, decompress=False
)


class _Reply(HTTPMessageDelegate):
    """Collects a reply; a body of known length is written into its final memory."""

    def __init__(self, reached: Callable[[Stage], None], memory: Memory):
        self._reached = reached
        self._memory = memory
        self._body: memoryview | None = None
        self._chunks: list[bytes] = []
        self._position = 0
        self.status = 0
        self.headers: HTTPHeaders = HTTPHeaders()
        self.version = ""
        self.finished = False

    def headers_received(self, start_line: Any, headers: HTTPHeaders) -> None:
        """Record the head; an interim reply is followed by another."""
        assert isinstance(start_line, ResponseStartLine)
        self.version, self.status, self.headers = start_line.version, start_line.code, headers
        if self.status < 200:
            return
        length = headers.get("Content-Length", "")
        if length.isascii() and length.isdigit() and int(length) <= MAX_REPLY and "Transfer-Encoding" not in headers:
            self._body = self._memory.take(int(length))
        self._reached("answered")

    def data_received(self, chunk: bytes) -> None:
        """Store a part of the body."""
        if self._body is None:
            self._chunks.append(chunk)
        else:
            self._body[self._position : self._position + len(chunk)] = chunk
            self._position += len(chunk)

    def finish(self) -> None:
        """Record that the reply is complete."""
        self.finished = True

    @property
    def body(self) -> memoryview | bytes:
        """The complete body."""
        return b"".join(self._chunks) if self._body is None else self._body

    @property
    def keeps_open(self) -> bool:
        """Whether the connection may be used again."""
        is_framed = "Content-Length" in self.headers or "Transfer-Encoding" in self.headers or self.status in (204, 304)
        return self.version == "HTTP/1.1" and is_framed and self.headers.get("Connection", "").lower() != "close"


async def exchange(
    stream: IOStream,
    method: str,
    path: str,
    headers: Mapping[str, str],
    parts: Sequence[codec.Part],
    reached: Callable[[Stage], None],
    memory: Memory,
) -> tuple[Response, bool]:
    """Send one request on a connection; return its reply and whether the connection is reusable.

    Raises
    ------
    StreamClosedError
        If the connection broke or the reply is malformed.
    ValueError
        If a header cannot be sent.
    """
    connection = HTTP1Connection(stream, is_client=True, params=_PARAMETERS)
    first, others = wire.in_one_piece(parts)
    head = HTTPHeaders()
    for name, value in headers.items():
        head.add(name, value)
    if "Content-Length" not in head and method != "GET":
        head.add("Content-Length", str(sum(map(len, parts))))
    reply = _Reply(reached, memory)
    sent = connection.write_headers(RequestStartLine(method, path, "HTTP/1.1"), head, first)
    for part in others:
        sent = connection.write(part)  # type: ignore[arg-type]  # a memoryview is sent without a copy
    connection.finish()
    await connection.read_response(reply)
    if not reply.finished:
        raise StreamClosedError(real_error=ConnectionResetError("the reply is malformed, or was cut"))
    usable = reply.keeps_open and sent.done() and not stream.closed() and not _holds_more(stream)
    return Response(reply.status, reply.headers, reply.body), usable


def _holds_more(stream: IOStream) -> bool:
    """Return whether bytes follow the reply, which would be read as the next one."""
    return stream._read_buffer_size > 0
