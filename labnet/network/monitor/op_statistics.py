"""Op statistics across the network: a client asks a server to count, and takes in what it counted.

A request with the header ``Labnet-Collect`` has its ops counted on the server; the reply's header
``Labnet-Statistics`` holds them as JSON, with those of the servers that this one called for it.
"""

import asyncio
import json
import logging
from collections.abc import Mapping
from concurrent.futures import Future, wait
from typing import Any

import msgspec
from tornado.iostream import StreamClosedError

from labnet import wire
from labnet.network.server.routing import Reply, Request, Route
from labnet.network.threads import IO
from labnet.network.transport.pool import Address, pool
from labnet.stats import OpStatistics, collect
from labnet.stats.collecting import active, merge

log = logging.getLogger("labnet.network")

#: Header of a request whose ops are to be counted, and of the reply that says what they were.
COLLECT = "Labnet-Collect"
STATISTICS = "Labnet-Statistics"

#: A header must be short: ops beyond these numbers are added up, until it is.
_MOST_BYTES = 1 << 15
_MOST_OPS = (256, 32, 4, 1)


async def answer(route: Route, request: Request) -> Reply:
    """Answer a request, and count its ops where the client wants that."""
    if COLLECT not in request.headers:
        return await route.answer(request)
    with collect() as statistics:
        reply = await route.answer(request)
        await asyncio.to_thread(statistics.complete)  # a GPU may have to be waited for
    return reply._replace(headers={**reply.headers, STATISTICS: _encode(statistics)})


def wanted() -> dict[str, str]:
    """Return the header that asks a server to count, if anybody counts here."""
    return {} if all(statistics.only_here for statistics in active()) else {COLLECT: "1"}


def take_in(headers: Mapping[str, str]) -> None:
    """Merge what a server has counted for a call into whatever counts here.

    Raises
    ------
    ValueError
        If the header of the reply holds no op statistics.
    """
    text = headers.get(STATISTICS)
    if text is None or not active():
        return
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError) as error:
        raise ValueError(f"header {STATISTICS}: {error}") from error
    merge(OpStatistics.read(data))


def _encode(statistics: OpStatistics) -> str:
    """Write statistics in one line of ASCII that is short enough for a header."""
    for most in _MOST_OPS:
        text = _ascii(statistics.summary(most=most))
        if len(text) <= _MOST_BYTES:
            return text
    return _ascii(statistics.everywhere.summary(most=1))


def _ascii(data: Any) -> str:
    return json.dumps(data, ensure_ascii=True, allow_nan=False)


class HttpLogger:
    """Posts op statistics as JSON to a URL, in the background.

    Parameters
    ----------
    url : str
        Where to post to: any HTTP server that takes ``application/json``.
    headers : mapping of str to str, optional
        Extra headers, such as a key.
    timeout : float
        Most seconds for one post; one that fails is logged and forgotten.

    Examples
    --------
    >>> import labnet as ln
    >>> logger = ln.network.HttpLogger("http://localhost:8000/op-statistics")
    >>> statistics = ln.stats.enable(logger, interval_seconds=60)
    >>> ln.stats.disable()
    >>> logger.wait()
    True
    """

    def __init__(self, url: str, *, headers: Mapping[str, str] | None = None, timeout: float = 10.0):
        self._address = Address.parse(url)
        self._headers = dict(headers or {})
        self._timeout = timeout
        self._pending: set[Future[None]] = set()

    def __call__(self, statistics: OpStatistics) -> None:
        """Begin to post the statistics as they are now."""
        future = IO.submit(self._post(_ascii(statistics.summary()).encode()))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is posted, at most `timeout` seconds; tell whether it is."""
        return not wait(list(self._pending), timeout).not_done

    async def _post(self, body: bytes) -> None:
        headers = {
            "Host": self._address.authority,
            "Content-Type": wire.JSON,
            "Content-Length": str(len(body)),
            **self._headers,
        }
        try:
            async with asyncio.timeout(self._timeout):
                connections = await pool()
                path = self._address.prefix or "/"
                response = await connections.request(self._address, "POST", path, headers, [body])
        except (OSError, StreamClosedError) as error:
            log.warning("op statistics could not be posted to %s: %s", self._address, error)
        else:
            if response.status >= 300:
                log.warning("op statistics were refused by %s with status %d", self._address, response.status)
