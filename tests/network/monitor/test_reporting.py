"""Op statistics across processes: a client collects, the servers' figures come with the replies."""

import http.server
import json
import os
import threading

import pytest

import labnet as ln
from labnet.errors import ProtocolMismatch
from labnet.network.protocol import op_statistics
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking, fetch, run
from tests.helpers.network.example_servers import linear, process, processes
from tests.helpers.network.raw_http import scripted


def train(url):
    model = ln.network.remote_model(url, blocking=True)
    return ln.loss.mse(model(ln.ones((2, 3))), ln.zeros((2, 3))).backward()


def counts(statistics):
    return {name: cost.count for name, cost in statistics.ops.items()}


def test_a_servers_ops_are_counted_under_its_process():
    with process("model", 1) as url, ln.stats.collect() as statistics:
        train(url)
    (((_, pid), remote),) = statistics.remotes.items()
    assert pid != os.getpid()
    assert counts(remote)["linear"] == counts(remote)["linear.backward"] == 1
    assert counts(statistics) == {"mean_squared_error": 1, "mean_squared_error.backward": 1}
    assert statistics.everywhere.total.count == statistics.total.count + remote.total.count
    assert 0 < remote.total.seconds < remote.elapsed_seconds


def test_a_composed_server_reports_every_process_that_computed_for_it():
    with (
        processes(("model", 1), ("model", 2), ("model", 3)) as parts,
        process("composed", *parts) as url,
        ln.stats.collect() as statistics,
    ):
        train(url)
        train(url)
    assert len(statistics.remotes) == 4
    with_linear = [counts(remote) for remote in statistics.remotes.values() if "linear" in remote.ops]
    assert [each["linear"] for each in with_linear] == [2, 2, 2]
    (composed,) = [remote for remote in statistics.remotes.values() if "linear" not in remote.ops]
    assert composed.ops["matmul"].count == 2
    assert composed.ops["matmul"].flops == 2 * 2 * 2 * 3 * 3


def test_an_async_client_gets_the_figures_of_parallel_calls():
    async def both(urls):
        with ln.stats.collect() as statistics:
            await ln.network.all(*(ln.network.remote_model(url)(ln.ones((1, 3))) for url in urls))
        return statistics

    with processes(("model", 1), ("model", 2)) as urls:
        assert [counts(remote) for remote in run(both(urls)).remotes.values()] == [{"linear": 1}] * 2


def test_a_custom_route_reports_too():
    with process("functions") as url, ln.stats.collect() as statistics:
        fetch(url + "/run_model", ln.ones((1, 3)))
        fetch(url + "/optimize_model", ln.ones((1, 1)))
    (remote,) = statistics.remotes.values()
    assert counts(remote)["matmul"] == counts(remote)["matmul.backward"] == 1


def test_nobody_counts_where_nobody_asked():
    with process("model", 1) as url:
        with ln.stats.collect() as statistics:
            pass
        train(url)
        assert statistics.remotes == {}
    with ln.network.serve_model(linear(1), port=0) as server:
        reply = reporting_reply(server)
        assert op_statistics.STATISTICS.lower() not in reply.headers


def reporting_reply(server, **headers):
    from tests.helpers.network.raw_http import JSON
    from tests.helpers.network.raw_http import http as request

    return request(server, "POST", "/forward", b"[[1, 2, 3]]", Content_Type=JSON, **headers)


def test_the_reply_names_what_was_counted_for_any_client():
    with ln.network.serve_model(linear(1), port=0) as server:
        found = json.loads(reporting_reply(server, Labnet_Collect="1").headers[op_statistics.STATISTICS.lower()])
    assert found["ops"]["linear"]["count"] == 1


def test_a_process_that_counts_everything_gets_the_servers_figures():
    with process("model", 1) as url:
        statistics = ln.stats.enable()
        try:
            train(url)
        finally:
            ln.stats.disable()
    (remote,) = statistics.remotes.values()
    assert counts(remote)["linear"] == 1


