"""Deferred measurements: a GPU runs asynchronously, so the time of an op is known only after it has run.

Reading statistics returns the known part; the end of a counted block waits for the rest.
"""

import weakref
from typing import Protocol


class Listener(Protocol):
    """Receives measured durations."""

    def expect(self) -> None:
        """Expect one more measurement."""

    def tell(self, seconds: float | None) -> None:
        """Receive a measurement, or None if it is unknown; from any thread."""


class Source(Protocol):
    """A source of measurements."""

    def arrive(self, *, wait: bool = False) -> None:
        """Tell listeners what is known by now; or all of it, once it is known."""


_sources: "weakref.WeakSet[Source]" = weakref.WeakSet()


def add(source: Source) -> None:
    """Register a source, by weak reference."""
    _sources.add(source)


def arrive(*, wait: bool = False) -> None:
    """Have all sources deliver the known measurements, or wait for all of them."""
    for source in tuple(_sources):
        source.arrive(wait=wait)
