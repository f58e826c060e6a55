"""Capsules of DLPack: what is in them, how long it lives, and what is refused."""

import ctypes
import gc
import struct
import weakref
from types import SimpleNamespace

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError
from labnet.kernels.cuda.array import dlpack, interchange
from labnet.kernels.cuda.array.array import DeviceArray
from tests.helpers.cuda.device_arrays import DTYPES, SIMULATED, assert_same, drawn

NAMES = {None: b"dltensor", (1, 0): b"dltensor_versioned"}


@pytest.fixture
def waits(monkeypatch):
    """The calls that wait for the GPU, of a machine that says that it is one."""
    waited = []
    gpu = SimpleNamespace(simulated=False, synchronize=lambda: waited.append("all"))
    monkeypatch.setattr(dlpack, "current_gpu", lambda: gpu)
    return waited


def exported(array, *, max_version=None, stream=None, read_only=False):
    return dlpack.capsule(array, stream=stream, max_version=max_version, read_only=read_only)


def raw(capsule, version):
    """Read a structure byte by byte, as dlpack.h has it."""
    pointer = ctypes.pythonapi.PyCapsule_GetPointer
    pointer.restype, pointer.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
    address = pointer(capsule, NAMES[version])
    if version is None:
        tensor = struct.unpack("@Piii BBH PPQ", ctypes.string_at(address, 48))
        return None, tensor
    head = struct.unpack("@II P P Q", ctypes.string_at(address, 32))
    return head, struct.unpack("@Piii BBH PPQ", ctypes.string_at(address + 32, 48))


@pytest.mark.parametrize("version", NAMES)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_capsule_tells_where_an_array_lies(waits, version, dtype):
    array = DeviceArray.upload(drawn((3, 4), dtype)).T[1:]
    head, tensor = raw(exported(array, max_version=version, read_only=True), version)
    data, kind, ordinal, ndim, code, bits, lanes, shape, strides, offset = tensor
    assert (data, kind, ordinal, ndim, lanes, offset) == (array.address, 2, 0, 2, 1, 0)
    assert (code, bits) == ({"i": 0, "u": 1, "f": 2, "b": 6}[array.dtype.kind], 8 * array.itemsize)
    assert struct.unpack("2q", ctypes.string_at(shape, 16)) == (3, 3)
    assert struct.unpack("2q", ctypes.string_at(strides, 16)) == (1, 4)
    if version:
        assert head[:2] == (1, 0)
        assert head[4] == 1


@pytest.mark.parametrize("version", NAMES)
def test_the_array_lives_until_the_consumer_is_done(waits, version):
    array = DeviceArray.upload(drawn((3,), "float32"))
    alive = weakref.ref(array)
    address, *_, read_only, kept = dlpack.opened(exported(array, max_version=version))
    assert address == array.address
    assert not read_only
    del array
    gc.collect()
    assert alive() is not None
    del kept
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("version", NAMES)
def test_a_capsule_that_is_not_consumed_keeps_nothing(waits, version):
    array = DeviceArray.upload(drawn((3,), "float32"))
    alive = weakref.ref(array)
    capsule = exported(array, max_version=version)
    del array, capsule
    gc.collect()
    assert alive() is None


def test_a_capsule_is_consumed_once(waits):
    capsule = exported(DeviceArray.upload(drawn((3,), "float32")))
    kept = dlpack.opened(capsule)
    with pytest.raises(BufferError, match="not consumed"):
        dlpack.opened(capsule)
    assert kept[1] == (3,)


@pytest.mark.parametrize(("stream", "waited"), [(None, []), (1, []), (-1, []), (2, ["all"]), (123456, ["all"])])
def test_the_stream_of_the_consumer_decides_who_waits(waits, stream, waited):
    exported(DeviceArray.upload(drawn((3,), "float32")), stream=stream)
    assert waits == waited


class Foreign:
    """An array of another library, which lies in the memory of one of ours."""

    def __init__(self, array, *, new=True, device=(2, 0), read_only=False):
        self.array, self.new, self.device, self.read_only = array, new, device, read_only

    def __dlpack_device__(self):
        return self.device

    def __dlpack__(self, *, stream, **named):
        if named and not self.new:
            raise TypeError("__dlpack__() got an unexpected keyword argument 'max_version'")
        return exported(self.array, stream=stream, read_only=self.read_only, **named)


