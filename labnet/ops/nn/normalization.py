"""Normalisation over trailing dimensions."""

import numpy as np

from labnet.ops.aggregation.reduction import mean
from labnet.ops.core.declaration import Array, Sample
from labnet.ops.core.registry import FLOATS, op
from labnet.tensor import Tensor


def _pull_standardized(g: Tensor, out: Tensor, x: Tensor, *, dims: int = 1, eps: float = 1e-5) -> Tensor:
    axes = tuple(range(-dims, 0))
    centered = x - mean(x, axis=axes, keepdims=True)
    scale = (mean(centered * centered, axis=axes, keepdims=True) + eps) ** -0.5
    return scale * (g - mean(g, axis=axes, keepdims=True) - out * mean(g * out, axis=axes, keepdims=True))


@op(
    _pull_standardized,
    samples=(Sample(((3, 4),)), Sample(((2, 3, 4),), {"dims": 2, "eps": 0.1}), Sample(((0, 4),))),
    dtypes=FLOATS,
    wide=True,
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
    axes = tuple(range(-dims, 0))
    out = x - np.mean(x, axis=axes, keepdims=True)
    out /= np.sqrt(np.mean(out * out, axis=axes, keepdims=True) + eps)
    return out
