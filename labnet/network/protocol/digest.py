"""Digests of bodies: the header Content-Digest of RFC 9530, and the comparison of bodies.

Between labnet programs the digest is XXH3-128, which costs a thirtieth of SHA-256. It detects damage in transit and
decides whether two requests are equal. Other clients may send SHA-256 or SHA-512.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import xxhash

from labnet.codec import Part
from labnet.network.protocol.headers import CONTENT_DIGEST
from labnet.wire import Body

#: The algorithm that labnet sends, and how it asks for it in a request without a body.
OWN = "xxh128"
WANTED = f"{OWN}=1"
_PREFIX = f"{OWN}=:"

_ALGORITHMS: Mapping[str, Callable[[], Any]] = {
    OWN: xxhash.xxh3_128,
    "sha-256": hashlib.sha256,
    "sha-512": hashlib.sha512,
}
#: A member of a dictionary of RFC 9651 whose value is a byte sequence or an integer.
_BYTES = re.compile(r"[ \t]*([a-z*][a-z0-9_\-.*]*)=:([A-Za-z0-9+/=]*):[ \t]*")
_INTEGER = re.compile(r"[ \t]*([a-z*][a-z0-9_\-.*]*)=([0-9]{1,2})[ \t]*")


def digest_of(parts: Sequence[Part]) -> bytes:
    """Return the XXH3-128 of a body given in parts, 16 bytes in the canonical order.

    Examples
    --------
    >>> digest_of([b"1234", b"56789"]).hex()
    '33119477ede5dcd5e9716427681d5860'
    """
    if len(parts) == 1:
        return xxhash.xxh3_128_digest(parts[0])
    found = xxhash.xxh3_128()
    for part in parts:
        found.update(part)
    return found.digest()


def digest_of_body(body: Body) -> bytes:
    """Return the digest of a body; it is computed once and cached."""
    if body.digest is None:
        body.digest = digest_of(body.parts)
    return body.digest


def content_digest(body: Body, algorithm: str = OWN) -> str:
    """Return the value of Content-Digest for a body.

    Examples
    --------
    >>> content_digest(Body("text/plain", [b"hello"]), "sha-256")
    'sha-256=:LPJNul+wow4m6DsqxbninhsWHlwfp0JecwQzYpOLmCQ=:'
    """
    if algorithm == OWN:
        return _own(digest_of_body(body))
    return f"{algorithm}=:{base64.b64encode(_digest(algorithm, body.parts)).decode()}:"


def mismatch(header: str, body: Part, digest: bytes) -> str | None:
    """Return a description of the mismatch between a body and its Content-Digest, or None.

    Unknown algorithms are skipped, as RFC 9530 requires.

    Parameters
    ----------
    header : str
        Value of Content-Digest.
    body : bytes-like
        The received body.
    digest : bytes
        Its `digest_of`.

    Raises
    ------
    ValueError
        If the header is malformed.
    """
    if header == _own(digest):  # the form that every labnet client sends
        return None
    for member in header.split(","):
        found = _BYTES.fullmatch(member)
        if found is None:
            raise ValueError(f"{CONTENT_DIGEST} is malformed: expected ALGORITHM=:BASE64:, got {member.strip()!r:.60}")
        algorithm, text = found[1], found[2]
        if algorithm not in _ALGORITHMS:
            continue
        try:
            announced = base64.b64decode(text, validate=True)
        except binascii.Error as error:
            raise ValueError(f"{CONTENT_DIGEST} is malformed: {text!r:.60} is no base64: {error}") from error
        computed = digest if algorithm == OWN else _digest(algorithm, [body])
        if announced != computed:
            shown = base64.b64encode(computed).decode()
            return f"the body has the {algorithm} {shown}, announced was {text:.100}"
    return None


def wanted_algorithm(content_digest: str | None, want: str | None) -> str | None:
    """Return the algorithm for the digest of a reply; None if the reply needs no digest.

    Parameters
    ----------
    content_digest, want : str or None
        Values of Content-Digest and Want-Content-Digest of the request; the latter takes precedence.

    Examples
    --------
    >>> wanted_algorithm(None, "sha-512=3, sha-256=10, md5=10"), wanted_algorithm("sha-256=:LPJN:", None)
    ('sha-256', 'sha-256')
    """
    if want == WANTED or (want is None and content_digest is not None and content_digest.startswith(_PREFIX)):
        return OWN
    if want is not None:
        found = [match for member in want.split(",") if (match := _INTEGER.fullmatch(member))]
        weights = {match[1]: int(match[2]) for match in found if match[1] in _ALGORITHMS}
        best = max(weights, key=weights.__getitem__, default=None)
        return best if best is not None and weights[best] else None
    if content_digest is None:
        return None
    sent = [match[1] for member in content_digest.split(",") if (match := _BYTES.fullmatch(member))]
    return next((algorithm for algorithm in sent if algorithm in _ALGORITHMS), None)


def _own(digest: bytes) -> str:
    return f"{_PREFIX}{binascii.b2a_base64(digest, newline=False).decode()}:"


def _digest(algorithm: str, parts: Sequence[Part]) -> bytes:
    found = _ALGORITHMS[algorithm]()
    for part in parts:
        found.update(part)
    value: bytes = found.digest()
    return value
