"""Losses: how far a prediction is from its target, as one number."""

from typing import Any

import numpy as np

from labnet.errors import DTypeError, ShapeError
from labnet.ops import log_softmax, mean, sum
from labnet.ops.creation import arange
from labnet.tensor import Tensor, as_array, wrap


def mse(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean of the squared differences.

    Parameters
    ----------
    prediction, target : tensors of the same shape

    Raises
    ------
    ShapeError
        If the shapes differ; broadcasting here would hide a mistake.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.mse(ln.asarray([1.0, 2.0]), ln.asarray([1.0, 4.0])).item()
    2.0
    """
    target = _same_shape("mse", prediction, target)
    difference = prediction - target
    return mean(difference * difference)


def cross_entropy(logits: Tensor, labels: Tensor) -> Tensor:
    """Mean negative log-likelihood of the labels under softmax of the logits.

    Parameters
    ----------
    logits : tensor of shape (N, C), or (C,) for one sample; floating
        Unnormalised scores of C classes.
    labels : integer tensor of shape (N,) with values in [0, C), or probabilities of shape (N, C)

    Raises
    ------
    ShapeError, DTypeError
        If the labels do not fit the logits.
    IndexError
        If a label is not in [0, C).

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.loss.cross_entropy(ln.asarray([[0.0, 0.0]]), ln.asarray([1])).item(), 4)
    0.6931
    """
    if logits.ndim not in (1, 2):
        raise ShapeError(f"cross_entropy: expected logits of shape (N, C) or (C,), got {logits.shape}")
    target = labels if isinstance(labels, Tensor) else wrap(as_array(labels))
    log_likelihood = log_softmax(logits)
    if target.shape == logits.shape and target.dtype.kind == "f":
        return -mean(sum(log_likelihood * target, axis=-1))
    if target.shape != logits.shape[:-1]:
        raise ShapeError(
            f"cross_entropy: logits of shape {logits.shape} need integer labels of shape {logits.shape[:-1]} "
            f"or probabilities of shape {logits.shape}, got {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"cross_entropy: labels must be integers, got {target.dtype}")
    _check_labels(target.numpy(), logits.shape[-1])
    if logits.ndim == 1:
        return -log_likelihood[target]
    return -mean(log_likelihood[arange(len(target)), target])


def _check_labels(labels: np.ndarray[Any, Any], classes: int) -> None:
    if labels.size and not (labels.min() >= 0 and labels.max() < classes):
        raise IndexError(f"cross_entropy: labels must lie in [0, {classes}), got {labels.min()} to {labels.max()}")


def _same_shape(name: str, prediction: Tensor, target: Tensor) -> Tensor:
    target = target if isinstance(target, Tensor) else wrap(as_array(target))
    if prediction.shape != target.shape:
        raise ShapeError(f"{name}: prediction has shape {prediction.shape}, target has shape {target.shape}")
    return target
