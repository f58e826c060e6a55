"""Serve routes that fail, and catch the error of a call."""

import contextlib

import pytest

import labnet as ln
from labnet import errors, nn
from tests.helpers.network.client_calls import blocking

LIMIT = 1 << 16


def fails(x):
    raise KeyError("the key")


def caught(kind, call):
    with pytest.raises(errors.RemoteError) as info:
        call()
    assert type(info.value) is kind, repr(info.value)
    return info.value


@contextlib.contextmanager
def error_server():
    """Serve routes that fail; the server must still answer at the end."""
    routes = {"echo": lambda x: x, "fails": fails, "odd": lambda: 1j}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes, max_body=LIMIT) as server:
        yield server
        assert blocking(server)(ln.ones((1, 2))).shape == (1, 1)
        assert server.statistics()["forward"]["in_flight"] == 0
