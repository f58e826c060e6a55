"""Stopping a server from its panel, with a capability in place of the token.

The panel is a page in a browser, where the token must not be: widgets are saved with the notebook. It gets a
capability instead, which is good for stopping this one server, once, for half a minute, and is never saved. It
travels in the body of a request that a browser sends to any address without asking (``text/plain``), so no reply
has to invite other origins, and what is in the body cannot be known to a page of another site.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from labnet import wire
from labnet.network.server.routing import Failure, Reply, Request, Route

#: Seconds for which a capability is good.
SECONDS = 30.0

_MOST = 256


class Capabilities:
    """The capabilities of a server that were not used yet; kept as hashes, bounded by age and number.

    Examples
    --------
    >>> capabilities = Capabilities()
    >>> given = capabilities.issue(now=0.0)
    >>> capabilities.spend(given, now=1.0), capabilities.spend(given, now=1.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._until: dict[bytes, float] = {}
        self._lock = threading.Lock()

    def issue(self, *, now: float) -> str:
        """Return a new one, of 192 random bits; `now` is in seconds of a monotonic clock."""
        capability = secrets.token_urlsafe(24)
        with self._lock:
            self._forget(now)
            while len(self._until) >= _MOST:
                self._until.pop(next(iter(self._until)))
            self._until[_hash(capability)] = now + SECONDS
        return capability

    def spend(self, capability: str, *, now: float) -> bool:
        """Tell whether this one is good, which it is no more."""
        with self._lock:
            self._forget(now)
            return self._until.pop(_hash(capability), None) is not None

    def _forget(self, now: float) -> None:
        self._until = {key: until for key, until in self._until.items() if until > now}


def _hash(capability: str) -> bytes:
    """Return the key under which a capability is kept: how long it takes to find tells nothing about those kept."""
    return hashlib.sha256(capability.encode()).digest()


def routes(capabilities: Capabilities, stop: Callable[[], Any]) -> dict[str, Route]:
    """Return the routes that hand out capabilities, for the token, and take them to stop the server."""

    async def issue(request: Request) -> Reply:
        capability = capabilities.issue(now=time.monotonic())
        return Reply(wire.encode_json({"capability": capability, "seconds": SECONDS}))

    async def spend(request: Request) -> Reply:
        if not request.body:
            raise Failure(400, "BadRequest", "send the capability that /server/capability gives")
        if not capabilities.spend(bytes(request.body).decode("latin-1"), now=time.monotonic()):
            raise Failure(401, "Unauthorized", "the capability is wrong, spent or too old: get another one")
        # a thread, because stopping waits for this very reply
        threading.Thread(target=stop, name="labnet-stop", daemon=True).start()
        return Reply(wire.encode_json({"stopping": True}))

    return {
        "/server/capability": Route(
            ("GET",), issue, counted=False, replies=(wire.JSON,), summary="Give a capability to stop this server"
        ),
        "/server/stop": Route(
            ("POST",),
            spend,
            counted=False,
            sealed=True,
            content_types=("text/plain",),
            replies=(wire.JSON,),
            summary="Stop this server, with a capability as the body",
        ),
    }
