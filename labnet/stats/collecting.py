"""Collection of op statistics: by a block, by a server for one call, or by the whole process.

This module does not import the ops. They register switches that replace plain kernels by counting ones, so ops have no
overhead without a collector.
"""

import contextlib
import logging
import threading
import time
from collections.abc import Callable, Iterator
from contextvars import ContextVar

from labnet.stats.operations import Later, OpCount, OpStatistics

#: Called with statistics: at the end of a block, or repeatedly while the whole process is counted.
Logger = Callable[[OpStatistics], object]

log = logging.getLogger("labnet.stats")

#: Statistics that count in this context; None while counting is suspended.
_here: ContextVar[tuple[OpStatistics, ...] | None] = ContextVar("labnet_collecting", default=())
_lock = threading.RLock()
_everywhere: "ProcessCollection | None" = None
_counting = 0
_switches: list[Callable[[bool], None]] = []


class ProcessCollection:
    """Collection in the whole process, with loggers that are called at intervals."""

    def __init__(self, statistics: OpStatistics, loggers: tuple[Logger, ...], interval_seconds: float):
        self.statistics = statistics
        self.loggers = loggers
        self.interval_seconds = interval_seconds
        self.due = time.monotonic() + interval_seconds


def on_switch(switch: Callable[[bool], None]) -> None:
    """Register a switch, called with True when collection starts and with False when it ends."""
    _switches.append(switch)


def active() -> tuple[OpStatistics, ...]:
    """Return the statistics that count the ops of this context."""
    here = _here.get()
    if here is None:
        return ()
    return here if _everywhere is None else (*here, _everywhere.statistics)


def record(name: str, cost: OpCount) -> None:
    """Count an op in all active statistics; call the loggers if they are due."""
    for statistics in active():
        statistics.add(name, cost)
    if _everywhere is not None and time.monotonic() >= _everywhere.due:
        flush()


def later(name: str) -> Later:
    """Return a listener that adds the GPU seconds of an op to the statistics that are active now."""
    return Later(name, active())


def merge(remote: OpStatistics) -> None:
    """Merge the counts of a server for a call of this context."""
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
    """Suspend counting in this context, for ops inside another counted op."""
    token = _here.set(None)
    try:
        yield
    finally:
        _here.reset(token)


@contextlib.contextmanager
def counted_into(statistics: OpStatistics) -> Iterator[None]:
    """Count the ops of a block into existing statistics, without waiting for a GPU."""
    token = _here.set((*(_here.get() or ()), statistics))
    _count(+1)
    try:
        yield
    finally:
        _count(-1)
        _here.reset(token)


@contextlib.contextmanager
def collect(*loggers: Logger, stacks: bool = False) -> Iterator[OpStatistics]:
    """Count the ops of a block: those of its own thread and tasks, and of servers that it calls.

    Parameters
    ----------
    *loggers : callable
        Called with the statistics at the end.
    stacks : bool
        Also count by call stack, in ``statistics.stacks``; this costs some microseconds per op.

    Examples
    --------
    >>> import labnet as ln
    >>> with ln.stats.collect() as statistics:
    ...     product = ln.ones((2, 3)) @ ln.ones((3, 4))
    >>> statistics.ops["matmul"].count, statistics.ops["matmul"].flops
    (1, 48)
    >>> with ln.stats.collect(stacks=True) as statistics:
    ...     product = ln.ones((2, 3)) @ ln.ones((3, 4))
    >>> [list(ops) for ops in statistics.stacks.values()]
    [['matmul']]
    """
    statistics = OpStatistics(stacks=stacks)
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
        Called with the statistics at intervals, from the thread of an op, and at the end. They replace earlier loggers.
    interval_seconds : float
        Minimum time between two reports.

    Returns
    -------
    OpStatistics
        The statistics of the process; they continue if already enabled.

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
    """Call the loggers of `enable` now."""
    everywhere = _everywhere
    if everywhere is not None:
        everywhere.due = time.monotonic() + everywhere.interval_seconds
        _tell(everywhere.loggers, everywhere.statistics)


def _count(change: int) -> None:
    """Call the switches when the first collector starts and when the last one ends."""
    global _counting
    with _lock:
        before, _counting = _counting, _counting + change
        if bool(before) != bool(_counting):
            for switch in _switches:
                switch(bool(_counting))


def _tell(loggers: tuple[Logger, ...], statistics: OpStatistics) -> None:
    """Call loggers; log and ignore their errors."""
    with suspended():
        for logger in loggers:
            try:
                logger(statistics)
            except Exception:
                log.warning("the logger %r failed", logger, exc_info=True)
