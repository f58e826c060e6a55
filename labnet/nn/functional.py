"""Functions for models, under torch's names and with torch's parameters; conventionally imported as ``F``."""

import math
from typing import Any

import numpy as np

from labnet import ops
from labnet.device import CPU
from labnet.errors import DTypeError, ShapeError
from labnet.kernels.device_dispatch import finished
from labnet.nn.functions.activation import celu as celu
from labnet.nn.functions.activation import elu as elu
from labnet.nn.functions.activation import glu as glu
from labnet.nn.functions.activation import hardshrink as hardshrink
from labnet.nn.functions.activation import hardsigmoid as hardsigmoid
from labnet.nn.functions.activation import hardswish as hardswish
from labnet.nn.functions.activation import hardtanh as hardtanh
from labnet.nn.functions.activation import leaky_relu as leaky_relu
from labnet.nn.functions.activation import log_softmax as log_softmax
from labnet.nn.functions.activation import logsigmoid as logsigmoid
from labnet.nn.functions.activation import mish as mish
from labnet.nn.functions.activation import prelu as prelu
from labnet.nn.functions.activation import relu as relu
from labnet.nn.functions.activation import relu6 as relu6
from labnet.nn.functions.activation import selu as selu
from labnet.nn.functions.activation import silu as silu
from labnet.nn.functions.activation import softmax as softmax
from labnet.nn.functions.activation import softmin as softmin
from labnet.nn.functions.activation import softplus as softplus
from labnet.nn.functions.activation import softshrink as softshrink
from labnet.nn.functions.activation import softsign as softsign
from labnet.nn.functions.activation import tanhshrink as tanhshrink
from labnet.nn.functions.activation import threshold as threshold
from labnet.nn.functions.convolution import conv1d as conv1d
from labnet.nn.functions.convolution import conv2d as conv2d
from labnet.nn.functions.convolution import conv_transpose1d as conv_transpose1d
from labnet.nn.functions.convolution import conv_transpose2d as conv_transpose2d
from labnet.nn.functions.losses import binary_cross_entropy as binary_cross_entropy
from labnet.nn.functions.losses import binary_cross_entropy_with_logits as binary_cross_entropy_with_logits
from labnet.nn.functions.losses import cosine_embedding_loss as cosine_embedding_loss
from labnet.nn.functions.losses import cosine_similarity as cosine_similarity
from labnet.nn.functions.losses import cross_entropy as cross_entropy
from labnet.nn.functions.losses import huber_loss as huber_loss
from labnet.nn.functions.losses import kl_div as kl_div
from labnet.nn.functions.losses import l1_loss as l1_loss
from labnet.nn.functions.losses import margin_ranking_loss as margin_ranking_loss
from labnet.nn.functions.losses import mse_loss as mse_loss
from labnet.nn.functions.losses import nll_loss as nll_loss
from labnet.nn.functions.losses import smooth_l1_loss as smooth_l1_loss
from labnet.nn.functions.normalization import group_norm as group_norm
from labnet.nn.functions.normalization import layer_norm as layer_norm
from labnet.nn.functions.normalization import normalize as normalize
from labnet.nn.functions.normalization import rms_norm as rms_norm
from labnet.nn.functions.pooling import adaptive_avg_pool1d as adaptive_avg_pool1d
from labnet.nn.functions.pooling import adaptive_avg_pool2d as adaptive_avg_pool2d
from labnet.nn.functions.pooling import adaptive_max_pool1d as adaptive_max_pool1d
from labnet.nn.functions.pooling import adaptive_max_pool2d as adaptive_max_pool2d
from labnet.nn.functions.pooling import avg_pool1d as avg_pool1d
from labnet.nn.functions.pooling import avg_pool2d as avg_pool2d
from labnet.nn.functions.pooling import max_pool1d as max_pool1d
from labnet.nn.functions.pooling import max_pool2d as max_pool2d
from labnet.nn.functions.resampling import interpolate as interpolate
from labnet.nn.functions.resampling import pad as pad
from labnet.nn.functions.resampling import pixel_shuffle as pixel_shuffle
from labnet.nn.sizes import probability, size
from labnet.ops import gelu as gelu
from labnet.ops import sigmoid as sigmoid
from labnet.ops import tanh as tanh
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
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
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
    enable_gqa : bool
        Keys and values have fewer heads, dimension -3, each for a group of the queries' heads (Ainslie et al., 2023).

    Returns
    -------
    tensor of shape (..., L, V)
        Zeros for a query without any key.

    Raises
    ------
    ValueError
        If both `attn_mask` and `is_causal` are given.
    ShapeError
        If the heads of keys and values do not divide those of the queries.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[1.0], [3.0]])
    >>> ln.nn.scaled_dot_product_attention(x, x, x, is_causal=True)[0].tolist()
    [1.0]
    """
    if enable_gqa:
        heads, shared = query.shape[-3], key.shape[-3]
        if heads % shared or value.shape[-3] != shared:
            raise ShapeError(
                f"scaled_dot_product_attention: heads of queries, keys and values do not fit each other: "
                f"{query.shape}, {key.shape}, {value.shape}"
            )
        key, value = (ops.repeat(x, heads // shared, axis=-3) for x in (key, value))
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
