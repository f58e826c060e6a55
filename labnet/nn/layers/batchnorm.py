"""Batch normalisation (Ioffe and Szegedy, 2015), with running statistics as buffers."""

from typing import Any

from labnet import ops
from labnet.autograd import no_grad
from labnet.errors import ShapeError
from labnet.nn.functions import channel_statistics
from labnet.nn.modules import Module
from labnet.nn.sizes import number, size
from labnet.ops.core.creation import full, ones, zeros
from labnet.ops.core.half_precision import wider
from labnet.tensor import Tensor


class _BatchNorm(Module):
    """Normalisation of each channel over the batch; subclasses define the accepted shapes."""

    #: Accepted numbers of dimensions, and their notation in messages.
    dimensions: tuple[int, ...]
    shapes: str

    running_mean: Tensor | None
    running_var: Tensor | None
    num_batches_tracked: Tensor | None

    def __init__(
        self,
        num_features: int,
        eps: float = 1e-5,
        momentum: float | None = 0.1,
        affine: bool = True,
        track_running_stats: bool = True,
    ):
        super().__init__()
        layer = type(self).__name__
        self.num_features = size(layer, "num_features", num_features)
        self.eps = number(layer, "eps", eps, least=0)
        self.momentum = None if momentum is None else number(layer, "momentum", momentum, least=0, most=1)
        self.affine = affine
        self.track_running_stats = track_running_stats
        self.weight = ones(self.num_features, requires_grad=True) if affine else None
        self.bias = zeros(self.num_features, requires_grad=True) if affine else None
        self.register_buffer("running_mean", zeros(self.num_features) if track_running_stats else None)
        self.register_buffer("running_var", ones(self.num_features) if track_running_stats else None)
        self.register_buffer("num_batches_tracked", zeros((), dtype="int64") if track_running_stats else None)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape, normalised per channel."""
        if x.ndim not in self.dimensions or x.shape[1] != self.num_features:
            shapes = self.shapes.format(c=self.num_features)
            raise ShapeError(f"{type(self).__name__}({self._describe()}): expected shape {shapes}, got {x.shape}")
        for own in (self.weight, self.running_mean):
            if own is not None:
                self.check_dtype(x, own)
        if self.training or self.running_mean is None or self.running_var is None:
            count = self._count(x)
            found = channel_statistics.standardize_channels(x, self.weight, self.bias, self.eps)
            if found is not None:
                y, mean, variance = found
                self._track(mean, variance * (count / (count - 1)))
                return y
        (wide,) = wider([x])  # sums of squares overflow float16
        if self.training or self.running_mean is None or self.running_var is None:
            return self._normalize(wide, *self._statistics(wide)).astype(x.dtype)
        return self._normalize(wide, self._wide(self.running_mean, x), self._wide(self.running_var, x)).astype(x.dtype)

    def _count(self, x: Tensor) -> int:
        """Return the number of values per channel."""
        count = x.size // self.num_features
        if count < 2:
            raise ShapeError(
                f"{type(self).__name__}({self._describe()}): expected more than one value per channel to take the "
                f"statistics of, got shape {x.shape}"
            )
        return count

    def _statistics(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Return mean and variance of the batch; update the running statistics in training."""
        axes = (0, *range(2, x.ndim))
        count = self._count(x)
        mean = ops.mean(x, axis=axes, keepdims=True)
        centered = x - mean
        variance = ops.mean(centered * centered, axis=axes, keepdims=True)
        self._track(mean.detach(), variance.detach() * (count / (count - 1)))
        return mean, variance

    def _track(self, mean: Tensor, variance: Tensor) -> None:
        """Update the running statistics from a batch in training, with the unbiased variance."""
        if not self.training:
            return
        with no_grad():
            self._update(mean, variance)

    def _update(self, mean: Tensor, variance: Tensor) -> None:
        if self.running_mean is None or self.running_var is None or self.num_batches_tracked is None:
            return
        self.num_batches_tracked.assign(self.num_batches_tracked + 1)
        share: Any = self.momentum
        if share is None:  # cumulative mean over all batches
            share = 1 / self.num_batches_tracked.astype(mean.dtype)
        for running, new in ((self.running_mean, mean), (self.running_var, variance)):
            (before,) = wider([running])
            running.assign((before * (1 - share) + new.reshape(running.shape) * share).astype(running.dtype))

    def _normalize(self, x: Tensor, mean: Tensor, variance: Tensor) -> Tensor:
        y = (x - mean) / ops.sqrt(variance + self.eps)
        if self.weight is None or self.bias is None:
            return y
        return y * self._wide(self.weight, x) + self._wide(self.bias, x)

    def _wide(self, values: Tensor, x: Tensor) -> Tensor:
        """Reshape one value per channel so that it broadcasts to the input."""
        (values,) = wider([values])
        return values.reshape((1, self.num_features, *(1,) * (x.ndim - 2)))

    def reset_running_stats(self) -> None:
        """Reset the running statistics to mean 0, variance 1 and no batches."""
        for buffer, start in ((self.running_mean, 0), (self.running_var, 1), (self.num_batches_tracked, 0)):
            if buffer is not None:
                buffer.assign(full(buffer.shape, start, dtype=buffer.dtype))

    def _describe(self) -> str:
        usual = {"eps": 1e-5, "momentum": 0.1, "affine": True, "track_running_stats": True}
        given = [f"{key}={getattr(self, key)!r}" for key, value in usual.items() if getattr(self, key) != value]
        return ", ".join([str(self.num_features), *given])


