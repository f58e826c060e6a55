"""The limit of open connections per server."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

try:
    import resource
except ImportError:  # systems without file limits
    resource = None  # type: ignore[assignment]

#: Most open connections of a server, if its file limit allows; beyond it, the longest idle connection is closed.
MAX_CONNECTIONS = 512

C = TypeVar("C", bound=Hashable)


def most_connections() -> int:
    """Return the connection limit of a server: at most half of the process's file limit."""
    if resource is None:
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, files // 2))


class Connections(Generic[C]):
    """The open connections of a server, bounded in number.

    Parameters
    ----------
    close : callable
        Closes a connection.
    limit : int
        Most open connections. A connection with an authorized request is never closed to make room.

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

    def __init__(self, close: Callable[[C], object], *, limit: int = MAX_CONNECTIONS):
        self._close = close
        self._limit = limit
        self._waiting: OrderedDict[C, None] = OrderedDict()
        self._asking: set[C] = set()

    def __len__(self) -> int:
        return len(self._waiting) + len(self._asking)

    def __iter__(self) -> Iterator[C]:
        yield from self._waiting
        yield from self._asking

    def waits(self, connection: C) -> None:
        """Mark a connection as idle: it was opened or has received its reply."""
        self._asking.discard(connection)
        self._waiting[connection] = None
        self._waiting.move_to_end(connection)
        if len(self) > self._limit:
            self.make_room()

    def make_room(self) -> bool:
        """Close the longest idle connection; return whether there was one."""
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        self.leaves(longest)
        self._close(longest)
        return True

    def asks(self, connection: C) -> None:
        """Mark a connection as active: its authorized request is being read or answered."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._asking.add(connection)

    def is_active(self, connection: C) -> bool:
        """Return whether the authorized request of a connection is being read or answered."""
        return connection in self._asking

    def leaves(self, connection: C) -> None:
        """Remove a closed connection."""
        self._waiting.pop(connection, None)
        self._asking.discard(connection)
