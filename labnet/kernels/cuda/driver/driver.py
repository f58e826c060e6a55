"""The CUDA driver through `ctypes`: memory, one stream, kernels from PTX, and graphs of launches.

Numba only compiles: its launches and its arrays take several times as long. All work goes to one stream. It waits for
the default stream and the default stream waits for it, so other libraries in the process need no further care.

While a thread records a graph, no other thread may touch the stream. So calls that touch it hold `stream_lock`, and
none of them waits long. Synchronization uses events, so it never touches the capturing stream.
"""

import ctypes
import ctypes.util
import os
import struct
import sys
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.cuda.driver.clock import EventClock
from labnet.kernels.cuda.driver.compiler import compiled
from labnet.kernels.cuda.driver.kernel import Launch
from labnet.stats import late

_OUT_OF_MEMORY, _UNSUPPORTED_PTX = 2, 222
_MULTIPROCESSORS, _MAJOR, _MINOR = 16, 75, 76
_BUFFER_POINTER, _BUFFER_SIZE, _END = 1, 2, 0
_ERROR_LOG, _ERROR_LOG_SIZE = 5, 6
#: Flag of an event without timing.
_UNTIMED = 2
#: Capture mode: memory may be allocated and kernels loaded while a graph is recorded.
_CAPTURE_RELAXED = 2
#: Bytes of an upload from which on it is synchronous; smaller ones copy their source and go on.
_SYNCHRONOUS = 1 << 18
#: Uploads under way whose sources are kept before a synchronization.
_KEPT = 256
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
        If there is no driver or no GPU, or if the driver returns an error.
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
        #: Held while a graph is recorded, by every call into the stream, and while a pending array is computed.
        self.stream_lock = threading.RLock()
        self._pid = os.getpid()
        self._uploading: list[np.ndarray[Any, Any]] = []
        self._lock = threading.Lock()
        self._recording: int | None = None  # the thread that records a graph
        self._marks: list[ctypes.c_void_p] = []  # unused events
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(after_in_child=self._forget)
        self.enter()
        name = ctypes.create_string_buffer(128)
        self._check("cuDeviceGetName", name, 128, self._device)
        self.name = name.value.decode()
        self.multiprocessors = self._attribute(_MULTIPROCESSORS)
        self.capability = (self._attribute(_MAJOR), self._attribute(_MINOR))
        self._check("cuStreamCreate", ctypes.byref(stream), 0)
        self.stream = stream
        #: Times launches.
        self.clock = EventClock(self._call, stream, self._attach)
        late.add(self.clock)
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

    def _call(self, function: str, *args: Any) -> int:
        """Call a function of the driver, and return its code."""
        code: int = getattr(self._library, function)(*args)
        return code

    def _check(self, function: str, *args: Any) -> None:
        code = self._call(function, *args)
        if code:
            self._refuse(function, code)

    def _refuse(self, function: str, code: int, log: str = "") -> None:
        text = ctypes.c_char_p()
        self._library.cuGetErrorString(code, ctypes.byref(text))
        reason = (text.value or b"unknown error").decode()
        raise DeviceError(f"device 'cuda': {function} failed with error {code}: {reason}{log and f' ({log})'}")

    def enter(self) -> None:
        """Make the context current in this thread, once no other thread records a graph."""
        if self._recording is not None and self._recording != threading.get_ident():
            with self.stream_lock:
                pass
        self._attach()

    def _attach(self) -> None:
        """Make the context current in this thread, also while another thread records a graph."""
        if not hasattr(self._entered, "done"):
            if os.getpid() != self._pid:
                raise DeviceError(
                    "device 'cuda' cannot be used in a forked process: start it with "
                    "multiprocessing.get_context('spawn')"
                )
            self._check("cuCtxSetCurrent", self._context)
            self._entered.done = True

    def issue(self, function: Callable[..., int], *args: Any) -> int:
        """Call a function that adds work to the stream, and return its code; time it if this thread asks for times."""
        if not hasattr(self._entered, "done"):
            self._attach()
        with self.stream_lock:
            started = self.clock.begin() if self.clock.asked and self._recording is None else None
            code = function(*args)
            if started is not None:
                self.clock.end(started, failed=bool(code))
        return code

    def _issue(self, function: str, *args: Any) -> None:
        code = self.issue(getattr(self._library, function), *args, self.stream)
        if code:
            self._refuse(function, code)

    def _forget(self) -> None:
        """Reset the state of threads in a forked child, where every call is refused."""
        self._entered = threading.local()
        self._lock, self.stream_lock, self._recording = threading.Lock(), threading.RLock(), None
        self._marks = []
        if hasattr(self, "clock"):
            self.clock.renew()

    def allocate(self, nbytes: int) -> int:
        """Return the address of fresh memory, or 0 where there is none left."""
        self.enter()  # allocation is allowed even if another thread begins to record now
        address = ctypes.c_uint64()
        code = self._library.cuMemAlloc_v2(ctypes.byref(address), ctypes.c_size_t(nbytes))
        if code == _OUT_OF_MEMORY:
            return 0
        if code:
            self._refuse("cuMemAlloc", code)
        return address.value

    def free(self, address: int) -> None:
        """Free memory after all work that uses it."""
        self._attach()
        with self.stream_lock:  # the driver may wait for the stream
            self._check("cuMemFree_v2", ctypes.c_uint64(address))

    def upload(self, address: int, source: np.ndarray[Any, Any]) -> None:
        """Copy a contiguous array to an address; its memory may be written again at once.

        A GPU that reads the memory of the host may still copy when the driver returns. So a large upload is waited for,
        and the source of a small one is copied and kept until the next synchronization.
        """
        self._attach()
        with self.stream_lock:
            waits = source.nbytes >= _SYNCHRONOUS and not self._capturing()
            kept = source if waits else source.copy()
            host, size = ctypes.c_void_p(kept.ctypes.data), ctypes.c_size_t(kept.nbytes)
            self._issue("cuMemcpyHtoDAsync_v2", ctypes.c_uint64(address), host, size)
            if not waits:
                with self._lock:
                    self._uploading.append(kept)
                waits = len(self._uploading) > _KEPT and not self._capturing()
        if waits:
            self.synchronize()

    def _capturing(self) -> bool:
        return self._recording is not None

    def download(self, target: np.ndarray[Any, Any], address: int) -> None:
        """Fill a contiguous array from an address."""
        self.synchronize()  # the driver returns after the copy, and other threads could not launch until then
        host, size = ctypes.c_void_p(target.ctypes.data), ctypes.c_size_t(target.nbytes)
        self._issue("cuMemcpyDtoHAsync_v2", host, ctypes.c_uint64(address), size)
        self.synchronize()

    def copy(self, target: int, source: int, nbytes: int) -> None:
        """Copy bytes from one address to another."""
        self._issue("cuMemcpyDtoDAsync_v2", ctypes.c_uint64(target), ctypes.c_uint64(source), ctypes.c_size_t(nbytes))

    def clear(self, address: int, nbytes: int) -> None:
        """Set bytes to zero."""
        self._issue("cuMemsetD8Async", ctypes.c_uint64(address), ctypes.c_ubyte(0), ctypes.c_size_t(nbytes))

    def kernel(self, source: str, types: Sequence[str]) -> Launch:
        """Compile and load the function ``kernel`` of a source."""
        self.enter()
        code = compiled(source, types, self.capability)
        module, function = self._loaded(code.ptx), ctypes.c_void_p()
        self._check("cuModuleGetFunction", ctypes.byref(function), module, ctypes.c_char_p(code.entry.encode()))
        self._modules.append(module)
        return self._launcher(function, types)

    def _loaded(self, ptx: str) -> ctypes.c_void_p:
        """Load a module of PTX; the log of the driver is part of the error."""
        module, log = ctypes.c_void_p(), ctypes.create_string_buffer(4096)
        options = (ctypes.c_int * 2)(_ERROR_LOG, _ERROR_LOG_SIZE)
        values = (ctypes.c_void_p * 2)(ctypes.addressof(log), len(log))
        text = ctypes.c_char_p(ptx.encode() + b"\0")
        code = self._library.cuModuleLoadDataEx(ctypes.byref(module), text, ctypes.c_uint(2), options, values)
        if code == _UNSUPPORTED_PTX:
            raise DeviceError(
                "device 'cuda': the NVIDIA driver is older than the compiler of kernels: update the driver, "
                "or install an older nvidia-nvvm"
            )
        if code:
            self._refuse("cuModuleLoadDataEx", code, log.value.decode(errors="replace").strip())
        return module

    def _launcher(self, function: ctypes.c_void_p, types: Sequence[str]) -> Launch:
        """Return a function that packs its arguments with one call of `struct` and launches with one of the driver."""
        packed = struct.Struct("@" + "".join("Q" if kind[0] == "p" else _FORMATS[kind] for kind in types))
        launch, stream, refuse = self._launch, self.stream.value, self._refuse
        pack, entered, stream_lock, clock = packed.pack_into, self._entered, self.stream_lock, self.clock
        # shared by launches, under the lock: the driver has copied the arguments when it returns
        given, length = ctypes.create_string_buffer(packed.size or 1), ctypes.c_size_t(packed.size)
        named = (ctypes.c_void_p * 5)(
            _BUFFER_POINTER, ctypes.addressof(given), _BUFFER_SIZE, ctypes.addressof(length), _END
        )
        extra, place = ctypes.addressof(named), function.value

        def call(grid: tuple[int, ...], block: tuple[int, ...], *args: Any) -> None:
            if not hasattr(entered, "done") or entered is not self._entered:
                self._attach()
            x, y, z = grid if len(grid) == 3 else (*grid, 1, 1)[:3]
            a, b, c = block if len(block) == 3 else (*block, 1, 1)[:3]
            with stream_lock:  # no other thread begins to record between these lines
                self.launches += 1
                started = clock.begin() if clock.asked and self._recording is None else None
                pack(given, 0, *args)
                code = launch(place, x, y, z, a, b, c, 0, stream, None, extra)
                if started is not None:
                    clock.end(started, failed=bool(code))
            if code:
                refuse("cuLaunchKernel", code)

        call.memory = given, length, named  # type: ignore[attr-defined]
        return call

    def synchronize(self) -> None:
        """Wait for all work that any thread has issued so far; errors inside kernels are raised here.

        Other threads may launch and record meanwhile.
        """
        self._attach()
        with self.stream_lock:
            if self._recording is not None:  # in this thread
                raise DeviceError("device 'cuda': cannot synchronize while launches are recorded")
            mark = self._marks.pop() if self._marks else self._made()
            self._check("cuEventRecord", mark, self.stream)
            with self._lock:  # uploads after this line belong to the next synchronization
                finished, self._uploading = self._uploading, []
        self._check("cuEventSynchronize", mark)
        self._marks.append(mark)
        finished.clear()

    def _made(self) -> ctypes.c_void_p:
        event = ctypes.c_void_p()
        self._check("cuEventCreate", ctypes.byref(event), ctypes.c_uint(_UNTIMED))
        return event

    def wait_for(self, stream: int | None) -> None:
        """Wait for the work of another library in its stream; 1 is the default one, which ours follows by itself.

        The stream of labnet is left alone, since it may be recorded at the time.
        """
        self._attach()
        if stream not in (None, 1, self.stream.value):
            self._check("cuStreamSynchronize", ctypes.c_void_p(stream))

    def memory(self) -> tuple[int, int]:
        """Return the free bytes and all bytes; allowed while a graph is recorded."""
        self._attach()
        free, total = ctypes.c_size_t(), ctypes.c_size_t()
        self._check("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value, total.value

    @contextmanager
    def captured(self) -> "Iterator[Callable[[], None]]":
        """Record the launches of the block as a graph, and yield a function that replays them afterwards.

        Memory that the launches use must be kept as long as the graph is replayed. Launches of other threads wait for
        the end of the block.
        """
        self.enter()
        graph, ready = ctypes.c_void_p(), ctypes.c_void_p()
        uploads: list[np.ndarray[Any, Any]] = []  # sources that every replay reads

        def replay() -> None:
            self._issue("cuGraphLaunch", ready)

        def release() -> None:
            self._library.cuGraphExecDestroy(ready)
            uploads.clear()

        with self.stream_lock:  # launches of other threads wait
            self._check("cuStreamBeginCapture_v2", self.stream, _CAPTURE_RELAXED)
            self._recording = threading.get_ident()
            with self._lock:
                before, self._uploading = self._uploading, []
            try:
                yield replay
            except BaseException:  # raised below, whatever the driver says of the unfinished graph
                self._library.cuStreamEndCapture(self.stream, ctypes.byref(graph))
                if graph.value:
                    self._library.cuGraphDestroy(graph)
                raise
            else:
                self._check("cuStreamEndCapture", self.stream, ctypes.byref(graph))
            finally:
                self._recording = None
                with self._lock:
                    uploads[:], self._uploading = self._uploading, before
        self._check("cuGraphInstantiateWithFlags", ctypes.byref(ready), graph, ctypes.c_uint64(0))
        self._check("cuGraphDestroy", graph)
        weakref.finalize(replay, release).atexit = False
