"""The norms that the panel draws: what they are, and that measuring them takes little time."""

import itertools
import math

import numpy as np
import pytest

import labnet as ln
from labnet.network.monitor.norms import Norms, norm
from tests.helpers.network.client_calls import blocking, fetch


class Clock:
    """Time that goes on only when told, and while something is measured."""

    def __init__(self, cost):
        self.now = 0.0
        self._cost = itertools.cycle([0.0, cost])

    def __call__(self):
        self.now += next(self._cost)
        return self.now


def gradients():
    weight = ln.asarray([3.0, 4.0], requires_grad=True)
    return (weight * ln.asarray([6.0, 8.0])).sum().backward()


def test_a_norm_is_the_root_of_all_squares():
    norms = Norms()
    norms.measure(1, gradients())
    assert norms.summary() == {
        "gradient": {"steps": [1], "values": [10.0]},
        "weights": {"steps": [1], "values": [5.0]},
    }


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
def test_the_norm_of_half_precision_does_not_overflow(dtype):
    assert norm([np.full(4, 500, dtype)]) == 1000.0


def test_a_norm_of_views_is_that_of_their_values():
    array = np.arange(12.0).reshape(3, 4)
    assert norm([array.T[1:]]) == pytest.approx(math.sqrt((array.T[1:] ** 2).sum()))


def test_what_is_costly_is_measured_so_rarely_that_it_takes_two_percent_of_the_time():
    clock = Clock(cost=1.0)
    norms = Norms(clock=clock)
    given, spent, measured = gradients(), 0.0, 0
    for version in range(2000):
        before = clock.now
        norms.measure(version, given)
        if clock.now > before:
            measured, spent = measured + 1, spent + 1.0
        elif len(norms.gradient.points()[0]) == measured:
            clock._cost = itertools.cycle([0.0, 1.0])  # it asked for the time once, and did not measure
        clock.now += 1.0
    assert measured > 10
    assert spent / clock.now <= 0.021


def test_a_norm_that_is_not_finite_is_left_out():
    weight = ln.asarray([1.0], requires_grad=True)
    norms = Norms()
    with np.errstate(all="ignore"):
        norms.measure(1, (weight * ln.asarray([np.inf])).sum().backward())
    assert norms.summary()["gradient"]["steps"] == []


def test_the_snapshot_of_a_trained_model_has_both_norms():
    with ln.network.serve_model(ln.nn.Linear(2, 1), ln.optim.SGD(lr=0.1), port=0) as server:
        blocking(server)(ln.ones((1, 2))).sum().backward()
        norms = fetch(server.url + "/snapshot")["norms"]
    assert norms["gradient"]["values"] == [pytest.approx(math.sqrt(3))]
    assert norms["weights"]["steps"] == [1]


def test_the_snapshot_of_a_composed_server_has_its_parts():
    with ln.network.serve({"one": lambda: 1}, port=0, name="inner") as inner:

        async def statistics():
            return {"part": await ln.network.tfetch(inner.url + "/statistics")}

        with ln.network.serve({"statistics": statistics, "two": lambda: 2}, port=0, name="outer") as outer:
            fetch(inner.url + "/one")
            while not (branches := fetch(outer.url + "/snapshot")["branches"])["known"]:
                pass
            fetch(inner.url + "/one")
            fetch(outer.url + "/statistics")  # whoever asks is told anew, and so is the panel
            assert outer.snapshot()["branches"]["known"]["part"]["one"]["hits"] == 2
    assert branches["known"]["part"]["server"]["name"] == "inner"
    assert branches["known"]["part"]["one"]["hits"] == 1
    assert branches["incomplete"] == ""


def test_a_part_that_fails_is_said_in_the_snapshot():
    def statistics():
        raise KeyError("gone")

    with ln.network.serve({"statistics": statistics, "two": lambda: 2}, port=0) as server:
        while not (branches := fetch(server.url + "/snapshot")["branches"])["incomplete"]:
            pass
    assert "gone" in branches["incomplete"]
