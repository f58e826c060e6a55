"""Losses and similarities under torch's names."""

import math
from typing import Any

import numpy as np

from labnet import loss, ops
from labnet.loss import Reduction
from labnet.nn.functions.normalization import normalize
from labnet.ops.core.creation import arange, full_like
from labnet.tensor import Tensor


def cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    """Return the products of vectors along `dim`, each divided by its norm or by `eps` where that is greater.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.cosine_similarity(ln.asarray([3.0, 4.0]), ln.asarray([4.0, 3.0]), dim=0).item()
    0.9600000381469727
    """
    return ops.sum(normalize(x1, dim=dim, eps=eps) * normalize(x2, dim=dim, eps=eps), axis=dim)


def mse_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of the squared differences; see `labnet.loss.mse`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.mse_loss(ln.asarray([1.0]), ln.asarray([3.0])).item()
    4.0
    """
    return loss.mse(input, target, reduction=reduction)


def l1_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the mean of the absolute differences; see `labnet.loss.mae`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.l1_loss(ln.asarray([1.0]), ln.asarray([3.0])).item()
    2.0
    """
    return loss.mae(input, target, reduction=reduction)


def huber_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean", delta: float = 1.0) -> Tensor:
    """Return half the squared differences, linear beyond `delta`; see `labnet.loss.huber`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.huber_loss(ln.asarray([1.0]), ln.asarray([4.0])).item()
    2.5
    """
    return loss.huber(input, target, delta=delta, reduction=reduction)


def smooth_l1_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean", beta: float = 1.0) -> Tensor:
    """Return `huber_loss` divided by `beta`; see `labnet.loss.smooth_l1`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.smooth_l1_loss(ln.asarray([1.0]), ln.asarray([4.0])).item()
    2.5
    """
    return loss.smooth_l1(input, target, beta=beta, reduction=reduction)


def cross_entropy(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
    label_smoothing: float = 0.0,
) -> Tensor:
    """Return the negative log-likelihood of labels under softmax of logits; see `labnet.loss.cross_entropy`.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.cross_entropy(ln.zeros((2, 2)), ln.asarray([1, -100])).item(), 4)
    0.6931
    """
    return loss.cross_entropy(
        input,
        target,
        weight=weight,
        ignore_index=ignore_index,
        label_smoothing=label_smoothing,
        reduction=reduction,
    )


def nll_loss(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    ignore_index: int = -100,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the negative log-likelihood of labels, given logarithms of probabilities; see `labnet.loss.nll`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.nll_loss(ln.asarray([[-1.0, -2.0]]), ln.asarray([1])).item()
    2.0
    """
    return loss.nll(input, target, weight=weight, ignore_index=ignore_index, reduction=reduction)


def binary_cross_entropy(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the negative log-likelihood of yes-or-no labels, given probabilities of yes.

    `labnet.loss.binary_cross_entropy` takes logits, as does `binary_cross_entropy_with_logits` here.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.binary_cross_entropy(ln.asarray([0.5]), ln.asarray([1.0])).item(), 4)
    0.6931
    """
    return loss.binary_cross_entropy_of_probabilities(input, target, weight=weight, reduction=reduction)


def binary_cross_entropy_with_logits(
    input: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
    pos_weight: Tensor | None = None,
) -> Tensor:
    """Return the negative log-likelihood of yes-or-no labels, given logits; see `labnet.loss.binary_cross_entropy`.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.binary_cross_entropy_with_logits(ln.zeros(1), ln.ones(1)).item(), 4)
    0.6931
    """
    return loss.binary_cross_entropy(input, target, weight=weight, pos_weight=pos_weight, reduction=reduction)


def kl_div(input: Tensor, target: Tensor, reduction: Any = "mean", log_target: bool = False) -> Tensor:
    """Return the divergence of a distribution from the target; see `labnet.loss.kl_div`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.kl_div(ln.zeros((1, 1)), ln.ones((1, 1)), reduction="batchmean").item()
    0.0
    """
    return loss.kl_div(input, target, reduction=reduction, log_target=log_target)


def cosine_embedding_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return ``1 - cosine`` for pairs with target 1, and the excess of the cosine over `margin` for target -1.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[1.0, 0.0]])
    >>> ln.nn.functional.cosine_embedding_loss(x, x, ln.asarray([-1])).item()
    1.0
    """
    cosine = cosine_similarity(input1, input2, dim=-1)
    return loss.reduced(
        "cosine_embedding_loss", ops.where(target > 0, 1 - cosine, ops.relu(cosine - margin)), reduction
    )


def margin_ranking_loss(
    input1: Tensor, input2: Tensor, target: Tensor, margin: float = 0.0, reduction: Reduction = "mean"
) -> Tensor:
    """Return the excess of ``margin - target * (input1 - input2)`` over 0, where the target is 1 or -1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.margin_ranking_loss(ln.zeros(1), ln.ones(1), ln.ones(1)).item()
    1.0
    """
    losses = ops.relu((input2 - input1) * target + margin)
    return loss.reduced("margin_ranking_loss", losses, reduction)


def pairwise_distance(x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False) -> Tensor:
    """Return the length of the difference of two tensors over the last dimension; `eps` is added to each element.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.pairwise_distance(ln.asarray([[3.0, 0.0]]), ln.asarray([[0.0, 4.0]])).item(), 4)
    5.0
    """
    return ops.vector_norm(x1 - x2 + eps, axis=-1, ord=p, keepdims=keepdim)


def triplet_margin_loss(
    anchor: Tensor,
    positive: Tensor,
    negative: Tensor,
    margin: float = 1.0,
    p: float = 2.0,
    eps: float = 1e-6,
    swap: bool = False,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the excess of the distance to `positive` plus `margin` over the distance to `negative`.

    With `swap`, the distance of `negative` from `positive` counts where it is shorter (Balntas et al., 2016).

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.zeros((1, 2))
    >>> ln.nn.functional.triplet_margin_loss(x, x, x).item()
    1.0
    """
    near, far = pairwise_distance(anchor, positive, p, eps), pairwise_distance(anchor, negative, p, eps)
    far = ops.minimum(far, pairwise_distance(positive, negative, p, eps)) if swap else far
    return loss.reduced("triplet_margin_loss", ops.relu(near - far + margin), reduction)


