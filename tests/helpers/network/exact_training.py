"""Models, data and connections for training whose results are compared to the bit."""

import itertools

import numpy as np

import labnet as ln
from labnet import nn
from labnet.network import Backoff

QUICK = Backoff(first=0.001, longest=0.01, attempt=5.0)


def weights(*models):
    return [value.numpy().copy() for model in models for value in model.state_dict().values()]


def assert_same_bits(found, expected):
    for one, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(one.view("uint32"), other.view("uint32"))


def layers(*sizes):
    ln.manual_seed(0)
    return [nn.Linear(before, after) for before, after in itertools.pairwise(sizes)]


def momentum():
    return ln.optim.SGD(lr=0.01, momentum=0.9)


def data(steps, size=3):
    rng = np.random.default_rng(0)
    for _ in range(steps):
        yield ln.asarray(rng.standard_normal((4, size)).astype("float32"))
