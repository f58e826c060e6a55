"""The client's side of mistakes that newcomers make."""

import asyncio
import socket

import pytest

import labnet as ln
from labnet import nn


def test_a_forgotten_await_says_what_to_write():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = ln.network.remote_model(server.url)
        for use in (
            lambda y: ln.loss.mse(y, ln.zeros((1, 1))),
            lambda y: ln.loss.cross_entropy(y, ln.asarray([0])),
            lambda y: ln.asarray([1.0]) + y,
            ln.tanh,
        ):
            with pytest.raises(TypeError, match="await model"):
                use(remote(ln.ones((1, 2))))


def test_all_passes_on_what_is_there_already():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        now, later = ln.network.remote_model(server.url, blocking=True), ln.network.remote_model(server.url)
        x = ln.ones((1, 2))

        async def both():
            return await ln.network.all(now(x), later(x))

        a, b = asyncio.run(both())
        assert a.tolist() == b.tolist()


@pytest.mark.parametrize(
    "url", ["ftp://localhost:3000", "gopher://localhost:1", "", ":", "http://", 3000, "localhost:x"]
)
def test_what_is_no_address_is_refused_at_once(url):
    with pytest.raises(ValueError, match=r"host:port|localhost:3000"):
        ln.network.remote_model(url)


@pytest.mark.parametrize(
    ("given", "kind", "words"),
    [
        ({"timeout": "5"}, TypeError, "timeout must be a number of seconds, got str '5'"),
        ({"timeout": 0}, ValueError, "timeout must be positive seconds, got 0"),
        ({"token": 5}, TypeError, "token must be text or None, got int"),
        ({"ssl": "x"}, TypeError, "ssl must be an ssl.SSLContext, got str"),
        ({"headers": ["a"]}, TypeError, "headers must be a mapping from names to texts, got list"),
        ({"headers": {"A": 1}}, TypeError, "got one from str to int"),
        ({"headers": {"A": "secret\r\nB: c"}}, ValueError, "'A' has a line break"),
    ],
)
def test_what_a_client_cannot_be_given_is_refused_at_once(given, kind, words):
    with pytest.raises(kind, match=words) as caught:
        ln.network.remote_model("localhost:3000", **given)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1"])
def test_https_to_a_server_that_does_not_speak_it_says_so(host):
    with ln.network.serve({"one": lambda: 1}, port=0) as server:
        with pytest.raises(ln.errors.Unreachable, match="does the server speak https"):
            ln.network.tfetch(f"https://{host}:{server.port}/one", blocking=True)
        assert ln.network.tfetch(f"{host}:{server.port}/one", blocking=True) == 1


def test_https_to_a_server_that_does_not_answer_says_so():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"https://127.0.0.1:{listener.getsockname()[1]}/one"
        with pytest.raises(ln.errors.RemoteTimeout, match="does the server speak https"):
            ln.network.tfetch(url, timeout=0.5, blocking=True)


def test_gradients_without_leaves_on_this_side_say_so():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        assert "no leaves on this side" in repr(remote(ln.ones((1, 2))).sum().backward())
