"""Who is counting ops at the moment: a block, a server for one call, or the whole process.

The ops live in a room that this one does not know. They hand in switches, which put counting kernels in the
place of the plain ones; so nothing is paid while nobody counts.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from labnet.stats.operations import Later, OpCount, OpStatistics

#: Told about statistics: at the end of a block, or again and again while the whole process is counted.
Logger = Callable[[OpStatistics], object]

log = logging.getLogger("labnet.stats")

#: What counts in this context; None where counting is suspended.
_here: ContextVar[tuple[OpStatistics, ...] | None] = ContextVar("labnet_collecting", default=())
_lock = threading.RLock()
_everywhere: "ProcessCollection | None" = None
_counting = 0
_switches: list[Callable[[bool], None]] = []


class ProcessCollection:
    """Counting in the whole process, with loggers that are told about it at intervals."""

    def __init__(self, statistics: OpStatistics, loggers: tuple[Logger, ...], interval_seconds: float):
        self.statistics = statistics
        self.loggers = loggers
        self.interval_seconds = interval_seconds
        self.due = time.monotonic() + interval_seconds


def on_switch(switch: Callable[[bool], None]) -> None:
    """Let `switch` be told when counting begins (True) and when nobody counts any more (False)."""
    _switches.append(switch)


def active() -> tuple[OpStatistics, ...]:
    """Return the statistics that ops of this context are counted in."""
    here = _here.get()
    if here is None:
        return ()
    return here if _everywhere is None else (*here, _everywhere.statistics)


def record(name: str, cost: OpCount) -> None:
    """Count an op in all statistics that are active, and tell the loggers when it is time."""
    for statistics in active():
        statistics.add(name, cost)
    if _everywhere is not None and time.monotonic() >= _everywhere.due:
        flush()


def later(name: str) -> Later:
    """Return what adds the seconds of an op to all statistics that are active now, once a GPU has come so far."""
    return Later(name, active())


def merge(remote: OpStatistics) -> None:
    """Take in what a server has counted for a call of this context."""
    for statistics in _here.get() or ():
        if not statistics.only_here:
            statistics.merge(remote)
    everywhere = _everywhere
    if everywhere is not None:
        for each in (remote, *remote.remotes.values()):
            if (each.host, each.process) != (everywhere.statistics.host, everywhere.statistics.process):
                alone = OpStatistics(each.host, each.process, each.device)
                alone.absorb(each)
                everywhere.statistics.merge(alone)


@contextlib.contextmanager
def suspended() -> Iterator[None]:
    """Count nothing in this context for a while: what runs now is part of something that is counted."""
    token = _here.set(None)
    try:
        yield
    finally:
        _here.reset(token)


@contextlib.contextmanager
def counted_into(statistics: OpStatistics) -> Iterator[None]:
    """Count the ops of a block into statistics that are kept for many blocks, and wait for nothing."""
    token = _here.set((*(_here.get() or ()), statistics))
    _count(+1)
    try:
        yield
    finally:
        _count(-1)
        _here.reset(token)


@contextlib.contextmanager
def collect(*loggers: Logger) -> Iterator[OpStatistics]:
    """Count the ops of a block: those of its own thread and tasks, and of servers that it calls.

    Parameters
    ----------
    *loggers : callable
        Given the statistics at the end.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.stats.collect() as statistics:
    ...     product = ln.ones((2, 3)) @ ln.ones((3, 4))
    >>> statistics.ops["matmul"].count, statistics.ops["matmul"].flops
    (1, 48)
    """
    statistics = OpStatistics()
    statistics.start()
    try:
        with counted_into(statistics):
            yield statistics
    finally:
        statistics.stop()
        statistics.complete()
        _tell(loggers, statistics)


def enable(*loggers: Logger, interval_seconds: float = 5.0) -> OpStatistics:
    """Count the ops of the whole process, in every thread, from now on.

    Parameters
    ----------
    *loggers : callable
        Given the statistics again and again, by an op that runs when it is time, and at the end. They take
        the place of those given before.
    interval_seconds : float
        Least time between two reports.

    Returns
    -------
    OpStatistics
        The statistics of the process, which go on where they are enabled already.

    Examples
    --------
    >>> import labnet as ln
    >>> statistics = ln.stats.enable()
    >>> doubled = ln.ones(3) * 2
    >>> ln.stats.disable()
    >>> statistics.ops["multiply"].count
    1
    """
    global _everywhere
    if not interval_seconds >= 0:
        raise ValueError(f"interval_seconds must not be negative, got {interval_seconds}")
    with _lock:
        if _everywhere is None:
            statistics = OpStatistics()
            statistics.start()
            _count(+1)
        else:
            statistics = _everywhere.statistics
        _everywhere = ProcessCollection(statistics, loggers, interval_seconds)
        return statistics


def disable() -> None:
    """Stop counting the ops of the whole process, after a last report to the loggers."""
    global _everywhere
    with _lock:
        ended, _everywhere = _everywhere, None
        if ended is None:
            return
        _count(-1)
    ended.statistics.stop()
    ended.statistics.complete()
    _tell(ended.loggers, ended.statistics)


def flush() -> None:
    """Report to the loggers of `enable` now."""
    everywhere = _everywhere
    if everywhere is not None:
        everywhere.due = time.monotonic() + everywhere.interval_seconds
        _tell(everywhere.loggers, everywhere.statistics)


def _count(change: int) -> None:
    """Turn the switches when the first begins to count, and when the last one ends."""
    global _counting
    with _lock:
        before, _counting = _counting, _counting + change
        if bool(before) != bool(_counting):
            for switch in _switches:
                switch(bool(_counting))


def _tell(loggers: tuple[Logger, ...], statistics: OpStatistics) -> None:
    """Call loggers; one that fails disturbs neither the computation nor the others."""
    with suspended():
        for logger in loggers:
            try:
                logger(statistics)
            except Exception:
                log.warning("the logger %r failed", logger, exc_info=True)
