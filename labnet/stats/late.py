"""Figures that come late: a GPU computes by itself, and what an op took there is known when it has come that far.

Whoever reads statistics gets what is known; whoever ends a block that was counted waits for the rest of it.
"""

import weakref
from typing import Protocol


class Listener(Protocol):
    """Is told how long something took."""

    def expect(self) -> None:
        """Take note that there is something to come."""

    def tell(self, seconds: float | None) -> None:
        """Take what has come, None where that cannot be known; from any thread."""


class Source(Protocol):
    """What knows when something has taken place."""

    def arrive(self, *, wait: bool = False) -> None:
        """Tell listeners what is known by now; or all of it, once it is known."""


_sources: "weakref.WeakSet[Source]" = weakref.WeakSet()


def add(source: Source) -> None:
    """Let a source be asked as long as it is there."""
    _sources.add(source)


def arrive(*, wait: bool = False) -> None:
    """Have all sources tell what is known by now; or all of it, once it is known."""
    for source in tuple(_sources):
        source.arrive(wait=wait)
