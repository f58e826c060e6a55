"""What functions are given of a request, by its content type and their annotations."""

from __future__ import annotations

import json
import subprocess
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import RouteNotFound
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.handlers import serve
from tests.helpers.network.raw_http import JSON, NATIVE, http, native, npy

if TYPE_CHECKING:
    from nowhere import Unknown

FORM = "application/x-www-form-urlencoded"
BYTES = "application/octet-stream"
TEXT = "text/plain; charset=utf-8"


def described(value):
    """Describe a value by its type, so that a tensor and a list differ."""
    if isinstance(value, ln.Tensor | np.ndarray):
        return {type(value).__name__: value.tolist(), "dtype": str(value.dtype)}
    if isinstance(value, dict):
        return {"dict": {name: described(item) for name, item in value.items()}}
    if isinstance(value, bytes):
        return {"bytes": value.decode("latin-1")}
    if isinstance(value, list | tuple):
        return {type(value).__name__: [described(item) for item in value]}
    return {type(value).__name__: value if isinstance(value, str | int | float | None) else repr(value)}


def sent_to(function, body, content_type=JSON):
    with serve(function) as server:
        reply = http(server, "POST", "/route", body, Content_Type=content_type)
    return reply.json() if reply.status == 200 else (reply.status, reply.json()["message"])


def tensor(value, dtype="float32"):
    return {"Tensor": value, "dtype": dtype}


UNANNOTATED = {
    "object": (b'{"a": 1, "b": [1.0, "x", null]}', JSON, {"dict": {
        "a": {"int": 1}, "b": {"list": [{"float": 1.0}, {"str": "x"}, {"NoneType": None}]}}}),
    "object of lists": (b'{"a": [1.0]}', JSON, {"dict": {"a": {"list": [{"float": 1.0}]}}}),
    "text of JSON": (b'"hi"', JSON, {"str": "hi"}),
    "null": (b"null", JSON, {"NoneType": None}),
    "rectangle": (b"[[1, 2.5], [3, 4]]", JSON, tensor([[1.0, 2.5], [3.0, 4.0]])),
    "whole numbers": (b"[1, 2]", JSON, tensor([1, 2], "int64")),
    "booleans": (b"[true]", JSON, tensor([True], "bool")),
    "number": (b"3", JSON, tensor(3, "int64")),
    "ragged": (b"[[1], [2, 3]]", JSON, {"list": [{"list": [{"int": 1}]}, {"list": [{"int": 2}, {"int": 3}]}]}),
    "texts": (b'["a"]', JSON, {"list": [{"str": "a"}]}),
    "large integer": (b"[1180591620717411303424]", JSON, {"list": [{"int": 2**70}]}),
    "bytes": (b"\x00\xff", BYTES, {"bytes": "\x00\xff"}),
    "text": ("hé".encode(), TEXT, {"str": "hé"}),
    "no text": (b"", TEXT, {"str": ""}),
    "form": (b"a=1&b=x+y&b=%C3%A9&%C3%A9=", FORM, {"dict": {
        "a": {"str": "1"}, "b": {"list": [{"str": "x y"}, {"str": "é"}]}, "é": {"str": ""}}}),
    "native": (native({"tensor": np.ones(2, "float32")}), NATIVE, tensor([1.0, 1.0])),
    "native by name": (native({"a": np.ones(1, "float32")}), NATIVE, {"dict": {"a": tensor([1.0])}}),
    "npy": (npy(np.ones(2, "int8")), "application/x-npy", tensor([1, 1], "int8")),
}  # fmt: skip


@pytest.mark.parametrize("name", UNANNOTATED)
def test_without_an_annotation_a_function_is_given_what_was_sent(name):
    body, content_type, expected = UNANNOTATED[name]
    assert sent_to(lambda x: described(x), body, content_type) == expected
    assert sent_to(lambda user, x=None: described(x), body, content_type) == expected


