"""Times of launches on the GPU, measured without waiting for them.

An event is recorded in the stream before and after each timed call. The next call of `arrive` reads the events that
have passed. No launch waits for an event, and their number is bounded.
"""

import contextlib
import ctypes
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from labnet.stats.late import Listener

#: Limit of timed launches under way; further launches are not timed.
_MOST = 1024
#: Timed launches under way from which on the next launch reads those that are done.
_MANY = 32
_DONE, _NOT_READY = 0, 600


class _Asked:
    """The listener of each thread."""

    def __init__(self) -> None:
        self.asked = 0
        self._lock = threading.Lock()
        self._local = threading.local()

    @contextlib.contextmanager
    def telling(self, listener: Listener | None) -> Iterator[None]:
        """Time the launches of a block, in this thread, and tell a listener the seconds of each; None stops that."""
        before = self._listener()
        self._local.listener = listener
        with self._lock:
            self.asked += 1
        try:
            yield
        finally:
            with self._lock:
                self.asked -= 1
            self._local.listener = before

    def _listener(self) -> Listener | None:
        found: Listener | None = getattr(self._local, "listener", None)
        return found


class WallClock(_Asked):
    """The clock of the simulator, whose launches have ended when they return."""

    @contextlib.contextmanager
    def timing(self) -> Iterator[None]:
        """Time a block as one launch."""
        listener = self._listener() if self.asked else None
        if listener is None:
            yield
            return
        listener.expect()
        began, seconds = time.perf_counter(), None
        try:
            with self.telling(None):
                yield
            seconds = time.perf_counter() - began
        finally:
            listener.tell(seconds)

    def arrive(self, *, wait: bool = False) -> None:
        """Do nothing: listeners were called at once."""


Started = tuple[Listener, ctypes.c_void_p, ctypes.c_void_p]


class EventClock(_Asked):
    """The clock of a GPU: events in its stream.

    `begin` and `end` need the `stream_lock` of the driver, outside a recording: pairs of events keep the order of the
    stream.

    Parameters
    ----------
    call : callable
        Calls a function of the driver, given its name and arguments, and returns the code.
    stream : c_void_p
    ready : callable
        Makes the context current in this thread, also while a graph is recorded.
    """

    def __init__(self, call: Callable[..., int], stream: ctypes.c_void_p, ready: Callable[[], None]):
        super().__init__()
        self._call = call
        self._stream = stream
        self._ready = ready
        self.renew()

    def renew(self) -> None:
        """Reset all state, for a forked child, which has no GPU."""
        super().__init__()
        self._free: list[ctypes.c_void_p] = []
        self._outstanding: deque[Started] = deque()
        self._ended = self._told = 0

    def begin(self) -> Started | None:
        """Record the event before a launch if this thread asks for times; None if the launch is not timed."""
        listener = self._listener()
        if listener is None:
            return None
        if len(self._outstanding) >= _MANY:
            self.arrive()
            if len(self._outstanding) >= _MOST:
                return None
        with self._lock:
            events = [self._free.pop() if self._free else self._made() for _ in range(2)]
        first, second = events
        if first is None or second is None or self._call("cuEventRecord", first, self._stream):
            self._give_back(first, second)
            return None
        listener.expect()
        return listener, first, second

    def end(self, started: Started, *, failed: bool = False) -> None:
        """Record the event after a launch."""
        listener, first, second = started
        if failed or self._call("cuEventRecord", second, self._stream):
            self._give_back(first, second)
            listener.tell(None)
            return
        with self._lock:
            self._outstanding.append(started)
            self._ended += 1

    def arrive(self, *, wait: bool = False) -> None:
        """Tell the times of the launches that are done; with `wait`, of all launches so far."""
        with self._lock:  # held while listeners are told
            last = self._ended
            if self._told == last:
                return
        self._ready()
        while (coming := self._tell_done()) is not None and wait and self._told < last:
            if self._call("cuEventSynchronize", coming):  # without the lock, so that other threads go on
                return

    def _tell_done(self) -> ctypes.c_void_p | None:
        """Tell the times of launches that are done, oldest first, and return the next event to wait for, if any.

        Listeners are told under the lock: if nothing is outstanding, everything has been told.
        """
        with self._lock:
            while self._outstanding:
                listener, first, second = self._outstanding[0]
                code = self._call("cuEventQuery", second)
                if code == _NOT_READY:
                    return second
                self._outstanding.popleft()
                self._told += 1
                milliseconds = ctypes.c_float()
                if code == _DONE:
                    code = self._call("cuEventElapsedTime", ctypes.byref(milliseconds), first, second)
                self._free += [first, second]
                # errors of kernels are raised by synchronization, not by statistics
                listener.tell(milliseconds.value * 1e-3 if code == _DONE else None)
        return None

    def _made(self) -> ctypes.c_void_p | None:
        event = ctypes.c_void_p()
        return None if self._call("cuEventCreate", ctypes.byref(event), ctypes.c_uint(0)) else event

    def _give_back(self, *events: Any) -> None:
        with self._lock:
            self._free += [event for event in events if event is not None]
