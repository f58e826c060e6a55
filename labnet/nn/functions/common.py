"""Affine maps, dropout and lookup as functions."""

import math
from typing import Any, Literal

import numpy as np

from labnet import ops
from labnet.errors import DTypeError
from labnet.kernels.device_dispatch import finished
from labnet.kernels.index_arrays import are_within
from labnet.nn.sizes import probability, size
from labnet.ops.core.creation import arange, ones, rand, zeros
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.selection.scatter import scatter_reduce
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
    tensor of shape ``(*indices.shape, E)``

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
        if not are_within(seen, count):
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


def bilinear(x1: Tensor, x2: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """Return ``x1 @ weight[k] @ x2`` for each k, plus a bias.

    Parameters
    ----------
    x1, x2 : tensors of shapes (..., I) and (..., J)
    weight : tensor of shape (K, I, J)
    bias : tensor of shape (K,), optional

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.bilinear(ln.ones((1, 2)), ln.ones((1, 3)), ln.ones((1, 2, 3))).tolist()
    [[6.0]]
    """
    outer = ops.expand_dims(x1, axis=-1) * ops.expand_dims(x2, axis=-2)
    y = outer.reshape((*outer.shape[:-2], -1)) @ weight.reshape((weight.shape[0], -1)).T
    return y if bias is None else y + bias


def embedding_bag(
    input: Tensor,
    weight: Tensor,
    offsets: Tensor | None = None,
    mode: Literal["sum", "mean", "max"] = "mean",
    per_sample_weights: Tensor | None = None,
    include_last_offset: bool = False,
    padding_idx: int | None = None,
) -> Tensor:
    """Combine the rows of `weight` for each bag of indices.

    Parameters
    ----------
    input : integer tensor of shape (B, L), or (T,) with `offsets`
    weight : tensor of shape (V, E)
    offsets : integer tensor of shape (B,), optional
        Where each bag starts.
    mode : "sum", "mean" or "max"
    per_sample_weights : tensor of the shape of `input`, optional
        Factors, for sums.
    include_last_offset : bool
        Whether `offsets` ends with the length of `input`.
    padding_idx : int, optional
        The row of this index is left out.

    Returns
    -------
    tensor of shape (B, E)
        Zeros for an empty bag.

    Examples
    --------
    >>> import labnet as ln
    >>> weight = ln.asarray([[1.0], [2.0], [4.0]])
    >>> ln.nn.functional.embedding_bag(ln.asarray([0, 1, 2]), weight, ln.asarray([0, 2]), mode="sum").tolist()
    [[3.0], [4.0]]
    """
    if mode not in ("sum", "mean", "max"):
        raise ValueError(f"embedding_bag: expected mode 'sum', 'mean' or 'max', got {mode!r}")
    if input.ndim == 2:
        bags, bag = input.shape[0], ops.repeat(arange(input.shape[0], device=input.device), input.shape[1])
    elif offsets is None:
        raise ValueError("embedding_bag: indices of one dimension need offsets")
    else:
        bags = offsets.shape[0] - include_last_offset
        bag = ops.searchsorted(offsets[:bags], arange(input.size, device=input.device), side="right") - 1
    flat = input.reshape((-1,))
    rows = embedding(flat, weight, padding_idx)
    if per_sample_weights is not None:
        rows = rows * per_sample_weights.reshape((-1, 1))
    counted = ones((flat.size, 1), dtype=rows.dtype, device=rows.device)
    if padding_idx is not None:
        is_padding = ops.expand_dims(flat == padding_idx % weight.shape[0], axis=-1)
        rows, counted = (
            ops.where(is_padding, -math.inf if mode == "max" else 0.0, rows),
            ops.where(is_padding, 0.0, counted),
        )
    counts = ops.scatter_add(counted, (bag,), (bags, 1))
    if mode == "max":
        index = ops.broadcast_to(ops.expand_dims(bag, axis=1), rows.shape)
        blank = zeros((bags, rows.shape[1]), dtype=rows.dtype, device=rows.device)
        found = scatter_reduce(blank, 0, index, rows, "amax", include_self=False)
        return ops.where(counts == 0, 0.0, found)
    total = ops.scatter_add(rows, (bag,), (bags, rows.shape[1]))
    return total / ops.maximum(counts, 1.0) if mode == "mean" else total


def dropout1d(x: Tensor, p: float = 0.5, training: bool = True, inplace: bool = False) -> Tensor:
    """Drop whole channels of (N, C, ...) (Tompson et al., 2015).

    Examples
    --------
    >>> import labnet as ln
    >>> sorted(set(ln.nn.functional.dropout1d(ln.ones((8, 8, 4))).sum(axis=2).reshape(-1).tolist()))
    [0.0, 8.0]
    """
    if not training or not p:
        return x
    return x * dropout(ones((*x.shape[:2], *(1,) * (x.ndim - 2)), dtype=x.dtype, device=x.device), p)


dropout2d = dropout3d = dropout1d


def alpha_dropout(x: Tensor, p: float = 0.5, training: bool = False, inplace: bool = False) -> Tensor:
    """Set elements to the least value of `selu` with probability `p`; mean and variance stay (Klambauer et al., 2017).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.alpha_dropout(ln.ones(2)).tolist()
    [1.0, 1.0]
    """
    if not training or p == 0:
        return x
    low = -1.7580993408473766
    scale = ((1 - p) * (1 + p * low * low)) ** -0.5 if p < 1 else 0.0
    kept = rand(x.shape, device=x.device) >= p
    return ops.where(kept, x, low) * scale - scale * low * p
