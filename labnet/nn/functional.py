"""Functions for models, composed of ops; parameters are those of torch's functions."""

import math
from typing import Any

import numpy as np

from labnet import ops
from labnet.device import CPU
from labnet.errors import DTypeError, ShapeError
from labnet.kernels.device_dispatch import Deferred, finished, materialize
from labnet.nn.sizes import number, probability, size, sizes
from labnet.ops.core.creation import arange, rand
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.half_precision import HALF, SINGLE
from labnet.ops.nn.windows import Padding, Pair
from labnet.tensor import Tensor


def conv2d(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Pair = 1,
    padding: Padding = 0,
    dilation: Pair = 1,
    groups: int = 1,
) -> Tensor:
    """Cross-correlate images with filters and add a bias per filter.

    Parameters
    ----------
    x : tensor of shape (N, C, H, W), or (C, H, W) for one image
    weight : tensor of shape (K, C / groups, rows, columns)
    bias : tensor of shape (K,), optional
    stride, padding, dilation, groups
        As for `labnet.ops.conv2d`.

    Returns
    -------
    tensor of shape (N, K, H', W') or (K, H', W')

    Raises
    ------
    ShapeError
        If the shapes do not fit each other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.conv2d(ln.ones((1, 3, 8, 8)), ln.ones((4, 3, 3, 3)), ln.zeros(4), padding=1).shape
    (1, 4, 8, 8)
    """
    if x.ndim == 3:
        return conv2d(ops.expand_dims(x, axis=0), weight, bias, stride, padding, dilation, groups)[0]
    shift = 0 if bias is None else bias
    return ops.conv2d(x, weight, shift, stride=stride, padding=padding, dilation=dilation, groups=groups)


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


def normalize(x: Tensor, p: float = 2.0, axis: int = 1, eps: float = 1e-12) -> Tensor:
    """Divide by the p-norm along `axis`, or by `eps` where the norm is smaller.

    Parameters
    ----------
    x : tensor, floating
    p : float
        Order of the norm, positive; ``math.inf`` for the greatest absolute value.
    axis : int
    eps : float

    Raises
    ------
    ValueError
        If `p` is not positive.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.normalize(ln.asarray([[3.0, 4.0], [0.0, 0.0]])).tolist()
    [[0.6000000238418579, 0.800000011920929], [0.0, 0.0]]
    """
    if not number("normalize", "p", p) > 0:
        raise ValueError(f"normalize: expected p > 0, got {p}")
    number("normalize", "eps", eps, least=0)
    p, eps = float(p), float(eps)  # NumPy scalars would decide the dtype
    if x.dtype == HALF:
        return normalize(x.astype(SINGLE), p, axis, eps).astype(HALF)
    if p == 2:  # the square root has no derivative at 0, so clamp first
        return x / ops.sqrt(ops.maximum(ops.sum(x * x, axis=axis, keepdims=True), eps * eps))
    size = ops.abs(x)
    if p == math.inf:
        return x / ops.maximum(ops.max(size, axis=axis, keepdims=True), eps)
    total = ops.sum(size**p, axis=axis, keepdims=True)
    none = total == 0
    return x / ops.maximum(ops.where(none, 0.0, ops.where(none, 1.0, total) ** (1 / p)), eps)


def dropout(x: Tensor, p: float = 0.5, training: bool = True) -> Tensor:
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


