"""Compiled ops return what eager ones do for every dtype, at the numbers where formulas go wrong.

Elementwise ops are compiled for real, each for all dtypes in one function, since types of integers are Numba's. Of the
other ops those are whose loops join integers; `LABNET_COMPILED=all` has all of them compiled.
"""

import os
import warnings

import numpy as np
import pytest

import labnet as ln
from labnet.ops.core.registry import FLOATS, REGISTRY
from labnet.ops.elementwise.elementary import BINARY_SAMPLES, UNARY_SAMPLES
from tests.compile.trace.test_registry import COMPILED
from tests.helpers.compile.special_values import DTYPES, UNSIGNED, difference, pairs, special, tame
from tests.helpers.tensors.reference import PREPARE
from tests.tensors.test_registry import draw, invoke, trainable

EXHAUSTIVE = os.environ.get("LABNET_COMPILED") == "all"
ELEMENTWISE = [name for name in COMPILED if REGISTRY[name].samples in (UNARY_SAMPLES, BINARY_SAMPLES)]
OTHERS = [name for name in COMPILED if name not in ELEMENTWISE]
SMOOTH = [name for name in ELEMENTWISE if REGISTRY[name].differentiable]
#: Ops that take elements together, whose totals are Numba's to type.
JOINING = ("sum", "prod", "max", "min", "argmax", "any", "count_nonzero", "cumulative_sum", "cumulative_prod", "sort")

#: Steps of the dtype by which floating results of an op may differ, 4 unless stated: float16 rounds each part of it.
BOUNDS = {"float16": 8, "float32": 4, "float64": 4}
#: Ops that add numbers of other magnitudes than their result: steps are those of the greatest of these.
SCALES = {
    "ndtr": lambda x: 1.0,
    "silu": np.abs,
    "logaddexp": lambda x1, x2: np.maximum(np.maximum(np.abs(x1), np.abs(x2)), 1),
    "binary_cross_entropy_with_logits": lambda z, y: np.maximum(np.maximum(np.abs(z), np.abs(z * y)), 1),
}
#: Negatives of unsigned numbers wrap around before these ops take exponentials, when they run eagerly.
WRAPPING = {"sigmoid", "silu", "binary_cross_entropy_with_logits"}
#: Ops for floating numbers only. Their adjoints add zeros of any sign.
WINDOWS = {name for name in OTHERS if "pool" in name or "conv" in name}


@pytest.fixture(autouse=True)
def without_warnings():
    """Let NumPy divide by zero and overflow, which the tests are about."""
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def dtypes_of(name):
    if name in WINDOWS:
        return FLOATS
    return [dtype for dtype in DTYPES if name not in WRAPPING or dtype not in UNSIGNED]


def tensors_of(outputs):
    return [out for out in outputs if isinstance(out, ln.Tensor)]


def eager(op, arrays, static):
    """Return what an op returns eagerly, None where it takes no such dtype."""
    try:
        return tensors_of(invoke(op, [ln.asarray(array) for array in arrays], static))
    except (ln.errors.DTypeError, ln.errors.ShapeError, ln.errors.AxisError):
        return None


def special_operands(name):
    """Return operands of an elementwise op: special numbers of each dtype, or pairs of them."""
    op, dtypes = REGISTRY[name], dtypes_of(name)
    return [(special(d),) if op.samples is UNARY_SAMPLES else pairs(d, d) for d in dtypes]


def scale_of(name, arrays):
    if name not in SCALES:
        return 0.0
    found = SCALES[name](*(array.astype("float64") for array in arrays))
    return np.where(np.isfinite(found), found, 0.0)


