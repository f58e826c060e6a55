"""Rounds over plain HTTP: gradients that are held, and what `/settle` tells of them."""

import json

import numpy as np
import pytest

import labnet as ln
from labnet.errors import WireError
from labnet.network.protocol.rounds import RoundOf
from tests.helpers.network.raw_http import NATIVE, forward_of, http, native

ID = "c0ffee00c0ffee00"


@pytest.fixture
def served(tmp_path):
    model = ln.nn.Linear(2, 1, bias=False)
    model.weight.assign([[1.0, 2.0]])
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.5), port=0, store=tmp_path / "store") as server:
        yield server, model


def send(server, call, gradient, round_):
    body = native({"tensor": np.asarray(gradient, np.float32)})
    return http(server, "POST", "/optimize", body, Content_Type=NATIVE, Labnet_Call=call, Labnet_Round=round_)


def calls_of(server, count):
    return [forward_of(server, np.ones((1, 2), np.float32)).headers["labnet-call"] for _ in range(count)]


def settle(server, calls):
    return http(server, "POST", "/settle", json.dumps(calls).encode())


def version(server):
    return server.statistics()["server"]["version"]


def test_a_held_gradient_is_answered_at_once_and_applied_with_the_others(served):
    server, model = served
    calls = calls_of(server, 3)
    for position in (2, 0):
        reply = send(server, calls[position], [[1.0]], f"{ID} 3 {position}")
        assert reply.status == 200
        assert reply.headers["labnet-round"] == f"{ID} 3 {position}"
    assert version(server) == 0
    assert settle(server, calls).json() == {calls[0]: "held", calls[1]: "no", calls[2]: "held"}
    send(server, calls[1], [[1.0]], f"{ID} 3 1")
    assert settle(server, calls).json() == dict.fromkeys(calls, "yes")
    assert version(server) == 1
    assert model.weight.tolist() == [[-0.5, 0.5]]


def test_rounds_are_of_their_own(served):
    server, _ = served
    one, other = calls_of(server, 2)
    send(server, one, [[1.0]], f"{ID} 2 0")
    send(server, other, [[1.0]], "deadbeefdeadbeef 2 0")
    assert version(server) == 0


def test_a_model_that_is_replaced_gives_up_what_it_holds(served, tmp_path):
    server, model = served
    (call,) = calls_of(server, 1)
    send(server, call, [[1.0]], f"{ID} 2 0")
    place = {"port": server.port, "name": server.name, "store": tmp_path / "store"}
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.5), **place) as again:
        assert settle(again, [call]).json() == {call: "no"}
        assert version(again) == 0


def test_a_gradient_that_is_not_finite_is_not_held(served):
    server, _ = served
    (call,) = calls_of(server, 1)
    assert send(server, call, [[np.inf]], f"{ID} 1 0").status == 422
    assert settle(server, [call]).json() == {call: "no"}


@pytest.mark.parametrize("text", ["", "c0ffee", f"{ID} 5000 0", f"{ID} 3", f"{ID} 3 -1", f"{ID.upper()} 3 1"])
def test_a_round_that_is_malformed_is_refused(served, text):
    with pytest.raises(WireError, match="must be an id of 8 to 64 hex digits"):
        RoundOf.read(text)
    server, _ = served
    (call,) = calls_of(server, 1)
    assert send(server, call, [[1.0]], text or "x").status == 400
    assert settle(server, [call]).json() == {call: "no"}


@pytest.mark.parametrize("body", [b"{}", b"[1]", b"[]", b"nonsense", b"\xff"])
def test_settle_refuses_what_is_no_list_of_calls(served, body):
    assert http(served[0], "POST", "/settle", body).status == 400


def test_a_model_of_its_own_has_no_routes_for_replicas(served):
    server, _ = served
    assert http(server, "GET", "/follow").status == 404
    assert http(server, "POST", "/apply", b"{}").status == 404
