"""A logger that posts op statistics to an HTTP server."""

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import Future, wait

from tornado.iostream import StreamClosedError

from labnet import wire
from labnet.network.protocol.op_statistics import to_ascii
from labnet.network.threads import IO
from labnet.network.transport.address import Address
from labnet.network.transport.client import pool
from labnet.stats import OpStatistics

log = logging.getLogger("labnet.network")


class HttpLogger:
    """Posts op statistics as JSON to a URL, in the background.

    Parameters
    ----------
    url : str
        Where to post to: any HTTP server that takes ``application/json``.
    headers : mapping of str to str, optional
        Extra headers, such as an API key.
    timeout : float
        Most seconds for one post; a failed post is logged and not repeated.

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
        """Start to post a snapshot of the statistics."""
        future = IO.submit(self._post(to_ascii(statistics.summary()).encode()))
        self._pending.add(future)
        future.add_done_callback(self._pending.discard)

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until everything is posted, at most `timeout` seconds; return whether it is."""
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
