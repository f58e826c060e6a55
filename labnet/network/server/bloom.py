"""A set of strings in constant memory: a sequence of Bloom filters.

Source: B. H. Bloom, "Space/time trade-offs in hash coding with allowable errors", 1970; the bit positions are derived
from two hashes as in A. Kirsch and M. Mitzenmacher, "Less hashing, same performance", 2006.
"""

from collections.abc import Iterator

import xxhash

_BITS = 1 << 25  # 4 MiB a filter
_HASHES = 20
_CAPACITY = 1_000_000
_MASK = (1 << 64) - 1


class BloomSet:
    """A set of strings with a false-positive rate of one in ten million per full filter.

    Parameters
    ----------
    filters : int
        Maximum number of filters, each of 4 MiB and a million strings; beyond it the oldest is dropped.

    Examples
    --------
    >>> texts = BloomSet(filters=2)
    >>> texts.add("ana")
    >>> "ana" in texts, "ben" in texts
    (True, False)
    """

    def __init__(self, *, filters: int = 16):
        self._most = filters
        self._filters: list[bytearray] = []
        self._in_last = 0

    def add(self, text: str) -> None:
        """Add a string."""
        if not self._filters or self._in_last >= _CAPACITY:
            self._filters = [*self._filters, bytearray(_BITS // 8)][-self._most :]
            self._in_last = 0
        for position in _positions(text):
            self._filters[-1][position >> 3] |= 1 << (position & 7)
        self._in_last += 1

    def __contains__(self, text: str) -> bool:
        if not self._filters:
            return False
        positions = list(_positions(text))
        return any(all(bits[p >> 3] >> (p & 7) & 1 for p in positions) for bits in self._filters)


def _positions(text: str) -> Iterator[int]:
    digest = xxhash.xxh3_128_intdigest(text.encode())
    first, second = digest & _MASK, digest >> 64 | 1
    return ((first + number * second & _MASK) % _BITS for number in range(_HASHES))
