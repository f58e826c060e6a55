"""Servers: handlers and what they are given, replacing and stopping, statistics."""

import asyncio
import contextlib
import functools
import gc
import inspect
import json
import signal
import subprocess
import sys
import threading
import weakref

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GraphExpired, RemoteFailure, ServeError, StaleGradient, Unreachable
from labnet.network import discovery
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch, run
from tests.helpers.network.raw_http import JSON, NATIVE, connection, forward_of, gradient_of, head, http, read_reply
from tests.helpers.network.server_process import child
from tests.helpers.threads import together, wait_until


def serve(function, **options):
    return ln.network.serve({"route": function}, port=0, **options)


class Gate:
    """A handler that says when it was entered, and goes on when it is told to."""

    def __init__(self):
        self.entered = threading.Event()
        self.opened = threading.Event()

    def __call__(self):
        self.entered.set()
        assert self.opened.wait(SECONDS)
        return "through"


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
    from labnet.network.server.routing import Users

    users = Users(capacity=2, idle_seconds=10.0)
    users.get("a", now=0.0).kept = True
    users.get("b", now=1.0)
    users.get("a", now=2.0)
    users.get("c", now=3.0)
    assert vars(users.get("a", now=4.0)) == {"kept": True}
    assert len(users) == 2
    users.get("d", now=20.0)
    assert len(users) == 1


# Ports


def test_a_port_taken_by_another_process_names_its_server():
    with child("sgd", 0, "their model") as (there, process):
        words = rf"{there['port']}.*'their model'.*{process.pid}"
        with pytest.raises(OSError, match=words):
            ln.network.serve({"a": lambda: 1}, port=there["port"])


def test_a_port_taken_by_something_else_says_so():
    code = "import socket,sys; s=socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        port = int(process.stdout.readline())
        try:
            with pytest.raises(OSError, match=f"{port}.*another process") as caught:
                ln.network.serve({"a": lambda: 1}, port=port)
            assert "\n" not in str(caught.value)
        finally:
            process.communicate("\n", SECONDS)


def test_a_runtime_file_left_by_a_killed_server_is_not_blamed():
    with child("sgd", 0, "killed") as (there, process):
        process.kill()
        process.wait(SECONDS)
    assert discovery.lookup(there["port"]).name == "killed"
    assert discovery.running(there["port"]) is None
    import socket

    with socket.create_server(("127.0.0.1", there["port"])), pytest.raises(OSError, match="another process"):
        ln.network.serve({"a": lambda: 1}, port=there["port"])
    with ln.network.serve({"a": lambda: 1}, port=there["port"]) as server:
        assert fetch(server.url + "/a") == 1


def test_another_name_on_the_same_port_is_refused_and_names_both():
    with serve(lambda: "old", name="first") as server:
        with pytest.raises(OSError, match=r"'first'.*'second'"):
            ln.network.serve({"route": lambda: "new"}, port=server.port, name="second")
        assert fetch(server.url + "/route") == "old"


def test_two_servers_of_one_process_do_not_mix():
    with serve(lambda: "a") as a, serve(lambda: "b") as b:
        assert a.port != b.port
        assert a.token != b.token
        assert (fetch(a.url + "/route"), fetch(b.url + "/route")) == ("a", "b")
        assert ln.network.servers() == {a.port: a, b.port: b}


def test_a_server_on_ipv6_can_be_called():
    with serve(lambda: "six", host="::1") as server:
        assert server.url == f"http://[::1]:{server.port}"
        assert fetch(server.url + "/route") == "six"


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_a_server_on_localhost_is_reached_by_each_of_its_names(host):
    with serve(lambda: "hi", host="localhost") as server:
        assert fetch(f"{host}:{server.port}/route", token=server.token) == "hi"


def test_localhost_finds_a_server_on_ipv6():
    with serve(lambda: "six", host="::1") as server:
        assert fetch(f"localhost:{server.port}/route") == "six"


def test_a_host_that_is_not_of_this_machine_is_an_error_that_names_it():
    with pytest.raises(OSError, match=r"192\.0\.2\.1"):
        serve(lambda: 1, host="192.0.2.1")


