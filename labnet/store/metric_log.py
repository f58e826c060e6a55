"""Metrics of users in the folder of a store: a line of JSON per call."""

import json
import logging
import os
import threading
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from labnet.atomic_files import replace_file
from labnet.stats import Metrics

log = logging.getLogger("labnet.store")

FILE = "metrics.jsonl"
#: A file of at least so many bytes is replaced by the points of the curves.
_LONG = 1 << 22


class StoredMetrics(Metrics):
    """Metrics that are read from a folder, and appended to its file as they are logged.

    Unlike updates they are not synced: they survive the end of the process, not always that of the machine.

    Parameters
    ----------
    folder : Path
        The folder of a store.
    version : int
        Number of updates in the store; later points belong to updates that were lost, and are dropped.
    check : callable
        Raises `OSError` if the folder must not be written.
    """

    def __init__(self, folder: Path, version: int, check: Callable[[], None]):
        super().__init__()
        self._path, self._check = folder / FILE, check
        self._lock = threading.Lock()  # held while the file is appended to or replaced
        self._failed = ""
        self._long = _LONG
        try:
            lines = self._path.read_bytes().splitlines()
        except FileNotFoundError:
            return
        except OSError as error:
            self._warn(error)
            return
        if sum(self._read(line, version) for line in lines) < len(lines):
            self._rewrite()

    def _read(self, line: bytes, version: int) -> bool:
        """Log a line of the file; return False for one that is incomplete or of a lost update."""
        try:
            step, values = json.loads(line)
            return type(step) is int and step <= version and bool(super().log(step, values))
        except (TypeError, ValueError, AttributeError, RecursionError):
            return False

    def log(self, step: int, values: Mapping[str, Any]) -> dict[str, float]:
        """Add a point to each named curve and to the file, and return the values as numbers.

        A failure of the disk is logged once, and costs the points in the file only.
        """
        with self._lock:
            numbers = super().log(step, values)
            finite = {name: value for name, value in numbers.items() if value - value == 0}
            if finite:
                self._append(json.dumps([step, finite]).encode() + b"\n")
        return numbers

    def _append(self, line: bytes) -> None:
        try:
            self._check()
            file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
            try:
                os.write(file, line)
                length = os.fstat(file).st_size
            finally:
                os.close(file)
            self._failed = ""
        except OSError as error:
            self._warn(error)
        else:
            if length > self._long:
                self._rewrite()

    def _rewrite(self) -> None:
        """Replace the file by the points of the curves."""
        points = [
            json.dumps([step, {name: value}])
            for name, curve in self.summary().items()
            for step, value in zip(curve["steps"], curve["values"], strict=True)
        ]
        content = "".join(point + "\n" for point in points).encode()
        self._long = max(_LONG, 2 * len(content))
        try:
            self._check()
            replace_file(self._path, content, mode=0o600)
        except OSError as error:
            self._warn(error)

    def _warn(self, error: OSError) -> None:
        if self._failed != str(error):
            self._failed = str(error)
            log.warning("metrics cannot be written to %s: %s", self._path, error)
