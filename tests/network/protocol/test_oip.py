"""The Open Inference Protocol: driven by Triton's own client, and raw where that client cannot go."""

import json
import struct

import ml_dtypes
import numpy as np
import pytest
import tritonclient.http as triton
from tritonclient.utils import InferenceServerException

import labnet as ln
from labnet import nn
from tests.helpers.constants import SECONDS
from tests.helpers.network.raw_http import JSON, http

BYTES = "application/octet-stream"
NAMES = {
    "bool": "BOOL",
    **{f"int{bits}": f"INT{bits}" for bits in (8, 16, 32, 64)},
    **{f"uint{bits}": f"UINT{bits}" for bits in (8, 16, 32, 64)},
    **{f"float{bits}": f"FP{bits}" for bits in (16, 32, 64)},
}


class Client:
    """Triton's client with the token of a server."""

    def __init__(self, server):
        self.triton = triton.InferenceServerClient(f"127.0.0.1:{server.port}", network_timeout=SECONDS)
        self.headers = {"X-Labnet-Token": server.token}
        self.name = server.name

    def infer(self, inputs, *, outputs=None, binary=True, **options):
        given = []
        for name, array in inputs.items():
            datatype = "BF16" if array.dtype == ml_dtypes.bfloat16 else NAMES[str(array.dtype)]
            item = triton.InferInput(name, list(array.shape), datatype)
            given.append(item.set_data_from_numpy(array, binary_data=binary))
        name = options.pop("name", self.name)
        return self.triton.infer(name, given, outputs=outputs, headers=dict(self.headers), **options)


def wanted(name, *, binary):
    return triton.InferRequestedOutput(name, binary_data=binary)


@pytest.fixture
def serve():
    running = []

    def start(model, **options):
        server = ln.network.serve_model(model, port=0, **options)
        client = Client(server)
        running.append((server, client))
        return server, client

    yield start
    for server, client in running:
        client.triton.close()
        server.stop()


def identity(x):
    return x


# Who is there


def test_health_and_metadata(serve):
    model = nn.Linear(2, 1)
    _, client = serve(model, name="a model")
    assert client.triton.is_server_live()
    assert client.triton.is_server_ready()
    assert client.triton.is_model_ready("a model")
    assert client.triton.is_model_ready("a model", "1")
    assert not client.triton.is_model_ready("another")
    assert not client.triton.is_model_ready("a model", "2")
    metadata = client.triton.get_server_metadata()
    assert (metadata["name"], metadata["version"]) == ("labnet", ln.__version__)
    assert metadata["extensions"] == ["binary_tensor_data"]
    described = client.triton.get_model_metadata("a model")
    assert (described["name"], described["versions"], described["platform"]) == ("a model", ["1"], "labnet")
    assert [entry["datatype"] for entry in described["inputs"] + described["outputs"]] == ["FP32", "FP32"]
    name = described["inputs"][0]["name"]
    found = client.infer({name: np.ones((3, 2), "float32")}).as_numpy("output")
    np.testing.assert_allclose(found, model(ln.ones((3, 2))).numpy(), rtol=1e-6)


def test_metadata_knows_the_shapes_and_names_of_the_last_call(serve):
    _, client = serve(lambda left, right: {"sum": left + right, "equal": left == right}, name="two")
    before = client.triton.get_model_metadata("two")
    assert [entry["name"] for entry in before["inputs"]] == ["left", "right"]
    client.infer({"left": np.ones((2, 3)), "right": np.ones((1, 3))})
    after = client.triton.get_model_metadata("two")
    assert after["inputs"] == [
        {"name": "left", "datatype": "FP64", "shape": [-1, -1]},
        {"name": "right", "datatype": "FP64", "shape": [-1, -1]},
    ]
    assert [(entry["name"], entry["datatype"]) for entry in after["outputs"]] == [("sum", "FP64"), ("equal", "BOOL")]


def test_a_server_of_functions_has_no_models():
    with ln.network.serve({"one": lambda: 1}, port=0) as server:
        assert http(server, "GET", "/v2/health/ready", token=None).status == 200
        assert http(server, "POST", "/v2/models/one/infer", b"{}").status == 404


