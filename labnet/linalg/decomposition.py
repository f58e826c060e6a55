"""Decompositions of matrices. Those with several results are one op, whose result holds them side by side."""

import builtins
import math
from typing import Any, Literal, NamedTuple

import numpy as np

from labnet.linalg.matrices import as_matrix, computed, diagonal, transposed
from labnet.linalg.solving import solve
from labnet.ops import concat, count_nonzero, matmul, max, tril, where
from labnet.ops.core.creation import eye
from labnet.ops.custom import op
from labnet.ops.layout.shape import expand_dims, reshape
from labnet.tensor import Tensor, wrap

Shape = tuple[int, ...]


def _packed(*parts: Any) -> Any:
    """Return matrices, and vectors as such, as one flat dimension."""
    lead = parts[-1].shape[:-2]
    return np.concatenate([part.reshape((*lead, -1)) for part in parts], axis=-1)


def _unpacked(x: Any, *shapes: Shape) -> list[Any]:
    """Return the parts of `_packed`, whose last dimensions are given; arrays become tensors."""
    x, found, start = x if isinstance(x, Tensor) else wrap(x), [], 0
    for shape in shapes:
        end = start + math.prod(shape)
        found.append(reshape(x[..., start:end], (*x.shape[:-1], *shape)))
        start = end
    return found


def _diagonal(x: Any) -> Tensor:
    """Return vectors as diagonal matrices."""
    return expand_dims(x, axis=-1) * eye(x.shape[-1], dtype=x.dtype, device=x.device)


def _symmetric(x: Tensor) -> Tensor:
    return (x + transposed(x)) / 2  # type: ignore[no-any-return]


def _reciprocal(x: Tensor) -> Tensor:
    """Return 1 / x, and 0 where x is 0."""
    flat = x == 0
    return where(flat, 0, 1 / where(flat, 1, x))


def _pull_cholesky(g: Any, out: Any, x: Any) -> Any:
    g, out = (each if isinstance(each, Tensor) else wrap(each) for each in (g, out))
    inner = tril(transposed(out) @ g)
    inner = inner - _diagonal(diagonal(inner)) / 2
    upper = transposed(out)
    return solve(upper, transposed(solve(upper, transposed(inner))))


@op(vjp=_pull_cholesky, name="cholesky")
def _cholesky(x: Any) -> Any:
    return computed("cholesky", np.linalg.cholesky, x)


def cholesky(x: Any, /, *, upper: bool = False) -> Tensor:
    """Return the triangular `L` with ``L @ L.mT = x``, for the symmetric part of matrices.

    Parameters
    ----------
    x : tensor of shape (..., n, n)
        Symmetric and positive definite.
    upper : bool
        Return ``L.mT``.

    Raises
    ------
    ShapeError
        If the matrices are not square.
    LinAlgError
        If one is not positive definite.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.cholesky(ln.asarray([[4.0, 2.0], [2.0, 2.0]])).tolist()
    [[2.0, 0.0], [1.0, 1.0]]
    """
    lower = _cholesky(_symmetric(as_matrix("cholesky", x, square=True)))
    return transposed(lower) if upper else lower


class EighResult(NamedTuple):
    """Result of `eigh`."""

    eigenvalues: Tensor
    eigenvectors: Tensor


def _pull_eigh(g: Any, out: Any, x: Any) -> Any:
    n = x.shape[-1]
    (values, vectors), (by_values, by_vectors) = (_unpacked(each, (n,), (n, n)) for each in (out, g))
    gaps = _reciprocal(expand_dims(values, axis=-2) - expand_dims(values, axis=-1))
    inner = _diagonal(by_values) + gaps * (transposed(vectors) @ by_vectors)
    return vectors @ inner @ transposed(vectors)


@op(vjp=_pull_eigh, name="eigh")
def _eigh(x: Any) -> Any:
    return computed("eigh", lambda a: _packed(*np.linalg.eigh(a)), x)


