"""Admission of requests: checks of a request's head, before memory is allocated for its body."""

from collections.abc import Mapping
from typing import Protocol
from urllib.parse import unquote

from labnet import wire
from labnet.network.protocol.headers import PROTOCOL, TOKEN_HEADER
from labnet.network.server.auth import is_from_another_site, is_trusted_origin, same_token
from labnet.network.server.routing import Failure, Route

#: Longest body of a request without a token, in bytes.
_SEALED = 256
#: Upper bound for declared lengths, beyond any real body.
_HUGE = 1 << 62

Headers = Mapping[str, str]


class Rules(Protocol):
    """The settings of a server that decide about admission."""

    routes: dict[str, Route]
    token: str | None
    loopback: bool
    max_body: int


def path_of(target: str) -> str:
    """Return the path of a request's target, without the query.

    Examples
    --------
    >>> path_of("/v2/models/my%20model?x=1")
    '/v2/models/my model'
    """
    path = target.partition("?")[0]
    return unquote(path) if "%" in path else path


def admit(rules: Rules, method: str, path: str, headers: Headers) -> tuple[Route, int]:
    """Return the route of a request and the length of its body in bytes.

    Raises
    ------
    Failure
        If the request is refused.
    """
    route = _find(rules, method, path, headers)
    _check_protocol(headers)
    return route, _expected_bytes(rules, route, method, headers)


def declared_length(headers: Headers) -> int | None:
    """Return the declared length of the body; None if the headers do not determine it."""
    text = headers.get("Content-Length", "0")
    if "Transfer-Encoding" in headers or not (text.isascii() and text.isdigit()):
        return None
    text = text.lstrip("0") or "0"
    return min(int(text[:20]), _HUGE)


def _find(rules: Rules, method: str, path: str, headers: Headers) -> Route:
    route = rules.routes.get(path)
    if not _is_sealed(route, method, headers):
        _authorize(rules, headers, readable=route is None or route.readable)
    if route is None:
        known = ", ".join(sorted(p for p, r in rules.routes.items() if r.counted and not r.label))
        raise Failure(404, "RouteNotFound", f"no route {path!r:.80}; this server has {known}")
    if method not in route.methods:
        allowed = ", ".join(route.methods)
        raise Failure(405, "RouteNotFound", f"{path} answers {allowed}, not {method:.20}", headers={"Allow": allowed})
    return route


def _is_sealed(route: Route | None, method: str, headers: Headers) -> bool:
    """Return whether the body replaces the token, so that the route authorizes the request."""
    return route is not None and route.sealed and method in route.methods and declared_length(headers) != 0


def _authorize(rules: Rules, headers: Headers, *, readable: bool) -> None:
    given = headers.get(TOKEN_HEADER)
    if rules.token is not None and same_token(rules.token, given):
        return
    open_to_all = rules.token is None or (readable and rules.loopback)
    if not open_to_all:
        reason = "is wrong" if given else "is missing"
        raise Failure(
            401,
            "Unauthorized",
            f"the token {reason}: send it in the header {TOKEN_HEADER}, or pass token= to remote_model; "
            "the server's owner gets it from server.share()",
        )
    fetched_by, mode = headers.get("Sec-Fetch-Site"), headers.get("Sec-Fetch-Mode")
    if is_from_another_site(fetched_by) and not (readable and mode == "navigate"):
        raise Failure(403, "Unauthorized", f"a web page of another site ({fetched_by!r:.20}) needs the token")
    if not is_trusted_origin(headers.get("Host"), headers.get("Origin")):
        raise Failure(
            403,
            "Unauthorized",
            f"host {headers.get('Host')!r:.80} with origin {headers.get('Origin')!r:.80} "
            "is not allowed without a token",
        )


def _check_protocol(headers: Headers) -> None:
    """Refuse other versions of the protocol; a request without a version, as from curl, passes."""
    given = headers.get(PROTOCOL, wire.PROTOCOL)
    if given != wire.PROTOCOL:
        raise Failure(
            400,
            "ProtocolMismatch",
            f"the request speaks version {given!r:.20} of the protocol, this server version {wire.PROTOCOL!r}: "
            "install the same version of labnet on both sides",
        )


def _expected_bytes(rules: Rules, route: Route, method: str, headers: Headers) -> int:
    if "Transfer-Encoding" in headers:
        raise Failure(411, "BadRequest", "a body needs a Content-Length; chunked bodies are not accepted")
    length = declared_length(headers)
    if length is None:
        announced = headers.get("Content-Length")
        raise Failure(400, "BadRequest", f"Content-Length is {announced!r:.40}: expected one number")
    if "Content-Encoding" in headers:
        raise Failure(415, "BadRequest", f"Content-Encoding {headers['Content-Encoding']!r:.40} is not accepted")
    if method != "POST":
        if length:
            raise Failure(400, "BadRequest", f"{method} takes no body")
        return 0
    if "Content-Length" not in headers:
        raise Failure(411, "BadRequest", "a body needs a Content-Length")
    _check_content_type(route, headers)
    limit = _SEALED if _is_sealed(route, method, headers) else rules.max_body
    if length > limit:
        raise Failure(
            413,
            "TooLarge",
            f"the body has {length} bytes, the limit of this server is {limit}; "
            "send less, or serve with a larger max_body",
        )
    return length


def _check_content_type(route: Route, headers: Headers) -> None:
    kind = wire.kind_of(headers.get("Content-Type", ""))
    if kind not in route.content_types or (not kind and "Origin" in headers):
        expected = " or ".join(filter(None, route.content_types))
        raise Failure(415, "BadRequest", f"content type {kind!r:.60} is not accepted: send {expected}")
