"""What becomes of gradients that belong to weights of the past."""

import itertools
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from labnet.errors import ServeError, StaleGradient
from labnet.network.model.staleness import Histogram
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking
from tests.helpers.threads import wait_until

RATE = 0.25


def linear():
    ln.manual_seed(0)
    return nn.Linear(2, 1)


def serve(model, **policy):
    return ln.network.serve_model(model, ln.optim.SGD(lr=RATE), port=0, **policy)


def step(remote):
    remote(ln.ones((1, 2))).sum().backward()


def test_by_default_a_stale_gradient_is_taken_as_it_is_and_counted():
    model = linear()
    bias = model.bias.item()
    with serve(model) as server:
        remote = blocking(server)
        late = remote(ln.ones((1, 2))).sum()
        for _ in range(3):
            step(remote)
        late.backward()
        state = server.statistics()["server"]
    assert (state["staleness"], state["staleness_histogram"]) == (3, {"0": 3, "2-3": 1})
    assert model.bias.item() == np.float32(bias) - np.float32(4 * RATE)


def test_a_gradient_staler_than_allowed_is_refused_and_changes_nothing():
    model = linear()
    with serve(model, max_staleness=2) as server:
        remote = blocking(server)
        late, later = remote(ln.ones((1, 2))).sum(), remote(ln.ones((1, 2))).sum()
        step(remote)
        step(remote)
        late.backward()
        before = model.bias.item()
        with pytest.raises(StaleGradient, match=r"changed 3 times.*at most 2.*applied: no") as caught:
            later.backward()
        assert caught.value.applied == "no"
        assert (model.bias.item(), server.statistics()["server"]["version"]) == (before, 3)
        assert server.statistics()["server"]["graphs"]["count"] == 0


def test_a_stale_gradient_is_scaled_down():
    model = linear()
    bias = model.bias.item()
    with serve(model, staleness="scale") as server:
        remote = blocking(server)
        late = remote(ln.ones((1, 2))).sum()
        for _ in range(3):
            step(remote)
        late.backward()
    assert model.bias.item() == pytest.approx(bias - RATE * (3 + 1 / 4), abs=1e-6)


def accumulated(order):
    """Train with three clients whose gradients arrive in an order; return the bits of the weights."""
    model, clients = linear(), ["ana", "bea", "cem"]
    inputs = {"ana": 1e-3, "bea": 1.0, "cem": -1e4}
    with serve(model, accumulate=3) as server:
        losses = {
            client: blocking(server, client=client)(ln.full((1, 2), inputs[client], requires_grad=True)).sum()
            for client in clients
        }
        threads = []
        for arrived, client in enumerate(order, start=1):
            thread = threading.Thread(target=losses[client].backward)
            thread.start()
            threads.append(thread)
            wait_until(lambda arrived=arrived: len(server._model.updates._round) >= arrived % 3)
        for thread in threads:
            thread.join(SECONDS)
        assert server.statistics()["server"]["version"] == 1
    return [value.numpy().tobytes() for value in model.state_dict().values()]


def test_accumulated_gradients_give_the_same_bits_in_whatever_order_they_arrive():
    results = [accumulated(order) for order in itertools.permutations(["ana", "bea", "cem"])]
    assert all(result == results[0] for result in results)


def test_a_bad_gradient_does_not_join_the_others():
    model = linear()
    with serve(model, accumulate=2) as server:
        remote = blocking(server)
        good, bad = remote(ln.ones((1, 2))), remote(ln.full((1, 2), 1e38))
        with pytest.raises(ln.errors.BadGradient):
            bad.backward(ln.full((1, 1), 1e38))
        thread = threading.Thread(target=lambda: good.sum().backward())
        thread.start()
        remote(ln.ones((1, 2))).sum().backward()
        thread.join(SECONDS)
        assert server.statistics()["server"]["version"] == 1


@pytest.mark.parametrize(
    "policy",
    [
        {"staleness": "ignore"},
        {"max_staleness": -1},
        {"max_staleness": 1.5},
        {"accumulate": 0},
        {"accumulate": True},
    ],
)
def test_a_policy_that_makes_no_sense_is_refused(policy):
    with pytest.raises(ServeError, match=next(iter(policy))):
        serve(linear(), **policy)


def test_the_histogram_has_classes_that_double():
    histogram = Histogram()
    for staleness in range(9):
        histogram.add(staleness)
    assert histogram.summary() == {"0": 1, "1": 1, "2-3": 2, "4-7": 4, "8-15": 1}
