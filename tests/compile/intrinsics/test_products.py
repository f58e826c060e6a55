"""Products of matrices of every size, however their operands lie in memory, beside NumPy's.

Where Python runs the generated text, the stand-in for BLAS refuses what BLAS refuses. Machine code is made of those
products that go to BLAS, many in one function, and nothing may be printed, which is all that BLAS does about an
illegal argument.
"""

import itertools

import numpy as np
import pytest

import labnet as ln
from labnet.compile.backends import cpu_program
from labnet.compile.codegen.product_source import Factor
from labnet.compile.intrinsics.tiling import SMALL
from tests.helpers.compile import interpreter

LEAST, TILED, LARGE = (1, 2, 3), 17, 70
#: (rows, columns, inner): lengths of one and few, of whole and broken tiles, and beyond what is written out.
SIZES = [*itertools.product((*LEAST, TILED, LARGE), repeat=3)]
#: Those that go to BLAS, with at least one length of one or three.
TO_BLAS = [
    *(sizes for sizes in itertools.product((1, 3, SMALL + 4), repeat=3) if sizes.count(SMALL + 4) == 1),
    *(sizes for sizes in itertools.product((1, 3, LARGE), repeat=3) if sizes.count(LARGE) == 2),
]
#: Those that are tiles of one and several heights and widths, and what they leave over.
IN_TILES = [(13, 24, 3), (25, 40, 2), (1, 17, 8), (12, 8, 5), (6, 16, 40), (24, 16, 1)]
FORMS = ("a @ b", "a.T @ b", "a @ b.T", "a.T @ b.T")


@pytest.fixture
def interpreted(monkeypatch):
    """Have Python run generated code."""
    monkeypatch.setattr(cpu_program.cache, "load", interpreter.load)


def normal(rng, dtype, *shape):
    if np.dtype(dtype).kind == "f":
        return rng.standard_normal(shape).astype(dtype)
    return rng.integers(0, 2 if dtype == "bool" else 50, shape).astype(dtype)


def operands(form, sizes, dtype):
    """Return arrays whose product in this form has these sizes."""
    rows, columns, inner = sizes
    rng = np.random.default_rng(sum(sizes))
    a = normal(rng, dtype, *((inner, rows) if "a.T" in form else (rows, inner)))
    b = normal(rng, dtype, *((columns, inner) if "b.T" in form else (inner, columns)))
    return a, b, normal(rng, dtype, rows, columns)


def multiplied(form, a, b):
    return (a.T if "a.T" in form else a) @ (b.T if "b.T" in form else b)


def expected(form, a, b, seed):
    """Return the product and its gradients, computed in float64."""
    left, right = (x.astype("float64") for x in (a, b))
    left, right = left.T if "a.T" in form else left, right.T if "b.T" in form else right
    by_left, by_right = seed @ right.T, left.T @ seed
    return left @ right, by_left.T if "a.T" in form else by_left, by_right.T if "b.T" in form else by_right


def compare(cases, dtype):
    """Compile the products of all cases, and their gradients, in one function."""

    def function(*given):
        found = []
        for (form, _), a, b, seed in zip(cases, given[::3], given[1::3], given[2::3], strict=True):
            out = multiplied(form, a, b)
            found += [out, *ln.grad(out, [a, b], seed)]
        return found

    arrays = [operands(form, sizes, dtype) for form, sizes in cases]
    given = [ln.asarray(x, requires_grad=True) for case in arrays for x in case]
    got = ln.jit(function)(*given)
    for position, ((form, sizes), case) in enumerate(zip(cases, arrays, strict=True)):
        found = got[3 * position : 3 * position + 3]
        for name, x, y in zip(("product", "left", "right"), found, expected(form, *case), strict=True):
            label = f"{name} of {form} of sizes {sizes}"
            scale = 1e-5 if dtype == "float32" else 1e-13
            tolerance = scale * max(1.0, float(np.abs(y).max(initial=0.0)))
            np.testing.assert_allclose(x.numpy(), y, rtol=0, atol=tolerance, err_msg=label)


@pytest.mark.parametrize("rows", [*LEAST, TILED, LARGE])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_and_gradients_of_all_sizes_are_numpys(interpreted, dtype, rows):
    compare([(form, sizes) for sizes in SIZES if sizes[0] == rows for form in FORMS], dtype)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_machine_code_of_products_and_gradients_computes_numpys(dtype, capfd):
    compare([(form, sizes) for sizes in TO_BLAS for form in FORMS], dtype)
    compare([(form, sizes) for sizes in IN_TILES for form in FORMS[:2]], dtype)
    assert capfd.readouterr() == ("", "")


