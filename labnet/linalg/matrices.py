"""What the functions of linear algebra share: checks of matrices, and the call of LAPACK."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import DTypeError, LabnetError, ShapeError
from labnet.kernels.device_dispatch import device_of, moved
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.layout.shape import fit, matrix_transpose
from labnet.tensor import Tensor


class LinAlgError(LabnetError, np.linalg.LinAlgError):
    """A matrix does not have the requested result, such as an inverse."""


def as_matrix(name: str, x: Any, *, square: bool = False) -> Tensor:
    """Return matrices as a floating tensor; `name` is that of the function in messages.

    Raises
    ------
    ShapeError
        If there are fewer than two dimensions, or the matrices are not square but should be.
    DTypeError
        If the elements are not numbers.

    Examples
    --------
    >>> as_matrix("inv", [[1.0, 2.0]]).shape
    (1, 2)
    """
    found = x if isinstance(x, Tensor) else Tensor(x)
    if found.dtype.kind == "b":
        raise DTypeError(f"{name}: expected numbers, got dtype {found.dtype}")
    if found.ndim < 2 or (square and found.shape[-1] != found.shape[-2]):
        kind = "square matrices (..., n, n)" if square else "matrices (..., m, n)"
        raise ShapeError(f"{name}: expected {kind}, got shape {found.shape}")
    return found if found.dtype.kind == "f" else found.astype("float64")


def computed(name: str, function: Callable[..., Any], *arrays: Any) -> Any:
    """Call a function of NumPy on the CPU; float16 is computed in float32.

    Raises
    ------
    LinAlgError
        If the function fails; the message holds the shapes.

    Examples
    --------
    >>> computed("inv", np.linalg.inv, np.eye(1) * 4)
    array([[0.25]])
    """
    device, dtype = device_of(arrays[0]), arrays[0].dtype
    here = [moved(x, "cpu") for x in arrays]
    try:
        found = function(*[x.astype(SINGLE) if x.dtype == HALF else x for x in here])
    except np.linalg.LinAlgError as error:
        shapes = " and ".join(str(x.shape) for x in here)
        raise LinAlgError(f"{name}: {str(error).lower()}: shape {shapes}") from None
    if isinstance(found, tuple):
        return found
    found = np.asarray(found)
    return moved(found.astype(HALF) if dtype == HALF else found, device)


def transposed(x: Any) -> Any:
    """Return each matrix transposed; of arrays and tensors alike.

    Examples
    --------
    >>> transposed(np.zeros((4, 2, 3))).shape
    (4, 3, 2)
    """
    return matrix_transpose(x) if isinstance(x, Tensor) else x.mT


def summed(found: Any, like: Any) -> Any:
    """Return a gradient reduced to the shape of an input that was broadcast over a batch.

    Examples
    --------
    >>> summed(np.ones((3, 2)), np.zeros(2)).tolist()
    [3.0, 3.0]
    """
    return found if found.shape == like.shape and found.dtype == like.dtype else fit(found, like)


def diagonal(x: Any, /, *, offset: int = 0) -> Tensor:
    """Return the diagonals of matrices as vectors.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.diagonal(ln.asarray([[1, 2], [3, 4]]), offset=1).tolist()
    [2]
    """
    return ops.diagonal(x, k=offset, axis1=-2, axis2=-1)


def trace(x: Any, /, *, offset: int = 0) -> Tensor:
    """Return the sum of the diagonal of each matrix.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linalg.trace(ln.asarray([[1, 2], [3, 4]])).item()
    5
    """
    return ops.sum(diagonal(x, offset=offset), axis=-1)