def hinge_embedding_loss(input: Tensor, target: Tensor, margin: float = 1.0, reduction: Reduction = "mean") -> Tensor:
    """Return the input where the target is 1, and the excess of `margin` over it where that is -1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.hinge_embedding_loss(ln.asarray([0.5, 0.25]), ln.asarray([1, -1])).item()
    0.625
    """
    return loss.reduced("hinge_embedding_loss", ops.where(target == 1, input, ops.relu(margin - input)), reduction)


def soft_margin_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return ``log(1 + exp(-target * input))``, where the target is 1 or -1.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.soft_margin_loss(ln.zeros(1), ln.ones(1)).item(), 4)
    0.6931
    """
    return loss.reduced("soft_margin_loss", ops.logaddexp(-(target * input), 0.0), reduction)


def gaussian_nll_loss(
    input: Tensor,
    target: Tensor,
    var: Tensor | float,
    full: bool = False,
    eps: float = 1e-6,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the negative log-likelihood of the target under normal distributions of given means and variances.

    Parameters
    ----------
    input, target : tensors
    var : tensor or float
        Variances, at least `eps`, through which the limit passes no gradient.
    full : bool
        Whether to add the constant ``log(2 pi) / 2``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.gaussian_nll_loss(ln.zeros(1), ln.asarray([2.0]), ln.ones(1)).item()
    2.0
    """
    variance = var if isinstance(var, Tensor) else full_like(input, var)
    if variance.shape == input.shape[:-1] and variance.ndim:
        variance = ops.expand_dims(variance, axis=-1)
    variance = variance + (ops.maximum(variance.detach(), eps) - variance.detach())
    losses = (ops.log(variance) + (input - target) ** 2 / variance) / 2
    return loss.reduced("gaussian_nll_loss", losses + math.log(2 * math.pi) / 2 if full else losses, reduction)


