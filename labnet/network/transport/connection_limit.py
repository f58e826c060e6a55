"""A bound of what strangers can hold: open connections."""

from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterator
from typing import Generic, TypeVar

try:
    import resource
except ImportError:  # where files are not counted
    resource = None  # type: ignore[assignment]

#: Most open connections of a server, where it may open so many files; beyond it, whoever has waited longest without a
#: request is closed.
MAX_CONNECTIONS = 512

C = TypeVar("C", bound=Hashable)


def most_connections() -> int:
    """Return how many connections a server keeps open: half of the files that its process may open are for others."""
    if resource is None:
        return MAX_CONNECTIONS
    files, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return MAX_CONNECTIONS if files == resource.RLIM_INFINITY else max(1, min(MAX_CONNECTIONS, files // 2))


class Connections(Generic[C]):
    """Open connections of a server, of which a bounded number stays open.

    Parameters
    ----------
    close : callable
        Closes a connection.
    limit : int
        Most that stay open. Those that ask for something are never closed to make room.

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
        """Count a connection as waiting: it was opened, or has had its reply."""
        self._asking.discard(connection)
        self._waiting[connection] = None
        self._waiting.move_to_end(connection)
        if len(self) > self._limit:
            self.make_room()

    def make_room(self) -> bool:
        """Close whoever has waited longest without a request; tell whether there was one."""
        longest = next(iter(self._waiting), None)
        if longest is None:
            return False
        self.leaves(longest)
        self._close(longest)
        return True

    def asks(self, connection: C) -> None:
        """Count a connection as asking: a request of someone who may ask is read and answered."""
        if connection in self._waiting:
            del self._waiting[connection]
            self._asking.add(connection)

    def leaves(self, connection: C) -> None:
        """Forget a connection that is closed."""
        self._waiting.pop(connection, None)
        self._asking.discard(connection)
