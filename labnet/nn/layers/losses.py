"""Losses as modules, with the parameters of the functions in `labnet.nn.functional`."""

from labnet.nn.functions import losses
from labnet.nn.layers.function import FunctionModule


class Loss(FunctionModule):
    """The base class of losses of a prediction and a target; weights are buffers.

    Examples
    --------
    >>> class Absolute(Loss):
    ...     function = losses.l1_loss
    >>> Absolute(reduction="sum")
    Absolute(reduction='sum')
    """

    inputs = 2


class MSELoss(Loss):
    """`labnet.nn.functional.mse_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MSELoss()(ln.asarray([1.0]), ln.asarray([3.0])).item()
    4.0
    """

    function = losses.mse_loss


class L1Loss(Loss):
    """`labnet.nn.functional.l1_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.L1Loss()(ln.asarray([1.0]), ln.asarray([3.0])).item()
    2.0
    """

    function = losses.l1_loss


class SmoothL1Loss(Loss):
    """`labnet.nn.functional.smooth_l1_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.SmoothL1Loss()(ln.asarray([1.0]), ln.asarray([4.0])).item()
    2.5
    """

    function = losses.smooth_l1_loss


class HuberLoss(Loss):
    """`labnet.nn.functional.huber_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.HuberLoss(delta=2.0)(ln.asarray([1.0]), ln.asarray([4.0])).item()
    4.0
    """

    function = losses.huber_loss


class CrossEntropyLoss(Loss):
    """`labnet.nn.functional.cross_entropy` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CrossEntropyLoss(label_smoothing=0.1)(ln.zeros((1, 1)), ln.asarray([0])).item()
    0.0
    """

    function = losses.cross_entropy


class NLLLoss(Loss):
    """`labnet.nn.functional.nll_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.NLLLoss()(ln.asarray([[-1.0, -2.0]]), ln.asarray([1])).item()
    2.0
    """

    function = losses.nll_loss


class BCELoss(Loss):
    """`labnet.nn.functional.binary_cross_entropy` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.BCELoss()(ln.asarray([1.0]), ln.asarray([1.0])).item()
    0.0
    """

    function = losses.binary_cross_entropy


class BCEWithLogitsLoss(Loss):
    """`labnet.nn.functional.binary_cross_entropy_with_logits` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.BCEWithLogitsLoss()(ln.zeros(1), ln.ones(1)).item(), 4)
    0.6931
    """

    function = losses.binary_cross_entropy_with_logits


class KLDivLoss(Loss):
    """`labnet.nn.functional.kl_div` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.KLDivLoss(reduction="batchmean")(ln.zeros((1, 1)), ln.ones((1, 1))).item()
    0.0
    """

    function = losses.kl_div


class CosineSimilarity(Loss):
    """`labnet.nn.functional.cosine_similarity` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CosineSimilarity(dim=0)(ln.asarray([0.0, 2.0]), ln.asarray([0.0, 3.0])).item()
    1.0
    """

    function = losses.cosine_similarity


class CosineEmbeddingLoss(Loss):
    """`labnet.nn.functional.cosine_embedding_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.asarray([[1.0, 0.0]])
    >>> ln.nn.CosineEmbeddingLoss()(x, x, ln.asarray([1])).item()
    0.0
    """

    inputs = 3
    function = losses.cosine_embedding_loss


class MarginRankingLoss(Loss):
    """`labnet.nn.functional.margin_ranking_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MarginRankingLoss(margin=1.0)(ln.ones(1), ln.zeros(1), ln.ones(1)).item()
    0.0
    """

    inputs = 3
    function = losses.margin_ranking_loss
