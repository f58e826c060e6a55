"""A mapping that is bounded in entries and bytes."""

import math
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

K = TypeVar("K")
V = TypeVar("V")


class BoundedMap(Generic[K, V]):
    """Entries in the order in which they were put; the oldest are evicted first, the newest never.

    Parameters
    ----------
    count : int
        Most entries.
    nbytes : int
        Most bytes in all entries.
    size : callable, optional
        Returns the bytes of a value.

    Attributes
    ----------
    entries : OrderedDict
        All entries, oldest first; changed by the methods only.
    count : int
        Most entries.
    nbytes : int
        Bytes in all entries.

    Examples
    --------
    >>> recent = BoundedMap(count=2)
    >>> recent.put("a", 1), recent.put("b", 2), recent.put("c", 3)
    ([], [], [('a', 1)])
    >>> recent.pop("b"), list(recent)
    (2, ['c'])
    """

    __slots__ = ("_most_bytes", "_size", "count", "entries", "nbytes")

    def __init__(self, count: float = math.inf, nbytes: float = math.inf, size: Callable[[V], int] | None = None):
        self.entries: OrderedDict[K, V] = OrderedDict()
        self.nbytes = 0
        self.count = count
        self._most_bytes = nbytes
        self._size = size

    def __len__(self) -> int:
        return len(self.entries)

    def __contains__(self, key: K) -> bool:
        return key in self.entries

    def __iter__(self) -> Iterator[K]:
        return iter(self.entries)

    def get(self, key: K) -> V | None:
        """Return the value of a key, or None."""
        return self.entries.get(key)

    def put(self, key: K, value: V) -> list[tuple[K, V]]:
        """Add or replace an entry, which is then the newest; return the evicted ones."""
        entries = self.entries
        if key in entries:
            self.pop(key)
        entries[key] = value
        if self._size is not None:
            self.nbytes += self._size(value)
        evicted = []
        while len(entries) > self.count or (self.nbytes > self._most_bytes and len(entries) > 1):
            oldest = next(iter(entries))
            evicted.append((oldest, entries[oldest]))
            self.pop(oldest)
        return evicted

    def pop(self, key: K) -> V | None:
        """Remove and return the value of a key; None if there is none."""
        if key not in self.entries:
            return None
        value = self.entries.pop(key)
        if self._size is not None:
            self.nbytes -= self._size(value)
        return value
