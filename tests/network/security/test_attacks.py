"""Attacks on a running server, one or more tests for each class; the name of a test says its row."""

import contextlib
import json
import os
import pickle
import socket
import struct
import threading

import numpy as np
import psutil
import pytest

import labnet as ln
from labnet import nn
from tests.fuzz.decoders import seeds
from tests.helpers.constants import SECONDS
from tests.helpers.network.attack_audit import MAX_BODY
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.raw_http import (
    JSON,
    NATIVE,
    TOKEN,
    connection,
    forward_of,
    head,
    http,
    native,
    npy,
    raw,
    read_reply,
)
from tests.helpers.network.server_process import child
from tests.helpers.threads import wait_until

NPY = "application/x-npy"


@pytest.fixture
def server():
    routes = {"echo": lambda x: x, "hello": lambda: "hi"}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes) as server:
        yield server


# Rows 1, 5, 6, 7 and 9: a storm of hostile requests, under the eyes of the audit hooks


class Attack:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (self.path,)


def hostile_bodies(canary):
    yield pickle.dumps(Attack(canary))
    yield b"cos\nsystem\n(S'touch " + canary.encode() + b"'\ntR."
    yield f"__import__('os').mkdir({canary!r})".encode()
    yield json.dumps({"__class__": "os", "py/object": "os.mkdir", "url": "http://169.254.169.254/"}).encode()
    yield b"\x93NUMPY\x01\x00v\x00{'descr': '|O', 'fortran_order': False, 'shape': (1,), }".ljust(128) + b"\x80\x04N."
    yield struct.pack("<Q", 60) + b'{"x":{"dtype":"F32","shape":[4611686018427387904,4],"data_offsets":[0,0]}}'
    yield struct.pack("<Q", (1 << 64) - 1)
    yield b"[" * 200_000
    yield b"$(reboot)`reboot`;reboot|reboot"
    for seed in seeds():
        yield seed[1:]


HOSTILE_HEADERS = {
    "Referer": "http://169.254.169.254/latest/meta-data",
    "X-Forwarded-Host": "evil.example",
    "X-Forwarded-For": "169.254.169.254",
    "Forwarded": "for=169.254.169.254;host=evil.example",
    "X-Original-Url": "file:///etc/passwd",
    "Labnet-Client": "../../etc/passwd",
    "Labnet-Call": "http://169.254.169.254/",
    "Labnet-Mode": "__import__('os')",
    "Idempotency-Key": "file:///etc/passwd",
    "Accept": "application/python-pickle, ../../*",
    "Inference-Header-Content-Length": "7",
}

QUERY = "?url=http://169.254.169.254/&file=/etc/passwd&path=../../&token=x&command=reboot"


def storm(there, canary):
    """Send everything hostile to every route with every method and content type, as the owner of the token."""
    count = 0
    with connection(there["port"]) as (sock, file):
        for path in there["routes"]:
            for method in ("GET", "POST", "PUT", "DELETE", "OPTIONS", "PATCH"):
                for kind in (JSON, NATIVE, NPY, "application/octet-stream") if method == "POST" else (JSON,):
                    for body in hostile_bodies(canary) if method == "POST" else (b"",):
                        headers = {TOKEN: there["token"], "Content-Type": kind, "Content-Length": len(body)}
                        request = head(there["port"], method, path + QUERY, HOSTILE_HEADERS | headers)
                        sock.sendall(request + body)
                        assert read_reply(file) is not None
                        count += 1
    return count


def test_rows_1_5_6_9_a_storm_of_hostile_requests_starts_runs_fetches_and_writes_nothing(tmp_path):
    canary = str(tmp_path / "canary")
    with child(module="tests.helpers.network.attack_audit") as (there, process):
        assert storm(there, canary) > 400  # whatever is imported on first use is imported now
        print("watch", file=process.stdin, flush=True)
        storm(there, canary)
        print("report", file=process.stdin, flush=True)
        assert json.loads(process.stdout.readline()) == []
        assert raw(there["port"], head(there["port"], "GET", "/health")).status == 200
    assert not os.path.exists(canary)


def test_row_7_a_thousand_announced_bodies_cost_no_more_than_the_limit():
    with child(module="tests.helpers.network.attack_audit") as (there, process):
        memory = psutil.Process(process.pid)

        def announce(length, data):
            headers = {TOKEN: there["token"], "Content-Type": NATIVE, "Content-Length": length}
            with connection(there["port"]) as (sock, _):
                sock.sendall(head(there["port"], "POST", "/echo", headers) + data)

        announce(MAX_BODY, b"x")
        before = memory.memory_info().rss
        for _ in range(1000):
            announce(MAX_BODY, b"x" * 10)
        assert memory.memory_info().rss - before < 2 * MAX_BODY
        assert raw(there["port"], head(there["port"], "GET", "/health")).status == 200


