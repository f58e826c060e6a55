"""`ln.linalg` beside torch and beside differences: values, first and second gradients, batches, and what is refused."""

import numpy as np
import pytest

import labnet as ln
from labnet.errors import DTypeError, ShapeError
from tests.helpers.tensors.torch_comparison import assert_functions_agree, torch_or_skip

RNG = np.random.default_rng(0)
SQUARE = RNG.standard_normal((3, 3)) + 3 * np.eye(3)
TALL, WIDE = RNG.standard_normal((4, 3)), RNG.standard_normal((3, 5))
BATCH = RNG.standard_normal((2, 3, 3)) + 3 * np.eye(3)
SINGULAR = np.array([[1.0, 2.0, 3.0], [2.0, 4.0, 6.0], [1.0, 0.0, 1.0]])
VECTOR, MANY = RNG.standard_normal(3), RNG.standard_normal((2, 3, 2))

#: (text, arrays); L is `labnet.linalg` or `torch.linalg`.
LINES = [
    *((f"L.{name}(x)", (x,)) for name in ("inv", "det", "pinv") for x in (SQUARE, BATCH)),
    *((f"L.slogdet(x){part}", (x,)) for part in ("[0]", "[1]") for x in (SQUARE, -BATCH)),
    *(("L.pinv(x)", (x,)) for x in (TALL, WIDE)),
    ("L.solve(x, y)", (SQUARE, VECTOR)),
    ("L.solve(x, y)", (SQUARE, MANY)),
    ("L.solve(x, y)", (BATCH, MANY)),
    ("L.solve(x, y)", (BATCH, MANY[0])),
    ("L.solve(x, y, left=False)", (SQUARE, WIDE.T)),
    ("L.solve_triangular(x, y, upper=True)", (BATCH, MANY)),
    ("L.solve_triangular(x, y, upper=False, left=False)", (SQUARE, TALL)),
    ("L.solve_triangular(x, y, upper=False, unitriangular=True)", (SQUARE, WIDE)),
    ("L.cholesky(x @ x.mT)", (BATCH,)),
    ("L.cholesky(x @ x.mT, upper=True)", (SQUARE,)),
    ("L.eigvalsh(x + x.mT)", (BATCH,)),
    ("L.eigh(x + x.mT)[1].abs()", (BATCH,)),
    ("L.svdvals(x)", (BATCH,)),
    ("L.svdvals(x)", (WIDE,)),
    *((f"L.svd(x, full_matrices=False)[{part}].abs()", (x,)) for part in (0, 1, 2) for x in (SQUARE, TALL, WIDE)),
    *((f"L.qr(x)[{part}].abs()", (x,)) for part in (0, 1) for x in (SQUARE, TALL, WIDE, BATCH)),
    *(
        (f"L.matrix_norm(x, {ord})", (BATCH,))
        for ord in ("'fro'", "'nuc'", 1, -1, 2, -2, "float('inf')", "-float('inf')")
    ),
    ("L.matrix_norm(x, 'nuc', dim=(0, 2), keepdim=True)", (MANY,)),
    ("L.vector_norm(x, 3, dim=1)", (TALL,)),
    ("L.vector_norm(x)", (TALL,)),
    *((f"L.norm(x{more})", (TALL,)) for more in ("", ", 2", ", 'nuc'", ", 1, dim=0", ", dim=(0, 1)", ", ord='fro'")),
    *((f"L.matrix_power(x, {n})", (BATCH,)) for n in (0, 1, 2, 5, -3)),
    ("L.matrix_exp(x)", (BATCH,)),
    ("L.matrix_exp(x)", (np.zeros((2, 2)),)),
    ("L.multi_dot([x, y, y])", (TALL, SQUARE)),
    ("L.cond(x)", (SQUARE,)),
    ("L.cond(x, -2)", (TALL,)),
    ("L.lstsq(x, y).solution", (TALL, TALL[:, :2])),
    ("L.cross(x, y)", (SQUARE, BATCH[0])),
]


@pytest.mark.parametrize(("text", "arrays"), LINES, ids=lambda value: value if isinstance(value, str) else "")
def test_values_and_gradients_are_torchs(text, arrays):
    torch = torch_or_skip()
    names = ("x", "y")[: len(arrays)]
    assert_functions_agree(
        lambda *given: eval(text, {"L": ln.linalg, **dict(zip(names, given, strict=True))}),
        lambda *given: eval(text, {"L": torch.linalg, **dict(zip(names, given, strict=True))}),
        *arrays,
        rtol=1e-7,
        atol=1e-8,
    )


SECOND = [
    (text, arrays) for text, arrays in LINES if "[0]" not in text and "cross" not in text and "power(x, 0)" not in text
]


@pytest.mark.parametrize(
    ("text", "arrays"),
    [case for case in SECOND if len(case[1]) == 1][::2],
    ids=lambda v: v if isinstance(v, str) else "",
)
def test_second_gradients_are_those_of_differences(text, arrays):
    (x,), direction = arrays, np.random.default_rng(1).standard_normal(arrays[0].shape)

    def slope(values, *, create_graph=False):
        tensor = ln.asarray(values, requires_grad=True)
        out = eval(text, {"L": ln.linalg, "x": tensor})
        weights = np.cos(np.arange(out.size)).reshape(out.shape)
        return tensor, ln.grad((out * weights).sum(), tensor, create_graph=create_graph)

    tensor, first = slope(x, create_graph=True)
    if not first.requires_grad:  # linear
        return
    second = ln.grad((first * direction).sum(), tensor).numpy()
    step = 1e-5
    expected = (slope(x + step * direction)[1].numpy() - slope(x - step * direction)[1].numpy()) / (2 * step)
    np.testing.assert_allclose(second, expected, rtol=1e-4, atol=1e-5)


