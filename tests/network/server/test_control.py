"""Stopping a server from its panel: who is given a capability, what it is good for, and how often."""

import pytest

import labnet as ln
from labnet.errors import Unauthorized
from labnet.network.server.control import SECONDS, Capabilities
from tests.helpers.constants import SECONDS as PATIENCE
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.raw_http import connection, head, http, read_reply
from tests.helpers.threads import together


@pytest.fixture
def server():
    with ln.network.serve({"hello": lambda: "hi"}, port=0) as server:
        yield server


def ask_to_stop(server, capability, **headers):
    """Send what a browser sends to any address, without a token."""
    headers = {"Content_Type": "text/plain;charset=UTF-8"} | headers
    return http(server, "POST", "/server/stop", capability.encode(), token=None, **headers)


def test_a_capability_is_good_once():
    capabilities = Capabilities()
    given = capabilities.issue(now=0.0)
    assert capabilities.spend(given, now=1.0)
    assert not capabilities.spend(given, now=1.0)


def test_a_capability_ends_by_itself():
    capabilities = Capabilities()
    given = capabilities.issue(now=0.0)
    assert not capabilities.spend(given, now=SECONDS)


def test_capabilities_differ_have_192_bits_and_are_bounded():
    capabilities = Capabilities()
    given = [capabilities.issue(now=0.0) for _ in range(1000)]
    assert len(set(given)) == 1000
    assert {len(capability) for capability in given} == {32}
    good = [capability for capability in given if capabilities.spend(capability, now=0.0)]
    assert good == given[-256:]


def test_what_is_kept_is_not_what_was_given():
    capabilities = Capabilities()
    given = capabilities.issue(now=0.0)
    assert given not in str(vars(capabilities))


@pytest.mark.parametrize("origin", [None, "http://localhost:8888", "https://hub.example"])
def test_a_capability_stops_the_server_from_any_page_and_by_any_way(server, origin):
    headers = {"Origin": origin, "Sec_Fetch_Site": "cross-site", "Host": "hub.example"} if origin else {}
    reply = ask_to_stop(server, server.stop_capability(), **headers)
    assert reply.json() == {"stopping": True}
    assert not [name for name in reply.headers if name.startswith("access-control")]
    assert server.wait(PATIENCE)


def test_the_token_gets_a_capability_over_http(server):
    assert http(server, "GET", "/server/capability", token=None).status == 401
    reply = http(server, "GET", "/server/capability")
    assert reply.headers["cache-control"] == "no-store"
    assert ask_to_stop(server, reply.json()["capability"]).status == 200
    assert server.wait(PATIENCE)


@pytest.mark.parametrize("capability", ["guess", " ", "ä", "x" * 256])
def test_anything_else_does_not_stop_it(server, capability):
    assert ask_to_stop(server, capability).status in (401, 413)
    assert server.running


def test_neither_the_token_nor_the_capability_of_another_server_stops_it(server):
    with ln.network.serve({"other": lambda: 1}, port=0) as other:
        for capability in (server.token, other.stop_capability()):
            assert ask_to_stop(server, capability).status == 401
        assert server.running


def test_a_capability_is_no_token(server):
    assert http(server, "GET", "/hello", token=server.stop_capability()).status == 401
    assert http(server, "GET", "/server/capability", token=server.stop_capability()).status == 401


def test_a_body_without_a_token_is_short(server):
    headers = {"Content-Type": "text/plain", "Content-Length": 257}
    with connection(server.port) as (sock, file):
        sock.sendall(head(server.port, "POST", "/server/stop", headers) + b"x" * 257)
        assert read_reply(file).status == 413
    assert server.running


def test_of_many_who_send_the_same_capability_one_is_believed(server):
    capability = server.stop_capability()
    connections = [connection(server.port) for _ in range(8)]
    opened = [c.__enter__() for c in connections]
    request = head(server.port, "POST", "/server/stop", {"Content-Type": "text/plain", "Content-Length": 32})

    def send(sock, file):
        sock.sendall(request + capability.encode())
        reply = read_reply(file)
        return reply and reply.status

    statuses = together(*[lambda pair=pair: send(*pair) for pair in opened])
    for c in connections:
        c.__exit__(None, None, None)
    assert statuses.count(200) == 1
    assert set(statuses) <= {200, 401, 503, None}
    assert server.wait(PATIENCE)


def test_a_remote_model_stops_its_server(server):
    blocking(server).stop()
    assert server.wait(PATIENCE)


def test_a_remote_model_without_the_token_does_not(server):
    with pytest.raises(Unauthorized):
        blocking(server, token="wrong").stop()
    assert server.running


def test_a_request_under_way_is_still_answered(server):
    capability = server.stop_capability()
    with connection(server.port) as (sock, file):
        body = head(server.port, "POST", "/server/stop", {"Content-Type": "text/plain", "Content-Length": 32})
        sock.sendall(body + capability.encode())
        assert read_reply(file).json() == {"stopping": True}
    assert server.wait(PATIENCE)
