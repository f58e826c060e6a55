"""The staleness policy for gradients of outdated weights: pure decisions and counts, no I/O."""

from dataclasses import dataclass
from typing import Any, Literal

from labnet.errors import ServeError

Staleness = Literal["accept", "scale"]


@dataclass(frozen=True)
class Policy:
    """The policy for stale gradients; staleness is the number of updates since the forward.

    Attributes
    ----------
    staleness : "accept" or "scale"
        Apply stale gradients unchanged, or multiply them by ``1 / (1 + staleness)``.
    max_staleness : int or None
        Refuse gradients beyond this staleness.
    accumulate : int
        How many gradients make one update. They are summed in the order of clients and requests, so the result does not
        depend on arrival order. None is answered before the update.

    Examples
    --------
    >>> policy = Policy(staleness="scale", max_staleness=3)
    >>> policy.factor(0), policy.factor(3), policy.allows(4)
    (1.0, 0.25, False)
    """

    staleness: Staleness = "accept"
    max_staleness: int | None = None
    accumulate: int = 1

    def __post_init__(self) -> None:
        if self.staleness not in ("accept", "scale"):
            raise ServeError(f"serve_model: staleness must be 'accept' or 'scale', got {self.staleness!r:.40}")
        if self.max_staleness is not None and not _is_count(self.max_staleness, least=0):
            raise ServeError(f"serve_model: max_staleness must be a number from 0 on, got {self.max_staleness!r:.40}")
        if not _is_count(self.accumulate, least=1):
            raise ServeError(f"serve_model: accumulate must be a number from 1 on, got {self.accumulate!r:.40}")

    def allows(self, staleness: int) -> bool:
        """Return whether a gradient of this staleness is accepted."""
        return self.max_staleness is None or staleness <= self.max_staleness

    def factor(self, staleness: int) -> float:
        """Return the factor for a gradient of this staleness."""
        return 1.0 if self.staleness == "accept" else 1.0 / (1.0 + staleness)


def _is_count(value: Any, *, least: int) -> bool:
    return type(value) is int and value >= least


class Histogram:
    """A histogram of staleness, with classes that double in width.

    Examples
    --------
    >>> histogram = Histogram()
    >>> for staleness in (0, 0, 1, 5):
    ...     histogram.add(staleness)
    >>> histogram.summary()
    {'0': 2, '1': 1, '4-7': 1}
    """

    def __init__(self) -> None:
        self._counts: dict[int, int] = {}
        self.last = 0

    def add(self, staleness: int) -> None:
        """Count a gradient that was applied."""
        self.last = staleness
        magnitude = staleness.bit_length()
        self._counts[magnitude] = self._counts.get(magnitude, 0) + 1

    def summary(self) -> dict[str, int]:
        """Return the counts by class, such as ``4-7``, the lowest class first."""
        return {_class_name(magnitude): count for magnitude, count in sorted(self._counts.items())}


def _class_name(magnitude: int) -> str:
    if magnitude < 2:
        return str(magnitude)
    return f"{1 << magnitude - 1}-{(1 << magnitude) - 1}"
