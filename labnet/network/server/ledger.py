"""What a server remembers of the requests that carried an idempotency key: pure bookkeeping, no I/O.

A key is ``client:sequence``. The first request with it is carried out; one that comes again gets the same reply.
Per client a window of keys is remembered, and of them the replies that the client has not said to have. All of
it is bounded by number, bytes and age. A key older than the window is refused rather than carried out again.
"""

from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from labnet.network.protocol.keys import Key
from labnet.network.protocol.outcome import Applied, Expired
from labnet.network.server.bloom import BloomSet

#: How many clients are looked at for something to forget, where all their requests are still being carried out.
_TRIES = 8


class Mismatch(Exception):
    """The same key came with another request."""


class Forgotten(Exception):
    """The key is older than what is remembered of its client."""


class Entry:
    """What is known of one key.

    Attributes
    ----------
    fingerprint : object
        What tells its request from others.
    running : bool
        Whether it is being carried out.
    waiting : object
        For whoever carries it out: what those who came later wait for.
    reply : object
        The stored reply, None once that was dropped.
    applied : "yes", "no" or "unknown"
        Whether it took effect, said where the reply was dropped.
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
    """The keys of one client, by sequence, in the order in which they came."""

    __slots__ = ("entries", "floor", "holding", "seen")

    def __init__(self, floor: tuple[int, ...]):
        self.entries: dict[tuple[int, ...], Entry] = {}
        self.holding: dict[tuple[int, ...], None] = {}
        self.floor = floor
        self.seen = 0.0


@dataclass(frozen=True)
class Bounds:
    """Bounds of what is remembered.

    Attributes
    ----------
    window, count
        Most keys of one client, and of all together.
    nbytes, seconds
        Most bytes of stored replies, and how long one and an idle client are remembered. The newest reply is
        kept even where it is larger than the bound.
    clients : int
        Most clients of which the last key is remembered after everything else. Of further ones only the name is, in
        a `BloomSet`: whatever they send is refused, because nobody knows whether it is new.
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
        self._floors: OrderedDict[str, tuple[int, ...]] = OrderedDict()
        #: Clients with one key, such as a UUID: apart, because many of them must not push the others out.
        self._single: OrderedDict[str, None] = OrderedDict()
        self._forgotten = BloomSet()
        self._replies: OrderedDict[Key, Entry] = OrderedDict()
        self._count = 0
        self.nbytes = 0
        self.replayed = 0
        self.joined = 0
        self.evicted = 0

    def begin(self, key: Key, fingerprint: object, *, now: float) -> Entry | None:
        """Return what is known of a key; None if it is new, and then counts as being carried out.

        Raises
        ------
        Mismatch
            If the key came before with another fingerprint.
        Expired
            If its reply was dropped; tells whether it was applied.
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
        """Take note of a request that was carried out elsewhere; without a reply if that is gone."""
        window = self._windows.get(key.client)
        if window is not None and (key.sequence in window.entries or key.sequence <= window.floor):
            return
        self.begin(key, fingerprint, now=now)
        self.finish(key, reply, nbytes=nbytes, now=now)
        if reply is None:
            self._drop_reply(key)

    def running(self, key: Key) -> Entry:
        """Return the entry of a request that is being carried out."""
        return self._windows[key.client].entries[key.sequence]

    def finish(self, key: Key, reply: Any, *, nbytes: int, now: float, applied: Applied = "yes") -> None:
        """Store the reply of a request that was carried out."""
        window = self._windows[key.client]
        entry = window.entries[key.sequence]
        entry.running, entry.waiting = False, None
        entry.reply, entry.nbytes, entry.born, entry.applied = reply, nbytes, now, applied
        self._replies[key] = entry
        window.holding[key.sequence] = None
        self.nbytes += nbytes
        while self.nbytes > self.bounds.nbytes and len(self._replies) > 1:
            self._drop_reply(next(iter(self._replies)))
            self.evicted += 1

    def stored(self, key: Key) -> Entry | None:
        """Return the entry of a request that was carried out and whose reply is kept; None otherwise."""
        window = self._windows.get(key.client)
        entry = window.entries.get(key.sequence) if window is not None else None
        return entry if entry is not None and not entry.running and entry.reply is not None else None

    def forget(self, key: Key) -> None:
        """Take back that a request was begun: it was not carried out and may come again."""
        del self._windows[key.client].entries[key.sequence]
        self._count -= 1

    def acknowledge(self, client: str, below: int) -> None:
        """Drop the replies of a client's requests up to a sequence number: it has them."""
        window = self._windows.get(client)
        if window is None:
            return
        for sequence in list(window.holding):
            if sequence < (below,):
                self._drop_reply(Key(client, sequence))

    def expire(self, now: float) -> None:
        """Drop replies that are too old, and clients that were not seen for as long."""
        oldest = now - self.bounds.seconds
        while self._replies:
            key, entry = next(iter(self._replies.items()))
            if entry.born >= oldest:
                break
            self._drop_reply(key)
        while self._windows:
            client, window = next(iter(self._windows.items()))
            if window.seen >= oldest:
                break
            while self._forget_oldest(client, window):
                pass
            if client in self._windows:  # something of it is still being carried out
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
        del self._windows[key.client].holding[key.sequence]
        self.nbytes -= entry.nbytes
        entry.reply = None

    def _forget_oldest(self, client: str, window: _Window) -> bool:
        """Forget the oldest key of a client that is not being carried out; tell whether there was one."""
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
        """Remember the last key of a client; of the oldest clients, that there was one."""
        if floor == (0,):
            self._single[client] = None
        else:
            self._floors[client] = floor
        for kept in (self._single, self._floors):
            while len(kept) > self.bounds.clients:
                self._forgotten.add(kept.popitem(last=False)[0])

    def _floor_of(self, client: str) -> tuple[int, ...]:
        """Return the last key of a client that was forgotten, and remember it no longer.

        Raises
        ------
        Forgotten
            If there was one, and nobody knows which.
        """
        if client in self._single:
            del self._single[client]
            return (0,)
        if client in self._floors:
            return self._floors.pop(client)
        if client in self._forgotten:
            raise Forgotten
        return ()

    def _make_room(self) -> None:
        """Forget keys of the clients that were not seen for longest."""
        for _ in range(_TRIES):
            client, window = next(iter(self._windows.items()))
            while self._count > self.bounds.count and self._forget_oldest(client, window):
                pass
            if self._count <= self.bounds.count:
                return
            if client in self._windows:
                self._windows.move_to_end(client)


def _oldest(entries: dict[tuple[int, ...], Entry]) -> tuple[int, ...] | None:
    """Return the first key that is not being carried out."""
    for sequence, entry in entries.items():
        if not entry.running:
            return sequence
    return None
