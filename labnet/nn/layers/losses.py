"""Losses as modules, with the parameters of the functions in `labnet.nn.functional`."""

from collections.abc import Callable

from labnet import ops
from labnet.loss import Reduction, reduced
from labnet.nn.functions import losses
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.tensor import Tensor


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


class PairwiseDistance(Loss):
    """`labnet.nn.functional.pairwise_distance` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.PairwiseDistance()(ln.asarray([[3.0, 0.0]]), ln.asarray([[0.0, 4.0]])).item(), 4)
    5.0
    """

    function = losses.pairwise_distance


class TripletMarginLoss(Loss):
    """`labnet.nn.functional.triplet_margin_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.TripletMarginLoss()(ln.zeros((1, 2)), ln.zeros((1, 2)), ln.zeros((1, 2))).item()
    1.0
    """

    inputs = 3
    function = losses.triplet_margin_loss


class HingeEmbeddingLoss(Loss):
    """`labnet.nn.functional.hinge_embedding_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.HingeEmbeddingLoss()(ln.asarray([0.5]), ln.asarray([-1])).item()
    0.5
    """

    function = losses.hinge_embedding_loss


class SoftMarginLoss(Loss):
    """`labnet.nn.functional.soft_margin_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.SoftMarginLoss()(ln.zeros(1), ln.ones(1)).item(), 4)
    0.6931
    """

    function = losses.soft_margin_loss


class GaussianNLLLoss(Loss):
    """`labnet.nn.functional.gaussian_nll_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GaussianNLLLoss()(ln.zeros(1), ln.asarray([2.0]), ln.ones(1)).item()
    2.0
    """

    inputs = 3
    function = losses.gaussian_nll_loss


class PoissonNLLLoss(Loss):
    """`labnet.nn.functional.poisson_nll_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.PoissonNLLLoss()(ln.zeros(1), ln.ones(1)).item()
    1.0
    """

    function = losses.poisson_nll_loss


class MultiMarginLoss(Loss):
    """`labnet.nn.functional.multi_margin_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MultiMarginLoss()(ln.asarray([[0.0, 0.5]]), ln.asarray([1])).item()
    0.25
    """

    function = losses.multi_margin_loss


class MultiLabelSoftMarginLoss(Loss):
    """`labnet.nn.functional.multilabel_soft_margin_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.MultiLabelSoftMarginLoss()(ln.zeros((1, 2)), ln.ones((1, 2))).item(), 4)
    0.6931
    """

    function = losses.multilabel_soft_margin_loss


class MultiLabelMarginLoss(Loss):
    """`labnet.nn.functional.multilabel_margin_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MultiLabelMarginLoss()(ln.asarray([[0.0, 1.0]]), ln.asarray([[1, -1]])).item()
    0.0
    """

    function = losses.multilabel_margin_loss


class CTCLoss(Loss):
    """`labnet.nn.functional.ctc_loss` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> round(ln.nn.CTCLoss()(ln.zeros((2, 1, 2)) - ln.log(ln.asarray(2.0)), ln.asarray([[1]]), [2], [1]).item(), 4)
    0.2877
    """

    inputs = 4
    function = losses.ctc_loss


class TripletMarginWithDistanceLoss(Module):
    """The loss of `TripletMarginLoss` with another distance.

    Examples
    --------
    >>> import labnet as ln
    >>> distance = lambda x, y: (x - y).abs().sum(axis=-1)
    >>> x = ln.zeros((1, 2))
    >>> ln.nn.TripletMarginWithDistanceLoss(distance_function=distance)(x, x, x).item()
    1.0
    """

    def __init__(
        self,
        *,
        distance_function: Callable[[Tensor, Tensor], Tensor] | None = None,
        margin: float = 1.0,
        swap: bool = False,
        reduction: Reduction = "mean",
    ):
        super().__init__()
        self.distance_function = losses.pairwise_distance if distance_function is None else distance_function
        self.margin, self.swap, self.reduction = margin, swap, reduction

    def forward(self, anchor: Tensor, positive: Tensor, negative: Tensor) -> Tensor:
        """Return the loss of three tensors."""
        far = self.distance_function(anchor, negative)
        far = ops.minimum(far, self.distance_function(positive, negative)) if self.swap else far
        excess = ops.relu(self.distance_function(anchor, positive) - far + self.margin)
        return reduced("TripletMarginWithDistanceLoss", excess, self.reduction)
