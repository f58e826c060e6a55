"""Handlers: what they are given and may return, and the namespaces of users."""

import asyncio
import functools
import inspect

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import RemoteFailure, ServeError
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.handlers import serve
from tests.helpers.network.raw_http import http

# What handlers are given


def with_user_and_tensor(user, tensor):
    return {"user": type(user).__name__, "sum": float(tensor.sum())}


def with_other_names(anything, data):
    return with_user_and_tensor(anything, data)


async def async_with_user_and_tensor(user, tensor):
    await asyncio.sleep(0)
    return with_user_and_tensor(user, tensor)


@pytest.mark.parametrize("function", [with_user_and_tensor, with_other_names, async_with_user_and_tensor])
def test_two_parameters_are_given_the_user_and_the_tensor(function):
    with serve(function) as server:
        assert fetch(server.url + "/route", ln.ones(3)) == {"user": "SimpleNamespace", "sum": 3.0}


class Doubler:
    def __call__(self, x):
        return x * 2

    def method(self, x):
        return x * 2

    @staticmethod
    def static(x):
        return x * 2


async def async_double(x):
    await asyncio.sleep(0)
    return x * 2


DOUBLERS = {
    "lambda": lambda x: x * 2,
    "async": async_double,
    "lambda with a default": lambda x=None: x * 2,
    "second parameter with a default": lambda x, factor=2: x * factor,
    "keyword with a default": lambda x, *, factor=2: x * factor,
    "positional only": lambda x, /: x * 2,
    "any number": lambda *tensors: tensors[0] * 2,
    "anything": lambda *tensors, **named: tensors[0] * 2,
    "partial": functools.partial(lambda factor, x: x * factor, 2),
    "partial by name": functools.partial(lambda x, factor: x * factor, factor=2),
    "object": Doubler(),
    "method": Doubler().method,
    "static method": Doubler.static,
    "lambda that returns an awaitable": lambda x: async_double(x),
    "module": nn.Sequential(lambda x: x * 2),
}


@pytest.mark.parametrize("name", DOUBLERS)
def test_one_parameter_is_given_the_tensor(name):
    with serve(DOUBLERS[name]) as server:
        assert fetch(server.url + "/route", ln.ones(2)).tolist() == [2.0, 2.0]


def test_one_parameter_named_user_is_given_the_user():
    with serve(lambda user: type(user).__name__) as server:
        assert fetch(server.url + "/route") == "SimpleNamespace"
        assert fetch(server.url + "/route", ln.ones(1)) == "SimpleNamespace"


def test_no_parameter_is_given_nothing():
    with serve(lambda: "hi") as server:
        assert fetch(server.url + "/route") == "hi"
        assert fetch(server.url + "/route", ln.ones(1)) == "hi"


def test_a_handler_of_user_and_an_optional_tensor_is_given_both():
    with serve(lambda user, x=None: None if x is None else x * 2) as server:
        assert fetch(server.url + "/route") is None
        assert fetch(server.url + "/route", ln.ones(2)).tolist() == [2.0, 2.0]


def test_a_second_parameter_with_a_default_is_left_alone():
    with serve(lambda x, scale=3: x * scale) as server:
        assert fetch(server.url + "/route", ln.ones(1)).tolist() == [3.0]


def test_a_function_without_a_readable_signature_is_given_the_tensor():
    with pytest.raises(ValueError, match="signature"):
        inspect.signature(max)
    with serve(max) as server:
        assert fetch(server.url + "/route", ln.asarray([1.0, 3.0, 2.0])).item() == 3.0


def test_a_default_is_used_where_no_tensor_was_sent():
    with serve(lambda x=None: "none" if x is None else "tensor") as server:
        assert fetch(server.url + "/route") == "none"
        assert fetch(server.url + "/route", ln.ones(1)) == "tensor"


def test_a_handler_that_needs_a_tensor_says_so():
    with serve(lambda x: x) as server, pytest.raises(ln.errors.BadRequest, match="needs a tensor"):
        fetch(server.url + "/route")


def test_a_dict_of_tensors_is_given_as_a_dict():
    with serve(lambda d: {name: tensor * 2 for name, tensor in d.items()}) as server:
        found = fetch(server.url + "/route", {"a": ln.ones(2), "b": ln.zeros((1, 2))})
        assert {name: tensor.tolist() for name, tensor in found.items()} == {"a": [2.0, 2.0], "b": [[0.0, 0.0]]}


RETURNED = {
    "text": ("héllo", "héllo"),
    "bytes": (b"\0\xff", b"\0\xff"),
    "none": (None, None),
    "number": (3.5, 3.5),
    "list": ([1, None, "a"], [1, None, "a"]),
    "dict": ({"a": [1]}, {"a": [1]}),
    "numpy scalar": (np.int64(3), 3),
    "tensor among data": ({"a": ln.ones(2), "b": "x"}, {"a": [1.0, 1.0], "b": "x"}),
}