def test_a_process_that_counts_everything_does_not_count_its_own_servers_twice():
    with ln.network.serve_model(linear(1), ln.optim.SGD(lr=0.1), port=0) as server:
        statistics = ln.stats.enable()
        try:
            train(server.url)
        finally:
            ln.stats.disable()
    assert counts(statistics)["linear"] == 1
    assert statistics.remotes == {}


def test_a_server_counts_one_client_and_not_the_others():
    """A call that is not collected, between two that are, is in nobody's figures."""
    with ln.network.serve_model(linear(1), port=0) as server:
        model = blocking(server)
        with ln.stats.collect() as statistics:
            model(ln.ones((1, 3)))
        model(ln.ones((1, 3)))
        assert [counts(remote) for remote in statistics.remotes.values()] == [{"linear": 1}]


def test_a_server_started_while_somebody_collects_is_not_counted_for_ever():
    with ln.stats.collect() as statistics:
        server = ln.network.serve({"double": lambda x: x * 2}, port=0)
    with server:
        fetch(server.url + "/double", ln.ones(2))
    assert statistics.ops == {}


def test_a_server_started_under_no_grad_is_trained_all_the_same():
    async def model(x):
        return x * weight

    weight = ln.asarray(2.0, requires_grad=True)
    with ln.no_grad():
        server = ln.network.serve_model(model, ln.optim.SGD(lr=1.0), port=0)
    with server:
        blocking(server)(ln.ones(1)).sum().backward()
    assert weight.item() == 1.0


@pytest.mark.parametrize("text", ["", "{", "[]", '{"host": 1}', "null", "[" * 5000])
def test_figures_that_cannot_be_read_are_a_protocol_mismatch(text):
    body = b"HTTP/1.1 204 No Content\r\nLabnet-Protocol: 1\r\nLabnet-Statistics: %s\r\n\r\n" % text.encode()
    with scripted(body) as port, ln.stats.collect(), pytest.raises(ProtocolMismatch, match="statistics"):
        fetch(f"localhost:{port}/route")


def test_figures_of_very_many_ops_still_fit_into_a_header():
    statistics = ln.stats.OpStatistics("höst", 1)
    for number in range(5000):
        statistics.add(f"op number {number}", ln.stats.OpCount(1, 1.0, 1, 1))
    text = op_statistics.encode(statistics)
    assert len(text) < 1 << 16
    assert text.isascii()
    assert ln.stats.OpStatistics.read(json.loads(text)).total == statistics.total


# The logger that posts


@pytest.fixture
def receiver():
    """An ordinary web server that keeps what was posted; gives its port, and what it got."""
    got = []

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_POST(self):
            body = self.rfile.read(int(self.headers["Content-Length"]))
            got.append((self.path, self.headers["Content-Type"], json.loads(body)))
            self.send_response(503 if self.path == "/refuse" else 204)
            self.send_header("Connection", "close")
            self.end_headers()

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port, got
        server.shutdown()
        thread.join()


def test_the_http_logger_posts_the_figures_as_json(receiver):
    port, got = receiver
    logger = ln.network.HttpLogger(f"http://127.0.0.1:{port}/figures")
    with ln.stats.collect(logger):
        ln.ones(2) + 1
    assert logger.wait(SECONDS)
    ((path, kind, data),) = got
    assert (path, kind, data["ops"]["add"]["count"]) == ("/figures", "application/json", 1)


def test_a_post_that_is_refused_or_reaches_nobody_is_logged(receiver, caplog):
    port, _ = receiver
    for url, reason in ((f"localhost:{port}/refuse", "status 503"), ("localhost:1/figures", "could not be posted")):
        logger = ln.network.HttpLogger(url)
        with ln.stats.collect(logger):
            ln.ones(2) + 1
        assert logger.wait(SECONDS)
        assert reason in caplog.text
