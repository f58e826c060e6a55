"""Idempotency keys and digests on the wire, as any client may send them."""

import base64
import hashlib
import json
import threading

import numpy as np
import pytest
import xxhash

import labnet as ln
from labnet import nn
from labnet.network.protocol import keys
from labnet.network.protocol.digest import digest_of
from labnet.network.protocol.keys import Key
from labnet.network.server.ledger import Bounds
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.raw_http import JSON, NATIVE, forward_of, http, native
from tests.helpers.threads import together, wait_until

BODY = b"[1.0, 2.0]"


@pytest.fixture
def hits():
    return []


@pytest.fixture
def server(hits):
    def count(x):
        hits.append(x.tolist())
        return len(hits)

    def fail(x):
        hits.append(x.tolist())
        raise KeyError("the key")

    with ln.network.serve({"count": count, "fail": fail}, port=0) as server:
        yield server


def post(server, route, key, body=BODY, **headers):
    return http(server, "POST", route, body, Content_Type=JSON, Idempotency_Key=key, **headers)


def test_a_key_that_comes_again_gets_the_stored_reply_and_is_not_carried_out(server, hits):
    first, again = (post(server, "/count", '"ana:1"') for _ in range(2))
    assert (first.status, first.body, first.headers.get("labnet-replayed")) == (200, b"1", None)
    assert (again.status, again.body, again.headers.get("labnet-replayed")) == (200, b"1", "1")
    assert len(hits) == 1
    assert server.statistics()["server"]["calls"]["replayed"] == 1
    assert server.statistics()["count"]["hits"] == 1


def test_without_a_key_every_request_is_carried_out(server, hits):
    for _ in range(2):
        http(server, "POST", "/count", BODY)
    assert len(hits) == 2


def test_any_text_may_be_a_key(server, hits):
    for _ in range(2):
        assert post(server, "/count", '"8e03978e-40d5-43dd-bc93-6894a57f9324"').status == 200
    assert len(hits) == 1


def test_the_same_key_with_another_body_or_route_is_refused(server, hits):
    post(server, "/count", '"ana:1"')
    for route, body in (("/count", b"[3.0, 4.0]"), ("/fail", BODY)):
        reply = post(server, route, '"ana:1"', body)
        assert (reply.status, reply.json()["error"]) == (422, "BadRequest")
    assert len(hits) == 1


def test_a_failure_of_the_handler_is_stored_too(server, hits):
    first, again = (post(server, "/fail", '"ana:1"') for _ in range(2))
    assert (first.status, again.status) == (500, 500)
    assert again.json()["message"] == first.json()["message"]
    assert len(hits) == 1


def test_a_request_that_was_refused_may_come_again_with_its_key(server, hits):
    assert post(server, "/count", '"ana:1"', b"not JSON").status == 400
    assert post(server, "/count", '"ana:2"', token=None).status == 401
    assert post(server, "/count", '"ana:2"').status == 200


def test_a_key_older_than_the_window_is_refused(server, hits):
    server._port.once.ledger.bounds = Bounds(window=8)
    for sequence in range(2, 12):
        assert post(server, "/count", f'"ana:{sequence}"').status == 200
    reply = post(server, "/count", '"ana:1"')
    assert (reply.status, reply.json()["error"], reply.json()["applied"]) == (409, "CallExpired", "unknown")
    assert len(hits) == 10


def test_a_reply_that_the_client_has_is_dropped(server):
    post(server, "/count", '"ana:1"')
    held = server.statistics()["server"]["calls"]["bytes"]
    post(server, "/count", '"ana:2"', Labnet_Done="2")
    assert server.statistics()["server"]["calls"]["bytes"] == held
    reply = post(server, "/count", '"ana:1"')
    assert (reply.status, reply.json()["error"], reply.json()["applied"]) == (410, "GraphExpired", "yes")


def test_stored_headers_count_as_bytes_too(server):
    before = server.statistics()["server"]["calls"]["bytes"]
    reply = http(server, "POST", "/count", b"1", Labnet_Collect="1", Idempotency_Key='"counting:1"')
    stored = server.statistics()["server"]["calls"]["bytes"] - before
    assert stored >= len(reply.headers["labnet-statistics"]) + len(reply.body)


def test_the_same_key_at_once_is_carried_out_once_and_answered_the_same():
    entered, opened, hits = threading.Event(), threading.Event(), []

    def slow(x):
        hits.append(1)
        entered.set()
        assert opened.wait(SECONDS)
        return len(hits)

    with ln.network.serve({"slow": slow}, port=0) as server:

        def open_once_all_have_come():
            assert entered.wait(SECONDS)
            wait_until(lambda: server.statistics()["server"]["calls"]["joined"] == 4)
            opened.set()

        ask = [lambda: post(server, "/slow", '"ana:1"')] * 5
        replies = together(*ask, open_once_all_have_come)[:5]
    assert [reply.body for reply in replies] == [b"1"] * 5
    assert sorted("labnet-replayed" in reply.headers for reply in replies) == [False, True, True, True, True]
    assert hits == [1]


@pytest.mark.parametrize("key", ['""', "x" * 600])
def test_a_key_of_no_sensible_length_is_refused(server, key):
    assert post(server, "/count", key).status == 400


def test_a_repeated_backward_is_applied_once_and_answered_with_the_same_bytes():
    model = nn.Linear(2, 3)
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0) as server:
        call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
        body = native({"tensor": np.ones((1, 3), "float32")})
        send = {"Content_Type": NATIVE, "Labnet_Call": call, "Idempotency_Key": '"ana:2"'}
        first, again = (http(server, "POST", "/optimize", body, **send) for _ in range(2))
        assert (first.status, again.status, first.body) == (200, 200, again.body)
        assert server.statistics()["server"]["version"] == 1


