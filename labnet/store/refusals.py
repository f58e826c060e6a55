"""Refusals: calls whose client was told that no gradient is applied, so later gradients are refused."""

import json
from collections.abc import Iterator
from dataclasses import dataclass

from labnet import codec
from labnet.eviction import BoundedMap

#: Most refusals in a store.
_CALLS = 20_000


@dataclass(frozen=True)
class Refusal:
    """A call that was given up.

    Attributes
    ----------
    call : str
        Call id of the forward.
    version : int
        Version of the weights at that time; the forward saw no later one.
    """

    call: str
    version: int

    def encode(self) -> list[codec.Part]:
        """Return the parts of a record."""
        return codec.encode({}, {"refusal": json.dumps([self.call, self.version])})

    @classmethod
    def of(cls, text: str) -> "Refusal":
        """Read what `encode` wrote."""
        call, version = json.loads(text)
        return cls(str(call), int(version))


class Refusals:
    """The refusals of a store; bounded.

    Examples
    --------
    >>> refusals = Refusals()
    >>> refusals.add(Refusal("c0ffee", 3))
    >>> "c0ffee" in refusals, list(refusals)
    (True, ['c0ffee'])
    """

    def __init__(self) -> None:
        self._calls: BoundedMap[str, int] = BoundedMap(_CALLS)
        #: Version before which refusals may have been forgotten.
        self.forgotten = 0

    def __contains__(self, call: str) -> bool:
        return call in self._calls

    def __iter__(self) -> Iterator[str]:
        return iter(self._calls)

    def add(self, refusal: Refusal) -> None:
        """Add a refusal; forget the oldest ones beyond the bound."""
        for _, version in self._calls.put(refusal.call, refusal.version):
            self.forgotten = max(self.forgotten, version + 1)

    def encode(self) -> str:
        """Return text for a checkpoint."""
        return json.dumps({"forgotten": self.forgotten, "refusals": list(self._calls.entries.items())})

    @classmethod
    def decode(cls, text: str) -> "Refusals":
        """Read what `encode` returned."""
        document, refusals = json.loads(text), cls()
        for call, version in document["refusals"]:
            refusals.add(Refusal(str(call), int(version)))
        refusals.forgotten = max(refusals.forgotten, int(document["forgotten"]))
        return refusals
