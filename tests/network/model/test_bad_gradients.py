"""Gradients that a server refuses, and optimizers that fail: nothing is changed."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import BadGradient, GradientError, GraphExpired, RemoteFailure
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.raw_http import forward_of, gradient_of
from tests.helpers.network.training_checks import assert_unchanged, linear, version, weights
from tests.helpers.threads import together


@pytest.fixture
def model():
    return linear()


@pytest.fixture
def server(model):
    with ln.network.serve_model(model, ln.optim.SGD(lr=0.1), port=0) as server:
        yield server


def filled(value, shape=(1, 3), dtype="float32"):
    return np.full(shape, value, dtype)


BAD = {
    "NaN": filled(np.nan),
    "infinity": filled(np.inf),
    "minus infinity": filled(-np.inf),
    "one NaN": np.array([[1, np.nan, 1]], "float32"),
    "one row too many": filled(1, (2, 3)),
    "transposed": filled(1, (3, 1)),
    "flat": filled(1, (3,)),
    "scalar": filled(1, ()),
    "empty": filled(1, (0, 3)),
    "float64": filled(1, dtype="float64"),
    "float16": filled(1, dtype="float16"),
    "int32": filled(1, dtype="int32"),
    "so large that the weights' gradient overflows": filled(3e38),
}


@pytest.mark.filterwarnings("ignore:overflow encountered:RuntimeWarning")
@pytest.mark.parametrize("name", BAD)
def test_a_bad_gradient_changes_nothing_and_its_graph_can_still_be_used(name, server, model):
    before = weights(model)
    call = forward_of(server, np.full((1, 2), 100.0, "float32")).headers["labnet-call"]
    reply = gradient_of(server, call, BAD[name])
    assert (reply.status, reply.json()["error"], reply.json()["call"]) == (422, "BadGradient", call)
    assert_unchanged(model, before)
    assert version(server) == 0
    assert gradient_of(server, call, filled(1)).status == 200
    assert version(server) == 1


def test_the_error_names_both_shapes_and_dtypes(server):
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    message = gradient_of(server, call, filled(1, (2, 3), "float64")).json()["message"]
    assert all(word in message for word in ("(2, 3)", "(1, 3)", "float64", "float32"))


@pytest.mark.parametrize("arrays", [{}, {"other": filled(1)}, {"tensor": filled(1), "other": filled(1)}])
def test_a_gradient_that_is_missing_or_for_no_output_is_bad(arrays, server):
    from tests.helpers.network.raw_http import NATIVE, http, native

    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    reply = http(server, "POST", "/optimize", native(arrays), Content_Type=NATIVE, Labnet_Call=call)
    assert (reply.status, reply.json()["error"]) == ((422, "BadGradient") if arrays else (400, "BadRequest"))
    assert version(server) == 0


def test_a_nan_loss_of_our_own_client_is_a_bad_gradient(server, model):
    before = weights(model)
    with pytest.raises(BadGradient, match="NaN"):
        (blocking(server)(ln.ones((1, 2))) * float("nan")).sum().backward()
    assert_unchanged(model, before)
    assert server.statistics()["server"]["loss"] is None


@pytest.mark.parametrize("loss", ["", "high", "0x1", "1;2"])
def test_a_loss_that_is_no_number_is_refused_before_the_graph_is_used_up(loss, server):
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    reply = gradient_of(server, call, filled(1), loss=loss)
    assert (reply.status, reply.json()["error"]) == (400, "BadRequest")
    assert gradient_of(server, call, filled(1)).status == 200


def test_a_second_backward_of_a_call_is_refused_and_says_that_the_first_was_applied(server, model):
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    assert gradient_of(server, call, filled(1)).status == 200
    before = weights(model)
    reply = gradient_of(server, call, filled(1))
    assert (reply.status, reply.json()["error"]) == (410, "GraphExpired")
    assert "applied: yes" in reply.json()["message"]
    assert_unchanged(model, before)
    assert version(server) == 1


def test_a_second_backward_of_the_same_tensor_is_refused_by_the_client(server):
    y = blocking(server)(ln.ones((1, 2)))
    y.sum().backward()
    with pytest.raises((GraphExpired, GradientError)):
        y.sum().backward()
    assert version(server) == 1


def test_two_backwards_of_a_call_at_once_are_applied_once(server):
    call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
    replies = together(*[lambda: gradient_of(server, call, filled(1)).status] * 8)
    assert sorted(replies) == [200] + [410] * 7
    assert version(server) == 1


def test_an_unknown_call_is_expired(server):
    reply = gradient_of(server, "0" * 32, filled(1))
    assert (reply.status, reply.json()["error"]) == (410, "GraphExpired")
    assert "applied: unknown" in reply.json()["message"]


def test_an_optimizer_that_raises_changes_nothing(model):
    def refuse(gradients):
        raise RuntimeError("no step today")

    before = weights(model)
    with ln.network.serve_model(model, refuse, port=0) as server:
        with pytest.raises(RemoteFailure, match="no step today"):
            blocking(server)(ln.ones((1, 2))).sum().backward()
        assert version(server) == 0
    assert_unchanged(model, before)


def test_an_optimizer_that_raises_half_way_changes_nothing(model):
    def half(gradients):
        tensor = next(iter(gradients))
        tensor.assign(tensor.numpy() + 1)
        raise RuntimeError("half-way")

    before = weights(model)
    with ln.network.serve_model(model, half, port=0) as server, pytest.raises(RemoteFailure, match="half-way"):
        blocking(server)(ln.ones((1, 2))).sum().backward()
    assert_unchanged(model, before)


def test_a_call_whose_optimizer_raised_is_not_said_to_be_applied(model):
    def refuse(gradients):
        raise RuntimeError("no step today")

    with ln.network.serve_model(model, refuse, port=0) as server:
        call = forward_of(server, np.ones((1, 2), "float32")).headers["labnet-call"]
        assert gradient_of(server, call, filled(1)).status == 500
        reply = gradient_of(server, call, filled(1))
        assert "applied: yes" not in reply.json()["message"]
