"""Every op of the registry: values, dtypes, broadcasting, first and second gradients, untouched inputs."""

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import REGISTRY
from tests.helpers.tensors.reference import PREPARE, REFERENCE, reference_of

CASES = [
    pytest.param(op, sample, id=f"{name}-{i}") for name, op in REGISTRY.items() for i, sample in enumerate(op.samples)
]
DIFFERENTIABLE = [
    case
    for case in CASES
    if case.values[0].differentiable and case.values[1].static.get("dtype", "float64") == "float64"
]


def draw(op, sample, dtype, seed=0):
    """Distinct values of the op's domain, away from its kinks."""
    rng = np.random.default_rng(seed)
    low, high = op.domain
    arrays = []
    for shape in sample.shapes:
        if dtype == "bool":
            arrays.append(rng.integers(0, 2, shape).astype(bool))
        elif np.dtype(dtype).kind in "iu":
            arrays.append(
                rng.integers(max(int(low), 0 if dtype[0] == "u" else int(low)), int(high) + 1, shape).astype(dtype)
            )
        else:
            values = rng.uniform(low, high, shape)
            arrays.append((values + np.where(values < 0, -0.05, 0.05) * (low < 0 < high)).astype(dtype))
    return PREPARE.get(op.name, lambda *given: given)(*arrays)


def invoke(op, inputs, static, function=None):
    """Call an op, or a stand-in for it, and return its outputs as a tuple."""
    function = function or op.function
    out = function(list(inputs), **static) if op.variadic else function(*inputs, **static)
    return tuple(out) if isinstance(out, tuple | list) else (out,)


def to_float(tensor):
    return tensor.numpy().astype("float64")


@pytest.mark.parametrize(("op", "sample"), CASES)
def test_values_and_dtypes_are_those_of_the_reference(op, sample):
    for dtype in op.dtypes:
        arrays = draw(op, sample, dtype)
        kept = [a.copy() for a in arrays]
        outputs = invoke(op, [ln.asarray(a) for a in arrays], sample.static)
        references = invoke(op, arrays, sample.static, reference_of(op))
        tolerance = 1e-5 if dtype == "float32" else 1e-12
        for out, reference in zip(outputs, references, strict=True):
            expected = np.asarray(reference)
            assert out.shape == expected.shape
            if out.dtype.kind in "iu":  # integers wrap around
                expected = expected.astype("int64").astype(out.dtype)
            np.testing.assert_allclose(to_float(out), expected.astype("float64"), rtol=tolerance, atol=tolerance)
            if dtype.startswith("float") and out.dtype.kind == "f" and "dtype" not in sample.static:
                assert out.dtype == dtype, f"{op.name} turned {dtype} into {out.dtype}"
        for array, before in zip(arrays, kept, strict=True):
            np.testing.assert_array_equal(array, before, err_msg=f"{op.name} wrote to its input")


def test_every_op_has_a_reference():
    assert REFERENCE.keys() <= REGISTRY.keys()
    assert [name for name, op in REGISTRY.items() if name not in REFERENCE and op.scalar is None] == []


def directional(function, arrays, directions, step):
    plus = function(*[a + step * d for a, d in zip(arrays, directions, strict=True)])
    minus = function(*[a - step * d for a, d in zip(arrays, directions, strict=True)])
    return (plus - minus) / (2 * step)


def float_inputs(op, sample):
    return [np.asarray(a, "float64") for a in draw(op, sample, "float64")]


def gradients_of(op, sample):
    """For each input of a sample, whether a gradient reaches it."""
    return [op.variadic or op.gradients[i] for i in range(len(sample.shapes))]


def trainable(op, sample, arrays):
    """Tensors that require gradients wherever the op has a rule."""
    flags = gradients_of(op, sample)
    return [ln.asarray(a, requires_grad=flag) for a, flag in zip(arrays, flags, strict=True)]


def flattened(outputs):
    """All outputs of an op as one vector."""
    return ln.concat(list(outputs), axis=None)


def weighted(op, sample, weights):
    """A scalar function of plain arrays: the op's outputs, weighted and summed."""

    def function(*arrays):
        out = flattened(invoke(op, [ln.asarray(a) for a in arrays], sample.static))
        return float((to_float(out) * weights).sum())

    return function


@pytest.mark.parametrize(("op", "sample"), DIFFERENTIABLE)
def test_gradients_match_differences_along_random_directions(op, sample):
    rng = np.random.default_rng(1)
    arrays, flags = float_inputs(op, sample), gradients_of(op, sample)
    tensors = trainable(op, sample, arrays)
    out = flattened(invoke(op, tensors, sample.static))
    weights = rng.standard_normal(out.shape)
    gradients = out.backward(weights)
    directions = [rng.standard_normal(a.shape) * flag for a, flag in zip(arrays, flags, strict=True)]
    got = 0.0
    for tensor, direction in zip(tensors, directions, strict=True):
        if tensor.requires_grad:
            assert gradients[tensor].shape == tensor.shape
            assert gradients[tensor].dtype == tensor.dtype
            got += float((to_float(gradients[tensor]) * direction).sum())
    expected = directional(weighted(op, sample, weights), arrays, directions, 1e-6)
    assert got == pytest.approx(expected, rel=1e-6, abs=1e-7)


