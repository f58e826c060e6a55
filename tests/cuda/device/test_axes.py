"""Arguments that name dimensions do on a GPU what they do on the CPU, also those that do not fit."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import LabnetError
from tests.helpers.cuda.device_arrays import assert_same
from tests.helpers.tensors.axis_calls import AXES, OPS, SHAPES, numbers, outcome

pytestmark = pytest.mark.filterwarnings("ignore:(Mean of empty slice|invalid value|Degrees of freedom):RuntimeWarning")
#: NumPy says of no dimensions that there are too few values, where nothing has to be moved.
ODD = {"roll": [()]}


@pytest.mark.parametrize("name", OPS)
def test_dimensions_are_those_of_the_cpu(name):
    for shape in SHAPES:
        for axis in AXES:
            if axis in ODD.get(name, ()):
                continue
            here = outcome(name, ln.asarray(numbers(shape), requires_grad=True), axis)
            there = outcome(name, ln.asarray(numbers(shape), device="cuda", requires_grad=True), axis)
            if isinstance(here, Exception):
                assert isinstance(there, LabnetError), (shape, axis, here, there)
                continue
            if isinstance(there, Exception):
                raise there
            for one, other in zip(here, there, strict=True):
                assert type(one) is type(other), (shape, axis)
                if isinstance(one, ln.Tensor):
                    assert_same(other, one.numpy())


def test_integers_of_a_gpu_are_integers():
    x = ln.asarray(np.ones((2, 3)), device="cuda", requires_grad=True)
    out = x.sum(axis=ln.asarray(1, device="cuda"))
    out.sum().backward()
    assert (out.shape, x.grad.shape) == ((2,), (2, 3))
