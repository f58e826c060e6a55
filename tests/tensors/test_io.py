"""Files, bytes and text: exact round trips, atomic writes, and what is said about damaged ones."""

import json
import math
import os
import struct

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays_of

import labnet as ln
from labnet.errors import DTypeError, ShapeError, WireError
from labnet.tensor import DTYPES

TENSORS = arrays_of.arrays(
    st.sampled_from(list(DTYPES.values())),
    arrays_of.array_shapes(min_dims=0, max_dims=4, min_side=0, max_side=3),
)


def assert_same(tensor, array):
    assert (tensor.dtype, tensor.shape) == (array.dtype, array.shape)
    np.testing.assert_array_equal(tensor.numpy(), array)


@given(TENSORS)
def test_every_tensor_survives_text_bytes_and_base64(array):
    tensor = ln.asarray(array)
    assert_same(ln.io.parse(ln.io.format(tensor)), array)
    assert_same(ln.io.decode(ln.io.encode(tensor)), array)
    assert_same(ln.io.decode_base64(ln.io.encode_base64(tensor)), array)


@pytest.mark.parametrize("name", DTYPES)
def test_files_keep_names_dtypes_shapes_and_order_of_memory(name, tmp_path):
    grid = np.arange(12).reshape(3, 4).astype(name)
    tensors = {
        "plain": ln.asarray(grid),
        "transposed": ln.asarray(grid).T,
        "scalar": ln.asarray(grid[1, 2]),
        "empty": ln.zeros((0, 3), dtype=name),
        "array": grid[::2],
    }
    ln.io.save(tmp_path / "file", tensors)
    loaded = ln.io.load(tmp_path / "file")
    assert sorted(loaded) == sorted(tensors)
    for key, value in tensors.items():
        assert_same(loaded[key], np.asarray(value))


def test_other_programs_read_and_write_the_same_files(tmp_path):
    from safetensors import numpy as peer

    ln.io.save(tmp_path / "ours", {"x": ln.arange(3)}, {"note": "ünïcode"})
    np.testing.assert_array_equal(peer.load_file(tmp_path / "ours")["x"], [0, 1, 2])
    peer.save_file({"y": np.ones(2, "float16")}, tmp_path / "theirs")
    assert_same(ln.io.load(tmp_path / "theirs")["y"], np.ones(2, "float16"))
    assert ln.io.read_metadata(tmp_path / "ours") == {"note": "ünïcode"}
    assert ln.io.read_metadata(tmp_path / "theirs") == {}


def raw_file(header, data=b""):
    text = json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def test_bfloat16_is_widened(tmp_path):
    halves = np.array([0x3F80, 0xC000, 0x7F80], "<u2").tobytes()
    header = {"x": {"dtype": "BF16", "shape": [3], "data_offsets": [0, 6]}}
    (tmp_path / "file").write_bytes(raw_file(header, halves))
    assert_same(ln.io.load(tmp_path / "file")["x"], np.array([1, -2, np.inf], "float32"))