def eigh(x: Any, /) -> EighResult:
    """Return eigenvalues in ascending order, and eigenvectors as columns, of the symmetric part of matrices.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.eigh(ln.asarray([[2.0, 0.0], [0.0, 1.0]])).eigenvalues.tolist()
    [1.0, 2.0]
    """
    matrix = as_matrix("eigh", x, square=True)
    n = matrix.shape[-1]
    return EighResult(*_unpacked(_eigh(_symmetric(matrix)), (n,), (n, n)))


def eigvalsh(x: Any, /) -> Tensor:
    """Return the eigenvalues of `eigh`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.eigvalsh(ln.asarray([[2.0, 0.0], [0.0, 1.0]])).tolist()
    [1.0, 2.0]
    """
    return eigh(x).eigenvalues


class SVDResult(NamedTuple):
    """Result of `svd`."""

    U: Tensor
    S: Tensor
    Vh: Tensor


def _pull_svd(g: Any, out: Any, x: Any) -> Any:
    m, n = x.shape[-2:]
    k = builtins.min(m, n)
    shapes = ((m, k), (k,), (k, n))
    (u, s, vh), (by_u, by_s, by_vh) = (_unpacked(each, *shapes) for each in (out, g))
    v, by_v = transposed(vh), transposed(by_vh)
    columns, rows = expand_dims(s, axis=-2), expand_dims(s, axis=-1)
    gaps = _reciprocal(columns * columns - rows * rows)
    of_u, of_v = (transposed(a) @ b for a, b in ((u, by_u), (v, by_v)))
    inner = gaps * (of_u - transposed(of_u)) * columns + rows * (gaps * (of_v - transposed(of_v))) + _diagonal(by_s)
    found = u @ inner @ vh
    if m > k:
        found = found + ((by_u - u @ of_u) * _reciprocal(columns)) @ vh
    if n > k:
        found = found + (u * _reciprocal(columns)) @ transposed(by_v - v @ of_v)
    return found


@op(vjp=_pull_svd, name="svd")
def _svd(x: Any) -> Any:
    def packed(a: Any) -> Any:
        u, s, vh = np.linalg.svd(a, full_matrices=False)
        lead = a.shape[:-2]
        return np.concatenate([u.reshape((*lead, -1)), s, vh.reshape((*lead, -1))], axis=-1)

    return computed("svd", packed, x)


def svd(x: Any, /, full_matrices: bool = True) -> SVDResult:
    """Return ``U``, the singular values ``S`` in descending order, and ``Vh``, with ``U * S @ Vh = x``.

    Parameters
    ----------
    x : tensor of shape (..., m, n)
    full_matrices : bool
        Whether `U` and `Vh` are square; there is no gradient then unless `x` is.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.svd(ln.asarray([[3.0, 0.0], [0.0, 4.0]])).S.tolist()
    [4.0, 3.0]
    """
    matrix = as_matrix("svd", x)
    m, n = matrix.shape[-2:]
    k = builtins.min(m, n)
    if full_matrices and m != n:
        parts = computed("svd", lambda a: tuple(np.linalg.svd(a)), matrix.array)
        return SVDResult(*(wrap(part.astype(matrix.dtype)).to_device(matrix.device) for part in parts))
    return SVDResult(*_unpacked(_svd(matrix), (m, k), (k,), (k, n)))


def svdvals(x: Any, /) -> Tensor:
    """Return the singular values of matrices in descending order.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.svdvals(ln.asarray([[3.0, 0.0], [0.0, 4.0]])).tolist()
    [4.0, 3.0]
    """
    return svd(x, full_matrices=False).S


class QRResult(NamedTuple):
    """Result of `qr`."""

    Q: Tensor
    R: Tensor


def _pull_qr(g: Any, out: Any, x: Any) -> Any:
    m, n = x.shape[-2:]
    k = builtins.min(m, n)
    (q, r), (by_q, by_r) = (_unpacked(each, (m, k), (k, n)) for each in (out, g))
    right, square = None, r
    if n > m:  # the columns behind the first m follow from them
        matrix = x if isinstance(x, Tensor) else wrap(x)
        right = q @ by_r[..., m:]
        by_q, by_r, square = by_q + matrix[..., m:] @ transposed(by_r[..., m:]), by_r[..., :m], r[..., :m]
    inner = square @ transposed(by_r) - transposed(by_q) @ q
    inner = tril(inner) + transposed(tril(inner, k=-1))
    found = transposed(solve(square, transposed(by_q + q @ inner)))
    return found if right is None else concat([found, right], axis=-1)


