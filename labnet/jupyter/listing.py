"""The listing of `%labnet list`: the servers of this kernel and of the same user's other processes."""

import os
from dataclasses import dataclass
from html import escape
from typing import Any

from labnet.errors import RemoteError
from labnet.network import Server, discovery, servers, tfetch
from labnet.pictures import table, text_table

_COLUMNS = ("name", "address", "where", "hits", "errors", "state")
_TIMEOUT_SECONDS = 1.0


@dataclass(frozen=True)
class Row:
    """A server of this user on this machine."""

    name: str
    address: str
    where: str
    hits: int
    errors: int
    state: str

    def cells(self) -> tuple[str, ...]:
        """Return the cells of the columns."""
        return (self.name, self.address, self.where, f"{self.hits:,}", f"{self.errors:,}", self.state)


class Listing:
    """Servers as a table: HTML in a notebook, columns of text in a terminal.

    Examples
    --------
    >>> Listing([Row("mlp", "http://127.0.0.1:3000", "this kernel", 1200, 0, "running")])
    name  address                where        hits   errors  state
    mlp   http://127.0.0.1:3000  this kernel  1,200  0       running
    """

    def __init__(self, rows: list[Row]):
        self.rows = rows

    def __repr__(self) -> str:
        if not self.rows:
            return "no server is running on this machine; %serve_model NAME starts one"
        return text_table(_COLUMNS, (row.cells() for row in self.rows))

    def _repr_html_(self) -> str:
        if not self.rows:
            return f"<p>{escape(repr(self))}</p>"
        return table(_COLUMNS, (row.cells() for row in self.rows), words=len(_COLUMNS))


def listing() -> Listing:
    """Return this user's servers on this machine, those of this process first."""
    here = [_row(server.name, server.url, "this kernel", server.statistics()) for server in servers().values()]
    others = [entry for entry in discovery.entries() if entry.pid != os.getpid()]
    return Listing([*here, *(_row(e.name, e.url, f"process {e.pid}", _ask(e.url)) for e in others)])


def find(target: str) -> Server | str:
    """Return the server of this process with a name or port, or else the address of another process's.

    Raises
    ------
    LookupError
        If the target is no address, and no server or several servers have the name.

    Examples
    --------
    >>> find("localhost:3000")
    'localhost:3000'
    """
    found: list[Server | str] = [s for s in servers().values() if target in (s.name, str(s.port), s.url)]
    found = found or [entry.url for entry in discovery.entries() if target == entry.name]
    if len(found) > 1:
        raise LookupError(f"{len(found)} servers are named {target!r}: give the address of one, as in %labnet list")
    if not found and ":" not in target:
        raise LookupError(f"no server is named {target!r}: expected an address, or a name from %labnet list")
    return found[0] if found else target


def _ask(url: str) -> dict[str, Any] | None:
    try:
        found: dict[str, Any] = tfetch(url + "/statistics", timeout=_TIMEOUT_SECONDS, blocking=True)
    except RemoteError:
        return None
    return found


def _row(name: str, url: str, where: str, statistics: dict[str, Any] | None) -> Row:
    routes = [route for key, route in (statistics or {}).items() if key != "server" and _is_route(route)]
    state = "no answer" if statistics is None else "running"
    hits, errors = (sum(route[column] for route in routes) for column in ("hits", "errors"))
    return Row(name, url, where, hits, errors, state)


def _is_route(value: Any) -> bool:
    """Return whether a statistics entry contains the counters of a route."""
    return isinstance(value, dict) and isinstance(value.get("hits"), int) and isinstance(value.get("errors"), int)
