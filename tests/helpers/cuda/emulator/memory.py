"""Memory of the emulated GPU: every access is checked as NVIDIA's ``memcheck`` and ``racecheck`` do.

Addresses are those of memory of this process, all in one piece, with a gap behind every allocation.
"""

import bisect
from dataclasses import dataclass

import numpy as np

#: Bytes of the GPU; only what is used becomes memory of the host.
CAPACITY = 1 << 31
_GAP, _ALIGNMENT = 256, 512
_MANY = 2047


class Fault(Exception):
    """A kernel did what it must not."""


@dataclass
class Access:
    """Who touched an element last.

    A number holds the launch, how often its block had waited, the block and the thread in it.
    """

    launch: int
    blocks: np.ndarray  # among those that run at once
    names: np.ndarray  # of the blocks, in 16 bits
    threads: np.ndarray

    def stamps(self, chosen, waits):
        """Return who the chosen threads are, now."""
        when = (np.int64(self.launch) << 43) | (waits[self.blocks[chosen]] << 27)
        return when | (self.names[chosen] << 11) | self.threads[chosen]


def conflicts(before, now):
    """Tell where somebody else touched an element in the same launch, with no barrier between."""
    same_launch = (before >> 43) == (now >> 43)
    other = (before & 0x7FFFFFF) != (now & 0x7FFFFFF)
    block = ((before >> 11) & 0xFFFF) == ((now >> 11) & 0xFFFF)
    apart = block & ((before >> 27 & 0xFFFF) < (now >> 27 & 0xFFFF))
    return same_launch & other & ~apart


class Hazards:
    """Notes the last reads and writes of each byte, and finds those that may happen in any order."""

    def __init__(self, nbytes: int):
        self.written = np.zeros(nbytes, np.int64)
        self.read = np.zeros(nbytes, np.int64)

    def reading(self, places, stamps, what):
        """Note reads."""
        self._refuse(conflicts(self.written[places], stamps), f"a read of {what} races with a write of another thread")
        before = self.read[places]
        fresh = (before >> 27) != (stamps >> 27)  # of another launch, or from before a barrier
        many = ~fresh & (before != stamps)
        self.read[places] = np.where(many, before | _MANY, stamps)
        # several of these threads may have read one element: whoever is noted, the others were there too
        self.read[places] = np.where(self.read[places] != stamps, self.read[places] | _MANY, self.read[places])

    def writing(self, places, stamps, what):
        """Note writes."""
        self._refuse(conflicts(self.written[places], stamps), f"two threads write {what}")
        self._refuse(conflicts(self.read[places], stamps), f"a write of {what} races with a read of another thread")
        self.written[places] = stamps
        self._refuse(self.written[places] != stamps, f"two threads write {what} at once")

    @staticmethod
    def _refuse(wrong, text):
        if np.any(wrong):
            raise Fault(text)


