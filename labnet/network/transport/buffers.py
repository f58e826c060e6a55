"""A pool of buffers for message bodies; a buffer is reused when no view of it remains.

Writing to a fresh large block costs a page fault per page, and dropping it releases the pages: at 256 KB that takes as
long as the transfer. Bodies of one model have one size, so a few blocks are enough.
"""

import sys
from collections import deque

import numpy as np

#: Shorter bodies come from the allocator, which pools small blocks itself.
_SHORTEST = 1 << 16
#: Block sizes are multiples of this, so that a forward and its backward share blocks.
_STEP = 1 << 16
#: Most bytes and blocks in the pool.
_MOST_BYTES = 1 << 26
_MOST_BLOCKS = 32

Block = np.ndarray[tuple[int], np.dtype[np.uint8]]


def _holders(blocks: deque[Block], position: int) -> int:
    return sys.getrefcount(blocks[position])


#: `_holders` of a block that only the deque references.
_ALONE = _holders(deque([np.empty(1, np.uint8)]), 0)
#: Without the global interpreter lock, reference counts are not reliable.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()


class Memory:
    """A pool of blocks for one thread; free blocks are reused.

    Examples
    --------
    >>> memory = Memory()
    >>> body = memory.take(100_000)
    >>> address = np.frombuffer(body, np.uint8).ctypes.data
    >>> np.frombuffer(memory.take(100_000), np.uint8).ctypes.data == address
    False
    >>> del body
    >>> np.frombuffer(memory.take(90_000), np.uint8).ctypes.data == address
    True
    """

    def __init__(self) -> None:
        self._blocks: deque[Block] = deque()
        #: Bytes of all blocks, in use or free.
        self.nbytes = 0

    def take(self, nbytes: int) -> memoryview:
        """Return `nbytes` bytes of writable memory with undefined content."""
        if not (_SHORTEST <= nbytes <= _MOST_BYTES and _COUNTS):
            return np.empty(nbytes, np.uint8).data
        size = -(-nbytes // _STEP) * _STEP
        blocks = self._blocks
        for position in range(len(blocks)):
            if blocks[position].nbytes == size and _holders(blocks, position) == _ALONE:
                return blocks[position].data[:nbytes]
        blocks.append(np.empty(size, np.uint8))
        self.nbytes += size
        while self.nbytes > _MOST_BYTES or len(blocks) > _MOST_BLOCKS:
            self.nbytes -= blocks.popleft().nbytes
        return blocks[-1].data[:nbytes]
