"""The layout of messages: judged by the safetensors library, and against everything that is malformed."""

import contextlib
import json
import struct

import numpy as np
import pytest
import safetensors.numpy
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from labnet import codec, wire
from labnet.errors import DTypeError, WireError

DTYPES = sorted(map(str, codec.NAMES.values()))


def encode(arrays, metadata=None):
    return b"".join(codec.encode(arrays, metadata))


def message(header, data=b""):
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(1,), offsets=(0, 4)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def assert_same(a, b):
    assert a.shape == b.shape
    assert a.dtype == b.dtype.newbyteorder("=")
    np.testing.assert_array_equal(a, b)


SAMPLES = {
    "0-d": np.array(2.5, "float32"),
    "empty": np.empty((0, 3), "float64"),
    "empty in the middle": np.empty((2, 0, 3), "int8"),
    "a column": np.arange(12, dtype="int32").reshape(3, 4)[:, 1],
    "transposed": np.arange(12, dtype="float32").reshape(3, 4).T,
    "reversed": np.arange(5, dtype="int16")[::-1],
    "broadcast": np.broadcast_to(np.float64(3), (2, 3)),
    "read-only": np.frombuffer(b"abcd", "uint8"),
    "64 dimensions": np.ones((1,) * 64, "float32"),
}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_library_reads_what_we_write(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    assert_same(safetensors.numpy.load(encode({"x": array}))["x"], array)


@pytest.mark.parametrize("dtype", DTYPES)
def test_we_read_what_the_library_writes(dtype):
    array = np.arange(6).reshape(2, 3).astype(dtype)
    arrays, metadata = codec.decode(safetensors.numpy.save({"x": array}, {"k": "v"}))
    assert_same(arrays["x"], array)
    assert metadata == {"k": "v"}


@pytest.mark.parametrize("name", SAMPLES)
def test_the_library_reads_every_memory_layout(name):
    assert_same(safetensors.numpy.load(encode({"x": SAMPLES[name]}))["x"], SAMPLES[name])


@pytest.mark.parametrize("name", SAMPLES)
def test_every_memory_layout_comes_back(name):
    assert_same(codec.decode(encode({"x": SAMPLES[name]}))[0]["x"], SAMPLES[name])


@pytest.mark.parametrize("dtype", [">i2", ">u4", ">i8", ">f2", ">f4", ">f8"])
def test_big_endian_arrays_keep_their_values(dtype):
    array = np.array([1, 2, 300], dtype)
    assert_same(safetensors.numpy.load(encode({"x": array}))["x"], array)


@pytest.mark.parametrize("dtype", ["complex64", "S3", "U2", "O", "M8[s]", "longdouble", [("a", "f4")]])
def test_other_dtypes_are_refused_by_name(dtype):
    array = np.empty(1, dtype)
    with pytest.raises(DTypeError, match="'x'"):
        codec.encode({"x": array})


@given(
    st.dictionaries(
        st.text(max_size=8).filter(lambda name: name != "__metadata__"),
        st.sampled_from(DTYPES).flatmap(lambda d: npst.arrays(d, npst.array_shapes(min_dims=0, min_side=0))),
        max_size=5,
    ),
    st.dictionaries(st.text(max_size=5), st.text(max_size=5), max_size=3),
)
def test_decode_is_the_inverse_of_encode(arrays, metadata):
    decoded, found = codec.decode(encode(arrays, metadata))
    assert decoded.keys() == arrays.keys()
    for name, array in arrays.items():
        assert_same(decoded[name], array)
    assert found == metadata


def test_decoding_copies_nothing():
    buffer = np.frombuffer(encode({"a": np.ones(100, "float32"), "b": np.ones(3, "int8")}), "uint8")
    arrays, _ = codec.decode(buffer.data)
    assert all(np.shares_memory(array, buffer) for array in arrays.values())


def test_encoding_a_contiguous_array_copies_nothing():
    array = np.ones(1000, "float32")
    _, data = codec.encode({"x": array})
    assert np.shares_memory(np.frombuffer(data, "uint8"), array)


def test_arrays_of_mixed_width_are_all_aligned_in_the_buffer():
    arrays = {"a": np.ones(3, "int8"), "b": np.ones(3, "float64"), "c": np.ones(3, "int16")}
    buffer = np.frombuffer(encode(arrays), "uint8")
    decoded, _ = codec.decode(buffer.data)
    assert all(np.shares_memory(array, buffer) and array.flags.aligned for array in decoded.values())


def test_misaligned_data_is_read_correctly():
    header = json.dumps({"x": entry(shape=(2,), offsets=(0, 8))}).encode()
    header += b" " * (7 - len(header) % 8)
    array = codec.decode(message(header, np.array([1.5, -2.0], "<f4").tobytes()))[0]["x"]
    assert array.flags.aligned
    assert array.tolist() == [1.5, -2.0]


def test_names_keep_the_order_of_the_sender():
    arrays = {"z": np.ones(1, "int8"), "a": np.ones(1, "float64"), "m": np.ones(1, "int16")}
    assert list(codec.decode(encode(arrays))[0]) == ["z", "a", "m"]


def test_a_tensor_cannot_take_the_name_of_the_metadata():
    with pytest.raises((WireError, ValueError), match="__metadata__"):
        codec.encode({"__metadata__": np.ones(1, "float32")}, {"k": "v"})


VALID = encode({"a": np.arange(3, dtype="float32"), "b": np.array([True, False])}, {"form": "dict"})

HOSTILE = {
    "nothing": b"",
    "seven bytes": b"\0" * 7,
    "header length only": struct.pack("<Q", 2),
    "no JSON": message(b""),
    "truncated data": VALID[:-1],
    "truncated header": VALID[:20],
    "one byte too many": VALID + b"\0",
    "header longer than the message": struct.pack("<Q", 1000) + b"{}",
    "header length of 2**63": struct.pack("<Q", 1 << 63) + b"{}",
    "header length of 2**64 - 1": struct.pack("<Q", (1 << 64) - 1) + b"{}",
    "header over the cap": message(b"{}" + b" " * (1 << 20)),
    "not UTF-8": message(b'{"\xff": 1}'),
    "UTF-16": message("{}".encode("utf-16")),
    "byte order mark": message(b"\xef\xbb\xbf{}"),
    "a pickle": b"\x80\x04\x95\x0e\x00\x00\x00\x00\x00\x00\x00\x8c\x05posix\x94.",
    "a zip file": b"PK\x03\x04" + b"\0" * 60,
    "a list": message([]),
    "a number": message(b"1"),
    "null": message(b"null"),
    "two documents": message(b"{}{}"),
    "comment": message(b"{}//"),
    "nested 100,000 deep": message(b"[" * 100_000),
    "nested objects": message(b'{"a":' * 50_000),
    "NaN": message(b'{"x": NaN}'),
    "Infinity in a shape": message(b'{"x":{"dtype":"F32","shape":[Infinity],"data_offsets":[0,4]}}', b"\0" * 4),
    "integer of 5,000 digits": message(
        b'{"x":{"dtype":"F32","shape":[%s],"data_offsets":[0,4]}}' % (b"9" * 5000), b"\0" * 4
    ),
    "number with an exponent": message(b'{"x":{"dtype":"F32","shape":[1e0],"data_offsets":[0,4]}}', b"\0" * 4),
    "duplicate tensor": message(
        b'{"x":%s,"x":%s}' % ((json.dumps(entry()).encode(),) * 2),
        b"\0" * 4,
    ),
    "duplicate by escape": message(
        b'{"x":%s,"\\u0078":%s}' % ((json.dumps(entry()).encode(),) * 2),
        b"\0" * 4,
    ),
    "duplicate key in an entry": message(
        b'{"x":{"dtype":"F32","dtype":"F32","shape":[1],"data_offsets":[0,4]}}', b"\0" * 4
    ),
    "overlap": message({"x": entry(), "y": entry()}, b"\0" * 4),
    "partial overlap": message({"x": entry(), "y": entry(offsets=(2, 6))}, b"\0" * 6),
    "hole at the start": message({"x": entry(offsets=(4, 8))}, b"\0" * 8),
    "hole in the middle": message({"x": entry(), "y": entry(offsets=(8, 12))}, b"\0" * 12),
    "hole at the end": message({"x": entry()}, b"\0" * 8),
    "data without tensors": message({}, b"\0"),
    "beyond the data": message({"x": entry(offsets=(0, 4))}, b"\0" * 3),
    "backwards": message({"x": entry(offsets=(4, 0))}, b"\0" * 4),
    "negative offset": message({"x": entry(offsets=(-4, 0))}, b"\0" * 4),
    "offset of 2**64": message({"x": entry(offsets=(0, 1 << 64))}, b"\0" * 4),
    "one offset": message({"x": entry(offsets=(0,))}, b"\0" * 4),
    "three offsets": message({"x": entry(offsets=(0, 4, 4))}, b"\0" * 4),
    "shape too small": message({"x": entry(shape=(2,))}, b"\0" * 4),
    "negative length": message({"x": entry(shape=(-1,))}, b"\0" * 4),
    "two negative lengths": message({"x": entry(shape=(-1, -1))}, b"\0" * 4),
    "overflow to the right size": message({"x": entry(shape=(1 << 32, 1 << 32, 1))}, b""),
    "overflow to one element": message({"x": entry(shape=(3, 0x5555555555555556), offsets=(0, 8))}, b"\0" * 8),
    "zero times huge": message({"x": entry(shape=(0, 1 << 62, 1 << 62), offsets=(0, 0))}),
    "zero times 2**63": message({"x": entry(shape=(0, 1 << 63), offsets=(0, 0))}),
    "65 dimensions": message({"x": entry(shape=(1,) * 65)}, b"\0" * 4),
    "a hundred thousand dimensions": message({"x": entry(shape=(1,) * 100_000)}, b"\0" * 4),
    "a million dimensions": message({"x": entry(shape=(1,) * 1_000_000)}, b"\0" * 4),
    "true as a length": message({"x": entry(shape=(True,))}, b"\0" * 4),
    "text as a length": message({"x": entry(shape=("1",))}, b"\0" * 4),
    "1.0 as a length": message({"x": entry(shape=(1.0,))}, b"\0" * 4),
    "null as a shape": message({"x": {**entry(), "shape": None}}, b"\0" * 4),
    "object as a shape": message({"x": {**entry(), "shape": {}}}, b"\0" * 4),
    "true as an offset": message({"x": entry(shape=(), dtype="I8", offsets=(0, True))}, b"\0"),
    "unknown dtype": message({"x": entry(dtype="F31")}, b"\0" * 4),
    "NumPy's name of a dtype": message({"x": entry(dtype="float32")}, b"\0" * 4),
    "object dtype": message({"x": entry(dtype="O", offsets=(0, 8))}, b"\0" * 8),
    "list as a dtype": message({"x": entry(dtype=["F32"])}, b"\0" * 4),
    "missing field": message({"x": {"dtype": "F32", "shape": [1]}}, b"\0" * 4),
    "additional field": message({"x": {**entry(), "stride": 1}}, b"\0" * 4),
    "entry is a list": message({"x": ["F32", [1], [0, 4]]}, b"\0" * 4),
    "entry is null": message({"x": None}),
    "metadata is a list": message({"__metadata__": []}),
    "metadata of numbers": message({"__metadata__": {"a": 1}}),
    "metadata is a tensor": message({"__metadata__": entry()}, b"\0" * 4),
    "bool of 2": message({"x": entry(dtype="BOOL", shape=(2,), offsets=(0, 2))}, b"\1\2"),
    "bool of 255": message({"x": entry(dtype="BOOL", offsets=(0, 1))}, b"\xff"),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_malformed_message_is_a_wire_error(name):
    with pytest.raises(WireError):
        codec.decode(HOSTILE[name])


def test_the_error_for_a_huge_name_is_short():
    with pytest.raises(WireError) as caught:
        codec.decode(message({"x" * 100_000: entry(offsets=(4, 8))}, b"\0" * 8))
    assert len(str(caught.value)) < 1000


def attempt(decode, data):
    with contextlib.suppress(WireError):
        decode(data)


@given(st.binary(max_size=300))
@example(b"")
def test_random_bytes_raise_nothing_but_wire_errors(data):
    attempt(codec.decode, data)
    attempt(wire.decode_native, data)
    attempt(wire.decode_json, data)


@given(st.binary(max_size=200), st.binary(max_size=30))
def test_a_random_header_raises_nothing_but_wire_errors(text, data):
    attempt(wire.decode_native, message(text, data))


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["F32", "BOOL", "x"])
    | st.text(max_size=4),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["dtype", "shape", "data_offsets", "__metadata__", "x"]), inner, max_size=4)
    ),
    max_leaves=12,
)


