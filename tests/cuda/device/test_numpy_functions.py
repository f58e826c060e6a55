"""NumPy's functions on tensors of a GPU stay there where they are ops."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DeviceError
from tests.helpers.cuda.device_arrays import assert_same

VALUES = np.random.default_rng(0).uniform(0.2, 0.9, (3, 4)).astype("float32")
CASES = {
    "exp": np.exp,
    "sum": lambda x: np.sum(x, axis=0),
    "mean": lambda x: np.mean(x, axis=1, keepdims=True),
    "add.reduce": np.add.reduce,
    "concatenate": lambda x: np.concatenate([x, x * 2], axis=1),
    "where": lambda x: np.where(x > 0.5, x, 0.0),
    "transpose": np.transpose,
    "dot": lambda x: np.dot(x, x.T),
    "clip": lambda x: np.clip(x, 0.3, 0.6),
    "zeros_like": np.zeros_like,
    "diag": lambda x: np.diag(x[0]),
    "linalg.norm": lambda x: np.linalg.norm(x, axis=1),
}


@pytest.mark.parametrize("name", CASES)
def test_ops_stay_on_the_device_and_carry_gradients(name):
    function = CASES[name]
    here, there = (ln.asarray(VALUES, device=device, requires_grad=True) for device in ("cpu", "cuda"))
    expected, found = function(here), function(there)
    assert found.device == "cuda"
    assert_same(found, expected.numpy())
    assert found.requires_grad == expected.requires_grad
    if expected.requires_grad:
        slopes = np.ones(expected.shape, "float32")
        gradient = found.backward(ln.asarray(slopes, device="cuda"))[there]
        assert_same(gradient, expected.backward(slopes)[here].numpy())


@pytest.mark.parametrize("function", [np.cbrt, lambda x: np.interp(0.5, x[0], x[0])])
def test_what_is_no_op_needs_the_elements_on_the_host(function):
    with pytest.raises(DeviceError, match=r"\.to\('cpu'\)"):
        function(ln.asarray(VALUES, device="cuda"))


def test_numbers_and_arrays_of_numpy_meet_tensors_of_the_device():
    x = ln.asarray(VALUES, device="cuda")
    assert_same(np.float32(2) * x, VALUES * 2)
    with pytest.raises(DeviceError):
        VALUES * x
