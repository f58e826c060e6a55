"""The ledger of a server: outcomes of requests by idempotency key. Pure bookkeeping, no I/O.

A key is ``client:sequence``. The first request with it is carried out; a repetition gets the same reply. The ledger
keeps a window of keys per client, with the replies that the client has not acknowledged. All of it is bounded by
number, bytes and age. A key older than the window is refused rather than carried out again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from labnet.eviction import BoundedMap
from labnet.network.protocol.keys import Key
from labnet.network.protocol.outcome import Applied, Expired
from labnet.network.server.bloom import BloomSet

#: How many clients are searched for a key to forget, if all their requests are still running.
_TRIES = 8


class Mismatch(Exception):
    """The key was used before with a different request."""


class Forgotten(Exception):
    """The key is older than the window of its client."""


class Entry:
    """The ledger entry of one key.

    Attributes
    ----------
    fingerprint : object
        Fingerprint of its request.
    running : bool
        Whether the request is running.
    waiting : object
        A future for repetitions that wait for the running request.
    reply : object
        The stored reply; None after it was dropped.
    applied : "yes", "no" or "unknown"
        Whether the request took effect, reported after the reply was dropped.
    """

    __slots__ = ("applied", "born", "fingerprint", "nbytes", "reply", "running", "waiting")

    def __init__(self, fingerprint: object):
        self.fingerprint = fingerprint
        self.running = True
        self.waiting: Any = None
        self.reply: Any = None
        self.applied: Applied = "unknown"
        self.nbytes = 0
        self.born = 0.0


class _Window:
    """The keys of one client, by sequence, in order of arrival."""

    __slots__ = ("entries", "floor", "holding", "seen")

    def __init__(self, floor: tuple[int, ...]):
        self.entries: dict[tuple[int, ...], Entry] = {}
        self.holding: dict[tuple[int, ...], None] = {}
        self.floor = floor
        self.seen = 0.0


@dataclass(frozen=True)
class Bounds:
    """Bounds of the ledger.

    Attributes
    ----------
    window, count
        Most keys of one client and of all clients.
    nbytes, seconds
        Most bytes of stored replies, and how long a reply and an idle client are kept. The newest reply is kept even if
        it exceeds the bound.
    clients : int
        Most forgotten clients whose last key is kept. Of further clients only the name is kept, in a `BloomSet`; their
        requests are refused, because they may be repetitions.
    """

    window: int = 4096
    count: int = 100_000
    nbytes: int = 1 << 28
    seconds: float = 600.0
    clients: int = 100_000


class Ledger:
    """Outcomes of requests by key.

    Examples
    --------
    >>> ledger = Ledger()
    >>> key = Key.parse("ana:1")
    >>> ledger.begin(key, "fingerprint", now=0.0) is None  # new: carry it out
    True
    >>> ledger.finish(key, "the reply", nbytes=9, now=0.5)
    >>> ledger.begin(key, "fingerprint", now=1.0).reply
    'the reply'
    """

    def __init__(self, bounds: Bounds | None = None):
        self.bounds = bounds or Bounds()
        self._windows: OrderedDict[str, _Window] = OrderedDict()
        self._floors: BoundedMap[str, tuple[int, ...]] = BoundedMap(self.bounds.clients)
        #: Clients with a single key, such as a UUID; kept apart so that many of them do not evict the others.
        self._single: BoundedMap[str, tuple[int, ...]] = BoundedMap(self.bounds.clients)
        self._forgotten = BloomSet()
        self._replies: BoundedMap[Key, Entry] = BoundedMap(nbytes=self.bounds.nbytes, size=lambda entry: entry.nbytes)
        self._count = 0
        self.replayed = 0
        self.joined = 0
        self.evicted = 0

    @property
    def nbytes(self) -> int:
        """Bytes of the stored replies."""
        return self._replies.nbytes

    def begin(self, key: Key, fingerprint: object, *, now: float) -> Entry | None:
        """Return the entry of a known key; mark a new key as running and return None.

        Raises
        ------
        Mismatch
            If the key was used before with another fingerprint.
        Expired
            If its reply was dropped; says whether the request was applied.
        Forgotten
            If it is older than the window of its client.
        """
        self.expire(now)
        window = self._window(key.client)
        window.seen = now
        entry = window.entries.get(key.sequence)
        if entry is None:
            if key.sequence <= window.floor:
                raise Forgotten
            window.entries[key.sequence] = Entry(fingerprint)
            self._count += 1
            if len(window.entries) > self.bounds.window:
                self._forget_oldest(key.client, window)
            if self._count > self.bounds.count:
                self._make_room()
            return None
        if entry.fingerprint != fingerprint:
            raise Mismatch
        if entry.running:
            self.joined += 1
        elif entry.reply is None:
            raise Expired(entry.applied)
        else:
            self.replayed += 1
        return entry

    def restore(self, key: Key, fingerprint: object, reply: Any, *, nbytes: int, now: float) -> None:
        """Record a request that another incarnation carried out; without a reply if it was dropped."""
        window = self._windows.get(key.client)
        if window is not None and (key.sequence in window.entries or key.sequence <= window.floor):
            return
        self.begin(key, fingerprint, now=now)
        self.finish(key, reply, nbytes=nbytes, now=now)
        if reply is None:
            self._drop_reply(key)

    def running(self, key: Key) -> Entry:
        """Return the entry of a running request."""
        return self._windows[key.client].entries[key.sequence]

    def finish(self, key: Key, reply: Any, *, nbytes: int, now: float, applied: Applied = "yes") -> None:
        """Store the reply of a finished request."""
        window = self._windows[key.client]
        entry = window.entries[key.sequence]
        entry.running, entry.waiting = False, None
        entry.reply, entry.nbytes, entry.born, entry.applied = reply, nbytes, now, applied
        window.holding[key.sequence] = None
        for old, dropped in self._replies.put(key, entry):
            self._forget_reply(old, dropped)
            self.evicted += 1

    def stored(self, key: Key) -> Entry | None:
        """Return the entry of a finished request whose reply is stored, or None."""
        window = self._windows.get(key.client)
        entry = window.entries.get(key.sequence) if window is not None else None
        return entry if entry is not None and not entry.running and entry.reply is not None else None

    def forget(self, key: Key) -> None:
        """Remove the key of a request that was not carried out; its repetition will be."""
        del self._windows[key.client].entries[key.sequence]
        self._count -= 1

    def acknowledge(self, client: str, below: int) -> None:
        """Drop the replies of a client up to a sequence number, which it has received."""
        window = self._windows.get(client)
        if window is None:
            return
        for sequence in list(window.holding):
            if sequence < (below,):
                self._drop_reply(Key(client, sequence))

    def expire(self, now: float) -> None:
        """Drop replies and idle clients that exceed the maximum age."""
        oldest = now - self.bounds.seconds
        while self._replies:
            key, entry = next(iter(self._replies.entries.items()))
            if entry.born >= oldest:
                break
            self._drop_reply(key)
        while self._windows:
            client, window = next(iter(self._windows.items()))
            if window.seen >= oldest:
                break
            while self._forget_oldest(client, window):
                pass
            if client in self._windows:  # one of its requests is still running
                window.seen = now
                self._windows.move_to_end(client)

    def summary(self) -> dict[str, int]:
        """Return the figures for the statistics."""
        return {
            "clients": len(self._windows),
            "keys": self._count,
            "bytes": self.nbytes,
            "replayed": self.replayed,
            "joined": self.joined,
            "evicted": self.evicted,
        }

    def _window(self, client: str) -> _Window:
        window = self._windows.get(client)
        if window is None:
            window = self._windows[client] = _Window(self._floor_of(client))
        else:
            self._windows.move_to_end(client)
        return window

    def _drop_reply(self, key: Key) -> None:
        entry = self._replies.pop(key)
        assert entry is not None, "`holding` lists the stored replies"
        self._forget_reply(key, entry)

    def _forget_reply(self, key: Key, entry: Entry) -> None:
        del self._windows[key.client].holding[key.sequence]
        entry.reply = None

    def _forget_oldest(self, client: str, window: _Window) -> bool:
        """Forget the oldest finished key of a client; return whether there was one."""
        sequence = _oldest(window.entries)
        if sequence is not None:
            if sequence in window.holding:
                self._drop_reply(Key(client, sequence))
            del window.entries[sequence]
            self._count -= 1
            window.floor = max(window.floor, sequence)
        if not window.entries:
            del self._windows[client]
            self._remember(client, window.floor)
        return sequence is not None and bool(window.entries)

    def _remember(self, client: str, floor: tuple[int, ...]) -> None:
        """Keep the last key of a forgotten client; of the oldest clients only the name."""
        for forgotten, _ in (self._single if floor == (0,) else self._floors).put(client, floor):
            self._forgotten.add(forgotten)

    def _floor_of(self, client: str) -> tuple[int, ...]:
        """Remove and return the last key of a forgotten client.

        Raises
        ------
        Forgotten
            If only its name is known.
        """
        floor = self._single.pop(client) or self._floors.pop(client)
        if floor is not None:
            return floor
        if client in self._forgotten:
            raise Forgotten
        return ()

    def _make_room(self) -> None:
        """Forget keys of the clients that have been idle longest."""
        for _ in range(_TRIES):
            client, window = next(iter(self._windows.items()))
            while self._count > self.bounds.count and self._forget_oldest(client, window):
                pass
            if self._count <= self.bounds.count:
                return
            if client in self._windows:
                self._windows.move_to_end(client)


def _oldest(entries: dict[tuple[int, ...], Entry]) -> tuple[int, ...] | None:
    """Return the first key that is not running."""
    for sequence, entry in entries.items():
        if not entry.running:
            return sequence
    return None
