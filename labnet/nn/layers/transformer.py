"""The layers of a transformer (Vaswani et al., 2017), in torch's arrangement."""

import copy
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from labnet import ops
from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functions.attention import additive, causal_mask
from labnet.nn.layers.attention import MultiheadAttention
from labnet.nn.layers.common import Dropout, LayerNorm
from labnet.nn.layers.containers import ModuleList
from labnet.nn.modules import Linear, Module
from labnet.nn.sizes import size
from labnet.tensor import Tensor

Function = Callable[[Tensor], Tensor]


class _Layer(Module):
    """The common base of encoder and decoder layers: a feed-forward block and residual connections."""

    def __init__(
        self,
        d_model: int,
        nhead: int,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Function = "relu",
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        functions: dict[str, Function] = {"relu": ops.relu, "gelu": ops.gelu}
        if isinstance(activation, str) and activation not in functions:
            raise ValueError(
                f"{type(self).__name__}: expected activation 'relu', 'gelu' or a function, got {activation!r}"
            )
        layer = type(self).__name__
        d_model, nhead = size(layer, "d_model", d_model), size(layer, "nhead", nhead)
        dim_feedforward = size(layer, "dim_feedforward", dim_feedforward)
        self.norm_first = norm_first
        self.activation = functions[activation] if isinstance(activation, str) else activation
        self.self_attn = MultiheadAttention(d_model, nhead, dropout, bias=bias, batch_first=batch_first)
        self._attentions(d_model, nhead, dropout, bias=bias, batch_first=batch_first)
        self.linear1 = Linear(d_model, dim_feedforward, bias=bias)
        self.dropout = Dropout(dropout)
        self.linear2 = Linear(dim_feedforward, d_model, bias=bias)
        for number in range(1, self.blocks + 1):
            setattr(self, f"norm{number}", LayerNorm(d_model, layer_norm_eps, bias=bias))
        for number in range(1, self.blocks + 1):
            setattr(self, f"dropout{number}", Dropout(dropout))

    #: Number of residual blocks, each with its own norm and dropout.
    blocks: int

    def _attentions(self, d_model: int, nhead: int, dropout: float, **named: Any) -> None:
        """Make the attention of a subclass besides self-attention."""

    def _add(self, x: Tensor, number: int, block: Function) -> Tensor:
        """Add a block to `x`, with the norm before or after."""
        norm, drop = getattr(self, f"norm{number}"), getattr(self, f"dropout{number}")
        total: Tensor = x + drop(block(norm(x))) if self.norm_first else norm(x + drop(block(x)))
        return total

    def _feed_forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.linear2(self.dropout(self.activation(self.linear1(x))))
        return y


class TransformerEncoderLayer(_Layer):
    """Self-attention and a feed-forward block.

    Parameters
    ----------
    d_model, nhead : int
        Length E of the elements, and number of attention heads.
    dim_feedforward : int
        Width of the feed-forward block.
    dropout : float
        Probability of every dropout in the layer.
    activation : str or callable
        ``"relu"``, ``"gelu"`` or a function of a tensor.
    layer_norm_eps : float
    batch_first : bool
        Whether tensors are (N, L, E) rather than (L, N, E).
    norm_first : bool
        Whether the norms come before the blocks rather than after the sums.
    bias : bool
        Whether linear layers and norms have biases.

    Attributes
    ----------
    self_attn : MultiheadAttention
    linear1, linear2 : Linear
    norm1, norm2 : LayerNorm

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(ln.ones((2, 5, 8))).shape
    (2, 5, 8)
    """

    blocks = 2

    def forward(
        self,
        src: Tensor,
        src_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        """Map a sequence to one of the same shape; masks are as for `MultiheadAttention`."""

        def attend(x: Tensor) -> Tensor:
            return self.self_attn.forward(
                x, x, x, src_key_padding_mask, need_weights=False, attn_mask=src_mask, is_causal=is_causal
            )[0]

        return self._add(self._add(src, 1, attend), 2, self._feed_forward)


class TransformerDecoderLayer(_Layer):
    """Self-attention, attention to another sequence, and a feed-forward block.

    Parameters are those of `TransformerEncoderLayer`.

    Attributes
    ----------
    self_attn, multihead_attn : MultiheadAttention
    linear1, linear2 : Linear
    norm1, norm2, norm3 : LayerNorm

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> layer(ln.ones((2, 5, 8)), ln.ones((2, 3, 8))).shape
    (2, 5, 8)
    """

    blocks = 3

    def _attentions(self, d_model: int, nhead: int, dropout: float, **named: Any) -> None:
        self.multihead_attn = MultiheadAttention(d_model, nhead, dropout, **named)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        *,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Map a sequence to one of the same shape, with attention to `memory`; masks as in `MultiheadAttention`."""

        def attend(x: Tensor) -> Tensor:
            return self.self_attn.forward(
                x, x, x, tgt_key_padding_mask, need_weights=False, attn_mask=tgt_mask, is_causal=tgt_is_causal
            )[0]

        def look(x: Tensor) -> Tensor:
            return self.multihead_attn.forward(
                x,
                memory,
                memory,
                memory_key_padding_mask,
                need_weights=False,
                attn_mask=memory_mask,
                is_causal=memory_is_causal,
            )[0]

        return self._add(self._add(self._add(tgt, 1, attend), 2, look), 3, self._feed_forward)


class _Stack(Module):
    """A stack of copies of a layer, with a final norm."""

    def __init__(self, layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__()
        self.num_layers = size(type(self).__name__, "num_layers", num_layers)
        self.layers = ModuleList(copy.deepcopy(layer) for _ in range(num_layers))
        self.norm = norm

    def _through(self, x: Tensor, *inputs: Tensor | None, **named: Any) -> Tensor:
        for layer in self.layers:
            x = layer(x, *inputs, **named)
        if self.norm is not None:
            x = self.norm(x)
        return x


class TransformerEncoder(_Stack):
    """A stack of copies of an encoder layer; all start with its weights.

    Parameters
    ----------
    encoder_layer : TransformerEncoderLayer
    num_layers : int
    norm : Module, optional
        Applied at the end, such as a `LayerNorm`.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.TransformerEncoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> ln.nn.TransformerEncoder(layer, 2)(ln.ones((2, 5, 8)), is_causal=True).shape
    (2, 5, 8)
    """

    def __init__(self, encoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__(encoder_layer, num_layers, norm)

    def forward(
        self,
        src: Tensor,
        mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        *,
        is_causal: bool = False,
    ) -> Tensor:
        """Map a sequence to one of the same shape; masks are as for `MultiheadAttention`."""
        return self._through(src, mask, src_key_padding_mask, is_causal=is_causal)


class TransformerDecoder(_Stack):
    """A stack of copies of a decoder layer; all start with its weights.

    Parameters
    ----------
    decoder_layer : TransformerDecoderLayer
    num_layers : int
    norm : Module, optional
        Applied at the end, such as a `LayerNorm`.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.TransformerDecoderLayer(8, 2, dim_feedforward=16, batch_first=True)
    >>> ln.nn.TransformerDecoder(layer, 2)(ln.ones((2, 5, 8)), ln.ones((2, 3, 8))).shape
    (2, 5, 8)
    """

    def __init__(self, decoder_layer: Module, num_layers: int, norm: Module | None = None):
        super().__init__(decoder_layer, num_layers, norm)

    def forward(
        self,
        tgt: Tensor,
        memory: Tensor,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        *,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Map a sequence to one of the same shape, with attention to `memory`; masks as in `MultiheadAttention`."""
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        return self._through(tgt, memory, *masks, tgt_is_causal=tgt_is_causal, memory_is_causal=memory_is_causal)


class Transformer(Module):
    """An encoder, and a decoder that attends to its result (Vaswani et al., 2017).

    Parameters
    ----------
    d_model, nhead : int
        Length E of the elements, and number of attention heads.
    num_encoder_layers, num_decoder_layers : int
    dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias
        As for `TransformerEncoderLayer`.
    custom_encoder, custom_decoder : Module, optional
        Replace the encoder and the decoder.

    Attributes
    ----------
    encoder : TransformerEncoder
    decoder : TransformerDecoder

    Examples
    --------
    >>> import labnet as ln
    >>> model = ln.nn.Transformer(8, 2, 1, 1, dim_feedforward=16, batch_first=True)
    >>> model(ln.ones((2, 5, 8)), ln.ones((2, 3, 8))).shape
    (2, 3, 8)
    """

    def __init__(
        self,
        d_model: int = 512,
        nhead: int = 8,
        num_encoder_layers: int = 6,
        num_decoder_layers: int = 6,
        dim_feedforward: int = 2048,
        dropout: float = 0.1,
        activation: str | Function = "relu",
        custom_encoder: Module | None = None,
        custom_decoder: Module | None = None,
        layer_norm_eps: float = 1e-5,
        batch_first: bool = False,
        norm_first: bool = False,
        bias: bool = True,
    ):
        super().__init__()
        self.d_model, self.nhead, self.batch_first = d_model, nhead, batch_first
        counts = {"num_encoder_layers": num_encoder_layers, "num_decoder_layers": num_decoder_layers}
        num_encoder_layers, num_decoder_layers = (size("Transformer", name, n) for name, n in counts.items())
        more = (dim_feedforward, dropout, activation, layer_norm_eps, batch_first, norm_first, bias)

        def norm() -> LayerNorm:
            return LayerNorm(d_model, layer_norm_eps, bias=bias)

        self.encoder = custom_encoder or TransformerEncoder(
            TransformerEncoderLayer(d_model, nhead, *more), num_encoder_layers, norm()
        )
        self.decoder = custom_decoder or TransformerDecoder(
            TransformerDecoderLayer(d_model, nhead, *more), num_decoder_layers, norm()
        )
        for parameter in self.parameters():
            if parameter.ndim > 1:
                init.xavier_uniform_(parameter)

    def forward(
        self,
        src: Tensor,
        tgt: Tensor,
        src_mask: Tensor | None = None,
        tgt_mask: Tensor | None = None,
        memory_mask: Tensor | None = None,
        src_key_padding_mask: Tensor | None = None,
        tgt_key_padding_mask: Tensor | None = None,
        memory_key_padding_mask: Tensor | None = None,
        *,
        src_is_causal: bool = False,
        tgt_is_causal: bool = False,
        memory_is_causal: bool = False,
    ) -> Tensor:
        """Map a source and a target sequence to one of the target's shape; masks are as for `MultiheadAttention`."""
        memory = self.encoder(src, src_mask, src_key_padding_mask, is_causal=src_is_causal)
        masks = (tgt_mask, memory_mask, tgt_key_padding_mask, memory_key_padding_mask)
        causal = {"tgt_is_causal": tgt_is_causal, "memory_is_causal": memory_is_causal}
        return self.decoder(tgt, memory, *masks, **causal)  # type: ignore[no-any-return]

    @staticmethod
    def generate_square_subsequent_mask(sz: int) -> Tensor:
        """Return a mask of zeros, and minus infinity for keys that are later than the query."""
        return additive(causal_mask(sz, sz), np.dtype("float32"))


class PositionalEncoding(Module):
    """Add sines and cosines of the position, so that attention can distinguish positions.

    Element (t, 2k) is ``sin(t / 10000^(2k / d_model))``, element (t, 2k + 1) the cosine of the same
    (Vaswani et al., 2017, section 3.5); dropout follows.

    Parameters
    ----------
    d_model : int
        Length E of the elements.
    dropout : float
        Probability of the dropout.
    max_len : int
        Maximum length of a sequence.
    batch_first : bool
        Whether inputs are (N, L, E) rather than (L, N, E).

    Attributes
    ----------
    pe : tensor of shape (max_len, 1, d_model), float32
        A buffer.

    Raises
    ------
    ShapeError
        When called with a longer sequence, or with elements of another length.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.PositionalEncoding(4, dropout=0.0)(ln.zeros((2, 1, 4)))[0, 0].tolist()
    [0.0, 1.0, 0.0, 1.0]
    """

    pe: Tensor

    def __init__(self, d_model: int, dropout: float = 0.1, max_len: int = 5000, *, batch_first: bool = False):
        super().__init__()
        d_model = size("PositionalEncoding", "d_model", d_model)
        max_len = size("PositionalEncoding", "max_len", max_len)
        self.batch_first = batch_first
        self.dropout = Dropout(dropout)
        angles = np.arange(max_len)[:, None] * np.exp(np.arange(0, d_model, 2) * (-math.log(10000.0) / d_model))
        table = np.empty((max_len, 1, d_model), "float32")
        table[:, 0, 0::2] = np.sin(angles)
        table[:, 0, 1::2] = np.cos(angles[:, : d_model // 2])
        self.register_buffer("pe", Tensor(table))

    def forward(self, x: Tensor) -> Tensor:
        """Map (L, N, E), with `batch_first` (N, L, E), or (L, E) to the same shape."""
        known, _, width = self.pe.shape
        length = x.shape[-2] if self.batch_first or x.ndim == 2 else x.shape[0]
        if x.ndim not in (2, 3) or x.shape[-1] != width or length > known:
            more = f"; make it with max_len={length} or more" if length > known else ""
            raise ShapeError(
                f"PositionalEncoding: expected at most {known} positions of length {width}, got shape {x.shape}{more}"
            )
        self.check_dtype(x, self.pe)
        places = self.pe[:length]
        y: Tensor = self.dropout(x + (places[:, 0] if self.batch_first or x.ndim == 2 else places))
        return y