def test_a_refused_serve_gives_its_port_back():
    from tests.helpers.ports import free_port

    port = free_port()
    with pytest.raises(ServeError):
        ln.network.serve({"server": lambda: 1}, port=port)
    with ln.network.serve({"ok": lambda: 1}, port=port) as server:
        assert fetch(server.url + "/ok") == 1


# Serving again


def test_serving_again_by_the_same_name_swaps_in_place():
    with serve(lambda: "old", name="it") as old:
        with connection(old.port) as (sock, file):
            ask = head(old.port, "GET", "/route", {"X-Labnet-Token": old.token})
            sock.sendall(ask)
            assert read_reply(file).body == b"old"
            new = ln.network.serve({"route": lambda: "new"}, port=old.port, name="it")
            sock.sendall(ask)
            assert read_reply(file).body == b"new"
        assert (new.port, new.token) == (old.port, old.token)
        assert new.statistics()["route"]["hits"] == 2
        new.stop()


def test_an_old_handle_is_inert():
    with serve(lambda: "old", name="it") as old:
        new = ln.network.serve({"route": lambda: "new"}, port=old.port, name="it")
        assert not old.running
        assert "replaced" in repr(old)
    old.stop()
    assert new.running
    assert fetch(new.url + "/route") == "new"
    new.stop()


def test_a_refused_replacement_leaves_the_old_one_serving():
    with serve(lambda: "old", name="it") as old:
        with pytest.raises(ServeError):
            ln.network.serve({"route": 3}, port=old.port, name="it")
        assert old.running
        assert fetch(old.url + "/route") == "old"


def test_a_route_that_is_no_longer_served_is_gone():
    with serve(lambda: "old", name="it") as old:
        new = ln.network.serve({"other": lambda: 1}, port=old.port, name="it")
        with new, pytest.raises(ln.errors.RouteNotFound):
            fetch(new.url + "/route")


def test_a_token_given_when_serving_again_is_the_one_that_counts():
    with serve(lambda: "old", name="it", token=None) as old:
        new = ln.network.serve({"route": lambda: "new"}, port=old.port, name="it", token="secret")
        with new:
            assert new.token == "secret"
            assert http(new, "GET", "/route", token=None).status == 401


def test_another_host_on_the_same_port_is_not_swapped_silently():
    with serve(lambda: "four", name="it") as four:
        with pytest.raises(OSError, match=r"127\.0\.0\.1.*::1"):
            ln.network.serve({"route": lambda: "six"}, port=four.port, name="it", host="::1")
        assert fetch(four.url + "/route") == "four"


def test_graphs_of_the_replaced_model_expire():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as old:
        remote = blocking(old)
        loss = remote(ln.ones((1, 2))).sum()
        with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=old.port) as new:
            with pytest.raises(StaleGradient, match=r"another output.*applied: no"):
                loss.backward()
            assert new.statistics()["server"]["version"] == 0
            remote(ln.ones((1, 2))).sum().backward()
            assert new.statistics()["server"]["version"] == 1


def test_a_forward_that_ends_after_its_model_was_replaced_leaves_no_graph():
    entered, opened = threading.Event(), threading.Event()

    async def slow(x):
        entered.set()
        await asyncio.to_thread(opened.wait, SECONDS)
        return x * 2

    with ln.network.serve_model(slow, port=0, name="it") as old:
        outputs = []
        caller = threading.Thread(target=lambda: outputs.append(blocking(old)(ln.ones((1, 2), requires_grad=True))))
        caller.start()
        assert entered.wait(SECONDS)
        with ln.network.serve_model(nn.Linear(2, 1), port=old.port, name="it") as new:
            opened.set()
            caller.join()
            assert new.statistics()["server"]["graphs"]["count"] == 0
            with pytest.raises(StaleGradient, match="applied: no"):
                outputs[0].sum().backward()


def test_the_remote_model_of_a_port_is_not_served_on_it():
    with ln.network.serve_model(nn.Linear(2, 1), port=0, name="it") as server:
        for host in ("localhost", "127.0.0.1"):
            itself = ln.network.remote_model(f"{host}:{server.port}")
            with pytest.raises(ServeError, match=f"port {server.port} itself"):
                ln.network.serve_model(itself, port=server.port, name="it")
        assert server.running


