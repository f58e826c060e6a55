"""Statistics of servers that ask other servers: depth, circles, time, and parts that fail."""

import pytest

import labnet as ln
from labnet.network.protocol import trail
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.example_servers import process, processes
from tests.helpers.network.raw_http import http, scripted


def connect(url, neighbour):
    fetch(url + "/connect", ln.asarray(list(neighbour.encode())))


def depth(document):
    return 1 + (depth(document["next"]) if "next" in document else 0)


def deepest(document):
    return deepest(document["next"]) if "next" in document else document


def test_a_circle_of_servers_ends_where_it_closes():
    with processes(("asks_a_neighbour",), ("asks_a_neighbour",)) as (first, second):
        connect(first, second)
        connect(second, first)
        document = fetch(first + "/statistics")
    assert depth(document) == 3
    assert "circle" in deepest(document)["server"]["incomplete"]
    assert deepest(document)["server"]["epoch"] == document["server"]["epoch"]


def test_a_server_that_asks_itself_ends_at_once():
    with process("asks_a_neighbour") as url:
        connect(url, url)
        assert depth(fetch(url + "/statistics")) == 2


def test_a_long_row_of_servers_ends_after_eight(monkeypatch):
    monkeypatch.setattr(trail, "BUDGET_SECONDS", SECONDS)  # the number ends it, not the time of a busy machine

    def serve(following):
        async def statistics():
            return {} if following is None else {"next": await ln.network.tfetch(following.url + "/statistics")}

        return ln.network.serve({"statistics": statistics}, port=0)

    servers = []
    try:
        for _ in range(trail.DEPTH + 2):
            servers.append(serve(servers[-1] if servers else None))
        document = servers[-1].statistics()
    finally:
        for server in servers:
            server.stop()
    assert depth(document) == trail.DEPTH
    assert "8 servers" in deepest(document)["server"]["incomplete"]


def test_a_part_that_is_down_leaves_the_servers_own_counters():
    with process("asks_a_neighbour") as url:
        with process("asks_a_neighbour") as gone:
            connect(url, gone)
        document = fetch(url + "/statistics")
    assert document["connect"]["hits"] == 1
    assert "Connection refused" in document["server"]["incomplete"]


def test_a_part_that_never_answers_costs_no_more_than_the_budget():
    with processes(("asks_a_neighbour",), ("never_says",)) as (url, silent):
        connect(url, silent)
        document = fetch(url + "/statistics", timeout=SECONDS)
    assert "longer than" in deepest(document)["server"]["incomplete"]
    assert document["next"]["route"]["hits"] == 0


def test_a_blocking_handler_is_bounded_as_well():
    with process("never_says") as silent:
        remote = ln.network.remote_model(silent, blocking=True)
        with ln.network.serve({"statistics": lambda: {"next": remote.statistics()}}, port=0) as server:
            assert "longer than" in server.statistics()["next"]["server"]["incomplete"]


@pytest.mark.parametrize("trail", ["", "x", "1.5", "-1 ab", "nan ab", "1e9 ab", "1 ab" + " ab" * 8, "1 " + "f" * 65])
def test_a_trail_that_cannot_be_read_begins_anew(trail):
    with ln.network.serve({"statistics": lambda: {"extra": 1}}, port=0) as server:
        assert http(server, "GET", "/statistics", Labnet_Trail=trail).json()["extra"] == 1


def test_a_client_cannot_ask_for_more_time_than_the_budget():
    assert trail.Trail.read({trail.TRAIL: "999 ab"}).remaining_seconds <= trail.BUDGET_SECONDS


def test_no_address_in_a_request_is_ever_fetched():
    """Statistics with whatever a client may send reach no other server."""
    with ln.network.serve({"route": lambda: 1}, port=0) as victim:
        with ln.network.serve({"statistics": lambda: {"extra": 1}, "route": lambda: 1}, port=0) as server:
            for path in (f"/statistics?url={victim.url}", f"/statistics?children={victim.url}"):
                reply = http(
                    server, "GET", path, Labnet_Trail=victim.url, Referer=victim.url, X_Forwarded_Host=victim.url
                )
                assert reply.status == 200
        assert victim.statistics()["route"]["hits"] == 0
        assert victim.statistics()["server"]["users"] == 0


@pytest.mark.parametrize("address", ["169.254.169.254", "[fe80::1]"])
def test_the_address_of_a_clouds_keys_is_never_asked(address):
    async def statistics():
        return {"part": await ln.network.tfetch(f"http://{address}/statistics")}

    with ln.network.serve({"statistics": statistics}, port=0) as server:
        assert "link-local" in server.statistics()["server"]["incomplete"]


def test_a_redirect_of_a_part_is_not_followed():
    with ln.network.serve({"route": lambda: 1}, port=0) as victim:
        redirect = f"HTTP/1.1 302 Found\r\nLocation: {victim.url}/route\r\nContent-Length: 0\r\n\r\n"
        with scripted(redirect.encode()) as port:
            remote = ln.network.remote_model(f"localhost:{port}", blocking=True)
            with ln.network.serve({"statistics": lambda: {"part": remote.statistics()}}, port=0) as server:
                assert "302" in server.statistics()["server"]["incomplete"]
        assert victim.statistics()["route"]["hits"] == 0


@pytest.mark.parametrize("name", ["server", "weights", "snapshot", "health"])
def test_a_name_that_statistics_or_the_server_need_is_refused_at_once(name):
    with pytest.raises(ln.errors.ServeError, match="reserved"):
        ln.network.serve({name: lambda: 1}, port=0)


@pytest.mark.parametrize("name", ["forward", "optimize"])
def test_a_name_of_the_models_own_routes_is_refused_at_once(name):
    with pytest.raises(ln.errors.ServeError, match="own"):
        ln.network.serve_model(ln.nn.Linear(1, 1), port=0, routes={name: lambda: 1})
