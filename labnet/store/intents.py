"""Intents: the log of backwards that reach other servers before they are applied here.

An intent is written before the first request to another server. It contains what is needed to replay the forward after
a crash and complete its backward.
"""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from labnet import codec
from labnet.eviction import BoundedMap

Array = np.ndarray[Any, Any]
#: Most intents with a replayable forward, most bytes of these, and most intents in all.
_WHOLE, _WHOLE_BYTES, _CALLS = 256, 1 << 26, 20_000
_FORWARD, _WEIGHT = "forward/", "weight/"


@dataclass(frozen=True)
class Intent:
    """A backward that was forwarded to other servers, whose part may be applied before the update here.

    Attributes
    ----------
    call : str
        Call id of the forward.
    servers : tuple of str
        URLs of the other servers.
    version : int
        Version of the weights that the forward saw.
    forward : dict of str to ndarray
        Inputs of the forward, from the client and from other servers; empty after they were dropped.
    about : str
        Description of the arrays of `forward`, for the module that wrote them.
    weights : dict of str to ndarray
        Weights that the forward saw; empty if unknown.
    """

    call: str
    servers: tuple[str, ...]
    version: int = 0
    forward: Mapping[str, Array] = field(default_factory=dict)
    about: str = ""
    weights: Mapping[str, Array] = field(default_factory=dict)

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays."""
        return sum(array.nbytes for arrays in (self.forward, self.weights) for array in arrays.values())

    def arrays(self, version: int, prefix: str = "") -> dict[str, Array]:
        """Return the arrays to write at a version of the weights; its own weights only if they differ."""
        found = {prefix + _FORWARD + name: array for name, array in self.forward.items()}
        if version != self.version:
            found |= {prefix + _WEIGHT + name: array for name, array in self.weights.items()}
        return found

    def described(self) -> list[Any]:
        """Return all fields but the arrays as JSON-able data."""
        return [self.call, list(self.servers), self.version, self.about]

    @classmethod
    def of(cls, described: Iterable[Any], arrays: Mapping[str, Array], prefix: str = "") -> "Intent":
        """Read what `described` and `arrays` returned."""
        call, servers, version, about = described
        below = {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
        forward = {name.removeprefix(_FORWARD): a for name, a in below.items() if name.startswith(_FORWARD)}
        weights = {name.removeprefix(_WEIGHT): a for name, a in below.items() if name.startswith(_WEIGHT)}
        return cls(str(call), tuple(map(str, servers)), int(version), forward, str(about), weights)

    def encode(self, version: int) -> list[codec.Part]:
        """Return the parts of a record at a version of the weights."""
        return codec.encode(self.arrays(version), {"intent": json.dumps(self.described())})

    def seen(self, version: int, weights: Mapping[str, Array]) -> "Intent":
        """Return the intent with the weights at the time of reading, if it was written at the same version."""
        if self.weights or not self.forward:
            return self
        return replace(self, weights=weights) if version == self.version else self.without_forward()

    def without_forward(self) -> "Intent":
        """Return the intent without the data for a replay."""
        return Intent(self.call, self.servers, self.version)


class Intents:
    """The intents of a store, bounded; the newest ones can be replayed.

    Examples
    --------
    >>> intents = Intents()
    >>> intents.add(Intent("c0ffee", ("http://inner",)))
    >>> "c0ffee" in intents, intents.done("c0ffee"), "c0ffee" in intents
    (True, None, False)
    """

    def __init__(self) -> None:
        self._open: BoundedMap[str, Intent] = BoundedMap(_CALLS)
        self._whole: BoundedMap[str, int] = BoundedMap(_WHOLE, _WHOLE_BYTES, size=int)
        #: Version before which forwarded calls may have been forgotten.
        self.forgotten = 0

    def __contains__(self, call: str) -> bool:
        return call in self._open

    def __iter__(self) -> Iterator[Intent]:
        return iter(self._open.entries.values())

    def __len__(self) -> int:
        return len(self._open)

    def add(self, intent: Intent) -> None:
        """Add an intent; drop forwards and intents that exceed the bounds, oldest first."""
        self.done(intent.call)
        for call, old in self._open.put(intent.call, intent):
            self._whole.pop(call)
            self.forgotten = max(self.forgotten, old.version + 1)
        if intent.forward:
            for call, _ in self._whole.put(intent.call, intent.nbytes):
                self._open.entries[call] = self._open.entries[call].without_forward()

    def done(self, call: str) -> None:
        """Remove the intent of a call, if there is one, because it was applied here."""
        self._open.pop(call)
        self._whole.pop(call)

    def encode(self, version: int) -> tuple[dict[str, Array], str]:
        """Return arrays and text for a checkpoint at a version."""
        arrays: dict[str, Array] = {}
        for number, intent in enumerate(self):
            arrays |= intent.arrays(version, f"intent/{number}/")
        text = {"forgotten": self.forgotten, "intents": [intent.described() for intent in self]}
        return arrays, json.dumps(text)

    @classmethod
    def decode(cls, arrays: Mapping[str, Array], text: str, version: int, weights: Mapping[str, Array]) -> "Intents":
        """Read what `encode` returned, given the weights of the version."""
        document, intents = json.loads(text), cls()
        for number, described in enumerate(document["intents"]):
            intents.add(Intent.of(described, arrays, f"intent/{number}/").seen(version, weights))
        intents.forgotten = max(intents.forgotten, int(document["forgotten"]))
        return intents