MULTIPART = (
    b'--b\r\nContent-Disposition: form-data; name="name"\r\n\r\n\xc3\xa9\r\n'
    b'--b\r\nContent-Disposition: form-data; name="file"; filename="a.bin"\r\n\r\n\x00\xff\r\n--b--\r\n'
)


@pytest.mark.parametrize("content_type", ["multipart/form-data; boundary=b", 'Multipart/Form-Data; boundary="b"'])
def test_a_form_with_files_is_given_as_a_dict_of_texts_and_bytes(content_type):
    expected = {"dict": {"name": {"str": "é"}, "file": {"bytes": "\x00\xff"}}}
    assert sent_to(lambda form: described(form), MULTIPART, content_type) == expected


class Point(msgspec.Struct):
    x: int
    y: float = 0.5


@dataclass
class Line:
    points: list[Point]


class Upload(msgspec.Struct):
    name: str
    file: bytes


def of_tensor(x: ln.Tensor):
    return described(x)


def of_optional_tensor(x: ln.Tensor | None):
    return described(x)


def of_array(x: np.ndarray):
    return described(x)


def of_dict(request: dict):
    return described(request)


def of_tensors(x: dict[str, ln.Tensor]):
    return described(x)


def of_floats(x: list[float]):
    return described(x)


def of_text(x: str):
    return described(x)


def of_bytes(x: bytes):
    return described(x)


def of_int(user, x: int):
    return described(x)


def of_float(x: float = 1.0):
    return described(x)


def of_bool(x: bool):
    return described(x)


def of_struct(x: Point):
    return {"repr": repr(x)}


def of_dataclass(x: Line):
    return {"repr": repr(x)}


def of_upload(x: Upload):
    return {"repr": repr(x)}


def of_bounded(x: Annotated[int, msgspec.Meta(ge=3)]):
    return described(x)


def of_anything(x: Any):
    return described(x)


def of_unknown(x: Unknown):
    return described(x)


def of_other_class(x: pytest.Item):
    return described(x)


class Method:
    def __call__(self, x: int):
        return described(x)


FLOATS = {"list": [{"float": 1.0}, {"float": 2.0}]}
ANNOTATED = [
    (of_tensor, b"[1, 2.5]", JSON, tensor([1.0, 2.5])),
    (of_tensor, b"2", JSON, tensor(2, "int64")),
    (of_tensor, native({"tensor": np.ones(1, "float32")}), NATIVE, tensor([1.0])),
    (of_optional_tensor, b"[1.5]", JSON, tensor([1.5])),
    (of_optional_tensor, b"null", JSON, {"NoneType": None}),
    (of_array, b"[1.5]", JSON, {"ndarray": [1.5], "dtype": "float32"}),
    (of_dict, b'{"a": [1]}', JSON, {"dict": {"a": {"list": [{"int": 1}]}}}),
    (of_dict, b"a=1", FORM, {"dict": {"a": {"str": "1"}}}),
    (of_dict, native({"a": np.ones(1, "float32")}), NATIVE, {"dict": {"a": tensor([1.0])}}),
    (of_tensors, b'{"a": [1.5]}', JSON, {"dict": {"a": tensor([1.5])}}),
    (of_tensors, native({"a": np.ones(1, "float32")}), NATIVE, {"dict": {"a": tensor([1.0])}}),
    (of_floats, b"[1, 2.0]", JSON, FLOATS),
    (of_floats, native({"tensor": np.array([1, 2], "float32")}), NATIVE, FLOATS),
    (of_text, b'"a"', JSON, {"str": "a"}),
    (of_text, b"a", TEXT, {"str": "a"}),
    (of_bytes, b"a", BYTES, {"bytes": "a"}),
    (of_int, b"3", JSON, {"int": 3}),
    (of_int, b"3", TEXT, {"int": 3}),
    (of_int, native({"tensor": np.array(3)}), NATIVE, {"int": 3}),
    (of_float, b"3", JSON, {"float": 3.0}),
    (of_bool, b"true", JSON, {"bool": True}),
    (of_struct, b'{"x": 1}', JSON, "Point(x=1, y=0.5)"),
    (of_struct, b"x=1&y=2.5", FORM, "Point(x=1, y=2.5)"),
    (of_dataclass, b'{"points": [{"x": 1}]}', JSON, "Line(points=[Point(x=1, y=0.5)])"),
    (of_upload, MULTIPART, "multipart/form-data; boundary=b", "Upload(name='é', file=b'\\x00\\xff')"),
    (of_bounded, b"3", JSON, {"int": 3}),
    (of_anything, b"[1]", JSON, tensor([1], "int64")),
    (of_unknown, b"[1]", JSON, tensor([1], "int64")),
    (of_other_class, b"[1]", JSON, tensor([1], "int64")),
    (Method(), b"3", JSON, {"int": 3}),
    (Method().__call__, b"3", JSON, {"int": 3}),
]  # fmt: skip


