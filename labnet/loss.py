"""Losses: the distance of a prediction from its target as one number."""

from typing import Any, Literal

import numpy as np

from labnet.errors import DTypeError, ShapeError
from labnet.kernels.device_dispatch import finished
from labnet.kernels.index_arrays import are_within
from labnet.ops import (
    abs,
    binary_cross_entropy_with_logits,
    cross_entropy_with_logits,
    exp,
    expand_dims,
    getitem,
    log,
    log_softmax,
    logaddexp,
    maximum,
    mean,
    mean_squared_error,
    squeeze,
    sum,
    take_along_axis,
    where,
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
    return reduced("mse", difference * difference, reduction)


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
    return reduced("mae", abs(prediction - target), reduction)


def cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    label_smoothing: float = 0.0,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean negative log-likelihood of the labels under softmax of the logits.

    Parameters
    ----------
    logits : tensor of shape (N, C), (N, C, d1, ...), or (C,) for one sample; floating
        Unnormalised scores of C classes.
    labels : integer tensor of shape (N,) or (N, d1, ...) with values in [0, C)
        Or a tensor of the shape of the logits: probabilities, or one-hot numbers.
    weight : tensor of shape (C,), optional
        Weight of each class; the mean is the weighted one.
    ignore_index : int, optional
        Samples with this label do not count.
    label_smoothing : float
        Share of the target that is spread evenly over all classes (Szegedy et al., 2016).
    reduction : "mean", "sum" or "none"
        Reduction of the losses of samples, of shape (N,) or (N, d1, ...).

    Raises
    ------
    ShapeError, DTypeError
        If the labels do not fit the logits.
    IndexError
        If a label is not in [0, C).
    ValueError
        If `reduction` is something else, or `label_smoothing` is not in [0, 1].

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.loss.cross_entropy(ln.asarray([[0.0, 0.0]]), ln.asarray([1])).item(), 4)
    0.6931
    """
    logits = _as_tensor(logits)
    shape = logits.shape
    if not shape:
        raise ShapeError(f"cross_entropy: expected logits of shape (N, C, ...) or (C,), got {shape}")
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"cross_entropy: expected label_smoothing from 0 to 1, got {label_smoothing}")
    target = _as_tensor(labels)
    axis = 1 if len(shape) > 1 else 0
    classes = shape[axis]
    if target.shape == shape:
        shares = target.astype(logits.dtype)
        if label_smoothing:
            shares = shares * (1 - label_smoothing) + label_smoothing / classes
        likelihoods = sum(_weighted(log_softmax(logits, axis=axis), weight, axis) * shares, axis=axis)
        return -reduced("cross_entropy", likelihoods, reduction)
    found, kept = _labels("cross_entropy", logits, target, axis, ignore_index)
    losses = cross_entropy_with_logits(logits, labels=found, axis=axis)
    if weight is None and kept is None and not label_smoothing:
        return reduced("cross_entropy", losses, reduction)
    smooth = None
    if label_smoothing:
        smooth = -sum(_weighted(log_softmax(logits, axis=axis), weight, axis), axis=axis) * (label_smoothing / classes)
        losses = losses * (1 - label_smoothing)
    return _averaged("cross_entropy", losses, found, weight, kept, reduction, extra=smooth)


def nll(
    log_probabilities: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    ignore_index: int | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean of the negative logarithms of the labels' probabilities.

    Parameters
    ----------
    log_probabilities : tensor of shape (N, C), (N, C, d1, ...), or (C,); floating
        Such as from `labnet.nn.log_softmax`.
    labels, weight, ignore_index, reduction
        As for `cross_entropy`, with integer labels.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.nll(ln.asarray([[-1.0, -2.0]]), ln.asarray([1])).item()
    2.0
    """
    values, axis = _as_tensor(log_probabilities), min(1, log_probabilities.ndim - 1)
    found, kept = _labels("nll", values, _as_tensor(labels), axis, ignore_index)
    losses = -squeeze(take_along_axis(values, expand_dims(_as_tensor(found), axis=axis), axis=axis), axis=axis)
    return _averaged("nll", losses, found, weight, kept, reduction)


