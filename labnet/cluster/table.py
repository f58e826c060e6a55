"""A table of the models of a cluster: text in a terminal, HTML in a notebook."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from labnet.pictures import table, text_table

_COLUMNS = ("name", "part", "state", "worker", "url", "version", "hits", "p99", "restarts", "trouble")


@dataclass(frozen=True)
class Row:
    """One part of one model.

    Attributes
    ----------
    part : str
        ``primary``, or ``replica 1`` and so on.
    version : int or None
        Number of updates of its weights; None if its worker does not answer.
    hits : int or None
        Number of forwards and backwards.
    p99 : float or None
        99th percentile of forwards in seconds; None before the first.
    restarts : int
        Number of restarts, on any worker.
    """

    name: str
    part: str
    state: str
    worker: str
    url: str
    version: int | None
    hits: int | None
    p99: float | None
    restarts: int
    trouble: str = ""

    @classmethod
    def of(cls, given: dict[str, Any]) -> "Row":
        """Read the scheduler's row of a part."""
        number = given["number"]
        counters = (given.get("statistics") or {}).get("statistics")
        version = hits = p99 = None
        if counters is not None:
            routes = [counters[route] for route in ("forward", "optimize") if route in counters]
            version, hits = counters["server"].get("version"), sum(route["hits"] for route in routes)
            p99 = routes[0]["latency"]["p99"] if routes and routes[0]["hits"] else None
        return cls(
            given["name"],
            f"replica {number}" if number else "primary",
            given["state"],
            given["worker"],
            given["url"],
            version,
            hits,
            p99,
            given["restarts"],
            given["trouble"],
        )

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the columns."""
        p99 = "–" if self.p99 is None else f"{self.p99 * 1e3:.3g} ms"
        counts = ("–" if count is None else f"{count:,}" for count in (self.version, self.hits))
        return (self.name, self.part, self.state, self.worker, self.url, *counts, p99, str(self.restarts), self.trouble)


class Models:
    """The rows of `Cluster.models`.

    Examples
    --------
    >>> Models([Row("mlp", "primary", "running", "tcp://10.0.0.1:40", "http://10.0.0.1:41", 7, 14, 0.002, 0)])
    name  part     state    worker             url                 version  hits  p99   restarts  trouble
    mlp   primary  running  tcp://10.0.0.1:40  http://10.0.0.1:41  7        14    2 ms  0
    """

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __iter__(self) -> Iterator[Row]:
        return iter(self.rows)

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, position: int) -> Row:
        return self.rows[position]

    def __repr__(self) -> str:
        if not self.rows:
            return "the cluster serves no model; cluster.serve_model(factory, optimizer, name=...) does"
        return text_table(_COLUMNS, (row.cells() for row in self.rows))

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{self!r}</p>"
        rows = [row.cells() for row in self.rows]
        shown = len(_COLUMNS) if any(row.trouble for row in self.rows) else -1
        return table(_COLUMNS[:shown], [row[:shown] for row in rows], words=5)
