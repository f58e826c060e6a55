"""Runs a kernel on a grid: all threads at once, those first that are furthest behind, as far as the next barrier."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from tests.helpers.cuda.emulator.memory import Access, DeviceMemory, Fault, View
from tests.helpers.cuda.emulator.parser import Kernel
from tests.helpers.cuda.emulator.translator import SPECIAL, WINDOWS, Translation, dtype_of

#: Threads that run at once; blocks of a larger grid follow one another.
_AT_ONCE = 1 << 15


@dataclass
class Function:
    """A kernel that is loaded.

    Attributes
    ----------
    kernel : Kernel
    addresses : dict
        Name of a variable -> where it lies.
    shared, local : int
        Bytes of shared memory of a block, and of memory of a thread.
    """

    kernel: Kernel
    addresses: dict[str, Any]
    shared: int
    local: int

    @cached_property
    def bind(self) -> Any:
        """Return what makes one function per block of instructions."""
        translation = Translation(self.kernel)
        names = dict(translation.names)
        exec(compile(translation.text, f"<{self.kernel.name[:40]}>", "exec"), names)
        return names["bind"]


class Threads:
    """Where each thread is.

    Attributes
    ----------
    pc : array of int
        Number of the block of instructions that it comes to next.
    done : int
        That of a thread that has ended.
    """

    def __init__(self, function: Function, parameters: bytes, blocks: np.ndarray):
        self._parameters = parameters
        self.done = len(function.kernel.blocks) + 1
        self.pc = np.zeros(len(blocks), np.int64)
        self.blocks = blocks
        self.waiting = np.zeros(len(blocks), np.bool_)

    def parameter(self, offset: int, dtype: str) -> Any:
        """Return what the kernel was given."""
        return np.frombuffer(self._parameters, dtype, 1, offset)[0]

    def wait(self, chosen: Any, following: int) -> None:
        """Have threads wait for the others of their block."""
        self.waiting[chosen] = True
        self.pc[chosen] = following


_LAUNCHES = iter(range(1, 1 << 20))


def launch(
    function: Function, memory: DeviceMemory, grid: tuple[int, ...], block: tuple[int, ...], parameters: bytes
) -> None:
    """Run a kernel.

    Raises
    ------
    Fault
        If it reaches for memory that is not its own, two threads race, or a barrier is not reached by all.
    """
    per = int(np.prod(block))
    number = next(_LAUNCHES)
    blocks = int(np.prod(grid))
    some = max(1, _AT_ONCE // per)
    with np.errstate(all="ignore"):
        for start in range(0, blocks, some):
            _run(function, memory, grid, block, parameters, (start, min(blocks, start + some)), number)


def _run(function, memory, grid, block, parameters, chosen, number) -> None:
    per, (first, last) = int(np.prod(block)), chosen
    which, thread = (part.ravel() for part in np.indices((last - first, per)))
    registers = {name: np.zeros(len(which), _stored(kind)) for name, kind in function.kernel.registers.items()}
    registers |= _special(which + first, thread, grid, block)
    threads = Threads(function, parameters, which)
    waits = np.zeros(last - first, np.int64)
    who = Access(number, which, which + first & 0xFFFF, thread)
    view = View(memory, who, waits, function.shared, function.local, WINDOWS)
    run = function.bind(registers, function.addresses, view, threads)
    everybody = slice(None)
    while True:
        here = np.where(threads.waiting, threads.done, threads.pc)
        lowest = int(here.min())
        if lowest == threads.done:
            if not threads.waiting.any():
                return
            _pass_barrier(threads, waits)
            continue
        these = np.flatnonzero(here == lowest)
        try:
            run[lowest](everybody if len(these) == len(here) else these)
        except Fault as fault:
            raise Fault(f"{fault}, in a kernel of {grid} blocks of {block} threads") from None


def _stored(kind: str) -> str:
    return dtype_of(kind)


def _special(block, thread, grid, shape):
    found = {}
    x, y = shape[0], shape[1]
    wide, high = grid[0], grid[1]
    parts = {
        "tid": (thread % x, thread // x % y, thread // (x * y)),
        "ntid": shape,
        "ctaid": (block % wide, block // wide % high, block // (wide * high)),
        "nctaid": grid,
    }
    for name in SPECIAL:
        which, _, axis = name[1:].partition(".")
        value = parts[which]["xyz".index(axis)]
        found[name] = np.broadcast_to(np.asarray(value, np.uint32), thread.shape).copy()
    return found


def _pass_barrier(threads: Threads, waits: np.ndarray) -> None:
    """Let blocks go on whose threads are all at one barrier."""
    places = threads.pc[threads.waiting]
    blocks = threads.blocks[threads.waiting]
    least = np.full(len(waits), threads.done)
    most = np.full(len(waits), -1)
    np.minimum.at(least, blocks, places)
    np.maximum.at(most, blocks, places)
    if (most > least).any():
        raise Fault("threads of a block wait at different barriers")
    waits[np.unique(blocks)] += 1
    threads.waiting[:] = False
