"""Norms of vectors and matrices."""

import math
from typing import Any

from labnet import ops
from labnet.linalg.decomposition import svdvals
from labnet.linalg.matrices import as_matrix
from labnet.linalg.solving import inv
from labnet.ops.core.axes import normalize_axis, rename
from labnet.tensor import Tensor

Axis = int | tuple[int, ...] | None


def vector_norm(x: Any, ord: float = 2, axis: Axis = None, keepdims: bool = False, **torch_names: Any) -> Tensor:
    """Return the length of vectors; see `labnet.vector_norm`. ``dim=`` and ``keepdim=`` are taken too.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.vector_norm(ln.asarray([3.0, -4.0]), 1).item()
    7.0
    """
    static: dict[str, Any] = {"ord": ord, "axis": axis, "keepdims": keepdims}
    return ops.vector_norm(x, **_renamed("vector_norm", static, torch_names))


def _renamed(name: str, static: dict[str, Any], torch_names: dict[str, Any]) -> dict[str, Any]:
    """Return arguments together with those under torch's names."""
    rename(name, torch_names)
    for key in torch_names.keys() - static.keys():
        raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
    return static | torch_names


def matrix_norm(x: Any, ord: Any = "fro", axis: Any = (-2, -1), keepdims: bool = False, **torch_names: Any) -> Tensor:
    """Return a norm of matrices.

    Parameters
    ----------
    x : tensor of shape (..., m, n)
    ord : "fro", "nuc", 1, -1, 2, -2, inf or -inf
        The root of the sum of squares, the sum of the singular values, the greatest or smallest sum of magnitudes of
        a column (1) or a row (inf), or the greatest or smallest singular value (2).
    axis : (int, int)
        The dimensions of the matrices.
    keepdims : bool

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.matrix_norm(ln.asarray([[3.0, 4.0]])).item()
    5.0
    """
    static = _renamed("matrix_norm", {"ord": ord, "axis": axis, "keepdims": keepdims}, torch_names)
    ord, kept = static["ord"], static["keepdims"]
    matrix = as_matrix("matrix_norm", x)
    axes = tuple(normalize_axis("matrix_norm", each, matrix.shape) for each in static["axis"])
    if ord == "fro":
        return ops.vector_norm(matrix, axis=axes, keepdims=kept)
    last = ops.moveaxis(matrix, axes, (-2, -1))
    if ord in (1, -1, math.inf, -math.inf):
        sums = ops.sum(ops.abs(last), axis=-2 if abs(ord) == 1 else -1)
    elif ord in (2, -2, "nuc"):
        sums = svdvals(last)
    else:
        raise ValueError(f"matrix_norm: ord must be 'fro', 'nuc', 1, -1, 2, -2, inf or -inf, got {ord!r}")
    reduce = ops.sum if ord == "nuc" else ops.max if ord > 0 else ops.min
    found = reduce(sums, axis=-1)
    return ops.reshape(found, tuple(1 if i in axes else n for i, n in enumerate(matrix.shape))) if kept else found


def norm(x: Any, ord: Any = None, axis: Axis = None, keepdims: bool = False, **torch_names: Any) -> Tensor:
    """Return `matrix_norm` for two dimensions or a name, `vector_norm` otherwise; of all elements by default.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.norm(ln.asarray([[3.0], [4.0]])).item(), ln.linalg.norm(ln.asarray([[3.0], [4.0]]), 1).item()
    (5.0, 7.0)
    """
    static = _renamed("norm", {"ord": ord, "axis": axis, "keepdims": keepdims}, torch_names)
    ord, axis = static["ord"], static["axis"]
    given = x if isinstance(x, Tensor) else Tensor(x)
    pair = isinstance(axis, tuple | list) and len(axis) == 2
    if ord is not None and (pair or isinstance(ord, str) or (axis is None and given.ndim == 2)):
        return matrix_norm(given, ord, axis if pair else (-2, -1), static["keepdims"])
    return vector_norm(given, 2 if ord is None else ord, axis, static["keepdims"])


def cond(x: Any, p: Any = None, /) -> Tensor:
    """Return the condition number: the greatest singular value over the smallest, or a norm times that of the inverse.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.cond(ln.asarray([[2.0, 0.0], [0.0, 4.0]])).item()
    2.0
    """
    matrix = as_matrix("cond", x, square=p not in (None, 2, -2))
    if p in (None, 2, -2):
        values = svdvals(matrix)
        return values[..., -1] / values[..., 0] if p == -2 else values[..., 0] / values[..., -1]
    return matrix_norm(matrix, p) * matrix_norm(inv(matrix), p)
