"""The driver's functions, with the C types of their documentation, over the emulated GPU.

Work of a stream is done when it is waited for, not before: a copy whose memory of the host is gone by then, or
an address that was given back, shows. While a stream records, what would wait is refused and spoils the recording.
"""

import ctypes
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from tests.helpers.cuda.emulator.memory import CAPACITY, DeviceMemory, Fault
from tests.helpers.cuda.emulator.parser import kernels
from tests.helpers.cuda.emulator.threads import Function, launch

INVALID_VALUE, OUT_OF_MEMORY, INVALID_CONTEXT, ILLEGAL_STATE, NOT_READY = 1, 2, 201, 401, 600
INVALID_PTX, NOT_FOUND, INVALID_HANDLE, ILLEGAL_ADDRESS, UNKNOWN = 218, 500, 400, 700, 999
CAPTURE_UNSUPPORTED, CAPTURE_INVALIDATED = 900, 901
_TEXTS = {
    INVALID_VALUE: b"invalid argument",
    OUT_OF_MEMORY: b"out of memory",
    INVALID_CONTEXT: b"invalid device context",
    INVALID_PTX: b"a PTX JIT compilation failed",
    INVALID_HANDLE: b"invalid resource handle",
    NOT_FOUND: b"named symbol not found",
    NOT_READY: b"device not ready",
    ILLEGAL_ADDRESS: b"an illegal memory access was encountered",
    CAPTURE_UNSUPPORTED: b"operation not permitted when stream is capturing",
    CAPTURE_INVALIDATED: b"operation failed due to a previous error during capture",
    UNKNOWN: b"unknown error",
}
_CONTEXT, _STREAM = 0xC0FFEE, 0x57
_MULTIPROCESSORS = 2
_ATTRIBUTES = {16: _MULTIPROCESSORS, 75: 9, 76: 0}

_address, _size, _handle, _unsigned, _int = (
    ctypes.c_uint64, ctypes.c_size_t, ctypes.c_void_p, ctypes.c_uint, ctypes.c_int,
)  # fmt: skip
_handles, _ints, _sizes = ctypes.POINTER(_handle), ctypes.POINTER(_int), ctypes.POINTER(_size)
#: What belongs to a process, not to a context.
_WITHOUT_CONTEXT = (
    "cuInit", "cuDeviceGetCount", "cuDeviceGet", "cuDeviceGetName", "cuDeviceGetAttribute", "cuDevicePrimaryCtxRetain",
    "cuCtxSetCurrent", "cuGetErrorString",
)  # fmt: skip
#: What a program must not do while a stream records: it would have to wait for what has not begun.
_WAITS = ("cuStreamSynchronize", "cuMemFree_v2")


def _exported(name: str, *types: Any) -> Callable[[Any], Any]:
    """Say what function of the driver a method is, and the C types of its arguments."""

    def mark(method: Any) -> Any:
        method.exported = {**getattr(method, "exported", {}), name: types}
        return method

    return mark


class Refused(Exception):
    """The driver returns an error."""

    def __init__(self, code: int):
        super().__init__(code)
        self.code = code


@dataclass
class Event:
    """A place in a stream; `order` once it was reached."""

    recorded: bool = False
    order: int | None = None
    captured: bool = False


@dataclass
class State:
    """What a stream has to do, and what is recorded of it."""

    pending: list[Callable[[], None]] = field(default_factory=list)
    recording: list[Callable[[], None]] | None = None
    spoiled: bool = False


