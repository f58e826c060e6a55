"""A bound of what strangers can hold: open connections."""

import asyncio
from collections import OrderedDict
from collections.abc import Callable, Hashable

#: Most open connections of a server; beyond it, whoever has waited longest without a request is closed.
MAX_CONNECTIONS = 512
#: Seconds that a new connection has to send its first request's headers.
FIRST_REQUEST_SECONDS = 10.0


class Connections:
    """Open connections of a server, of which a bounded number stays open.

    Parameters
    ----------
    close : callable
        Closes a connection.
    limit : int
        Most that stay open. Those that ask for something are never closed to make room.
    first_request_seconds : float
        A connection without a complete request by then is closed.

    Examples
    --------
    >>> closed = []
    >>> connections = Connections(closed.append, limit=2)
    >>> for name in "abc":
    ...     connections.waits(name)
    ...     if name == "a":
    ...         connections.asks(name)
    >>> closed
    ['b']
    """

    def __init__(
        self,
        close: Callable[[Hashable], object],
        *,
        limit: int = MAX_CONNECTIONS,
        first_request_seconds: float = FIRST_REQUEST_SECONDS,
    ):
        self._close = close
        self._limit = limit
        self._seconds = first_request_seconds
        self._waiting: OrderedDict[Hashable, None] = OrderedDict()
        self._asking: set[Hashable] = set()
        self._deadlines: dict[Hashable, asyncio.TimerHandle] = {}

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asking)

    def waits(self, connection: Hashable) -> None:
        """Count a connection as waiting: it was opened, or has had its reply."""
        if connection not in self._asking:
            self._set_deadline(connection)
        self._asking.discard(connection)
        self._waiting[connection] = None
        if len(self) > self._limit:
            longest = next(iter(self._waiting))
            self.leaves(longest)
            self._close(longest)

    def asks(self, connection: Hashable) -> None:
        """Count a connection as asking: the headers of a request have arrived."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._asking.add(connection)
            self._forget_deadline(connection)

    def leaves(self, connection: Hashable) -> None:
        """Forget a connection that is closed."""
        self._waiting.pop(connection, None)
        self._asking.discard(connection)
        self._forget_deadline(connection)

    def _set_deadline(self, connection: Hashable) -> None:
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:  # used as plain bookkeeping
            return
        self._deadlines[connection] = loop.call_later(self._seconds, self._close, connection)

    def _forget_deadline(self, connection: Hashable) -> None:
        deadline = self._deadlines.pop(connection, None)
        if deadline is not None:
            deadline.cancel()
