"""What a server says of itself: OpenAPI judged by a validator, metrics by Prometheus's own parser, health."""

import sys
from urllib.parse import quote, unquote

import pytest
from openapi_spec_validator import OpenAPIV31SpecValidator
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse

import labnet as ln
from labnet import nn
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.raw_http import JSON, http


def documented(x):
    """Give back what came.

    And more that is not in the summary.
    """
    return x


@pytest.fixture
def server():
    routes = {"echo": documented, "plain": lambda: 1}
    optimizer = ln.optim.SGD(lr=0.1)
    with ln.network.serve_model(nn.Linear(2, 1), optimizer, port=0, routes=routes, name="a {model}") as server:
        yield server


def described(server, **options):
    reply = http(server, "GET", "/openapi.json", **options)
    assert (reply.status, reply.headers["content-type"]) == (200, JSON)
    return reply.json()


# OpenAPI


def test_the_description_is_valid_openapi(server):
    OpenAPIV31SpecValidator(described(server)).validate()
    with ln.network.serve({"one": lambda: 1}, port=0) as other:
        OpenAPIV31SpecValidator(described(other)).validate()


def test_the_description_lists_every_route_and_method_of_the_table_and_nothing_else(server):
    paths = described(server)["paths"]
    table = {path.replace("{", "%7B").replace("}", "%7D"): route for path, route in server._port.routes.items()}
    assert {path: {m.upper() for m in item} for path, item in paths.items()} == {
        path: set(route.methods) for path, route in table.items()
    }
    for path, route in table.items():
        for operation in paths[path].values():
            assert ({} in operation.get("security", [])) == route.readable
            assert operation["summary"] or path == "/"


def test_what_the_description_says_of_bodies_is_what_the_server_accepts(server):
    offered = {"application/x-labnet", JSON, "application/x-npy", "application/octet-stream", "text/csv"}
    for path, item in described(server)["paths"].items():
        if "post" in item:
            accepted = set(item["post"]["requestBody"]["content"])
            for kind in offered:
                status = http(server, "POST", quote(unquote(path)), b"\x00", Content_Type=kind).status
                assert (status == 415) == (kind not in accepted), (path, kind)


def test_the_summary_of_a_function_is_the_first_line_of_its_docstring(server):
    assert described(server)["paths"]["/echo"]["post"]["summary"] == "Give back what came."


def test_a_replacement_changes_the_description(server):
    with ln.network.serve_model(nn.Linear(2, 1), port=server.port, name=server.name):
        assert "/echo" not in described(server)["paths"]


def test_the_description_names_version_token_and_address(server):
    document = described(server, token=None)
    assert document["info"] == {"title": "a {model}", "version": ln.__version__}
    assert document["servers"] == [{"url": server.url}]
    assert document["components"]["securitySchemes"]["token"]["name"] == "X-Labnet-Token"
    assert server.token not in str(document)


# Health


def test_health_is_readable_and_small(server):
    assert http(server, "GET", "/health", token=None).json() == {"status": "ok", "name": "a {model}"}


# Metrics


def train(server):
    remote = blocking(server)
    for _ in range(3):
        ln.loss.mse(remote(ln.ones((4, 2))), ln.zeros((4, 1))).backward()
    with pytest.raises(ln.errors.RemoteShapeError):
        remote(ln.ones((4, 5)))


def samples(families):
    found = {}
    for family in families:
        for sample in family.samples:
            route = sample.labels.get("route", "")
            found[sample.name, route + ("<=" + sample.labels["le"] if "le" in sample.labels else "")] = sample.value
    return found


@pytest.mark.parametrize(("accept", "parser"), [("", parse), ("application/openmetrics-text", parse_openmetrics)])
def test_metrics_are_what_the_statistics_say(server, accept, parser):
    train(server)
    reply = http(server, "GET", "/metrics", token=None, Accept=accept)
    assert reply.headers["content-type"].startswith(accept or "text/plain; version=0.0.4")
    families = list(parser(reply.body.decode()))
    found, state = samples(families), server.statistics()
    for route in ("forward", "optimize", "echo"):
        counted = state[route]
        assert found["labnet_requests_total", route] == counted["hits"]
        assert found["labnet_request_failures_total", route] == counted["errors"]
        assert found["labnet_requests_in_flight", route] == 0
        assert found["labnet_request_size_bytes_total", route] == counted["bytes_in"]
        assert found["labnet_response_size_bytes_total", route] == counted["bytes_out"]
        assert found["labnet_request_duration_seconds_sum", route] == pytest.approx(counted["seconds"])
        assert found["labnet_request_duration_seconds_count", route] == counted["hits"]
        assert found["labnet_request_duration_seconds_bucket", route + "<=+Inf"] == counted["hits"]
    assert found["labnet_requests_total", "forward"] == 4
    assert found["labnet_request_failures_total", "forward"] == 1
    assert found["labnet_updates_total", ""] == 3
    assert found["labnet_loss", ""] == pytest.approx(state["server"]["loss"])
    assert found["labnet_graphs", ""] == state["server"]["graphs"]["count"]
    (info,) = [family for family in families if family.name.startswith("labnet_server")]
    assert info.samples[0].labels == {"name": "a {model}", "epoch": state["server"]["epoch"]}


def test_names_follow_the_conventions(server):
    train(server)
    for family in parse(http(server, "GET", "/metrics").body.decode()):
        assert family.name.startswith("labnet_")
        assert family.documentation
        assert all(part not in family.name for part in ("milliseconds", "_ms", "percent", "kilobytes"))


def test_buckets_rise_and_hold_every_request(server):
    train(server)
    found = samples(parse(http(server, "GET", "/metrics").body.decode()))
    counts = [value for (name, where), value in found.items() if name.endswith("_bucket") and where.startswith("f")]
    assert counts == sorted(counts)
    assert counts[-1] == 4


def test_a_server_of_functions_has_metrics_without_a_model():
    with ln.network.serve({"one": lambda: 1}, port=0) as server:
        fetch(server.url + "/one")
        found = samples(parse(http(server, "GET", "/metrics").body.decode()))
        assert found["labnet_requests_total", "one"] == 1
        assert not [name for name, _ in found if "updates" in name]


def test_without_the_extra_the_error_says_what_to_install(server, monkeypatch):
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    reply = http(server, "GET", "/metrics")
    assert reply.status == 501
    assert "labnet[metrics]" in reply.json()["message"]
    assert fetch(server.url + "/plain") == 1