@pytest.mark.parametrize("port", [-1, 65536, "3000", 3000.0, None, True])
def test_a_port_that_is_none_is_refused(port):
    with pytest.raises(ServeError, match="0 to 65535"):
        ln.network.serve({"a": lambda: 1}, port=port)


def test_a_class_in_place_of_an_object_is_refused_with_a_hint():
    with pytest.raises(ServeError, match=r"Adam\(\)"):
        ln.network.serve_model(nn.Linear(1, 1), ln.optim.Adam, port=0)
    with pytest.raises(ServeError, match=r"ReLU\(\)"):
        ln.network.serve_model(nn.ReLU, port=0)


def test_functions_without_names_are_refused():
    with pytest.raises(ServeError, match="by name"):
        ln.network.serve(len, port=0)


def test_a_server_for_all_hosts_is_reached_at_its_url_and_shares_another(capsys):
    with serve(lambda: "hi", host="0.0.0.0") as server:
        assert fetch(server.url + "/route") == "hi"
        capsys.readouterr()
        server.share()
        assert "0.0.0.0" not in capsys.readouterr().out


def test_graphs_of_the_replaced_model_are_freed_though_its_handle_is_held():
    seen = []

    def model(x):
        seen.append(weakref.ref(x))
        return x * 2

    with ln.network.serve_model(model, port=0) as old:
        kept = blocking(old)(ln.ones((1, 2)))
        assert seen[0]() is not None
        with ln.network.serve_model(model, port=old.port):
            gc.collect()
            assert seen[0]() is None
    assert kept.shape == (1, 2)


def test_no_request_fails_while_models_are_swapped_under_load():
    def make(factor):
        return lambda x: x * factor

    done = threading.Event()
    errors, answers = [], ([], [])

    def call(url, mine):
        remote = ln.network.remote_model(url, blocking=True)
        while not done.is_set():
            try:
                with ln.no_grad():
                    mine.append(remote(ln.ones(1)).item())
            except Exception as error:
                errors.append(error)

    def train(url):
        remote = ln.network.remote_model(url, blocking=True)
        while not done.is_set():
            try:
                remote(ln.ones(1, requires_grad=True)).sum().backward()
            except StaleGradient:
                pass  # its model was replaced between forward and backward
            except Exception as error:
                errors.append(error)

    server = ln.network.serve_model(make(0), port=0, name="it")
    url, port = server.url, server.port
    callers = [threading.Thread(target=call, args=(url, mine)) for mine in answers]
    callers.append(threading.Thread(target=train, args=(url,)))
    for caller in callers:
        caller.start()
    swaps = 50
    for factor in range(1, swaps + 1):
        server = ln.network.serve_model(make(factor), port=port, name="it")
        wait_until(lambda factor=factor: errors or all(mine and mine[-1] == factor for mine in answers))
    done.set()
    for caller in callers:
        caller.join(SECONDS)
    with server:
        forward = server.statistics()["forward"]
        assert errors == []
        for mine in answers:
            assert mine == sorted(mine)
        assert forward["hits"] >= sum(map(len, answers))
        assert forward["errors"] == 0


def test_no_update_is_missing_from_the_version_while_its_model_is_served_again():
    updates, done = [], threading.Event()
    model = nn.Linear(2, 1)

    def train(url):
        remote = ln.network.remote_model(url, blocking=True)
        while not done.is_set():
            with contextlib.suppress(StaleGradient, GraphExpired):
                remote(ln.ones((1, 2))).sum().backward()

    server = ln.network.serve_model(model, updates.append, port=0)
    trainers = [threading.Thread(target=train, args=(server.url,)) for _ in range(3)]
    for trainer in trainers:
        trainer.start()
    seen = 0
    for _ in range(40):
        wait_until(lambda seen=seen: len(updates) > seen)
        seen = len(updates)
        server = ln.network.serve_model(model, updates.append, port=server.port)
    done.set()
    for trainer in trainers:
        trainer.join(SECONDS)
    with server:
        assert server.statistics()["server"]["version"] == len(updates)


# Stopping