def test_row_7_memory_is_given_back_when_clients_leave_or_are_answered(server):
    listener = server._port._listener
    for _ in range(5):
        assert http(server, "POST", "/echo", b"[1.0]").status == 200
        assert http(server, "POST", "/echo", b"[1.0").status == 400
        with connection(server.port) as (sock, _):
            headers = {TOKEN: server.token, "Content-Type": JSON, "Content-Length": 1000}
            sock.sendall(head(server.port, "POST", "/echo", headers) + b"[")
    wait_until(lambda: listener.budget.bytes_held == 0)


ELSEWHERE = [
    *(
        "/../../../etc/passwd",
        "/..%2f..%2fetc%2fpasswd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/....//etc/passwd",
        "//etc/passwd",
    ),
    *("/panel.js/../server.py", "/panel.js%00.py", "/index.html", "/page/index.html", "/panel.js#x", "/./panel.js"),
    *("/v2/models/../../../etc/passwd", "/v2/models/..%2f..%2fetc%2fpasswd/infer", "/weights/../../x", "/%00", "/%ff"),
]


@pytest.mark.parametrize("path", ELSEWHERE)
def test_row_9_a_path_names_a_route_and_never_a_file(server, path):
    reply = http(server, "GET", path)
    assert reply.status in (400, 404)
    assert b"root:" not in reply.body
    assert b"import" not in reply.body


# Row 2: DNS rebinding


def test_row_2_a_foreign_host_is_refused_before_its_body_is_read(server):
    for length in (10, 1 << 33):
        headers = {"Host": "evil.example", "Content-Type": JSON, "Content-Length": length}
        with connection(server.port) as (sock, file):
            sock.sendall(head(server.port, "POST", "/echo", headers) + b"[1.0, 2.0]")
            assert read_reply(file).status == 401
    assert server._port._listener.budget.bytes_held == 0
    assert server.statistics()["echo"]["bytes_in"] == 0


# Row 3: requests that a web page makes


SITES = ["cross-site", "same-site", "Cross-Site", "", "anything"]


@pytest.mark.parametrize("site", SITES)
def test_row_3_a_page_of_another_site_cannot_even_read(site):
    """Images, scripts and links come without an Origin; on an open server they would run a handler."""
    ran = []
    with ln.network.serve({"run": lambda: ran.append(1)}, port=0, token=None) as server:
        for path in server._port.routes:
            for mode in ("no-cors", "cors", "navigate"):
                reply = http(server, "GET", path, Sec_Fetch_Site=site, Sec_Fetch_Mode=mode)
                is_link = mode == "navigate" and server._port.routes[path].readable
                assert (reply.status == 403) == (not is_link), (path, mode, reply)
        assert not ran
        assert http(server, "GET", "/run", Sec_Fetch_Site="same-origin").status == 204
        assert http(server, "GET", "/run", Sec_Fetch_Site="none", Sec_Fetch_Mode="navigate").status == 204
        assert len(ran) == 2


def test_row_3_a_valid_token_replaces_the_checks_of_the_browser(server):
    for headers in ({"Sec_Fetch_Site": "cross-site"}, {"Origin": "http://evil.example"}, {"Host": "evil.example"}):
        assert http(server, "GET", "/hello", **headers).status == 200


# Row 4: tokens


@pytest.mark.parametrize("place", ["?token={}", "?X-Labnet-Token={}", "?access_token={}", "#{}", ";token={}"])
def test_row_4_a_token_in_the_address_is_no_token(server, place):
    assert http(server, "GET", "/hello" + place.format(server.token), token=None).status in (400, 401, 404)


def test_row_4_a_token_in_another_header_is_no_token(server):
    for headers in (
        {"Authorization": f"Bearer {server.token}"},
        {"Authorization": f"token {server.token}"},
        {"Cookie": f"X-Labnet-Token={server.token}"},
        {"X_Labnet_Token": f"{server.token},{server.token}"},
        {"X_Labnet_Token": f" x {server.token}"},
    ):
        assert http(server, "GET", "/hello", token=None, **headers).status == 401


# Row 11: one request that looks like two


SMUGGLED = "GET /smuggled HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Labnet-Token: {token}\r\n\r\n"

