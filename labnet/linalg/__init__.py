"""Linear algebra of matrices in the last two dimensions, with names of the array API standard and torch.

LAPACK computes on the CPU, through NumPy, also for tensors on a GPU; `labnet.jit` does not compile these functions.
Other dimensions are a batch. Gradients are of any order; those of singular vectors and eigenvectors exist only for
distinct singular values and eigenvalues.
"""

from labnet.linalg.decomposition import (
    cholesky,
    eigh,
    eigvalsh,
    lstsq,
    matrix_rank,
    pinv,
    qr,
    svd,
    svdvals,
)
from labnet.linalg.matrices import LinAlgError, diagonal, trace
from labnet.linalg.norms import cond, matrix_norm, norm, vector_norm
from labnet.linalg.solving import (
    det,
    inv,
    logdet,
    matrix_exp,
    matrix_power,
    multi_dot,
    slogdet,
    solve,
    solve_triangular,
)
from labnet.ops import cross, matmul, matrix_transpose, outer, tensordot, vecdot

__all__ = [
    "LinAlgError",
    "cholesky",
    "cond",
    "cross",
    "det",
    "diagonal",
    "eigh",
    "eigvalsh",
    "inv",
    "logdet",
    "lstsq",
    "matmul",
    "matrix_exp",
    "matrix_norm",
    "matrix_power",
    "matrix_rank",
    "matrix_transpose",
    "multi_dot",
    "norm",
    "outer",
    "pinv",
    "qr",
    "slogdet",
    "solve",
    "solve_triangular",
    "svd",
    "svdvals",
    "tensordot",
    "trace",
    "vecdot",
    "vector_norm",
]
