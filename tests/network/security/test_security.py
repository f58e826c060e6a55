"""Who may do what: hosts and origins, on every route of a real server."""

import json
import logging
import os

import pytest

import labnet as ln
from labnet import nn
from labnet.errors import Unauthorized
from labnet.network import discovery
from labnet.network.server import auth
from tests.helpers.network.client_calls import fetch
from tests.helpers.network.raw_http import JSON, TOKEN, connection, head, http, raw, read_reply

# Hosts and origins


HOSTS = {
    "localhost": True,
    "LOCALHOST": True,
    "LocalHost:3000": True,
    "localhost:65535": True,
    "127.0.0.1": True,
    "127.0.0.1:3000": True,
    "[::1]": True,
    "[::1]:3000": True,
    "": False,
    " ": False,
    ":": False,
    ":3000": False,
    "evil.example": False,
    "evil.example:3000": False,
    "localhost.evil.example": False,
    "evil-localhost": False,
    "evil.localhost": False,
    "localhost.": False,
    "localhost.:3000": False,
    "localhost:": False,
    "localhost:abc": False,
    "localhost:3000:3000": False,
    "localhost:٣٠٠٠": False,
    "localhost, evil.example": False,
    "localhost,localhost": False,
    "evil@localhost": False,
    "localhost/": False,
    "127.0.0.1.nip.io": False,
    "127.0.0.1.": False,
    "127.0.0.2": True,  # 127/8 is this machine, and a number cannot be rebound to another
    "127.1": False,
    "0127.0.0.1": False,
    "2130706433": False,
    "0x7f000001": False,
    "0.0.0.0": False,
    "0": False,
    "[::]": False,
    "[::ffff:127.0.0.1]": False,
    "[::1].evil.example": False,
    "[::1": False,
    "169.254.169.254": False,
    "192.168.0.1": False,
}


@pytest.mark.parametrize("host", HOSTS)
def test_only_names_of_this_machine_are_loopback(host):
    assert discovery.is_loopback(host) == HOSTS[host]


@pytest.mark.parametrize("host", HOSTS)
def test_a_request_without_origin_is_trusted_by_its_host(host):
    assert auth.is_trusted_origin(host, None) == HOSTS[host]


def test_a_request_without_host_is_not_trusted():
    assert not auth.is_trusted_origin(None, None)


ORIGINS = {
    "http://127.0.0.1:3000": True,
    "https://127.0.0.1:3000": True,
    "http://127.0.0.1:8888": False,
    "http://127.0.0.1": False,
    "http://localhost:3000": False,
    "http://evil.example": False,
    "http://evil.example:3000": False,
    "http://127.0.0.1:3000.evil.example": False,
    "http://127.0.0.1.evil.example:3000": False,
    "http://evil127.0.0.1:3000": False,
    "http://evil@127.0.0.1:3000": False,
    "file://127.0.0.1:3000": False,
    "chrome-extension://127.0.0.1:3000": False,
    "127.0.0.1:3000": False,
    "null": False,
    "": False,
    "http://[": False,
    "*": False,
}


@pytest.mark.parametrize("origin", ORIGINS)
def test_an_origin_must_be_the_very_host(origin):
    assert auth.is_trusted_origin("127.0.0.1:3000", origin) == ORIGINS[origin]


def test_the_same_origin_on_an_evil_host_is_not_trusted():
    assert not auth.is_trusted_origin("evil.example:3000", "http://evil.example:3000")


# Every route of a real server


@pytest.fixture
def server():
    routes = {"echo": lambda x: x, "hello": lambda: "hi", "me": lambda user: len(vars(user))}
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0, routes=routes) as server:
        yield server


