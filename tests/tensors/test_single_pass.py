"""Elementwise ops in one pass: the same bits from a kernel as from NumPy, whatever the arrays are."""

import math
import os
import subprocess
import sys

import numpy as np
import pytest

import labnet as ln
from labnet import kernels
from labnet.kernels.scalar_program import NotElementwise, record
from labnet.ops.core import single_pass
from labnet.ops.core.registry import REGISTRY

EDGES = [0.0, -0.0, 1.0, -1.0, 3.0, -3.0, 6.0, 20.0, -100.0, 1e-30, -1e-42, 1e30, math.inf, -math.inf, math.nan]
SHAPES = [(), (0,), (1,), (7,), (129,), (3, 5, 7), (3000,), (70, 100)]
#: Elementwise ops whose bodies or rules take NumPy several passes, with static arguments.
OPS = [
    *[(name, {}) for name in ("relu", "sigmoid", "silu", "erf", "ndtr", "relu6", "leaky_relu", "hardtanh")],
    *[
        (name, {})
        for name in ("tanh", "exp", "log1p", "expm1", "sqrt", "sin", "cos", "tan", "atan", "asinh", "abs", "square")
    ],
    *[("gelu", {"approximate": how}) for how in ("none", "tanh")],
    *[("elu", {"alpha": alpha}) for alpha in (1.0, 0.3)],
    ("leaky_relu", {"negative_slope": 0.2}),
    ("threshold", {"threshold": 0.5, "value": -3.0}),
    ("hardtanh", {"min_val": -0.5, "max_val": 2.0}),
    *[(name, {}) for name in ("maximum", "minimum", "hypot", "logaddexp", "multiply", "divide", "add", "atan2")],
    ("binary_cross_entropy_with_logits", {}),
]


@pytest.fixture
def at_once(monkeypatch):
    """Load kernels when they are asked for, and wait for them: nothing depends on time."""

    def run(plan, operands):
        kernel = plan.kernel
        kernel.load().result()
        assert kernel.compiled is not None
        called.append(kernel.name)
        return computed(plan, operands)

    called = []
    computed = single_pass._Plan.run
    monkeypatch.setattr(single_pass._Plan, "run", run)
    return called


def by_numpy(compute, monkeypatch):
    with monkeypatch.context() as patch:
        patch.setattr(single_pass._Plan, "run", lambda plan, operands: None)
        return compute()


def numbers(shape, dtype, seed=0):
    rng = np.random.default_rng(seed)
    found = np.concatenate([rng.permutation(EDGES), rng.standard_normal(50_000) * 4])
    count = math.prod(shape)
    return rng.permutation(found[: max(count, 15)])[:count].reshape(shape).astype(dtype)


def outcome(function, arrays, static, g):
    inputs = [ln.asarray(array, requires_grad=True) for array in arrays]
    with np.errstate(all="ignore"):
        out = function(*inputs, **static)
        found = out.backward(ln.asarray(np.broadcast_to(g, out.shape)))
    return [out.numpy(), *[found[x].numpy() for x in inputs if x in found]]


def assert_same_bits(fast, slow):
    assert len(fast) == len(slow) > 1
    for one, other in zip(fast, slow, strict=True):
        assert (one.shape, one.dtype) == (other.shape, other.dtype)
        assert [s for s, n in zip(one.strides, one.shape, strict=True) if n > 1 and one.size] == [
            s for s, n in zip(other.strides, other.shape, strict=True) if n > 1 and one.size
        ]
        same = (one == other) & (np.signbit(one) == np.signbit(other)) | np.isnan(one) & np.isnan(other)
        assert same.all(), (one[~same][:5], other[~same][:5])


