"""Activation functions as modules, as in torch."""

from labnet import ops
from labnet.nn.functions import activation
from labnet.nn.functions.activation import rrelu
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.nn.sizes import MAX_DIMENSIONS, number, size
from labnet.ops.core.creation import full
from labnet.tensor import Tensor


class ReLU(FunctionModule):
    """`labnet.nn.relu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReLU(inplace=True)(ln.asarray([-1.0, 1.0])).tolist()
    [0.0, 1.0]
    """

    function = ops.relu

    def __init__(self, inplace: bool = False):
        super().__init__()


class ReLU6(FunctionModule):
    """`labnet.nn.relu6` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReLU6()(ln.asarray([-1.0, 7.0])).tolist()
    [0.0, 6.0]
    """

    function = ops.relu6

    def __init__(self, inplace: bool = False):
        super().__init__()


class SiLU(FunctionModule):
    """`labnet.nn.silu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.SiLU()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = activation.silu


class ELU(FunctionModule):
    """`labnet.nn.elu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ELU()(ln.asarray([1.0])).tolist()
    [1.0]
    """

    function = activation.elu


class CELU(FunctionModule):
    """`labnet.nn.functional.celu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CELU()(ln.asarray([1.0])).tolist()
    [1.0]
    """

    function = activation.celu


class SELU(FunctionModule):
    """`labnet.nn.functional.selu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.SELU()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = activation.selu


class LeakyReLU(FunctionModule):
    """`labnet.nn.leaky_relu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LeakyReLU(0.5)(ln.asarray([-2.0])).tolist()
    [-1.0]
    """

    function = activation.leaky_relu


class Threshold(FunctionModule):
    """`labnet.nn.threshold` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Threshold(1.0, 0.5)(ln.asarray([0.0, 2.0])).tolist()
    [0.5, 2.0]
    """

    function = activation.threshold


class Sigmoid(FunctionModule):
    """`labnet.nn.sigmoid` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Sigmoid()(ln.zeros(1)).tolist()
    [0.5]
    """

    function = ops.sigmoid


class LogSigmoid(FunctionModule):
    """`labnet.nn.functional.logsigmoid` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LogSigmoid()(ln.asarray([-1000.0])).tolist()
    [-1000.0]
    """

    function = activation.logsigmoid


class Hardsigmoid(FunctionModule):
    """`labnet.nn.functional.hardsigmoid` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Hardsigmoid()(ln.zeros(1)).tolist()
    [0.5]
    """

    function = activation.hardsigmoid


class Hardswish(FunctionModule):
    """`labnet.nn.functional.hardswish` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Hardswish()(ln.asarray([4.0])).tolist()
    [4.0]
    """

    function = activation.hardswish


class Mish(FunctionModule):
    """`labnet.nn.functional.mish` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Mish()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = activation.mish


class Softplus(FunctionModule):
    """`labnet.nn.functional.softplus` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softplus()(ln.asarray([100.0])).tolist()
    [100.0]
    """

    function = activation.softplus


class Softsign(FunctionModule):
    """`labnet.nn.functional.softsign` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softsign()(ln.asarray([1.0])).tolist()
    [0.5]
    """

    function = activation.softsign


class Softshrink(FunctionModule):
    """`labnet.nn.functional.softshrink` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softshrink()(ln.asarray([1.0])).tolist()
    [0.5]
    """

    function = activation.softshrink


class Hardshrink(FunctionModule):
    """`labnet.nn.functional.hardshrink` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Hardshrink()(ln.asarray([0.25])).tolist()
    [0.0]
    """

    function = activation.hardshrink


class Tanh(FunctionModule):
    """`labnet.tanh` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Tanh()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.tanh


class Tanhshrink(FunctionModule):
    """`labnet.nn.functional.tanhshrink` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Tanhshrink()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = activation.tanhshrink


class GLU(FunctionModule):
    """`labnet.nn.functional.glu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GLU()(ln.asarray([4.0, 0.0])).tolist()
    [2.0]
    """

    function = activation.glu


class GELU(FunctionModule):
    """`labnet.nn.gelu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GELU(approximate="tanh")(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.gelu

    def __init__(self, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: expected approximate to be 'none' or 'tanh', got {approximate!r:.40}")
        super().__init__(approximate=approximate)


class Hardtanh(FunctionModule):
    """`labnet.nn.hardtanh` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Hardtanh()(ln.asarray([-2.0])).tolist()
    [-1.0]
    """

    function = activation.hardtanh

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0, inplace: bool = False):
        low, high = number("Hardtanh", "min_val", min_val), number("Hardtanh", "max_val", max_val)
        if low > high:
            raise ValueError(f"Hardtanh: expected min_val of at most max_val, got {min_val} and {max_val}")
        super().__init__(min_val=low, max_val=high)


class _AlongAxis(FunctionModule):
    """The base class of functions along one dimension, which is named `dim` or `axis`."""

    _names = ("axis",)

    def __init_subclass__(cls) -> None:
        """Keep the parameters of this class."""

    def __init__(self, dim: int | None = None, *, axis: int = -1):
        Module.__init__(self)
        self.axis = size(type(self).__name__, "axis", axis if dim is None else dim, least=-MAX_DIMENSIONS)


class Softmax(_AlongAxis):
    """`labnet.nn.softmax` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softmax(dim=1)(ln.zeros((1, 2))).tolist()
    [[0.5, 0.5]]
    """

    function = ops.softmax


class LogSoftmax(_AlongAxis):
    """`labnet.nn.log_softmax` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LogSoftmax()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.log_softmax


class Softmin(_AlongAxis):
    """`labnet.nn.functional.softmin` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softmin()(ln.zeros(2)).tolist()
    [0.5, 0.5]
    """

    function = activation.softmin


class PReLU(Module):
    """`labnet.nn.functional.prelu` with a learned slope, or one per channel.

    Parameters
    ----------
    num_parameters : int
        1, or the number of channels.
    init : float
        First value of the slopes.

    Attributes
    ----------
    weight : tensor of shape (num_parameters,), float32

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.PReLU()(ln.asarray([-2.0, 2.0])).tolist()
    [-0.5, 2.0]
    """

    def __init__(self, num_parameters: int = 1, init: float = 0.25):
        super().__init__()
        self.num_parameters = size("PReLU", "num_parameters", num_parameters)
        self.weight = full(self.num_parameters, number("PReLU", "init", init), dtype="float32", requires_grad=True)

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape, with channels in dimension 1."""
        self.check_dtype(x, self.weight)
        return activation.prelu(x, self.weight)

    def _describe(self) -> str:
        return f"num_parameters={self.num_parameters}"


class Softmax2d(Module):
    """`Softmax` over the channels of images (N, C, H, W) or (C, H, W).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softmax2d()(ln.zeros((1, 2, 1, 1))).reshape(-1).tolist()
    [0.5, 0.5]
    """

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return ops.softmax(x, axis=-3)


class RReLU(Module):
    """`labnet.nn.functional.rrelu` with random slopes in training.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.RReLU(0.25, 0.75).eval()(ln.asarray([-8.0, 2.0])).tolist()
    [-4.0, 2.0]
    """

    def __init__(self, lower: float = 1 / 8, upper: float = 1 / 3, inplace: bool = False):
        super().__init__()
        self.lower, self.upper = number("RReLU", "lower", lower), number("RReLU", "upper", upper)

    def forward(self, x: Tensor) -> Tensor:
        """Return a tensor of the same shape."""
        return rrelu(x, self.lower, self.upper, self.training)

    def _describe(self) -> str:
        return f"{self.lower}, {self.upper}"
