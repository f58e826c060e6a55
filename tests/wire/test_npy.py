"""NumPy's file format, judged by NumPy itself, and against everything that is malformed or would be executed."""

import contextlib
import io
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from labnet import npy
from labnet.errors import DTypeError, WireError

DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


def saved(array, version=(1, 0)):
    file = io.BytesIO()
    np.lib.format.write_array(file, np.asanyarray(array), version=version, allow_pickle=True)
    return file.getvalue()


def file_of(header, data=b"", version=(1, 0)):
    text = header.encode("latin-1")
    return b"\x93NUMPY" + bytes(version) + struct.pack("<H" if version == (1, 0) else "<I", len(text)) + text + data


def assert_same(found, array):
    assert (found.shape, found.dtype) == (array.shape, array.dtype.newbyteorder("="))
    np.testing.assert_array_equal(found, array)


@given(npst.arrays(st.sampled_from(DTYPES).map(np.dtype), npst.array_shapes(min_dims=0, min_side=0, max_side=4)))
def test_numpy_reads_what_we_write_and_we_read_what_numpy_writes(array):
    ours = b"".join(npy.encode(array))
    assert ours == saved(array)
    assert_same(np.load(io.BytesIO(ours), allow_pickle=False), array)
    assert_same(npy.decode(saved(array)), array)


@pytest.mark.parametrize("version", [(1, 0), (2, 0), (3, 0)])
@pytest.mark.parametrize("dtype", [">f4", ">i8", "<f8", "|b1", ">u2", ">f2"])
def test_every_version_and_byte_order_is_read(version, dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert_same(npy.decode(saved(array, version)), array)


def test_column_major_order_is_read():
    array = np.asfortranarray(np.arange(24, dtype="int32").reshape(2, 3, 4))
    data = saved(array)
    assert b"'fortran_order': True" in data
    assert_same(npy.decode(data), array)


@pytest.mark.parametrize("array", [np.arange(12).reshape(3, 4).T, np.arange(5)[::-1], np.arange(3, dtype=">i4")])
def test_any_order_of_memory_is_written(array):
    assert_same(np.load(io.BytesIO(b"".join(npy.encode(array))), allow_pickle=False), array)


@pytest.mark.parametrize("array", [np.array(["a"]), np.array([1j]), np.array([None]), np.zeros(1, "datetime64[s]")])
def test_what_is_no_plain_number_is_not_written(array):
    with pytest.raises(DTypeError, match="npy"):
        npy.encode(array)


def test_decoding_copies_nothing():
    buffer = np.frombuffer(saved(np.arange(1000.0)), "uint8")
    assert np.shares_memory(npy.decode(buffer.data), buffer)


GOOD = "{'descr': '<f4', 'fortran_order': False, 'shape': (1,), }"
MALFORMED = {
    "nothing": b"",
    "no magic": b"\x93NUMPX\x01\x00",
    "no version": b"\x93NUMPY",
    "version 4": file_of(GOOD, bytes(4), (4, 0)),
    "no length": b"\x93NUMPY\x01\x00",
    "header longer than the body": b"\x93NUMPY\x01\x00\xff\xff{}",
    "huge header": b"\x93NUMPY\x02\x00\xff\xff\xff\xff",
    "header over the bound": file_of(GOOD + " " * 10_001, bytes(4), (2, 0)),
    "no data": file_of(GOOD),
    "too little data": file_of(GOOD, bytes(3)),
    "too much data": file_of(GOOD, bytes(5)),
    "empty header": file_of("", bytes(4)),
    "no braces": file_of(GOOD[1:-1], bytes(4)),
    "no end": file_of(GOOD[:-1], bytes(4)),
    "text behind": file_of(GOOD + "+ 1", bytes(4)),
    "a call": file_of("__import__('os').abort()"),
    "a call as shape": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (abs(1),), }", bytes(4)),
    "a key twice": file_of("{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (1,), }", bytes(4)),
    "a key missing": file_of("{'descr': '<f4', 'shape': (1,), }", bytes(4)),
    "a key too many": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1,), 'x': (1,), }", bytes(4)),
    "a value of another key": file_of("{'descr': True, 'fortran_order': False, 'shape': (1,), }", bytes(4)),
    "a number as shape": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1), }", bytes(4)),
    "a negative shape": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }", bytes(4)),
    "commas": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1,,1), }", bytes(4)),
    "only a comma": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", bytes(4)),
    "numbers without a comma": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (1 1,), }", bytes(44)),
    "65 dimensions": file_of(f"{{'descr': '<f4', 'fortran_order': False, 'shape': ({'1, ' * 65}), }}", bytes(4)),
    "overflow": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 4), }"),
    "zero times huge": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (0, 9223372036854775807), }"),
    "a digit of another script": file_of("{'descr': '<f4', 'fortran_order': False, 'shape': (\xb2,), }", bytes(8)),
    "a bool of 2": file_of("{'descr': '|b1', 'fortran_order': False, 'shape': (1,), }", b"\x02"),
    "an object": saved(np.array([None])),
    "a record": saved(np.zeros(1, [("a", "f4")])),
    "text": saved(np.array(["ab"])),
    "complex": saved(np.array([1j])),
    "a date": saved(np.zeros(1, "datetime64[s]")),
    "long double": saved(np.zeros(1, "longdouble")),
    "a byte order that says nothing": file_of("{'descr': '|f4', 'fortran_order': False, 'shape': (1,), }", bytes(4)),
}


@pytest.mark.parametrize("name", MALFORMED)
def test_a_malformed_file_is_a_wire_error(name):
    with pytest.raises(WireError):
        npy.decode(MALFORMED[name])


@given(st.binary(max_size=200) | st.binary(max_size=100).map(lambda tail: file_of(GOOD)[:8] + tail))
def test_any_bytes_are_an_array_or_a_wire_error(data):
    with contextlib.suppress(WireError):
        assert npy.decode(data).nbytes <= len(data)


@given(st.integers(0, 127), st.integers(0, 255))
def test_a_flipped_byte_is_an_array_that_numpy_reads_too_or_a_wire_error(position, value):
    data = bytearray(saved(np.arange(16, dtype="int8")))
    data[position] = value
    try:
        found = npy.decode(bytes(data))
    except WireError:
        return
    assert_same(np.load(io.BytesIO(data), allow_pickle=False), found)