@pytest.mark.parametrize(("function", "body", "content_type", "expected"), ANNOTATED)
def test_an_annotation_decides(function, body, content_type, expected):
    found = sent_to(function, body, content_type)
    assert found == ({"repr": expected} if isinstance(expected, str) else expected)


MISMATCHES = [
    (of_tensor, b"[[1], [2, 3]]", JSON, "parameter 'x' expects labnet.Tensor, got a list [[1], [2, 3]]"),
    (of_tensor, b'{"a": 1}', JSON, "expects labnet.Tensor, got an object {'a': 1} as application/json"),
    (of_tensor, b'"a"', JSON, "expects labnet.Tensor, got the text 'a'"),
    (of_tensor, b"null", JSON, "expects labnet.Tensor, got null"),
    (of_tensor, b"ab", BYTES, "expects labnet.Tensor, got 2 bytes as application/octet-stream"),
    (of_tensor, native({"a": np.ones(1)}), NATIVE, "expects labnet.Tensor, got an object"),
    (of_dict, b"[1]", JSON, "parameter 'request' expects dict, got a list [1] as application/json: expected `object`"),
    (of_dict, native({"tensor": np.ones(2)}), NATIVE, "expects dict, got a tensor of shape (2,) and dtype float64"),
    (of_tensors, b'{"a": [[1], [2, 3]]}', JSON, "rows of different lengths"),
    (of_floats, b'[1, "a"]', JSON, "expects list[float], got a list [1, 'a'] as application/json: expected `float`"),
    (of_text, b"1", JSON, "expects str, got the value 1"),
    (of_bytes, b'"YWJj"', JSON, "expects bytes, got the text 'YWJj'"),
    (of_bytes, b"abc", TEXT, "expects bytes, got the text 'abc' as text/plain"),
    (of_int, b"1.5", JSON, "expects int, got the value 1.5"),
    (of_int, b"a", TEXT, "expects int, got the text 'a'"),
    (of_bool, b"1", JSON, "expects bool, got the value 1"),
    (of_struct, b'{"x": "a"}', JSON, "expected `int`, got `str` - at `$.x`"),
    (of_struct, b"y=1", FORM, "missing required field `x`"),
    (of_bounded, b"2", JSON, "expected `int` >= 3"),
]


@pytest.mark.parametrize(("function", "body", "content_type", "words"), MISMATCHES)
def test_a_mismatch_names_the_parameter_what_it_expects_and_what_came(function, body, content_type, words):
    status, message = sent_to(function, body, content_type)
    assert status == 422
    assert message.startswith("/route: parameter ")
    assert words in message


@pytest.mark.parametrize(
    ("body", "content_type", "status"),
    [
        (b"{", JSON, 400),
        (b"[NaN]", JSON, 400),
        (b"[1e39]", JSON, 400),
        (b"", JSON, 400),
        (b"\xff", TEXT, 400),
        (b"a=%ff", FORM, 400),
        (b"&".join(b"a%d=1" % i for i in range(1001)), FORM, 400),
        (b"--b", "multipart/form-data", 400),
        (b"--b", "multipart/form-data; boundary=b", 400),
        (MULTIPART[: MULTIPART.index(b"--b\r\n", 3)] * 101 + b"--b--\r\n", "multipart/form-data; boundary=b", 400),
        (b"1", "text/html", 415),
        (b"1", "", 415),
        (b"{}", "application/x-labnet", 400),
    ],
)
def test_a_body_that_does_not_fit_its_content_type_is_refused(body, content_type, status):
    found = sent_to(lambda x: 1, body, content_type)
    assert found[0] == status