class DeviceMemory:
    """What `cuMemAlloc` gives out.

    Attributes
    ----------
    used : int
        Bytes in use.
    """

    def __init__(self) -> None:
        self._bytes = np.zeros(CAPACITY + 4096, np.uint8)
        self.base = -(-self._bytes.ctypes.data // 4096) * 4096
        self._start = self.base - self._bytes.ctypes.data
        self._whole = self._bytes[self._start : self._start + CAPACITY]
        self._owned = np.zeros(CAPACITY, np.bool_)
        self._next = _ALIGNMENT
        self._sizes: dict[int, int] = {}
        self._starts: list[int] = []
        self._free: dict[int, list[int]] = {}
        self.used = 0
        self.hazards = Hazards(CAPACITY)

    def allocate(self, nbytes: int) -> int:
        """Return an address, or 0 if there is no room."""
        waiting = self._free.get(nbytes)
        if waiting and len(waiting) > 64:  # memory that is given back rests for a while, so that late uses show
            offset = waiting.pop(0)
        else:
            if self._next + nbytes + _GAP > CAPACITY:
                return 0
            offset = self._next
            self._next += -(-(nbytes + _GAP) // _ALIGNMENT) * _ALIGNMENT
        self._owned[offset : offset + nbytes] = True
        self._whole[offset : offset + nbytes] = 0xA5
        self._sizes[offset] = nbytes
        bisect.insort(self._starts, offset)
        self.used += nbytes
        return self.base + offset

    def free(self, address: int) -> bool:
        """Take memory back; tell whether there was any."""
        offset = address - self.base
        nbytes = self._sizes.pop(offset, None)
        if nbytes is None:
            return False
        self._starts.remove(offset)
        self._owned[offset : offset + nbytes] = False
        self._free.setdefault(nbytes, []).append(offset)
        self.used -= nbytes
        return True

    def span(self, address: int, nbytes: int) -> np.ndarray:
        """Return the bytes of a copy.

        Raises
        ------
        Fault
            If they are not all of one allocation.
        """
        offset = address - self.base
        if not 0 <= offset <= CAPACITY - nbytes or not self._owned[offset : offset + nbytes].all():
            raise Fault(f"a copy of {nbytes} bytes at {address:#x} leaves what was allocated")
        return self._whole[offset : offset + nbytes]

    def places(self, addresses: np.ndarray, size: int, alignment: int = 1) -> np.ndarray:
        """Return the offsets of elements in memory, all of them in bounds and aligned."""
        offsets = addresses.astype(np.int64) - self.base
        inside = (offsets >= 0) & (offsets <= CAPACITY - size)
        known = np.where(inside, offsets, 0)
        good = inside & self._owned[known] & self._owned[known + size - 1]
        if not good.all():
            raise Fault(f"{size} bytes at {int(addresses[~good][0]):#x} are not of any allocation")
        if (offsets % max(size, alignment)).any():
            raise Fault(f"an address of {max(size, alignment)} bytes is not aligned")
        return offsets

    def typed(self, dtype: str) -> np.ndarray:
        """Return all memory as elements of a type."""
        return self._whole.view(dtype)


class View:
    """Memory as the threads of one launch see it: global, shared by a block, and of each thread."""

    def __init__(self, memory: DeviceMemory, who: Access, waits: np.ndarray, shared: int, local: int, windows: dict):
        self._memory, self._who, self._waits = memory, who, waits
        self._shared_size, self._local_size = -(-shared // 16) * 16, -(-local // 16) * 16
        self._blocks = int(who.blocks[-1]) + 1
        self._shared = np.full(self._blocks * self._shared_size, 0xA5, np.uint8)
        self._local = np.full(len(who.blocks) * self._local_size, 0xA5, np.uint8)
        self._hazards = Hazards(len(self._shared))
        self._windows = windows

    def _find(self, chosen, addresses, dtype, space, width):
        """Return the memory as elements, their places in it, and who looks after races."""
        size = int(dtype[1:])
        addresses = np.broadcast_to(np.asarray(addresses, np.uint64), self._who.blocks[chosen].shape)
        if space == "generic":
            space = next((name for name, start in self._windows.items() if (addresses >= start).all()), "global")
            addresses = addresses - np.uint64(self._windows.get(space, 0))
        if space == "global":
            places = self._memory.places(addresses, size, size * width)
            return self._memory.typed(dtype), places, self._memory.hazards
        length = self._shared_size if space == "shared" else self._local_size
        offsets = addresses.astype(np.int64)
        if (offsets < 0).any() or (offsets + size > length).any():
            raise Fault(f"{space} memory of {length} bytes has no {size} bytes at {int(offsets.max())}")
        if (offsets % (size * width)).any():
            raise Fault(f"an address of {size * width} bytes in {space} memory is not aligned")
        if space == "shared":
            return self._shared.view(dtype), offsets + self._who.blocks[chosen] * length, self._hazards
        own = np.arange(len(self._who.blocks))[chosen]
        return self._local.view(dtype), offsets + own * length, None

    def load(self, chosen, addresses, dtype, space, width):
        """Return elements."""
        elements, places, hazards = self._find(chosen, addresses, dtype, space, width)
        if hazards is not None:
            hazards.reading(places, self._who.stamps(chosen, self._waits), f"{space} memory")
        return elements[places // int(dtype[1:])]

    def store(self, chosen, addresses, dtype, space, width, value):
        """Write elements."""
        elements, places, hazards = self._find(chosen, addresses, dtype, space, width)
        if hazards is not None:
            hazards.writing(places, self._who.stamps(chosen, self._waits), f"{space} memory")
        elements[places // int(dtype[1:])] = value