@pytest.mark.parametrize(
    ("name", "static", "dtype"),
    [
        *[(name, static, "float32") for name, static in OPS],
        *[(name, {}, "float64") for name in ("sigmoid", "gelu", "erf", "tanh", "maximum", "divide", "logaddexp")],
        *[(name, {}, "float16") for name in ("silu", "gelu", "elu", "sqrt", "add", "multiply", "minimum")],
    ],
)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_kernels_have_the_bits_of_numpy(name, static, dtype, at_once, monkeypatch):
    op = REGISTRY[name]
    for shape in SHAPES:
        arrays = [numbers(shape, dtype, seed) for seed in range(len(op.samples[0].shapes))]
        g = numbers(shape, dtype, 9)
        fast = outcome(op.function, arrays, static, g)
        assert_same_bits(fast, by_numpy(lambda: outcome(op.function, arrays, static, g), monkeypatch))  # noqa: B023
    assert at_once or name in ("add", "multiply")


@pytest.mark.parametrize(
    "layout",
    [
        lambda x: x[::2],
        lambda x: x.T,
        lambda x: x[:, ::-1],
        lambda x: np.broadcast_to(x[:1], x.shape),
        lambda x: np.frombuffer(b"\0" + x.tobytes(), x.dtype, offset=1).reshape(x.shape),
        lambda x: np.asfortranarray(x),
    ],
    ids=["strided", "transposed", "reversed", "repeated", "unaligned", "columns"],
)
@pytest.mark.parametrize("name", ["silu", "gelu", "multiply", "maximum"])
def test_arrays_may_lie_anyhow_in_memory(name, layout, at_once, monkeypatch):
    op = REGISTRY[name]
    arrays = [layout(numbers((60, 50), "float32", seed)) for seed in range(len(op.samples[0].shapes))]
    for array in arrays:
        array.flags.writeable = False
    g = numbers(arrays[0].shape, "float32", 9)
    fast = outcome(op.function, arrays, {}, g)
    assert_same_bits(fast, by_numpy(lambda: outcome(op.function, arrays, {}, g), monkeypatch))


@pytest.mark.parametrize("exponent", [3, 3.0, 2, 4, -2, -3, 5.0, 0.5, 1, 0, -1, 2.5])
@pytest.mark.parametrize("dtype", ["float32", "float64", "float16"])
@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_powers_are_accurate_and_have_the_same_bits(exponent, dtype, at_once, monkeypatch):
    x = numbers((3000,), dtype)
    g = np.ones_like(x)

    def compute():
        return outcome(lambda x: x**exponent, [x], {}, g)

    fast = compute()
    assert_same_bits(fast, by_numpy(compute, monkeypatch))
    exact = np.power(x.astype("float64"), float(exponent)).astype(dtype)
    known = np.isfinite(x) | (exponent % 1 == 0)  # NumPy takes the root of minus infinity in some versions
    close = {"rtol": 2 * np.finfo(dtype).eps, "atol": np.finfo(dtype).smallest_subnormal}
    np.testing.assert_allclose(fast[0][known], exact[known], **close)


def test_ops_of_users_have_kernels(at_once, monkeypatch):
    scale = 2.0

    @ln.op(vjp=lambda g, out, x, *, slope=1.0: g * (slope + scale * out * ln.cos(-x)), scalar="x * tanh(slope * x) + x")
    def wavy(x, *, slope=1.0): ...

    x, g = numbers((200, 200), "float32"), np.ones((200, 200), "float32")
    for scale in (2.0, 5.0):  # noqa: B007  # a rule may read what changes
        for slope in (1.0, 0.25):
            fast = outcome(wavy, [x], {"slope": slope}, g)
            slow = by_numpy(lambda: outcome(wavy, [x], {"slope": slope}, g), monkeypatch)  # noqa: B023
            assert_same_bits(fast, slow)
    assert len(set(at_once)) == 1


def test_a_rule_of_a_user_sees_arrays_at_each_call(at_once):
    seen = []

    def rule(g, out, x):
        seen.append((type(x), x.shape))
        return g * len(seen)

    double = ln.op(vjp=rule, scalar="x + x + x")(lambda x: None)
    x = ln.ones((200, 200), requires_grad=True)
    assert [double(x).backward(ln.ones((200, 200)))[x][0, 0].item() for _ in range(2)] == [1, 2]
    assert seen == [(np.ndarray, (200, 200))] * 2


