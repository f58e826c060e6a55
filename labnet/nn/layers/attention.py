"""Multi-head attention."""

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functions.attention import additive, attention, attention_weights, causal_mask
from labnet.nn.functions.common import dropout
from labnet.nn.modules import Linear, Module
from labnet.nn.sizes import probability, size
from labnet.ops.core.creation import zeros
from labnet.tensor import Tensor


class MultiheadAttention(Module):
    """Multi-head attention (Vaswani et al., 2017, section 3.2.2).

    Parameters
    ----------
    embed_dim, num_heads : int
        Length E of queries and outputs, and number of heads that divide it.
    dropout : float
        Probability with which a weight is dropped in training.
    bias : bool
        Whether the projections have biases.
    kdim, vdim : int, optional
        Lengths of keys and values where they differ from `embed_dim`.
    batch_first : bool
        Whether tensors are (N, L, E) rather than (L, N, E).

    Attributes
    ----------
    in_proj_weight : tensor of shape (3 E, E), float32
        Projections of queries, keys and values; where `kdim` or `vdim` differ, there are `q_proj_weight` (E, E),
        `k_proj_weight` (E, kdim) and `v_proj_weight` (E, vdim) instead.
    in_proj_bias : tensor of shape (3 E,), float32, or None
    out_proj : Linear

    Raises
    ------
    ValueError
        If `num_heads` does not divide `embed_dim`.
    ShapeError, DTypeError
        When called with tensors that do not fit.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.ones((2, 5, 8))
    >>> output, weights = ln.nn.MultiheadAttention(8, 2, batch_first=True)(x, x, x)
    >>> output.shape, weights.shape
    ((2, 5, 8), (2, 5, 5))
    """

    def __init__(
        self,
        embed_dim: int,
        num_heads: int,
        dropout: float = 0.0,
        *,
        bias: bool = True,
        kdim: int | None = None,
        vdim: int | None = None,
        batch_first: bool = False,
    ):
        super().__init__()
        layer = "MultiheadAttention"
        self.embed_dim = embed_dim = size(layer, "embed_dim", embed_dim)
        self.num_heads = size(layer, "num_heads", num_heads)
        if embed_dim % num_heads:
            raise ValueError(f"MultiheadAttention: num_heads={num_heads} must divide embed_dim={embed_dim}")
        self.dropout = probability(layer, "dropout", dropout)
        self.kdim = embed_dim if kdim is None else size(layer, "kdim", kdim)
        self.vdim = embed_dim if vdim is None else size(layer, "vdim", vdim)
        self.batch_first = batch_first
        self._one_weight = self.kdim == self.vdim == embed_dim
        if self._one_weight:
            self.in_proj_weight = init.xavier_uniform((3 * embed_dim, embed_dim))
        else:
            self.q_proj_weight = init.xavier_uniform((embed_dim, embed_dim))
            self.k_proj_weight = init.xavier_uniform((embed_dim, self.kdim))
            self.v_proj_weight = init.xavier_uniform((embed_dim, self.vdim))
        self.in_proj_bias = zeros(3 * embed_dim, requires_grad=True) if bias else None
        self.out_proj = Linear(embed_dim, embed_dim, bias=bias)
        if self.out_proj.bias is not None:
            self.out_proj.bias.assign(zeros(embed_dim))

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        key_padding_mask: Tensor | None = None,
        *,
        need_weights: bool = True,
        attn_mask: Tensor | None = None,
        average_attn_weights: bool = True,
        is_causal: bool = False,
    ) -> tuple[Tensor, Tensor | None]:
        """Attend from each query to all keys.

        Parameters
        ----------
        query : tensor of shape (L, N, E), with `batch_first` (N, L, E); or (L, E) for one sequence
        key, value : tensors of shape (S, N, kdim) and (S, N, vdim), laid out as `query`
        key_padding_mask : tensor of shape (N, S), or (S,) for one sequence, optional
            Booleans, True for keys to ignore; or numbers that are added to the scores.
        need_weights : bool
            Whether to return the weights too.
        attn_mask : tensor of shape (L, S) or (N * num_heads, L, S), optional
            As `key_padding_mask`, for each query.
        average_attn_weights : bool
            Whether the returned weights are the mean over the heads.
        is_causal : bool
            Query i attends to keys 0 to i only; `attn_mask` takes precedence.

        Returns
        -------
        output : tensor of the shape of `query`
        weights : tensor of shape (N, L, S), (N, num_heads, L, S) unless averaged, or None
        """
        self._check(query, key, value)
        single = query.ndim == 2
        shared = query is key and key is value
        inputs = [self._batched(x) for x in ((query,) if shared else (query, key, value))]
        heads = [self._split(x) for x in self._project(inputs)]
        if single and key_padding_mask is not None:
            key_padding_mask = ops.expand_dims(key_padding_mask, axis=0)
        is_causal = is_causal and attn_mask is None
        is_alone = is_causal and key_padding_mask is None and not need_weights
        if is_causal and not is_alone:
            attn_mask = ops.equal(causal_mask(heads[0].shape[2], heads[1].shape[2]), False)
        bias = self._bias(heads[0], heads[1], attn_mask, key_padding_mask)
        if need_weights:
            weights = attention_weights(heads[0], heads[1], bias)
            weights = dropout(weights, self.dropout, self.training)
            found = weights @ heads[2]
        else:
            dropped = self.dropout if self.training else 0.0
            found = attention(heads[0], heads[1], heads[2], bias, is_causal=is_alone, dropout_p=dropped)
        joined = ops.permute_dims(found, (0, 2, 1, 3))
        output = self.out_proj(joined.reshape((*joined.shape[:2], self.embed_dim)))
        if single:
            output = output[0]
        elif not self.batch_first:
            output = ops.permute_dims(output, (1, 0, 2))
        if not need_weights:
            return output, None
        weights = ops.mean(weights, axis=1) if average_attn_weights else weights
        return output, weights[0] if single else weights

    def _check(self, query: Tensor, key: Tensor, value: Tensor) -> None:
        widths = (self.embed_dim, self.kdim, self.vdim)
        batch, length = (0, 1) if self.batch_first else (1, 0)
        fits = (
            query.ndim in (2, 3)
            and query.ndim == key.ndim == value.ndim
            and tuple(x.shape[-1] for x in (query, key, value)) == widths
            and (key.shape[:-1] == value.shape[:-1])
            and (query.ndim == 2 or query.shape[batch] == key.shape[batch])
        )
        if not fits:
            order = "(N, L, ...)" if length else "(L, N, ...)"
            raise ShapeError(
                f"MultiheadAttention({self._describe()}): expected query, key and value of shape {order} with last "
                f"dimensions {widths}, got {query.shape}, {key.shape} and {value.shape}"
            )
        for x in (query, key, value):
            self.check_dtype(x, self.out_proj.weight)

    def _batched(self, x: Tensor) -> Tensor:
        """Transpose a tensor to (N, L, E)."""
        if x.ndim == 2:
            return ops.expand_dims(x, axis=0)
        return x if self.batch_first else ops.permute_dims(x, (1, 0, 2))

    def _project(self, inputs: list[Tensor]) -> list[Tensor]:
        """Project one tensor, or query, key and value, to the three inputs of attention."""
        size = self.embed_dim
        parts = [slice(k * size, (k + 1) * size) for k in range(3)]
        if len(inputs) == 1 and self._one_weight:
            whole = ops.linear(inputs[0], self.in_proj_weight, self.in_proj_bias)
            return [whole[..., part] for part in parts]
        weights = (
            [self.in_proj_weight[part] for part in parts]
            if self._one_weight
            else [self.q_proj_weight, self.k_proj_weight, self.v_proj_weight]
        )
        inputs = inputs * 3 if len(inputs) == 1 else inputs
        biases = [None if self.in_proj_bias is None else self.in_proj_bias[part] for part in parts]
        return [ops.linear(*given) for given in zip(inputs, weights, biases, strict=True)]

    def _split(self, x: Tensor) -> Tensor:
        """Split (N, L, E) into heads: (N, num_heads, L, E / num_heads)."""
        divided = x.reshape((*x.shape[:2], self.num_heads, self.embed_dim // self.num_heads))
        return ops.permute_dims(divided, (0, 2, 1, 3))

    def _bias(self, query: Tensor, key: Tensor, mask: Tensor | None, padding: Tensor | None) -> Tensor | None:
        """Return the sum of the masks for scores of shape (N, num_heads, L, S)."""
        samples, heads, queries, keys = *query.shape[:3], key.shape[2]
        bias = None
        if mask is not None:
            if mask.shape not in ((queries, keys), (samples * heads, queries, keys)):
                raise ShapeError(
                    f"MultiheadAttention: expected attn_mask of shape {(queries, keys)} or "
                    f"{(samples * heads, queries, keys)}, got {mask.shape}"
                )
            bias = additive(ops.equal(mask, False) if mask.dtype.kind == "b" else mask, query.dtype)
            bias = bias.reshape((samples, heads, queries, keys)) if mask.ndim == 3 else bias
        if padding is None:
            return bias
        if padding.shape != (samples, keys):
            raise ShapeError(
                f"MultiheadAttention: expected key_padding_mask of shape {(samples, keys)}, got {padding.shape}"
            )
        more = additive(ops.equal(padding, False) if padding.dtype.kind == "b" else padding, query.dtype)
        more = more.reshape((samples, 1, 1, keys))
        return more if bias is None else bias + more

    def _describe(self) -> str:
        return f"{self.embed_dim}, {self.num_heads}"
