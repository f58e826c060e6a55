"""JSON in pieces: the same values and errors as in one call."""

import json
from types import SimpleNamespace

import msgspec
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

import labnet as ln
from labnet import json_codec, wire
from labnet.errors import DTypeError, ShapeError, WireError


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Split short texts, so that short examples have many pieces."""
    monkeypatch.setattr(json_codec, "LARGE", 8)
    monkeypatch.setattr(json_codec, "_PIECE", 40)
    monkeypatch.setattr(json_codec, "_NUMBERS", 4)


def outcome(function, *arguments):
    """Return what a function returns or raises, in a form that is compared exactly."""
    try:
        return "value", repr(function(*arguments))
    except (WireError, DTypeError, msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        return type(error).__name__, str(error)


def decoded_at_once(text):
    """Decode a body as tensors in one call."""
    try:
        data = msgspec.json.decode(text)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise WireError(f"the body is not JSON: {error}") from None
    try:
        with np.errstate(over="raise"):
            return wire.message_of(data)
    except (ShapeError, DTypeError, FloatingPointError) as error:
        raise WireError(f"the JSON body is not a tensor: {error}") from None


def bits(function):
    """Return a function whose messages are compared by dtype, shape and bytes."""

    def compared(text):
        message = function(text)
        return message.named, [
            (name, t.dtype, t.shape, t.numpy().tobytes(), t.device) for name, t in message.tensors.items()
        ]

    return compared


NUMBERS = st.one_of(
    st.integers(-(2**70), 2**70),
    st.integers(-5, 5),
    st.booleans(),
    st.floats(allow_nan=False, allow_infinity=False),
    st.floats(-2, 2, width=32),
)
LEAVES = st.one_of(NUMBERS, st.none(), st.text(max_size=6), st.sampled_from(['"', "[1,2", "{", "\\", "é,["]))
DATA = st.recursive(
    LEAVES,
    lambda inner: st.one_of(
        st.lists(inner, max_size=6), st.dictionaries(st.text(max_size=4), inner, max_size=4), st.lists(inner).map(list)
    ),
    max_leaves=40,
)
SHAPES = npst.array_shapes(min_dims=1, max_dims=4, min_side=0, max_side=9)
RECTANGLES = st.one_of(
    npst.arrays(st.sampled_from(["bool", "int8", "int64", "uint64", "float32"]), SHAPES).map(np.ndarray.tolist),
    npst.arrays("float64", SHAPES, elements=st.floats(-1e30, 1e30)).map(np.ndarray.tolist),
    npst.arrays(object, SHAPES, elements=NUMBERS).map(np.ndarray.tolist),
)
BODIES = st.one_of(RECTANGLES, st.dictionaries(st.text(max_size=5), st.one_of(RECTANGLES, NUMBERS), max_size=4), DATA)
LAYOUTS = st.sampled_from([{}, {"indent": 1}, {"separators": (",", ":")}, {"ensure_ascii": False}])


@settings(max_examples=400)
@given(BODIES, LAYOUTS)
@example([[1], [2, 3], [4, 5], [6, 7, 8, 9, 10]], {})
@example([1, 2, 3, [4], 5, 6, 7, 8, 9], {})
@example([[1.0, 2.0]] * 9 + [[1e39, 2.0]], {})
@example([[1.0, 2.0]] * 9 + [[2**70, 2.0]], {})
@example([1] * 20 + [2**63], {})
@example([True] * 20 + [1] * 20 + [0.5], {})
def test_tensors_are_those_of_one_call(data, layout):
    text = json.dumps(data, **layout).encode()
    assert outcome(bits(wire.decode_json), text) == outcome(bits(decoded_at_once), text)


@settings(max_examples=400)
@given(BODIES, LAYOUTS)
@example([{"a": [1, 2, 3, 4, 5, 6]}, [1, 2, 3, 4, 5, 6, 7, 8], "x"], {})
@example({"a": "[1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11]", "b": [1, 2, 3, 4, 5, 6, 7, 8, 9]}, {})
def test_data_is_that_of_one_call(data, layout):
    text = json.dumps(data, **layout).encode()
    assert outcome(json_codec.decode, text) == outcome(msgspec.json.decode, text)


DAMAGE = [b"", b"[", b"]", b",", b" ", b'"', b"{", b"}", b"1", b"null", b"\xff", b"-"]


@settings(max_examples=400)
@given(BODIES, st.data())
def test_damaged_texts_are_refused_as_in_one_call(data, draw):
    text = bytearray(json.dumps(data).encode())
    for _ in range(draw.draw(st.integers(1, 3))):
        position = draw.draw(st.integers(0, len(text)))
        piece = draw.draw(st.sampled_from(DAMAGE))
        text[position : position + draw.draw(st.integers(0, 2))] = piece
    text = bytes(text)
    assert outcome(json_codec.decode, text) == outcome(msgspec.json.decode, text)
    assert outcome(bits(wire.decode_json), text) == outcome(bits(decoded_at_once), text)


@pytest.mark.parametrize(
    "text",
    [
        b"[1, 2, 3, 4, 5, 6, 7, 8, 9, NaN]",
        b"[1, 2, 3, 4, 5, 6, 7, 8, 9,]",
        b"[1, 2, 3, 4, 5, 6, 7, ,8, 9]",
        b"[1, 2, 3, 4, 5, 6, 7, 8, 9",
        b"[1, 2, 3, 4, 5, 6, 7, 8, 9]]",
        b"[1, 2, 3, 4], [5, 6, 7, 8, 9]",
        b"[[1, 2, 3, 4, 5, 6, 7,[,8, 9]]",
        b"[[1, 2, 3, 4, 5, 6, 7,],[8, 9]]",
        b"[[1, 2, 3, 4, 5, 6, 7],[8, 9, 10,],[]]",
        b'{[1, 2, 3, 4, 5, 6, 7, 8, 9, 10]: 1, "a": 2}',
        b'{"a": [1, 2, 3, 4, 5, 6, 7, 8, 9], "a": [1, 2, 3, 4, 5, 6, 7, 8, 9, 10]}',
        b"[" * 5000 + b"]" * 5000,
        b"[" * 100_000,
        b"[1," * 100_000,
    ],
)
def test_hostile_texts_are_refused_as_in_one_call(text):
    assert outcome(json_codec.decode, text) == outcome(msgspec.json.decode, text)
    assert outcome(bits(wire.decode_json), text) == outcome(bits(decoded_at_once), text)


@given(RECTANGLES, LAYOUTS)
def test_rectangles_are_decoded_without_the_text_as_a_whole(data, layout):
    text = json.dumps(data, **layout).encode()
    sizes = np.shape(data)
    if b"Infinity" in text or b"NaN" in text:  # which is no JSON
        return
    if 0 in sizes or len(text) < 40 or {type(x) for x in np.ravel(np.array(data, object))} != {float}:
        return
    if all(len(number) < 20 for number in text.split(b",")):  # a piece has a comma
        assert isinstance(json_codec.decode(text, arrays=True), np.ndarray)


def encoded_at_once(value):
    try:
        return msgspec.json.encode(value, enc_hook=wire._plain)
    except (TypeError, RecursionError) as error:
        raise DTypeError(f"cannot be sent as JSON: {error}") from None


def encoded(value):
    return b"".join(wire.encode_json(value).parts)


ARRAYS = st.one_of(
    npst.arrays(st.sampled_from(["bool", "int16", "uint64", "float16", "float32", "float64"]), SHAPES),
    npst.arrays("float64", SHAPES).map(lambda array: array.T),
    npst.arrays("float32", npst.array_shapes(min_dims=0, max_dims=2, min_side=0)).map(ln.Tensor),
)
UNSENDABLE = st.sampled_from([object, {1, 2}, 1j, {(1, 2): 3}, {None: 1}, {1: 2}, {1.5: [3]}, b"bytes"])
VALUES = st.recursive(
    st.one_of(LEAVES, ARRAYS, UNSENDABLE, st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=12),
        st.lists(inner, max_size=6).map(tuple),
        st.dictionaries(st.one_of(st.text(max_size=5), st.integers(0, 3)), inner, max_size=9),
    ),
    max_leaves=30,
)


@settings(max_examples=500)
@given(VALUES)
@example([])
@example({})
@example([[]] * 20)
@example(np.zeros((3, 0, 9)))
@example(np.zeros((1, 40)))
@example({"a": np.ones(9), "b": {"c": [np.float32(1)] * 9, "d": "x"}, 3: [1] * 9})
def test_text_is_that_of_one_call(value):
    assert outcome(encoded, value) == outcome(encoded_at_once, value)


def test_values_that_refer_to_themselves_are_refused():
    value = [1] * 10
    value.append(value)
    with pytest.raises(DTypeError, match="recursion"):
        encoded(value)


def test_structs_are_encoded_as_in_one_call():
    class Point(msgspec.Struct):
        x: list[int]

    assert encoded([Point([1] * 9)] * 9) == encoded_at_once([Point([1] * 9)] * 9)


@pytest.mark.parametrize("shape", [(200_000,), (20, 10_000), (200_000, 1), (2, 100, 1000)])
def test_no_call_converts_a_long_text(monkeypatch, shape):
    monkeypatch.undo()  # the real sizes of pieces
    numbers = np.random.default_rng(0).random(shape).astype("float32")
    most = 2**20
    decode, encoder = msgspec.json.decode, msgspec.json.Encoder

    def short_decode(text):
        assert len(text) < most
        return decode(text)

    def short_encoder(**options):
        def encode(value):
            text = encoder(**options).encode(value)
            assert len(text) < most
            return text

        return SimpleNamespace(encode=encode)

    monkeypatch.setattr(msgspec.json, "decode", short_decode)
    monkeypatch.setattr(msgspec.json, "Encoder", short_encoder)
    text = encoded(numbers)
    assert len(text) > 3 * most
    np.testing.assert_array_equal(wire.decode_json(text).value.numpy(), numbers)
    assert json_codec.decode(text) == json.loads(text)
    assert encoded({"a": [numbers.tolist(), "x"]}) == b'{"a":[' + text + b',"x"]}'
