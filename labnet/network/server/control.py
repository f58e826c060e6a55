"""Control of a server by its panel, with a capability in place of the token: stop, pause, resume and others.

The panel is a page in a browser, which must not have the token: widgets are saved with the notebook. It gets a
capability instead. A capability is for one action on this one server, within half a minute, and is never saved. It is
sent as a ``text/plain`` body, which browsers send to any address without a preflight request; so no reply has to allow
other origins, and a page of another site cannot know the capability.
"""

import asyncio
import hashlib
import math
import secrets
import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

from labnet import wire
from labnet.eviction import BoundedMap
from labnet.network.server.routing import Failure, Reply, Request, Route

#: Seconds for which a capability is valid.
SECONDS = 30.0

_MOST = 256

#: Actions by name, with the text that is sent along.
Actions = Mapping[str, Callable[[str], Any]]


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


def routes(capabilities: Capabilities, stop: Callable[[], Any], actions: Actions) -> dict[str, Route]:
    """Return the routes that issue capabilities to token holders, and act on the server for a capability."""

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

    async def act(request: Request) -> Reply:
        capability, _, rest = bytes(request.body).decode("latin-1").partition("\n")
        action, _, value = rest.partition("\n")
        if action not in actions:
            known = ", ".join(actions)
            raise Failure(400, "BadRequest", f"send a capability, one of {known}, and a value, each on a line")
        if not capabilities.spend(capability, now=time.monotonic()):
            raise Failure(401, "Unauthorized", "the capability is wrong, spent or too old: get another one")
        try:
            await asyncio.to_thread(actions[action], value)  # may wait for the worker
        except (ValueError, AttributeError, OSError) as error:
            raise Failure(422, "BadRequest", f"{action}: {error}") from error
        return Reply(wire.encode_json({"done": action}))

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
        "/server/control": Route(
            ("POST",),
            act,
            counted=False,
            sealed=True,
            content_types=("text/plain",),
            replies=(wire.JSON,),
            summary="Pause, resume, set lr or write a checkpoint, with a capability before it",
        ),
    }


def learning_rate(text: str) -> float:
    """Return a learning rate.

    Raises
    ------
    ValueError
        If the text is no finite number from 0 on.
    """
    rate = float(text)
    if not (math.isfinite(rate) and rate >= 0):
        raise ValueError(f"the learning rate must be a number from 0 on, got {text!r:.40}")
    return rate
