"""A pool of threads for kernels on large arrays, and its size.

One set of threads serves the process, started by the first call that is large enough. A call that finds them in use
computes alone, so however many models a process serves, no more threads compute at once than there are callers and
helpers. The caller takes parts too, until none is left: it never waits for a helper that has not begun.
"""

import atexit
import operator
import os
import threading
from collections import deque
from collections.abc import Callable, Sequence
from pathlib import Path
from queue import SimpleQueue
from typing import Any

#: Elements from which helpers are asked: waking them takes some 20 microseconds.
LEAST = 1 << 18
#: Elements for each thread that takes part, at least, and threads of a call, at most.
SHARE, _MOST = 1 << 16, 32
_GROUPS = Path("/sys/fs/cgroup")


class _Work:
    """Parts of a call that are left; the threads that run it share them."""

    def __init__(self, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]):
        self._function = function
        self.left = deque(parts)
        self.is_done = True
        self.error: BaseException | None = None

    def run(self) -> None:
        """Compute parts until none is left."""
        while self.left:
            try:
                part = self.left.popleft()
            except IndexError:  # another thread took the last one
                return
            if not self._function(*part):
                self.is_done = False


class _Helper:
    """A daemon thread that takes part in calls.

    Attributes
    ----------
    works : SimpleQueue
    is_busy : Lock
        Held while it may compute a part.
    """

    def __init__(self, number: int):
        self.works: SimpleQueue[_Work | None] = SimpleQueue()
        self.is_busy = threading.Lock()
        self.thread = threading.Thread(target=self._help, name=f"labnet-kernels-{number}", daemon=True)
        self.thread.start()

    def _help(self) -> None:
        while (work := self.works.get()) is not None:
            with self.is_busy:
                try:
                    work.run()
                except BaseException as error:
                    work.error = error
            del work  # its arrays belong to the caller


class Threads:
    """The threads of a process that compute large arrays; a forked process starts its own."""

    def __init__(self) -> None:
        self._number = 0
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.stop)

    def _forget(self) -> None:
        self._turn = threading.Lock()
        self._helpers: list[_Helper] = []

    @property
    def number(self) -> int:
        """How many threads compute a call, the caller included."""
        if not self._number:
            self._number = _chosen() or available()
        return self._number

    @number.setter
    def number(self, number: int) -> None:
        self._number = number
        self.stop()

    def run(self, function: Callable[..., Any], parts: Sequence[tuple[Any, ...]]) -> bool:
        """Call a function, which releases the GIL, with the arguments of each part; return whether every call computed.

        An interrupt is raised when all parts are computed.
        """
        work = _Work(function, parts)
        if not self._turn.acquire(blocking=False):
            work.run()
            return work.is_done
        helpers: Sequence[_Helper] = ()
        try:
            helpers = self._started()[: len(parts) - 1]
            for helper in helpers:
                helper.works.put(work)
            work.run()
        finally:
            try:
                _finish(work, helpers)
            finally:
                self._turn.release()
        if work.error is not None:
            raise work.error
        return work.is_done

    def _started(self) -> list[_Helper]:
        """Return the helpers, started where they are missing; fewer if the system gives no more threads."""
        helpers = self._helpers
        while len(helpers) < min(self.number, _MOST) - 1:
            try:
                helpers.append(_Helper(len(helpers) + 1))
            except RuntimeError:
                break
        if helpers is not self._helpers:  # `stop` may not have met the last ones
            for helper in helpers:
                helper.works.put(None)
        return helpers

    def stop(self) -> None:
        """End the helpers once they have finished their parts; a later call starts new ones."""
        helpers, self._helpers = self._helpers, []
        helpers = helpers.copy()  # another thread may be starting one
        for helper in helpers:
            helper.works.put(None)
        for helper in helpers:
            helper.thread.join()


def _finish(work: _Work, helpers: Sequence[_Helper]) -> None:
    """Compute the parts that an interrupt has left, for arrays that are overwritten, and wait for all others."""
    interrupt = None
    while True:
        try:
            work.run()
            for helper in helpers:
                with helper.is_busy:
                    pass
            break
        except BaseException as error:
            interrupt = error
    if interrupt is not None:
        raise interrupt


def _chosen() -> int:
    """Return the number that ``OMP_NUM_THREADS`` sets, 0 if it sets none."""
    first = os.environ.get("OMP_NUM_THREADS", "").split(",")[0].strip()
    return int(first) if first.isdecimal() else 0


def available(groups: Path = _GROUPS) -> int:
    """Return the number of processors that this process may use: those it may run on, and its control group's share."""
    if hasattr(os, "process_cpu_count"):
        count = os.process_cpu_count()
    else:
        count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return max(1, min(count or 1, *_shares(groups)))


def _shares(groups: Path) -> list[int]:
    """Return the numbers of processors that control groups of Linux, of either version, allow a container."""
    found = [1 << 16]
    for names in (["cpu.max"], ["cpu/cpu.cfs_quota_us", "cpu/cpu.cfs_period_us"]):
        try:
            quota, period = " ".join([(groups / name).read_text() for name in names]).split()
            found += [-(-int(quota) // int(period))] if quota.isdecimal() else []  # "max" and -1 stand for none
        except (OSError, ValueError, ZeroDivisionError):
            pass
    return found


THREADS = Threads()


def set_num_threads(number: int, /) -> None:
    """Set the number of threads that compute an op on large arrays, for labnet's kernels and NumPy's BLAS.

    It holds for the whole process. The default is ``OMP_NUM_THREADS``, or else the number of processors that this
    process may use. Results do not depend on the number, except for those of BLAS.

    Raises
    ------
    TypeError
        If the number is not an integer.
    ValueError
        If the number is less than 1.

    Examples
    --------
    >>> import labnet as ln
    >>> before = ln.get_num_threads()
    >>> ln.set_num_threads(1)
    >>> ln.get_num_threads()
    1
    >>> ln.set_num_threads(before)
    """
    number = operator.index(number)
    if number < 1:
        raise ValueError(f"set_num_threads: expected at least 1 thread, got {number}")
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    THREADS.number = number
    threadpool_limits(number, user_api="blas")


def get_num_threads() -> int:
    """Return the number of threads that compute an op on large arrays; see `set_num_threads`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.get_num_threads() >= 1
    True
    """
    return THREADS.number