#: Operands that are views of larger arrays, or whose elements are read several times.
VIEWS = {
    "sliced rows": lambda x: x[2:9],
    "every other row": lambda x: x[::2],
    "every other column": lambda x: x[:, ::2],
    "sliced columns": lambda x: x[:, 3:8],
    "one column": lambda x: x[:, 4:5],
    "one row": lambda x: x[3:4],
    "flipped rows": lambda x: x[::-1],
    "flipped columns": lambda x: x[:, ::-1],
    "transposed": lambda x: x.T,
    "one row of the transpose": lambda x: x.T[5:6],
    "one column of the transpose": lambda x: x.T[:, 2:3],
    "repeated row": lambda x: ln.broadcast_to(x[1:2], x.shape),
    "repeated column": lambda x: ln.broadcast_to(x[:, 1:2], x.shape),
    "no rows": lambda x: x[:0],
    "no columns": lambda x: x[:, :0],
}
BATCHES = [
    ((5, 3, 4), (4, 2)),
    ((3, 4), (5, 4, 2)),
    ((5, 1, 4), (5, 4, 1)),
    ((5, 80, 1), (5, 1, 80)),
    ((5, 80, 70), (1, 70, 1)),
    ((2, 1, 80, 64), (3, 64, 2)),
    ((2, 1, 1, 4200), (1, 3, 4200, 1)),
    ((1, 6, 3), (7, 3, 5)),
    ((0, 3, 4), (4, 2)),
    ((2, 3, 0), (2, 0, 4)),
    ((0, 3), (3, 4)),
    ((3, 0), (0, 4)),
    ((3, 4), (4, 0)),
]
VECTORS = [
    ((4,), (4,)),
    ((1,), (1,)),
    ((4200,), (4200,)),
    ((0,), (0,)),
    ((4,), (4, 3)),
    ((70,), (70, 70)),
    ((70, 70), (70,)),
    ((4200,), (4200, 1)),
    ((1, 4200), (4200,)),
    ((5, 3, 4), (4,)),
    ((4,), (5, 4, 1)),
    ((1,), (1, 5)),
    ((0,), (0, 3)),
    ((3, 0), (0,)),
]


def with_gradients(function, arrays):
    """Return what a function gives, and gradients of the sum of its squares, compiled and eagerly in float64."""

    def differentiated(*given):
        out = function(*given)
        return out, *ln.grad((out * out).sum(), list(given))

    compiled = ln.jit(differentiated)(*(ln.asarray(x, requires_grad=True) for x in arrays))
    return compiled, differentiated(*(ln.asarray(x.astype("float64"), requires_grad=True) for x in arrays))


def agree(function, arrays):
    tolerance = 1e-4 if arrays[0].dtype == "float32" else 1e-12
    for got, wanted in zip(*with_gradients(function, arrays), strict=True):
        assert got.shape == wanted.shape
        scale = max(1.0, float(np.abs(wanted.numpy()).max(initial=0.0)))
        np.testing.assert_allclose(got.numpy(), wanted.numpy(), rtol=0, atol=tolerance * scale)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("name", VIEWS)
def test_products_of_views_are_eager_ones(interpreted, name, dtype):
    """The left operand is the view, then the right one, then both; small, then large."""
    look, rng = VIEWS[name], np.random.default_rng(0)
    for height, width in ((12, 10), (90, 100)):
        x = normal(rng, dtype, height, width)
        inner, outer = look(ln.asarray(x)).shape[::-1]
        a, b = normal(rng, dtype, 5, outer), normal(rng, dtype, inner, 6)
        agree(lambda x, b: look(x) @ b, [x, b])
        agree(lambda x, a: a @ look(x), [x, a])
        agree(lambda x: look(x) @ look(x).mT, [x])
        agree(lambda x: look(x).mT @ look(x), [x])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("shapes", [*BATCHES, *VECTORS], ids=str)
