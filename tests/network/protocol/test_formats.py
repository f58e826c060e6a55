"""What goes over a real socket: versions, named tensors, every dtype, and the three formats of tensors."""

import io

import numpy as np
import pytest

import labnet as ln
from labnet import errors, nn
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.raw_http import JSON, NATIVE, forward_of, http, native, npy, scripted

NPY = "application/x-npy"
DTYPES = ["bool", "int8", "int16", "int32", "int64", "uint8", "uint16", "uint32", "uint64"]
DTYPES += ["float16", "float32", "float64"]


def array_of(reply):
    assert reply.headers["content-type"] == NPY
    return np.load(io.BytesIO(reply.body), allow_pickle=False)


@pytest.fixture
def echo():
    with ln.network.serve({"echo": lambda x: x, "text": lambda: "hi"}, port=0) as server:
        yield server


@pytest.fixture
def linear():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        yield server


# Version of the protocol


def test_every_reply_says_which_version_it_speaks(linear):
    replies = [http(linear, "GET", path) for path in linear._port.routes]
    replies += [http(linear, "GET", "/nothing"), http(linear, "GET", "/weights", token=None), forward_of(linear, [1.0])]
    assert {reply.headers["labnet-protocol"] for reply in replies} == {"1"}


@pytest.mark.parametrize("version", ["2", "0", "", "1.0", "1, 1"])
def test_a_request_of_another_version_is_refused_and_both_are_named(linear, version):
    reply = http(linear, "POST", "/forward", b"[[1, 2]]", Labnet_Protocol=version)
    assert (reply.status, reply.json()["error"]) == (400, "ProtocolMismatch")
    assert repr(version) in reply.json()["message"]
    assert "'1'" in reply.json()["message"]


def test_a_request_without_a_version_is_answered(linear):
    assert http(linear, "POST", "/forward", b"[[1, 2]]", Labnet_Protocol="1").status == 200
    assert http(linear, "POST", "/forward", b"[[1, 2]]").status == 200


@pytest.mark.parametrize("status", ["200 OK", "500 Internal Server Error"])
def test_a_reply_of_another_version_is_a_protocol_mismatch_that_names_both(status):
    body = b'{"error": "RemoteFailure", "message": "no"}'
    reply = f"HTTP/1.1 {status}\r\nLabnet-Protocol: 2\r\nContent-Type: {JSON}\r\nContent-Length: {len(body)}\r\n\r\n"
    with scripted(reply.encode() + body) as port, pytest.raises(errors.ProtocolMismatch, match=r"'2'.*'1'"):
        fetch(f"localhost:{port}/route")


