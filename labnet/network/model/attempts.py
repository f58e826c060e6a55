"""Locks that let one attempt of a call run at a time; the next one waits for its outcome."""

import asyncio


class Attempts:
    """Locks by call id; a lock is dropped when no task holds it or waits for it.

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

    def of(self, call: str) -> "_Attempt":
        """Return the lock of a call, as an async context manager."""
        return _Attempt(self._locks, call)


class _Attempt:
    __slots__ = ("_call", "_locks")

    def __init__(self, locks: dict[str, tuple[asyncio.Lock, int]], call: str):
        self._locks = locks
        self._call = call

    async def __aenter__(self) -> None:
        lock, users = self._locks.get(self._call) or (asyncio.Lock(), 0)
        self._locks[self._call] = lock, users + 1
        try:
            await lock.acquire()
        except BaseException:
            self._leave()
            raise

    async def __aexit__(self, *exception: object) -> None:
        self._leave().release()

    def _leave(self) -> asyncio.Lock:
        lock, users = self._locks.pop(self._call)
        if users > 1:
            self._locks[self._call] = lock, users - 1
        return lock
