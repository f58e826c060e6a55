"""Calls of served models: modes, inputs and outputs, and the graphs that they keep."""

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import RemoteFailure
from tests.helpers.network.client_calls import blocking, fetch
from tests.helpers.network.handlers import serve
from tests.helpers.network.raw_http import NATIVE, forward_of, gradient_of, http
from tests.helpers.threads import together


def test_a_call_in_eval_mode_keeps_no_graph():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        with ln.no_grad():
            y = blocking(server)(ln.ones((1, 2)))
        assert not y.requires_grad
        reply = http(server, "POST", "/forward", b"[[1.0, 2.0]]")
        assert "labnet-call" not in reply.headers
        assert server.statistics()["server"]["graphs"] == {"count": 0, "bytes": 0, "evicted": 0}


def test_the_mode_is_per_call():
    class Tell(nn.Module):
        def forward(self, x):
            return x * 0 + float(self.training)

    with ln.network.serve_model(Tell(), port=0) as server:
        remote = blocking(server)
        for _ in range(2):
            assert remote(ln.ones(1)).item() == 1.0
            with ln.no_grad():
                assert remote(ln.ones(1)).item() == 0.0
            assert http(server, "POST", "/forward", b"[1.0]").json() == [0.0]


def test_a_call_in_eval_mode_leaves_the_owners_model_in_training_mode():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server, ln.no_grad():
        blocking(server)(ln.ones((1, 2)))
    assert model.training


def test_named_inputs_and_outputs_under_no_grad():
    def model(a, b):
        return {"sum": a + b, "product": a * b}

    with ln.network.serve_model(model, port=0) as server, ln.no_grad():
        y = blocking(server)(a=ln.ones(2), b=ln.full(2, 3.0))
        assert {name: tensor.tolist() for name, tensor in y.items()} == {"sum": [4.0, 4.0], "product": [3.0, 3.0]}


def test_weights_can_be_read():
    model = nn.Linear(2, 1)
    with ln.network.serve_model(model, port=0) as server:
        state = blocking(server).state_dict()
        assert state.keys() == {"weight", "bias"}
        np.testing.assert_array_equal(state["weight"].numpy(), model.weight.numpy())
        assert http(server, "GET", "/weights", token=None).status == 401


def test_a_model_that_returns_no_tensor_is_an_error_of_the_call():
    with ln.network.serve_model(lambda x: "text", port=0) as server, pytest.raises(RemoteFailure, match="str 'text'"):
        blocking(server)(ln.ones(1))


def test_kept_graphs_are_bounded_and_the_oldest_expires():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        remote = blocking(server)
        first = remote(ln.ones((1, 2), requires_grad=True)).sum()
        for _ in range(1024):
            remote(ln.ones((1, 2)))
        graphs = server.statistics()["server"]["graphs"]
        assert (graphs["count"], graphs["evicted"]) == (1024, 1)
        first.backward()
        assert server.statistics()["forward"]["hits"] == 1 + 1024 + 1


def test_weights_are_not_counted_as_bytes_of_every_graph():
    with ln.network.serve_model(nn.Linear(1000, 1000), port=0) as server:
        blocking(server)(ln.ones((1, 1000)))
        assert server.statistics()["server"]["graphs"]["bytes"] < 100_000


def test_a_model_in_json_runs_on_whole_numbers_too():
    with ln.network.serve_model(nn.Linear(2, 1), port=0) as server:
        for body in (b"[[1.0, 2.0]]", b"[[1, 2]]"):
            reply = http(server, "POST", "/forward", body)
            assert reply.status == 200, reply.body
            assert np.shape(reply.json()) == (1, 1)


def test_many_clients_at_once_get_their_own_answers():
    with serve(lambda x: x + 1) as server:

        def calls(start):
            return [fetch(server.url + "/route", ln.asarray(float(start + i))).item() for i in range(50)]

        results = together(*(lambda start=100 * k: calls(start) for k in range(8)))
    assert results == [[100.0 * k + i + 1 for i in range(50)] for k in range(8)]


def test_a_graph_is_found_by_its_call_and_not_by_its_connection():
    with ln.network.serve_model(nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        reply = forward_of(server, np.ones((1, 2), "float32"))
        assert reply.headers["content-type"] == NATIVE
        assert gradient_of(server, reply.headers["labnet-call"], np.ones((1, 1), "float32")).status == 200
