"""Memory of the GPU: a pool of blocks, and arenas for recorded sequences of launches."""

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator

from labnet.errors import DeviceError
from labnet.kernels.cuda.driver.gpu import current_gpu


class Block:
    """Memory of the GPU that returns to its pool with the last reference."""

    __slots__ = ("__weakref__", "_pool", "address", "nbytes")

    def __init__(self, address: int, nbytes: int, pool: "Pool"):
        self.address = address
        self.nbytes = nbytes
        self._pool = pool  # module globals may be gone at the exit of the interpreter, before the last arrays

    def __del__(self) -> None:
        self._pool.release(self.address, self.nbytes)


class Pool:
    """Reuses memory, since an allocation by the driver synchronizes the GPU.

    All work goes to one stream, so released memory is reused at once: its next writer runs after its last reader.

    Attributes
    ----------
    held : int
        Bytes allocated from the driver.
    used : int
        Bytes of them in use.
    peak : int
        Maximum of `used`.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = defaultdict(list)
        self.held = self.used = self.peak = 0
        self.renew()

    def renew(self) -> None:
        """Make a new lock, since a thread may hold it during a fork; reentrant, since blocks are released anywhere."""
        self._lock = threading.RLock()

    @staticmethod
    def size_of(nbytes: int) -> int:
        """Return the size of the block that serves a request: a quarter of a power of two, at least 512 bytes."""
        if nbytes <= 512:
            return 512
        step = 1 << ((nbytes - 1).bit_length() - 3)
        return -(-nbytes // step) * step

    def allocate(self, nbytes: int) -> Block:
        """Return memory for so many bytes.

        Raises
        ------
        DeviceError
            If the GPU is out of memory.
        """
        size = self.size_of(nbytes)
        with self._lock:
            free = self._free[size]
            address = free.pop() if free else 0
            if address:
                self.used += size
                if self.used > self.peak:
                    self.peak = self.used
                return Block(address, size, self)
        # without the lock: the driver may wait for a thread that records, which allocates too
        address = self._more(size)
        with self._lock:
            self.used += size
            if self.used > self.peak:
                self.peak = self.used
        return Block(address, size, self)

    def _more(self, size: int) -> int:
        address: int = current_gpu().allocate(size)
        if not address:
            with contextlib.suppress(DeviceError):  # a thread that records cannot synchronize
                self.empty()
            address = current_gpu().allocate(size)
        if not address:
            free, total = current_gpu().memory()
            raise DeviceError(
                f"device 'cuda' is out of memory: {size:,} bytes were asked for, {self.used:,} are in use by labnet, "
                f"{free:,} of {total:,} are free"
            )
        self.held += size
        return address

    def release(self, address: int, size: int) -> None:
        """Take memory back; called wherever the last reference to a block ends."""
        with self._lock:
            self.used -= size
            self._free[size].append(address)

    def empty(self) -> None:
        """Return unused memory to the driver."""
        current_gpu().synchronize()
        for size, addresses in list(self._free.items()):
            while addresses:
                try:
                    address = addresses.pop()
                except IndexError:  # another thread took it
                    break
                current_gpu().free(address)
                self.held -= size


class Arena(Pool):
    """Memory of its own for a recorded sequence of launches; no other array may share it."""

    def __init__(self, kept: list[Block]):
        super().__init__()
        self._kept = kept

    def _more(self, size: int) -> int:
        block = pool.allocate(size)
        self._kept.append(block)
        self.held += size
        return block.address

    def empty(self) -> None:
        """Keep everything: the blocks return to the pool when their list is released."""


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.renew)
_chosen = threading.local()


def allocate(nbytes: int) -> Block:
    """Return memory for so many bytes, from the arena of this thread or from the pool."""
    found: Pool = getattr(_chosen, "arena", None) or pool
    return found.allocate(nbytes)


@contextlib.contextmanager
def private_arena(kept: list[Block]) -> Iterator[None]:
    """Allocate all memory of a block of code, in this thread, from an arena, and append its blocks to a list."""
    _chosen.arena = Arena(kept)
    try:
        yield
    finally:
        del _chosen.arena
