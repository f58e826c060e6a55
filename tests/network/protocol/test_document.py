"""The page about the protocol, and the client in another language that was written from it."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import msgspec
import numpy as np
import pytest
from tornado.web import StaticFileHandler

import labnet as ln
from labnet import errors, nn, wire
from labnet.network.protocol.digest import OWN, content_digest
from labnet.network.protocol.frames import Head
from tests.helpers.constants import ROOT, SECONDS
from tests.helpers.jupyter.jupyterlab import browser_page
from tests.helpers.network.fault_proxy import Proxy
from tests.helpers.network.proxies import nginx
from tests.helpers.network.raw_channel import channel
from tests.helpers.network.raw_http import JSON, NATIVE, TOKEN, connection, head, http, raw, read_reply

PAGE = (ROOT / "docs" / "protocol.md").read_text()
EXAMPLES = ROOT / "examples"
NODE = shutil.which("node")


def dumped(section="Bodies"):
    """Return the bytes that a section of the page shows."""
    text = PAGE.partition(f"\n## {section}\n")[2].partition("\n## ")[0]
    lines = re.findall(r"^[0-9a-f]{8}  ((?:[0-9a-f]{2} +){1,16}) *\|(.*)\|$", text, re.MULTILINE)
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


def test_the_frame_of_the_page_is_answered():
    with ln.network.serve({"one": lambda: 1}, port=0) as server, channel(server) as opened:
        opened.send(dumped("Channels"))
        head, body = opened.reply(1)
        assert (head["status"], json.loads(body)["status"]) == (200, "ok")


def test_every_field_of_a_frame_is_on_the_page():
    table = PAGE.partition("## Channels")[2].partition("## Replicas")[0]
    fields = {field.encode_name for field in msgspec.structs.fields(Head)}
    assert {"call", "for", "status", "others"} <= fields
    assert not [name for name in fields if f"`{name}`" not in table]


BOTH = ("Content-Length: 0", "Transfer-Encoding: chunked")


def head_of(*lines):
    return "\r\n".join(["GET /health HTTP/1.1", "Host: 127.0.0.1", *lines, "", ""]).encode()


@pytest.mark.parametrize(
    ("data", "status", "error"),
    [
        (head_of().replace(b"\r\n", b"\n"), 200, None),
        (b"\r\n" + head_of("Accept:   application/json  "), 200, None),
        (b"nothing\r\n\r\n", 400, None),
        (head_of("no colon"), 400, None),
        (head_of("Content-Length: x"), 400, None),
        (head_of(*BOTH, "Content-Type: application/json").replace(b"GET /health", b"POST /echo"), 400, None),
        (head_of("Content-Length: 0", "Content-Length: 0"), 400, "BadRequest"),
        (head_of("Host: 127.0.0.1"), 400, "BadRequest"),
        (b"GET /health HTTP/1.1\r\n\r\n", 403, None),
        (head_of("X: " + "y" * 70_000), None, None),
    ],
    ids=lambda value: value[:60].decode() if isinstance(value, bytes) else None,
)
def test_requests_that_are_no_http_are_answered_as_the_page_says(data, status, error):
    routes = {"echo": lambda x: x}
    with ln.network.serve(routes, port=0, token=None) as server, connection(server.port) as (sock, file):
        sock.sendall(data)
        try:
            reply = read_reply(file)
        except ConnectionResetError:
            reply = None
        assert (reply and reply.status) == status
        if status == 400:
            assert (reply.json()["error"] if reply.body else None) == error


def test_a_chunked_body_is_accepted_as_the_page_says():
    with ln.network.serve({"echo": lambda x: x}, port=0) as server:
        fields = {TOKEN: server.token, "Content-Type": JSON, "Transfer-Encoding": "chunked"}
        data = head(server.port, "POST", "/echo", fields) + b"2\r\n[1\r\n1\r\n]\r\n0\r\n\r\n"
        assert raw(server.port, data).json() == [1]


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


@pytest.mark.parametrize(("name", "most"), [("client.mjs", 60), ("tensors.mjs", 30), ("channel.mjs", 110)])
def test_the_client_in_javascript_is_short(name, most):
    lines = (EXAMPLES / name).read_text().splitlines()
    assert len(lines) <= most
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


LARGE = """
import { RemoteModel } from "./examples/client.mjs"
const [url, token] = process.argv.slice(1)
const remote = new RemoteModel(url, token)
const make = (size, value) => ({ dtype: "F32", shape: [size], data: new Float32Array(size).fill(value) })
const sizes = [1 << 20, 3, 131072, 131073, 0]
const outputs = await Promise.all(sizes.map((size, value) => remote.forward(make(size, value))))
const isRight = ({ data }, value) => data.length === sizes[value] && data.every((x) => x === value)
const right = outputs.every(({ output }, value) => isRight(output, value))
console.log(JSON.stringify({ right, channel: Boolean(remote.channel?.isOpen) }))
"""


@needs_node
def test_the_client_in_javascript_sends_large_and_small_tensors_side_by_side():
    with ln.network.serve_model(lambda x: x, port=0) as server:
        command = [NODE, "--input-type=module", "--eval", LARGE, server.url, server.token]
        result = subprocess.run(command, capture_output=True, text=True, timeout=6 * SECONDS, check=False, cwd=ROOT)
        assert result.returncode == 0, result.stderr
        assert json.loads(result.stdout) == {"right": True, "channel": True}


WEB_PAGE = """<!doctype html><title>waiting</title>
<script type="module">
import { RemoteModel } from "/files/client.mjs"
const remote = new RemoteModel(location.origin, "")
const tensor = (values, shape) => ({ dtype: "F32", shape, data: Float32Array.from(values) })
for (let step = 0; step < 3; step++) {
  const { output, call } = await remote.forward(tensor([1, 2], [1, 2]))
  await remote.optimize(call, tensor([1], output.shape), 1)
}
document.title = "trained"
</script>
"""


def test_the_client_in_javascript_trains_from_a_web_page(tmp_path):
    for file in EXAMPLES.glob("*.mjs"):
        shutil.copy(file, tmp_path)
    (tmp_path / "page.html").write_text(WEB_PAGE)
    handlers = [(r"/files/(.*)", StaticFileHandler, {"path": str(tmp_path)})]
    model, optimizer = nn.Linear(2, 1), ln.optim.SGD(lr=0.1)
    with (
        ln.network.serve_model(model, optimizer, port=0, token=None, handlers=handlers) as server,
        browser_page() as page,
    ):
        page.goto(f"{server.url}/files/page.html")
        page.wait_for_function("document.title === 'trained'", timeout=SECONDS * 1000)
        assert page.failures == []
        assert server.statistics()["server"]["version"] == 3


@needs_node
def test_the_client_in_javascript_trains_through_a_proxy_without_upgrades(tmp_path):
    with (
        ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.01), port=0) as server,
        nginx(tmp_path / "nginx", server) as proxy,
    ):
        assert driven(proxy.url, server.token)["channel"] is False
        assert server.statistics()["server"]["version"] == 20
        assert len(proxy.requests("/channel")) == 1


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
    assert seen["channel"] is True


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
