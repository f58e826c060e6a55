"""A timer that delivers interrupts to a cell that awaits.

The kernel cancels such a cell from a signal handler, which does not wake the event loop. The loop sleeps until another
event, at worst until the awaited result (30 s of 30 s measured; 0.2 s with the timer). The timer runs only while a cell
runs, on the cell's own loop, so it needs no thread.
"""

import asyncio
from typing import Any

_INTERVAL_SECONDS = 0.2


class Heartbeat:
    """Wakes the event loop of a running cell several times a second."""

    def __init__(self) -> None:
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    def start(self, info: Any = None) -> None:
        """Start with a cell; do nothing without an event loop."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._cancel(loop)
        self._beat(loop)

    def stop(self, result: Any = None) -> None:
        """Stop at the end of the cell."""
        try:
            self._cancel(asyncio.get_running_loop())
        except RuntimeError:
            return

    def _beat(self, loop: asyncio.AbstractEventLoop) -> None:
        self._timers[loop] = loop.call_later(_INTERVAL_SECONDS, self._beat, loop)

    def _cancel(self, loop: asyncio.AbstractEventLoop) -> None:
        timer = self._timers.pop(loop, None)
        if timer is not None:
            timer.cancel()


def register(shell: Any) -> None:
    """Run the timer with every cell of a shell."""
    heartbeat = Heartbeat()
    shell.events.register("pre_run_cell", heartbeat.start)
    shell.events.register("post_run_cell", heartbeat.stop)
