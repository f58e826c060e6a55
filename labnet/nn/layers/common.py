"""Layers without windows or state: reshaping, dropout, lookup, normalisation."""

import math
from typing import Literal

from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functions.common import alpha_dropout, bilinear, dropout, dropout1d, embedding, embedding_bag
from labnet.nn.functions.normalization import group_norm, layer_norm, local_response_norm, rms_norm
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.nn.sizes import MAX_DIMENSIONS, number, probability, size, sizes
from labnet.ops.core.creation import ones, zeros
from labnet.tensor import Tensor


class Flatten(Module):
    """Merge the dimensions from `start_dim` to `end_dim` into one.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Flatten()(ln.ones((2, 3, 4, 5))).shape
    (2, 60)
    """

    def __init__(self, start_dim: int = 1, end_dim: int = -1):
        super().__init__()
        self.start_dim = size("Flatten", "start_dim", start_dim, least=-MAX_DIMENSIONS)
        self.end_dim = size("Flatten", "end_dim", end_dim, least=-MAX_DIMENSIONS)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same elements with fewer dimensions."""
        first, last = (dim + x.ndim if dim < 0 else dim for dim in (self.start_dim, self.end_dim))
        if not 0 <= first <= last < x.ndim:
            raise ShapeError(f"Flatten({self._describe()}): cannot merge these dimensions of shape {x.shape}")
        merged = math.prod(x.shape[first : last + 1])
        return x.reshape((*x.shape[:first], merged, *x.shape[last + 1 :]))

    def _describe(self) -> str:
        return f"{self.start_dim}, {self.end_dim}"


class Unflatten(Module):
    """Split one dimension into several; one of the sizes may be -1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Unflatten(1, (3, -1))(ln.ones((2, 12))).shape
    (2, 3, 4)
    """

    def __init__(self, dim: int, unflattened_size: tuple[int, ...]):
        super().__init__()
        self.dim = size("Unflatten", "dim", dim, least=-MAX_DIMENSIONS)
        self.unflattened_size = tuple(unflattened_size)

    def forward(self, x: Tensor) -> Tensor:
        """Return the same elements with more dimensions."""
        place = self.dim + x.ndim if self.dim < 0 else self.dim
        return x.reshape((*x.shape[:place], *self.unflattened_size, *x.shape[place + 1 :]))

    def _describe(self) -> str:
        return f"{self.dim}, {self.unflattened_size}"


class Identity(Module):
    """The input itself; arguments are accepted and ignored.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Identity()(ln.ones(2)).tolist()
    [1.0, 1.0]
    """

    def __init__(self, *_: object, **__: object):
        super().__init__()

    def forward(self, x: Tensor) -> Tensor:
        """Return the input."""
        return x


class Dropout(Module):
    """`labnet.nn.dropout` in training, the identity in evaluation.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Dropout(0.5).eval()(ln.ones(3)).tolist()
    [1.0, 1.0, 1.0]
    """

    def __init__(self, p: float = 0.5, inplace: bool = False):
        super().__init__()
        self.p = probability("Dropout", "p", p)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return dropout(x, self.p, self.training)

    def _describe(self) -> str:
        return f"p={self.p}"


class Dropout2d(Dropout):
    """Dropout of whole channels of (N, C, H, W) (Tompson et al., 2015).

    Examples
    --------
    >>> import labnet as ln
    >>> sorted(set(ln.nn.Dropout2d(0.5)(ln.ones((8, 8, 2, 2))).sum(axis=(2, 3)).reshape(-1).tolist()))
    [0.0, 8.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return dropout1d(x, self.p, self.training)


class Dropout1d(Dropout2d):
    """Dropout of whole channels of (N, C, L).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Dropout1d(0.5)(ln.ones((8, 8, 2))).shape
    (8, 8, 2)
    """


class Dropout3d(Dropout2d):
    """Dropout of whole channels of (N, C, D, H, W).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Dropout3d(0.5)(ln.ones((8, 8, 2, 2, 2))).shape
    (8, 8, 2, 2, 2)
    """


class AlphaDropout(Dropout):
    """`labnet.nn.functional.alpha_dropout` in training, the identity in evaluation.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AlphaDropout(0.5).eval()(ln.ones(2)).tolist()
    [1.0, 1.0]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return alpha_dropout(x, self.p, self.training)


class Embedding(Module):
    """One learned row per index.

    Parameters
    ----------
    num_embeddings, embedding_dim : int
        Number V of rows, and their length E.
    padding_idx : int, optional
        The row of this index starts as zeros and gets no gradient.

    Attributes
    ----------
    weight : tensor of shape (V, E), float32, from the standard normal distribution

    Raises
    ------
    DTypeError, IndexError
        When called with anything but integers in [0, V).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Embedding(10, 4)(ln.asarray([[1, 2, 3]])).shape
    (1, 3, 4)
    """

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None = None):
        super().__init__()
        self.num_embeddings = count = size("Embedding", "num_embeddings", num_embeddings)
        self.embedding_dim = size("Embedding", "embedding_dim", embedding_dim)
        if padding_idx is not None and size("Embedding", "padding_idx", padding_idx, least=-count) >= count:
            raise IndexError(f"Embedding: padding_idx {padding_idx} is out of range for {count} rows")
        self.padding_idx = padding_idx
        self.weight = init.normal((self.num_embeddings, self.embedding_dim))
        if padding_idx is not None:
            rows = self.weight.numpy().copy()
            rows[padding_idx] = 0
            self.weight.assign(rows)

    def forward(self, indices: Tensor) -> Tensor:
        """Map integers of any shape to (..., embedding_dim)."""
        return embedding(indices, self.weight, self.padding_idx)

    def _describe(self) -> str:
        padding = "" if self.padding_idx is None else f", padding_idx={self.padding_idx}"
        return f"{self.num_embeddings}, {self.embedding_dim}{padding}"


class EmbeddingBag(Embedding):
    """The sum, mean or maximum of the rows of each bag of indices; see `labnet.nn.functional.embedding_bag`.

    Attributes
    ----------
    weight : tensor of shape (V, E), float32, from the standard normal distribution

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.EmbeddingBag(10, 4)(ln.asarray([1, 2, 3]), ln.asarray([0, 2])).shape
    (2, 4)
    """

    def __init__(
        self,
        num_embeddings: int,
        embedding_dim: int,
        mode: Literal["sum", "mean", "max"] = "mean",
        include_last_offset: bool = False,
        padding_idx: int | None = None,
    ):
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.mode: Literal["sum", "mean", "max"] = mode
        self.include_last_offset = include_last_offset

    def forward(self, input: Tensor, offsets: Tensor | None = None, per_sample_weights: Tensor | None = None) -> Tensor:
        """Map indices (B, L), or (T,) with the offsets of B bags, to (B, embedding_dim)."""
        options = (self.mode, per_sample_weights, self.include_last_offset, self.padding_idx)
        return embedding_bag(input, self.weight, offsets, *options)


class Bilinear(Module):
    """A learned bilinear map of two inputs.

    Parameters
    ----------
    in1_features, in2_features, out_features : int
        Lengths I, J and K.
    bias : bool
        Whether a bias is added.

    Attributes
    ----------
    weight : tensor of shape (K, I, J), float32
    bias : tensor of shape (K,), float32, or None

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Bilinear(2, 3, 4)(ln.ones((5, 2)), ln.ones((5, 3))).shape
    (5, 4)
    """

    def __init__(self, in1_features: int, in2_features: int, out_features: int, bias: bool = True):
        super().__init__()
        given = {"in1_features": in1_features, "in2_features": in2_features, "out_features": out_features}
        first, second, out = (size("Bilinear", name, value) for name, value in given.items())
        self.in1_features, self.in2_features, self.out_features = first, second, out
        self.weight = init.fan_in_uniform((out, first, second), fan_in=first)
        self.bias = init.fan_in_uniform((out,), fan_in=first) if bias else None

    def forward(self, x1: Tensor, x2: Tensor) -> Tensor:
        """Map (..., in1_features) and (..., in2_features) to (..., out_features)."""
        return bilinear(x1, x2, self.weight, self.bias)

    def _describe(self) -> str:
        return f"{self.in1_features}, {self.in2_features}, {self.out_features}"


class LayerNorm(Module):
    """Normalisation over the last dimensions, with learned scale and shift.

    Parameters
    ----------
    normalized_shape : int or tuple of int
    eps : float
        Added to the variance.
    elementwise_affine : bool
        Whether there are parameters.
    bias : bool
        Whether there is a shift besides the scale.

    Attributes
    ----------
    weight, bias : tensors of shape `normalized_shape`, float32, or None

    Raises
    ------
    ShapeError, DTypeError
        When called with another last dimension, or another dtype than the weight's.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LayerNorm(4)(ln.ones((2, 4))).tolist()[0]
    [0.0, 0.0, 0.0, 0.0]
    """

    def __init__(
        self,
        normalized_shape: int | tuple[int, ...],
        eps: float = 1e-5,
        elementwise_affine: bool = True,
        bias: bool = True,
    ):
        super().__init__()
        self.normalized_shape = sizes("LayerNorm", "normalized_shape", normalized_shape)
        self.eps = number("LayerNorm", "eps", eps, least=0)
        self.weight = ones(self.normalized_shape, requires_grad=True) if elementwise_affine else None
        self.bias = zeros(self.normalized_shape, requires_grad=True) if elementwise_affine and bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape ``(..., *normalized_shape)``."""
        if self.weight is not None:
            self.check_dtype(x, self.weight)
        return layer_norm(x, self.normalized_shape, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class RMSNorm(Module):
    """Division by the root mean square of the last dimensions, with a learned scale (Zhang and Sennrich, 2019).

    Parameters
    ----------
    normalized_shape : int or tuple of int
    eps : float, optional
        Added to the mean square; the machine epsilon of the dtype by default.
    elementwise_affine : bool
        Whether there is a scale.

    Attributes
    ----------
    weight : tensor of shape `normalized_shape`, float32, or None

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.RMSNorm(2)(ln.asarray([3.0, -3.0])).tolist()
    [1.0, -1.0]
    """

    def __init__(
        self, normalized_shape: int | tuple[int, ...], eps: float | None = None, elementwise_affine: bool = True
    ):
        super().__init__()
        self.normalized_shape = sizes("RMSNorm", "normalized_shape", normalized_shape)
        self.eps = None if eps is None else number("RMSNorm", "eps", eps, least=0)
        self.weight = ones(self.normalized_shape, requires_grad=True) if elementwise_affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape ``(..., *normalized_shape)``."""
        if self.weight is not None:
            self.check_dtype(x, self.weight)
        return rms_norm(x, self.normalized_shape, self.weight, self.eps)

    def _describe(self) -> str:
        return f"{self.normalized_shape}, eps={self.eps}"


class GroupNorm(Module):
    """Normalisation of groups of channels, with learned scale and shift per channel (Wu and He, 2018).

    Parameters
    ----------
    num_groups, num_channels : int
        Number of groups, which divides that of channels.
    eps : float
        Added to the variance.
    affine : bool
        Whether there are parameters.

    Attributes
    ----------
    weight, bias : tensors of shape (num_channels,), float32, or None

    Raises
    ------
    ValueError
        If the groups do not divide the channels.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GroupNorm(2, 4)(ln.ones((1, 4, 3, 3))).shape
    (1, 4, 3, 3)
    """

    def __init__(self, num_groups: int, num_channels: int, eps: float = 1e-5, affine: bool = True):
        super().__init__()
        layer = type(self).__name__
        self.num_groups = size(layer, "num_groups", num_groups)
        self.num_channels = size(layer, "num_channels", num_channels)
        self.eps = number(layer, "eps", eps, least=0)
        if num_channels % num_groups:
            raise ValueError(f"{layer}: num_groups={num_groups} must divide num_channels={num_channels}")
        self.weight = ones(num_channels, requires_grad=True) if affine else None
        self.bias = zeros(num_channels, requires_grad=True) if affine else None

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape (N, C, ...)."""
        if x.ndim < 2 or x.shape[1] != self.num_channels:
            expected = f"(N, {self.num_channels}, ...)"
            raise ShapeError(f"{type(self).__name__}({self._describe()}): expected shape {expected}, got {x.shape}")
        if self.weight is not None:
            self.check_dtype(x, self.weight)
        return group_norm(x, self.num_groups, self.weight, self.bias, self.eps)

    def _describe(self) -> str:
        return f"{self.num_groups}, {self.num_channels}"


class InstanceNorm2d(GroupNorm):
    """Normalisation of each channel of each image (N, C, H, W).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.InstanceNorm2d(3)(ln.ones((1, 3, 4, 4))).shape
    (1, 3, 4, 4)
    """

    def __init__(self, num_features: int, eps: float = 1e-5, *, affine: bool = False):
        super().__init__(num_features, num_features, eps, affine)

    def _describe(self) -> str:
        return f"{self.num_channels}"


class InstanceNorm1d(InstanceNorm2d):
    """Normalisation of each channel of each signal (N, C, L).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.InstanceNorm1d(3)(ln.ones((1, 3, 4))).shape
    (1, 3, 4)
    """


class LocalResponseNorm(FunctionModule):
    """`labnet.nn.functional.local_response_norm` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LocalResponseNorm(2)(ln.ones((1, 3, 4))).shape
    (1, 3, 4)
    """

    function = local_response_norm


class InstanceNorm3d(InstanceNorm2d):
    """Normalisation of each channel of each volume (N, C, D, H, W).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.InstanceNorm3d(3)(ln.ones((1, 3, 2, 4, 4))).shape
    (1, 3, 2, 4, 4)
    """
