"""The thread that updates all live panels."""

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger("labnet.jupyter")

_INTERVAL_SECONDS = 0.2
#: Longest time that the end of a cell waits for blocked panels, in seconds.
_CATCH_UP_SECONDS = 5.0


class Ticking(Protocol):
    """A panel that the ticker updates five times a second."""

    @property
    def live(self) -> bool:
        """Whether to continue."""
        ...

    def tick(self, now: float) -> None:
        """Send changes."""
        ...

    def catch_up(self) -> None:
        """Send changes, and update the state that is saved with a notebook."""
        ...

    def end(self) -> None:
        """Send the last state."""
        ...


class Ticker:
    """Refreshes live panels from a thread that exists while there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._panels: list[Ticking] = []
        self._thread: threading.Thread | None = None
        self._asked = threading.Event()
        self._waiting: list[threading.Event] = []
        self._held_up = False

    def add(self, panel: Ticking) -> None:
        """Refresh a panel until it is closed or its server has stopped."""
        with self._lock:
            self._panels.append(panel)
            if self._thread is None or not self._thread.is_alive():
                thread = threading.Thread(target=self._run, name="labnet-panels", daemon=True)
                thread.start()
                self._thread = thread

    def catch_up(self, _: object = None) -> None:
        """Update all panels to the present and wait for it; called at the end of a cell.

        Programs that execute notebooks stop listening when the last cell ends. A blocked panel is waited for once,
        until it responds again.
        """
        done = threading.Event()
        with self._lock:
            thread = self._thread
            if thread is None or not thread.is_alive() or thread is threading.current_thread():
                return
            self._waiting.append(done)
            self._asked.set()
        if not self._held_up and not done.wait(_CATCH_UP_SECONDS):
            with self._lock:
                self._held_up = not done.is_set() and self._thread is thread

    def _run(self) -> None:
        due = time.monotonic() + _INTERVAL_SECONDS
        over = False
        while not over:
            self._asked.wait(max(0.0, due - time.monotonic()))
            now = time.monotonic()
            if is_due := now >= due:
                due = max(due + _INTERVAL_SECONDS, now)
            with self._lock:
                self._asked.clear()
                panels, waiting = list(self._panels), self._waiting
                self._waiting = []
            ended = {id(panel) for panel in panels if not _tick(panel, is_due=is_due, catch_up=bool(waiting))}
            with self._lock:
                self._panels = [panel for panel in self._panels if id(panel) not in ended]
                over = not self._panels
                if over or waiting or not self._waiting:  # else who waits is still to be answered
                    self._held_up = False
                if over:
                    self._thread = None
                    waiting, self._waiting = waiting + self._waiting, []
            for done in waiting:
                done.set()


def _tick(panel: Ticking, *, is_due: bool, catch_up: bool) -> bool:
    """Update a panel; return whether to continue. A failing panel does not stop the others."""
    try:
        live = panel.live  # read first, so that the last changes of a stopping server are shown
        if not live:
            panel.end()
            return False
        if is_due:
            panel.tick(time.monotonic())
        if catch_up:
            panel.catch_up()
        return True
    except Exception:
        log.exception("a panel stopped: %r", panel)
        return False


TICKER = Ticker()
