"""The models of a cluster as one tree, for the panel."""

import contextlib
from typing import Any, Protocol

from labnet.errors import Unreachable
from labnet.network.monitor.polling import SnapshotPoller

_INTERVAL_SECONDS = 0.5


class ClusterView(Protocol):
    """The part of a cluster that the panel needs."""

    @property
    def address(self) -> str:
        """Address of the scheduler."""
        ...

    @property
    def closing(self) -> bool:
        """Whether the connection is being closed."""
        ...

    def tree(self) -> list[dict[str, Any]]:
        """Return a row for each part of each model, with its statistics."""
        ...


class Tree(SnapshotPoller):
    """A panel source that shows the models of a cluster."""

    def __init__(self, cluster: ClusterView):
        self._cluster = cluster
        super().__init__(seconds=_INTERVAL_SECONDS)

    @property
    def live(self) -> bool:
        """Whether the connection is open."""
        return not self._cluster.closing

    def ask(self) -> dict[str, Any]:
        """Ask the scheduler."""
        try:
            rows = self._cluster.tree()
        except Exception as error:  # any error of Dask after the scheduler has ended: the panel shows it
            raise Unreachable(f"{type(error).__name__}: {error}") from error
        if self._cluster.closing:  # the models are being stopped: keep the snapshot from before
            raise Unreachable("closed")
        return snapshot_of(self._cluster.address, rows)

    def snapshot(self) -> dict[str, Any]:
        """Return the latest snapshot; after the cluster was closed, the last one before."""
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
    """Return a snapshot with one branch per model, and its replicas below it.

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
            if told.get("loss", {}).get("steps"):  # the last model that reports a loss
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
