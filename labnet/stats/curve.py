"""A curve of any length in bounded memory, with its extremes."""

import math
from collections.abc import Iterable
from typing import NamedTuple


class _Bin(NamedTuple):
    """The least and the greatest of neighbouring values, with their steps."""

    least: tuple[float, int]
    greatest: tuple[float, int]

    def joined(self, other: "_Bin") -> "_Bin":
        return _Bin(min(self.least, other.least), max(self.greatest, other.greatest))


class Curve:
    """Values over steps. Beyond the capacity neighbours share a bin, of which minimum and maximum are kept.

    Parameters
    ----------
    capacity : int
        Number of bins, at least 2. When all are full, each two neighbours become one.

    Examples
    --------
    >>> curve = Curve(capacity=2)
    >>> for step, value in enumerate([1.0, 9.0, 2.0, 3.0]):
    ...     curve.add(step, value)
    >>> curve.points()
    ([0, 1, 2, 3], [1.0, 9.0, 2.0, 3.0])
    """

    def __init__(self, capacity: int = 512):
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, got {capacity}")
        self._capacity = capacity
        self._bins: list[_Bin] = []
        self._width = 1
        self._in_last = 0
        self._first: tuple[int, float] | None = None
        self._last: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Add a point; skip non-finite values."""
        if not math.isfinite(value):
            return
        self._last = (step, value)
        self._first = self._first or self._last
        new = _Bin((value, step), (value, step))
        if self._bins and self._in_last < self._width:
            self._bins[-1] = self._bins[-1].joined(new)
            self._in_last += 1
            return
        if len(self._bins) == self._capacity:
            pairs = zip(self._bins[::2], self._bins[1::2], strict=False)
            rest = self._bins[len(self._bins) - len(self._bins) % 2 :]
            self._bins = [*(one.joined(other) for one, other in pairs), *rest]
            self._width *= 2
            if rest:  # half full
                self._bins[-1], self._in_last = rest[0].joined(new), self._width // 2 + 1
                return
        self._bins.append(new)
        self._in_last = 1

    @property
    def latest(self) -> tuple[int, float] | None:
        """The latest step and value."""
        return self._last

    @property
    def last(self) -> float | None:
        """The latest value."""
        return None if self._last is None else self._last[1]

    def points(self) -> tuple[list[int], list[float]]:
        """Return steps and values: the extremes of each bin, the first and the latest point."""
        steps: list[int] = []
        values: list[float] = []
        if self._first is not None:
            steps.append(self._first[0])
            values.append(self._first[1])
        for least, greatest in tuple(self._bins):
            for value, step in (least, greatest) if least[1] <= greatest[1] else (greatest, least):
                if step != steps[-1] or value != values[-1]:
                    steps.append(step)
                    values.append(value)
        if self._last is not None and (steps[-1], values[-1]) != self._last:
            steps.append(self._last[0])
            values.append(self._last[1])
        return steps, values


def thinned(steps: Iterable[int], values: Iterable[float], capacity: int) -> tuple[list[int], list[float]]:
    """Return the points of a curve that a smaller one keeps.

    Examples
    --------
    >>> thinned(range(1000), [0.0] * 500 + [7.0] + [0.0] * 499, capacity=4)[1].count(7.0)
    1
    """
    curve = Curve(capacity)
    for step, value in zip(steps, values, strict=True):
        curve.add(step, value)
    return curve.points()
