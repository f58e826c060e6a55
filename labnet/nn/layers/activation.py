"""Activation functions as modules, as in torch."""

from collections.abc import Callable
from typing import Any, ClassVar

from labnet import ops
from labnet.nn.modules import Module
from labnet.nn.sizes import MAX_DIMENSIONS, number, size
from labnet.tensor import Tensor


class Activation(Module):
    """The base class of modules that apply one function with fixed arguments.

    Examples
    --------
    >>> class Negative(Activation):
    ...     function = ops.negative
    >>> import labnet as ln
    >>> Negative()(ln.ones(1)).tolist()
    [-1.0]
    """

    #: The function; stored through the class, so that it does not become a method.
    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, **static: Any):
        super().__init__()
        self._static = static

    def forward(self, x: Tensor) -> Tensor:
        """Apply the function to a tensor of any shape."""
        return type(self).function(x, **self._static)

    def _describe(self) -> str:
        return ", ".join(f"{name}={value!r}" for name, value in self._static.items())


class ReLU(Activation):
    """`labnet.nn.relu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReLU()(ln.asarray([-1.0, 1.0])).tolist()
    [0.0, 1.0]
    """

    function = ops.relu

    def __init__(self) -> None:
        super().__init__()


class ReLU6(Activation):
    """`labnet.nn.relu6` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReLU6()(ln.asarray([-1.0, 7.0])).tolist()
    [0.0, 6.0]
    """

    function = ops.relu6

    def __init__(self) -> None:
        super().__init__()


class GELU(Activation):
    """`labnet.nn.gelu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.GELU()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.gelu

    def __init__(self, *, approximate: str = "none"):
        if approximate not in ("none", "tanh"):
            raise ValueError(f"GELU: expected approximate to be 'none' or 'tanh', got {approximate!r:.40}")
        super().__init__(approximate=approximate)


class SiLU(Activation):
    """`labnet.nn.silu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.SiLU()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.silu

    def __init__(self) -> None:
        super().__init__()


class ELU(Activation):
    """`labnet.nn.elu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ELU()(ln.asarray([1.0])).tolist()
    [1.0]
    """

    function = ops.elu

    def __init__(self, alpha: float = 1.0):
        super().__init__(alpha=number("ELU", "alpha", alpha))


class LeakyReLU(Activation):
    """`labnet.nn.leaky_relu` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LeakyReLU(0.5)(ln.asarray([-2.0])).tolist()
    [-1.0]
    """

    function = ops.leaky_relu

    def __init__(self, negative_slope: float = 0.01):
        super().__init__(negative_slope=number("LeakyReLU", "negative_slope", negative_slope))


class Hardtanh(Activation):
    """`labnet.nn.hardtanh` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Hardtanh()(ln.asarray([-2.0])).tolist()
    [-1.0]
    """

    function = ops.hardtanh

    def __init__(self, min_val: float = -1.0, max_val: float = 1.0):
        low, high = number("Hardtanh", "min_val", min_val), number("Hardtanh", "max_val", max_val)
        if low > high:
            raise ValueError(f"Hardtanh: expected min_val of at most max_val, got {min_val} and {max_val}")
        super().__init__(min_val=low, max_val=high)


class Threshold(Activation):
    """`labnet.nn.threshold` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Threshold(1.0, 0.5)(ln.asarray([0.0, 2.0])).tolist()
    [0.5, 2.0]
    """

    function = ops.threshold

    def __init__(self, threshold: float, value: float):
        bound, below = number("Threshold", "threshold", threshold), number("Threshold", "value", value)
        super().__init__(threshold=bound, value=below)


class Sigmoid(Activation):
    """`labnet.nn.sigmoid` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Sigmoid()(ln.zeros(1)).tolist()
    [0.5]
    """

    function = ops.sigmoid

    def __init__(self) -> None:
        super().__init__()


class Tanh(Activation):
    """`labnet.tanh` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Tanh()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.tanh

    def __init__(self) -> None:
        super().__init__()


class Softmax(Activation):
    """`labnet.nn.softmax` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Softmax()(ln.zeros(2)).tolist()
    [0.5, 0.5]
    """

    function = ops.softmax

    def __init__(self, axis: int = -1):
        super().__init__(axis=size(type(self).__name__, "axis", axis, least=-MAX_DIMENSIONS))


class LogSoftmax(Activation):
    """`labnet.nn.log_softmax` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LogSoftmax()(ln.zeros(1)).tolist()
    [0.0]
    """

    function = ops.log_softmax

    def __init__(self, axis: int = -1):
        super().__init__(axis=size(type(self).__name__, "axis", axis, least=-MAX_DIMENSIONS))
