"""One attempt at a time for each call: a second one waits until it is known what became of the first."""

import asyncio
import contextlib
from collections.abc import AsyncIterator


class Attempts:
    """Locks by the id of a call, kept as long as somebody has or wants them.

    Examples
    --------
    >>> async def train(attempts):
    ...     async with attempts.of("c0ffee"):
    ...         return len(attempts)
    >>> asyncio.run(train(Attempts()))
    1
    """

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    def __len__(self) -> int:
        return len(self._locks)

    @contextlib.asynccontextmanager
    async def of(self, call: str) -> AsyncIterator[None]:
        """Wait for earlier attempts of a call, and have later ones wait."""
        lock, users = self._locks.get(call) or (asyncio.Lock(), 0)
        self._locks[call] = lock, users + 1
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(call)
            if users > 1:
                self._locks[call] = lock, users - 1