def test_stop_lets_a_call_under_way_come_to_its_end():
    gate = Gate()
    server = serve(gate)
    results = []
    caller = threading.Thread(target=lambda: results.append(fetch(server.url + "/route")))
    caller.start()
    assert gate.entered.wait(SECONDS)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    wait_until(lambda: server._port.draining)
    gate.opened.set()
    stopper.join(SECONDS)
    caller.join(SECONDS)
    assert results == ["through"]
    assert not server.running


def test_a_handler_may_look_at_other_servers_while_its_own_is_stopped():
    entered, stopping = threading.Event(), threading.Event()

    def handler():
        entered.set()
        stopping.wait(SECONDS)
        return len(ln.network.servers())

    server = serve(handler)
    results = []
    caller = threading.Thread(target=lambda: results.append(fetch(server.url + "/route")))
    caller.start()
    assert entered.wait(SECONDS)
    stopper = threading.Thread(target=server.stop)
    stopper.start()
    wait_until(lambda: server._port.draining)
    stopping.set()
    stopper.join(SECONDS)
    caller.join(SECONDS)
    assert results == [0]


def test_two_threads_may_stop_a_server_and_both_find_it_stopped():
    server = serve(lambda: 1)
    together(*[lambda: (server.stop(), server._port.stopped.is_set())[1]] * 4)
    assert "stopped" in repr(server)


def test_an_interrupt_while_a_server_stops_does_not_leave_it_half_stopped():
    gate = Gate()
    server = serve(gate)
    caller = threading.Thread(target=lambda: fetch(server.url + "/route"))
    caller.start()
    assert gate.entered.wait(SECONDS)

    def interrupt():
        wait_until(lambda: server._port.draining)
        threading.Event().wait(0.1)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGINT)

    interrupting = threading.Thread(target=interrupt)
    interrupting.start()
    with pytest.raises(KeyboardInterrupt):
        server.stop()
    interrupting.join()
    gate.opened.set()
    caller.join(SECONDS)
    assert server.wait(SECONDS)


def test_a_stopped_server_refuses_connections_and_its_port_is_free():
    server = serve(lambda: 1)
    server.stop()
    with pytest.raises(Unreachable):
        fetch(server.url + "/route", token="any")
    with ln.network.serve({"route": lambda: 2}, port=server.port) as again:
        assert fetch(again.url + "/route") == 2


def test_stopping_twice_does_nothing():
    server = serve(lambda: 1)
    server.stop()
    server.stop()
    assert "stopped" in repr(server)


def test_a_handler_can_stop_its_own_server():
    server = serve(lambda: server.stop(), name="it")
    with contextlib.suppress(ln.errors.RemoteError):  # how the call itself ends is open
        fetch(server.url + "/route", timeout=5.0)
    assert server.wait(SECONDS)


def test_with_stops_the_server_also_after_an_error():
    with pytest.raises(KeyError), serve(lambda: 1) as server:
        raise KeyError
    assert not server.running


def test_async_with_stops_the_server():
    async def use():
        async with serve(lambda: "hi") as server:
            assert await ln.network.tfetch(server.url + "/route") == "hi"
        return server

    assert not run(use()).running


def test_wait_returns_when_the_server_is_stopped_and_not_before():
    server = serve(lambda: 1)
    assert not server.wait(0.01)
    waiting = threading.Thread(target=server.wait)
    waiting.start()
    server.stop()
    waiting.join(SECONDS)
    assert not waiting.is_alive()
    assert server.wait()


def test_a_process_that_ends_stops_its_servers_and_withdraws_their_files():
    code = "import labnet as ln; print(ln.network.serve({'a': lambda: 1}, port=0).port)"
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, timeout=30)
    assert (done.returncode, done.stderr) == (0, "")
    assert discovery.lookup(int(done.stdout)) is None


FORKED = """
import os, signal, sys
import labnet as ln

with ln.network.serve({"one": lambda: 1}, port=0) as server:
    url = server.url + "/one"
    ln.network.tfetch(url, blocking=True)
    child = os.fork()
    if not child:
        signal.alarm(20)  # ends a child that hangs
        DO
    status = os.waitpid(child, 0)[1]
    print(status, ln.network.tfetch(url, blocking=True))
"""


