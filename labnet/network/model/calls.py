"""The graphs that a server keeps between a forward and its backward: pure bookkeeping, no I/O.

Every forward gets an id of its own, so several may be in flight and come back in any order. What is kept is
bounded by number, bytes and age; the oldest goes first. The ids of used calls are remembered
longer than their graphs, so that a late or repeated backward can be told from an unknown one.
What became of a request that comes twice is the business of `ledger`.
"""

import re
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from labnet.network.protocol.outcome import Applied, Expired

#: Digits of a version in the ids of calls of a store, and what stands behind their lineage: that, and random ones.
_DIGITS = 12
_TAIL = re.compile(r"[0-9a-f]{28}")


def call_prefix(lineage: str, version: int) -> str:
    """Return what the ids of a store's calls begin with, whose forward saw this version of the weights."""
    return f"{lineage}{version:0{_DIGITS}x}"


class Kept(NamedTuple):
    """What a server remembers of one forward.

    Attributes
    ----------
    graph : object
        Whatever the backward needs.
    version : int
        Version of the weights that the forward saw.
    nbytes : int
        Bytes that the graph keeps alive.
    born : float
        Time of the forward, in seconds of a monotonic clock.
    if_dropped : "no" or "unknown"
        What to say of the call when it is dropped: "unknown" once a server further down may have used its gradient.
    """

    graph: Any
    version: int
    nbytes: int
    born: float
    if_dropped: Applied = "no"


@dataclass(frozen=True)
class Limits:
    """Bounds of what is kept.

    Attributes
    ----------
    count, nbytes, seconds
        Most graphs, most bytes in all of them, and the greatest age of one.
    remembered : int
        Most ids of calls that are remembered after their graph is gone.
    """

    count: int = 1024
    nbytes: int = 1 << 30
    seconds: float = 600.0
    remembered: int = 100_000


def check_renewed(calls: "Calls", renews: str) -> None:
    """Check that the gradient of a call may still be used through another one, whose forward was made again.

    Raises
    ------
    Expired
        If it was used, or nobody knows.
    """
    if renews and (fate := calls.fate(renews, now=0.0)) != "no":
        raise Expired(fate)