def poisson_nll_loss(
    input: Tensor,
    target: Tensor,
    log_input: bool = True,
    full: bool = False,
    eps: float = 1e-8,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the negative log-likelihood of counts under Poisson distributions, given logarithms of their means.

    Parameters
    ----------
    input, target : tensors
    log_input : bool
        Whether the input is the logarithm of the means, rather than these.
    full : bool
        Whether to add Stirling's approximation of the constant for counts above 1.
    eps : float
        Added to means before their logarithm.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.poisson_nll_loss(ln.zeros(1), ln.ones(1)).item()
    1.0
    """
    losses = ops.exp(input) - target * input if log_input else input - target * ops.log(input + eps)
    if full:
        counts = ops.where(target > 1, target, 1.0)
        stirling = counts * ops.log(counts) - counts + ops.log(counts * (2 * math.pi)) / 2
        losses = losses + ops.where(target > 1, stirling, 0.0)
    return loss.reduced("poisson_nll_loss", losses, reduction)


def multi_margin_loss(
    input: Tensor,
    target: Tensor,
    p: int = 1,
    margin: float = 1.0,
    weight: Tensor | None = None,
    reduction: Reduction = "mean",
) -> Tensor:
    """Return the mean over classes of the excess of ``margin - (own score - score)``, to the power `p`.

    Parameters
    ----------
    input : tensor of shape (N, C)
    target : integer tensor of shape (N,)
    weight : tensor of shape (C,), optional

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.multi_margin_loss(ln.asarray([[0.0, 0.5]]), ln.asarray([1])).item()
    0.25
    """
    labels = ops.expand_dims(target, axis=-1)
    excess = ops.relu(input - ops.take_along_axis(input, labels, axis=-1) + margin) ** p
    excess = excess if weight is None else excess * ops.expand_dims(weight[target], axis=-1)
    others = ops.expand_dims(target, axis=-1) != arange(input.shape[-1], device=input.device)
    losses = ops.sum(ops.where(others, excess, 0.0), axis=-1) / input.shape[-1]
    return loss.reduced("multi_margin_loss", losses, reduction)


def multilabel_soft_margin_loss(
    input: Tensor, target: Tensor, weight: Tensor | None = None, reduction: Reduction = "mean"
) -> Tensor:
    """Return the mean over classes of `binary_cross_entropy_with_logits`.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.functional.multilabel_soft_margin_loss(ln.zeros((1, 2)), ln.ones((1, 2))).item(), 4)
    0.6931
    """
    losses = loss.binary_cross_entropy(input, target, weight=weight, reduction="none")
    return loss.reduced("multilabel_soft_margin_loss", ops.mean(losses, axis=-1), reduction)


def multilabel_margin_loss(input: Tensor, target: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Return the mean excess of ``1 - (score of a label - other score)`` over all labels and other classes.

    Parameters
    ----------
    input : tensor of shape (N, C) or (C,)
    target : integer tensor of the same shape
        The labels of each sample, then -1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.functional.multilabel_margin_loss(ln.asarray([[0.0, 1.0]]), ln.asarray([[1, -1]])).item()
    0.0
    """
    valid = ops.cumulative_prod((target >= 0).astype("int64"), axis=-1) > 0
    labels = ops.where(valid, target, 0)
    classes = arange(input.shape[-1], device=input.device)
    is_label = ops.any(
        ops.logical_and(ops.expand_dims(labels, axis=-1) == classes, ops.expand_dims(valid, axis=-1)), axis=-2
    )
    own = ops.expand_dims(ops.take_along_axis(input, labels, axis=-1), axis=-1)
    excess = ops.relu(1 - own + ops.expand_dims(input, axis=-2))
    counts = ops.logical_and(ops.expand_dims(valid, axis=-1), ops.logical_not(ops.expand_dims(is_label, axis=-2)))
    losses = ops.sum(ops.where(counts, excess, 0.0), axis=(-2, -1)) / input.shape[-1]
    return loss.reduced("multilabel_margin_loss", losses, reduction)


def ctc_loss(
    log_probs: Tensor,
    targets: Tensor,
    input_lengths: Any,
    target_lengths: Any,
    blank: int = 0,
    reduction: Reduction = "mean",
    zero_infinity: bool = False,
) -> Tensor:
    """Return the negative log-likelihood of labels under all alignments with a sequence (Graves et al., 2006).

    Parameters
    ----------
    log_probs : tensor of shape (T, N, C)
        Logarithms of probabilities.
    targets : integer tensor of shape (N, S)
        The labels of each sequence, or those of all one after the other, of shape (sum of `target_lengths`,).
    input_lengths, target_lengths : sequences of N int
    blank : int
        Class without a label.
    reduction : "mean", "sum" or "none"
        The mean is over the losses divided by the number of labels.
    zero_infinity : bool
        Whether labels that fit no alignment have a loss, and a gradient, of 0.

    Examples
    --------
    >>> import labnet as ln
    >>> log_probs = ln.zeros((2, 1, 2)) - ln.log(ln.asarray(2.0))
    >>> round(ln.nn.functional.ctc_loss(log_probs, ln.asarray([[1]]), [2], [1]).item(), 4)
    0.2877
    """
    sizes, lengths = (np.asarray(given, "int64") for given in (target_lengths, input_lengths))
    labels, count = np.asarray(targets), len(sizes)
    if labels.ndim == 1:
        padded = np.full((count, int(sizes.max(initial=0))), blank)
        for row, part in zip(padded, np.split(labels, np.cumsum(sizes)[:-1]), strict=True):
            row[: len(part)] = part
        labels = padded
    states = np.full((count, 2 * labels.shape[1] + 1), blank)  # blanks around all labels
    states[:, 1::2] = labels
    places = np.arange(states.shape[1])
    skips = (states != blank) & (np.roll(states, 2, axis=1) != states) & (places >= 2)
    least, samples = -1e30, np.arange(count)[:, None]
    alpha = ops.where(places < 2, log_probs[0][samples, states], least)
    for step in range(1, int(lengths.max())):
        once = ops.pad(alpha[:, :-1], ((0, 0), (1, 0)), constant_values=least)
        twice = ops.where(skips, ops.pad(alpha[:, :-2], ((0, 0), (2, 0)), constant_values=least), least)
        joined = ops.logsumexp(ops.stack([alpha, once, twice]), axis=0) + log_probs[step][samples, states]
        alpha = ops.where((step < lengths)[:, None], joined, alpha)
    ends = ops.where((places >= 2 * sizes[:, None] - 1) & (places <= 2 * sizes[:, None]), alpha, least)
    losses = -ops.logsumexp(ends, axis=1)
    losses = ops.where(losses > -least / 2, 0.0 if zero_infinity else math.inf, losses)
    return loss.reduced("ctc_loss", losses / np.maximum(sizes, 1) if reduction == "mean" else losses, reduction)
