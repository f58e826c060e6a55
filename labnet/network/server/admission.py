"""Admission of requests: checks of a request's head, before memory is allocated for its body."""

from collections.abc import Mapping
from typing import Protocol

from labnet import wire
from labnet.network.protocol.frames import PATH
from labnet.network.protocol.headers import PROTOCOL, TOKEN_HEADER
from labnet.network.server.auth import is_from_another_site, is_trusted_origin, same_token
from labnet.network.server.routing import Failure, Route

#: Path of the function that answers the paths of no other route.
DEFAULT_PATH = "/default"
#: Paths of served models: a client of one must not mistake a function for it.
MODEL_PATHS = frozenset({"/apply", "/follow", "/forward", "/optimize", "/settle", "/weights"})
#: Longest body of a request without a token, in bytes.
_SEALED = 256

Headers = Mapping[str, str]


class Rules(Protocol):
    """The settings of a server that decide about admission."""

    routes: dict[str, Route]
    token: str | None
    loopback: bool
    max_body: int


def admit(
    rules: Rules, method: str, path: str, headers: Headers, length: int | None, *, authorized: bool = False
) -> tuple[Route, int]:
    """Return the route of a request and the most bytes that its body may have.

    Parameters
    ----------
    length : int or None
        Declared length of the body; None for a chunked body.
    authorized : bool
        Whether its connection has shown the token.

    Raises
    ------
    Failure
        If the request is refused.
    """
    route = find(rules.routes, method, path, headers)
    sealed = route is not None and route.sealed and method in route.methods and length != 0
    if not sealed and not authorized:
        authorize(rules, headers, readable=route is None or route.readable)
    if route is None:
        known = ", ".join(sorted(p for p, r in rules.routes.items() if r.counted and not r.label))
        raise Failure(404, "RouteNotFound", f"no route {path!r:.80}; this server has {known}")
    if method not in route.methods:
        allowed = ", ".join([*route.methods, *(["HEAD"] if "GET" in route.methods else [])])
        raise Failure(405, "RouteNotFound", f"{path} answers {allowed}, not {method:.20}", headers={"Allow": allowed})
    check_protocol(headers)
    limit = _SEALED if sealed else rules.max_body
    _check_body(route, method, headers, length, limit)
    return route, limit


def find(routes: Mapping[str, Route], method: str, path: str, headers: Headers) -> Route | None:
    """Return the route of a request.

    A route named ``default`` answers the paths that have none, except those of models and of a channel. It answers
    ``/`` too, where a browser still gets the panel.
    """
    route = routes.get(path)
    if route is None and path not in MODEL_PATHS and not path.endswith(PATH):
        return routes.get(DEFAULT_PATH)
    if path == "/" and (method != "GET" or "text/html" not in headers.get("Accept", "")):
        return routes.get(DEFAULT_PATH, route)
    return route


def authorize(rules: Rules, headers: Headers, *, readable: bool) -> None:
    """Refuse a request without the token where the token is needed, and requests of web pages of other sites.

    Raises
    ------
    Failure
        If the request is refused.
    """
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


def check_protocol(headers: Headers) -> None:
    """Refuse other versions of the protocol; a request without a version, as from curl, passes."""
    given = headers.get(PROTOCOL, wire.PROTOCOL)
    if given != wire.PROTOCOL:
        raise Failure(
            400,
            "ProtocolMismatch",
            f"the request speaks version {given!r:.20} of the protocol, this server version {wire.PROTOCOL!r}: "
            "install the same version of labnet on both sides",
        )


def _check_body(route: Route, method: str, headers: Headers, length: int | None, limit: int) -> None:
    if "Content-Encoding" in headers:
        raise Failure(415, "BadRequest", f"Content-Encoding {headers['Content-Encoding']!r:.40} is not accepted")
    if method != "POST":
        if length != 0:
            raise Failure(400, "BadRequest", f"{method} takes no body")
        return
    _check_content_type(route, headers)
    if length is not None and length > limit:
        raise too_large(length, limit)


def too_large(length: int, limit: int) -> Failure:
    """Return the refusal of a body that is over the limit, in bytes."""
    return Failure(
        413,
        "TooLarge",
        f"the body has {length} bytes, the limit of this server is {limit}; send less, or serve with a larger max_body",
    )


def _check_content_type(route: Route, headers: Headers) -> None:
    kind = wire.kind_of(headers.get("Content-Type", ""))
    if kind not in route.content_types or (not kind and "Origin" in headers):
        expected = " or ".join(filter(None, route.content_types))
        raise Failure(415, "BadRequest", f"content type {kind!r:.60} is not accepted: send {expected}")
