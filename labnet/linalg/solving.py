"""Inverses, linear equations and determinants."""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from labnet.device import CPU
from labnet.errors import ShapeError
from labnet.kernels.device_dispatch import device_of, moved
from labnet.linalg.matrices import as_matrix, computed, summed, transposed
from labnet.ops import matmul, sign, tril, triu, where
from labnet.ops.core.creation import eye
from labnet.ops.custom import op
from labnet.ops.layout.shape import broadcast_to, expand_dims
from labnet.tensor import Tensor


@op(vjp=lambda g, out, x: -(transposed(out) @ g @ transposed(out)), name="inv")
def _inv(x: Any) -> Any:
    return computed("inv", np.linalg.inv, x)


def inv(x: Any, /) -> Tensor:
    """Return the inverse of square matrices.

    Raises
    ------
    ShapeError
        If the matrices are not square.
    LinAlgError
        If one is singular.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.inv(ln.asarray([[2.0, 0.0], [0.0, 4.0]])).tolist()
    [[0.5, 0.0], [0.0, 0.25]]
    """
    return _inv(as_matrix("inv", x, square=True))


def _pull_solve(g: Any, out: Any, a: Any, b: Any) -> Any:
    by_b = _solve(transposed(a), g)
    return summed(-(by_b @ transposed(out)), a), summed(by_b, b)


@op(vjp=_pull_solve, name="solve")
def _solve(a: Any, b: Any) -> Any:
    return computed("solve", np.linalg.solve, a, b)


def solve(a: Any, b: Any, /, *, left: bool = True) -> Tensor:
    """Return the solution `x` of ``a @ x = b``, or of ``x @ a = b`` unless `left`.

    Parameters
    ----------
    a : tensor of shape (..., n, n)
    b : tensor of shape (n,) or (..., n, k)
        One vector, or matrices whose columns are solved for. The batch dimensions broadcast.
    left : bool

    Raises
    ------
    ShapeError
        If the shapes do not fit.
    LinAlgError
        If a matrix is singular.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.solve(ln.asarray([[2.0, 0.0], [0.0, 4.0]]), ln.asarray([2.0, 2.0])).tolist()
    [1.0, 0.5]
    """
    matrix = as_matrix("solve", a, square=True)
    right = b if isinstance(b, Tensor) else Tensor(b)
    if not left:
        return transposed(solve(transposed(matrix), transposed(right)))  # type: ignore[no-any-return]
    columns = expand_dims(right, axis=-1) if right.ndim == 1 else right
    if not columns.ndim or columns.shape[-2] != matrix.shape[-1]:
        raise ShapeError(f"solve: shapes do not fit: {matrix.shape} and {right.shape}")
    columns = columns if columns.dtype.kind == "f" else columns.astype(matrix.dtype)
    found = _solve(matrix, columns)
    return found[..., 0] if right.ndim == 1 else found


def solve_triangular(a: Any, b: Any, /, *, upper: bool, left: bool = True, unitriangular: bool = False) -> Tensor:
    """Return the solution of equations with triangular matrices, of which the other triangle is not read.

    Parameters
    ----------
    a, b, left
        As for `solve`.
    upper : bool
        Which triangle of `a` counts.
    unitriangular : bool
        Whether its diagonal is taken to be ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.solve_triangular(ln.asarray([[2.0, 9.0], [2.0, 1.0]]), ln.ones((2, 1)) * 2, upper=False).tolist()
    [[1.0], [0.0]]
    """
    matrix = as_matrix("solve_triangular", a, square=True)
    one, offset = (triu, 1) if upper else (tril, -1)
    ones = eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    return solve(one(matrix, k=offset) + ones if unitriangular else one(matrix), b, left=left)


def _pull_det(g: Any, out: Any, x: Any) -> Any:
    if isinstance(x, Tensor):
        return expand_dims(g * out, axis=(-2, -1)) * transposed(_inv(x))
    device = device_of(x)
    g, x = (moved(each, CPU) for each in (g, x))
    u, s, vh = computed("det", lambda a: tuple(np.linalg.svd(a)), x)
    # singular matrices too: the products of all other singular values
    others = np.stack([np.delete(s, i, axis=-1).prod(axis=-1) for i in range(s.shape[-1])], axis=-1)
    signs = g * np.linalg.det(u) * np.linalg.det(vh)
    return moved((signs[..., None, None] * ((u * others[..., None, :]) @ vh)).astype(x.dtype), device)


