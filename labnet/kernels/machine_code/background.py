"""Background loading of machine code: one thread, one task after the other."""

import atexit
import os
import queue
import threading
from collections.abc import Callable
from concurrent.futures import Future

from labnet.kernels.machine_code.compiler_process import COMPILER


class Background:
    """A daemon thread that loads machine code, compiled by the child process, started on first use.

    At the end of the process it drops its tasks and ends the child that it waits for.

    Attributes
    ----------
    is_stopped : bool
        Whether the process is ending.
    """

    def __init__(self) -> None:
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)

    def _forget(self) -> None:
        self._lock = threading.Lock()
        self._tasks: queue.SimpleQueue[tuple[Callable[[], None], Future[None]] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self.is_stopped = False

    def submit(self, task: Callable[[], None]) -> "Future[None]":
        """Queue a task; the future holds its completion or its error, also if no thread can be started."""
        future: Future[None] = Future()
        with self._lock:
            if self._thread is None:
                thread = threading.Thread(target=self._work, name="labnet-compile", daemon=True)
                try:
                    thread.start()
                except RuntimeError as error:
                    future.set_exception(error)
                    return future
                self._thread = thread
                atexit.register(self.stop)
            self._tasks.put((task, future))
        return future

    def stop(self) -> None:
        """End the current task with the child that it waits for, and drop the others."""
        self.is_stopped = True
        COMPILER.stop()
        self._tasks.put(None)
        if self._thread is not None:
            self._thread.join()

    def _work(self) -> None:
        while (found := self._tasks.get()) is not None and not self.is_stopped:
            task, future = found
            try:
                task()
            except Exception as error:
                future.set_exception(error)
            else:
                future.set_result(None)
            del found, task, future


BACKGROUND = Background()
