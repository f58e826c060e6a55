"""What tells a request from others with the same key."""

import re
from typing import Any

from labnet.network.protocol.headers import CALL, MODE, RENEWS
from labnet.network.server.routing import Failure, Request

#: Header of a gradient from a replica: length and digest of the request that it answers.
FOR = "Labnet-For"
_DIGEST = re.compile(r"[0-9a-f]{32}", re.ASCII)


def fingerprint_for(request: Request) -> tuple[Any, ...]:
    """Return the fingerprint of the client's request that a replica answers with this one."""
    length, _, digest = request.headers.get(FOR, "").partition(" ")
    if not (length.isascii() and length.isdigit() and _DIGEST.fullmatch(digest)):
        raise Failure(400, "BadRequest", f"/apply needs the header {FOR} with a length and a digest")
    call = request.headers.get(RENEWS) or request.headers.get(CALL)
    return "/optimize", call, None, int(length), digest


def answered_for(request: Request) -> dict[str, str]:
    """Return the header that says which request of a client is answered."""
    return {FOR: f"{len(request.body)} {request.digest}"}


def fingerprint_of(request: Request) -> tuple[Any, ...]:
    """Return what tells a request from others that carry the same key."""
    headers = request.headers
    if request.path == "/apply":
        return fingerprint_for(request)
    call = headers.get(RENEWS) or headers.get(CALL)
    return request.path, call, headers.get(MODE), len(request.body), request.digest
