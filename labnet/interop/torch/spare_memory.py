"""Reuse of memory: new values of parameters take the memory of old ones that nothing refers to."""

from sys import getrefcount

import numpy as np
import torch

from labnet.interop.torch.arrays import Array
from labnet.memory import ALONE

_ALIGNMENT = 64  # torch's


class SpareMemory:
    """Gives parameters on the CPU new memory at each update, without fresh pages of the system.

    The memory of an older value is used again when the array behind it has no other reference: a tensor of torch, such
    as one that a graph keeps, and an array that was made of it hold one. Otherwise, and elsewhere, memory is allocated.
    """

    def __init__(self) -> None:
        self._present: dict[str, Array] = {}
        self._spare: dict[str, Array] = {}

    def copy(self, name: str, value: torch.Tensor) -> torch.Tensor:
        """Return a copy of the present value of a parameter."""
        if value.device.type != "cpu" or value.dtype is torch.bfloat16 or not value.is_contiguous():
            return value.clone()
        given = value.numpy()
        memory = self._spare.pop(name, None)
        if memory is None or getrefcount(memory) > ALONE or (memory.shape, memory.dtype) != (given.shape, given.dtype):
            memory = _aligned(given)
        np.copyto(memory, given)
        if name in self._present:
            self._spare[name] = self._present[name]
        self._present[name] = memory
        found: torch.Tensor = torch.from_numpy(memory)
        return found

    def clear(self) -> None:
        """Forget all memory, after an update has failed."""
        self._present.clear()
        self._spare.clear()


def _aligned(like: Array) -> Array:
    """Return an uninitialised array that begins where torch's tensors do."""
    memory = np.empty(like.nbytes + _ALIGNMENT, np.uint8)
    start = -memory.__array_interface__["data"][0] % _ALIGNMENT
    found: Array = memory[start : start + like.nbytes].view(like.dtype).reshape(like.shape)
    return found