@pytest.mark.parametrize(("op", "sample"), DIFFERENTIABLE)
def test_second_order_gradients_match_differences_of_the_first(op, sample):
    rng = np.random.default_rng(2)
    arrays, flags = float_inputs(op, sample), gradients_of(op, sample)
    weights = rng.standard_normal(flattened(invoke(op, [ln.asarray(a) for a in arrays], sample.static)).shape)
    probes = [rng.standard_normal(a.shape) for a in arrays]

    def first_order(*values):
        """Gradient of the weighted output, projected on fixed probes, as a tensor."""
        tensors = trainable(op, sample, values)
        # squaring makes the first gradient depend on the inputs also for linear ops
        out = flattened(invoke(op, tensors, sample.static))
        leaves = [t for t in tensors if t.requires_grad]
        slopes = ln.grad((out * out * weights).sum(), leaves, create_graph=True)
        kept = [p for p, t in zip(probes, tensors, strict=True) if t.requires_grad]
        total = ln.asarray(np.float64(0))
        for slope, probe in zip(slopes, kept, strict=True):
            total = total + (slope * probe).sum()
        return total, leaves

    total, leaves = first_order(*arrays)
    second = ln.grad(total, leaves) if total.requires_grad else [ln.zeros_like(leaf) for leaf in leaves]
    directions = [rng.standard_normal(a.shape) * flag for a, flag in zip(arrays, flags, strict=True)]
    kept = [d for d, flag in zip(directions, flags, strict=True) if flag]
    got = sum(float((to_float(s) * d).sum()) for s, d in zip(second, kept, strict=True))
    expected = directional(lambda *values: first_order(*values)[0].item(), arrays, directions, 1e-5)
    assert got == pytest.approx(expected, rel=1e-5, abs=1e-5)


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "maximum", "pow"])
def test_python_numbers_do_not_change_the_dtype(name):
    function = REGISTRY[name].function
    for dtype in ("float32", "float64"):
        x = ln.ones(3, dtype=dtype, requires_grad=True)
        for out in (function(x, 2), function(2.5, x)):
            assert out.dtype == dtype
            assert out.sum().backward()[x].dtype == dtype


def test_gradient_of_promoted_operands_has_each_operands_own_dtype():
    a = ln.ones((2, 3), dtype="float32", requires_grad=True)
    b = ln.ones(3, dtype="float64", requires_grad=True)
    gradients = (a * b).sum().backward()
    assert (gradients[a].dtype, gradients[b].dtype) == (ln.float32, ln.float64)
    assert gradients[b].tolist() == [2.0, 2.0, 2.0]


def test_ties_share_the_gradient():
    x = ln.asarray([1.0, 2.0, 2.0], requires_grad=True)
    assert x.max().backward()[x].tolist() == [0.0, 0.5, 0.5]
    y = ln.asarray([0.0, 2.0, 5.0], requires_grad=True)
    gradients = ln.maximum(x, y).sum().backward()
    assert gradients[x].tolist() == [1.0, 0.5, 0.0]
    assert gradients[y].tolist() == [0.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (lambda: ln.ones((3, 4)) + ln.ones((5, 2)), ValueError, ["add", "(3, 4)", "(5, 2)"]),
        (lambda: ln.ones((3, 4)) @ ln.ones((5, 2)), ValueError, ["matmul", "(3, 4) @ (5, 2)"]),
        (lambda: ln.ones((2, 3)).reshape((4,)), ValueError, ["reshape", "(2, 3)", "(4,)"]),
        (lambda: ln.ones(3).sum(axis=1), ValueError, ["sum", "(3,)", "axis=1"]),
        (lambda: ln.ones(3)[5], IndexError, ["5"]),
        (lambda: -ln.asarray([True]), TypeError, ["negative", "bool"]),
        (lambda: ln.asarray([[1], [1, 2]]), ValueError, ["lengths"]),
        (lambda: ln.asarray("text"), TypeError, ["text"]),
        (lambda: ln.asarray([1j]), TypeError, ["complex"]),
        (lambda: ln.zeros(2, dtype="complex64"), TypeError, ["complex64"]),
        (lambda: ln.zeros(2, device="tpu"), ln.errors.DeviceError, ["tpu", "cpu"]),
        (lambda: ln.ones(3).sum(axes=0), TypeError, ["axes"]),
    ],
)
def test_misuse_raises_one_specific_error_with_both_values(call, error, words):
    with pytest.raises(error) as caught:
        call()
    for word in words:
        assert word in str(caught.value)
