"""What the scheduler knows of a model: what is to be served, and of each part where it is. No I/O."""

from collections import deque
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from labnet.cluster.placement import State

_LINES = 1000


@dataclass(frozen=True)
class Order:
    """What is to be served under a name.

    Attributes
    ----------
    name : str
        Of the model.
    program : bytes
        Factory and optimizer as Dask writes functions; the scheduler does not look into it.
    replicas : int
        Parts of the model, with the primary.
    resources : dict
        What each part takes of its worker.
    store : str or None
        Folder of the primary's store.
    options : dict
        Further keywords for `labnet.network.serve_model`.
    workers : tuple of str
        Where to serve; empty for anywhere.
    """

    name: str
    program: bytes = field(repr=False)
    replicas: int
    resources: dict[str, float]
    store: str | None
    options: dict[str, Any]
    workers: tuple[str, ...] = ()


@dataclass
class Part:
    """A server of a model: number 0 is the primary.

    Attributes
    ----------
    worker, url : str
        Where it is, or was last.
    incarnation : str
        Random for each start of it.
    restarts : int
        How often it was started again.
    trouble : str
        Why it does not run, or empty.
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
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LINES), repr=False)

    @property
    def id(self) -> str:
        """Text that names the part, such as ``encoder/0``."""
        return f"{self.name}/{self.number}"

    def note(self, text: str) -> None:
        """Write a line into the part's log."""
        self.lines.append(f"{datetime.now():%Y-%m-%d %H:%M:%S} {self.id}: {text}")

    def start(self, worker: str) -> None:
        """Take note that a worker was asked to serve it."""
        self.state, self.worker = "starting", worker

    def run(self, url: str, token: str, incarnation: str) -> None:
        """Take note of where it is served now."""
        self.state, self.url, self.token, self.incarnation = "running", url, token, incarnation
        self.restarts += 1
        self.trouble = ""
        self.note(f"served at {url} by {self.worker}")

    def lose(self, reason: str) -> None:
        """Take note that it is not served any more."""
        self.state, self.trouble = "waiting", reason
        self.note(reason)

    def endpoint(self) -> dict[str, Any]:
        """Return what a client needs to reach it."""
        return {"number": self.number, "url": self.url, "token": self.token, "incarnation": self.incarnation}

    def row(self) -> dict[str, Any]:
        """Return what anybody may see of it: no token."""
        return {
            "name": self.name,
            "number": self.number,
            "state": self.state,
            "worker": self.worker,
            "url": self.url,
            "restarts": max(0, self.restarts),
            "trouble": self.trouble,
        }
