"""Memory of the GPU: a pool of blocks, and arenas for recorded sequences of launches."""

import contextlib
import os
import threading
from collections import defaultdict
from collections.abc import Iterator

from labnet.errors import DeviceError
from labnet.kernels.cuda.driver.gpu import machine


class Block:
    """Memory of the GPU that goes back to the pool when nobody refers to it any more."""

    __slots__ = ("__weakref__", "_pool", "address", "nbytes")

    def __init__(self, address: int, nbytes: int, pool: "Pool"):
        self.address = address
        self.nbytes = nbytes
        self._pool = pool  # when the interpreter ends, names of modules are gone before the last arrays are

    def __del__(self) -> None:
        self._pool.give_back(self.address, self.nbytes)


class Pool:
    """Memory that is used again: asking the driver for it makes the whole GPU wait.

    All work goes to one stream, so memory that is given back may be handed out at once: whoever gets it writes
    after those who read it.

    Attributes
    ----------
    held : int
        Bytes taken from the driver.
    used : int
        Bytes of them in use.
    peak : int
        The most that was in use.
    """

    def __init__(self) -> None:
        self._free: dict[int, list[int]] = defaultdict(list)
        self.held = self.used = self.peak = 0
        self.renew()

    def renew(self) -> None:
        """Make the lock, which a thread may hold while another one forks; reentrant, for memory comes back anywhere."""
        self._lock = threading.RLock()

    @staticmethod
    def size_of(nbytes: int) -> int:
        """Return the size of the block that serves a request: a quarter of a power of two, at least 512 bytes."""
        if nbytes <= 512:
            return 512
        step = 1 << ((nbytes - 1).bit_length() - 3)
        return -(-nbytes // step) * step

    def take(self, nbytes: int) -> Block:
        """Return memory for so many bytes.

        Raises
        ------
        DeviceError
            If there is no more.
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
        # not while the lock is held: the driver may have to wait for who records, who takes memory too
        address = self._more(size)
        with self._lock:
            self.used += size
            if self.used > self.peak:
                self.peak = self.used
        return Block(address, size, self)

    def _more(self, size: int) -> int:
        address: int = machine().allocate(size)
        if not address:
            with contextlib.suppress(DeviceError):  # where launches are recorded nothing can be waited for
                self.empty()
            address = machine().allocate(size)
        if not address:
            free, total = machine().memory()
            raise DeviceError(
                f"device 'cuda' is out of memory: {size:,} bytes were asked for, {self.used:,} are in use by labnet, "
                f"{free:,} of {total:,} are free"
            )
        self.held += size
        return address

    def give_back(self, address: int, size: int) -> None:
        """Take memory back; called from wherever the last reference ends."""
        with self._lock:
            self.used -= size
            self._free[size].append(address)

    def empty(self) -> None:
        """Give what nobody uses back to the driver."""
        machine().synchronize()
        for size, addresses in list(self._free.items()):
            while addresses:
                try:
                    address = addresses.pop()
                except IndexError:  # another thread took it
                    break
                machine().free(address)
                self.held -= size


class Arena(Pool):
    """Memory for a recorded sequence of launches, which nobody else may get in between."""

    def __init__(self, kept: list[Block]):
        super().__init__()
        self._kept = kept

    def _more(self, size: int) -> int:
        block = pool.take(size)
        self._kept.append(block)
        self.held += size
        return block.address

    def empty(self) -> None:
        """Keep everything: it is the pool's once nobody has the list of blocks any more."""


pool = Pool()
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=pool.renew)
_chosen = threading.local()


def take(nbytes: int) -> Block:
    """Return memory for so many bytes: from the pool, or from the arena of this thread."""
    found: Pool = getattr(_chosen, "arena", None) or pool
    return found.take(nbytes)


@contextlib.contextmanager
def private(kept: list[Block]) -> Iterator[None]:
    """Take all memory of a block of code, in this thread, from an arena whose memory is put into a list."""
    _chosen.arena = Arena(kept)
    try:
        yield
    finally:
        del _chosen.arena
