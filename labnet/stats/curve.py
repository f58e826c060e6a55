"""A curve of any length in bounded memory."""

import math


class Curve:
    """Values over steps, thinned out evenly beyond the capacity.

    Parameters
    ----------
    capacity : int
        Maximum number of points, at least 2. When it is reached, every second point is dropped, and from then on every
        second value is kept; the last value is always known.

    Examples
    --------
    >>> curve = Curve(capacity=4)
    >>> for step in range(1, 9):
    ...     curve.add(step, step * 1.0)
    >>> curve.points()
    ([1, 3, 5, 7, 8], [1.0, 3.0, 5.0, 7.0, 8.0])
    """

    def __init__(self, capacity: int = 512):
        if capacity < 2:
            raise ValueError(f"capacity must be at least 2, got {capacity}")
        self._capacity = capacity
        self._points: list[tuple[int, float]] = []
        self._stride = 1
        self._seen = 0
        self._last: tuple[int, float] | None = None

    def add(self, step: int, value: float) -> None:
        """Add a point; skip non-finite values."""
        if not math.isfinite(value):
            return
        self._last = (step, value)
        if self._seen % self._stride == 0:
            if len(self._points) == self._capacity:
                self._points = self._points[::2]
                self._stride *= 2
            if self._seen % self._stride == 0:
                self._points.append((step, value))
        self._seen += 1

    @property
    def last(self) -> float | None:
        """The latest value."""
        return None if self._last is None else self._last[1]

    def points(self) -> tuple[list[int], list[float]]:
        """Return steps and values, including the latest."""
        points = list(self._points)
        if self._last is not None and points[-1] != self._last:
            points.append(self._last)
        return [step for step, _ in points], [value for _, value in points]
