"""A server answers short requests while it decodes and encodes long bodies."""

import json
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import json_codec, wire
from tests.helpers.constants import SECONDS
from tests.helpers.network.handlers import serve
from tests.helpers.network.raw_http import JSON, TOKEN, connection, head, http, read_reply

#: 26 MB of JSON in, 11 MB out.
MANY, FEWER = 1_300_000, 560_000


class Conversion:
    """The decoding or encoding of a long body, which begins once /health was answered meanwhile."""

    def __init__(self, monkeypatch, name):
        self.begun, self.proceed = threading.Event(), threading.Event()
        self.was_held = True
        convert = getattr(json_codec, name)

        def held(value, **options):
            is_long = len(value) > 1 << 20 if name == "decode" else json_codec.is_long(value, (ln.Tensor, np.ndarray))
            if is_long:
                self.begun.set()
                self.was_held = self.proceed.wait(SECONDS)
            return convert(value, **options)

        monkeypatch.setattr(json_codec, name, held)

    def reply_after_health(self, server, request):
        """Send a request, have /health answered during its conversion, and return its reply."""
        with connection(server.port) as (sock, file), connection(server.port) as (other, health):
            sock.sendall(request)
            assert self.begun.wait(SECONDS)
            for _ in range(3):
                other.sendall(head(server.port, "GET", "/health"))
                assert read_reply(health).status == 200
            self.proceed.set()
            reply = read_reply(file)
        assert self.was_held
        assert reply.status == 200
        return reply


def post(server, path, body):
    fields = {"Content-Type": JSON, "Content-Length": str(len(body)), TOKEN: server.token}
    return head(server.port, "POST", path, fields) + body


@pytest.mark.parametrize("rows", [1, 1000, MANY])
def test_health_is_answered_while_a_long_body_is_decoded(monkeypatch, rows):
    decoding = Conversion(monkeypatch, "decode")
    numbers = np.random.default_rng(0).random(MANY)
    body = json.dumps(numbers.reshape(rows, -1).tolist()).encode()
    with serve(lambda x: list(x.shape)) as server:
        reply = decoding.reply_after_health(server, post(server, "/route", body))
    assert reply.json() == [rows, MANY // rows]


@pytest.mark.parametrize("is_async", [False, True])
@pytest.mark.parametrize("rows", [1, FEWER])
def test_health_is_answered_while_a_long_reply_is_encoded(monkeypatch, rows, is_async):
    encoding = Conversion(monkeypatch, "encode")
    x = ln.rand((rows, FEWER // rows))

    async def later():
        return x

    with serve(later if is_async else lambda: x) as server:
        request = head(server.port, "GET", "/route", {TOKEN: server.token, "Accept": JSON})
        reply = encoding.reply_after_health(server, request)
    np.testing.assert_array_equal(np.array(reply.json(), "float32"), x.numpy())


@pytest.mark.parametrize("path", ["/forward", "/v2/models/model/infer"])
@pytest.mark.parametrize("name", ["decode", "encode"])
def test_health_is_answered_during_a_long_forward_in_json(monkeypatch, path, name):
    conversion = Conversion(monkeypatch, name)
    numbers = np.random.default_rng(0).random((1000, FEWER // 1000)).astype("float32")
    body = json.dumps(numbers.tolist())
    if path != "/forward":
        shape = list(numbers.shape)
        body = f'{{"inputs": [{{"name": "x", "shape": {shape}, "datatype": "FP32", "data": {body}}}]}}'
    with ln.network.serve_model(lambda x: x * 2, port=0, name="model") as server:
        reply = conversion.reply_after_health(server, post(server, path, body.encode()))
    found = reply.json() if path == "/forward" else reply.json()["outputs"][0]["data"]
    np.testing.assert_array_equal(np.array(found, "float32").reshape(numbers.shape), numbers * 2)


def test_short_bodies_are_decoded_without_a_thread(monkeypatch):
    threads = []
    decode = wire.decode_message
    monkeypatch.setattr(
        wire, "decode_message", lambda *a: threads.append(threading.current_thread().name) or decode(*a)
    )
    with ln.network.serve_model(lambda x: x * 2, port=0) as server:
        assert http(server, "POST", "/forward", b"[[1.0]]").json() == [[2.0]]
        assert http(server, "POST", "/forward", json.dumps([[1.0] * 40_000]).encode()).status == 200
    assert threads[0] == "labnet-io"
    assert threads[1] != "labnet-io"


def test_the_files_of_the_panel_are_read_once(monkeypatch):
    from labnet.network import panel_page

    with serve(lambda: 1) as server:
        first = http(server, "GET", "/panel.js").body
        monkeypatch.setattr(panel_page, "_FOLDER", None)
        assert http(server, "GET", "/panel.js").body == first
        assert b"<html" in http(server, "GET", "/").body
