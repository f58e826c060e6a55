"""Every gradient is applied exactly once in any order of calls, by one trainer or many."""

import random
import threading

import numpy as np
import pytest

import labnet as ln
from labnet import nn
from tests.helpers.constants import SECONDS
from tests.helpers.network.client_calls import blocking
from tests.helpers.network.exact_training import assert_same_bits, data, layers, momentum, weights
from tests.helpers.threads import together


@pytest.mark.slow
def test_a_thousand_random_interleavings_of_forwards_and_backwards_equal_a_local_oracle():
    (here,), (there,) = layers(3, 2), layers(3, 2)
    choose = random.Random(0)
    update = momentum()
    inputs = data(10_000)
    with ln.network.serve_model(there, momentum(), port=0) as server:
        remote = blocking(server)
        for _ in range(1000):
            to_start, outstanding = choose.randint(2, 3), []
            while to_start or outstanding:
                if to_start and (not outstanding or choose.random() < 0.6):
                    x = next(inputs)
                    outstanding.append(((remote(x) ** 2).mean(), (here(x) ** 2).mean()))
                    to_start -= 1
                else:
                    far, near = outstanding.pop(choose.randrange(len(outstanding)))
                    far.backward()
                    update(near.backward())
            assert_same_bits(weights(there), weights(here))


@pytest.mark.parametrize("trainers", [2, 4, 8])
def test_the_result_of_several_trainers_is_that_of_some_serial_order(trainers):
    steps = 25
    (there,), (here,) = layers(3, 2), layers(3, 2)
    log, update = [], momentum()

    def model(x):
        log.append(("forward", float(x[0, 0])))
        return there(x)

    def optimizer(gradients):
        log.append(("update", [gradients[p].numpy().copy() for p in there.parameters()]))
        update(gradients)

    def train(number, server):
        remote = blocking(server)
        for step in range(steps):
            x = np.full((2, 3), number / 10 + step / 1000, "float32")
            (remote(ln.asarray(x)) ** 2).mean().backward()

    with ln.network.serve_model(model, optimizer, port=0) as server:
        together(*[lambda number=number: train(number, server) for number in range(trainers)])
    assert_explained(log, here, updates=trainers * steps)
    assert_same_bits(weights(there), weights(here))


def assert_explained(log, model, *, updates):
    """Carry out a log of forwards and updates here; each update must be that of exactly one forward."""
    outstanding, update, done = {}, momentum(), 0
    for kind, value in log:
        if kind == "forward":
            x = ln.full((2, 3), value)
            outstanding[value] = (model(x) ** 2).mean().backward()
            continue
        found = [
            key
            for key, gradients in outstanding.items()
            if all(np.array_equal(gradients[p].numpy(), v) for p, v in zip(model.parameters(), value, strict=True))
        ]
        assert len(found) == 1
        update(outstanding.pop(found[0]))
        done += 1
    assert (done, outstanding) == (updates, {})


def test_no_forward_sees_weights_of_two_versions():
    updates = 200

    class Twins(nn.Module):
        def __init__(self):
            super().__init__()
            self.one = ln.zeros(64, requires_grad=True)
            self.other = ln.zeros(64, requires_grad=True)

        def forward(self, x):
            first = (x * self.one).sum()
            for _ in range(20):
                x = ln.tanh(x)
            return ln.stack([first, (ln.ones(64) * self.other).sum()])

    begun, done = threading.Barrier(5), threading.Event()

    def hammer(server):
        remote, seen = blocking(server), set()
        with ln.no_grad():
            remote(ln.ones(64))
            begun.wait(SECONDS)
            while not done.is_set():
                one, other = remote(ln.ones(64)).tolist()
                assert one == other
                seen.add(one)
        return seen

    def train(server):
        remote = blocking(server)
        begun.wait(SECONDS)  # all of them are connected
        try:
            for _ in range(updates):
                remote(ln.ones(64)).sum().backward()
        finally:
            done.set()
        return set()

    def add_one(gradients):
        for tensor in gradients:
            tensor.assign(tensor.numpy() + 1)

    with ln.network.serve_model(Twins(), add_one, port=0) as server:
        seen = set().union(*together(*[lambda: hammer(server)] * 4, lambda: train(server)))
        assert len(seen) > 5
        assert server.statistics()["server"]["version"] == updates
