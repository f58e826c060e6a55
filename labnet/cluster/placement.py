"""Placement of the parts of models on workers: pure decisions, no I/O.

A part is a server of a model on one worker: the primary, which owns the weights, or a replica.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from typing import Literal

State = Literal["waiting", "starting", "running", "stopped"]


@dataclass
class Candidate:
    """A worker that can serve models.

    Attributes
    ----------
    address : str
        Address of the worker in the cluster.
    name : str
        Name of the worker in the cluster.
    supply : mapping of str to float
        Its resources.
    served : list of str
        Names of the models with parts on this worker, one entry per part.
    used : dict of str to float
        Resources that these parts use.
    """

    address: str
    name: str = ""
    supply: Mapping[str, float] = field(default_factory=dict)
    served: list[str] = field(default_factory=list)
    used: dict[str, float] = field(default_factory=dict)

    def has(self, resources: Mapping[str, float], *, free: bool = True) -> bool:
        """Return whether the worker has the resources, in total or still free."""
        taken = self.used if free else {}
        return all(self.supply.get(key, 0.0) - taken.get(key, 0.0) >= amount for key, amount in resources.items())


def allowed(candidates: Collection[Candidate], workers: Collection[str]) -> list[Candidate]:
    """Return the `candidates` that are named by address, host or name; all of them without names.

    Examples
    --------
    >>> [c.name for c in allowed([Candidate("tcp://10.0.0.1:7", "a"), Candidate("tcp://10.0.0.2:7", "b")], ["b"])]
    ['b']
    >>> [c.name for c in allowed([Candidate("tcp://10.0.0.1:7", "a")], ["10.0.0.1"])]
    ['a']
    """
    if not workers:
        return list(candidates)
    return [c for c in candidates if {c.address, c.name, _host(c.address)} & set(workers)]


def _host(address: str) -> str:
    return address.rpartition("://")[2].rpartition(":")[0].strip("[]")


def choose(
    candidates: Collection[Candidate],
    name: str,
    resources: Mapping[str, float],
    *,
    workers: Collection[str] = (),
    only_idle: bool = False,
) -> Candidate | None:
    """Return the worker for a part of a model, or None if none is available.

    The order is: fewest parts of this model, fewest parts of any model, name.

    Parameters
    ----------
    only_idle : bool
        Exclude workers that already serve a part.

    Examples
    --------
    >>> busy, idle = Candidate("tcp://a:1", served=["encoder"]), Candidate("tcp://b:1")
    >>> choose([busy, idle], "decoder", {}).address
    'tcp://b:1'
    >>> choose([busy], "decoder", {}, only_idle=True) is None
    True
    >>> choose([idle], "decoder", {"GPU": 1}) is None
    True
    """
    found = [c for c in allowed(candidates, workers) if c.has(resources) and not (only_idle and (c.served or c.used))]
    return min(found, key=lambda c: (c.served.count(name), len(c.served), c.name, c.address), default=None)


def why_not(candidates: Collection[Candidate], resources: Mapping[str, float], workers: Collection[str]) -> str | None:
    """Return why no worker could ever serve a part, or None if one could.

    Examples
    --------
    >>> why_not([Candidate("tcp://a:1", "a", {"GPU": 1})], {"GPU": 2}, ())
    "no worker has the resources {'GPU': 2}: they have {'a': {'GPU': 1}}"
    """
    if not candidates:
        return "the cluster has no worker that can serve"
    left = allowed(candidates, workers)
    if not left:
        return f"no worker is called {sorted(workers)}: they are called {sorted(c.name for c in candidates)}"
    if not any(c.has(resources, free=False) for c in left):
        return f"no worker has the resources {dict(resources)}: they have { {c.name: dict(c.supply) for c in left} }"
    return None


def what_is_missing(candidates: Collection[Candidate], resources: Mapping[str, float], workers: Collection[str]) -> str:
    """Return what a part waits for that could be served.

    Examples
    --------
    >>> what_is_missing([Candidate("tcp://a:1", "a", {"GPU": 1}, ["encoder"], {"GPU": 1})], {"GPU": 1}, ())
    "the resources {'GPU': 1}, which are in use on worker a by encoder"
    """
    left = allowed(candidates, workers)
    able = [c for c in left if c.has(resources, free=False)]
    if not able:
        return why_not(candidates, resources, workers) or "a worker"
    if any(c.has(resources) for c in able):
        return "an idle worker"
    users = " and ".join(f"on worker {c.name or c.address} by {', '.join(sorted(set(c.served)))}" for c in able)
    return f"the resources {dict(resources)}, which are in use {users}"
