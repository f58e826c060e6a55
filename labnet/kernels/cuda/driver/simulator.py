"""A GPU without hardware: Numba's CUDA simulator, with the methods of the driver.

Its addresses lie outside the memory of the process, so reading one outside a kernel fails, and kernels get views that
end with their block of memory. Needs ``NUMBA_ENABLE_CUDASIM=1`` before Numba is imported.
"""

import bisect
import math
import sys
import threading
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib import import_module
from types import SimpleNamespace
from typing import Any

import numpy as np

from labnet.kernels.cuda.driver.clock import WallClock
from labnet.kernels.cuda.driver.kernel import POINTERS, TABLES, Launch

#: Where the addresses begin: below them nothing is mapped on any system.
_ORIGIN, _ALIGNMENT = 1 << 12, 256
#: Bytes of memory of the simulated GPU.
_MEMORY = 1 << 34
_ADDRESS = np.dtype("int64")


def _caster(dtype: str) -> Callable[[Any], Any]:
    kind = np.dtype(dtype)
    return lambda value: np.asarray(value).astype(kind)[()]


def _quiet(function: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any) -> Any:
        with np.errstate(all="ignore"):
            return function(*args)

    return call


def _erf(x: Any) -> Any:
    return np.float32(math.erf(x)) if isinstance(x, np.float32) else np.float64(math.erf(x))


_MATHEMATICS = SimpleNamespace(
    **{name: _quiet(getattr(np, name)) for name in ("exp", "log", "log2", "log10", "log1p", "expm1", "sqrt", "sin")},
    **{name: _quiet(getattr(np, name)) for name in ("cos", "tan", "sinh", "cosh", "tanh", "floor", "ceil", "trunc")},
    **{name: _quiet(getattr(np, name)) for name in ("asin", "acos", "atan", "asinh", "acosh", "atanh", "atan2")},
    **{name: _quiet(getattr(np, name)) for name in ("hypot", "copysign", "pow", "fabs", "fmod")},
    erf=_erf,
    inf=math.inf,
)


def _share_safely() -> None:
    """Replace Numba's look-up of shared memory, in which two threads of a block may allocate the same array twice."""
    interface: Any = import_module("numba.cuda.simulator.kernelapi")
    lock = threading.Lock()

    def array(self: Any, shape: Any, dtype: Any) -> Any:
        line = sys._getframe(1).f_lineno
        with lock:
            if line not in self._allocations:
                self._allocations[line] = np.empty(shape, dtype)
            return self._allocations[line]

    interface.FakeCUDAShared.array = array


class Pointer:
    """The address of elements in a kernel: indexed forwards and backwards within its block of memory."""

    __slots__ = ("_elements", "_origin")

    def __init__(self, elements: np.ndarray[Any, Any], origin: int):
        self._elements = elements
        self._origin = origin

    def _place(self, index: Any) -> int:
        place = self._origin + int(index)
        if not 0 <= place < len(self._elements):
            raise IndexError(f"a kernel accessed element {int(index)} of {len(self._elements) - self._origin}")
        return place

    def __getitem__(self, index: Any) -> Any:
        return self._elements[self._place(index)]

    def __setitem__(self, index: Any, value: Any) -> None:
        self._elements[self._place(index)] = value


class Table:
    """The address of addresses in a kernel."""

    __slots__ = ("_addresses", "_pointer")

    def __init__(self, addresses: Pointer, pointer: Callable[[int], Pointer]):
        self._addresses = addresses
        self._pointer = pointer

    def __getitem__(self, index: Any) -> Pointer:
        return self._pointer(int(self._addresses[index]))


