"""The page about the protocol, and the client in another language that was written from it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest

import labnet as ln
from labnet import errors, nn, wire
from labnet.network.protocol.digest import OWN, content_digest
from tests.helpers.constants import ROOT, SECONDS
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.raw_http import NATIVE, http

PAGE = (ROOT / "docs" / "protocol.md").read_text()
CLIENT = ROOT / "examples" / "client.mjs"
NODE = shutil.which("node")


def dumped():
    """Return the bytes that the page shows."""
    lines = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} +){1,16}) *\|(.*)\|$", PAGE, re.MULTILINE)
    data = b"".join(bytes.fromhex(line) for line, _ in lines)
    shown = "".join(text for _, text in lines)
    assert shown == "".join(chr(byte) if 32 <= byte < 127 else "." for byte in data)
    return data


def test_the_bytes_of_the_page_are_what_the_client_sends():
    message = wire.message_of(ln.asarray([[1.0, 2.0]]), requires_grad="tensor")
    assert b"".join(wire.encode_native(message).parts) == dumped()


def test_the_bytes_of_the_page_are_answered():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server:
        reply = http(server, "POST", "/forward", dumped(), Content_Type=NATIVE)
        assert reply.status == 200
        assert len(reply.headers["labnet-call"]) == 32
        expected = model(ln.asarray([[1.0, 2.0]])).numpy()
        np.testing.assert_allclose(wire.decode_native(reply.body).value.numpy(), expected)


def test_every_error_of_the_page_has_a_class():
    table = PAGE.partition("## Errors")[2].partition("## Calls")[0]
    named = set(re.findall(r"`([A-Z][A-Za-z]+)`", table)) - {"Allow", "Content", "Retry"}
    assert {"BadRequest", "Unauthorized", "GraphExpired", "RemoteFailure"} <= named
    assert not [name for name in named if not hasattr(errors, name)]


def test_every_route_of_a_server_is_on_the_page():
    with ln.network.serve_model(nn.Linear(1, 1), port=0) as server:
        own = {path.split("/")[1] for path in server._port.routes} - {"", "panel.js", "snapshot"}
        assert not [name for name in own if f"/{name}" not in PAGE]


def test_every_header_of_labnet_is_on_the_page():
    sources = (ROOT / "labnet" / "network").rglob("*.py")
    headers = {name for path in sources for name in re.findall(r'"((?:X-)?Labnet-[A-Z][a-z]+)"', path.read_text())}
    assert {"Labnet-Call", "Labnet-Trail", "X-Labnet-Token"} <= headers
    assert not [name for name in sorted(headers) if name not in PAGE]


def test_every_status_and_error_of_a_server_is_on_the_page():
    table = PAGE.partition("## Errors")[2].partition("## Calls")[0]
    raised = set()
    for path in (ROOT / "labnet" / "network").rglob("*.py"):
        raised |= set(re.findall(r"Failure\(\s*(\d{3}),\s*\"(\w+)\"", path.read_text()))
    assert ("409", "CallExpired") in raised
    lines = table.splitlines()
    missing = [(status, error) for status, error in raised if not any(status in x and error in x for x in lines)]
    assert not missing


def test_every_route_of_a_runner_is_on_the_page():
    with ln.network.serve_runner(port=0, allow_shell=True) as server:
        own = set(server._port.routes) - {"/", "/panel.js", "/snapshot"}
        assert not [path for path in own if path not in PAGE]


def test_the_digests_of_the_page_are_those_of_the_client():
    for body in (b"123456789", bytes(i % 251 for i in range(10_000)), b""):
        for algorithm in (OWN, "sha-256"):
            assert f"`{content_digest(wire.Body(wire.TEXT, [body]), algorithm)}`" in PAGE


def test_the_client_in_javascript_has_at_most_60_lines_of_120_columns():
    lines = CLIENT.read_text().splitlines()
    assert len(lines) <= 60
    assert max(map(len, lines)) <= 120


needs_node = pytest.mark.skipif(NODE is None, reason="Node is not installed: apt-get install nodejs")


def driven(url, token, *arguments):
    """Train with the client in JavaScript and return what it saw."""
    command = [NODE, str(Path(__file__).with_name("driver.mjs")), url, token, *map(str, arguments)]
    result = subprocess.run(command, capture_output=True, text=True, timeout=6 * SECONDS, check=False)
    assert result.returncode == 0, result.stderr
    return json.loads(result.stdout)


@needs_node
def test_the_client_in_javascript_repeats_requests_whose_reply_was_lost_or_cut():
    pad = ln.zeros((2, 999))  # most of a reply is its body, so that it is cut there

    def model(x):
        return ln.concat([x @ weight, pad], axis=1)

    weight = ln.ones((2, 1), requires_grad=True)
    faults = ("cut reply", "lose reply", "refuse")
    with (
        ln.network.serve_model(model, ln.optim.SGD(lr=1e-4), port=0) as server,
        Proxy(server.port, seed=1, share=0.25, faults=faults) as proxy,
    ):
        seen = driven(proxy.url, server.token)
        assert server.statistics()["server"]["version"] == len(seen["losses"]) == 20
        assert all(proxy.counts[fault] for fault in faults)


@needs_node
def test_the_client_in_javascript_trains_a_model():
    model = nn.Linear(2, 1)
    before = model.state_dict()
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.01), port=0) as server:
        seen = driven(server.url, server.token)
        state = server.statistics()
    x = ln.asarray([[1.0, 2.0], [3.0, 4.0]], requires_grad=True)
    y = x @ before["weight"].T + before["bias"]
    loss = ((y - 1) ** 2).sum()
    loss.backward()
    output, gradient = seen["first"]["output"], seen["first"]["gradient"]
    assert (output["dtype"], output["shape"], gradient["shape"]) == ("F32", [2, 1], [2, 2])
    np.testing.assert_allclose(output["data"], y.numpy().ravel(), rtol=1e-6)
    np.testing.assert_allclose(gradient["data"], x.grad.numpy().ravel(), rtol=1e-5)
    assert seen["losses"][-1] < seen["losses"][0]
    assert (state["optimize"]["hits"], state["server"]["version"]) == (20, 20)
    assert state["server"]["loss"] == pytest.approx(seen["losses"][-1])
    assert seen["error"].startswith("/forward 422: ")


def test_every_claim_about_exactly_once_names_a_test_that_is_there():
    page = (ROOT / "docs" / "exactly-once.md").read_text()
    rows = re.findall(r"^\| (\d+) \| .*\| (`\w+/test_.*`) \|$", page, re.MULTILINE)
    assert [int(number) for number, _ in rows] == list(range(1, len(rows) + 1))
    assert len(rows) > 10
    for _, tests in rows:
        named = re.findall(r"`(\w+/test_\w+\.py)::(test_\w+)`", tests)
        assert named
        for file, test in named:
            assert f"def {test}(" in (ROOT / "tests" / "network" / file).read_text(), test