# Several tensors, every dtype


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_a_tensor_of_any_dtype_comes_back_natively_and_as_npy(echo, dtype, shape):
    x = np.arange(np.prod(shape, dtype=int)).reshape(shape).astype(dtype)
    y = fetch(echo.url + "/echo", ln.asarray(x)).numpy()
    z = array_of(http(echo, "POST", "/echo", npy(x), Content_Type=NPY))
    for found in (y, z):
        assert (found.shape, found.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(found, x)


def test_named_inputs_and_outputs_of_different_dtypes_come_back_by_name(echo):
    given = {"a": np.ones((2, 1), "float16"), "b": np.array(7), "c": np.zeros((0, 2), "bool"), "d": np.ones(3, "uint8")}
    found = fetch(echo.url + "/echo", given)
    assert list(found) == list(given)
    for name, array in given.items():
        assert (found[name].shape, found[name].dtype) == (array.shape, array.dtype)
        np.testing.assert_array_equal(found[name].numpy(), array)


def test_a_model_of_named_inputs_and_outputs_is_trained():
    def model(x, scale, index):
        return {"product": x * scale, "picked": x[index]}

    with ln.network.serve_model(model, port=0) as server:
        x = ln.asarray([1.0, 2.0, 3.0], requires_grad=True)
        outputs = blocking(server)(x=x, scale=ln.asarray(2.0), index=ln.asarray([2, 0]))
        (outputs["product"].sum() + outputs["picked"].sum()).backward()
        assert x.grad.tolist() == [3.0, 2.0, 3.0]


def test_bfloat16_bodies_are_numbers_in_float32_and_come_back_as_they_were(echo):
    import json
    import struct

    header = json.dumps({"tensor": {"dtype": "BF16", "shape": [2], "data_offsets": [0, 4]}}).encode()
    body = struct.pack("<Q", len(header)) + header + struct.pack("<2H", 0x3F80, 0xC049)
    reply = http(echo, "POST", "/echo", body, Content_Type=NATIVE, Accept=f"{NATIVE}; floats=bfloat16")
    assert b'"dtype":"BF16"' in reply.body
    assert reply.body.endswith(struct.pack("<2H", 0x3F80, 0xC049))
    assert b'"F32"' in http(echo, "POST", "/echo", body, Content_Type=NATIVE).body


def test_a_client_may_send_and_train_in_bfloat16(linear):
    x, remote = ln.asarray([[1.5, -2.0]]), blocking(linear, wire_dtype="bfloat16")
    before = blocking(linear).state_dict()
    y = remote(x)
    exact = (x @ before["weight"].T + before["bias"]).numpy()
    assert y.dtype == np.float32
    np.testing.assert_allclose(y.numpy(), exact, rtol=2.0**-8)
    y.sum().backward()
    after = blocking(linear).state_dict()
    np.testing.assert_allclose((before["weight"] - after["weight"]).numpy(), [[0.15, -0.2]], rtol=1e-5)


def test_bfloat16_takes_half_the_bytes(echo):
    x = ln.ones(100_000)
    y = fetch(echo.url + "/echo", x, wire_dtype="bfloat16")
    np.testing.assert_array_equal(y.numpy(), x.numpy())
    counted = echo.statistics()["echo"]
    assert 200_000 < counted["bytes_in"] < 201_000
    assert 200_000 < counted["bytes_out"] < 201_000


def test_another_dtype_for_the_wire_is_a_value_error(echo):
    with pytest.raises(ValueError, match="bfloat16"):
        fetch(echo.url + "/echo", ln.ones(1), wire_dtype="int8")


# Negotiation

BODIES = {NATIVE: native({"tensor": np.ones(2, "float32")}), JSON: b"[1.0, 1.0]", NPY: npy(np.ones(2, "float32"))}
CHOICES = {
    None: None,
    "": None,
    "*/*": None,
    "application/*": None,
    NATIVE: NATIVE,
    JSON: JSON,
    NPY: NPY,
    "APPLICATION/X-NPY": NPY,
    f"{NPY};q=0.5, {JSON}": JSON,
    f"{JSON};q=0.1,{NPY} ; q=0.9": NPY,
    f"*/*;q=0.1, {NATIVE}": NATIVE,
    f"*/*, {JSON};q=0": (NATIVE, NPY),
    "text/html": JSON,
    "text/html, */*;q=0.8": None,
    f"{NPY};q=x, {JSON};q=0.1": JSON,
}


@pytest.mark.parametrize("sent", BODIES)
@pytest.mark.parametrize("accept", CHOICES)
def test_the_reply_has_the_format_that_was_asked_for(echo, sent, accept):
    headers = {} if accept is None else {"Accept": accept}
    reply = http(echo, "POST", "/echo", BODIES[sent], Content_Type=sent, **headers)
    chosen = CHOICES[accept] or sent
    assert reply.headers["content-type"] in chosen
    begins = {NATIVE: b"`\0\0\0\0\0\0\0{", JSON: b"[", NPY: b"\x93NUMPY"}
    assert reply.body.startswith(begins[reply.headers["content-type"]])


@pytest.mark.parametrize("accept", CHOICES)
def test_what_is_no_tensor_keeps_its_own_format(echo, accept):
    headers = {} if accept is None else {"Accept": accept}
    assert http(echo, "GET", "/text", **headers).body == b"hi"


def test_forward_in_npy_is_in_evaluation_mode_and_keeps_no_graph():
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(2, 1))
    with ln.network.serve_model(model, port=0) as server:
        x = np.ones((1, 2), "float32")
        replies = [http(server, "POST", "/forward", npy(x), Content_Type=NPY) for _ in range(3)]
        expected = (ln.asarray(x) @ model[1].weight.T + model[1].bias).numpy()
        for reply in replies:
            np.testing.assert_allclose(array_of(reply), expected, rtol=1e-6)
            assert "labnet-call" not in reply.headers
            assert reply.headers["labnet-version"] == "0"
        assert server.statistics()["server"]["graphs"]["count"] == 0


def test_a_gradient_may_be_sent_as_npy(linear):
    call = forward_of(linear, np.ones((1, 2), "float32")).headers["labnet-call"]
    gradient = npy(np.ones((1, 1), "float32"))
    reply = http(linear, "POST", "/optimize", gradient, Content_Type=NPY, Labnet_Call=call)
    assert reply.status == 200
    assert linear.statistics()["server"]["version"] == 1


def test_several_tensors_do_not_fit_npy_and_the_error_says_what_does(echo):
    body = native({"a": [1.0], "b": [2.0]})
    reply = http(echo, "POST", "/echo", body, Content_Type=NATIVE, Accept=NPY)
    assert reply.status == 422
    assert "['a', 'b']" in reply.json()["message"]
    assert NATIVE in reply.json()["message"]


def test_a_pickle_in_npy_is_refused(echo):
    file = io.BytesIO()
    np.save(file, np.array([{"a": 1}]), allow_pickle=True)
    reply = http(echo, "POST", "/echo", file.getvalue(), Content_Type=NPY)
    assert (reply.status, reply.json()["error"]) == (400, "BadRequest")


def test_tfetch_reads_a_reply_in_npy(echo):
    y = fetch(echo.url + "/echo", ln.asarray([1, 2]), headers={"Accept": NPY})
    assert (y.tolist(), str(y.dtype)) == ([1, 2], "int64")
