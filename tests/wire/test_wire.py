"""Bodies: what handlers take and return, as content type and bytes, without any socket."""

import contextlib
import json

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

import labnet as ln
from labnet import wire
from labnet.errors import DTypeError, WireError


def joined(body):
    return b"".join(body.parts)


def over_the_wire(value, *, content_type=wire.NATIVE):
    body = wire.encode_value(value, wire.Format(content_type))
    decoded = wire.decode_value(body.content_type, joined(body))
    return decoded.value if isinstance(decoded, wire.Message) else decoded


def test_a_tensor_comes_back_as_a_tensor():
    x = ln.asarray([[1.0, 2.0], [3.0, 4.0]])
    y = over_the_wire(x)
    assert isinstance(y, ln.Tensor)
    np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_a_dict_of_tensors_comes_back_by_name():
    found = over_the_wire({"a": ln.ones(2), "b": np.zeros((0, 3))})
    assert {name: tensor.shape for name, tensor in found.items()} == {"a": (2,), "b": (0, 3)}


def test_a_dict_of_one_tensor_stays_a_dict():
    assert list(over_the_wire({"tensor": ln.ones(1)})) == ["tensor"]


def test_metadata_travels_beside_the_tensors():
    body = wire.encode_native(wire.message_of(ln.ones(1), loss="0.5"))
    assert wire.decode_native(joined(body)).metadata == {"loss": "0.5"}


def test_a_message_of_one_tensor_must_not_hold_two():
    body = wire.encode_native(wire.message_of({"tensor": ln.ones(1), "b": ln.ones(1)}))
    with pytest.raises(WireError, match="one tensor"):
        wire.decode_native(joined(body).replace(b'"dict"', b'"list"'))


@pytest.mark.parametrize(
    ("value", "content_type", "data"),
    [
        (None, None, b""),
        ("héllo", "text/plain; charset=utf-8", "héllo".encode()),
        ("", "text/plain; charset=utf-8", b""),
        (b"\x00\xff", "application/octet-stream", b"\x00\xff"),
        (bytearray(b"ab"), "application/octet-stream", b"ab"),
        (True, "application/json", b"true"),
        (3, "application/json", b"3"),
        (np.float32(0.5), "application/json", b"0.5"),
        ([1, "a", None], "application/json", b'[1,"a",null]'),
        ({}, "application/json", b"{}"),
        ({"a": 1}, "application/json", b'{"a":1}'),
    ],
)
def test_a_value_has_its_content_type_and_bytes(value, content_type, data):
    body = wire.encode_value(value, wire.Format())
    assert body.content_type == content_type
    assert joined(body) == data
    assert body.nbytes == len(data)


@pytest.mark.parametrize("value", ["text", b"bytes", [1, 2.5], {"a": [None, True]}, 7])
def test_data_that_is_no_tensor_comes_back_unchanged(value):
    assert over_the_wire(value) == value


def test_tensors_for_a_reader_of_json_are_nested_lists():
    assert over_the_wire(ln.asarray([[1.0, 2.0]]), content_type=wire.JSON) == [[1.0, 2.0]]
    assert over_the_wire({"a": ln.ones(2), "b": ln.asarray(3)}, content_type=wire.JSON) == {"a": [1.0, 1.0], "b": 3}


def test_tensors_inside_other_data_are_nested_lists():
    assert over_the_wire({"a": ln.ones(2), "n": 1}) == {"a": [1.0, 1.0], "n": 1}


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
def test_json_has_null_where_there_is_no_number(number):
    assert joined(wire.encode_json(ln.asarray([1.0, number]))) == b"[1.0,null]"
    assert joined(wire.encode_json({"loss": number})) == b'{"loss":null}'


@pytest.mark.parametrize("value", [object(), 1j, lambda: 1, {1, object()}, (n for n in "ab")])
def test_what_cannot_be_sent_is_named(value):
    with pytest.raises(DTypeError, match="JSON"):
        wire.encode_value(value, wire.Format())


@pytest.mark.parametrize(
    ("text", "shape", "dtype"),
    [
        ("1.5", (), "float32"),
        ("[]", (0,), "float32"),
        ("[1.0, 2]", (2,), "float32"),
        ("[[true, false]]", (1, 2), "bool"),
        ("[[[1.5]]]", (1, 1, 1), "float32"),
    ],
)
def test_json_numbers_become_a_tensor(text, shape, dtype):
    tensor = wire.decode_json(text.encode()).value
    assert (tensor.shape, str(tensor.dtype)) == (shape, dtype)


def test_a_json_object_becomes_tensors_by_name():
    message = wire.decode_json(b'{"x": [1.0], "y": [[2.0]]}')
    assert message.named
    assert {name: tensor.shape for name, tensor in message.value.items()} == {"x": (1,), "y": (1, 1)}


@pytest.mark.parametrize(
    "text",
    [
        *("", " ", "nope", "[1,]", "[1", "{'a': 1}", "[01]", "[NaN]", "[Infinity]", "[-Infinity]", "[nan]"),
        *('"text"', '["a"]', "null", "[null]", "[1, null]", "[[1], [1, 2]]", "[[1], 2]", '[1, "2"]'),
        *('{"a": "b"}', '{"a": {"b": 1}}', '{"a": null}', "[1e999]", "[" + "9" * 5000 + "]", "[123456789012345678901]"),
        *("[" * 65 + "1" + "]" * 65, "[" * 100_000, '{"a":' * 100_000, "\xff"),
    ],
    ids=lambda text: repr(text[:20]),
)
def test_a_malformed_json_body_is_a_wire_error(text):
    with pytest.raises(WireError):
        wire.decode_json(text.encode("latin-1"))


@example(3.4028235677973366e38)  # a number of JSON that is no number of float32
@given(st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(), st.lists, max_leaves=20))
def test_any_json_is_a_tensor_or_a_wire_error(value):
    with contextlib.suppress(WireError):
        wire.decode_json(json.dumps(value).encode())


@pytest.mark.parametrize(
    ("content_type", "data", "value"),
    [
        ("application/json", b"[1]", [1]),
        ("Application/JSON; charset=utf-8", b"[1]", [1]),
        ("text/plain", b"a", "a"),
        ("text/html; charset=utf-8", b"<p>", "<p>"),
        ("text/plain", b"\xff", "\ufffd"),
        ("application/octet-stream", b"\xff", b"\xff"),
        ("", b"x", b"x"),
    ],
)
def test_a_reply_is_read_by_its_content_type(content_type, data, value):
    assert wire.decode_value(content_type, data) == value


@pytest.mark.parametrize(
    ("content_type", "data"),
    [("application/json", b"{"), ("application/json", b"\xff"), ("application/x-labnet", b"{}")],
)
def test_a_reply_that_does_not_fit_its_content_type_is_a_wire_error(content_type, data):
    with pytest.raises(WireError):
        wire.decode_value(content_type, data)


def test_decoding_and_encoding_a_tensor_copy_nothing():
    x = ln.ones(1000)
    body = wire.encode_native(wire.message_of(x))
    assert np.shares_memory(np.frombuffer(body.parts[-1], "uint8"), x.numpy())
    buffer = np.frombuffer(joined(body), "uint8")
    assert np.shares_memory(wire.decode_native(buffer.data).value.numpy(), buffer)