# Tensors


@pytest.mark.parametrize("dtype", NAMES)
@pytest.mark.parametrize("shape", [(0,), (1,), (2, 3), (2, 0, 3)])
def test_every_datatype_there_and_back_as_bytes_and_as_json(serve, dtype, shape):
    _, client = serve(identity)
    x = np.arange(np.prod(shape)).reshape(shape).astype(dtype)
    for sent in (True, False):
        for returned in (True, False):
            result = client.infer({"x": x}, binary=sent, outputs=[wanted("output", binary=returned)])
            found = result.as_numpy("output")
            assert (found.shape, found.dtype) == (x.shape, x.dtype)
            np.testing.assert_array_equal(found, x)
            assert ("data" in result.get_output("output")) == (not returned)


def test_bfloat16_is_float32_in_the_reply(serve):
    _, client = serve(lambda x: x * 2)
    found = client.infer({"x": np.array([1.5, -3.0], ml_dtypes.bfloat16)}).as_numpy("output")
    assert found.dtype == np.float32
    assert found.tolist() == [3.0, -6.0]


def test_several_inputs_and_outputs_by_name_in_any_mixture(serve):
    _, client = serve(lambda x, scale: {"product": x * scale, "x": x, "scale": scale})
    x, scale = np.arange(3, dtype="float32"), np.array([2], "float32")
    given = [triton.InferInput("x", [3], "FP32"), triton.InferInput("scale", [1], "FP32")]
    given[0].set_data_from_numpy(x, binary_data=False)
    given[1].set_data_from_numpy(scale, binary_data=True)
    outputs = [wanted("scale", binary=True), wanted("product", binary=False)]
    result = client.triton.infer(client.name, given, outputs=outputs, headers=dict(client.headers))
    assert [entry["name"] for entry in result.get_response()["outputs"]] == ["scale", "product"]
    assert result.as_numpy("product").tolist() == [0.0, 2.0, 4.0]
    assert result.as_numpy("scale").tolist() == [2.0]


def test_everything_comes_back_as_bytes_where_nothing_is_asked_for(serve):
    _, client = serve(lambda x: (x, x + 1))
    result = client.infer({"anything": np.ones(2, "int64")}, request_id="the id")
    response = result.get_response()
    assert (response["model_name"], response["model_version"], response["id"]) == (client.name, "1", "the id")
    assert [output["parameters"]["binary_data_size"] for output in response["outputs"]] == [16, 16]
    assert result.as_numpy("1").tolist() == [2, 2]


def test_inference_is_in_evaluation_mode_and_keeps_no_graph_and_changes_no_weight(serve):
    model = nn.Sequential(nn.Dropout(0.5), nn.Linear(4, 2))
    server, client = serve(model, optimizer=ln.optim.SGD(lr=1.0))
    x = np.ones((8, 4), "float32")
    found = [client.infer({"x": x}).as_numpy("output") for _ in range(3)]
    expected = (ln.asarray(x) @ model[1].weight.T + model[1].bias).numpy()
    for result in found:
        np.testing.assert_allclose(result, expected, rtol=1e-6)
    state = server.statistics()
    assert state["server"]["graphs"]["count"] == 0
    assert state["server"]["version"] == 0
    assert state["v2/infer"]["hits"] == 3


def test_an_async_model_and_a_remote_one_are_served_too(serve):
    async def model(x):
        return x + 1

    server, client = serve(model, name="inner")
    assert client.infer({"x": np.ones(2)}).as_numpy("output").tolist() == [2.0, 2.0]
    _, outer = serve(ln.network.remote_model(server.url), name="outer")
    assert outer.infer({"x": np.ones(2)}).as_numpy("output").tolist() == [2.0, 2.0]


def test_the_asynchronous_call_of_the_client_works(serve):
    _, client = serve(identity)
    x = triton.InferInput("x", [1], "INT32").set_data_from_numpy(np.array([7], "int32"))
    calls = [client.triton.async_infer(client.name, [x], headers=dict(client.headers)) for _ in range(4)]
    assert [call.get_result(timeout=SECONDS).as_numpy("output").item() for call in calls] == [7] * 4


# What goes wrong


