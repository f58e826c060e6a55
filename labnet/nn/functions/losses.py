"""Losses and similarities under torch's names."""

from typing import Any

from labnet import loss, ops
from labnet.loss import Reduction
from labnet.nn.functions.normalization import normalize
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