@pytest.mark.parametrize("do", ["os._exit(ln.network.tfetch(url, blocking=True, timeout=15.0) != 1)", "sys.exit(0)"])
def test_a_forked_child_can_call_and_end(do):
    done = subprocess.run([sys.executable, "-c", FORKED.replace("DO", do)], capture_output=True, text=True, timeout=60)
    assert done.stdout.split() == ["0", "1"], done.stderr


def test_the_server_answers_while_the_main_thread_blocks():
    with serve(lambda: "hi") as server:
        lock = threading.Lock()
        caller = threading.Thread(target=lambda: (fetch(server.url + "/route"), lock.release()))
        lock.acquire()
        caller.start()
        assert lock.acquire(timeout=SECONDS)
        caller.join()


def test_an_async_handler_does_not_hold_up_the_others():
    async def scenario():
        entered, opened = threading.Event(), threading.Event()

        async def slow():
            entered.set()
            await asyncio.to_thread(opened.wait, SECONDS)
            return "slow"

        with ln.network.serve({"slow": slow, "quick": lambda: "quick"}, port=0) as server:
            waiting = asyncio.ensure_future(ln.network.tfetch(server.url + "/slow"))
            await asyncio.to_thread(entered.wait, SECONDS)
            assert await ln.network.tfetch(server.url + "/quick") == "quick"
            opened.set()
            assert await waiting == "slow"

    run(scenario())


def test_a_handler_that_computes_does_not_hold_up_health_and_statistics():
    gate = Gate()
    with serve(gate) as server:
        caller = threading.Thread(target=fetch, args=(server.url + "/route",))
        caller.start()
        assert gate.entered.wait(SECONDS)
        assert fetch(server.url + "/health") == {"status": "ok", "name": "route"}
        assert fetch(server.url + "/statistics")["route"]["in_flight"] == 1
        gate.opened.set()
        caller.join(SECONDS)


ODD = """
import asyncio, sys
import labnet as ln

def raises():
    raise {error}("odd")

async def async_raises():
    raise {error}("odd")

async def fine():
    return "fine"

with ln.network.serve({{"odd": {function}, "fine": fine}}, port=0) as server:
    try:
        ln.network.tfetch(server.url + "/odd", blocking=True, timeout=2.0)
    except ln.errors.RemoteError as error:
        print(type(error).__name__, flush=True)
    print(ln.network.tfetch(server.url + "/fine", blocking=True, timeout=2.0), flush=True)
"""


@pytest.mark.parametrize("error", ["SystemExit", "KeyboardInterrupt", "GeneratorExit", "asyncio.CancelledError"])
@pytest.mark.parametrize("function", ["raises", "async_raises"])
def test_whatever_a_handler_raises_is_answered_and_the_next_call_too(error, function):
    code = ODD.format(error=error, function=function)  # in a process of its own: it may end an event loop
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=30)
    assert done.stdout.split() == ["RemoteFailure", "fine"], done.stderr


# Statistics


def test_statistics_of_a_route_have_these_fields():
    with serve(lambda x: x) as server:
        fetch(server.url + "/route", ln.ones(4))
        route = fetch(server.url + "/statistics")["route"]
    assert route.keys() == {"hits", "seconds", "errors", "in_flight", "bytes_in", "bytes_out", "latency"}
    assert (route["hits"], route["errors"], route["in_flight"]) == (1, 0, 0)
    assert route["bytes_in"] > 16
    assert route["bytes_out"] > 16
    assert 0 < route["seconds"] < SECONDS
    latency = route["latency"]
    assert 0 < latency["p50"] <= latency["p90"] <= latency["p99"] <= latency["max"]
    assert latency["max"] == pytest.approx(route["seconds"], rel=0.02, abs=2e-6)


def test_statistics_of_a_model_have_its_state_under_server():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, name="mlp") as server:
        remote = blocking(server)
        assert server.statistics()["server"]["loss"] is None
        remote(ln.ones((1, 2)))
        loss = ln.loss.mse(remote(ln.ones((1, 2))), ln.zeros((1, 1)))
        loss.backward()
        state = server.statistics()["server"]
        assert (state["name"], state["version"], state["graphs"]["count"]) == ("mlp", 1, 1)
        assert state["graphs"]["bytes"] > 0
        assert state["loss"] == pytest.approx(loss.item())
        assert state["uptime"] > 0
        assert isinstance(state["epoch"], str)