def refused(call):
    with pytest.raises(InferenceServerException) as caught:
        call()
    return caught.value


def test_errors_reach_the_client_with_status_and_reason(serve):
    _, client = serve(nn.Linear(2, 1), name="linear")
    x = np.ones((1, 2), "float32")
    cases = [
        (lambda: client.infer({"x": x}, name="other"), "404", "no route"),
        (lambda: client.infer({"x": x}, model_version="7"), "404", "no route"),
        (lambda: client.infer({"a": x, "b": x}), "400", "['a', 'b']"),
        (lambda: client.infer({"x": x}, outputs=[wanted("nothing", binary=True)]), "400", "'nothing'"),
        (lambda: client.infer({"x": np.ones((1, 3), "float32")}), "422", "(1, 3)"),
        (lambda: client.infer({"x": np.ones((1, 2))}), "422", "float64"),
        (lambda: client.infer({"x": x}, request_compression_algorithm="gzip"), "415", "gzip"),
        (lambda: client.infer({"x": x}, request_compression_algorithm="deflate"), "415", "deflate"),
    ]
    for call, status, words in cases:
        error = refused(call)
        assert error.status() == status
        assert words in error.message()
    assert client.infer({"x": x}, response_compression_algorithm="gzip").as_numpy("output").shape == (1, 1)


def test_a_missing_token_is_refused_and_the_error_says_which_header_to_send(serve):
    _, client = serve(identity)
    client.headers = {}
    error = refused(lambda: client.infer({"x": np.ones(1)}))
    assert error.status() == "401"
    assert "X-Labnet-Token" in error.message()


def test_text_and_shared_memory_and_classes_are_not_available(serve):
    _, client = serve(identity)
    text = triton.InferInput("x", [1], "BYTES").set_data_from_numpy(np.array([b"a"], object))
    shared = triton.InferInput("x", [1], "FP32").set_shared_memory("region", 4)
    classes = triton.InferRequestedOutput("output", class_count=1)
    number = triton.InferInput("x", [1], "FP32").set_data_from_numpy(np.ones(1, "float32"))
    for inputs, outputs, words in (([text], None, "BYTES"), ([shared], None, "shared"), ([number], [classes], "class")):
        error = refused(
            lambda i=inputs, o=outputs: client.triton.infer(client.name, i, outputs=o, headers=dict(client.headers))
        )
        assert error.status() == "400"
        assert words in error.message()


def infer(server, document, behind=b"", **headers):
    text = document if isinstance(document, bytes) else json.dumps(document).encode()
    if behind or "length" in headers:
        headers["Inference_Header_Content_Length"] = headers.pop("length", len(text))
    return http(server, "POST", f"/v2/models/{server.name}/infer", text + behind, **headers)


def tensor(**fields):
    return {"name": "x", "shape": [2], "datatype": "FP32", "data": [1.0, 2.0]} | fields


def test_plain_json_over_curl(serve):
    server, _ = serve(lambda x: x * 2, name="twice")
    reply = infer(server, {"inputs": [tensor(data=[[1, 2], [3, 4.5]], shape=[2, 2])]})
    assert reply.headers["content-type"] == JSON
    assert reply.json() == {
        "model_name": "twice",
        "model_version": "1",
        "outputs": [{"name": "output", "datatype": "FP32", "shape": [2, 2], "data": [2.0, 4.0, 6.0, 9.0]}],
    }
    assert reply.headers["labnet-version"] == "0"


def test_a_scalar_and_what_is_no_number(serve):
    server, _ = serve(lambda x: x * float("inf"))
    reply = infer(server, {"inputs": [tensor(data=[1.0], shape=[])]})
    assert reply.json()["outputs"][0] == {"name": "output", "datatype": "FP32", "shape": [], "data": [None]}


F32 = struct.pack("<2f", 1.0, 2.0)
BINARY = {"parameters": {"binary_data_size": 8}}


def binary(**fields):
    entry = tensor(**BINARY) | fields
    del entry["data"]
    return entry


