"""Stopping a server from its panel, with a capability in place of the token.

The panel is a page in a browser, which must not have the token: widgets are saved with the notebook. It gets a
capability instead. A capability stops this one server, once, within half a minute, and is never saved. It is sent as a
``text/plain`` body, which browsers send to any address without a preflight request; so no reply has to allow other
origins, and a page of another site cannot know the capability.
"""

import hashlib
import secrets
import threading
import time
from collections.abc import Callable
from typing import Any

from labnet import wire
from labnet.eviction import BoundedMap
from labnet.network.server.routing import Failure, Reply, Request, Route

#: Seconds for which a capability is valid.
SECONDS = 30.0

_MOST = 256


class Capabilities:
    """The unused capabilities of a server; kept as hashes, bounded by age and number.

    Examples
    --------
    >>> capabilities = Capabilities()
    >>> given = capabilities.issue(now=0.0)
    >>> capabilities.spend(given, now=1.0), capabilities.spend(given, now=1.0)
    (True, False)
    """

    def __init__(self) -> None:
        self._until: BoundedMap[bytes, float] = BoundedMap(_MOST)
        self._lock = threading.Lock()

    def issue(self, *, now: float) -> str:
        """Return a new capability of 192 random bits; `now` is in seconds of a monotonic clock."""
        capability = secrets.token_urlsafe(24)
        with self._lock:
            self._forget(now)
            self._until.put(_hash(capability), now + SECONDS)
        return capability

    def spend(self, capability: str, *, now: float) -> bool:
        """Use up a capability; return whether it was valid."""
        with self._lock:
            self._forget(now)
            return self._until.pop(_hash(capability)) is not None

    def _forget(self, now: float) -> None:
        for key in [key for key, until in self._until.entries.items() if until <= now]:
            self._until.pop(key)


def _hash(capability: str) -> bytes:
    """Return the hash of a capability, so that lookup time reveals nothing about valid ones."""
    return hashlib.sha256(capability.encode()).digest()


def routes(capabilities: Capabilities, stop: Callable[[], Any]) -> dict[str, Route]:
    """Return the routes that issue capabilities to token holders and stop the server for a capability."""

    async def issue(request: Request) -> Reply:
        capability = capabilities.issue(now=time.monotonic())
        return Reply(wire.encode_json({"capability": capability, "seconds": SECONDS}))

    async def spend(request: Request) -> Reply:
        if not request.body:
            raise Failure(400, "BadRequest", "send the capability that /server/capability gives")
        if not capabilities.spend(bytes(request.body).decode("latin-1"), now=time.monotonic()):
            raise Failure(401, "Unauthorized", "the capability is wrong, spent or too old: get another one")
        # in a thread, because stopping waits for this reply
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
