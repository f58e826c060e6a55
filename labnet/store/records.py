"""Records of a journal and a checkpoint, as arrays and text: updates and the replies to their requests."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import msgspec
import numpy as np

from labnet import codec
from labnet.errors import StoreError, WireError
from labnet.eviction import BoundedMap
from labnet.store.intents import Intent
from labnet.store.refusals import Refusal

Array = np.ndarray[Any, Any]
#: Most outcomes with replies, most bytes of these replies, and most outcomes without replies.
_REPLIES, _REPLY_BYTES, _KEYS = 4096, 1 << 26, 20_000


@dataclass(frozen=True)
class Outcome:
    """An applied request and its reply.

    Attributes
    ----------
    key : str
        ``client:sequence``, or empty if the request had none.
    fingerprint : tuple
        Distinguishes the request from others with the same key.
    call : str
        Call id of the forward.
    reply : bytes or None
        Body of the reply; None after it was dropped.
    version : int
        Version of the weights after the update.
    renews : str
        The original call, if the forward was repeated.
    """

    key: str
    fingerprint: tuple[Any, ...]
    call: str
    reply: bytes | None
    version: int = 0
    renews: str = ""


@dataclass(frozen=True)
class Update:
    """One update of the weights: gradients by parameter name, and the outcomes of its requests.

    Attributes
    ----------
    settings : dict
        Hyperparameters of the optimizer, such as ``lr``.
    buffers : dict
        Values besides the parameters that a forward changes, such as running means.
    """

    version: int
    gradients: Mapping[str, Array]
    outcomes: tuple[Outcome, ...]
    settings: Mapping[str, Any] = field(default_factory=dict)
    buffers: Mapping[str, Array] = field(default_factory=dict)

    def encode(self) -> list[codec.Part]:
        """Return the parts of a record."""
        arrays = {f"gradient/{name}": array for name, array in self.gradients.items()}
        arrays |= {f"buffer/{name}": array for name, array in self.buffers.items()}
        arrays |= _reply_arrays(self.outcomes)
        text = {"version": self.version, "settings": dict(self.settings), "outcomes": _described(self.outcomes)}
        return codec.encode(arrays, {"update": json.dumps(text)})

    @classmethod
    def of(cls, text: Mapping[str, Any], arrays: Mapping[str, Array]) -> "Update":
        """Return the update of a record, given its text and arrays."""
        settings = {
            name: tuple(value) if isinstance(value, list) else value for name, value in text["settings"].items()
        }
        return cls(
            int(text["version"]),
            _below("gradient/", arrays),
            tuple(_outcomes(text["outcomes"], arrays)),
            settings,
            _below("buffer/", arrays),
        )


#: The records of a journal.
Record = Update | Intent | Refusal


def decode(payload: bytes) -> Record:
    """Read a record of a journal.

    Raises
    ------
    StoreError
        If it is none.
    """
    try:
        arrays, metadata = codec.decode(payload, max_header=len(payload))
        if "intent" in metadata:
            return Intent.of(json.loads(metadata["intent"]), arrays)
        if "refusal" in metadata:
            return Refusal.of(metadata["refusal"])
        return Update.of(json.loads(metadata["update"]), arrays)
    except (WireError, KeyError, ValueError, TypeError, AttributeError) as error:
        raise StoreError(f"not a record: {error}") from error


class Outcomes:
    """The outcomes of a store, bounded; the newest ones with their replies.

    Examples
    --------
    >>> outcomes = Outcomes()
    >>> outcomes.add(Outcome("ana:1", (), "c0ffee", b"the reply", 1))
    >>> [outcome.reply for outcome in outcomes]
    [b'the reply']
    """

    def __init__(self, found: Iterable[Outcome] = ()) -> None:
        self._kept: BoundedMap[str, Outcome] = BoundedMap(_KEYS)
        self._replies: BoundedMap[str, bytes] = BoundedMap(_REPLIES, _REPLY_BYTES, size=len)
        #: Newest version of a forgotten outcome; 0 if none was forgotten.
        self.forgotten = 0
        for outcome in found:
            self.add(outcome)

    def __iter__(self) -> Any:
        return iter(self._kept.entries.values())

    def __len__(self) -> int:
        return len(self._kept)

    def add(self, outcome: Outcome) -> None:
        """Add an outcome; drop replies and outcomes that exceed the bounds, oldest first."""
        for call, old in self._kept.put(outcome.call, outcome):
            self._replies.pop(call)
            self.forgotten = max(self.forgotten, old.version)
        if outcome.reply is not None:
            for call, _ in self._replies.put(outcome.call, outcome.reply):
                self._kept.entries[call] = replace(self._kept.entries[call], reply=None)

    def encode(self) -> tuple[dict[str, Array], str]:
        """Return arrays and text for a checkpoint; one array has all replies, since thousands take long to read."""
        kept = tuple(self)
        replies = b"".join(outcome.reply or b"" for outcome in kept)
        lengths = [-1 if outcome.reply is None else len(outcome.reply) for outcome in kept]
        text = {"forgotten": self.forgotten, "outcomes": _described(kept), "lengths": lengths}
        return {"reply/all": np.array(memoryview(replies), np.uint8)}, msgspec.json.encode(text).decode()

    @classmethod
    def decode(cls, arrays: Mapping[str, Array], text: str) -> "Outcomes":
        """Read what `encode` returned."""
        document = msgspec.json.decode(text)
        if "lengths" in document:
            arrays = dict(_slices(document["lengths"], arrays["reply/all"]))
        outcomes = cls(_outcomes(document["outcomes"], arrays))
        outcomes.forgotten = max(outcomes.forgotten, int(document["forgotten"]))
        return outcomes


def _slices(lengths: Iterable[int], replies: Array) -> Iterator[tuple[str, Array]]:
    """Return the replies of a checkpoint by name."""
    end = 0
    for number, length in enumerate(lengths):
        if length >= 0:
            yield f"reply/{number}", replies[end : end + length]
            end += length


def _reply_arrays(outcomes: Iterable[Outcome]) -> dict[str, Array]:
    return {
        f"reply/{number}": np.frombuffer(outcome.reply, np.uint8)
        for number, outcome in enumerate(outcomes)
        if outcome.reply is not None
    }


def _described(outcomes: Iterable[Outcome]) -> list[list[Any]]:
    return [[o.key, list(o.fingerprint), o.call, o.version, o.renews] for o in outcomes]


def _outcomes(described: Iterable[Any], arrays: Mapping[str, Array]) -> Iterable[Outcome]:
    for number, (key, fingerprint, call, version, renews) in enumerate(described):
        reply = arrays.get(f"reply/{number}")
        body = None if reply is None else np.asarray(reply).tobytes()
        yield Outcome(str(key), tuple(fingerprint), str(call), body, int(version), str(renews))


def _below(prefix: str, arrays: Mapping[str, Array]) -> dict[str, Array]:
    return {name.removeprefix(prefix): array for name, array in arrays.items() if name.startswith(prefix)}
