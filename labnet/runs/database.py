"""The SQLite file of the runs."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

import platformdirs

#: Environment variable with the path of another file; empty where nothing is to be recorded.
VARIABLE = "LABNET_RUNS"
_BUSY_SECONDS = 10.0
_TABLES = """
CREATE TABLE IF NOT EXISTS runs (
    id INTEGER PRIMARY KEY, name TEXT NOT NULL, started REAL NOT NULL, ended REAL, git TEXT NOT NULL,
    code TEXT NOT NULL, model TEXT NOT NULL, optimizer TEXT NOT NULL
);
CREATE INDEX IF NOT EXISTS runs_by_name ON runs (name, started);
CREATE TABLE IF NOT EXISTS points (
    run INTEGER NOT NULL REFERENCES runs (id), metric TEXT NOT NULL, step INTEGER NOT NULL, value REAL NOT NULL
);
CREATE INDEX IF NOT EXISTS points_by_run ON points (run, metric, step);
"""


def path() -> Path | None:
    """Return the file of the runs; None if nothing is recorded."""
    given = os.environ.get(VARIABLE)
    if given is not None:
        return Path(given) if given else None
    return Path(platformdirs.user_data_dir("labnet", appauthor=False)) / "runs.sqlite"


@contextlib.contextmanager
def connection() -> Iterator[sqlite3.Connection]:
    """Open the file for one transaction; several processes may do so.

    Raises
    ------
    OSError
        If it cannot be opened, or is no database.
    """
    place = path()
    try:
        if place is not None:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        opened = sqlite3.connect(place or ":memory:", timeout=_BUSY_SECONDS)
        try:
            if place is not None:
                opened.execute("PRAGMA journal_mode = WAL")
            opened.execute("PRAGMA synchronous = NORMAL")
            opened.executescript(_TABLES)
            with opened:
                yield opened
        finally:
            opened.close()
    except sqlite3.Error as error:
        raise OSError(f"the runs cannot be kept in {place}: {error}") from error
