"""One HTTP/1.1 request and its reply on an open connection.

Only what a labnet client needs: one request at a time per connection, and no redirects. Replies may come from a proxy,
so every framing of a body is read.
"""

import asyncio
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Literal, NamedTuple

from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from labnet import codec, wire
from labnet.network.transport.buffers import Memory
from labnet.network.transport.heads import END, MAX_HEAD, Headers, parse_reply, write_head

#: Stages of an attempt: the connection is open, the reply has begun.
Stage = Literal["connected", "answered"]

#: Longest reply that is read, in bytes.
MAX_REPLY = 1 << 34


class Response(NamedTuple):
    """A complete reply."""

    status: int
    headers: Headers
    body: memoryview | bytes


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
    """
    first, others = wire.in_one_piece(parts)
    sent = stream.write(write_head(f"{method} {path} HTTP/1.1", headers) + first)
    with contextlib.suppress(StreamClosedError):  # refused halfway: the reply says why
        for part in others:
            sent = stream.write(part)  # a memoryview is sent without a copy
    try:
        response, keeps_open = await _read(stream, reached, memory)
    except (ValueError, UnsatisfiableReadError) as error:
        raise StreamClosedError(real_error=ConnectionResetError(f"the reply is malformed: {error}")) from error
    finally:
        if sent.done():
            sent.exception()  # the reply has said why
        else:
            sent.add_done_callback(lambda future: future.cancelled() or future.exception())
    return response, keeps_open and sent.done() and not stream.closed() and not _holds_more(stream)


def _holds_more(stream: IOStream) -> bool:
    """Return whether bytes follow the reply, which would be read as the next one."""
    return stream._read_buffer_size > 0


async def _read(stream: IOStream, reached: Callable[[Stage], None], memory: Memory) -> tuple[Response, bool]:
    while True:
        head = await stream.read_until(END, max_bytes=MAX_HEAD)
        version, status, headers = parse_reply(head)
        if status >= 200:
            break
    keeps_open = version == "HTTP/1.1" and headers.get("Connection", "").lower() != "close"
    if status in (204, 304):
        return Response(status, headers, b""), keeps_open
    if "Content-Length" in headers and "Transfer-Encoding" not in headers:
        body = memory.take(_length(headers["Content-Length"]))
        await _fill(body, stream, reached)
        return Response(status, headers, body), keeps_open
    reached("answered")
    if "Transfer-Encoding" in headers:
        if headers["Transfer-Encoding"].lower() != "chunked" or "Content-Length" in headers:
            raise ValueError("neither a length nor chunks alone")
        return Response(status, headers, await _read_chunks(stream)), keeps_open
    return Response(status, headers, await stream.read_until_close()), False


def _length(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_REPLY):
        raise ValueError(f"Content-Length {text!r:.40}")
    return int(text)


async def _fill(body: memoryview, stream: IOStream, reached: Callable[[Stage], None]) -> None:
    """Receive a body directly into its final memory."""
    if not body:
        return
    reading = asyncio.ensure_future(stream.read_into(body))  # type: ignore[arg-type]  # any writable memory will do
    if not reading.done():
        reached("answered")
    await reading


async def _read_chunks(stream: IOStream) -> bytes:
    chunks, total = [], 0
    while True:
        line = await stream.read_until(b"\r\n", max_bytes=MAX_HEAD)
        digits = line.partition(b";")[0].strip()
        if not re.fullmatch(rb"[0-9a-fA-F]{1,16}", digits):
            raise ValueError(f"size of a chunk {digits!r:.40}")
        size = int(digits, 16)
        total += size
        if total > MAX_REPLY:
            raise ValueError(f"more than {MAX_REPLY} bytes")
        if not size:
            break
        chunks.append(await stream.read_bytes(size))
        if await stream.read_bytes(2) != b"\r\n":
            raise ValueError("a chunk that does not end")
    while await stream.read_until(b"\r\n", max_bytes=MAX_HEAD) != b"\r\n":
        pass  # trailers are ignored
    return b"".join(chunks)
