"""Matrix products."""

import numpy as np

from labnet.ops.registry import FLOATS, Array, Sample, op
from labnet.ops.shape import fit, matrix_transpose, reshape
from labnet.tensor import Tensor


def _as_matrices(g: Tensor, x1: Tensor, x2: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give vectors the dimension of length one that `matmul` pretended they had."""
    left = reshape(x1, (1, -1)) if x1.ndim == 1 else x1
    right = reshape(x2, (-1, 1)) if x2.ndim == 1 else x2
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    return reshape(g, (*batch, left.shape[-2], right.shape[-1])), left, right


def _pull_left(g: Tensor, out: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    g, left, right = _as_matrices(g, x1, x2)
    return reshape(fit(matmul(g, matrix_transpose(right)), left), x1.shape)


def _pull_right(g: Tensor, out: Tensor, x1: Tensor, x2: Tensor) -> Tensor:
    g, left, right = _as_matrices(g, x1, x2)
    if right.ndim == 2 and left.ndim > 2:  # one large product instead of many that are added up
        left, g = reshape(left, (-1, left.shape[-1])), reshape(g, (-1, g.shape[-1]))
    return reshape(fit(matmul(matrix_transpose(left), g), right), x2.shape)


@op(
    _pull_left,
    _pull_right,
    samples=(
        Sample(((3, 4), (4, 2))),
        Sample(((4,), (4,))),
        Sample(((4,), (4, 2))),
        Sample(((3, 4), (4,))),
        Sample(((2, 3, 4), (4, 5))),
        Sample(((2, 1, 3, 4), (5, 4, 2))),
        Sample(((5, 3, 4), (4,))),
        Sample(((4,), (5, 4, 3))),
    ),
    inputs=2,
    dtypes=("int64", *FLOATS),
)
def matmul(x1: Array, x2: Array, /) -> Array:
    """Matrix product over the last two dimensions; the others broadcast, vectors count as matrices.

    Raises
    ------
    ShapeError
        If the inner dimensions differ; the message holds both shapes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.matmul(ln.asarray([[1.0, 2.0]]), ln.asarray([[3.0], [4.0]])).tolist()
    [[11.0]]
    """
    return np.matmul(x1, x2)
