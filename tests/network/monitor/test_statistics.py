"""Statistics of routes and models, over HTTP and on the handle, and fields that a handler adds."""

import asyncio
import json

import pytest

import labnet as ln
from labnet import nn
from labnet.errors import RemoteFailure
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.handlers import serve


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