@pytest.mark.parametrize("name", RETURNED)
def test_a_handler_may_return(name):
    returned, received = RETURNED[name]
    with serve(lambda: returned) as server:
        assert fetch(server.url + "/route") == received


@pytest.mark.parametrize("dtype", ["bool", "int8", "uint16", "int64", "float16", "float32", "float64"])
@pytest.mark.parametrize("shape", [(), (0,), (2, 0, 3), (2, 3)])
def test_a_tensor_of_any_shape_and_dtype_comes_back(dtype, shape):
    x = ln.ones(shape, dtype=dtype)
    with serve(lambda x: x) as server:
        y = fetch(server.url + "/route", x)
        assert (y.shape, y.dtype) == (x.shape, x.dtype)
        np.testing.assert_array_equal(y.numpy(), x.numpy())


def test_what_cannot_be_sent_is_an_error_of_the_call():
    with serve(lambda: object()) as server, pytest.raises(RemoteFailure, match="object"):
        fetch(server.url + "/route")


@pytest.mark.parametrize(
    ("routes", "words"),
    [
        ({}, "functions by name"),
        ({"a": 3}, "expected a function"),
        ({"a": lambda a, b, c: 1}, "takes"),
        ({"a": lambda *, key: 1}, "takes"),
        ({"": lambda: 1}, "name"),
        ({"/a": lambda: 1}, "name"),
        ({"a/b": lambda: 1}, "name"),
        ({"a b": lambda: 1}, "name"),
        ({"a?b": lambda: 1}, "name"),
        ({"a%62": lambda: 1}, "name"),
        ({3: lambda: 1}, "name"),
        ({"größe": lambda: 1}, "größe"),
        ({"server": lambda: 1}, "reserved"),
        ({"health": lambda: 1}, "reserved"),
        ({"snapshot": lambda: 1}, "reserved"),
        ({"weights": lambda: 1}, "reserved"),
        ({"panel.js": lambda: 1}, "reserved"),
    ],
)
def test_a_route_that_cannot_be_served_is_refused(routes, words):
    with pytest.raises(ServeError, match=words):
        ln.network.serve(routes, port=0)


@pytest.mark.parametrize("name", ["forward", "optimize"])
def test_a_route_that_collides_with_the_models_is_refused(name):
    with pytest.raises(ServeError, match=name):
        ln.network.serve_model(nn.Linear(1, 1), port=0, routes={name: lambda: 1})


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"token": 5}, "token must be text, 'auto' or None, got int"),
        ({"token": ""}, "token must not be empty"),
        ({"name": 5}, "name must be text that is not empty, got 5"),
        ({"name": ""}, "name must be text that is not empty, got ''"),
        ({"max_body": -1}, "max_body must be a number of bytes from 1 on, got -1"),
        ({"max_body": "1MB"}, "got '1MB'"),
        ({"routes": [1]}, r"routes as functions by name, such as .*, got \[1\]"),
    ],
)
def test_what_a_server_cannot_be_given_is_refused(given, words):
    with pytest.raises(ServeError, match=words):
        ln.network.serve_model(nn.Linear(1, 1), port=0, **given)


def test_a_model_that_is_no_function_is_refused():
    with pytest.raises(ServeError, match="int 3"):
        ln.network.serve_model(3, port=0)
    with pytest.raises(ServeError, match="optimizer"):
        ln.network.serve_model(nn.Linear(1, 1), 0.1, port=0)


@pytest.mark.parametrize("name", ["a-b", "a.b", "_a"])
def test_a_route_that_was_accepted_can_be_called(name):
    with ln.network.serve({name: lambda: "hi"}, port=0) as server:
        assert fetch(f"{server.url}/{name}") == "hi"


# Users


def count(user):
    user.count = getattr(user, "count", 0) + 1
    return user.count


def test_every_client_has_a_namespace_that_lives_between_its_calls():
    with serve(count) as server:
        url = server.url + "/route"
        assert [fetch(url, client="a"), fetch(url, client="b"), fetch(url, client="a")] == [1, 1, 2]


def test_a_process_is_one_client():
    with serve(count) as server:
        assert [fetch(server.url + "/route") for _ in range(3)] == [1, 2, 3]


def test_without_an_id_the_namespace_is_fresh_for_each_call():
    with serve(count) as server:
        assert [http(server, "GET", "/route").json() for _ in range(2)] == [1, 1]


def test_namespaces_are_bounded_and_idle_ones_dropped():
    from labnet.network.server.functions import Users

    users = Users(capacity=2, idle_seconds=10.0)
    users.get("a", now=0.0).kept = True
    users.get("b", now=1.0)
    users.get("a", now=2.0)
    users.get("c", now=3.0)
    assert vars(users.get("a", now=4.0)) == {"kept": True}
    assert len(users) == 2
    users.get("d", now=20.0)
    assert len(users) == 1
