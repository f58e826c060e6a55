"""Memory for the bodies of messages, used again as soon as nobody holds a view of it.

A fresh large block costs a page fault for every page that is written, and gives them back when it is dropped: at
256 KB that takes as long as the transfer. Bodies of one model have one size, so a few blocks are kept.
"""

import sys
from collections import deque

import numpy as np

#: Shorter bodies come from the allocator, which keeps their memory itself.
_SHORTEST = 1 << 16
#: Blocks have a multiple of this many bytes, so that a forward and its backward share them.
_STEP = 1 << 16
#: Most bytes and blocks that are kept.
_MOST_BYTES = 1 << 26
_MOST_BLOCKS = 32

Block = np.ndarray[tuple[int], np.dtype[np.uint8]]


def _holders(blocks: deque[Block], position: int) -> int:
    return sys.getrefcount(blocks[position])


#: What `_holders` says of a block that nobody but the deque holds.
_ALONE = _holders(deque([np.empty(1, np.uint8)]), 0)
#: Without the global lock, counts of references cannot be relied on.
_COUNTS = getattr(sys, "_is_gil_enabled", lambda: True)()


class Memory:
    """Blocks that were handed out, of which those that came back are handed out again; for one thread.

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
        #: Bytes of all blocks that are known, whether in use or not.
        self.nbytes = 0

    def take(self, nbytes: int) -> memoryview:
        """Return writable memory of so many bytes; what is in it is undefined."""
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
