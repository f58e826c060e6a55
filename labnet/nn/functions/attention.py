"""Attention as functions."""

import math

import numpy as np

from labnet import ops
from labnet.device import CPU
from labnet.errors import ShapeError
from labnet.nn.functions import attention_tiles
from labnet.nn.functions.common import dropout
from labnet.ops.core.creation import arange
from labnet.ops.core.dispatch import current_tracer
from labnet.tensor import Tensor


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
    if is_causal and attn_mask is not None:
        raise ValueError("scaled_dot_product_attention: give attn_mask or is_causal=True, not both")
    bias = None if attn_mask is None else additive(attn_mask, query.dtype)
    return attention(query, key, value, bias, scale, is_causal=is_causal, dropout_p=dropout_p)


def attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bias: Tensor | None,
    scale: float | None = None,
    *,
    is_causal: bool = False,
    dropout_p: float = 0.0,
) -> Tensor:
    """Average the values, weighted by `attention_weights`, of shape (..., L, V).

    Examples
    --------
    >>> import labnet as ln
    >>> attention(ln.ones((1, 2)), ln.ones((2, 2)), ln.asarray([[1.0], [3.0]]), None).tolist()
    [[2.0]]
    """
    factor = 1 / math.sqrt(query.shape[-1]) if scale is None else scale
    factor = factor.item() if isinstance(factor, np.generic) else factor

    def composed(query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        added = additive(causal_mask(query.shape[-2], key.shape[-2]), query.dtype) if is_causal else bias
        return dropout(attention_weights(query, key, added, factor), dropout_p) @ value

    found = None if dropout_p else attention_tiles.attend(query, key, value, bias, factor, is_causal, composed)
    return composed(query, key, value) if found is None else found


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