def test_statistics_are_the_same_over_http_and_on_the_handle():
    with serve(lambda: 1) as server:
        fetch(server.url + "/route")
        over_http, here = fetch(server.url + "/statistics"), server.statistics()
    del over_http["server"]["uptime"], here["server"]["uptime"]
    assert json.loads(json.dumps(here)) == over_http


def test_statistics_of_a_stopped_server_can_still_be_read():
    with serve(lambda: 1) as server:
        fetch(server.url + "/route")
    assert server.statistics()["route"]["hits"] == 1


def test_routes_that_only_tell_are_not_counted():
    with serve(lambda: 1) as server:
        for path in ("/statistics", "/health", "/snapshot"):
            fetch(server.url + path)
        assert server.statistics().keys() == {"route", "server"}


def test_errors_are_counted():
    def fails():
        raise ValueError

    with serve(fails) as server:
        with pytest.raises(RemoteFailure):
            fetch(server.url + "/route")
        assert server.statistics()["route"]["errors"] == 1


def test_staleness_is_how_many_updates_came_between_forward_and_backward():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        remote = blocking(server)
        late = remote(ln.ones((1, 2))).sum()
        for _ in range(3):
            remote(ln.ones((1, 2))).sum().backward()
        late.backward()
        assert server.statistics()["server"]["staleness"] == 3


@pytest.mark.parametrize("kind", ["sync", "async"])
def test_a_statistics_handler_adds_its_fields(kind):
    def extra():
        return {"accuracy": 0.9}

    async def async_extra():
        await asyncio.sleep(0)
        return {"accuracy": 0.9}

    routes = {"route": lambda: 1, "statistics": extra if kind == "sync" else async_extra}
    with ln.network.serve(routes, port=0) as server:
        over_http = fetch(server.url + "/statistics")
        assert over_http["accuracy"] == 0.9
        assert over_http.keys() == {"accuracy", "route", "server"}
        assert server.statistics()["accuracy"] == 0.9


def test_a_statistics_handler_can_fetch_another_server():
    async def children():
        return {"child": await ln.network.tfetch(inner.url + "/statistics")}

    with serve(lambda: 1) as inner:
        fetch(inner.url + "/route")
        with ln.network.serve({"statistics": children}, port=0) as outer:
            assert fetch(outer.url + "/statistics")["child"]["route"]["hits"] == 1


@pytest.mark.parametrize("extra", [{"server": 1}, {"route": 1}, [1], "text", None])
def test_a_statistics_handler_that_collides_is_an_error_of_the_server(extra):
    with ln.network.serve({"route": lambda: 1, "statistics": lambda: extra}, port=0) as server:
        with pytest.raises(RemoteFailure, match="statistics"):
            fetch(server.url + "/statistics")
        assert fetch(server.url + "/route") == 1


def test_a_snapshot_has_the_last_minute_and_the_loss_curve():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        remote = blocking(server)
        for _ in range(3):
            remote(ln.ones((1, 2))).sum().backward()
        snapshot = fetch(server.url + "/snapshot")
        assert snapshot["loss"]["steps"] == [1, 2, 3]
        assert len(snapshot["loss"]["values"]) == 3
        assert len(snapshot["recent"]["forward"]["hits"]) == 60
        assert snapshot["statistics"]["forward"]["hits"] == 3


# Models


def test_a_call_in_eval_mode_keeps_no_graph():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        with ln.no_grad():
            y = blocking(server)(ln.ones((1, 2)))
        assert not y.requires_grad
        reply = http(server, "POST", "/forward", b"[[1.0, 2.0]]")
        assert "labnet-call" not in reply.headers
        assert server.statistics()["server"]["graphs"] == {"count": 0, "bytes": 0, "evicted": 0}


def test_the_mode_is_per_call():
    class Tell(nn.Module):
        def forward(self, x):
            return x * 0 + float(self.training)

    with ln.network.serve_model(Tell(), port=0) as server:
        remote = blocking(server)
        for _ in range(2):
            assert remote(ln.ones(1)).item() == 1.0
            with ln.no_grad():
                assert remote(ln.ones(1)).item() == 0.0
            assert http(server, "POST", "/forward", b"[1.0]").json() == [0.0]