def test_keys_of_requests_made_on_behalf_of_another_are_derived_from_its_key():
    def record(user, x):
        return x

    def outer(x):
        ln.network.tfetch(inner.url + "/record", x, blocking=True)
        ln.network.tfetch(inner.url + "/record", x, blocking=True)

    with (
        ln.network.serve({"record": record}, port=0) as inner,
        ln.network.serve({"outer": outer}, port=0, name="outer") as server,
    ):
        assert post(server, "/outer", '"ana:17"').status == 204
        ((client, window),) = inner._port.once.ledger._windows.items()
        seen = [Key(client, sequence) for sequence in window.entries]
    assert [(key.sequence[0], key.sequence[-1]) for key in seen] == [(17, 0), (17, 1)]
    assert {key.client.partition("/")[0] for key in seen} == {"ana"}


def test_a_process_says_below_which_key_it_has_every_reply(monkeypatch):
    monkeypatch.setattr(keys, "_process", None)  # as in a fresh process: requests of other tests may still be under way
    first, second = keys.take("x"), keys.take("x")
    number = int(first.key.rpartition(":")[2])
    assert second.headers()[keys.DONE] == str(number)
    del first
    assert int(second.headers()[keys.DONE]) > number


# Digests


@pytest.mark.parametrize("length", [0, 1, 4096, 50_001])
@pytest.mark.parametrize("cuts", [(), (1,), (88, 4096), (100, 5000, 5001, 20_000)])
def test_the_digest_is_that_of_the_whole_body_however_it_is_cut(length, cuts):
    data = np.random.default_rng(length).bytes(length)
    edges = [0, *[cut for cut in cuts if cut < length], length]
    parts = [data[start:end] for start, end in zip(edges, edges[1:], strict=False)]  # noqa: RUF007
    assert digest_of(parts) == xxhash.xxh3_128_digest(data)


def content_digest(algorithm, data):
    function = {"sha-256": hashlib.sha256, "sha-512": hashlib.sha512, "xxh128": xxhash.xxh3_128}[algorithm]
    return f"{algorithm}=:{base64.b64encode(function(data).digest()).decode()}:"


@pytest.mark.parametrize("algorithm", ["sha-256", "sha-512", "xxh128"])
def test_a_body_that_does_not_match_its_digest_is_refused_and_may_come_again(server, hits, algorithm):
    right = content_digest(algorithm, BODY)
    reply = post(server, "/count", '"ana:1"', b"[1.0, 3.0]", Content_Digest=right)
    assert (reply.status, reply.json()["error"]) == (400, "Corrupted")
    assert algorithm in reply.json()["message"]
    reply = post(server, "/count", '"ana:1"', Content_Digest=right)
    assert (reply.status, reply.headers["content-digest"]) == (200, content_digest(algorithm, b"1"))
    assert hits == [[1.0, 2.0]]


def test_exchanged_pages_of_a_body_are_found(server, hits):
    pages = [json.dumps([float(number)] * 600).encode()[1:-1].ljust(4096) for number in (1, 2)]
    body, exchanged = b"[%b,%b]" % (pages[0], pages[1]), b"[%b,%b]" % (pages[1], pages[0])
    reply = post(server, "/count", '"ana:1"', exchanged, Content_Digest=content_digest("xxh128", body))
    assert (reply.status, reply.json()["error"], hits) == (400, "Corrupted", [])
    assert post(server, "/count", '"ana:1"', body).status == 200
    assert post(server, "/count", '"ana:1"', exchanged).status == 422


@pytest.mark.parametrize(
    ("digest", "status"),
    [
        ("md5=:AAAA:", 200),  # an algorithm that is not known says nothing
        (content_digest("sha-256", BODY) + ", md5=:AAAA:", 200),
        (content_digest("sha-256", BODY) + "," + content_digest("sha-512", b"else"), 400),
        ("sha-256=LPJNul", 400),
        ("sha-256=:LPJ:", 400),
        ("sha-256", 400),
    ],
)
def test_a_digest_is_read_as_rfc_9530_says(server, digest, status):
    assert post(server, "/count", '"ana:1"', Content_Digest=digest).status == status


@pytest.mark.parametrize(
    ("want", "algorithm"),
    [
        ("sha-256=1", "sha-256"),
        ("sha-512=3, sha-256=10", "sha-256"),
        ("md5=10, sha-512=2", "sha-512"),
        ("sha-256=0", ""),
    ],
)
def test_a_reply_has_the_digest_that_is_wanted(server, want, algorithm):
    reply = post(server, "/count", '"ana:1"', Want_Content_Digest=want)
    assert reply.headers.get("content-digest", "") == (content_digest(algorithm, b"1") if algorithm else "")


def test_large_bodies_have_digests_in_both_directions():
    x = ln.asarray(np.random.default_rng(0).standard_normal(1 << 19).astype("float32"))
    with ln.network.serve_model(lambda x: x * 2, port=0) as server:
        np.testing.assert_array_equal(blocking(server)(x).numpy(), x.numpy() * 2)


def test_a_handler_that_changes_its_array_later_does_not_change_the_stored_reply():
    own = np.zeros(1000, "float32")
    with ln.network.serve({"own": lambda x: own}, port=0) as server:
        first = post(server, "/own", '"ana:1"', Accept=NATIVE)
        own += 1
        again = post(server, "/own", '"ana:1"', Accept=NATIVE)
    assert again.headers["labnet-replayed"] == "1"
    assert again.body == first.body