@op(vjp=_pull_det, name="det")
def _det(x: Any) -> Any:
    return computed("det", np.linalg.det, x)


def det(x: Any, /) -> Tensor:
    """Return the determinant of square matrices; its gradient exists for singular ones too.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.det(ln.asarray([[2.0, 1.0], [0.0, 4.0]])).item()
    8.0
    """
    return _det(as_matrix("det", x, square=True))


def _pull_logabsdet(g: Any, out: Any, x: Any) -> Any:
    return (expand_dims(g, axis=(-2, -1)) if isinstance(g, Tensor) else g[..., None, None]) * transposed(_inv(x))


@op(vjp=_pull_logabsdet, name="logabsdet")
def _logabsdet(x: Any) -> Any:
    return computed("slogdet", lambda a: np.linalg.slogdet(a).logabsdet, x)


class SlogdetResult(NamedTuple):
    """Result of `slogdet`."""

    sign: Tensor
    logabsdet: Tensor


def slogdet(x: Any, /) -> SlogdetResult:
    """Return the sign of the determinant, and the logarithm of its absolute value.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.item() for part in ln.linalg.slogdet(ln.asarray([[-1.0]]))]
    [-1.0, 0.0]
    """
    matrix = as_matrix("slogdet", x, square=True)
    return SlogdetResult(sign(det(matrix.detach())), _logabsdet(matrix))


def logdet(x: Any, /) -> Tensor:
    """Return the logarithm of the determinant; NaN where that is negative.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.logdet(ln.asarray([[1.0]])).item()
    0.0
    """
    signs, logs = slogdet(x)
    return where(signs < 0, math.nan, logs)


def matrix_power(x: Any, n: int, /) -> Tensor:
    """Return the product of `n` copies of square matrices, or of their inverses for a negative `n`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.matrix_power(ln.asarray([[1.0, 1.0], [0.0, 1.0]]), 5).tolist()
    [[1.0, 5.0], [0.0, 1.0]]
    """
    base = as_matrix("matrix_power", x, square=True)
    base, left = (inv(base), -n) if n < 0 else (base, n)
    found: Tensor | None = None
    while left:
        found = (base if found is None else matmul(found, base)) if left % 2 else found
        base, left = matmul(base, base) if left > 1 else base, left // 2
    identity = eye(base.shape[-1], dtype=base.dtype, device=base.device)
    return broadcast_to(identity, base.shape) if found is None else found


def matrix_exp(x: Any, /) -> Tensor:
    """Return the exponential series of square matrices, by scaling and squaring.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.matrix_exp(ln.asarray([[0.0, 1.0], [0.0, 0.0]])).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    matrix = as_matrix("matrix_exp", x, square=True)
    greatest = np.abs(moved_to_host(matrix)).sum(axis=-2).max(initial=0.0)
    doublings = max(0, math.ceil(math.log2(greatest)) + 1) if 0 < greatest < math.inf else 0
    small = matrix * 0.5**doublings
    identity = eye(matrix.shape[-1], dtype=matrix.dtype, device=matrix.device)
    found = identity + small * 0
    for order in range(16, 0, -1):
        found = identity + matmul(small, found) / order
    for _ in range(doublings):
        found = matmul(found, found)
    return found


def moved_to_host(x: Tensor) -> Any:
    """Return the elements of a tensor as an array of the CPU.

    Examples
    --------
    >>> moved_to_host(Tensor([1.0])).tolist()
    [1.0]
    """
    return x.detach().to_device("cpu").numpy()


def multi_dot(tensors: Sequence[Any], /) -> Tensor:
    """Return the product of several matrices, from the left to the right; the first and last may be vectors.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.multi_dot([ln.ones((1, 2)), ln.ones((2, 2)), ln.ones((2, 1))]).tolist()
    [[4.0]]
    """
    found = tensors[0]
    for each in tensors[1:]:
        found = matmul(found, each)
    return found  # type: ignore[no-any-return]