def compare_with_eager(name, cases, bounds=BOUNDS, scale=scale_of):
    """Compile an op for all cases in one function, and compare each with the eager op."""
    op = REGISTRY[name]
    known = [(*case, found) for case in cases if (found := eager(op, *case)) is not None]
    assert known, f"{name} takes none of these"

    def run(*given):
        return [tensors_of(invoke(op, tensors, case[1])) for tensors, case in zip(given, known, strict=True)]

    found = ln.jit(run)(*[[ln.asarray(array) for array in arrays] for arrays, *_ in known])
    faults = []
    for outputs, (arrays, static, expected) in zip(found, known, strict=True):
        for got, wanted in zip(outputs, expected, strict=True):
            bound = bounds.get(wanted.dtype.name, 0)
            values = [out.numpy() + 0.0 if name in WINDOWS else out.numpy() for out in (got, wanted)]
            fault = difference(*values, bound, arrays, scale(name, arrays))
            if fault:
                faults.append(f"{[array.dtype.name for array in arrays]} {static}: {fault}")
    assert not faults, "\n".join([name, *faults])


@pytest.mark.parametrize("name", ELEMENTWISE)
def test_elementwise_ops_return_the_eager_numbers(name):
    compare_with_eager(name, [(arrays, {}) for arrays in special_operands(name)])


MIXED = [("int8", "uint8"), ("int32", "int64"), ("int64", "uint64"), ("uint64", "int8"), ("bool", "int16")]
MIXED += [
    ("int64", "float32"),
    ("float16", "float32"),
    ("float32", "float64"),
    ("float16", "int8"),
    ("uint8", "uint32"),
]
BINARY = [name for name in ELEMENTWISE if REGISTRY[name].samples is BINARY_SAMPLES and name not in WRAPPING]
INTEGRAL = ("add", "multiply", "floor_divide", "maximum", "less", "equal", "greater_equal", "bitwise_and")
INTEGRAL += ("bitwise_left_shift", "bitwise_right_shift")


@pytest.mark.parametrize("name", BINARY if EXHAUSTIVE else INTEGRAL)
def test_operands_of_two_dtypes_have_the_eager_result(name):
    compare_with_eager(name, [(pairs(left, right), {}) for left, right in MIXED])


@pytest.mark.parametrize("name", ["add", "subtract", "multiply", "divide", "sqrt", "square", "reciprocal", "negative"])
def test_arithmetic_is_rounded_as_eager_arithmetic_is(name):
    compare_with_eager(name, [(arrays, {}) for arrays in special_operands(name)], bounds={})


@pytest.mark.usefixtures("plain_steps")
@pytest.mark.parametrize("name", OTHERS)
def test_other_ops_return_the_eager_numbers(name):
    rng, op = np.random.default_rng(0), REGISTRY[name]
    kinds = [(s, d) for s in op.samples for d in dtypes_of(name)]
    cases = [(draw(op, s, d), s.static) for s, d in kinds]
    if name not in WINDOWS:
        numbers = special if name in ("astype", "where", "max", "min", "clip") else tame
        kinds = [(s, d) for s, d in kinds if (name, d) != ("prod", "float16")]  # the order of factors decides
        prepare = PREPARE.get(name, lambda *arrays: arrays)
        cases += [(prepare(*[rng.choice(numbers(d), shape) for shape in s.shapes]), s.static) for s, d in kinds]
    bounds = dict.fromkeys(BOUNDS, 16)
    compare_with_eager(name, cases, bounds, lambda _, arrays: greatest(arrays))


@pytest.mark.parametrize("dtype", DTYPES)
def test_totals_are_the_eager_ones(dtype):
    x, matrix = tame(dtype), np.random.default_rng(1).choice(tame(dtype), (3, 5))

    def run(x, matrix):
        whole = [REGISTRY[name].function(x) for name in JOINING]
        return whole + [REGISTRY[name].function(matrix, axis=axis) for name in JOINING for axis in (0, 1)]

    given = ln.asarray(x), ln.asarray(matrix)
    for position, (got, expected) in enumerate(zip(ln.jit(run)(*given), run(*given), strict=True)):
        name = (JOINING + tuple(name for name in JOINING for _ in range(2)))[position]
        fault = difference(got.numpy(), expected.numpy(), 16, scale=greatest([x]))
        assert not fault, f"{name}: {fault}"


