"""One request and its reply on an open connection, as HTTP/1.1 has it.

Only what a client of labnet needs: no more than one request is under way on a connection, and nothing is followed
or interpreted. Replies may also come from a proxy, so every way of marking the end of a body is read.
"""

import contextlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from tornado.iostream import IOStream, StreamClosedError, UnsatisfiableReadError

from labnet import codec, wire

#: How far an attempt got: there is a connection, or a reply has begun.
Stage = Literal["connected", "answered"]

#: Longest reply that is read, in bytes.
MAX_REPLY = 1 << 34
_MAX_HEAD = 1 << 16
_NAME = re.compile(r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+")
_NOT_IN_VALUES = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_STATUS = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9][0-9])(?: .*)?")


class Headers(Mapping[str, str]):
    """Headers of a reply, found whatever the case of their letters; repeated ones are joined by commas.

    Examples
    --------
    >>> Headers({"content-type": "text/plain"}).get("Content-Type")
    'text/plain'
    """

    __slots__ = ("_values",)

    def __init__(self, values: dict[str, str]):
        self._values = values

    def __getitem__(self, name: str) -> str:
        return self._values[name.lower()]

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


@dataclass(frozen=True)
class Response:
    """A reply that was received completely."""

    status: int
    headers: Headers
    body: bytearray | bytes


def request_head(method: str, path: str, headers: Mapping[str, str]) -> bytes:
    r"""Return what comes before the body of a request.

    Raises
    ------
    ValueError
        If a name or value could not stand in one line.

    Examples
    --------
    >>> request_head("GET", "/health", {"Host": "localhost:3000"})
    b'GET /health HTTP/1.1\r\nHost: localhost:3000\r\n\r\n'
    """
    lines = [f"{method} {path} HTTP/1.1"]
    for name, value in headers.items():
        line = f"{name}: {value}"
        if _NOT_IN_VALUES.search(line) or not _NAME.fullmatch(name):
            raise ValueError(f"header {name!r:.60} with value {value!r:.60} cannot be sent")
        lines.append(line)
    if " " in path or _NOT_IN_VALUES.search(path):
        raise ValueError(f"path {path!r:.80} cannot be sent: it has spaces or control characters")
    lines.append("\r\n")
    return "\r\n".join(lines).encode("utf-8")


def parse_head(head: bytes) -> tuple[str, int, Headers]:
    r"""Return version, status and headers of a reply.

    Raises
    ------
    ValueError
        If it is none.

    Examples
    --------
    >>> parse_head(b"HTTP/1.1 204 No Content\r\n\r\n")[:2]
    ('HTTP/1.1', 204)
    """
    first, *lines = head.decode("utf-8", "surrogateescape").split("\r\n")[:-2]
    status = _STATUS.fullmatch(first)
    if status is None:
        raise ValueError(f"not the beginning of a reply: {first!r:.60}")
    values: dict[str, str] = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name):
            raise ValueError(f"not a header: {line!r:.60}")
        name, value = name.lower(), value.strip(" \t")
        values[name] = f"{values[name]},{value}" if name in values else value
    return status[1], int(status[2]), Headers(values)


async def exchange(
    stream: IOStream,
    method: str,
    path: str,
    headers: Mapping[str, str],
    parts: Sequence[codec.Part],
    reached: Callable[[Stage], None],
) -> tuple[Response, bool]:
    """Send one request on a connection and read its reply; tell whether the connection can be used again.

    Raises
    ------
    StreamClosedError
        If the connection broke, or what came is no reply.
    """
    first, others = wire.in_one_piece(parts)
    sent = stream.write(request_head(method, path, headers) + (first or b""))
    with contextlib.suppress(StreamClosedError):  # refused half-way: the reply says why
        for part in others:
            sent = stream.write(part)  # a memoryview is sent without a copy
    try:
        response, keeps_open = await _read(stream, reached)
    except (ValueError, UnsatisfiableReadError) as error:
        raise StreamClosedError(real_error=ConnectionResetError(f"the reply is malformed: {error}")) from error
    finally:
        if sent.done():
            sent.exception()  # the reply has said why
        else:
            sent.add_done_callback(lambda future: future.cancelled() or future.exception())
    return response, keeps_open and sent.done() and not stream.closed()


async def _read(stream: IOStream, reached: Callable[[Stage], None]) -> tuple[Response, bool]:
    while True:
        head = await stream.read_until(b"\r\n\r\n", max_bytes=_MAX_HEAD)
        version, status, headers = parse_head(head)
        if status >= 200:
            break
    reached("answered")
    keeps_open = version == "HTTP/1.1" and headers.get("Connection", "").lower() != "close"
    if status in (204, 304):
        return Response(status, headers, b""), keeps_open
    if "Transfer-Encoding" in headers:
        if headers["Transfer-Encoding"].lower() != "chunked" or "Content-Length" in headers:
            raise ValueError("neither a length nor chunks alone")
        return Response(status, headers, await _read_chunks(stream)), keeps_open
    if "Content-Length" not in headers:
        return Response(status, headers, await stream.read_until_close()), False
    text = headers["Content-Length"]
    if not (text.isascii() and text.isdigit() and int(text) <= MAX_REPLY):
        raise ValueError(f"Content-Length {text!r:.40}")
    body = bytearray(int(text))
    if body:
        await stream.read_into(body)
    return Response(status, headers, body), keeps_open


async def _read_chunks(stream: IOStream) -> bytes:
    chunks, total = [], 0
    while True:
        line = await stream.read_until(b"\r\n", max_bytes=_MAX_HEAD)
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
    while await stream.read_until(b"\r\n", max_bytes=_MAX_HEAD) != b"\r\n":
        pass  # trailers say nothing that matters here
    return b"".join(chunks)
