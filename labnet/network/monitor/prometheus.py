"""``/metrics``: the counters of a server for Prometheus; needs the optional extra ``metrics``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from labnet import wire
from labnet.network.server.routing import Failure
from labnet.stats import RouteStatistics

if TYPE_CHECKING:
    from prometheus_client.core import Metric

#: Upper bounds of the latency buckets, in seconds.
BUCKETS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)


def exposition(accept: str, routes: Mapping[str, RouteStatistics], server: Mapping[str, Any]) -> wire.Body:
    """Encode the counters in the text format that Accept names: Prometheus's own or OpenMetrics.

    Parameters
    ----------
    accept : str
        Header of the request.
    routes : mapping of str to RouteStatistics
        Counters by route name.
    server : mapping
        The field ``server`` of the statistics.

    Raises
    ------
    Failure
        501 if prometheus-client is not installed.
    """
    try:
        from prometheus_client import CollectorRegistry
        from prometheus_client.exposition import choose_encoder
    except ImportError:
        raise Failure(
            501,
            "RemoteFailure",
            "/metrics needs the package prometheus-client where the server runs: pip install 'labnet[metrics]'",
        ) from None

    class Collector:
        def collect(self) -> "Iterable[Metric]":
            yield from _of_routes(routes)
            yield from _of_server(server)

    registry = CollectorRegistry(auto_describe=False)
    registry.register(Collector())
    encode, content_type = choose_encoder(accept)
    return wire.Body(content_type, [encode(registry)])


def _of_routes(routes: Mapping[str, RouteStatistics]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    requests = CounterMetricFamily("labnet_requests", "Requests answered", labels=["route"])
    failures = CounterMetricFamily("labnet_request_failures", "Requests answered with an error", labels=["route"])
    received = CounterMetricFamily("labnet_request_size_bytes", "Bytes of request bodies", labels=["route"])
    sent = CounterMetricFamily("labnet_response_size_bytes", "Bytes of response bodies", labels=["route"])
    running = GaugeMetricFamily("labnet_requests_in_flight", "Requests being answered", labels=["route"])
    duration = HistogramMetricFamily("labnet_request_duration_seconds", "Time to answer", labels=["route"])
    for name, route in routes.items():
        requests.add_metric([name], route.hits)
        failures.add_metric([name], route.errors)
        received.add_metric([name], route.bytes_in)
        sent.add_metric([name], route.bytes_out)
        running.add_metric([name], route.in_flight)
        counts = [*zip(map(str, BUCKETS), route.at_most(BUCKETS), strict=True), ("+Inf", route.hits)]
        duration.add_metric([name], counts, sum_value=route.seconds)
    return iter([requests, failures, received, sent, running, duration])


def _of_server(server: Mapping[str, Any]) -> "Iterator[Metric]":
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily

    yield InfoMetricFamily("labnet_server", "The server", {"name": server["name"], "epoch": server["epoch"]})
    yield GaugeMetricFamily("labnet_uptime_seconds", "Time since the server started", server["uptime"])
    logged = GaugeMetricFamily("labnet_metric", "Last value of a metric that users log", labels=["name"])
    for name, value in server["metrics"].items():
        logged.add_metric([name], value)
    yield logged
    yield GaugeMetricFamily("labnet_cpu_seconds", "Processor time of the process", server["process"]["cpu_seconds"])
    yield GaugeMetricFamily("labnet_memory_bytes", "Memory of the process", server["process"]["memory"])
    yield GaugeMetricFamily("labnet_users", "Clients with a namespace", server["users"])
    if "version" not in server:
        return
    graphs = server["graphs"]
    yield CounterMetricFamily("labnet_updates", "Updates of the weights", server["version"])
    yield GaugeMetricFamily("labnet_graphs", "Graphs kept for a backward", graphs["count"])
    yield GaugeMetricFamily("labnet_graphs_bytes", "Memory held by kept graphs", graphs["bytes"])
    yield CounterMetricFamily("labnet_graphs_evicted", "Graphs dropped before their backward", graphs["evicted"])
    yield GaugeMetricFamily("labnet_examples_per_second", "Rows trained with", server["examples_per_second"])
    if server["learning_rate"] is not None:
        yield GaugeMetricFamily("labnet_learning_rate", "Learning rate of the optimizer", server["learning_rate"])
    if server["loss"] is not None:
        yield GaugeMetricFamily("labnet_loss", "Loss of the last update", server["loss"])
