"""Affine maps, dropout and lookup as functions."""

from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import DTypeError
from labnet.kernels.device_dispatch import finished
from labnet.nn.sizes import probability, size
from labnet.ops.core.creation import arange, rand
from labnet.ops.core.dispatch import current_tracer
from labnet.tensor import Tensor


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Apply the affine map ``x @ weight.T + bias`` to the last dimension.

    Parameters
    ----------
    x : tensor of shape (..., in_features)
    weight : tensor of shape (out_features, in_features)
    bias : tensor of shape (out_features,), optional

    Returns
    -------
    tensor of shape (..., out_features)

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.linear(ln.asarray([1.0, 2.0]), ln.asarray([[3.0, 4.0]])).tolist()
    [11.0]
    """
    return ops.linear(x, weight, bias)


def dropout(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Set each element to 0 with probability `p`, and scale the others by ``1 / (1 - p)``.

    The random numbers are reproducible with `labnet.manual_seed`. Outside training `x` is returned unchanged.

    Raises
    ------
    ValueError
        If `p` is not in [0, 1].

    Examples
    --------
    >>> import labnet as ln
    >>> sorted(set(ln.nn.dropout(ln.ones(100), p=0.5).tolist()))
    [0.0, 2.0]
    """
    probability("dropout", "p", p)
    if not training or p == 0:
        return x
    p = float(p)
    kept = rand(x.shape, device=x.device) >= p
    return ops.where(kept, x * (1 / (1 - p) if p < 1 else 1.0), 0.0)


def embedding(indices: Tensor, weight: Tensor, padding_idx: int | None = None) -> Tensor:
    """Look up one row of `weight` per index.

    Parameters
    ----------
    indices : integer tensor of any shape, values in [0, V)
    weight : tensor of shape (V, E)
    padding_idx : int, optional
        The row of this index gets no gradient.

    Returns
    -------
    tensor of shape (*indices.shape, E)

    Raises
    ------
    DTypeError
        If the indices are not integers.
    IndexError
        If an index is not in [0, V).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.embedding(ln.asarray([1, 0]), ln.asarray([[1.0, 2.0], [3.0, 4.0]])).tolist()
    [[3.0, 4.0], [1.0, 2.0]]
    """
    if indices.dtype.kind not in "iu":
        raise DTypeError(f"embedding: indices must be integers, got {indices.dtype}")
    count = weight.shape[0]
    tracer = current_tracer()
    if tracer is not None:
        tracer.check_within(indices, count, f"embedding: indices must lie in [0, {count})")
    else:
        seen: Any = indices.array if isinstance(indices, Tensor) else indices
        if seen.size and np.any((seen < 0) | (seen >= count)):
            least, most = (finished(end(seen)).item() for end in (np.min, np.max))
            raise IndexError(f"embedding: indices must lie in [0, {count}), got {least} to {most}")
    rows: Tensor = weight[indices]
    if padding_idx is None:
        return rows
    if size("embedding", "padding_idx", padding_idx, least=-count) >= count:
        raise IndexError(f"embedding: padding_idx {padding_idx} is out of range for {count} rows")
    is_padding = ops.expand_dims(indices == padding_idx % count, axis=-1)
    return ops.where(is_padding, rows.detach(), rows)


def one_hot(labels: Tensor, num_classes: int = -1) -> Tensor:
    """Return int64 ones at the labels, along a new last dimension; by default up to the greatest label.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.one_hot(ln.asarray([1, 0]), 3).tolist()
    [[0, 1, 0], [1, 0, 0]]
    """
    count = int(ops.max(labels).item()) + 1 if num_classes == -1 else num_classes
    found: Tensor = (ops.expand_dims(labels, axis=-1) == arange(count, device=labels.device)).astype("int64")
    return found