@pytest.mark.parametrize("new", [True, False])
@pytest.mark.parametrize("dtype", ["float16", "float64", "int8", "bool"])
def test_arrays_of_other_libraries_are_taken_without_a_copy(waits, new, dtype):
    array = DeviceArray.upload(drawn((3, 4), dtype))[::2, ::-1]
    found = ln.from_dlpack(Foreign(array, new=new))
    assert found.device == "cuda"
    assert found.array.address == array.address
    assert_same(found, array.host())
    assert_same(found + found, array.host() + array.host())


def test_what_is_read_only_is_copied(waits):
    array = DeviceArray.upload(drawn((3,), "float32"))
    found = ln.from_dlpack(Foreign(array, read_only=True))
    assert found.array.address != array.address
    assert_same(found, array.host())


def test_writing_does_not_reach_the_memory_of_others(waits):
    array = DeviceArray.upload(np.zeros(3))
    found = ln.from_dlpack(Foreign(array))
    found[0] = 7.0
    assert found.tolist() == [7.0, 0.0, 0.0]
    assert array.tolist() == [0.0, 0.0, 0.0]


def test_memory_of_others_counts_as_far_as_its_strides_reach():
    array = DeviceArray.upload(np.arange(12.0))
    found = interchange.borrowed(array[10:].address, (3,), (-40,), np.dtype("float64"), array)
    block = found._block
    assert block.address == array.address
    assert block.nbytes == 88
    assert found.tolist() == [10.0, 5.0, 0.0]


@pytest.mark.parametrize("device", [(1, 0), (2, 1), (13, 0)])
def test_other_devices_are_refused(waits, device):
    with pytest.raises(BufferError, match="first GPU"):
        dlpack.unpacked(Foreign(DeviceArray.upload(drawn((3,), "float32")), device=device))


def test_dtypes_that_labnet_lacks_are_refused_and_given_back(waits, monkeypatch):
    array = DeviceArray.upload(drawn((3,), "float32"))
    alive = weakref.ref(array)
    monkeypatch.setitem(dlpack._CODES, "f", 4)  # bfloat16
    capsule = exported(array)
    monkeypatch.undo()
    with pytest.raises(DTypeError, match="type 4 with 32 bits"):
        dlpack.opened(capsule)
    del array, capsule
    gc.collect()
    assert alive() is None


class Described:
    """An array of another library that tells of itself as Numba does."""

    def __init__(self, **told):
        self.__cuda_array_interface__ = {"version": 3, "strides": None, **told}


def test_elements_that_lie_backwards_are_copied_and_have_no_array_interface(waits):
    x = ln.asarray(drawn((3, 4), "float32"), device="cuda")[::-1]
    _, tensor = raw(x.__dlpack__(max_version=(1, 0)), (1, 0))
    assert struct.unpack("2q", ctypes.string_at(tensor[8], 16)) == (4, 1)
    assert tensor[0] != x.array.address
    with pytest.raises(BufferError, match="need a copy"):
        x.__dlpack__(max_version=(1, 0), copy=False)
    with pytest.raises(AttributeError, match=r"got strides \(-16, 4\)"):
        x.__cuda_array_interface__  # noqa: B018


def test_the_cuda_array_interface_is_understood():
    array = DeviceArray.upload(drawn((2, 3), "float32"))
    told = {"shape": (2, 3), "typestr": "<f4", "data": (array.address, False)}
    found = ln.asarray(Described(**told))
    assert found.device == "cuda"
    assert found.array.address == array.address
    assert_same(found, array.host())
    assert_same(ln.asarray(Described(**{**told, "shape": (3,), "strides": (8,)})), array.host().ravel()[::2])
    assert ln.asarray(Described(**{**told, "data": (array.address, True)})).array.address != array.address
    assert ln.asarray(Described(**{**told, "shape": (0, 3), "data": (0, False)})).shape == (0, 3)
    for wrong in ({"typestr": ">f4"}, {"typestr": "<c8"}, {"mask": object()}):
        with pytest.raises(DTypeError):
            ln.asarray(Described(**{**told, **wrong}))


@pytest.mark.skipif(not SIMULATED, reason="a GPU shares its memory")
def test_the_simulator_has_no_memory_to_share():
    x = ln.ones(2, device="cuda")
    assert not hasattr(x, "__cuda_array_interface__")
    assert not hasattr(x.to("cpu"), "__cuda_array_interface__")
    with pytest.raises(BufferError, match="simulator"):
        x.__dlpack__()
    with pytest.raises(BufferError, match="was asked for"):
        x.__dlpack__(dl_device=(1, 0))
    assert x.__dlpack_device__() == (2, 0)