DAMAGED = {
    "empty": b"",
    "short": b"\x01\x02",
    "huge header": struct.pack("<Q", 1 << 60) + b"{}",
    "no json": struct.pack("<Q", 4) + b"spam",
    "list": raw_file([]),
    "truncated": raw_file({"x": {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}}, b"\0" * 15),
    "overlap": raw_file(
        {n: {"dtype": "U8", "shape": [4], "data_offsets": [0, 4]} for n in ("x", "y")},
        b"\0" * 4,
    ),
    "wrong size": raw_file({"x": {"dtype": "F32", "shape": [3], "data_offsets": [0, 16]}}, b"\0" * 16),
    "unknown dtype": raw_file({"x": {"dtype": "X99", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "eight-bit float": raw_file({"x": {"dtype": "F8_E4M3", "shape": [1], "data_offsets": [0, 1]}}, b"\0"),
    "pickle": b"\x80\x04K\x01." * 8,
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_damaged_file_is_named_with_the_reason(name, tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(DAMAGED[name])
    for read in (ln.io.load, ln.io.read_metadata):
        with pytest.raises(WireError, match=r"model\.safetensors"):
            read(path)


def test_a_missing_file_or_directory_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no such file.*absent"):
        ln.io.load(tmp_path / "absent")
    with pytest.raises(FileNotFoundError, match=r"no such directory.*absent"):
        ln.io.save(tmp_path / "absent" / "file", {})


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failing_save_leaves_the_old_file_and_nothing_else(failing, tmp_path, monkeypatch):
    path = tmp_path / "file"
    ln.io.save(path, {"x": ln.ones(1)})

    def fail(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, failing, fail)
    with pytest.raises(OSError, match="No space"):
        ln.io.save(path, {"x": ln.zeros(1)})
    assert os.listdir(tmp_path) == ["file"]
    assert ln.io.load(path)["x"].item() == 1.0


REFUSED = {
    "reserved": ({"__metadata__": ln.ones(1)}, WireError, "'__metadata__'"),
    "reserved beside others": ({"w": ln.ones(1), "__metadata__": ln.ones(1)}, WireError, "'__metadata__'"),
    "half a character": ({"w\ud800": ln.ones(1)}, WireError, "valid Unicode"),
    "bytes": ({b"w": ln.ones(1)}, TypeError, "bytes b'w'"),
    "number": ({1: ln.ones(1)}, TypeError, "int 1"),
    "None": ({None: ln.ones(1)}, TypeError, "NoneType None"),
    "complex": ({"w": np.ones(1, "complex64")}, DTypeError, "complex64"),
    "dates": ({"w": np.zeros(1, "datetime64[s]")}, DTypeError, "datetime64"),
    "text": ({"w": np.array(["a"])}, DTypeError, "<U1"),
    "objects": ({"w": np.array([None])}, DTypeError, "object"),
    "too many letters": ({"w" * 100_000_000: ln.ones(1)}, WireError, "header too large"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_could_not_be_read_again_is_refused_and_the_old_file_stays(name, tmp_path):
    tensors, error, words = REFUSED[name]
    path = tmp_path / "model.safetensors"
    ln.io.save(path, {"old": ln.ones(2)})
    with pytest.raises(error, match=words):
        ln.io.save(path, tensors)
    assert ln.io.load(path)["old"].tolist() == [1, 1]
    assert os.listdir(tmp_path) == ["model.safetensors"]


@given(st.dictionaries(st.text(max_size=8), st.just(ln.ones(1)), max_size=4))
def test_every_name_is_refused_or_read_again(tmp_path_factory, tensors):
    path = tmp_path_factory.mktemp("names") / "model.safetensors"
    try:
        ln.io.save(path, tensors)
    except WireError:
        assert not path.exists()
    else:
        assert ln.io.load(path).keys() == tensors.keys()


@pytest.mark.parametrize("name", ["", "\n", "a\x00b", "é", "a/b.c", "__metadata", "\u2028", "𝒘"])
def test_unusual_names_are_read_again(name, tmp_path):
    ln.io.save(tmp_path / "model.safetensors", {name: ln.arange(3)})
    assert ln.io.load(tmp_path / "model.safetensors")[name].tolist() == [0, 1, 2]


def test_metadata_that_is_no_unicode_is_refused(tmp_path):
    with pytest.raises(WireError, match="metadata has to be valid Unicode"):
        ln.io.save(tmp_path / "model.safetensors", {"w": ln.ones(1)}, {"a": "\ud800"})
    assert not os.listdir(tmp_path)


def test_metadata_has_to_be_text(tmp_path):
    with pytest.raises(TypeError, match=r"'epoch': 3"):
        ln.io.save(tmp_path / "file", {}, {"epoch": 3})
    assert os.listdir(tmp_path) == []


def test_a_loaded_tensor_can_be_trained(tmp_path):
    ln.io.save(tmp_path / "file", {"x": ln.ones(2)})
    x = ln.io.load(tmp_path / "file")["x"]
    x.requires_grad = True
    ln.optim.SGD(lr=1.0)((x * 2).sum().backward())
    assert x.tolist() == [-1.0, -1.0]


@pytest.mark.parametrize(
    ("text", "dtype", "values"),
    [
        ("1", "int64", 1),
        ("-1.5e-3", "float32", -1.5e-3),
        ("true", "bool", True),
        (" [ [1,2] ,[3 , 4] ] : int8 ", "int8", [[1, 2], [3, 4]]),
        ("[True, FALSE]", "bool", [True, False]),
        ("[1, 2.5]", "float32", [1, 2.5]),
        ("[nan, -inf, .5, 1.]:float64", "float64", [math.nan, -math.inf, 0.5, 1]),
        ("[18446744073709551615]:uint64", "uint64", [2**64 - 1]),
        ("[9007199254740993]", "int64", [2**53 + 1]),
        ("[]", "float32", []),
        ("[[], []]:uint8", "uint8", [[], []]),
        ("[]:int8:0x2", "int8", np.zeros((0, 2))),
    ],
)
def test_parse_reads(text, dtype, values):
    assert_same(ln.io.parse(text), np.array(values, dtype))


def test_format_is_readable():
    assert ln.io.format(ln.asarray([[0.1, 1.0], [math.nan, -math.inf]])) == "[[0.1, 1.0], [nan, -inf]]:float32"
    assert ln.io.format(ln.asarray([[[True]], [[False]]])) == "[[[true]], [[false]]]:bool"
    assert ln.io.format(ln.zeros((2, 0))) == "[[], []]:float32"
    assert ln.io.format(ln.zeros((2, 0, 3))) == "[[], []]:float32:2x0x3"


@pytest.mark.parametrize(
    ("text", "error", "words"),
    [
        ("[[1, 2], [3]]", ShapeError, "2 and of 1"),
        ("[[1], 2]", ShapeError, "'2' at depth 1"),
        ("[1, [2]]", ShapeError, "depth 2"),
        ("[[], [[]]]", ShapeError, "0 and of 1"),
        ("[" * 65 + "]" * 65, ShapeError, "depth 65"),
        ("[1]:int8:2", ShapeError, r"\(1,\).*\(2,\)"),
        ("[]:int8:0x99999999999999999999", ShapeError, "99999999999999999999"),
        ("", WireError, "open brackets"),
        ("[1, 2", WireError, "1 open"),
        ("[1, ]", WireError, "position 4"),
        ("[1 2]", WireError, "comma or bracket at position 3"),
        ("[,]", WireError, "a value at position 1"),
        ("1, 2", WireError, "position 1"),
        ("[1]]", WireError, "position 3"),
        ("1]", WireError, "position 1"),
        ("[1][2]", WireError, "position 3"),
        ("[1]:float32:3:4", WireError, "VALUES:DTYPE"),
        ("[1, two]", DTypeError, "'two'"),
        ("[1_000]", DTypeError, "1_000"),
        ("[1.5]:int8", DTypeError, "1.5"),
        ("[300]:uint8", DTypeError, "300"),
        ("[1]:complex64", DTypeError, "complex64"),
        ("[1]:bool", DTypeError, "'1'"),
        ("[__import__('os')]", DTypeError, "__import__"),
    ],
)
def test_parse_refuses(text, error, words):
    with pytest.raises(error, match=words):
        ln.io.parse(text)


def test_decode_refuses_what_is_not_one_tensor():
    from safetensors.numpy import save

    with pytest.raises(WireError, match="got 2: a, b"):
        ln.io.decode(save({"a": np.ones(1), "b": np.ones(1)}))
    with pytest.raises(WireError, match="no base64"):
        ln.io.decode_base64("ä!")


def test_metadata_travels_with_one_tensor():
    content = ln.io.encode(ln.arange(2), {"unit": "m"})
    assert ln.network.decode(content).tolist() == [0, 1]
    assert ln.io.read_metadata(content) == {"unit": "m"}
    assert ln.io.decode_base64(ln.io.encode_base64(ln.arange(2), {"unit": "m"})).tolist() == [0, 1]
    assert ln.network.encode(ln.arange(2)) == ln.io.encode(ln.arange(2))


def test_names_of_dtypes_are_read_in_any_case(tmp_path):
    assert ln.io.parse("[1, 2]:Float32").dtype == ln.float32
    assert ln.io.parse("[1]:Uint8").dtype == ln.uint8
    ln.ones(2).save(tmp_path / "ones.safetensors", {"kind": "test"})
    assert ln.io.read_metadata(tmp_path / "ones.safetensors") == {"kind": "test"}