def test_curl_sends_an_object():
    with serve(lambda request: {"sum": request["a"] + 1}) as server:
        command = ["curl", "-sS", "--json", '{"a": 1}', "-H", f"X-Labnet-Token: {server.token}", server.url + "/route"]
        done = subprocess.run(command, capture_output=True, timeout=SECONDS, check=True)
    assert json.loads(done.stdout) == {"sum": 2}


# The logger of op statistics


@pytest.mark.parametrize("path", ["/route", ""])
def test_the_logger_of_op_statistics_posts_to_a_function(path):
    posted = []

    def collect(request: dict):
        posted.append(request)

    routes = {"route" if path else "default": collect}
    with ln.network.serve(routes, port=0) as server:
        logger = ln.network.HttpLogger(server.url + path, headers={"X-Labnet-Token": server.token})
        statistics = ln.stats.enable(logger)
        try:
            ln.ones(2) + 1
        finally:
            ln.stats.disable()
        logger(statistics)
        assert logger.wait(SECONDS)
    assert posted[-1]["ops"]["add"]["count"] == 1


# The default route


def test_the_default_route_answers_the_root_and_unknown_paths():
    with ln.network.serve({"default": lambda x=None: described(x), "other": lambda: "other"}, port=0) as server:
        for path in ("", "/nothing", "/no/thing", "/default"):
            assert fetch(server.url + path, [1.0]) == tensor([1.0])
            assert fetch(server.url + path) == {"NoneType": None}
        assert fetch(f"127.0.0.1:{server.port}", [1.0]) == tensor([1.0])
        assert fetch(server.url + "/other") == "other"
        assert fetch(server.url + "/health")["status"] == "ok"
        assert server.statistics()["default"]["hits"] == 9
        assert "nothing" not in server.statistics()


def test_a_browser_is_shown_the_panel_at_the_root():
    with ln.network.serve({"default": lambda: "default"}, port=0) as server:
        accepts = "text/html,application/xhtml+xml,*/*;q=0.8"
        assert b"<html" in http(server, "GET", "/", Accept=accepts, token=None).body
        assert http(server, "GET", "/").body == b"default"
        assert http(server, "POST", "/", b"1", Accept=accepts).body == b"default"
        assert http(server, "GET", "/nothing", Accept=accepts).body == b"default"


def test_the_default_route_needs_the_token_as_others_do():
    with ln.network.serve({"default": lambda: "default"}, port=0) as server:
        for method, path in (("GET", "/"), ("GET", "/nothing"), ("POST", "/"), ("POST", "/nothing")):
            assert http(server, method, path, b"1" if method == "POST" else None, token=None).status == 401


def test_the_default_route_does_not_stand_in_for_a_model():
    with ln.network.serve({"default": lambda x: x}, port=0) as server:
        with pytest.raises(RouteNotFound):
            ln.network.remote_model(server.url, blocking=True)(ln.ones(1))
        assert http(server, "GET", "/weights").status == 404
    with ln.network.serve_model(nn.Linear(2, 1), port=0, routes={"default": lambda: "default"}) as server:
        assert fetch(server.url) == "default"
        assert ln.network.remote_model(server.url, blocking=True)(ln.ones((1, 2))).shape == (1, 1)
        assert http(server, "GET", "/forward").status == 405


def test_without_a_default_route_unknown_paths_are_not_found():
    with serve(lambda: 1) as server:
        assert http(server, "GET", "/nothing").status == 404
        assert http(server, "POST", "/", b"1").status == 405
        assert b"<html" in http(server, "GET", "/").body
