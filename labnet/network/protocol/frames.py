"""Frames of a channel: their layout and their typed heads, without I/O.

A frame is a prelude of 24 bytes, a head in JSON and a body. The head has the fields of the HTTP headers, named as they
are in lower case, with underscores and without ``Labnet-``. Bodies over `PIECE` continue in frames of kind `DATA`, so
that other frames travel between them. See ``docs/protocol.md``.
"""

import enum
import operator
import struct
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any

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


#: The fields whose headers are of standards; the header of any other field begins with ``Labnet-``.
_BY_FIELD = {
    "content_type": "Content-Type",
    "content_digest": "Content-Digest",
    "want_content_digest": "Want-Content-Digest",
    "accept": "Accept",
    "idempotency_key": "Idempotency-Key",
    "retry_after": "Retry-After",
}
_NAMES = tuple(field.encode_name for field in msgspec.structs.fields(Head))
_OF_HEADERS = tuple(name for name in _NAMES if name not in ("method", "path", "status", "others"))
#: The header of each field, in the spelling that labnet uses, and the field of each header, in that spelling and in
#: lower case; empty for headers that belong to a connection.
_HEADERS = tuple(_BY_FIELD.get(name) or f"Labnet-{name.capitalize()}" for name in _OF_HEADERS)
_FIELDS = dict(zip(_HEADERS, _OF_HEADERS, strict=True))
_LOWER = {header.lower(): field for header, field in _FIELDS.items()} | {
    "host": "",
    "content-length": "",
    "connection": "",
}
_read = operator.attrgetter(*(field.name for field in msgspec.structs.fields(Head) if field.encode_name in _OF_HEADERS))
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Head).decode


def encode_head(fields: Mapping[str, Any], headers: Mapping[str, str] = MappingProxyType({})) -> bytes:
    r"""Return the JSON of a head with fields and headers.

    Examples
    --------
    >>> encode_head({"status": 200}, {"Labnet-Call": "c0ffee", "Allow": "GET"})
    b'{"status":200,"call":"c0ffee","others":{"Allow":"GET"}}'
    """
    try:
        return _encode({**fields, **{_FIELDS[name]: value for name, value in headers.items()}})
    except KeyError:
        own, others = split_headers(headers)
        return _encode({**fields, **own, **({"others": dict(others)} if others else {})})


def split_headers(headers: Mapping[str, str]) -> tuple[dict[str, str], tuple[tuple[str, str], ...]]:
    """Return the fields of the headers that have one, and the other headers, which belong to the channel.

    Examples
    --------
    >>> split_headers({"Labnet-Call": "c0ffee", "X-Labnet-Token": "secret"})
    ({'call': 'c0ffee'}, (('X-Labnet-Token', 'secret'),))
    """
    own, others = {}, []
    for name, value in headers.items():
        field = _FIELDS.get(name)
        if field is None:
            field = _LOWER.get(name.lower())
        if field:
            own[field] = value
        elif field is None:
            others.append((name, value))
    return own, tuple(others)


def headers_of(head: Head) -> dict[str, str]:
    """Return the headers of a head, in the spelling that labnet uses.

    Examples
    --------
    >>> headers_of(Head(status=200, call="c0ffee", others={"retry-when": "never"}))
    {'Labnet-Call': 'c0ffee', 'Retry-When': 'never'}
    """
    headers = {header: value for header, value in zip(_HEADERS, _read(head), strict=True) if value is not None}
    for name, value in (head.others or {}).items():
        headers["-".join(map(str.capitalize, name.split("-")))] = value
    return headers


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