def test_kernels_are_shared_by_functions_that_differ_in_numbers(at_once):
    x = ln.ones((4, 4))
    before = len(kernels.scalar_kernels)
    for slope in (0.125, 0.375, 0.625):
        ln.nn.leaky_relu(x, negative_slope=slope)
    assert len(kernels.scalar_kernels) <= before + 1
    assert len(at_once) == 3


def test_large_arrays_count_as_many_calls(monkeypatch):
    kernel, loaded = kernels.ScalarKernel(()), []
    monkeypatch.setattr(kernels.ScalarKernel, "load", lambda self: loaded.append(1))
    monkeypatch.setattr(kernels, "PATIENCE", 200)
    monkeypatch.setattr(kernels, "_asked", iter(range(10_000)))
    for _ in range(190):
        kernel.ready(np.dtype("float32"), 1000)
    assert not loaded
    for _ in range(3):
        kernel.ready(np.dtype("float32"), 1_000_000)
    assert loaded


@pytest.mark.parametrize(
    "function",
    [
        lambda x: np.add.reduce(x),
        lambda x: x.sum(),
        lambda x: np.sort(x),
        lambda x: x if x > 0 else -x,
        lambda x: x * np.ones(3),
        lambda x: np.power(x, 2.5),
        lambda x: np.maximum(x, math.nan),
        lambda x: x.shape[0] * x,
        lambda x: 1.0,
    ],
)
def test_other_functions_have_no_program(function):
    with pytest.raises((NotElementwise, TypeError, AttributeError)):
        record(function, [np.dtype("float32")], {})


def test_what_the_result_does_not_need_is_not_computed():
    program = record(lambda x, y: (np.exp(y), x + 1.0)[1], [np.dtype("float32")] * 2, {})
    assert [step.kind for step in program.steps] == ["input", "number", "add"]
    assert program.inputs == (0,)


@pytest.mark.parametrize("name", ["multiply", "pow", "remainder", "maximum", "where"])
def test_operands_that_are_broadcast_get_gradients_of_their_shape(name, at_once, monkeypatch):
    op = REGISTRY[name]
    for shapes in [((40, 30), (30,)), ((40, 1), (40, 30)), ((), (40, 30)), ((0, 2), (2,))]:
        arrays = [np.abs(numbers(shape, "float32", seed)) + 1 for seed, shape in enumerate(shapes)]
        arrays = [np.where(np.isfinite(array), array, 1) for array in arrays]
        leading = (ln.asarray(arrays[0] > 1),) if name == "where" else ()
        g = np.ones((), "float32")

        def compute(leading=leading, arrays=arrays, g=g):
            return outcome(lambda *inputs: op.function(*leading, *inputs), arrays, {}, g)

        fast = compute()
        assert [found.shape for found in fast[1:]] == [array.shape for array in arrays]
        assert_same_bits(fast, by_numpy(compute, monkeypatch))


def test_numbers_that_differ_in_the_sign_of_zero_do_not_share_a_plan(at_once):
    signs = [np.signbit(ln.nn.threshold(ln.zeros(3), 1.0, value).numpy()).all() for value in (0.0, -0.0)]
    assert signs == [False, True]


ENDS_EARLY = """
import labnet as ln
from labnet import kernels
kernels.PATIENCE = 0
x = ln.ones(300_000)
for _ in range(3):
    ln.nn.gelu(x), ln.nn.silu(x), ln.nn.sigmoid(x)
assert "numba" not in __import__("sys").modules
"""


def test_a_process_that_ends_while_kernels_are_compiled_ends_quietly(tmp_path):
    environment = {**os.environ, "LABNET_CACHE": str(tmp_path)}
    result = subprocess.run(
        [sys.executable, "-W", "error", "-c", ENDS_EARLY], capture_output=True, text=True, env=environment
    )
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")
