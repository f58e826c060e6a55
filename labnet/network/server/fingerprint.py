"""Fingerprints that distinguish requests with the same key."""

import re
from typing import Any

from labnet.network.protocol.headers import CALL, MODE, RENEWS
from labnet.network.server.routing import Failure, Request

#: Header of a gradient from a replica: length and digest of the client's request.
FOR = "Labnet-For"
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)


def fingerprint_for(request: Request) -> tuple[Any, ...]:
    """Return the fingerprint of the client's request behind a request of a replica."""
    length, _, digest = request.headers.get(FOR, "").partition(" ")
    if not (length.isascii() and length.isdigit() and _DIGEST.fullmatch(digest)):
        raise Failure(400, "BadRequest", f"/apply needs the header {FOR} with a length and a digest")
    call = request.headers.get(RENEWS) or request.headers.get(CALL)
    return "/optimize", call, None, int(length), digest


def answered_for(request: Request) -> dict[str, str]:
    """Return the header that identifies the client's request."""
    return {FOR: f"{len(request.body)} {request.digest}"}


def fingerprint_of(request: Request) -> tuple[Any, ...]:
    """Return the fingerprint of a request."""
    headers = request.headers
    if request.path == "/apply":
        return fingerprint_for(request)
    call = headers.get(RENEWS) or headers.get(CALL)
    return request.path, call, headers.get(MODE), len(request.body), request.digest