def test_batches_and_vectors_are_eager_ones(interpreted, shapes, dtype):
    rng = np.random.default_rng(0)
    agree(lambda a, b: a @ b, [normal(rng, dtype, *shape) for shape in shapes])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_products_with_the_same_number_everywhere_are_eager_ones(interpreted, dtype):
    x = normal(np.random.default_rng(0), dtype, 90, 1)
    for shape in ((1, 80), (1, 1), (1, 0)):
        agree(lambda x, shape=shape: x @ ln.ones(shape, dtype=str(x.dtype)), [x])
        agree(lambda x, shape=shape: ln.ones(shape, dtype=str(x.dtype)).mT @ x.mT, [x])


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_batches_views_and_vectors_as_machine_code(dtype, capfd):
    rng = np.random.default_rng(0)
    arrays = [normal(rng, dtype, *shape) for shapes in (*BATCHES, *VECTORS) for shape in shapes]
    x = normal(rng, dtype, 90, 100)

    def all_of_them(x, *given):
        pairs = [a @ b for a, b in zip(given[::2], given[1::2], strict=True)]
        return [*pairs, *(look(x) @ look(x).mT for look in VIEWS.values())]

    got = ln.jit(all_of_them)(*map(ln.asarray, (x, *arrays)))
    wanted = all_of_them(*(ln.asarray(each.astype("float64")) for each in (x, *arrays)))
    tolerance = 1e-3 if dtype == "float32" else 1e-10
    for one, other in zip(got, wanted, strict=True):
        np.testing.assert_allclose(one.numpy(), other.numpy(), rtol=tolerance, atol=tolerance)
    assert capfd.readouterr() == ("", "")


WHOLE = ("bool", "int8", "uint8", "int32", "int64", "uint64")


def test_products_of_integers_as_machine_code():
    cases = [(form, sizes, dtype) for form in FORMS[:2] for sizes in ((3, 1, 5), (1, 9, 2)) for dtype in WHOLE]
    arrays = [operands(*case)[:2] for case in cases]

    def all_of_them(*given):
        pairs = zip(cases, given[::2], given[1::2], strict=True)
        return [multiplied(form, a, b) for (form, *_), a, b in pairs]

    got = ln.jit(all_of_them)(*(ln.asarray(x) for pair in arrays for x in pair))
    for (form, *_), (a, b), found in zip(cases, arrays, got, strict=True):
        np.testing.assert_array_equal(found.numpy(), multiplied(form, a, b), strict=True)


@pytest.mark.parametrize("dtype", WHOLE)
@pytest.mark.parametrize("sizes", [(1, 1, 1), (1, 3, 70), (70, 1, 3), (3, 2, 1), (17, 70, 4), (2, 3, 0)], ids=str)
def test_products_of_integers_and_booleans_are_numpys(interpreted, dtype, sizes):
    for form in FORMS:
        a, b, _ = operands(form, sizes, dtype)
        got = ln.jit(lambda a, b, form=form: multiplied(form, a, b))(ln.asarray(a), ln.asarray(b)).numpy()
        wanted = multiplied(form, a, b)
        assert got.dtype == wanted.dtype
        np.testing.assert_array_equal(got, wanted)


def test_a_leading_dimension_that_blas_refuses_is_an_error_before_anything_is_compiled():
    Factor(3, 5, "p", is_transposed=False, step=5).blas()
    with pytest.raises(RuntimeError, match="at least 5 was expected, got 4"):
        Factor(3, 5, "p", is_transposed=False, step=4).blas()
    with pytest.raises(RuntimeError, match="at least 3 was expected, got 1"):
        Factor(3, 5, "p", is_transposed=True, step=1).blas()
    with pytest.raises(RuntimeError, match="at least 1 was expected, got 0"):
        Factor(3, 0, "p", is_transposed=False, step=0).blas()


def test_a_regression_with_one_input_and_one_output_ends_where_eager_training_ends():
    def train(compile):
        ln.manual_seed(0)
        model, optimizer = ln.nn.Sequential(ln.nn.Linear(1, 64), ln.nn.Tanh(), ln.nn.Linear(64, 1)), ln.optim.Adam(1e-2)
        x = ln.asarray(np.linspace(-3, 3, 256, dtype="float32")[:, None])

        def step(x, y):
            loss = ln.loss.mse(model(x), y)
            optimizer(loss.backward())
            return loss

        step = ln.jit(step) if compile else step
        return [step(x, ln.sin(x)).item() for _ in range(300)]

    eager, compiled = train(compile=False), train(compile=True)
    np.testing.assert_allclose(compiled[:20], eager[:20], rtol=1e-4)
    assert compiled[-1] == pytest.approx(eager[-1], rel=0.05)
    assert compiled[-1] < 0.01
