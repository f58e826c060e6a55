"""Losses: the distance of a prediction from its target as one number."""

from typing import Literal

import numpy as np

from labnet.errors import DTypeError, ShapeError
from labnet.kernels.device_dispatch import finished
from labnet.ops import (
    abs,
    binary_cross_entropy_with_logits,
    cross_entropy_with_logits,
    log_softmax,
    mean,
    mean_squared_error,
    sum,
)
from labnet.ops.core import dispatch
from labnet.tensor import Tensor, as_array, wrap

Reduction = Literal["mean", "sum", "none"]


def mse(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of the squared differences.

    Parameters
    ----------
    prediction, target : tensors of the same shape
    reduction : "mean", "sum" or "none"
        Reduction of the losses of elements; "none" returns them unchanged.

    Raises
    ------
    ShapeError
        If the shapes differ; broadcasting here would hide a mistake.
    ValueError
        If `reduction` is something else.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.mse(ln.asarray([1.0, 2.0]), ln.asarray([1.0, 4.0])).item()
    2.0
    """
    prediction, target = _signed(prediction, _same_shape("mse", prediction, target))
    if reduction == "mean":
        return mean_squared_error(prediction, target)
    difference = prediction - target
    return _reduced("mse", difference * difference, reduction)


def mae(prediction: Tensor, target: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of the absolute differences; where there is none, the gradient is 0.

    Parameters
    ----------
    prediction, target : tensors of the same shape
    reduction : "mean", "sum" or "none"
        As for `mse`.

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        If `reduction` is something else.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.mae(ln.asarray([1.0, 2.0]), ln.asarray([1.0, 4.0])).item()
    1.0
    """
    prediction, target = _signed(prediction, _same_shape("mae", prediction, target))
    return _reduced("mae", abs(prediction - target), reduction)


def cross_entropy(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean negative log-likelihood of the labels under softmax of the logits.

    Parameters
    ----------
    logits : tensor of shape (N, C), (N, C, d1, ...), or (C,) for one sample; floating
        Unnormalised scores of C classes.
    labels : integer tensor of shape (N,) or (N, d1, ...) with values in [0, C)
        Or a tensor of the shape of the logits: probabilities, or one-hot numbers.
    reduction : "mean", "sum" or "none"
        Reduction of the losses of samples, of shape (N,) or (N, d1, ...).

    Raises
    ------
    ShapeError, DTypeError
        If the labels do not fit the logits.
    IndexError
        If a label is not in [0, C).
    ValueError
        If `reduction` is something else.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.loss.cross_entropy(ln.asarray([[0.0, 0.0]]), ln.asarray([1])).item(), 4)
    0.6931
    """
    logits = _as_tensor(logits)
    if not logits.ndim:
        raise ShapeError(f"cross_entropy: expected logits of shape (N, C, ...) or (C,), got {logits.shape}")
    target = _as_tensor(labels)
    axis = min(1, logits.ndim - 1)
    if target.shape == logits.shape:
        likelihoods = sum(log_softmax(logits, axis=axis) * target.astype(logits.dtype), axis=axis)
        return -_reduced("cross_entropy", likelihoods, reduction)
    expected = (*logits.shape[:axis], *logits.shape[axis + 1 :])
    if target.shape != expected:
        raise ShapeError(
            f"cross_entropy: logits of shape {logits.shape} need integer labels of shape {expected} "
            f"or probabilities of shape {logits.shape}, got {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"cross_entropy: labels must be integers, got {target.dtype}")
    classes = logits.shape[axis]
    tracer = dispatch.current_tracer()
    if tracer is not None:
        tracer.check_within(target, classes, f"cross_entropy: labels must lie in [0, {classes})")
        losses = cross_entropy_with_logits(logits, labels=target, axis=axis)
        return _reduced("cross_entropy", losses, reduction)
    if target.device != logits.device:
        target = target.to(logits.device)
    numbers = target.array
    if numbers.size and not np.all((numbers >= 0) & (numbers < classes)):
        least, most = (finished(end(numbers)).item() for end in (np.min, np.max))
        raise IndexError(f"cross_entropy: labels must lie in [0, {classes}), got {least} to {most}")
    losses = cross_entropy_with_logits(logits, labels=numbers.astype(np.intp, copy=False), axis=axis)
    return _reduced("cross_entropy", losses, reduction)


def binary_cross_entropy(logits: Tensor, labels: Tensor, *, reduction: Reduction = "mean") -> Tensor:
    """Return the mean negative log-likelihood of yes-or-no labels if ``sigmoid(logits)`` is the probability of yes.

    Parameters
    ----------
    logits : tensor of any shape, floating
    labels : tensor of the same shape
        Probabilities in [0, 1], integers 0 and 1, or booleans.
    reduction : "mean", "sum" or "none"
        As for `mse`.

    Raises
    ------
    ShapeError
        If the shapes differ.
    ValueError
        If `reduction` is something else.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.loss.binary_cross_entropy(ln.asarray([0.0, 50.0]), ln.asarray([1, 1])).item(), 4)
    0.3466
    """
    target = _same_shape("binary_cross_entropy", logits, labels)
    losses = binary_cross_entropy_with_logits(logits, target.astype(logits.dtype))
    return _reduced("binary_cross_entropy", losses, reduction)


def _signed(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Convert unsigned integers, whose differences wrap around."""
    prediction = _as_tensor(prediction)
    if prediction.dtype.kind in "ub" and target.dtype.kind in "ub":
        return prediction.astype("float64"), target
    return prediction, target


def _reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    if reduction == "mean":
        return mean(losses)
    if reduction == "sum":
        return sum(losses)
    if reduction == "none":
        return losses
    raise ValueError(f"{name}: reduction must be 'mean', 'sum' or 'none', got {reduction!r}")


def _as_tensor(values: Tensor) -> Tensor:
    return values if isinstance(values, Tensor) else wrap(as_array(values))


def _same_shape(name: str, prediction: Tensor, target: Tensor) -> Tensor:
    prediction, target = _as_tensor(prediction), _as_tensor(target)
    if prediction.shape != target.shape:
        raise ShapeError(f"{name}: prediction has shape {prediction.shape}, target has shape {target.shape}")
    return target
