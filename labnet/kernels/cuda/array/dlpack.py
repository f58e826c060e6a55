"""DLPack on a GPU: arrays exported to other libraries and imported from them without a copy.

The layout of the structures is that of DLPack's header ``dlpack.h``, versions 0.x (``DLManagedTensor``) and 1.x
(``DLManagedTensorVersioned``). Their memory lives until the consumer calls the deleter.
"""

import ctypes
from typing import Any

import numpy as np

from labnet.errors import DTypeError
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS

CUDA = 2  # kDLCUDA
_VERSION = (1, 0)
_READ_ONLY = 1
_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
_OLD, _NEW = b"dltensor", b"dltensor_versioned"
_USED = {_OLD: b"used_dltensor", _NEW: b"used_dltensor_versioned"}


class _Tensor(ctypes.Structure):
    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_Deleter = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Managed(ctypes.Structure):
    """``DLManagedTensor``."""

    _fields_ = (("tensor", _Tensor), ("context", ctypes.c_void_p), ("deleter", _Deleter))


class Versioned(ctypes.Structure):
    """``DLManagedTensorVersioned``."""

    _fields_ = (
        ("major", ctypes.c_uint32),
        ("minor", ctypes.c_uint32),
        ("context", ctypes.c_void_p),
        ("deleter", _Deleter),
        ("flags", ctypes.c_uint64),
        ("tensor", _Tensor),
    )


_api = ctypes.pythonapi
_api.PyCapsule_New.restype = ctypes.py_object
_api.PyCapsule_New.argtypes = [ctypes.c_void_p, ctypes.c_char_p, ctypes.c_void_p]
_api.PyCapsule_IsValid.restype = ctypes.c_int
_api.PyCapsule_IsValid.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_GetPointer.restype = ctypes.c_void_p
_api.PyCapsule_GetPointer.argtypes = [ctypes.py_object, ctypes.c_char_p]
_api.PyCapsule_SetName.restype = ctypes.c_int
_api.PyCapsule_SetName.argtypes = [ctypes.py_object, ctypes.c_char_p]

#: Exported arrays by the address of their structure: the structure, its shape and strides, and the array.
_exported: dict[int, tuple[Any, ...]] = {}


def _forget(address: int | None) -> None:
    """Release an array that its consumer has deleted."""
    if address is not None:
        _exported.pop(address, None)


_delete = _Deleter(_forget)

# A destructor gets a borrowed reference that must not be touched: the object is being deleted.
_Destructor = ctypes.PYFUNCTYPE(None, ctypes.c_void_p)
_valid = ctypes.PYFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.c_void_p, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _drop(capsule: int) -> None:
    """Release the array of a capsule that was not consumed; consuming changes its name."""
    for name in (_OLD, _NEW):
        if _valid(capsule, name):
            _exported.pop(_pointer(capsule, name), None)


_destructor = _Destructor(_drop)


def capsule(array: DeviceArray, *, stream: int | None, max_version: tuple[int, int] | None, read_only: bool) -> Any:
    """Return a capsule that describes an array.

    Parameters
    ----------
    stream : int, optional
        The consumer's; -1 if it orders the work itself. The default stream follows that of labnet; for any other stream
        the work of labnet's stream is waited for.
    max_version : (int, int), optional
        Version that the consumer knows; by default a structure of version 0, which cannot say "read only".

    Raises
    ------
    BufferError
        If this is the simulator, whose memory no other library can read.
    """
    gpu = current_gpu()
    if gpu.simulated:
        raise BufferError("__dlpack__: the simulator has no memory that others can reach: use .to('cpu')")
    layout, address = array.layout, array.address
    if stream not in (-1, None, 1):
        gpu.synchronize()
    numbers = ctypes.c_int64 * max(1, array.ndim)
    shape = numbers(*array.shape)
    strides = numbers(*(stride // array.itemsize for stride in layout.strides))
    tensor = _Tensor(
        address if array.size else None,
        *(CUDA, 0, array.ndim),
        *(_CODES[array.dtype.kind], 8 * array.itemsize, 1),
        *(shape, strides, 0),
    )
    owned: Managed | Versioned
    if max_version is not None and max_version[0] >= 1:
        name = _NEW
        owned = Versioned(*_VERSION, None, _delete, _READ_ONLY if read_only else 0, tensor)
    else:
        name = _OLD
        owned = Managed(tensor, None, _delete)
    where = ctypes.addressof(owned)
    _exported[where] = (owned, shape, strides, array)
    return _api.PyCapsule_New(where, name, ctypes.cast(_destructor, ctypes.c_void_p))


class Consumed:
    """Memory of another library; calls its deleter with the last reference."""

    __slots__ = ("_address", "_deleter")

    def __init__(self, address: int, deleter: Any):
        self._address, self._deleter = address, deleter

    def __del__(self) -> None:
        if self._deleter:
            self._deleter(self._address)


def unpacked(owner: Any) -> tuple[int, tuple[int, ...], tuple[int, ...] | None, Any, bool, Consumed]:
    """Return address, shape, strides in bytes, dtype, whether it is read only, and the owner of a library's array.

    Raises
    ------
    BufferError
        If it is not on the first GPU.
    DTypeError
        If labnet has no such dtype.
    """
    kind, ordinal = owner.__dlpack_device__()
    if (int(kind), int(ordinal)) != (CUDA, 0):
        raise BufferError(f"from_dlpack: expected an array on the first GPU, got device {(int(kind), int(ordinal))}")
    try:
        given = owner.__dlpack__(stream=1, max_version=_VERSION)
    except TypeError:  # a library with DLPack 0
        given = owner.__dlpack__(stream=1)
    return opened(given)


def opened(given: Any) -> tuple[int, tuple[int, ...], tuple[int, ...] | None, Any, bool, Consumed]:
    """Consume a capsule, and return what `unpacked` does."""
    name = next((name for name in (_NEW, _OLD) if _api.PyCapsule_IsValid(given, name)), None)
    if name is None:
        raise BufferError("from_dlpack: expected a capsule of DLPack that was not consumed")
    address = _api.PyCapsule_GetPointer(given, name)
    kind = Versioned if name == _NEW else Managed
    managed = kind.from_address(address)
    if isinstance(managed, Versioned) and managed.major != _VERSION[0]:
        raise BufferError(f"from_dlpack: expected DLPack 1, got {managed.major}.{managed.minor}")
    _api.PyCapsule_SetName(given, _USED[name])  # consumed: labnet calls the deleter from here on
    kept = Consumed(address, managed.deleter)
    tensor = managed.tensor
    letter = {code: letter for letter, code in _CODES.items()}.get(tensor.code)
    try:
        dtype = np.dtype(bool if letter == "b" else f"{letter}{tensor.bits // 8}")
    except TypeError:
        dtype = np.dtype(object)
    if tensor.lanes != 1 or (dtype not in CASTS and dtype.kind != "b"):
        raise DTypeError(
            f"from_dlpack: cannot make a tensor of DLPack's type {tensor.code} with {tensor.bits} bits and "
            f"{tensor.lanes} lanes: expected one of {', '.join(map(str, CASTS))}"
        )
    shape = tuple(tensor.shape[i] for i in range(tensor.ndim))
    strides = tuple(tensor.strides[i] * dtype.itemsize for i in range(tensor.ndim)) if tensor.strides else None
    read_only = isinstance(managed, Versioned) and bool(managed.flags & _READ_ONLY)
    return (tensor.data or 0) + tensor.byte_offset, shape, strides, dtype, read_only, kept