def _labels(
    name: str, values: Tensor, target: Tensor, axis: int, ignore_index: int | None
) -> tuple[Any, Tensor | None]:
    """Return checked labels, and a mask of the samples that count if some may not; ignored labels become 0.

    The labels are an array in eager code, which is faster, and a tensor while tracing.
    """
    shape = values.shape
    expected = (*shape[:axis], *shape[axis + 1 :])
    if target.shape != expected:
        raise ShapeError(
            f"{name}: logits of shape {shape} need integer labels of shape {expected} "
            f"or probabilities of shape {shape}, got {target.shape}"
        )
    if target.dtype.kind not in "iu":
        raise DTypeError(f"{name}: labels must be integers, got {target.dtype}")
    classes = shape[axis]
    tracer = dispatch.current_tracer()
    if tracer is not None:
        kept = None if ignore_index is None else target != ignore_index
        target = target if kept is None else where(kept, target, 0)
        tracer.check_within(target, classes, f"{name}: labels must lie in [0, {classes})")
        return target, kept
    if target.device != values.device:
        target = target.to(values.device)
    numbers, kept = target.array, None
    if not are_within(numbers, classes):
        if ignore_index is not None:
            kept = target != ignore_index
            numbers = where(kept, target, 0).array
        if not are_within(numbers, classes):
            least, most = (finished(end(numbers)).item() for end in (np.min, np.max))
            raise IndexError(f"{name}: labels must lie in [0, {classes}), got {least} to {most}")
    elif ignore_index is not None and 0 <= ignore_index < classes:
        kept = target != ignore_index
    return numbers.astype(np.intp, copy=False), kept


def _weighted(values: Tensor, weight: Tensor | None, axis: int) -> Tensor:
    """Multiply the values of each class by its weight."""
    if weight is None:
        return values
    if weight.shape != (values.shape[axis],):
        raise ShapeError(f"expected a weight of shape {(values.shape[axis],)}, one per class, got {weight.shape}")
    return values * weight.reshape((-1, *(1,) * (values.ndim - axis - 1)))


def _averaged(
    name: str,
    losses: Tensor,
    labels: Any,
    weight: Tensor | None,
    kept: Tensor | None,
    reduction: str,
    *,
    extra: Tensor | None = None,
) -> Tensor:
    """Reduce the losses of samples with weights of their classes and a mask; `extra` losses are weighted already."""
    shares: Any = None if weight is None else getitem(weight, labels)
    if kept is not None:
        counted = kept.astype(losses.dtype)
        shares = counted if shares is None else shares * counted
        extra = None if extra is None else extra * counted
        losses = where(kept, losses, 0.0)
    if shares is None:
        return reduced(name, losses if extra is None else losses + extra, reduction)
    losses = losses * shares if extra is None else losses * shares + extra
    return sum(losses) / sum(shares) if reduction == "mean" else reduced(name, losses, reduction)