class Library:
    """Stands for ``libcuda.so.1``: its functions are attributes, called through `ctypes` as those are.

    Attributes
    ----------
    faults : list of Exception
        What kernels did wrong, in full.
    launches : int
        Kernels that ran.
    """

    def __init__(self) -> None:
        self.memory = DeviceMemory()
        self.faults: list[BaseException] = []
        self.launches = 0
        self._stream = State()
        self._lock = threading.RLock()
        self._thread = threading.local()
        self._things: dict[int, Any] = {}
        self._ticks = 0
        self._broken = False
        for method in list(vars(type(self)).values()):
            for name, types in getattr(method, "exported", {}).items():
                setattr(self, name, ctypes.CFUNCTYPE(_int, *types)(self._guarded(name, partial(method, self))))

    def _guarded(self, name: str, body: Callable[..., None]) -> Callable[..., int]:
        def call(*args: Any) -> int:
            try:
                with self._lock:
                    if name not in _WITHOUT_CONTEXT:
                        if not hasattr(self._thread, "context"):
                            return INVALID_CONTEXT
                        if self._broken:
                            return ILLEGAL_ADDRESS
                        if name in _WAITS and self._stream.recording is not None:
                            self._stream.spoiled = True
                            return CAPTURE_UNSUPPORTED
                    body(*args)
            except Refused as refused:
                return refused.code
            except Fault as fault:
                self.faults.append(fault)
                self._broken = True
                return ILLEGAL_ADDRESS
            except BaseException as error:  # nothing of Python gets through C
                self.faults.append(error)
                return UNKNOWN
            return 0

        return call

    def recover(self) -> None:
        """Forget what went wrong, as a new process would."""
        self.faults.clear()
        self._broken = False
        self._stream = State()

    def _add(self, thing: Any) -> int:
        number = 0x1000 + 16 * len(self._things)
        self._things[number] = thing
        return number

    def _get(self, handle: int | None, kind: type) -> Any:
        found = self._things.get(handle or 0)
        if not isinstance(found, kind):
            raise Refused(INVALID_HANDLE)
        return found

    def _on(self, stream: int | None) -> State:
        if stream != _STREAM:
            raise Refused(INVALID_HANDLE)
        return self._stream

    def _issue(self, stream: int | None, work: Callable[[], None]) -> None:
        state = self._on(stream)
        if state.recording is not None:
            state.recording.append(work)
        else:
            state.pending.append(work)

    def _finish(self) -> None:
        pending, self._stream.pending = self._stream.pending, []
        for work in pending:
            work()

    @_exported("cuInit", _unsigned)
    def _init(self, flags):
        if flags:
            raise Refused(INVALID_VALUE)

    @_exported("cuDeviceGetCount", _ints)
    def _device_get_count(self, count):
        count[0] = 1

    @_exported("cuDeviceGet", _ints, _int)
    def _device_get(self, device, ordinal):
        if ordinal:
            raise Refused(101)
        device[0] = 0

    @_exported("cuDeviceGetName", ctypes.c_void_p, _int, _int)
    def _device_get_name(self, name, length, device):
        ctypes.memmove(name, b"an emulated GPU\0", min(length, 16))

    @_exported("cuDeviceGetAttribute", _ints, _int, _int)
    def _device_get_attribute(self, value, attribute, device):
        value[0] = _ATTRIBUTES[attribute]

    @_exported("cuDevicePrimaryCtxRetain", _handles, _int)
    def _device_primary_ctx_retain(self, context, device):
        context[0] = _CONTEXT

    @_exported("cuCtxSetCurrent", _handle)
    def _ctx_set_current(self, context):
        if context != _CONTEXT:
            raise Refused(INVALID_CONTEXT)
        self._thread.context = context

    @_exported("cuGetErrorString", _int, ctypes.POINTER(ctypes.c_char_p))
    def _get_error_string(self, code, text):
        text[0] = _TEXTS.get(code, b"unknown error")

    @_exported("cuStreamCreate", _handles, _unsigned)
    def _stream_create(self, stream, flags):
        stream[0] = _STREAM

    @_exported("cuStreamSynchronize", _handle)
    def _stream_synchronize(self, stream):
        self._on(stream)
        self._finish()

    @_exported("cuStreamBeginCapture_v2", _handle, _int)
    def _stream_begin_capture(self, stream, mode):
        state = self._on(stream)
        if state.recording is not None:
            raise Refused(ILLEGAL_STATE)
        state.recording, state.spoiled = [], False

    @_exported("cuStreamEndCapture", _handle, _handles)
    def _stream_end_capture(self, stream, graph):
        state = self._on(stream)
        if state.recording is None:
            raise Refused(ILLEGAL_STATE)
        recording, state.recording = state.recording, None
        if state.spoiled:
            graph[0] = None
            raise Refused(CAPTURE_INVALIDATED)
        graph[0] = self._add(("graph", recording))

    @_exported("cuGraphInstantiateWithFlags", _handles, _handle, ctypes.c_ulonglong)
    def _graph_instantiate(self, ready, graph, flags):
        kind, recording = self._get(graph, tuple)
        if kind != "graph":
            raise Refused(INVALID_HANDLE)
        ready[0] = self._add(("ready", list(recording)))

    @_exported("cuGraphLaunch", _handle, _handle)
    def _graph_launch(self, ready, stream):
        kind, recording = self._get(ready, tuple)
        if kind != "ready":
            raise Refused(INVALID_HANDLE)
        for work in recording:
            self._issue(stream, work)

    @_exported("cuGraphExecDestroy", _handle)
    @_exported("cuGraphDestroy", _handle)
    def _graph_destroy(self, graph):
        self._get(graph, tuple)
        self._things[graph] = None

    @_exported("cuMemAlloc_v2", ctypes.POINTER(_address), _size)
    def _mem_alloc(self, address, nbytes):
        if not nbytes:
            raise Refused(INVALID_VALUE)
        found = self.memory.allocate(nbytes)
        if not found:
            raise Refused(OUT_OF_MEMORY)
        address[0] = found

    @_exported("cuMemFree_v2", _address)
    def _mem_free(self, address):
        self._finish()
        if not self.memory.free(address):
            raise Refused(INVALID_VALUE)

    @_exported("cuMemGetInfo_v2", _sizes, _sizes)
    def _mem_get_info(self, free, total):
        free[0], total[0] = CAPACITY - self.memory.used, CAPACITY

    @_exported("cuMemcpyHtoDAsync_v2", _address, ctypes.c_void_p, _size, _handle)
    def _memcpy_to_device(self, target, source, nbytes, stream):
        self._issue(stream, lambda: self._copy(self.memory.span(target, nbytes), _host(source, nbytes)))

    @_exported("cuMemcpyDtoHAsync_v2", ctypes.c_void_p, _address, _size, _handle)
    def _memcpy_to_host(self, target, source, nbytes, stream):
        self._issue(stream, lambda: self._copy(_host(target, nbytes), self.memory.span(source, nbytes)))

    @_exported("cuMemcpyDtoDAsync_v2", _address, _address, _size, _handle)
    def _memcpy_on_device(self, target, source, nbytes, stream):
        self._issue(stream, lambda: self._copy(self.memory.span(target, nbytes), self.memory.span(source, nbytes)))

    @staticmethod
    def _copy(target: np.ndarray, source: np.ndarray) -> None:
        target[...] = source

    @_exported("cuMemsetD8Async", _address, ctypes.c_ubyte, _size, _handle)
    def _memset(self, address, value, nbytes, stream):
        self._issue(stream, lambda: self.memory.span(address, nbytes).fill(value))

    @_exported("cuModuleLoadDataEx", _handles, ctypes.c_void_p, _unsigned, _ints, _handles)
    def _module_load(self, module, text, count, options, values):
        found = {}
        for name, kernel in kernels(ctypes.string_at(text).decode()).items():
            addresses: dict[str, Any] = {}
            sizes = {"shared": 0, "local": 0}
            for own, variable in kernel.variables.items():
                if variable.space in sizes:
                    start = -(-sizes[variable.space] // variable.alignment) * variable.alignment
                    sizes[variable.space] = start + variable.nbytes
                else:
                    start = self.memory.allocate(variable.nbytes)
                    content = np.frombuffer(variable.content.ljust(variable.nbytes, b"\0"), np.uint8)
                    self.memory.span(start, variable.nbytes)[...] = content
                addresses[own] = np.uint64(start)
            found[name] = Function(kernel, addresses, sizes["shared"], sizes["local"])
        module[0] = self._add(found)

    @_exported("cuModuleGetFunction", _handles, _handle, ctypes.c_char_p)
    def _module_get_function(self, function, module, name):
        found = self._get(module, dict).get(name.decode())
        if found is None:
            raise Refused(NOT_FOUND)
        function[0] = self._add(found)

    @_exported("cuLaunchKernel", _handle, *[_unsigned] * 7, _handle, _handles, _handles)
    def _launch_kernel(self, function, x, y, z, a, b, c, shared, stream, parameters, extra):
        found: Function = self._get(function, Function)
        if not (x and y and z and a and b and c) or a * b * c > 1024 or c > 64 or max(y, z) > 65_535 or shared:
            raise Refused(INVALID_VALUE)
        if parameters or [extra[0], extra[2], extra[4]] != [1, 2, None]:
            raise Refused(INVALID_VALUE)
        length = ctypes.cast(extra[3], _sizes)[0]
        if length != found.kernel.packed:
            raise Refused(INVALID_VALUE)
        given = ctypes.string_at(extra[1], length)

        def work() -> None:
            self.launches += 1
            launch(found, self.memory, (x, y, z), (a, b, c), given)

        self._issue(stream, work)

    @_exported("cuEventCreate", _handles, _unsigned)
    def _event_create(self, event, flags):
        event[0] = self._add(Event())

    @_exported("cuEventRecord", _handle, _handle)
    def _event_record(self, event, stream):
        found: Event = self._get(event, Event)
        found.recorded, found.order = True, None
        found.captured = self._on(stream).recording is not None

        def work() -> None:
            self._ticks += 1
            found.order = self._ticks

        self._issue(stream, work)

    @_exported("cuEventQuery", _handle)
    def _event_query(self, event):
        found = self._reachable(event)
        if found.recorded and found.order is None:  # time goes on while somebody asks
            self._proceed()
            raise Refused(NOT_READY)

    @_exported("cuEventSynchronize", _handle)
    def _event_synchronize(self, event):
        found = self._reachable(event)
        while found.recorded and found.order is None:
            self._proceed()

    def _reachable(self, handle):
        """Return an event; one that is only recorded never comes."""
        found: Event = self._get(handle, Event)
        if found.captured:
            self._stream.spoiled = True
            raise Refused(CAPTURE_UNSUPPORTED)
        return found

    def _proceed(self) -> None:
        """Do the next thing that the stream has to do."""
        if self._stream.pending:
            self._stream.pending.pop(0)()

    @_exported("cuEventDestroy_v2", _handle)
    def _event_destroy(self, event):
        self._get(event, Event)
        self._things[event] = None

    @_exported("cuEventElapsedTime_v2", ctypes.POINTER(ctypes.c_float), _handle, _handle)
    @_exported("cuEventElapsedTime", ctypes.POINTER(ctypes.c_float), _handle, _handle)
    def _event_elapsed_time(self, milliseconds, start, end):
        first, second = self._get(start, Event), self._get(end, Event)
        if not (first.recorded and second.recorded) or first.captured or second.captured:
            raise Refused(INVALID_HANDLE)
        if first.order is None or second.order is None:
            raise Refused(NOT_READY)
        milliseconds[0] = 0.001 * (second.order - first.order)


def _host(address: int, nbytes: int) -> np.ndarray:
    """Return memory of the host."""
    return np.frombuffer((ctypes.c_ubyte * nbytes).from_address(address), np.uint8)
