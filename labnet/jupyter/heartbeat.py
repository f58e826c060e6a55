"""A timer that makes an interrupt reach a cell that awaits.

The kernel cancels such a cell from a signal handler, which does not wake the event loop up: it sleeps on until
something else happens, up to the end of what the cell awaits (30 s of 30 s measured; 0.2 s with the timer). The timer
runs between the start and the end of a cell only, on the cell's own loop, so there is no thread and no cost without.
"""

import asyncio
from typing import Any

_INTERVAL_SECONDS = 0.2


class Heartbeat:
    """Wakes the event loop of a running cell up several times a second."""

    def __init__(self) -> None:
        self._timers: dict[asyncio.AbstractEventLoop, asyncio.TimerHandle] = {}

    def start(self, info: Any = None) -> None:
        """Begin with a cell; where cells run without an event loop there is nothing to do."""
        try:
            loop = asyncio.get_running_loop()
        except RuntimeError:
            return
        self._cancel(loop)
        self._beat(loop)

    def stop(self, result: Any = None) -> None:
        """End with the cell."""
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