def test_eigenvalues_that_are_equal_have_gradients():
    x = ln.eye(3, dtype=ln.float64, requires_grad=True)
    assert ln.grad(ln.linalg.eigvalsh(x).sum(), x).tolist() == np.eye(3).tolist()
    assert np.isfinite(ln.grad(ln.linalg.svdvals(x).sum(), x).numpy()).all()


def test_dtypes_stay_and_integers_become_float64():
    for dtype in ("float16", "float32", "float64"):
        x = ln.asarray(SQUARE).astype(dtype)
        for function in (ln.linalg.inv, ln.linalg.det, ln.linalg.pinv, ln.linalg.svdvals, lambda x: ln.linalg.qr(x).R):
            found = function(x)
            assert found.dtype == dtype
            expected = function(ln.asarray(x.numpy().astype("float64"))).numpy()
            np.testing.assert_allclose(np.abs(found.numpy()), np.abs(expected), rtol={"float16": 2e-2}.get(dtype, 1e-4))
    assert ln.linalg.inv([[2, 0], [0, 4]]).dtype == ln.float64


def test_whole_bases_are_given_without_a_gradient():
    parts = ln.linalg.svd(ln.asarray(TALL))
    assert [part.shape for part in parts] == [(4, 4), (3,), (3, 3)]
    np.testing.assert_allclose(parts.U.numpy()[:, :3] * parts.S.numpy() @ parts.Vh.numpy(), TALL)
    q, r = ln.linalg.qr(ln.asarray(TALL), mode="complete")
    np.testing.assert_allclose(q.numpy() @ r.numpy(), TALL, atol=1e-12)
    assert q.shape == (4, 4)


def test_determinants_of_singular_matrices_have_gradients():
    x, step = np.stack([SINGULAR, SQUARE]), 1e-6
    tensor = ln.asarray(x, requires_grad=True)
    found = ln.grad(ln.linalg.det(tensor).sum(), tensor).numpy()
    for place in np.ndindex(x.shape):
        more, less = x.copy(), x.copy()
        more[place], less[place] = more[place] + step, less[place] - step
        expected = (np.linalg.det(more).sum() - np.linalg.det(less).sum()) / (2 * step)
        np.testing.assert_allclose(found[place], expected, rtol=1e-6, atol=1e-6)


def test_diagonals_and_traces_are_those_of_each_matrix():
    x = ln.asarray(BATCH)
    np.testing.assert_array_equal(ln.linalg.trace(x, offset=1).numpy(), np.linalg.trace(BATCH, offset=1))
    np.testing.assert_array_equal(ln.linalg.diagonal(x).numpy(), np.linalg.diagonal(BATCH))
    np.testing.assert_allclose(ln.linalg.cond(ln.asarray(SQUARE), "fro").item(), np.linalg.cond(SQUARE, "fro"))


def test_ranks_and_logarithms():
    assert ln.linalg.matrix_rank(ln.asarray(np.stack([SINGULAR, SQUARE]))).tolist() == [2, 3]
    np.testing.assert_allclose(ln.linalg.logdet(ln.asarray(SQUARE)).item(), np.log(np.linalg.det(SQUARE)))
    assert np.isnan(ln.linalg.logdet(ln.asarray([[-1.0]])).item())


@pytest.mark.parametrize(
    ("call", "error", "words"),
    [
        (
            lambda: ln.linalg.inv(ln.asarray(SINGULAR) * 0),
            ln.linalg.LinAlgError,
            r"inv: singular matrix: shape \(3, 3\)",
        ),
        (
            lambda: ln.linalg.solve(ln.zeros((2, 2)), ln.ones(2)),
            ln.linalg.LinAlgError,
            r"solve: singular .*\(2, 2\) and \(2, 1\)",
        ),
        (lambda: ln.linalg.cholesky(-ln.eye(2)), ln.linalg.LinAlgError, "cholesky: .*not positive definite"),
        (lambda: ln.linalg.inv(ln.ones((2, 3))), ShapeError, r"inv: expected square matrices .*got shape \(2, 3\)"),
        (lambda: ln.linalg.det(ln.ones(3)), ShapeError, "det: expected square"),
        (lambda: ln.linalg.svd(ln.ones(3)), ShapeError, "svd: expected matrices"),
        (lambda: ln.linalg.solve(ln.eye(2), ln.ones(3)), ShapeError, r"solve: .*\(2, 2\) and \(3,\)"),
        (lambda: ln.linalg.inv(ln.asarray([[True]])), DTypeError, "inv: expected numbers, got dtype bool"),
        (lambda: ln.linalg.qr(ln.eye(2), mode="raw"), ValueError, "mode 'reduced' or 'complete'"),
        (lambda: ln.linalg.matrix_norm(ln.eye(2), 3), ValueError, "matrix_norm: ord must be"),
        (lambda: ln.linalg.vector_norm(ln.ones(2), axes=0), TypeError, "unexpected keyword argument 'axes'"),
    ],
)
def test_what_has_no_result_is_refused(call, error, words):
    with pytest.raises(error, match=words):
        call()


def test_compiled_functions_say_that_they_do_not_compile_it():
    with pytest.raises(ln.errors.TraceError, match="cannot compile inv: its body is not made of ops: call it outside"):
        ln.jit(lambda x: ln.linalg.inv(x) * 2)(ln.eye(2))
