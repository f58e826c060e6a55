"""Every op of the registry computes compiled what it computes eagerly, values and gradients."""

import numpy as np
import pytest

import labnet as ln
from labnet.compile.trace.rules import RULES
from labnet.errors import TraceError
from labnet.ops.core.registry import REGISTRY
from tests.tensors.test_registry import draw, flattened, invoke, trainable

#: Ops that cannot be compiled, and why.
pytestmark = pytest.mark.usefixtures("plain_steps")

REFUSED = {
    "nonzero": "the shape of the result depends on the elements",
    "unique_all": "the shape of the result depends on the elements",
    "unique_counts": "the shape of the result depends on the elements",
    "unique_inverse": "the shape of the result depends on the elements",
    "unique_values": "the shape of the result depends on the elements",
}
COMPILED = [name for name in REGISTRY if name not in REFUSED]


def test_every_rule_is_that_of_an_op():
    assert RULES.keys() <= {*REGISTRY, "recur", "recur_back"}
    assert not any(REGISTRY[name].is_composed for name in RULES.keys() & REGISTRY.keys())


@pytest.mark.parametrize("name", REFUSED)
def test_ops_with_shapes_that_depend_on_elements_are_refused(name):
    with pytest.raises(TraceError, match=r"test_registry\.py"):
        ln.jit(REGISTRY[name].function)(ln.ones((3, 4)))


def close(got, expected, tolerance, message):
    assert got.shape == expected.shape, message
    assert got.dtype == expected.dtype, message
    np.testing.assert_allclose(got.numpy(), expected.numpy(), rtol=tolerance, atol=tolerance, err_msg=message)


@pytest.mark.parametrize("name", COMPILED)
def test_values_of_all_samples_and_dtypes_are_the_eager_ones(name):
    op = REGISTRY[name]
    cases = [(sample, dtype) for sample in op.samples for dtype in op.dtypes]
    inputs = [[ln.asarray(array) for array in draw(op, sample, dtype)] for sample, dtype in cases]

    def run(*given):
        return [
            [out for out in invoke(op, tensors, sample.static) if isinstance(out, ln.Tensor)]
            for tensors, (sample, _) in zip(given, cases, strict=True)
        ]

    for got, expected, (sample, dtype) in zip(ln.jit(run)(*inputs), run(*inputs), cases, strict=True):
        for one, other in zip(got, expected, strict=True):
            close(one, other, 3e-6 if one.dtype == "float32" else 1e-11, f"{name} {sample} {dtype}")


def slopes(op, sample, tensors):
    """Gradients of a weighted sum of the outputs."""
    out = flattened(invoke(op, tensors, sample.static))
    weights = np.linspace(0.5, 1.5, max(out.size, 1))[: out.size].astype(out.dtype)
    wanted = [tensor for tensor in tensors if tensor.requires_grad]
    return ln.grad(ln.sum(out * weights), wanted)


@pytest.mark.parametrize("name", [name for name in COMPILED if REGISTRY[name].differentiable])
def test_gradients_of_all_samples_are_the_eager_ones(name):
    op = REGISTRY[name]
    cases = [s for s in op.samples if s.static.get("dtype", "float64") == "float64"]
    inputs = [trainable(op, sample, draw(op, sample, "float64")) for sample in cases]

    def run(*given):
        return [slopes(op, sample, tensors) for tensors, sample in zip(given, cases, strict=True)]

    for got, expected, sample in zip(ln.jit(run)(*inputs), run(*inputs), cases, strict=True):
        for one, other in zip(got, expected, strict=True):
            close(one, other, 1e-10, f"{name} {sample}")