START = "POST /echo HTTP/1.1\r\nHost: 127.0.0.1\r\nX-Labnet-Token: {token}\r\nContent-Type: application/json\r\n"

SMUGGLING = {
    "length and chunks": START + "Content-Length: {size}\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
    "chunks and length": START + "Transfer-Encoding: chunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n",
    "identity": START + "Transfer-Encoding: identity\r\nContent-Length: {size}\r\n\r\n",
    "chunked in disguise": START + "Transfer-Encoding: xchunked\r\nContent-Length: {size}\r\n\r\n",
    "chunked with a tab": START + "Transfer-Encoding:\tchunked\r\nContent-Length: {size}\r\n\r\n0\r\n\r\n",
    "chunked twice": START + "Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n",
    "two lengths": START + "Content-Length: 3\r\nContent-Length: {size}\r\n\r\n",
    "two lengths in one": START + "Content-Length: 3, {size}\r\n\r\n",
    "plus": START + "Content-Length: +{size}\r\n\r\n",
    "underscore": START + "Content-Length: {size}_0\r\n\r\n",
    "hexadecimal": START + "Content-Length: 0x{size}\r\n\r\n",
    "fraction": START + "Content-Length: {size}.0\r\n\r\n",
    "another digit": START + "Content-Length: \xb2{size}\r\n\r\n",
    "negative": START + "Content-Length: -{size}\r\n\r\n",
    "huge": START + "Content-Length: " + "9" * 40 + "\r\n\r\n",
    "a space before the colon": START + "Content-Length : {size}\r\n\r\n",
    "folded": START + "X: a\r\n Content-Length: {size}\r\n\r\n",
    "a bare CR": START + "X: a\rContent-Length: {size}\r\n\r\n",
    "NUL": START + "X: a\0\r\nContent-Length: {size}\r\n\r\n",
    "no name": START + ": a\r\nContent-Length: {size}\r\n\r\n",
    "no colon": START + "Content-Length {size}\r\n\r\n",
    "a chunk size that is none": START + "Transfer-Encoding: chunked\r\n\r\nzz\r\n",
    "a negative chunk": START + "Transfer-Encoding: chunked\r\n\r\n-3\r\nabc\r\n0\r\n\r\n",
    "a chunk with an underscore": START + "Transfer-Encoding: chunked\r\n\r\n1_0\r\n" + "x" * 16 + "\r\n0\r\n\r\n",
    "a huge chunk": START + "Transfer-Encoding: chunked\r\n\r\nffffffffffffffffff\r\n",
    "a chunk without its end": START + "Transfer-Encoding: chunked\r\n\r\n3\r\nabcdef",
    "two hosts": "GET /hello HTTP/1.1\r\nHost: 127.0.0.1\r\nHost: evil.example\r\nContent-Length: {size}\r\n\r\n",
    "HTTP/0.9": "GET /hello\r\n\r\n",
    "a version to come": "GET /hello HTTP/2.0\r\nHost: 127.0.0.1\r\nContent-Length: {size}\r\n\r\n",
    "spaces in the target": "GET /hello /other HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n",
}


@pytest.mark.parametrize("name", SMUGGLING)
def test_row_11_nobody_smuggles_a_request_inside_another(name):
    """What follows an ambiguous request is its body, or nothing: never a request with a reply of its own."""
    ran = []
    with ln.network.serve(
        {"echo": lambda x: x, "hello": lambda: 1, "smuggled": lambda: ran.append(1)}, port=0
    ) as server:
        inner = SMUGGLED.format(token=server.token)
        outer = SMUGGLING[name].format(token=server.token, size=len(inner))
        with connection(server.port) as (sock, file):
            sock.sendall((outer + inner).encode("latin-1"))
            sock.shutdown(socket.SHUT_WR)
            with contextlib.suppress(ConnectionResetError):
                first = read_reply(file)
                assert first is None or first.status >= 400
                if first is not None:
                    assert read_reply(file) is None or not ran
        framed = "chunked\r\n\r\n0\r\n" in outer
        assert framed or not ran


def test_row_11_a_list_of_equal_lengths_is_refused(server):
    reply = http(server, "GET", "/hello", Content_Length="0, 0")
    assert reply.status == 400


def test_row_11_a_storm_of_tiny_chunks_is_one_body_and_the_server_goes_on(server):
    chunks = b"1\r\nx\r\n" * 20_000
    headers = {TOKEN: server.token, "Content-Type": JSON, "Transfer-Encoding": "chunked"}
    reply = raw(server.port, head(server.port, "POST", "/echo", headers) + chunks + b"0\r\n\r\n")
    assert (reply.status, reply.json()["error"]) == (400, "BadRequest")  # complete, but no JSON
    assert http(server, "GET", "/hello").status == 200


