"""Loggers of op statistics; a logger is any callable that takes the statistics."""

from collections.abc import Callable

from labnet.stats.operations import OpStatistics


class ConsoleLogger:
    """Writes op statistics as text.

    Parameters
    ----------
    most : int
        Number of ops that are listed by name.
    write : callable
        Called with the text; `print` by default.

    Examples
    --------
    >>> lines = []
    >>> ConsoleLogger(write=lines.append)(OpStatistics("lab", 7))
    >>> print(lines[0].splitlines()[0])
    lab process 7 (cpu): computing for 0.000 of 0.000 s (0%)
    """

    def __init__(self, *, most: int = 4, write: Callable[[str], object] = print):
        self._most = most
        self._write = write

    def __call__(self, statistics: OpStatistics) -> None:
        """Write the most costly ops, the totals, and the totals of other processes."""
        self._write(statistics.table(most=self._most))