@given(
    st.dictionaries(st.sampled_from(["x", "y", "__metadata__", "\ud800"]), JSON_VALUES, max_size=3),
    st.binary(max_size=9),
)
def test_a_header_of_wrong_types_raises_nothing_but_wire_errors(header, data):
    attempt(wire.decode_native, message(header, data))


@settings(max_examples=300)
@given(st.data())
def test_mutations_of_a_valid_message_raise_nothing_but_wire_errors(data):
    mutated = bytearray(VALID)
    for _ in range(data.draw(st.integers(1, 4))):
        position = data.draw(st.integers(0, len(mutated)))
        replaced = data.draw(st.integers(0, 3))
        mutated[position : position + replaced] = data.draw(st.binary(max_size=3))
    attempt(wire.decode_native, bytes(mutated))


# bfloat16: in the bytes only


def test_bfloat16_is_read_as_the_same_numbers_in_float32():
    data = struct.pack("<4H", 0x3F80, 0xC000, 0x7F80, 0x0001)
    arrays, _ = codec.decode(message({"x": entry("BF16", (2, 2), (0, 8))}, data))
    assert arrays["x"].dtype == np.float32
    assert arrays["x"].tolist() == [[1.0, -2.0], [float("inf"), 2.0**-133]]


@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 0, 3), (2, 3)])
def test_what_is_a_bfloat16_comes_back_from_bfloat16_unchanged(shape):
    array = np.full(shape, -1.5, "float32")
    data = encode({"x": array}) if not array.nbytes else b"".join(codec.encode({"x": array}, bfloat16=True))
    assert_same(codec.decode(data)[0]["x"], array)


@given(npst.arrays("float32", 4, elements=st.floats(width=32)))
def test_rounding_to_bfloat16_is_to_the_nearest_and_to_even(array):
    import ml_dtypes

    with np.errstate(all="ignore"):
        expected = array.astype(ml_dtypes.bfloat16).view(np.uint16)
    found = codec.to_bfloat16(array)
    numbers = ~np.isnan(array)
    np.testing.assert_array_equal(found[numbers], expected[numbers])
    assert np.isnan(codec.from_bfloat16(found)[~numbers]).all()


def test_only_float32_is_rounded_and_every_buffer_stays_aligned():
    arrays = {"f": np.ones(3, "float32"), "d": np.ones(1), "i": np.arange(3, dtype="int32"), "b": np.ones(1, "bool")}
    data = b"".join(codec.encode(arrays, bfloat16=True))
    found, _ = codec.decode(data)
    for name, array in arrays.items():
        assert_same(found[name], array)
    assert len(data) == len(encode(arrays)) - 6
