"""The thread that keeps the panels up to date."""

import logging
import threading
import time
from typing import Protocol

log = logging.getLogger("labnet.jupyter")

_INTERVAL_SECONDS = 0.2


class Ticking(Protocol):
    """Something that is told five times a second to send what is new."""

    @property
    def live(self) -> bool:
        """Whether to go on."""
        ...

    def tick(self, now: float) -> None:
        """Send what is new."""
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

    def add(self, panel: Ticking) -> None:
        """Refresh a panel from now on, until it is closed or its server has stopped."""
        with self._lock:
            self._panels.append(panel)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="labnet-panels", daemon=True)
                self._thread.start()

    def _run(self) -> None:
        due = time.monotonic()
        while True:
            due = max(due + _INTERVAL_SECONDS, time.monotonic())
            time.sleep(max(0.0, due - time.monotonic()))
            with self._lock:
                panels = list(self._panels)
            ended = {id(panel) for panel in panels if not _tick(panel)}
            with self._lock:
                self._panels = [panel for panel in self._panels if id(panel) not in ended]
                if not self._panels:
                    self._thread = None
                    return


def _tick(panel: Ticking) -> bool:
    """Tell a panel; return whether it goes on. One that fails must not end the others."""
    try:
        live = panel.live  # asked first: what happens until a server stops is still shown
        if live:
            panel.tick(time.monotonic())
        else:
            panel.end()
        return live
    except Exception:
        log.exception("a panel stopped: %r", panel)
        return False


TICKER = Ticker()
