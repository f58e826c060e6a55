"""The thread that keeps the panels up to date."""

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger("labnet.jupyter")

_INTERVAL_SECONDS = 0.2
#: How long the end of a cell waits for its panels, should one of them be held up.
_CATCH_UP_SECONDS = 5.0


class Ticking(Protocol):
    """Something that is told five times a second to send what is new."""

    @property
    def live(self) -> bool:
        """Whether to go on."""
        ...

    def tick(self, now: float) -> None:
        """Send what is new."""
        ...

    def catch_up(self) -> None:
        """Send what is new, and bring up to date what is saved with a notebook."""
        ...

    def end(self) -> None:
        """Send the last that there is."""
        ...


class Ticker:
    """Refreshes the live panels from a thread that exists as long as there are any."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._panels: list[Ticking] = []
        self._thread: threading.Thread | None = None
        self._asked = threading.Event()
        self._waiting: list[threading.Event] = []

    def add(self, panel: Ticking) -> None:
        """Refresh a panel from now on, until it is closed or its server has stopped."""
        with self._lock:
            self._panels.append(panel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labnet-panels", daemon=True)
                self._thread.start()

    def catch_up(self, _: object = None) -> None:
        """Have all panels show what has happened until now, and wait for that; called at the end of a cell.

        Whoever runs a notebook without a person listens until its last cell ends, and not for a moment longer.
        """
        done = threading.Event()
        with self._lock:
            if self._thread is None:
                return
            self._waiting.append(done)
            self._asked.set()
        done.wait(_CATCH_UP_SECONDS)

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + _INTERVAL_SECONDS, time.monotonic())
            self._asked.wait(max(0.0, due - time.monotonic()))
            with self._lock:
                self._asked.clear()
                panels, waiting = list(self._panels), self._waiting
                self._waiting = []
            ended = {id(panel) for panel in panels if not _tick(panel, catch_up=bool(waiting))}
            with self._lock:
                self._panels = [panel for panel in self._panels if id(panel) not in ended]
                if not self._panels:
                    self._thread = None
                    waiting += self._waiting
                    self._waiting = []
            for done in waiting:
                done.set()
            if self._thread is not threading.current_thread():
                return


def _tick(panel: Ticking, *, catch_up: bool) -> bool:
    """Tell a panel; return whether it goes on. One that fails must not end the others."""
    try:
        live = panel.live  # asked first: what happens until a server stops is still shown
        if not live:
            panel.end()
        elif catch_up:
            panel.catch_up()
        else:
            panel.tick(time.monotonic())
        return live
    except Exception:
        log.exception("a panel stopped: %r", panel)
        return False


TICKER = Ticker()