def huber(prediction: Tensor, target: Tensor, *, delta: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of half the squared differences, linear beyond `delta` (Huber, 1964).

    Parameters
    ----------
    prediction, target : tensors of the same shape
    delta : float
    reduction : "mean", "sum" or "none"
        As for `mse`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.huber(ln.asarray([0.0, 3.0]), ln.zeros(2), reduction="none").tolist()
    [0.0, 2.5]
    """
    prediction, target = _signed(prediction, _same_shape("huber", prediction, target))
    distance = abs(prediction - target)
    losses = where(distance <= delta, distance * distance * 0.5, (distance - 0.5 * delta) * delta)
    return reduced("huber", losses, reduction)


def smooth_l1(prediction: Tensor, target: Tensor, *, beta: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Return `huber` divided by `beta`; `mae` for 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.smooth_l1(ln.asarray([0.0, 3.0]), ln.zeros(2), beta=2.0, reduction="none").tolist()
    [0.0, 2.0]
    """
    if beta == 0:
        return mae(prediction, target, reduction=reduction)
    return huber(prediction, target, delta=beta, reduction=reduction) / beta


def kl_div(
    log_probabilities: Tensor,
    target: Tensor,
    *,
    reduction: Literal["mean", "sum", "none", "batchmean"] = "mean",
    log_target: bool = False,
) -> Tensor:
    """Return the divergence of a distribution from the target, element by element (Kullback and Leibler, 1951).

    Parameters
    ----------
    log_probabilities : tensor, floating
    target : tensor of the same shape
        Probabilities, or their logarithms.
    reduction : "mean", "sum", "none" or "batchmean"
        "batchmean" divides the sum by the length of the first dimension, which is the definition.
    log_target : bool
        Whether the target consists of logarithms.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.kl_div(ln.asarray([[0.0, -1.0]]), ln.asarray([[1.0, 0.0]]), reduction="batchmean").item()
    0.0
    """
    target = _same_shape("kl_div", log_probabilities, target)
    if log_target:
        losses = exp(target) * (target - log_probabilities)
    else:
        logarithms = log(where(target > 0, target, 1.0))
        losses = where(target > 0, target * logarithms, 0.0) - target * log_probabilities
    if reduction == "batchmean":
        return sum(losses) / losses.shape[0]
    return reduced("kl_div", losses, reduction)


def binary_cross_entropy(
    logits: Tensor,
    labels: Tensor,
    *,
    weight: Tensor | None = None,
    pos_weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean negative log-likelihood of yes-or-no labels if ``sigmoid(logits)`` is the probability of yes.

    Parameters
    ----------
    logits : tensor of any shape, floating
    labels : tensor of the same shape
        Probabilities in [0, 1], integers 0 and 1, or booleans.
    weight : tensor that broadcasts to the shape, optional
        Factor of each loss.
    pos_weight : tensor that broadcasts to the shape, optional
        Factor of the losses of yes, such as the ratio of no to yes in the data.
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
    target = _same_shape("binary_cross_entropy", logits, labels).astype(logits.dtype)
    if pos_weight is None:
        losses = binary_cross_entropy_with_logits(logits, target)
    else:
        losses = (1 - target) * logits + ((pos_weight - 1) * target + 1) * logaddexp(-logits, 0.0)
    losses = losses if weight is None else losses * weight
    return reduced("binary_cross_entropy", losses, reduction)


def binary_cross_entropy_of_probabilities(
    probabilities: Tensor, labels: Tensor, *, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the mean negative log-likelihood of yes-or-no labels, given the probabilities of yes.

    `binary_cross_entropy` of logits is more exact. Logarithms are limited to -100, as in torch.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.loss.binary_cross_entropy_of_probabilities(ln.asarray([0.0, 1.0]), ln.asarray([1, 1])).item()
    50.0
    """
    target = _same_shape("binary_cross_entropy", probabilities, labels).astype(probabilities.dtype)
    yes, no = (maximum(log(maximum(x, 1e-44)), -100.0) for x in (probabilities, 1 - probabilities))
    losses = -(target * yes + (1 - target) * no)
    return reduced("binary_cross_entropy", losses if weight is None else losses * weight, reduction)


def _signed(prediction: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
    """Convert unsigned integers, whose differences wrap around."""
    prediction = _as_tensor(prediction)
    if prediction.dtype.kind in "ub" and target.dtype.kind in "ub":
        return prediction.astype("float64"), target
    return prediction, target


def reduced(name: str, losses: Tensor, reduction: str) -> Tensor:
    """Return the mean or the sum of losses, or the losses; `name` is that of the function in messages.

    Raises
    ------
    ValueError
        If `reduction` is something else.

    Examples
    --------
    >>> import labnet as ln
    >>> reduced("mse", ln.asarray([1.0, 3.0]), "sum").item()
    4.0
    """
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
