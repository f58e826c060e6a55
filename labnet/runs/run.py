"""Recorded runs, as they are read."""

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from html import escape
from pathlib import Path

from labnet.pictures import table, text_table
from labnet.runs import database, recording
from labnet.runs.event_file import write_event_file

_COLUMNS = ("id", "name", "started", "seconds", "updates", "loss", "commit", "optimizer")
_FIELDS = "id, name, started, ended, git, code, model, optimizer"


@dataclass(frozen=True)
class Run:
    """One recorded run.

    Attributes
    ----------
    id : int
        Number in the file.
    started, ended : float
        Seconds since 1970.
    git : str
        Commit of the working directory; empty outside of a repository.
    code : str
        Code of the cell that served the model.
    model, optimizer : str
        Descriptions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.runs.get("no such run")
    Traceback (most recent call last):
    LookupError: no run is named 'no such run'; ln.runs.all() lists them
    """

    id: int
    name: str
    started: float
    ended: float
    git: str
    code: str
    model: str
    optimizer: str

    @property
    def metrics(self) -> dict[str, tuple[list[int], list[float]]]:
        """Steps and values by metric; if there were many within two seconds, their extremes."""
        recording.flush()
        found: dict[str, tuple[list[int], list[float]]] = {}
        with database.connection() as opened:
            rows = opened.execute(
                "SELECT metric, step, value FROM points WHERE run = ? ORDER BY step, rowid", (self.id,)
            )
            for metric, step, value in rows:
                steps, values = found.setdefault(metric, ([], []))
                steps.append(step)
                values.append(value)
        return found

    def to_csv(self, path: str | os.PathLike[str]) -> None:
        """Write all points to a file with the columns metric, step and value."""
        with Path(path).open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(("metric", "step", "value"))
            for metric, (steps, values) in self.metrics.items():
                writer.writerows((metric, step, repr(value)) for step, value in zip(steps, values, strict=True))

    def to_tensorboard(self, folder: str | os.PathLike[str]) -> Path:
        """Write all points as scalars to an event file in a folder, and return its path."""
        return write_event_file(Path(folder), self.metrics, at=self.started)

    def cells(self) -> tuple[str, ...]:
        """Return the cells of a table."""
        steps, losses = self.metrics.get("loss", ([], []))
        started = f"{datetime.fromtimestamp(self.started):%Y-%m-%d %H:%M:%S}"
        figures = (f"{self.ended - self.started:.0f}", f"{len(steps) and steps[-1]:,}")
        return (
            str(self.id),
            self.name,
            started,
            *figures,
            f"{losses[-1]:.4g}" if losses else "",
            self.git[:8],
            self.optimizer,
        )

    def __repr__(self) -> str:
        return (
            f"Run({self.id}, {self.name!r}, {datetime.fromtimestamp(self.started):%Y-%m-%d %H:%M:%S}, {self.optimizer})"
        )

    def _repr_html_(self) -> str:
        return f"{table(_COLUMNS, [self.cells()], words=2)}<pre>{escape(self.code)}</pre>"


class Runs(tuple[Run, ...]):
    """Several runs; a notebook shows them as a table."""

    __slots__ = ()

    def __repr__(self) -> str:
        return text_table(_COLUMNS, (run.cells() for run in self)) if self else "no run was recorded yet"

    def _repr_html_(self) -> str:
        return table(_COLUMNS, (run.cells() for run in self), words=2) if self else f"<p>{self!r}</p>"


def all(name: str | None = None, *, limit: int = 100) -> Runs:
    """Return the latest recorded runs, or those of a name, newest first; at most `limit`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.runs.all("no such run")
    no run was recorded yet
    """
    return Runs(_select("WHERE ? IS NULL OR name = ? ORDER BY started DESC, id DESC LIMIT ?", name, name, limit))


def get(which: str | int) -> Run:
    """Return a run by its number, or the latest one of a name.

    Raises
    ------
    LookupError
        If there is none.
    """
    field = "id" if isinstance(which, int) else "name"
    found = list(_select(f"WHERE {field} = ? ORDER BY started DESC, id DESC LIMIT 1", which))
    if not found:
        wanted = f"has the number {which}" if isinstance(which, int) else f"is named {which!r}"
        raise LookupError(f"no run {wanted}; ln.runs.all() lists them")
    return found[0]


def delete(which: str | int) -> None:
    """Delete a run, given by its number, or the latest one of a name.

    Raises
    ------
    LookupError
        If there is none.
    """
    run = get(which)
    with database.connection() as opened:
        opened.execute("DELETE FROM points WHERE run = ?", (run.id,))
        opened.execute("DELETE FROM runs WHERE id = ?", (run.id,))


def _select(condition: str, *arguments: str | int | None) -> Iterator[Run]:
    recording.flush()
    with database.connection() as opened:
        rows = opened.execute(f"SELECT {_FIELDS} FROM runs {condition}", arguments).fetchall()
    return (Run(*row) for row in rows)