def layer_norm(
    x: Tensor,
    normalized_shape: int | tuple[int, ...],
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
) -> Tensor:
    """Normalise over the last dimensions to mean 0 and variance 1, then scale and shift.

    Parameters
    ----------
    x : tensor of shape (..., *normalized_shape)
    normalized_shape : int or tuple of int
    weight, bias : tensors of shape `normalized_shape`, optional
    eps : float
        Added to the variance.

    Raises
    ------
    ShapeError
        If `x` does not end in `normalized_shape`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.layer_norm(ln.asarray([[1.0, 3.0]]), 2, eps=0.0).tolist()
    [[-1.0, 1.0]]
    """
    shape = sizes("layer_norm", "normalized_shape", normalized_shape)
    if x.shape[-len(shape) :] != shape:
        raise ShapeError(f"layer_norm: expected an input of shape (..., {', '.join(map(str, shape))}), got {x.shape}")
    with Deferred():
        y = ops.standardize(x, dims=len(shape), eps=eps)
        y = y if weight is None else y * weight
        y = y if bias is None else y + bias
    if current_tracer() is None:
        materialize(y.array)
    return y


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


def scaled_dot_product_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    *,
    is_causal: bool = False,
    scale: float | None = None,
) -> Tensor:
    """Average the values, weighted by the match of their keys with each query (Vaswani et al., 2017, equation 1).

    Parameters
    ----------
    query : tensor of shape (..., L, E)
    key : tensor of shape (..., S, E)
    value : tensor of shape (..., S, V)
    attn_mask : tensor that broadcasts to (..., L, S), optional
        Booleans, True for keys to attend to; or numbers that are added to the scores.
    dropout_p : float
        Probability with which a weight is dropped; pass 0 outside training.
    is_causal : bool
        Query i attends to keys 0 to i only.
    scale : float, optional
        Factor of the scores, ``1 / sqrt(E)`` by default.

    Returns
    -------
    tensor of shape (..., L, V)
        Zeros for a query without any key.

    Raises
    ------
    ValueError
        If both `attn_mask` and `is_causal` are given.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[1.0], [3.0]])
    >>> ln.nn.scaled_dot_product_attention(x, x, x, is_causal=True)[0].tolist()
    [1.0]
    """
    if is_causal:
        if attn_mask is not None:
            raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal=True, not both")
        attn_mask = causal_mask(query.shape[-2], key.shape[-2])
    weights = attention_weights(query, key, None if attn_mask is None else additive(attn_mask, query.dtype), scale)
    return dropout(weights, dropout_p) @ value


def attention_weights(query: Tensor, key: Tensor, bias: Tensor | None, scale: float | None = None) -> Tensor:
    """Return the softmax over the keys of the scaled scores plus `bias`, of shape (..., L, S).

    A query without any key has weights of 0 and no gradient.

    Examples
    --------
    >>> import labnet as ln
    >>> attention_weights(ln.ones((1, 2)), ln.ones((2, 2)), None).tolist()
    [[0.5, 0.5]]
    """
    scale = scale.item() if isinstance(scale, np.generic) else scale
    scores = (query * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)) @ ops.matrix_transpose(key)
    if bias is None or not bias.shape[-1]:
        return ops.softmax(scores if bias is None else scores + bias, axis=-1)
    alone = ops.max(bias.detach(), axis=-1, keepdims=True) == -math.inf
    if current_tracer() is None and alone.device == CPU and not np.any(alone.array):
        return ops.softmax(scores + bias, axis=-1)
    return ops.where(alone, 0.0, ops.softmax(scores + ops.where(alone, 0.0, bias), axis=-1))


def causal_mask(queries: int, keys: int) -> Tensor:
    """Return booleans of shape (queries, keys): True where the key is not later than the query.

    Examples
    --------
    >>> causal_mask(2, 2).tolist()
    [[True, False], [True, True]]
    """
    return ops.expand_dims(arange(queries), axis=1) >= arange(keys)


def additive(mask: Tensor, dtype: np.dtype[np.generic]) -> Tensor:
    """Convert a boolean mask, True for attended keys, into numbers to add to scores: 0 and minus infinity.

    Examples
    --------
    >>> import labnet as ln
    >>> additive(ln.asarray([True, False]), ln.float32).tolist()
    [0.0, -inf]
    """
    if mask.dtype.kind != "b":
        return mask.astype(dtype)
    return ops.where(mask, 0.0, -math.inf).astype(dtype)