# Row 12: compression


@pytest.mark.parametrize("encoding", ["gzip", "deflate", "br", "zstd", "identity", "GZIP", "gzip, gzip", ""])
def test_row_12_a_compressed_body_is_not_opened(server, encoding):
    import gzip

    bomb = gzip.compress(bytes(1 << 24))
    for path in ("/echo", "/forward", "/v2/models/Linear/infer"):
        assert http(server, "POST", path, bomb, Content_Encoding=encoding).status == 415


def test_row_12_no_reply_is_compressed(server):
    reply = http(server, "GET", "/statistics", Accept_Encoding="gzip, deflate, br")
    assert "content-encoding" not in reply.headers
    assert reply.json()


# Row 13: gradients


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [NATIVE, NPY, JSON])
def test_row_13_a_gradient_that_is_no_number_changes_no_weight(server, value, kind):
    before = blocking(server).state_dict()
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    gradient = np.full((1, 1), value, "float32")
    body = {NATIVE: native({"tensor": gradient}), NPY: npy(gradient), JSON: json.dumps(gradient.tolist()).encode()}[
        kind
    ]
    reply = http(server, "POST", "/optimize", body, Content_Type=kind, Labnet_Call=call)
    assert reply.status == (400 if kind == JSON else 422)
    after = blocking(server).state_dict()
    assert all(np.array_equal(before[name].numpy(), after[name].numpy()) for name in before)
    assert server.statistics()["server"]["version"] == 0


# Row 14: the page


def test_row_14_the_page_may_load_only_its_own_files_and_be_framed_only_by_itself(server):
    for path in ("/", "/panel.js"):
        headers = http(server, "GET", path, token=None).headers
        policy = dict(part.strip().partition(" ")[::2] for part in headers["content-security-policy"].split(";"))
        assert policy["default-src"] == "'self'"
        assert policy["frame-ancestors"] == "'self'"
        assert "unsafe-inline" not in policy.get("script-src", "")
        assert headers["x-content-type-options"] == "nosniff"


def test_row_14_what_a_stranger_or_handler_says_is_never_html():
    evil = "<img src=x onerror=alert(1)>"

    def fails():
        raise ValueError(evil)

    with ln.network.serve(
        {"text": lambda: evil, "fails": fails, "data": lambda: {"a": evil}}, port=0, name=evil
    ) as server:
        for path in (
            "/text",
            "/fails",
            "/data",
            "/statistics",
            "/health",
            "/openapi.json",
            "/metrics",
            f"/{evil}",
            "/v2",
        ):
            reply = http(server, "GET", path.replace(" ", "%20"))
            assert reply.headers["content-type"].startswith((JSON, "text/plain"))
            assert reply.headers["x-content-type-options"] == "nosniff"


# Rows 15 and 16: what leaks


def test_row_15_credentials_of_a_request_are_not_passed_on_to_other_servers():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(SECONDS)
        port, heard = listener.getsockname()[1], []

        def hear():
            sock, _ = listener.accept()
            with sock:
                while not (heard and heard[-1].endswith(b"\r\n\r\n")):
                    heard.append((heard[-1] if heard else b"") + sock.recv(4096))
                sock.sendall(b"HTTP/1.1 204 No Content\r\nLabnet-Protocol: 1\r\n\r\n")

        thread = threading.Thread(target=hear)
        thread.start()

        async def ask():
            return await ln.network.tfetch(f"127.0.0.1:{port}/inner")

        with ln.network.serve({"outer": ask}, port=0) as server:
            secrets = {
                "Authorization": "Bearer hidden",
                "Cookie": "session=hidden",
                "X_Forwarded_Access_Token": "hidden",
            }
            assert http(server, "GET", "/outer", **secrets).status == 204
            thread.join()
            assert b"GET /inner" in heard[-1]
            assert b"hidden" not in heard[-1]
            assert server.token.encode() not in heard[-1]


def test_row_16_an_error_tells_what_was_raised_and_not_where(server):
    def fails():
        raise KeyError("reason")

    with ln.network.serve({"fails": fails}, port=0) as other:
        reply = http(other, "GET", "/fails")
        assert b"reason" in reply.body
        for word in (b"Traceback", b".py", b"line ", os.path.dirname(__file__).encode()):
            assert word not in reply.body
