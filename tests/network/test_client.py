"""The client's side of mistakes that newcomers make."""

import asyncio

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


def test_gradients_without_leaves_on_this_side_say_so():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = ln.network.remote_model(server.url, blocking=True)
        assert "no leaves on this side" in repr(remote(ln.ones((1, 2))).sum().backward())
