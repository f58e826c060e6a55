"""Normalisation over trailing dimensions."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet import kernels
from labnet.ops.aggregation.reduction import mean
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import FLOATS, op

Values = np.ndarray[Any, Any]


def _pull_standardized(g: Any, out: Any, x: Any, *, dims: int = 1, eps: float = 1e-5) -> Any:
    if type(x) is np.ndarray and type(g) is np.ndarray:
        return standardized_gradients(g, x, None, None, (True, False, False), dims=dims, eps=eps)[0]
    axes = tuple(range(-dims, 0))
    centered = x - mean(x, axis=axes, keepdims=True)
    scale = (mean(centered * centered, axis=axes, keepdims=True) + eps) ** -0.5
    return scale * (g - mean(g, axis=axes, keepdims=True) - out * mean(g * out, axis=axes, keepdims=True))


def standardized_gradients(
    g: Values,
    x: Values,
    weight: Values | None,
    moments: Values | None,
    wanted: Sequence[bool],
    *,
    dims: int,
    eps: float,
    centered: bool = True,
) -> list[Values | None]:
    """Return those gradients of ``standardize(x) * weight + bias`` that are wanted: of x, weight, and bias.

    Parameters
    ----------
    moments : array of shape (rows, 2), optional
        Mean and deviation of each row, if known.
    centered : bool
        Whether the mean was subtracted; otherwise the moments are 0 and the root mean square.

    Examples
    --------
    >>> g, x = np.ones((1, 2)), np.array([[1.0, 3.0]])
    >>> standardized_gradients(g, x, None, None, (True, False, False), dims=1, eps=0.0)[0]
    array([[0., 0.]])
    """
    shape = x.shape[-dims:]
    width = math.prod(shape)
    pairs = zip(wanted, (x.shape, shape, shape), strict=True)
    found = [np.empty(like, x.dtype) if one else None for one, like in pairs]
    compiled = kernels.standardize_backward.ready(x.dtype, x.size)
    together = (g, x, weight, moments, *found)
    if compiled is not None and compiled(together, width, int(centered), eps):
        return found
    g, rows = g.reshape(-1, width), x.reshape(-1, width)
    if moments is None:
        y = rows - np.mean(rows, axis=-1, keepdims=True)
        deviation = np.sqrt(np.mean(y * y, axis=-1, keepdims=True) + eps)
    else:
        y, deviation = rows - moments[:, :1], moments[:, 1:]
    y /= deviation
    by_x, by_weight, by_bias = found
    if by_bias is not None:
        np.add.reduce(g, out=by_bias.reshape(-1))
    if by_weight is not None:
        np.add.reduce(g * y, out=by_weight.reshape(-1))
    if by_x is not None:
        g = g if weight is None else g * weight.reshape(-1)
        slope = g - (np.mean(g, axis=-1, keepdims=True) if centered else 0)
        slope -= y * np.mean(g * y, axis=-1, keepdims=True)
        np.multiply(1 / deviation, slope, out=by_x.reshape(-1, width))
    return found


@op(
    _pull_standardized,
    samples=(Sample(((3, 4),)), Sample(((2, 3, 4),), {"dims": 2, "eps": 0.1}), Sample(((0, 4),))),
    dtypes=FLOATS,
    wide=True,
    reads="out x",
)
def standardize(x: Array, /, *, dims: int = 1, eps: float = 1e-5) -> Array:
    """Subtract the mean and divide by the standard deviation over the last `dims` dimensions.

    The deviation is ``sqrt(var + eps)`` with the biased variance (Ba et al., 2016, equation 4).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ops.standardize(ln.asarray([1.0, 3.0]), eps=0.0).tolist()
    [-1.0, 1.0]
    """
    width = math.prod(x.shape[-dims:]) if dims else 0
    if (found := kernels.standardize.compute(x.shape, x, None, None, None, numbers=(width, 1, eps))) is not None:
        return found
    axes = tuple(range(-dims, 0))
    out = x - np.mean(x, axis=axes, keepdims=True)
    out /= np.sqrt(np.mean(out * out, axis=axes, keepdims=True) + eps)
    return out