class Simulator:
    """Runs kernels one thread at a time, in Python.

    Attributes
    ----------
    name : str
    threads : int
        Threads of a block of a kernel in one dimension.
    """

    simulated = True
    name = "Numba's CUDA simulator"
    threads = 4
    tile = 2
    multiprocessors = 2
    capability = (9, 0)

    def __init__(self) -> None:
        self._cuda: Any = import_module("numba.cuda")
        _share_safely()
        self._lock = threading.RLock()
        self._launching = threading.Lock()
        self.stream_lock = threading.RLock()
        self.clock = WallClock()
        self._recording = threading.local()
        self._starts: list[int] = []
        self._blocks: dict[int, np.ndarray[Any, Any]] = {}
        self._next = _ORIGIN
        self._used = 0
        #: Launches so far.
        self.launches = 0

    def enter(self) -> None:
        """Do nothing: the simulator has no context."""

    def allocate(self, nbytes: int) -> int:
        """Return the address of fresh memory, or 0 where there is none left."""
        with self._lock:
            if self._used + nbytes > _MEMORY:
                return 0
            address = self._next
            self._next += -(-(nbytes + 1) // _ALIGNMENT) * _ALIGNMENT
            self._starts.append(address)
            self._blocks[address] = np.full(nbytes, 0xA5, np.uint8)
            self._used += nbytes
            return address

    def free(self, address: int) -> None:
        """Free memory."""
        with self._lock:
            self._used -= self._blocks.pop(address).nbytes
            self._starts.remove(address)

    def _bytes(self, address: int) -> np.ndarray[Any, Any]:
        """Return the memory from an address to the end of its block."""
        with self._lock:
            start = self._starts[bisect.bisect_right(self._starts, address) - 1]
            return self._blocks[start][address - start :]

    def _pointer(self, address: int, dtype: np.dtype[Any]) -> Pointer:
        with self._lock:
            start = self._starts[bisect.bisect_right(self._starts, address) - 1]
            block = self._blocks[start]
        return Pointer(
            block[: block.size // dtype.itemsize * dtype.itemsize].view(dtype), (address - start) // dtype.itemsize
        )

    def upload(self, address: int, source: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to an address."""
        self._refuse_recording("upload")
        with self.clock.timing():
            self._bytes(address)[: source.nbytes] = source.reshape(-1).view(np.uint8)

    def download(self, target: np.ndarray[Any, Any], address: int) -> None:
        """Fill a contiguous array from an address."""
        self._refuse_recording("download")
        with self.clock.timing():
            target.reshape(-1).view(np.uint8)[...] = self._bytes(address)[: target.nbytes]

    @contextmanager
    def captured(self) -> Iterator[Callable[[], None]]:
        """Record the launches of the block without running them, and yield a function that runs them."""
        recorded: list[Callable[[], None]] = []

        def replay() -> None:
            with self.clock.timing():
                for call in recorded:
                    call()

        self._recording.calls = recorded
        try:
            yield replay
        finally:
            del self._recording.calls

    def _refuse_recording(self, what: str) -> None:
        if hasattr(self._recording, "calls"):
            raise RuntimeError(f"an {what} cannot be part of a recorded sequence of launches")

    def _recorded(self, call: Callable[[], None]) -> bool:
        """Record a call if this thread records, and return whether it does."""
        calls = getattr(self._recording, "calls", None)
        if calls is None:
            return False
        calls.append(call)
        return True

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy bytes from one address to another."""
        if self._recorded(lambda: self.copy(target, source, nbytes)):
            return
        with self.clock.timing():
            self._bytes(target)[:nbytes] = self._bytes(source)[:nbytes]

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to zero."""
        if self._recorded(lambda: self.clear(address, nbytes)):
            return
        with self.clock.timing():
            self._bytes(address)[:nbytes] = 0

    def kernel(self, source: str, types: Sequence[str]) -> Launch:
        """Compile the function ``kernel`` of a source."""
        words: dict[str, Any] = {"cuda": self._cuda, "math": _MATHEMATICS}
        words.update({cast: _caster(name) for cast, name in CAST_NAMES.items()})
        words.update({f"{cast}_": np.dtype(name) for cast, name in CAST_NAMES.items()})
        exec(compile(source, "<kernel>", "exec"), words)
        function = self._cuda.jit(words["kernel"])
        dtypes = [np.dtype(POINTERS[kind]) if kind in POINTERS else None for kind in types]

        def launch(grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
            self.launches += 1
            if self._recorded(lambda: run(grid, block, *args)):
                return
            with self.clock.timing():
                run(grid, block, *args)

        def run(grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
            passed: list[Any] = []
            for dtype, kind, value in zip(dtypes, types, args, strict=True):
                if kind in TABLES:
                    passed.append(Table(self._pointer(value, _ADDRESS), partial(self._pointer, dtype=TABLES[kind])))
                elif dtype is not None:
                    passed.append(self._pointer(value, dtype))
                else:
                    passed.append(int(value) if kind == "i8" else words[kind](value))
            with self._launching, warnings.catch_warnings():
                warnings.simplefilter("ignore", RuntimeWarning)
                function[grid, block](*passed)

        return launch

    def synchronize(self) -> None:
        """Do nothing: every call has ended when it returns."""

    def wait_for(self, stream: int | None) -> None:
        """Do nothing: no other library uses the simulator."""

    def memory(self) -> tuple[int, int]:
        """Return the free bytes and all bytes."""
        return _MEMORY - self._used, _MEMORY


CAST_NAMES = {f"{kind}{size}": np.dtype(f"{kind}{size}").name for kind in "iu" for size in (1, 2, 4, 8)}
CAST_NAMES.update({f"f{size}": np.dtype(f"f{size}").name for size in (2, 4, 8)})