def greatest(arrays):
    """Return the greatest magnitude of operands, or 1, whose steps are those of sums."""
    floating = [array.astype("float64") for array in arrays]
    return max((np.abs(array[np.isfinite(array)]).max(initial=1.0) for array in floating), default=1.0)


@pytest.mark.parametrize("name", SMOOTH)
def test_gradients_of_elementwise_ops_are_the_eager_ones(name):
    op, dtypes = REGISTRY[name], ("float32", "float64") if EXHAUSTIVE else ("float32",)
    drawn = [(special(d),) if op.samples is UNARY_SAMPLES else pairs(d, d) for d in dtypes]
    inputs = [trainable(op, op.samples[0], arrays) for arrays in drawn]

    def run(*given):
        return [ln.grad(ln.sum(op.function(*x)), [part for part in x if part.requires_grad]) for x in given]

    for got, expected, arrays in zip(ln.jit(run)(*inputs), run(*inputs), drawn, strict=True):
        for one, other in zip(got, expected, strict=True):
            fault = difference(one.numpy(), other.numpy(), 8, arrays, 1.0)
            assert not fault, f"{name} {arrays[0].dtype}: {fault}"


# Functions in float32, which are polynomials

#: Steps of float32 by which a compiled function is off at most, and what it should be in float64.
FUNCTIONS = {
    "exp": (1.5, np.exp),
    "log": (1.5, np.log),
    "log2": (0.51, np.log2),
    "log10": (0.51, np.log10),
    "log1p": (3.0, np.log1p),
    "expm1": (3.0, np.expm1),
    "tanh": (4.8, np.tanh),
    "erf": (3.0, lambda x: ln.erf(ln.asarray(x)).numpy()),
    "sigmoid": (3.0, lambda x: ln.nn.sigmoid(ln.asarray(x)).numpy()),
}


def float32_of_all_magnitudes():
    every = np.arange(0, 2**32, 16411, dtype=np.uint64).astype(np.uint32).view(np.float32)
    near = [np.linspace(low, high, 40001) for low, high in ((-105, 105), (-2, 2), (0.999, 1.001))]
    return np.concatenate([every, *near, special("float32")]).astype(np.float32)


def test_float32_functions_are_close_to_the_exact_ones_everywhere():
    x = float32_of_all_magnitudes()
    functions = [getattr(ln, name, None) or getattr(ln.nn, name) for name in FUNCTIONS]
    outputs = ln.jit(lambda x: [function(x) for function in functions])(ln.asarray(x))
    for (name, (bound, reference)), out in zip(FUNCTIONS.items(), outputs, strict=True):
        got, exact = out.numpy(), reference(x.astype("float64"))
        rounded = exact.astype("float32")
        kept = np.isfinite(rounded)
        np.testing.assert_array_equal(got[~kept], rounded[~kept], err_msg=name)
        step = np.spacing(np.maximum(np.abs(rounded[kept]), np.finfo("float32").smallest_normal)).astype("float64")
        off = np.abs(got[kept] - exact[kept]) / step
        assert off.max() < bound, f"{name}({x[kept][off.argmax()]}) is off by {off.max()} steps"


def test_logarithms_of_powers_are_whole():
    def run(*given):
        return [ln.log2(x) for x in given[:2]] + [ln.log10(x) for x in given[2:]]

    binary = [2.0 ** np.arange(-149, 128), 2.0 ** np.arange(-1074, 1024)]
    decimal = [np.array([float(f"1e{n}") for n in range(-m, m)]) for m in (37, 307)]
    given = [part.astype(dtype) for part, dtype in zip([*binary, *decimal], ("f4", "f8", "f4", "f8"), strict=True)]
    wanted = [np.arange(-149, 128), np.arange(-1074, 1024), np.arange(-37, 37), np.arange(-307, 307)]
    for out, whole in zip(ln.jit(run)(*map(ln.asarray, given)), wanted, strict=True):
        np.testing.assert_array_equal(out.numpy(), whole)
