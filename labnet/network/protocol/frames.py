"""Frames of a channel: their layout and their typed heads, without I/O.

A frame is a prelude of 24 bytes, a head in JSON and a body. The head has the fields of the HTTP headers, named as they
are in lower case, with underscores and without ``Labnet-``. Bodies over `PIECE` continue in frames of kind `DATA`, so
that other frames travel between them. See ``docs/protocol.md``.
"""

import enum
import operator
import struct
from collections.abc import Iterator, Mapping
from typing import overload

import msgspec

#: Kind, bytes of the head, number of the call, bytes of the body; little-endian.
PRELUDE = struct.Struct("<B3xIQQ")
#: Longest part of a body in one frame, in bytes.
PIECE = 1 << 20
#: Longest head in bytes.
MAX_HEAD = 1 << 16
#: Value of the header ``Upgrade``, and path of the request with it.
UPGRADE = "labnet-channel"
PATH = "/channel"


class Kind(enum.IntEnum):
    """The kinds of frames."""

    HELLO = 1  #: The server's first frame.
    REQUEST = 2
    REPLY = 3
    DATA = 4  #: The next part of a body; `number` is that of its request or reply.
    CANCEL = 5  #: The rest of a body will not follow.
    PING = 6
    PONG = 7
    STOP = 8  #: The server is stopping; it answers the calls that it has.


class Head(msgspec.Struct, omit_defaults=True):
    """The head of a request or a reply: one field for each header.

    Attributes
    ----------
    others : dict of str to str
        Headers without a field.
    """

    method: str | None = None
    path: str | None = None
    status: int | None = None
    protocol: str | None = None
    content_type: str | None = None
    content_digest: str | None = None
    want_content_digest: str | None = None
    accept: str | None = None
    client: str | None = None
    idempotency_key: str | None = None
    done: str | None = None
    call: str | None = None
    renews: str | None = None
    refuse: str | None = None
    round: str | None = None
    version: str | None = None
    mode: str | None = None
    epoch: str | None = None
    replayed: str | None = None
    after: str | None = None
    primary: str | None = None
    request: str | None = msgspec.field(default=None, name="for")
    collect: str | None = None
    statistics: str | None = None
    trail: str | None = None
    retry_after: str | None = None
    others: dict[str, str] | None = None


_OF_STANDARDS = (
    "Content-Type",
    "Content-Digest",
    "Want-Content-Digest",
    "Accept",
    "Idempotency-Key",
    "Retry-After",
)
_FIELD_OF = {name.lower(): name.lower().replace("-", "_") for name in _OF_STANDARDS}
_FIELD_OF |= {
    f"labnet-{'for' if field == 'request' else field}": field
    for field in Head.__struct_fields__
    if field not in ("method", "path", "status", "others", *_FIELD_OF.values())
}
_HEADERS = tuple(_FIELD_OF)
_read = operator.attrgetter(*_FIELD_OF.values())
#: The lower case of the spellings that labnet uses.
_LOWER = {"-".join(word.capitalize() for word in name.split("-")): name for name in _HEADERS}
#: Headers that belong to a connection; a frame has none of them.
_OF_CONNECTIONS = frozenset({"host", "content-length", "connection"})
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Head).decode
_fields: dict[str, str | None] = {}


def _field_of(name: str) -> str | None:
    """Return the field of a header; None if it has none, empty if frames leave it out."""
    found = _fields.get(name, "?")
    if found == "?":
        lower = name.lower()
        found = "" if lower in _OF_CONNECTIONS else _FIELD_OF.get(lower)
        if len(_fields) < 256:
            _fields[name] = found
    return found


def encode_head(head: Head, headers: Mapping[str, str]) -> bytes:
    r"""Return the JSON of a head with headers.

    Examples
    --------
    >>> encode_head(Head(status=200), {"Labnet-Call": "c0ffee", "Allow": "GET"})
    b'{"status":200,"call":"c0ffee","others":{"Allow":"GET"}}'
    """
    for name, value in headers.items():
        field = _field_of(name)
        if field:
            setattr(head, field, value)
        elif field is None:
            head.others = {**(head.others or {}), name: value}
    return _encode(head)


def split_headers(headers: Mapping[str, str]) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return the headers that have a field, and the others, which belong to the channel.

    Examples
    --------
    >>> split_headers({"Labnet-Call": "c0ffee", "X-Labnet-Token": "secret"})
    ({'Labnet-Call': 'c0ffee'}, (('X-Labnet-Token', 'secret'),))
    """
    own, others = {}, []
    for name, value in headers.items():
        field = _field_of(name)
        if field:
            own[name] = value
        elif field is None:
            others.append((name, value))
    return own, tuple(others)


def decode_head(text: bytes) -> Head:
    """Parse the JSON of a head.

    Raises
    ------
    ValueError
        If it is malformed.
    """
    try:
        return _decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"the head of a frame is malformed: {error}") from error


class HeadFields(Mapping[str, str]):
    """The headers of a head, found case-insensitively.

    Examples
    --------
    >>> HeadFields(Head(status=200, call="c0ffee")).get("Labnet-Call")
    'c0ffee'
    """

    __slots__ = ("_values",)

    def __init__(self, head: Head):
        self._values: dict[str, str] = {
            header: value for header, value in zip(_HEADERS, _read(head), strict=True) if value is not None
        }
        if head.others:
            self._values |= {name.lower(): value for name, value in head.others.items()}

    def __getitem__(self, name: str) -> str:
        return self._values[_lower(name)]

    @overload  # type: ignore[override]
    def get(self, name: str) -> str | None: ...

    @overload
    def get(self, name: str, default: str) -> str: ...

    def get(self, name: str, default: str | None = None) -> str | None:
        """Return a header or the default."""
        return self._values.get(_LOWER.get(name) or name.lower(), default)

    def __contains__(self, name: object) -> bool:
        return isinstance(name, str) and _lower(name) in self._values

    def __iter__(self) -> Iterator[str]:
        return iter(self._values)

    def __len__(self) -> int:
        return len(self._values)


def _lower(name: str) -> str:
    return _LOWER.get(name) or name.lower()
