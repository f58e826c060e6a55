"""Serving again on the same port: the swap is complete, and nothing of the old model stays."""

import asyncio
import contextlib
import gc
import threading
import weakref

import pytest

import labnet as ln
from labnet import nn
from labnet.errors import GraphExpired, ServeError, StaleGradient
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.handlers import serve
from tests.helpers.network.raw_http import connection, head, http, read_reply
from tests.helpers.threads import wait_until


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
