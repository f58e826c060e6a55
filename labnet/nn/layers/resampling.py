"""Padding, resizing, and windows as columns, as modules."""

from collections.abc import Sequence
from typing import ClassVar

from labnet.nn.functions import padding, resampling
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.nn.sizes import number
from labnet.tensor import Tensor


class _Pad(Module):
    """The base class of padding: one width, or one before and one behind each dimension from the last on."""

    dims: ClassVar[int]
    mode: ClassVar[str] = "constant"
    value: float = 0.0

    def __init__(self, padding: int | Sequence[int]):
        super().__init__()
        widths = padding if isinstance(padding, Sequence) else (padding,) * (2 * self.dims)
        self.padding = tuple(map(int, widths))

    def forward(self, x: Tensor) -> Tensor:
        """Return a larger tensor."""
        return padding.pad(x, self.padding, mode=self.mode, value=self.value)

    def _describe(self) -> str:
        return f"{self.padding}"


class ConstantPad1d(_Pad):
    """A number around signals.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConstantPad1d(1, 5.0)(ln.zeros((1, 1, 1))).tolist()
    [[[5.0, 0.0, 5.0]]]
    """

    dims = 1

    def __init__(self, padding: int | Sequence[int], value: float):
        super().__init__(padding)
        self.value = number(type(self).__name__, "value", value)

    def _describe(self) -> str:
        return f"{self.padding}, value={self.value}"


class ConstantPad2d(ConstantPad1d):
    """A number around images.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConstantPad2d(1, 5.0)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    dims = 2


class ConstantPad3d(ConstantPad1d):
    """A number around volumes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConstantPad3d(1, 5.0)(ln.ones((1, 1, 4, 4, 4))).shape
    (1, 1, 6, 6, 6)
    """

    dims = 3


class ZeroPad1d(_Pad):
    """Zeros around signals: one width, or one for each side.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ZeroPad1d(1)(ln.ones((1, 1, 4))).shape
    (1, 1, 6)
    """

    dims = 1


class ZeroPad2d(_Pad):
    """Zeros around images: one width, or one for each side.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ZeroPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    dims = 2


class ZeroPad3d(_Pad):
    """Zeros around volumes: one width, or one for each side.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ZeroPad3d(1)(ln.ones((1, 1, 4, 4, 4))).shape
    (1, 1, 6, 6, 6)
    """

    dims = 3


class ReflectionPad1d(_Pad):
    """Mirror images of the elements of signals around them, without the outermost ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReflectionPad1d(1)(ln.ones((1, 1, 4))).shape
    (1, 1, 6)
    """

    dims, mode = 1, "reflect"


class ReflectionPad2d(_Pad):
    """Mirror images of the elements of images around them, without the outermost ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReflectionPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    dims, mode = 2, "reflect"


class ReflectionPad3d(_Pad):
    """Mirror images of the elements of volumes around them, without the outermost ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReflectionPad3d(1)(ln.ones((1, 1, 4, 4, 4))).shape
    (1, 1, 6, 6, 6)
    """

    dims, mode = 3, "reflect"


class ReplicationPad1d(_Pad):
    """Repeats of the outermost elements of signals around them.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReplicationPad1d(1)(ln.ones((1, 1, 4))).shape
    (1, 1, 6)
    """

    dims, mode = 1, "replicate"


class ReplicationPad2d(_Pad):
    """Repeats of the outermost elements of images around them.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReplicationPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    dims, mode = 2, "replicate"


class ReplicationPad3d(_Pad):
    """Repeats of the outermost elements of volumes around them.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReplicationPad3d(1)(ln.ones((1, 1, 4, 4, 4))).shape
    (1, 1, 6, 6, 6)
    """

    dims, mode = 3, "replicate"


class CircularPad1d(_Pad):
    """The elements of the other end around signals.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CircularPad1d(1)(ln.ones((1, 1, 4))).shape
    (1, 1, 6)
    """

    dims, mode = 1, "circular"


class CircularPad2d(_Pad):
    """The elements of the other end around images.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CircularPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    dims, mode = 2, "circular"


class CircularPad3d(_Pad):
    """The elements of the other end around volumes.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.CircularPad3d(1)(ln.ones((1, 1, 4, 4, 4))).shape
    (1, 1, 6, 6, 6)
    """

    dims, mode = 3, "circular"


class PixelShuffle(FunctionModule):
    """`labnet.nn.functional.pixel_shuffle` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.PixelShuffle(2)(ln.ones((1, 8, 3, 3))).shape
    (1, 2, 6, 6)
    """

    function = resampling.pixel_shuffle


class Upsample(FunctionModule):
    """`labnet.nn.functional.interpolate` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Upsample(scale_factor=2, mode="bilinear")(ln.ones((1, 3, 4, 4))).shape
    (1, 3, 8, 8)
    """

    function = resampling.interpolate


class PixelUnshuffle(FunctionModule):
    """`labnet.nn.functional.pixel_unshuffle` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.PixelUnshuffle(2)(ln.ones((1, 2, 6, 6))).shape
    (1, 8, 3, 3)
    """

    function = resampling.pixel_unshuffle


class ChannelShuffle(FunctionModule):
    """`labnet.nn.functional.channel_shuffle` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ChannelShuffle(2)(ln.ones((1, 4, 3, 3))).shape
    (1, 4, 3, 3)
    """

    function = resampling.channel_shuffle


class Unfold(FunctionModule):
    """`labnet.nn.functional.unfold` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Unfold(2)(ln.ones((1, 3, 4, 4))).shape
    (1, 12, 9)
    """

    function = resampling.unfold


class Fold(FunctionModule):
    """`labnet.nn.functional.fold` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Fold((4, 4), 2)(ln.ones((1, 12, 9))).shape
    (1, 3, 4, 4)
    """

    function = resampling.fold


class UpsamplingNearest2d(Upsample):
    """`Upsample` of images by repetition.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.UpsamplingNearest2d(scale_factor=2)(ln.ones((1, 3, 4, 4))).shape
    (1, 3, 8, 8)
    """

    def __init__(self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None):
        super().__init__(size, scale_factor)


class UpsamplingBilinear2d(Upsample):
    """`Upsample` of images by interpolation between corners that coincide.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.UpsamplingBilinear2d(scale_factor=2)(ln.ones((1, 3, 4, 4))).shape
    (1, 3, 8, 8)
    """

    def __init__(self, size: int | Sequence[int] | None = None, scale_factor: float | Sequence[float] | None = None):
        super().__init__(size, scale_factor, "bilinear", True)
