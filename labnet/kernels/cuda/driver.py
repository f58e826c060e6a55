"""The CUDA driver through `ctypes`: memory, one stream, kernels from PTX, and graphs of launches.

Numba compiles, nothing more: its own launches take several times as long, and its arrays as well. All work goes to one
stream that waits for the default stream and the default stream for it, so what other libraries do in the same
process needs no further care.
"""

import ctypes
import ctypes.util
import os
import struct
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.cuda.compiler import compiled
from labnet.kernels.cuda.texts import Launch

_OUT_OF_MEMORY, _CLOCK_MULTIPROCESSORS = 2, 16
_MAJOR, _MINOR = 75, 76
_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0
_CAPTURE_RELAXED = 2
_FORMATS = {"i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q"}
_FORMATS.update({"f4": "f", "f8": "d"})


def _library() -> ctypes.CDLL:
    names = ("nvcuda.dll",) if sys.platform == "win32" else ("libcuda.so.1", "libcuda.so")
    for name in names:
        try:
            return ctypes.CDLL(name)
        except OSError:
            continue
    raise DeviceError(
        "device 'cuda' is not available: no NVIDIA driver was found (libcuda.so.1). "
        "Without a GPU, set NUMBA_ENABLE_CUDASIM=1 before Python starts to run the same programs in Numba's simulator"
    )


