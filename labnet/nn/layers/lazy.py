"""Layers whose number of inputs is that of the first tensor that they are called with."""

from typing import Any, ClassVar

from labnet.errors import TraceError
from labnet.nn.layers.batchnorm import BatchNorm1d, BatchNorm2d, BatchNorm3d
from labnet.nn.layers.convolution import Conv1d, Conv2d, Conv3d, ConvTranspose1d, ConvTranspose2d, ConvTranspose3d
from labnet.nn.modules import Linear, Module
from labnet.tensor import Tensor


class Lazy(Module):
    """The base class: the first call makes the module one of the class `becomes`.

    An optimizer and `state_dict` know its parameters from then on.
    """

    becomes: ClassVar[Any]
    #: Dimension of the input whose length is the number of inputs.
    axis: ClassVar[int] = 1
    _given: tuple[tuple[Any, ...], dict[str, Any]]

    def __init__(self, *given: Any, **named: Any):
        super().__init__()
        self.__dict__["_given"] = (given, named)

    def forward(self, x: Tensor) -> Any:
        """Make the parameters, and call the module."""
        given, named = self._given
        try:
            made = self.becomes(x.shape[self.axis], *given, **named)  # before anything changes: it may fail
        except TraceError:
            name = type(self).__name__
            raise TraceError(f"jit: cannot compile {name} before its first call: call the model on a batch") from None
        made.train(self.training)
        del self.__dict__["_given"]
        kind = self.__class__ = self.becomes
        self.__dict__.update(vars(made))
        return kind.forward(self, x)  # without the hooks, which this call has run


class LazyLinear(Lazy):
    """A `Linear` whose `in_features` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> layer = ln.nn.LazyLinear(4)
    >>> layer(ln.ones((2, 3))).shape, layer.in_features
    ((2, 4), 3)
    """

    becomes, axis = Linear, -1


class LazyConv1d(Lazy):
    """A `Conv1d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConv1d(4, 3)(ln.ones((1, 3, 5))).shape
    (1, 4, 3)
    """

    becomes, axis = Conv1d, -2


class LazyConvTranspose1d(Lazy):
    """A `ConvTranspose1d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConvTranspose1d(4, 3)(ln.ones((1, 3, 5))).shape
    (1, 4, 7)
    """

    becomes, axis = ConvTranspose1d, -2


class LazyBatchNorm1d(Lazy):
    """A `BatchNorm1d` whose `num_features` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyBatchNorm1d()(ln.ones((2, 3))).shape
    (2, 3)
    """

    becomes = BatchNorm1d


class LazyConv2d(Lazy):
    """A `Conv2d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConv2d(4, 3)(ln.ones((1, 3, 5, 5))).shape
    (1, 4, 3, 3)
    """

    becomes, axis = Conv2d, -3


class LazyConvTranspose2d(Lazy):
    """A `ConvTranspose2d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConvTranspose2d(4, 3)(ln.ones((1, 3, 5, 5))).shape
    (1, 4, 7, 7)
    """

    becomes, axis = ConvTranspose2d, -3


class LazyBatchNorm2d(Lazy):
    """A `BatchNorm2d` whose `num_features` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyBatchNorm2d()(ln.ones((2, 3, 5, 5))).shape
    (2, 3, 5, 5)
    """

    becomes = BatchNorm2d


class LazyConv3d(Lazy):
    """A `Conv3d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConv3d(4, 3)(ln.ones((1, 3, 5, 5, 5))).shape
    (1, 4, 3, 3, 3)
    """

    becomes, axis = Conv3d, -4


class LazyConvTranspose3d(Lazy):
    """A `ConvTranspose3d` whose `in_channels` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyConvTranspose3d(4, 3)(ln.ones((1, 3, 5, 5, 5))).shape
    (1, 4, 7, 7, 7)
    """

    becomes, axis = ConvTranspose3d, -4


class LazyBatchNorm3d(Lazy):
    """A `BatchNorm3d` whose `num_features` the first call decides.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LazyBatchNorm3d()(ln.ones((2, 3, 5, 5, 5))).shape
    (2, 3, 5, 5, 5)
    """

    becomes = BatchNorm3d
