"""Compiling in the background: one thread, one thing after the other."""

import atexit
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future


class Background:
    """A daemon thread that compiles, started on first use.

    When the process ends, what is being compiled is waited for, since LLVM cannot be interrupted, and the rest is
    left out.
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
        """Have something compiled; the future tells when, or why not."""
        future: Future[None] = Future()
        with self._lock:
            if self._thread is None:
                self._thread = threading.Thread(target=self._work, name="labnet-compile", daemon=True)
                self._thread.start()
                atexit.register(self.stop)
            self._tasks.put((task, future))
        return future

    def stop(self) -> None:
        """Wait for what is being compiled, and begin nothing more."""
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