class Driver:
    """One GPU, and the stream that all work goes to.

    Attributes
    ----------
    name : str
    threads : int
        Threads of a block of a kernel in one dimension.
    multiprocessors : int
    capability : (int, int)
        Version of the machine code.

    Raises
    ------
    DeviceError
        If there is no driver, no GPU, or it refuses.
    """

    simulated = False
    threads = 256
    tile = 16

    def __init__(self, ordinal: int = 0):
        self._library = _library()
        self._check("cuInit", 0)
        count = ctypes.c_int()
        self._check("cuDeviceGetCount", ctypes.byref(count))
        if count.value <= ordinal:
            raise DeviceError(f"device 'cuda' is not available: the driver sees {count.value} GPUs")
        device, context, stream = ctypes.c_int(), ctypes.c_void_p(), ctypes.c_void_p()
        self._check("cuDeviceGet", ctypes.byref(device), ordinal)
        self._device = device.value
        self._check("cuDevicePrimaryCtxRetain", ctypes.byref(context), self._device)
        self._context = context
        self._entered = threading.local()
        self._gate = threading.RLock()
        self._recorder: int | None = None
        self._pid = os.getpid()
        self.enter()
        name = ctypes.create_string_buffer(128)
        self._check("cuDeviceGetName", name, 128, self._device)
        self.name = name.value.decode()
        self.multiprocessors = self._attribute(_CLOCK_MULTIPROCESSORS)
        self.capability = (self._attribute(_MAJOR), self._attribute(_MINOR))
        self._check("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream
        self._launch = self._library.cuLaunchKernel
        self._launch.argtypes = [
            ctypes.c_void_p, *[ctypes.c_uint] * 7, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p,
        ]  # fmt: skip
        self._modules: list[ctypes.c_void_p] = []
        self.launches = 0

    def _attribute(self, number: int) -> int:
        value = ctypes.c_int()
        self._check("cuDeviceGetAttribute", ctypes.byref(value), number, self._device)
        return value.value

    def _check(self, function: str, *args: Any) -> None:
        code = getattr(self._library, function)(*args)
        if code:
            self._refuse(function, code)

    def _refuse(self, function: str, code: int) -> None:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        raise DeviceError(f"device 'cuda': {function} failed with error {code}: {reason}")

    def enter(self) -> None:
        """Make this thread ready for calls: a context belongs to threads, and a recording to one of them."""
        if self._recorder is not None and self._recorder != threading.get_ident():
            with self._gate:
                pass
        if not getattr(self._entered, "done", False):
            if os.getpid() != self._pid:
                raise DeviceError(
                    "device 'cuda' cannot be used in a forked process: start it with "
                    "multiprocessing.get_context('spawn')"
                )
            self._check("cuCtxSetCurrent", self._context)
            self._entered.done = True

    def allocate(self, nbytes: int) -> int:
        """Return the address of fresh memory, or 0 where there is none left."""
        self.enter()
        address = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes))
        if code == _OUT_OF_MEMORY:
            return 0
        if code:
            self._refuse("cuMemAlloc", code)
        return address.value

    def free(self, address: int) -> None:
        """Give memory back, once all work is done with it."""
        self.enter()
        self._check("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, source: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to an address."""
        self.enter()
        host, size = ctypes.c_void_p(source.ctypes.data), ctypes.c_size_t(source.nbytes)
        self._check("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), host, size, self.stream)

    def download(self, target: np.ndarray[Any, Any], address: int) -> None:
        """Fill a contiguous array from an address."""
        self.enter()
        host, size = ctypes.c_void_p(target.ctypes.data), ctypes.c_size_t(target.nbytes)
        self._check("cuMemcpyDtoHAsync_v2", host, ctypes.c_uint64(address), size, self.stream)
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy bytes from one address to another."""
        self.enter()
        addresses = ctypes.c_uint64(target), ctypes.c_uint64(source)
        self._check("cuMemcpyDtoDAsync_v2", *addresses, ctypes.c_size_t(nbytes), self.stream)

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to zero."""
        self.enter()
        self._check(
            "cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(nbytes), self.stream
        )

    def kernel(self, text: str, types: Sequence[str]) -> Launch:
        """Return the function ``kernel`` of a text, ready to be launched."""
        self.enter()
        code = compiled(text, types, self.capability)
        module, function = ctypes.c_void_p(), ctypes.c_void_p()
        self._check("cuModuleLoadData", ctypes.byref(module), ctypes.c_char_p(code.ptx.encode() + b"\0"))
        self._check("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(code.entry.encode()))
        self._modules.append(module)
        return self._launcher(function, types)

    def _launcher(self, function: ctypes.c_void_p, types: Sequence[str]) -> Launch:
        """Return what packs arguments as a structure of C and launches: one call of the driver, one of `struct`."""
        packed = struct.Struct("@" + "".join("Q" if kind[0] == "p" else _FORMATS[kind] for kind in types))
        size, launch, stream, refuse = packed.size, self._launch, self.stream, self._refuse
        pack, enter, byref = packed.pack, self.enter, ctypes.byref

        def call(grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
            enter()
            bytes_, length = ctypes.c_char_p(pack(*args)), ctypes.c_size_t(size)
            pointer = ctypes.cast(bytes_, ctypes.c_void_p).value
            extra = (ctypes.c_void_p * 5)(_BUFFER_POINTER, pointer, _BUFFER_SIZE, ctypes.addressof(length), _END)
            x, y, z = (*grid, 1, 1)[:3]
            a, b, c = (*block, 1, 1)[:3]
            self.launches += 1
            code = launch(function, x, y, z, a, b, c, 0, stream, None, byref(extra))
            if code:
                refuse("cuLaunchKernel", code)

        return call

    def synchronize(self) -> None:
        """Wait for all work; what went wrong in a kernel is raised here."""
        self.enter()
        self._check("cuStreamSynchronize", self.stream)

    def memory(self) -> tuple[int, int]:
        """Return the free bytes and all bytes."""
        self.enter()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._check("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @contextmanager
    def captured(self) -> "Iterator[Callable[[], None]]":
        """Record what is launched in the block as a graph; what is yielded replays it afterwards."""
        self.enter()
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()

        def replay() -> None:
            self.enter()
            self._check("cuGraphLaunch", ready, self.stream)

        with self._gate:
            self._recorder = threading.get_ident()
            try:
                self._check("cuStreamBeginCapture_v2", self.stream, _CAPTURE_RELAXED)
                try:
                    yield replay
                finally:
                    self._check("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            finally:
                self._recorder = None
        self._check("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
