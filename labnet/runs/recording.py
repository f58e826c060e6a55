"""Recording of runs in the background: training only appends to a list."""

import atexit
import logging
import os
import threading
import time
from collections import defaultdict, deque
from collections.abc import Callable, Mapping

from labnet.runs import database
from labnet.runs.commit import commit_of
from labnet.stats.curve import thinned

log = logging.getLogger("labnet.runs")

_INTERVAL_SECONDS = 2.0
#: Bins per metric and interval: minimum and maximum of each are kept.
_BINS = 100

#: Returns the code that serves a model; a notebook replaces it by the code of the running cell.
code_source: Callable[[], str] = lambda: ""  # noqa: E731


class Recorder:
    """Records one run from its first value on.

    Parameters
    ----------
    name : str
        Name of the run.
    model, optimizer : str
        Descriptions.
    """

    def __init__(self, name: str, *, model: str, optimizer: str):
        self._name = name
        self._description = (model, optimizer, code_source())
        self._started = time.time()
        self._id: int | None = None
        self._points: deque[tuple[str, int, float]] = deque()  # two threads use it without a lock
        self._ended: float | None = None

    def add(self, step: int, values: Mapping[str, float]) -> None:
        """Record the values of metrics at a step."""
        if _writer.disabled:
            return
        self._points.extend((metric, step, value) for metric, value in values.items())
        _writer.wake(self)

    def end(self) -> None:
        """Record the end of the run."""
        self._ended = time.time()
        if self._id is not None or self._points:
            _writer.wake(self)

    def write(self) -> None:
        """Write the pending points; runs on the writer only."""
        points = [self._points.popleft() for _ in range(len(self._points))]
        by_metric = defaultdict(list)
        for metric, step, value in points:
            by_metric[metric].append((step, value))
        with database.connection() as opened:
            if self._id is None:
                model, optimizer, code = self._description
                row = (self._name, self._started, commit_of(), code, model, optimizer)
                statement = "INSERT INTO runs (name, started, git, code, model, optimizer) VALUES (?, ?, ?, ?, ?, ?)"
                self._id = opened.execute(statement, row).lastrowid
            for metric, pairs in by_metric.items():
                steps, values = thinned([step for step, _ in pairs], [value for _, value in pairs], _BINS)
                rows = [(self._id, metric, step, value) for step, value in zip(steps, values, strict=True)]
                opened.executemany("INSERT INTO points VALUES (?, ?, ?, ?)", rows)
            ended = self._ended if self._ended is not None else time.time()
            opened.execute("UPDATE runs SET ended = ? WHERE id = ?", (ended, self._id))


class _Writer:
    """The thread that writes; it ends when there is nothing to write."""

    def __init__(self) -> None:
        self._lock, self._writing = threading.Lock(), threading.Lock()
        self._pending: dict[int, Recorder] = {}
        self._thread: threading.Thread | None = None
        self._failed = ""

    @property
    def disabled(self) -> bool:
        return os.environ.get(database.VARIABLE) == ""

    def wake(self, recorder: Recorder) -> None:
        if id(recorder) in self._pending:
            return
        with self._lock:
            self._pending[id(recorder)] = recorder
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labnet-runs", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        while True:
            time.sleep(_INTERVAL_SECONDS)
            self.flush()
            with self._lock:
                if not self._pending:
                    self._thread = None
                    return

    def flush(self) -> None:
        """Write everything now; a failure is logged once and costs points only."""
        with self._writing:
            with self._lock:
                pending, self._pending = self._pending, {}
            for recorder in pending.values():
                try:
                    recorder.write()
                    self._failed = ""
                except OSError as error:
                    if self._failed != str(error):
                        self._failed = str(error)
                        log.warning("%s; the points of this run are lost", error)


_writer = _Writer()


def flush() -> None:
    """Write all pending points."""
    _writer.flush()


def _start_anew() -> None:
    """Leave the writing to the parent of a forked child."""
    global _writer
    _writer = _Writer()


atexit.register(flush)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_anew)