class Calls:
    """Kept graphs by call id.

    Examples
    --------
    >>> calls = Calls(Limits(count=1))
    >>> calls.keep("a", Kept("graph a", 0, 8, born=0.0))
    >>> calls.keep("b", Kept("graph b", 0, 8, born=1.0))
    >>> calls.take("b", now=2.0).graph
    'graph b'
    >>> calls.take("a", now=2.0)
    Traceback (most recent call last):
    labnet.network.model.calls.Expired: no
    """

    def __init__(self, limits: Limits | None = None):
        self.limits = limits or Limits()
        self._kept: OrderedDict[str, Kept] = OrderedDict()
        self._gone: OrderedDict[str, Applied] = OrderedDict()
        self._keys: OrderedDict[str, str] = OrderedDict()
        self._own: str | None = None
        self._since = 0
        self.nbytes = 0
        self.evicted = 0

    def __len__(self) -> int:
        return len(self._kept)

    def keep(self, call: str, kept: Kept) -> None:
        """Keep a graph, and drop what is over the bounds, oldest first."""
        self._kept[call] = kept
        self.nbytes += kept.nbytes
        self.expire(max(k.born for k in (kept, next(iter(self._kept.values())))))
        while len(self._kept) > self.limits.count or (self.nbytes > self.limits.nbytes and len(self._kept) > 1):
            self._drop(next(iter(self._kept)))
            self.evicted += 1

    def expire(self, now: float) -> None:
        """Drop what is too old."""
        while self._kept:
            oldest = next(iter(self._kept))
            if now - self._kept[oldest].born <= self.limits.seconds:
                break
            self._drop(oldest)
            self.evicted += 1

    def look(self, call: str, *, now: float) -> Kept:
        """Return what is kept for a call, and leave it there.

        Raises
        ------
        Expired
            If the call was used (`applied` is "yes"), dropped ("no") or is not known ("unknown").
        """
        self.expire(now)
        if call not in self._kept:
            raise Expired(self._gone.get(call) or self._of_unknown(call))
        return self._kept[call]

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
        """Take note of the calls of a store that were used before; every other one of it was not.

        Parameters
        ----------
        in_doubt : iterable of str
            Calls of which servers further down may have used the gradient.
        refused : iterable of str
            Calls whose gradients were refused for good.
        since : int
            Of forwards before this version, these may not be all.
        """
        self._gone.update(dict.fromkeys(refused, "no"))
        self._gone.update(dict.fromkeys(in_doubt, "unknown"))
        self._gone.update(dict.fromkeys(used, "yes"))
        self._own, self._since = lineage, since

    def _of_unknown(self, call: str) -> Applied:
        version = self._version_of(call)
        return "unknown" if version is None or version < self._since else "no"

    def _version_of(self, call: str) -> int | None:
        """Return the version of the weights that a forward saw, as its id tells; None for ids that are none of here."""
        own = self._own
        if own is None or not call.startswith(own) or not _TAIL.fullmatch(call, len(own)):
            return None
        return int(call[len(own) : len(own) + _DIGITS], 16)

    def take(self, call: str, *, now: float) -> Kept:
        """Return what is kept for a call, which is used up by that.

        Raises
        ------
        Expired
            As `look` does.
        """
        kept = self.look(call, now=now)
        self._drop(call, "yes")
        return kept

    def give_back(self, call: str, kept: Kept, *, in_doubt: bool = False) -> None:
        """Keep a graph again that was taken but not used: its backward failed before anything was applied here.

        Parameters
        ----------
        in_doubt : bool
            Whether a server further down may have applied its part; a client then must not start anew.
        """
        self._gone.pop(call, None)
        self.keep(call, kept._replace(if_dropped="unknown") if in_doubt else kept)

    def used(self, call: str, key: str) -> None:
        """Take note that the gradient of a call was used, for a request with this key; its graph goes."""
        if call in self._kept:
            self._drop(call)
        self._remember(call, "yes")
        self._keys[call] = key
        while len(self._keys) > self.limits.remembered:
            self._keys.popitem(last=False)

    def key_of(self, call: str) -> str | None:
        """Return the key of the request that has used the gradient of a call, if that is known."""
        return self._keys.get(call)

    def claim(self, call: str) -> None:
        """Use up a call whose graph is kept elsewhere.

        Raises
        ------
        Expired
            If it was used, or refused, before.
        """
        if call in self._gone or call in self._kept or self._of_unknown(call) != "no":
            raise Expired(self._gone.get(call) or self._of_unknown(call))
        self._remember(call, "yes")

    def unclaim(self, call: str) -> None:
        """Take back that a call was used whose graph is kept elsewhere."""
        self._gone.pop(call, None)

    def refuse(self, call: str) -> None:
        """Use no gradient of a call that is kept elsewhere from now on: somebody was told that none was used."""
        if call not in self._gone and call not in self._kept and self._of_unknown(call) == "no":
            self._remember(call, "no", for_good=True)

    def discard(self, call: str) -> None:
        """Drop one graph that is there; it was not used."""
        if call in self._kept:
            self._drop(call)

    def clear(self, calls: Iterable[str] | None = None) -> None:
        """Drop these graphs, or every one: the model that made them is gone."""
        for call in list(self._kept if calls is None else calls):
            self._drop(call)

    def _drop(self, call: str, applied: Applied | None = None) -> None:
        kept = self._kept.pop(call)
        self.nbytes -= kept.nbytes
        self._remember(call, applied or kept.if_dropped)

    def _remember(self, call: str, applied: Applied, *, for_good: bool = False) -> None:
        if applied == "no" and not for_good and self._of_unknown(call) == "no":
            return  # which is said of it anyway
        self._gone[call] = applied
        while len(self._gone) > self.limits.remembered:
            forgotten = self._version_of(self._gone.popitem(last=False)[0])
            if forgotten is not None:  # of its time, one that is not known may have been used
                self._since = max(self._since, forgotten + 1)

    def summary(self) -> dict[str, int]:
        """Return the figures for the statistics."""
        return {"count": len(self._kept), "bytes": self.nbytes, "evicted": self.evicted}
