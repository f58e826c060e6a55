"""A team of threads for kernels on large arrays, and its size.

One team serves the process, started by the first call that is large enough. A call that finds it in use computes alone,
so however many models a process serves, no more threads compute at once than there are callers and helpers. Helpers
take parts of a call without Python's lock (`labnet.kernels.cpu.team`). They look for the next call for a while, since
to wake a thread takes as long as many a part; then they sleep. The caller takes parts too, until none is left: it never
waits for a helper that has not begun.
"""

import atexit
import contextlib
import operator
import os
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, Protocol

import numpy as np

from labnet.kernels import blas, board
from labnet.kernels.board import MOST_PARTS

#: Elements from which a call is divided.
LEAST = 1 << 18
#: Elements for each thread that takes part, at least, and threads of a call, at most.
SHARE, _MOST = 1 << 16, MOST_PARTS
#: Seconds for which a helper looks for the next call, and a caller for the end of the last parts, before either sleeps.
_LOOKING_SECONDS = 1e-4
#: What a thread does between two looks, measured so many times.
_MEASURED_LOOKS = 1000
_GROUPS = Path("/sys/fs/cgroup")

#: A loaded kernel.
Compiled = Callable[..., int]


class Loading(Protocol):
    """A kernel, of which the team needs this part."""

    compiled: Compiled | None

    def load(self) -> Any:
        """Load it in the background."""


class _Helper:
    """A daemon thread that computes parts.

    Attributes
    ----------
    bell : Lock
        Held; released to wake the helper, which takes it again.
    """

    def __init__(self, number: int, help_others: Callable[[int], int]):
        self.bell = threading.Lock()
        self.bell.acquire()
        self._number, self._help = number, help_others
        self.thread = threading.Thread(target=self._run, name=f"labnet-kernels-{number + 1}", daemon=True)

    def _run(self) -> None:
        while not self._help(self._number):
            self.bell.acquire()

    def wake(self) -> None:
        """End the helper's sleep, or its next one."""
        with contextlib.suppress(RuntimeError):  # it has been rung already
            self.bell.release()


class _Team:
    """A number of helpers, and the board from which they learn what there is to do."""

    def __init__(self, size: int, publish: Compiled, share: Compiled, assist: Compiled):
        self.size, self._publish, self._share = size, publish, share
        self._board = np.zeros((board.FIRST_STATE + board.STATE * _MOST) // 8, np.int64)
        began = time.perf_counter()
        assist((self._board,), 0, size, _MEASURED_LOOKS)
        seconds = (time.perf_counter() - began) / _MEASURED_LOOKS
        self._looks = max(1, int(_LOOKING_SECONDS / max(seconds, 1e-9)))
        self._assist = lambda number: assist((self._board,), number, size, self._looks)
        self._helpers: list[_Helper] = []
        self._held: Any = None
        #: Whether it belongs to the process from which this one was forked.
        self.is_left_behind = False

    def start(self) -> None:
        """Start the helpers that have not begun; fewer if the system gives no more threads."""
        while len(self._helpers) < self.size:
            self._helpers.append(_Helper(len(self._helpers), self._assist))
        with contextlib.suppress(RuntimeError):
            for helper in self._helpers:
                if helper.thread.ident is None:
                    helper.thread.start()

    def run(self, part: int, calls: Sequence[tuple[Any, ...]]) -> bool:
        """Have the function at an address called for each part; return whether every call computed.

        An interrupt is raised when all parts are computed. A second one may come earlier: so what helpers read is held
        until the next call, which waits for them.
        """
        words = np.frombuffer(b"".join([_words(part, *call) for call in calls]), np.int64).reshape(len(calls), -1)
        if self._held is not None:
            self._wake()
            self._share_parts()
        interrupt, status = None, 0
        self._held = calls, words
        try:
            asleep = self._publish((self._board, words), len(calls), len(self._helpers))
            for number, helper in enumerate(self._helpers):
                if asleep >> number & 1:
                    helper.wake()
            status = self._share_parts()
        except BaseException as error:
            interrupt = error
        while not status:
            try:
                self._wake()
                status = self._share_parts()
            except BaseException as error:
                interrupt = error
        self._held = None
        if interrupt is not None:
            raise interrupt
        return status == 1

    def _share_parts(self) -> int:
        """Compute parts until none is left, and wait for all others; return 1 if every call computed."""
        while not (status := self._share((self._board,), self.size, self._looks)):
            if self.is_left_behind:
                return 2
            time.sleep(0)
        return status

    def _wake(self) -> None:
        for helper in self._helpers.copy():
            helper.wake()

    def stop(self) -> None:
        """End the helpers once they have computed their parts."""
        self._board[board.STOP // 8] = 1
        self._wake()
        for helper in self._helpers.copy():
            if helper.thread.is_alive():  # else it ends as it begins
                helper.thread.join()


def _words(part: int, arrays: tuple[Any, ...], *numbers: float) -> bytes:
    """Return what the words of a call say: the function, the tuple of arrays, and the numbers in float64."""
    return struct.pack(f"=qq{len(numbers)}d", part, id(arrays), *numbers)


class Threads:
    """The threads of a process that compute large arrays; a forked process starts its own.

    Attributes
    ----------
    kernels : tuple of Loading
        Those that publish calls, compute parts as the caller, and help; see `labnet.kernels.cpu.team`.
    """

    kernels: "ClassVar[tuple[Loading, Loading, Loading]]"
    _team: _Team | None

    def __init__(self) -> None:
        self._number, self._team = 0, None
        self._forget()
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        atexit.register(self.stop)

    def _forget(self) -> None:
        #: The call that uses the team. Python raises an interrupt after a call of a function, so that this dict, unlike
        #: a lock, is never left with a call that has ended.
        self._turn: dict[str, object] = {}
        team, self._team = self._team, None
        if team is not None:
            team.is_left_behind = True

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

    def run(self, function: Compiled, parts: Sequence[tuple[Any, ...]]) -> bool:
        """Call a kernel with the arguments of each part, and return whether every call computed.

        More parts than `MOST_PARTS` are computed by the caller. An interrupt is raised when all parts are computed.
        """
        call, turn = object(), self._turn
        try:
            if len(parts) <= MOST_PARTS and turn.setdefault("call", call) is call and (team := self._ready()):
                return team.run(function.__self__[0], parts)  # type: ignore[attr-defined]  # see `loader.load`
        finally:
            if "call" in turn and turn["call"] is call:
                del turn["call"]
        return all(function(*part) for part in parts)

    def _ready(self) -> _Team | None:
        """Return the team with all of its helpers; None until its kernels are loaded."""
        team, size = self._team, min(self.number, _MOST) - 1
        if team is None or team.size != size:
            compiled = [kernel.compiled for kernel in self.kernels]
            for kernel in self.kernels if None in compiled else ():
                kernel.load()
            publish, share, assist = compiled
            if publish is None or share is None or assist is None:
                return None
            self.stop()
            self._team = team = _Team(size, publish, share, assist)
        team.start()
        return team

    def stop(self) -> None:
        """End the helpers once they have computed their parts; a later call starts new ones."""
        team, self._team = self._team, None
        if team is not None:
            team.stop()


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
    process may use. Results do not depend on the number, except for products of matrices, which BLAS computes.

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
    with blas.changing() as choose:
        threadpool_limits(number, user_api="blas")
        choose(number)  # threadpoolctl lets only one thread of Python change it


def get_num_threads() -> int:
    """Return the number of threads that compute an op on large arrays; see `set_num_threads`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.get_num_threads() >= 1
    True
    """
    return THREADS.number
