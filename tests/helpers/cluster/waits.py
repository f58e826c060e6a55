"""Wait for what a cluster does."""

import threading
import time

SECONDS = 120.0


def until(condition):
    """Wait until a condition holds, for two minutes at most, however long it takes to look: machines are busy."""
    tick, end = threading.Event(), time.monotonic() + SECONDS
    while not condition():
        if time.monotonic() >= end:
            raise AssertionError("the condition was not met in time")
        tick.wait(0.01)