MALFORMED = {
    "not JSON": (b"{", b"", {}),
    "not an object": (b"[]", b"", {}),
    "deep": (b"[" * 100_000, b"", {}),
    "no inputs": ({}, b"", {}),
    "empty inputs": ({"inputs": []}, b"", {}),
    "inputs of another type": ({"inputs": {"x": 1}}, b"", {}),
    "an input of another type": ({"inputs": [1]}, b"", {}),
    "no name": ({"inputs": [tensor(name=None)]}, b"", {}),
    "a name twice": ({"inputs": [tensor(), tensor()]}, b"", {}),
    "no datatype": ({"inputs": [tensor(datatype=None)]}, b"", {}),
    "unknown datatype": ({"inputs": [tensor(datatype="FP8")]}, b"", {}),
    "datatype of another type": ({"inputs": [tensor(datatype=[1])]}, b"", {}),
    "no shape": ({"inputs": [tensor(shape=None)]}, b"", {}),
    "negative shape": ({"inputs": [tensor(shape=[-2])]}, b"", {}),
    "fractional shape": ({"inputs": [tensor(shape=[2.0])]}, b"", {}),
    "bool shape": ({"inputs": [tensor(shape=[True, 2])]}, b"", {}),
    "65 dimensions": ({"inputs": [tensor(shape=[1] * 65)]}, b"", {}),
    "another shape": ({"inputs": [tensor(shape=[3])]}, b"", {}),
    "zero times huge": ({"inputs": [tensor(shape=[0, 1 << 62, 1 << 62], data=[])]}, b"", {}),
    "zero times huge as bytes": (
        {"inputs": [binary(shape=[0, 1 << 62, 1 << 62], parameters={"binary_data_size": 0})]},
        *(b"", {"length": 1}),
    ),
    "no data": ({"inputs": [{"name": "x", "shape": [0], "datatype": "FP32"}]}, b"", {}),
    "text as data": ({"inputs": [tensor(data="ab")]}, b"", {}),
    "text in data": ({"inputs": [tensor(data=[1.0, "2"])]}, b"", {}),
    "null in data": ({"inputs": [tensor(data=[1.0, None])]}, b"", {}),
    "bools as numbers": ({"inputs": [tensor(data=[True, False])]}, b"", {}),
    "numbers as bools": ({"inputs": [tensor(datatype="BOOL", data=[0, 1])]}, b"", {}),
    "fractions as integers": ({"inputs": [tensor(datatype="INT8", data=[1.5, 2])]}, b"", {}),
    "too large an integer": ({"inputs": [tensor(datatype="INT8", data=[1, 128])]}, b"", {}),
    "a negative one": ({"inputs": [tensor(datatype="UINT8", data=[1, -1])]}, b"", {}),
    "too large a float": ({"inputs": [tensor(data=[1, 1e39])]}, b"", {}),
    "uneven": ({"inputs": [tensor(data=[[1.0], [2.0, 3.0]])]}, b"", {}),
    "half nested": ({"inputs": [tensor(data=[[1.0], 2.0])]}, b"", {}),
    "parameters of another type": ({"inputs": [tensor(parameters=[])]}, b"", {}),
    "data twice": ({"inputs": [tensor(**BINARY)]}, F32, {}),
    "bytes missing": ({"inputs": [binary()]}, F32[:4], {}),
    "bytes left over": ({"inputs": [binary()]}, F32 + b"x", {}),
    "a size that does not fit": ({"inputs": [binary(parameters={"binary_data_size": 4})]}, F32, {}),
    "a size of another type": ({"inputs": [binary(parameters={"binary_data_size": "8"})]}, F32, {}),
    "a negative size": ({"inputs": [binary(parameters={"binary_data_size": -8})]}, F32, {}),
    "a bool of 2": ({"inputs": [binary(datatype="BOOL", shape=[8])]}, b"\2" * 8, {}),
    "no header for the bytes": (json.dumps({"inputs": [binary()]}).encode() + F32, b"", {}),
    "a length that is no number": ({"inputs": [tensor()]}, b"", {"length": "x"}),
    "a negative length": ({"inputs": [tensor()]}, b"", {"length": "-1"}),
    "a length over the body's": ({"inputs": [tensor()]}, b"", {"length": 10**6}),
    "a huge length": ({"inputs": [tensor()]}, b"", {"length": "9" * 30}),
    "an id of another type": ({"inputs": [tensor()], "id": 3}, b"", {}),
    "outputs of another type": ({"inputs": [tensor()], "outputs": 3}, b"", {}),
    "a flag of another type": ({"inputs": [tensor()], "parameters": {"binary_data_output": 1}}, b"", {}),
    "an output twice": ({"inputs": [tensor()], "outputs": [{"name": "output"}, {"name": "output"}]}, b"", {}),
}