class BatchNorm1d(_BatchNorm):
    """Normalisation of each feature over the batch, for inputs (N, C) or (N, C, L).

    Training uses the mean and variance of the batch and updates the running statistics; evaluation uses the running
    statistics. Without `track_running_stats` both use those of the batch.

    Parameters
    ----------
    num_features : int
        Number C of features.
    eps : float
        Added to the variance.
    momentum : float or None
        Share of each batch in the running statistics; None for the mean over all batches.
    affine : bool
        Whether there are parameters.
    track_running_stats : bool
        Whether there are running statistics.

    Attributes
    ----------
    weight, bias : tensors of shape (C,), float32, or None
    running_mean, running_var : tensors of shape (C,), float32, or None
        Buffers; the variance is the unbiased one.
    num_batches_tracked : int64 tensor of shape (), or None
        A buffer.

    Raises
    ------
    ShapeError, DTypeError
        When called with other shapes or dtypes, or with one value per feature in training.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.BatchNorm1d(2, eps=0.0)
    >>> layer(ln.asarray([[1.0, 0.0], [3.0, 4.0]])).tolist()
    [[-1.0, -1.0], [1.0, 1.0]]
    >>> [round(value, 4) for value in layer.running_mean.tolist()]
    [0.2, 0.2]
    """

    dimensions = (2, 3)
    shapes = "(N, {c}) or (N, {c}, L)"


class BatchNorm2d(_BatchNorm):
    """Normalisation of each channel of images (N, C, H, W) over the batch; otherwise as `BatchNorm1d`.

    Examples
    --------
    >>> import labnet as ln
    >>> model = ln.nn.Sequential(ln.nn.Conv2d(1, 4, 3), ln.nn.BatchNorm2d(4), ln.nn.relu)
    >>> model(ln.ones((2, 1, 8, 8))).shape
    (2, 4, 6, 6)
    """

    dimensions = (4,)
    shapes = "(N, {c}, H, W)"


class BatchNorm3d(_BatchNorm):
    """Normalisation of each channel of volumes (N, C, D, H, W) over the batch; otherwise as `BatchNorm1d`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.BatchNorm3d(4)(ln.ones((2, 4, 2, 3, 3))).shape
    (2, 4, 2, 3, 3)
    """

    dimensions = (5,)
    shapes = "(N, {c}, D, H, W)"
