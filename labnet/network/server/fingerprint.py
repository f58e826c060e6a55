"""Fingerprints that distinguish requests with the same key."""

from typing import Any

from labnet.network.protocol.headers import FOR, MODE, BodyDigest, original_call
from labnet.network.server.routing import Failure, Request


def fingerprint_for(request: Request) -> tuple[Any, ...]:
    """Return the fingerprint of the client's request behind a request of a replica."""
    body = BodyDigest.read(request.headers.get(FOR))
    if body is None:
        raise Failure(400, "BadRequest", f"/apply needs the header {FOR} with a length and a digest")
    return "/optimize", original_call(request.headers), None, body.length, body.digest


def fingerprint_of(request: Request) -> tuple[Any, ...]:
    """Return the fingerprint of a request."""
    if request.path == "/apply":
        return fingerprint_for(request)
    call = original_call(request.headers)
    return request.path, call, request.headers.get(MODE), len(request.body), request.digest