def test_a_call_in_eval_mode_leaves_the_owners_model_in_training_mode():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server, ln.no_grad():
        blocking(server)(ln.ones((1, 2)))
    assert model.training


def test_named_inputs_and_outputs_under_no_grad():
    def model(a, b):
        return {"sum": a + b, "product": a * b}

    with ln.network.serve_model(model, port=0) as server, ln.no_grad():
        y = blocking(server)(a=ln.ones(2), b=ln.full(2, 3.0))
        assert {name: tensor.tolist() for name, tensor in y.items()} == {"sum": [4.0, 4.0], "product": [3.0, 3.0]}


def test_weights_can_be_read():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server:
        state = blocking(server).state_dict()
        assert state.keys() == {"weight", "bias"}
        np.testing.assert_array_equal(state["weight"].numpy(), model.weight.numpy())
        assert http(server, "GET", "/weights", token=None).status == 401


def test_a_model_that_returns_no_tensor_is_an_error_of_the_call():
    with ln.network.serve_model(lambda x: "text", port=0) as server, pytest.raises(RemoteFailure, match="str 'text'"):
        blocking(server)(ln.ones(1))


def test_kept_graphs_are_bounded_and_the_oldest_expires():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = blocking(server)
        first = remote(ln.ones((1, 2), requires_grad=True)).sum()
        for _ in range(1024):
            remote(ln.ones((1, 2)))
        graphs = server.statistics()["server"]["graphs"]
        assert (graphs["count"], graphs["evicted"]) == (1024, 1)
        first.backward()
        assert server.statistics()["forward"]["hits"] == 1 + 1024 + 1


def test_weights_are_not_counted_as_bytes_of_every_graph():
    with ln.network.serve_model(nn.Linear(1000, 1000), port=0) as server:
        blocking(server)(ln.ones((1, 1000)))
        assert server.statistics()["server"]["graphs"]["bytes"] < 100_000


def test_a_model_in_json_runs_on_whole_numbers_too():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        for body in (b"[[1.0, 2.0]]", b"[[1, 2]]"):
            reply = http(server, "POST", "/forward", body)
            assert reply.status == 200, reply.body
            assert np.shape(reply.json()) == (1, 1)


def test_many_clients_at_once_get_their_own_answers():
    with serve(lambda x: x + 1) as server:

        def calls(start):
            return [fetch(server.url + "/route", ln.asarray(float(start + i))).item() for i in range(50)]

        results = together(*(lambda start=100 * k: calls(start) for k in range(8)))
    assert results == [[100.0 * k + i + 1 for i in range(50)] for k in range(8)]


def test_a_graph_is_found_by_its_call_and_not_by_its_connection():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        reply = forward_of(server, np.ones((1, 2), "float32"))
        assert reply.headers["content-type"] == NATIVE
        assert gradient_of(server, reply.headers["labnet-call"], np.ones((1, 1), "float32")).status == 200


# Command line


def curl(*arguments):
    done = subprocess.run(["curl", "-s", "-S", *arguments], capture_output=True, text=True, timeout=SECONDS, check=True)
    return json.loads(done.stdout)


def test_curl_shows_the_statistics_without_a_token():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        blocking(server)(ln.ones((1, 2)))
        found = curl(f"localhost:{server.port}/statistics")
        assert found["forward"]["hits"] == 1
        assert found["forward"]["seconds"] > 0


def test_curl_runs_the_model_with_a_json_body():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server:
        arguments = ["-H", f"X-Labnet-Token: {server.token}", "-H", f"Content-Type: {JSON}", "-d", "[[1.0, 2.0]]"]
        found = curl(*arguments, f"http://127.0.0.1:{server.port}/forward")
    np.testing.assert_allclose(found, model(ln.asarray([[1.0, 2.0]])).numpy(), rtol=1e-6)


def test_curl_without_a_token_is_told_what_is_missing():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        found = curl("-H", f"Content-Type: {JSON}", "-d", "[[1.0, 2.0]]", server.url + "/forward")
    assert found["error"] == "Unauthorized"
    assert "X-Labnet-Token" in found["message"]
