"""Every op of the registry gives on a GPU what it gives on the CPU: values, dtypes, gradients, and errors."""

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import REGISTRY
from tests.helpers.cuda.device_arrays import EMULATED, SIMULATED, assert_same, tolerance
from tests.tensors.test_registry import CASES, DIFFERENTIABLE, draw, invoke, trainable


def dtypes_of(op, place):
    """Return float32, or what is nearest, and some more in turn: the samples of an op meet all of them."""
    first = "float32" if "float32" in op.dtypes else op.dtypes[0]
    others = [dtype for dtype in op.dtypes if dtype != first]
    return [first, *others[place % len(others or [0]) :][: 1 if SIMULATED or EMULATED else 3]]


def outcome(op, arrays, sample, device):
    """Return what an op gives on a device, or what it raises."""
    try:
        return invoke(op, [ln.asarray(array, device=device) for array in arrays], sample.static)
    except Exception as error:
        return error


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_values_are_those_of_the_cpu(op, sample):
    for dtype in dtypes_of(op, op.samples.index(sample)):
        arrays = draw(op, sample, dtype)
        expected, found = (outcome(op, arrays, sample, device) for device in ("cpu", "cuda"))
        if isinstance(expected, Exception):
            assert type(found) is type(expected)
            continue
        if isinstance(found, Exception):
            raise found
        for here, there in zip(expected, found, strict=True):
            assert there.device == "cuda"
            assert_same(there, here.numpy())


@pytest.mark.parametrize(("op", "sample"), DIFFERENTIABLE)
def test_gradients_are_those_of_the_cpu(op, sample):
    rng = np.random.default_rng(3)
    arrays = draw(op, sample, "float32")
    here = trainable(op, sample, arrays)
    there = [ln.asarray(t.numpy(), device="cuda", requires_grad=t.requires_grad) for t in here]
    pairs = zip(invoke(op, here, sample.static), invoke(op, there, sample.static), strict=True)
    for out, other in pairs:
        assert out.requires_grad == other.requires_grad
        if out.requires_grad:
            weights = rng.standard_normal(out.shape).astype(out.dtype)
            out.backward(weights)
            other.backward(ln.asarray(weights, device="cuda"))
    for expected, found in zip(here, there, strict=True):
        assert (expected.grad is None) == (found.grad is None)
        if expected.grad is not None:
            assert found.grad.device == "cuda"
            near = 4 * tolerance("float32")
            assert_same(found.grad, expected.grad.numpy(), rtol=near, atol=near)


@pytest.mark.parametrize("name", ["tanh", "matmul", "softmax", "conv2d", "standardize", "pow"])
def test_second_gradients_are_those_of_the_cpu(name):
    op = REGISTRY[name]
    arrays = draw(op, op.samples[0], "float64")

    def twice(device):
        tensors = [ln.asarray(a, device=device, requires_grad=True) for a in arrays]
        out = invoke(op, tensors, op.samples[0].static)[0]
        first = ln.grad((out * out).sum(), tensors, create_graph=True)
        return ln.grad(sum((g * g).sum() for g in first), tensors)

    for expected, found in zip(twice("cpu"), twice("cuda"), strict=True):
        assert_same(found, expected.numpy(), rtol=1e-8, atol=1e-8)