@op(vjp=_pull_qr, name="qr")
def _qr(x: Any) -> Any:
    return computed("qr", lambda a: _packed(*np.linalg.qr(a)), x)


def qr(x: Any, /, *, mode: Literal["reduced", "complete"] = "reduced") -> QRResult:
    """Return an orthogonal `Q` and an upper triangular `R` with ``Q @ R = x``.

    Parameters
    ----------
    x : tensor of shape (..., m, n)
    mode : "reduced" or "complete"
        Whether `Q` has min(m, n) columns, or m, without a gradient where these differ.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.qr(ln.asarray([[3.0], [4.0]])).R.abs().tolist()
    [[5.0]]
    """
    if mode not in ("reduced", "complete"):
        raise ValueError(f"qr: expected mode 'reduced' or 'complete', got {mode!r}")
    matrix = as_matrix("qr", x)
    m, n = matrix.shape[-2:]
    if mode == "complete" and m > n:
        parts = computed("qr", lambda a: tuple(np.linalg.qr(a, mode="complete")), matrix.array)
        return QRResult(*(wrap(part.astype(matrix.dtype)).to_device(matrix.device) for part in parts))
    k = builtins.min(m, n)
    return QRResult(*_unpacked(_qr(matrix), (m, k), (k, n)))


def _pull_pinv(g: Any, out: Any, x: Any, *, rtol: float = 0.0) -> Any:
    p, pt, gt = out, transposed(out), transposed(g)
    left, right = gt - (x @ p) @ gt, gt - gt @ (p @ x)
    return -(pt @ g @ pt) + left @ (p @ pt) + (pt @ p) @ right


@op(vjp=_pull_pinv, name="pinv")
def _pinv(x: Any, rtol: float = 0.0) -> Any:
    return computed("pinv", lambda a: np.linalg.pinv(a, rcond=rtol), x)


def pinv(x: Any, /, *, rtol: float | None = None) -> Tensor:
    """Return the pseudo-inverse of matrices (Moore, 1920; gradient of Golub and Pereyra, 1973).

    Parameters
    ----------
    x : tensor of shape (..., m, n)
    rtol : float, optional
        Smaller singular values, relative to the greatest, count as zero; max(m, n) times the machine epsilon by
        default.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.pinv(ln.asarray([[2.0], [0.0]])).tolist()
    [[0.5, 0.0]]
    """
    matrix = as_matrix("pinv", x)
    return _pinv(matrix, rtol=_tolerance(matrix, rtol))


def _tolerance(x: Tensor, rtol: float | None) -> float:
    return builtins.max(x.shape[-2:]) * float(np.finfo(x.dtype).eps) if rtol is None else rtol


def matrix_rank(x: Any, /, *, rtol: float | None = None) -> Tensor:
    """Return the number of singular values that are not small; see `pinv`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.matrix_rank(ln.asarray([[1.0, 1.0], [1.0, 1.0]])).item()
    1
    """
    matrix = as_matrix("matrix_rank", x).detach()
    values = svdvals(matrix)
    return count_nonzero(values > max(values, axis=-1, keepdims=True) * _tolerance(matrix, rtol), axis=-1)


class LstsqResult(NamedTuple):
    """Result of `lstsq`."""

    solution: Tensor


def lstsq(a: Any, b: Any, /, *, rcond: float | None = None) -> LstsqResult:
    """Return the shortest solution that minimises the squares of ``a @ x - b``.

    Parameters
    ----------
    a : tensor of shape (..., m, n)
    b : tensor of shape (m,) or (..., m, k)
    rcond : float, optional
        Smaller singular values, relative to the greatest, count as zero.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.linalg.lstsq(ln.asarray([[1.0], [1.0]]), ln.asarray([[1.0], [3.0]])).solution.item(), 4)
    2.0
    """
    return LstsqResult(matmul(pinv(as_matrix("lstsq", a), rtol=rcond), b))
