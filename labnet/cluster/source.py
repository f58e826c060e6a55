"""Everything that a cluster serves as one tree, for the panel."""

import contextlib
from typing import Any, Protocol

from labnet.errors import Unreachable
from labnet.network.monitor.polling import SnapshotPoller

_INTERVAL_SECONDS = 0.5


class Asked(Protocol):
    """A cluster, as far as the panel needs it."""

    @property
    def address(self) -> str:
        """Address of its scheduler."""
        ...

    @property
    def closed(self) -> bool:
        """Whether nobody can be asked any more."""
        ...

    def tree(self) -> list[dict[str, Any]]:
        """Return a row for each part of each model, with its statistics."""
        ...


class Tree(SnapshotPoller):
    """The models of a cluster as the panel wants them."""

    def __init__(self, cluster: Asked):
        self._cluster = cluster
        super().__init__(seconds=_INTERVAL_SECONDS)

    @property
    def live(self) -> bool:
        """Whether the cluster can still be asked."""
        return not self._cluster.closed

    def ask(self) -> dict[str, Any]:
        """Ask the scheduler."""
        try:
            rows = self._cluster.tree()
        except Exception as error:  # whatever Dask raises when the scheduler is gone: the panel says so
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        if self._cluster.closed:  # what it serves is being stopped: that is not what a panel should end with
            raise Unreachable("closed")
        return snapshot_of(self._cluster.address, rows)

    def snapshot(self) -> dict[str, Any]:
        """Return what was told last; after the cluster was closed, as it was until then."""
        if self.live:
            return super().snapshot()
        known = {key: value for key, value in self._newest.items() if key != "unreachable"}
        if "statistics" in known:
            name = known["statistics"]["server"]["name"].replace("servers run", "servers ran")
            known["statistics"] = {"server": {"name": name}}
        return {**known, "running": False, "state": "closed"}

    def capability(self) -> None:
        """Return None: a cluster is not stopped from a panel."""

    def stop(self) -> None:
        """Do nothing: a cluster is not stopped from a panel."""

    def __repr__(self) -> str:
        with contextlib.suppress(Exception):
            return repr(self._cluster)
        return "Cluster(closed)"


def snapshot_of(address: str, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Return a snapshot whose branches are the models, and below each its replicas.

    Examples
    --------
    >>> row = {"name": "mlp", "number": 0, "state": "waiting", "worker": "tcp://a:1", "restarts": 1, "url": "",
    ...        "trouble": "its worker was lost", "statistics": None}
    >>> snapshot_of("tcp://a:1", [row])["branches"]["known"]["mlp"]["server"]["name"]
    'waiting (its worker was lost), 1 restart'
    """
    branches: dict[str, Any] = {}
    primary: dict[str, Any] | None = None
    losses: dict[str, list[float]] = {"steps": [], "values": []}
    for row in rows:
        told = row.get("statistics") or {}
        document = dict(told.get("statistics") or {})
        document["server"] = {**document.get("server", {}), "name": _label(row)}
        if row["number"] == 0:
            primary = branches[row["name"]] = document
            if told.get("loss", {}).get("steps"):  # the last model that has one
                losses = told["loss"]
        elif primary is not None:
            primary[f"replica {row['number']}"] = document
    running = sum(row["state"] == "running" for row in rows)
    return {
        "url": address,
        "connect": f"cluster = ln.cluster.connect({address!r})",
        "running": True,
        "statistics": {"server": {"name": f"cluster: {running} of {len(rows)} servers run"}},
        "recent": {},
        "loss": losses,
        "norms": {},
        "branches": {"known": branches, "incomplete": "", "title": "models"},
    }


def _label(row: dict[str, Any]) -> str:
    trouble = f" ({row['trouble']})" if row["trouble"] else ""
    restarts = row["restarts"]
    again = f", {restarts} restart{'s' if restarts > 1 else ''}" if restarts else ""
    state = f"on {row['worker']}" if row["state"] == "running" else row["state"]
    return f"{state}{trouble}{again}"
