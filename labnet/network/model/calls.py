"""The graphs that a server keeps between a forward and its backward: pure bookkeeping, no I/O.

Every forward gets its own id, so several may be in flight and return in any order. Graphs are bounded by number, bytes
and age; the oldest is dropped first. The ids of used calls outlive their graphs, so a late or repeated backward differs
from an unknown one. Repeated requests are handled in `ledger`.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from labnet.eviction import BoundedMap
from labnet.network.protocol.outcome import Applied, Expired

#: Digits of the version in the call ids of a store, and the tail after the lineage: version and random digits.
_DIGITS = 12
_TAIL = re.compile(r"[0-9a-f]{28}")


def call_prefix(lineage: str, version: int) -> str:
    """Return the prefix of the call ids of a store whose forward saw this version of the weights."""
    return f"{lineage}{version:0{_DIGITS}x}"


class CallRecord(NamedTuple):
    """The record of one forward on a server.

    Attributes
    ----------
    graph : object
        Everything that the backward needs.
    version : int
        Version of the weights that the forward saw.
    nbytes : int
        Bytes that the graph keeps alive.
    born : float
        Time of the forward, in seconds of a monotonic clock.
    if_dropped : "no" or "unknown"
        Outcome to report after the call is dropped; "unknown" if an upstream server may have used its gradient.
    """

    graph: Any
    version: int
    nbytes: int
    born: float
    if_dropped: Applied = "no"


@dataclass(frozen=True)
class Limits:
    """Bounds of the kept graphs.

    Attributes
    ----------
    count, nbytes, seconds
        Most graphs, most bytes in all of them, and the greatest age of one.
    remembered : int
        Most call ids that are remembered after their graph is dropped.
    """

    count: int = 1024
    nbytes: int = 1 << 30
    seconds: float = 600.0
    remembered: int = 100_000


def check_renewed(calls: "Calls", renews: str) -> None:
    """Check that the gradient of the original call of a repeated forward may still be used.

    Raises
    ------
    Expired
        If it was used, or may have been.
    """
    if renews and (calls.is_refused(renews) or calls.fate(renews, now=0.0) != "no"):
        raise Expired(calls.fate(renews, now=0.0))


class Calls:
    """CallRecord graphs by call id.

    Examples
    --------
    >>> calls = Calls(Limits(count=1))
    >>> calls.keep("a", CallRecord("graph a", 0, 8, born=0.0))
    >>> calls.keep("b", CallRecord("graph b", 0, 8, born=1.0))
    >>> calls.take("b", now=2.0).graph
    'graph b'
    >>> calls.take("a", now=2.0)
    Traceback (most recent call last):
    labnet.network.protocol.outcome.Expired: no
    """

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        bounds = self.limits
        self._kept: BoundedMap[str, CallRecord] = BoundedMap(bounds.count, bounds.nbytes, lambda kept: kept.nbytes)
        self._gone: BoundedMap[str, Applied] = BoundedMap(bounds.remembered)
        self._keys: BoundedMap[str, str] = BoundedMap(bounds.remembered)
        self._refused: BoundedMap[str, None] = BoundedMap(bounds.remembered)
        self._own: str | None = None
        self._since = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._kept)

    @property
    def nbytes(self) -> int:
        """Bytes that all graphs keep alive."""
        return self._kept.nbytes

    def keep(self, call: str, kept: CallRecord) -> None:
        """Add a graph; drop the oldest graphs that exceed the bounds."""
        for evicted, old in self._kept.put(call, kept):
            self._remember(evicted, old.if_dropped)
            self.evicted += 1
        self.expire(max(kept.born, next(iter(self._kept.entries.values())).born))

    def expire(self, now: float) -> None:
        """Drop the graphs that exceed the maximum age."""
        kept = self._kept.entries
        while kept:
            oldest = next(iter(kept))
            if now - kept[oldest].born <= self.limits.seconds:
                break
            self._drop(oldest)
            self.evicted += 1

    def look(self, call: str, *, now: float) -> CallRecord:
        """Return the record of a call without removing it.

        Raises
        ------
        Expired
            If the call was used (`applied` is "yes"), dropped ("no") or is not known ("unknown").
        """
        self.expire(now)
        kept = self._kept.get(call)
        if kept is None:
            raise Expired(self._gone.get(call) or self._of_unknown(call))
        return kept

    def fate(self, call: str, *, now: float) -> Applied:
        """Return whether the gradient of a call was used."""
        try:
            self.look(call, now=now)
        except Expired as expired:
            return expired.applied
        return "no"

    def restore(
        self,
        lineage: str,
        used: Iterable[str],
        *,
        in_doubt: Iterable[str] = (),
        refused: Iterable[str] = (),
        since: int = 0,
    ) -> None:
        """Restore the outcomes of a store's calls; all its other calls count as not used.

        Parameters
        ----------
        in_doubt : iterable of str
            Calls whose gradient upstream servers may have used.
        refused : iterable of str
            Calls whose gradients were refused for good.
        since : int
            The outcomes are complete for forwards from this version on.
        """
        self._own, self._since = lineage, since
        for call in refused:
            self._refused.put(call, None)
            self._record(call, "no")
        for call in in_doubt:
            self._record(call, "unknown")
        for call in used:
            self._record(call, "yes")

    def _of_unknown(self, call: str) -> Applied:
        version = self._version_of(call)
        return "unknown" if version is None or version < self._since else "no"

    def _version_of(self, call: str) -> int | None:
        """Return the version of the weights in a call id; None for an id of another server."""
        own = self._own
        if own is None or not call.startswith(own) or not _TAIL.fullmatch(call, len(own)):
            return None
        return int(call[len(own) : len(own) + _DIGITS], 16)

    def take(self, call: str, *, now: float) -> CallRecord:
        """Remove and return the record of a call, which then counts as used.

        Raises
        ------
        Expired
            As `look` does.
        """
        kept = self.look(call, now=now)
        self._drop(call, "yes")
        return kept

    def release(self, call: str, kept: CallRecord, *, in_doubt: bool = False) -> None:
        """Put the record of a taken call back: its backward failed before anything was applied here.

        Parameters
        ----------
        in_doubt : bool
            Whether an upstream server may have applied its part; the client then must not start over.
        """
        self._gone.pop(call)
        self.keep(call, kept._replace(if_dropped="unknown") if in_doubt else kept)

    def used(self, call: str, key: str) -> None:
        """Record that the request with this key used the gradient of a call; drop the graph."""
        if call in self._kept:
            self._drop(call)
        self._remember(call, "yes")
        self._keys.put(call, key)

    def key_of(self, call: str) -> str | None:
        """Return the key of the request that used the gradient of a call; None if unknown."""
        return self._keys.get(call)

    def claim(self, call: str) -> None:
        """Mark a call as used whose graph another server keeps.

        Raises
        ------
        Expired
            If it was used or refused before.
        """
        if call in self._gone or call in self._kept or self._of_unknown(call) != "no":
            raise Expired(self._gone.get(call) or self._of_unknown(call))
        self._remember(call, "yes")

    def unclaim(self, call: str) -> None:
        """Undo `claim`."""
        self._gone.pop(call)

    def refuse(self, call: str) -> None:
        """Refuse all further gradients of a call on another server: its client was told that none was used."""
        if call not in self._gone and call not in self._kept and self._of_unknown(call) == "no":
            self._remember(call, "no", for_good=True)

    def abandon(self, call: str) -> None:
        """Refuse all gradients of a call, and of calls whose forwards repeat it; it was not used."""
        self.discard(call)
        self._refused.put(call, None)

    def is_refused(self, call: str) -> bool:
        """Return whether gradients of a call are refused."""
        return call in self._refused

    def discard(self, call: str) -> None:
        """Drop the graph of a call, if there is one; it was not used."""
        if call in self._kept:
            self._drop(call)

    def clear(self, calls: Iterable[str] | None = None) -> None:
        """Drop these graphs, or all of them: their model was replaced."""
        for call in list(self._kept if calls is None else calls):
            self._drop(call)

    def _drop(self, call: str, applied: Applied | None = None) -> None:
        kept = self._kept.pop(call)
        assert kept is not None, "the caller has looked"
        self._remember(call, applied or kept.if_dropped)

    def _remember(self, call: str, applied: Applied, *, for_good: bool = False) -> None:
        if applied == "no" and not for_good and self._of_unknown(call) == "no":
            return  # unknown calls are reported as "no" anyway
        self._record(call, applied)

    def _record(self, call: str, applied: Applied) -> None:
        for evicted, _ in self._gone.put(call, applied):
            forgotten = self._version_of(evicted)
            if forgotten is not None:  # from now on an unknown call of that version may have been used
                self._since = max(self._since, forgotten + 1)

    def summary(self) -> dict[str, int]:
        """Return the figures for the statistics."""
        return {"count": len(self._kept), "bytes": self.nbytes, "evicted": self.evicted}
