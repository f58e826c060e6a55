"""Records of the scheduler: the order for each model, and the state of its parts. No I/O."""

from collections import deque
from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from labnet.cluster.placement import State

_LINES = 1000


@dataclass(frozen=True)
class Order:
    """The order to serve a model under a name.

    Attributes
    ----------
    name : str
        Name of the model.
    program : bytes
        Factory and optimizer, serialized by Dask; the scheduler does not deserialize them.
    replicas : int
        Number of parts, including the primary.
    resources : dict
        Resources of its worker that each part uses.
    store : str or None
        Folder of the primary's store.
    options : dict
        Further keywords for `labnet.network.serve_model`.
    workers : tuple of str
        Workers that may serve it; empty for all.
    id : str
        Random id of the order.
    owner, owner_name : str
        Id of the client that ordered it, and its user, host and process.
    replace : bool
        Whether it takes the name of a model of another owner.
    """

    name: str
    program: bytes = field(repr=False)
    replicas: int
    resources: dict[str, float]
    store: str | None
    options: dict[str, Any]
    workers: tuple[str, ...] = ()
    id: str = ""
    owner: str = ""
    owner_name: str = ""
    replace: bool = False

    def may_replace(self, other: "Order", connected: Collection[str]) -> bool:
        """Return whether this order may take the name of another one: that of the same owner, or of one who has left.

        Parameters
        ----------
        connected : collection of str
            Ids of the owners that are connected to the cluster.
        """
        has_left = other.owner not in connected and _user(self.owner_name) == _user(other.owner_name)
        return self.replace or self.owner == other.owner or has_left


def _user(owner_name: str) -> str:
    """Return user and host of the name of an owner, without its process."""
    return owner_name.partition(" ")[0]


@dataclass
class Part:
    """A server of a model: number 0 is the primary.

    Attributes
    ----------
    worker, url : str
        Current or last location.
    incarnation : str
        Random id of each start.
    restarts : int
        Number of restarts.
    trouble : str
        Why it does not run; empty if it runs.
    is_placed : bool
        False while it waits for a worker.
    moves_to : str
        The worker to which it moves from a running one; empty if it stays.
    """

    name: str
    number: int
    state: State = "waiting"
    worker: str = ""
    url: str = ""
    token: str = field(default="", repr=False)
    incarnation: str = ""
    restarts: int = -1
    trouble: str = ""
    is_placed: bool = True
    moves_to: str = ""
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES), repr=False)

    @property
    def id(self) -> str:
        """Id of the part, such as ``encoder/0``."""
        return f"{self.name}/{self.number}"

    def note(self, text: str) -> None:
        """Add a line to the log of the part."""
        self.lines.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {self.id}: {text}")

    def start(self, worker: str) -> None:
        """Record that a worker was asked to serve the part."""
        self.state, self.worker = "starting", worker

    def run(self, url: str, token: str, incarnation: str) -> None:
        """Record the location of the running part."""
        self.state, self.url, self.token, self.incarnation = "running", url, token, incarnation
        self.restarts += 1
        self.trouble = ""
        self.note(f"served at {url} by {self.worker}")

    def lose(self, reason: str) -> None:
        """Record that the part no longer runs."""
        self.state, self.trouble = "waiting", reason
        self.note(reason)

    def endpoint(self) -> dict[str, Any]:
        """Return the endpoint of the part for clients."""
        return {"number": self.number, "url": self.url, "token": self.token, "incarnation": self.incarnation}

    def row(self) -> dict[str, Any]:
        """Return the public state of the part, without the token."""
        return {
            "name": self.name,
            "number": self.number,
            "state": self.state,
            "worker": self.worker,
            "url": self.url,
            "restarts": max(0, self.restarts),
            "trouble": self.trouble,
        }
