"""Background compilation: one thread, one task after the other."""

import atexit
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Background:
    """A daemon thread that compiles, started on first use.

    When the process ends it finishes its current task, since LLVM cannot be interrupted, and drops the others.
    """

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._stopped = False

    def submit(self, task: Callable[[], None]) -> "Future[None]":
        """Queue a task; the future holds its completion or its error."""
        future: Future[None] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="labnet-compile", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
            self._tasks.put((task, future))
        return future

    def stop(self) -> None:
        """Finish the current task and drop the others."""
        self._stopped = True
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while (found := self._tasks.get()) is not None and not self._stopped:
            task, future = found
            try:
                task()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            del found, task, future


BACKGROUND = Background()