def two(a, b):
    return a + b


def with_keyword(x, *, scale):
    return x * scale


def of_two_positions(a, b, /):
    return a - b


MISSING = {
    "one of two": (two, ["a"], "'b'"),
    "the other of two": (two, ["b"], "'a'"),
    "one of two under another name": (two, ["x"], "'b'"),
    "a third": (two, ["a", "b", "c"], "'c'"),
    "others": (two, ["c", "d"], "'c'"),
    "a keyword": (with_keyword, ["x"], "'scale'"),
    "one of two positions": (of_two_positions, ["a"], "'b'"),
    "all: there are none": (lambda: ln.ones(1), ["x"], "this model takes ()"),
}


@pytest.mark.parametrize("name", MISSING)
def test_a_request_without_an_input_that_the_model_needs_is_400(serve, name):
    model, given, words = MISSING[name]
    server, _ = serve(model, name="it")
    reply = infer(server, {"inputs": [tensor(name=each) for each in given]}, b"")
    assert reply.status == 400
    assert words in reply.json()["error"]
    assert str(given) in reply.json()["error"]


@pytest.mark.parametrize(
    ("model", "given"),
    [
        (two, ["b", "a"]),
        (with_keyword, ["scale", "x"]),
        (of_two_positions, ["a", "b"]),
        (lambda *tensors: tensors[1], ["a", "b"]),
        (lambda **tensors: tensors["a"], ["a"]),
        (lambda **tensors: tensors["b"], ["a", "b"]),
        (lambda x, y=1.0: x * y, ["x"]),
        (lambda x, y=1.0: x * y, ["anything"]),
        (lambda x, /: x, ["anything"]),
    ],
)
def test_inputs_reach_the_model_by_name_or_by_position(serve, model, given):
    server, _ = serve(model, name="it")
    assert infer(server, {"inputs": [tensor(name=each) for each in given]}, b"").status == 200


def test_a_malformed_request_is_400_with_a_reason_in_the_form_of_the_protocol(serve):
    server, client = serve(identity, name="it")
    for name, (document, behind, headers) in MALFORMED.items():
        reply = infer(server, document, behind, **headers)
        assert reply.status == 400, (name, reply)
        assert reply.json().keys() == {"error"}, name
        assert len(reply.json()["error"]) > 10, name
    assert client.infer({"x": np.ones(1)}).as_numpy("output").tolist() == [1.0]


def test_a_body_without_a_content_type_is_not_taken_from_a_web_page(serve):
    server, _ = serve(identity, name="it")
    body = {"inputs": [tensor()]}
    assert infer(server, body, Content_Type=None).status == 200
    origin = f"http://127.0.0.1:{server.port}"
    assert infer(server, body, Content_Type=None, Origin=origin).status == 415
    assert infer(server, body, Content_Type="text/plain").status == 415
    assert infer(server, body, Content_Type="application/x-labnet").status == 415


def test_every_error_below_v2_has_the_form_of_the_protocol(serve):
    server, _ = serve(identity, name="it")
    replies = [
        http(server, "GET", "/v2/models/it/infer"),
        http(server, "GET", "/v2/nothing"),
        http(server, "GET", "/v2/models/it/config"),
        http(server, "POST", "/v2/models/it/infer", b"{}", token=None),
        http(server, "GET", "/v2", token=None, Host="evil.example"),
        http(server, "GET", "/v2", Labnet_Protocol="2"),
    ]
    assert [reply.status for reply in replies] == [405, 404, 404, 401, 403, 400]
    assert all(reply.json().keys() == {"error"} for reply in replies)
    assert http(server, "GET", "/v2x").json().keys() == {"error", "message", "call", "server"}