METHODS = ["GET", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"]


def combinations(port):
    """Give every interesting (Host, Origin): all hosts without an origin, all origins with a good host."""
    good = f"127.0.0.1:{port}"
    for host in [*(h for h in HOSTS if h.isascii()), good, None]:
        yield host, None, host is not None and discovery.is_loopback(host)
    for origin in ORIGINS:
        yield good, origin.replace("3000", str(port)), ORIGINS[origin]


def expected_status(route, method, token, trusted, server):
    """Say what the rules are: token, or where none is needed Host and Origin; then the method."""
    if token != server.token:
        if not route.readable:
            return 401
        if not trusted:
            return 403
    return None if method in route.methods else 405


def test_every_route_and_method_is_closed_without_token_or_trusted_host(server):
    wrong = []
    with connection(server.port) as (sock, file):
        for path, route in server._port.routes.items():
            for method in METHODS:
                for token in (None, "wrong", server.token):
                    for host, origin, trusted in combinations(server.port):
                        headers = {"Host": host, "Origin": origin, TOKEN: token}
                        sock.sendall(head(server.port, method, path, headers | {"Content-Length": "0"}))
                        status = read_reply(file).status
                        expected = expected_status(route, method, token, trusted, server)
                        refused = status in (401, 403, 405)
                        if status != expected if expected else refused:
                            wrong.append((method, path, token, host, origin, status, expected))
    assert not wrong


def test_the_routes_that_can_be_read_without_a_token_are_these(server):
    readable = {path for path, route in server._port.routes.items() if route.readable}
    inference = {path for path in readable if path == "/v2" or path.startswith("/v2/")}
    own = {"/", "/panel.js", "/statistics", "/snapshot", "/health", "/metrics", "/openapi.json"}
    assert readable == own | inference
    assert not [path for path in inference if path.endswith("/infer")]
    assert all(server._port.routes[path].methods == ("GET",) for path in readable)


def test_the_routes_that_take_something_else_than_the_token_are_these(server):
    sealed = {path: route.methods for path, route in server._port.routes.items() if route.sealed}
    assert sealed == {"/server/stop": ("POST",), "/server/control": ("POST",)}


def test_a_refused_stranger_does_not_learn_the_names_of_routes(server):
    for path in ("/nothing", "/echo"):
        reply = raw(server.port, head(server.port, "DELETE", path, {"Host": "evil.example"}))
        assert b"hello" not in reply.body
        assert reply.status in (401, 403)


def test_an_absolute_uri_does_not_replace_the_host(server):
    for target in (f"http://127.0.0.1:{server.port}/statistics", "http://evil.example/statistics"):
        assert raw(server.port, head(server.port, "GET", target, {"Host": "evil.example"})).status >= 400


def test_two_hosts_are_not_trusted(server):
    good = f"Host: 127.0.0.1:{server.port}\r\n"
    for hosts in (good + "Host: evil.example\r\n", "Host: evil.example\r\n" + good, good + good):
        reply = raw(server.port, f"GET /statistics HTTP/1.1\r\n{hosts}\r\n".encode())
        assert reply.status in (400, 403)


@pytest.mark.parametrize("content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""])
@pytest.mark.parametrize("token", [None, "right"])
@pytest.mark.parametrize("path", ["/forward", "/optimize", "/settle"])
def test_what_a_web_page_can_send_without_asking_is_refused(server, content_type, token, path):
    reply = http(server, "POST", path, b"[1.0]", token=token, Content_Type=content_type)
    assert reply.status == (401 if token is None else 415)


SIMPLE = ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b", ""]
SIMPLE_BODY = b'--b\r\nContent-Disposition: form-data; name="a"\r\n\r\n1\r\n--b--\r\n'


@pytest.mark.parametrize("content_type", SIMPLE)
@pytest.mark.parametrize("path", ["/count", "/anywhere", "/"])
@pytest.mark.parametrize("is_open", [False, True])
def test_what_a_web_page_can_send_without_asking_reaches_no_function(content_type, path, is_open):
    calls = []
    refused, accepted = (403 if is_open else 401), (204 if content_type else 415)
    routes = {"count": calls.append, "default": calls.append}
    with ln.network.serve(routes, port=0, **({"token": None} if is_open else {})) as server:

        def send(*, token=None, **headers):
            return http(server, "POST", path, SIMPLE_BODY, token=token, Content_Type=content_type, **headers).status

        own = f"http://127.0.0.1:{server.port}"
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", f"http://localhost:{server.port}"):
            assert send(Origin=origin) == refused
        for site in ("cross-site", "same-site"):
            assert send(Sec_Fetch_Site=site, Sec_Fetch_Mode="navigate") == refused
            assert send(Sec_Fetch_Site=site, Sec_Fetch_Mode="no-cors") == refused
        assert send(Host="evil.example", Origin="http://evil.example") == refused
        assert not calls
        assert send(Origin=own) == (accepted if is_open else refused)
        assert send() == (accepted if is_open else refused)
        if not is_open:
            assert send(token=server.token, Origin="http://evil.example") == accepted


def test_no_reply_invites_other_origins(server):
    for path in server._port.routes:
        for method in ("GET", "POST", "OPTIONS"):
            for token in (None, "right"):
                reply = http(server, method, path, b"[[1.0, 2.0]]" if method == "POST" else None, token=token)
                assert not [name for name in reply.headers if name.startswith("access-control")]
                assert "set-cookie" not in reply.headers
                assert reply.headers["x-content-type-options"] == "nosniff"


def test_an_open_server_still_refuses_web_pages():
    with ln.network.serve({"echo": lambda x: x}, port=0, token=None) as server:
        assert http(server, "POST", "/echo", b"[1.0]").status == 200
        assert http(server, "POST", "/echo", b"[1.0]", Origin="http://evil.example").status == 403
        assert http(server, "POST", "/echo", b"[1.0]", Host="evil.example").status == 403


def test_an_open_server_is_for_loopback_only():
    for host in ("0.0.0.0", "::", "", "192.168.0.1"):
        with pytest.raises(ln.errors.ServeError, match="loopback"):
            ln.network.serve({"one": lambda: 1}, port=0, host=host, token=None)


def test_a_server_on_every_address_says_so_and_shows_nothing_without_its_token(capsys):
    with ln.network.serve({"one": lambda: 1}, port=0, host="0.0.0.0") as server:
        printed = capsys.readouterr().out
        assert "reachable from other machines" in printed
        assert server.token not in printed
        assert http(server, "GET", "/statistics", token=None).status == 401
        assert http(server, "GET", "/one").status == 200


def test_an_empty_token_is_refused():
    with pytest.raises(ln.errors.ServeError, match="empty"):
        ln.network.serve({"one": lambda: 1}, port=0, token="")


def test_the_error_tells_a_missing_token_from_a_wrong_one(server, monkeypatch, tmp_path):
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    with pytest.raises(Unauthorized, match="missing") as caught:
        fetch(server.url + "/hello")
    assert server.token not in str(caught.value)
    with pytest.raises(Unauthorized, match="wrong") as caught:
        fetch(server.url + "/hello", token="guess")
    assert "guess" not in str(caught.value)
    assert fetch(server.url + "/hello", token=server.token) == "hi"


def test_a_token_given_is_never_replaced_by_the_published_one(server):
    with pytest.raises(Unauthorized):
        fetch(server.url + "/hello", token="wrong")


def test_nothing_that_is_shown_holds_the_token(server, caplog, capsys):
    def broken(x):
        raise ValueError("no")

    caplog.set_level(logging.DEBUG)
    logging.getLogger("asyncio").setLevel(logging.DEBUG)
    with ln.network.serve({"broken": broken}, port=0, name="second") as second:
        shown = [json.dumps(server.statistics()), json.dumps(server.snapshot()), repr(server), repr(second)]
        requests = [
            (server, "GET", "/statistics", None),
            (server, "GET", "/snapshot", None),
            (server, "GET", "/health", None),
            (server, "GET", "/nothing", None),
            (server, "POST", "/forward", b"[[1.0]]"),
            (server, "POST", "/echo", b"nope"),
            (second, "POST", "/broken", b"[1.0]"),
        ]
        for target, method, path, body in requests:
            reply = http(target, method, path, body, Authorization="Bearer hidden", Cookie="key=hidden")
            shown.append(str(reply.headers) + reply.body.decode())
        printed = capsys.readouterr()
        shown += [caplog.text, printed.out, printed.err]
        assert "ValueError: no" in caplog.text
        for secret in (server.token, second.token, "hidden"):
            assert not [text for text in shown if secret in text]


def test_only_share_prints_the_token(server, capsys):
    server.share()
    line, hint = capsys.readouterr().out.splitlines()
    assert line == f"remote = ln.network.remote_model({server.url!r}, token={server.token!r})"
    assert f"ssh -L {server.port}:localhost:{server.port}" in hint
    assert server.token not in hint


def test_a_body_that_is_a_pickle_is_not_executed(server, tmp_path):
    import pickle

    canary = tmp_path / "canary"

    class Attack:
        def __reduce__(self):
            return os.mkdir, (str(canary),)

    body = pickle.dumps(Attack())
    for content_type in (JSON, "application/x-labnet", "application/octet-stream", "application/python-pickle"):
        assert http(server, "POST", "/forward", body, Content_Type=content_type).status in (400, 415)
        reply = http(server, "POST", "/echo", body, Content_Type=content_type)
        assert reply.status in (400, 415) or (content_type, reply.body) == ("application/octet-stream", body)
    assert not canary.exists()
