"""Heads of HTTP/1.1 messages: start line and headers, strictly parsed and safely written.

Ambiguous heads are refused: lines that do not end in CRLF, folded lines, spaces before the colon, control characters,
and duplicates of headers that must be unique.
"""

import re
from collections.abc import Iterator, Mapping
from typing import NamedTuple, overload

#: The end of a head.
END = b"\r\n\r\n"
#: Maximum length of a head in bytes, and maximum number of headers.
MAX_HEAD = 1 << 16
MAX_HEADERS = 100

_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]"
_TEXT = r"[^\x00-\x08\x0a-\x1f\x7f]"
#: Possessive quantifiers throughout: no input causes backtracking.
_LINES = re.compile(rf"(?:{_TOKEN}++:{_TEXT}*+\r\n)*+\r\n")
_LINE = re.compile(rf"({_TOKEN}++):({_TEXT}*+)\r\n")
_HEAD = re.compile(
    rf"(?:HTTP/1\.1 [0-9]+ [ -~]*|[A-Z]+ [^\x00-\x20\x7f]+ HTTP/1\.1)\r\n(?:{_TOKEN}++:{_TEXT}*+\r\n)*+\r\n"
)
_REQUEST = re.compile(rf"({_TOKEN}++) ([!-~]++) (HTTP/1\.[01])")
_STATUS = re.compile(r"(HTTP/1\.[01]) ([1-9][0-9][0-9])(?: .*)?")
#: Headers that decide how a request is read; duplicates would make it ambiguous.
_ONCE = frozenset({"host", "content-length", "transfer-encoding", "x-labnet-token", "idempotency-key", "origin"})


class Headers(Mapping[str, str]):
    """Case-insensitive headers; repeated ones are joined by commas.

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

    @overload  # type: ignore[override]
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return a header or the default."""
        return self._values.get(name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and name.lower() in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


class RequestHead(NamedTuple):
    """The start line and headers of a request."""

    method: str
    target: str
    version: str
    headers: Headers

    @property
    def asks_to_continue(self) -> bool:
        """Whether the client waits for ``100 Continue``, which HTTP/1.0 does not have."""
        return self.version == "HTTP/1.1" and self.headers.get("Expect", "").lower() == "100-continue"


def parse_request(head: bytes) -> RequestHead:
    r"""Parse the head of a request, including the empty line at its end.

    Raises
    ------
    ValueError
        If it is malformed or ambiguous.

    Examples
    --------
    >>> parse_request(b"GET /health HTTP/1.1\r\nHost: localhost\r\n\r\n").headers["host"]
    'localhost'
    """
    text = head.decode("latin-1")
    end = text.index("\r\n")
    line = _REQUEST.fullmatch(text, 0, end)
    if line is None:
        raise ValueError(f"not the first line of a request of HTTP/1.1: {text[:end]!r:.80}")
    return RequestHead(line[1], line[2], line[3], _parse_headers(text, end + 2, once=_ONCE))


def parse_reply(head: bytes) -> tuple[str, int, Headers]:
    r"""Parse the head of a reply; return its version, status and headers.

    Raises
    ------
    ValueError
        If it is malformed.

    Examples
    --------
    >>> parse_reply(b"HTTP/1.1 204 No Content\r\n\r\n")[:2]
    ('HTTP/1.1', 204)
    """
    text = head.decode("utf-8", "surrogateescape")
    end = text.index("\r\n")
    status = _STATUS.fullmatch(text, 0, end)
    if status is None:
        raise ValueError(f"not the beginning of a reply: {text[:end]!r:.60}")
    return status[1], int(status[2]), _parse_headers(text, end + 2)


def _parse_headers(text: str, start: int, *, once: frozenset[str] = frozenset()) -> Headers:
    """Parse the header lines from a position on."""
    if _LINES.fullmatch(text, start) is None:
        raise ValueError(f"not a header: {_first_bad(text[start:])!r:.60}")
    lines = _LINE.findall(text, start)
    if len(lines) > MAX_HEADERS:
        raise ValueError(f"{len(lines)} headers: expected at most {MAX_HEADERS}")
    values = {name.lower(): value.strip(" \t") for name, value in lines}
    if len(values) < len(lines):
        values = _join(lines, once)
    return Headers(values)


def _join(lines: list[tuple[str, str]], once: frozenset[str]) -> dict[str, str]:
    values: dict[str, str] = {}
    for name, value in lines:
        name, value = name.lower(), value.strip(" \t")
        if name in values and name in once:
            raise ValueError(f"header {name!r} came twice: {values[name]!r:.40} and {value!r:.40}")
        values[name] = f"{values[name]},{value}" if name in values else value
    return values


def _first_bad(text: str) -> str:
    return next((line for line in text.split("\r\n") if not _LINE.fullmatch(line + "\r\n")), text)


def write_head(first_line: str, headers: Mapping[str, str]) -> bytes:
    r"""Return the head of a message.

    Raises
    ------
    ValueError
        If a name or value contains a line break or another control character.

    Examples
    --------
    >>> write_head("GET /health HTTP/1.1", {"Host": "localhost:3000"})
    b'GET /health HTTP/1.1\r\nHost: localhost:3000\r\n\r\n'
    """
    text = first_line + "\r\n" + "".join([f"{name}: {value}\r\n" for name, value in headers.items()]) + "\r\n"
    if text.count("\n") != len(headers) + 2 or _HEAD.fullmatch(text) is None:
        raise _unsendable(first_line, headers)
    return text.encode("utf-8")


def _unsendable(first_line: str, headers: Mapping[str, str]) -> ValueError:
    for name, value in headers.items():
        if not _LINE.fullmatch(f"{name}: {value}\r\n"):
            return ValueError(f"header {name!r:.60} with value {value!r:.60} cannot be sent")
    return ValueError(f"{first_line!r:.80} cannot be sent: it has spaces or control characters")
