"""Pooling, padding and resizing as modules."""

from collections.abc import Sequence
from typing import Any, ClassVar

from labnet.nn.functions import padding, pooling, resampling
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.nn.sizes import window
from labnet.ops.nn.windows import Pair, pair
from labnet.tensor import Tensor


def _pooling(layer: str, kernel_size: Pair, stride: Pair | None, padding: Pair) -> tuple[Pair, Pair | None, Pair]:
    """Check the sizes of a pooling layer, and return them."""
    kernel, width = window(layer, "kernel_size", kernel_size), window(layer, "padding", padding, least=0)
    if any(2 * w > k for w, k in zip(pair(width), pair(kernel), strict=True)):
        raise ValueError(f"{layer}: expected padding of at most half of kernel_size={kernel}, got {width}")
    return kernel, None if stride is None else window(layer, "stride", stride), width


class _Pool(FunctionModule):
    """The base class of pooling with windows of a fixed size."""

    kernel_size: Pair
    stride: Pair | None
    padding: Pair
    dilation: Pair
    ceil_mode: bool

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0, *given: Any, **named: Any):
        layer = type(self).__name__
        super().__init__(*_pooling(layer, kernel_size, stride, padding), *given, **named)
        if "dilation" in self._names:
            self.dilation = window(layer, "dilation", self.dilation)

    def _describe(self) -> str:
        more = ", ceil_mode=True" if self.ceil_mode else ""
        return f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}{more}"


class MaxPool2d(_Pool):
    """`labnet.nn.functional.max_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MaxPool2d(2)(ln.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    function = pooling.max_pool2d


class AvgPool2d(_Pool):
    """`labnet.nn.functional.avg_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AvgPool2d(2)(ln.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    function = pooling.avg_pool2d


class MaxPool1d(_Pool):
    """`labnet.nn.functional.max_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MaxPool1d(2)(ln.ones((1, 3, 8))).shape
    (1, 3, 4)
    """

    function = pooling.max_pool1d


class AvgPool1d(_Pool):
    """`labnet.nn.functional.avg_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AvgPool1d(2)(ln.ones((1, 3, 8))).shape
    (1, 3, 4)
    """

    function = pooling.avg_pool1d


class AdaptiveAvgPool2d(FunctionModule):
    """`labnet.nn.functional.adaptive_avg_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveAvgPool2d(2)(ln.ones((1, 3, 7, 7))).shape
    (1, 3, 2, 2)
    """

    function = pooling.adaptive_avg_pool2d


class AdaptiveMaxPool2d(FunctionModule):
    """`labnet.nn.functional.adaptive_max_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveMaxPool2d(2)(ln.ones((1, 3, 7, 7))).shape
    (1, 3, 2, 2)
    """

    function = pooling.adaptive_max_pool2d


class AdaptiveAvgPool1d(FunctionModule):
    """`labnet.nn.functional.adaptive_avg_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveAvgPool1d(2)(ln.ones((1, 3, 7))).shape
    (1, 3, 2)
    """

    function = pooling.adaptive_avg_pool1d


class AdaptiveMaxPool1d(FunctionModule):
    """`labnet.nn.functional.adaptive_max_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveMaxPool1d(2)(ln.ones((1, 3, 7))).shape
    (1, 3, 2)
    """

    function = pooling.adaptive_max_pool1d


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


class ZeroPad2d(Module):
    """Zeros around images: one width, or (left, right, top, bottom).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ZeroPad2d((1, 0, 2, 0))(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 5)
    """

    mode: ClassVar[str] = "constant"

    def __init__(self, padding: int | Sequence[int]):
        super().__init__()
        self.padding = (padding,) * 4 if isinstance(padding, int) else tuple(padding)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (..., H, W) to larger ones."""
        return padding.pad(x, self.padding, mode=self.mode)

    def _describe(self) -> str:
        return f"{self.padding}"


class ReflectionPad2d(ZeroPad2d):
    """Mirror images of the pixels around images, without the outermost ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReflectionPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    mode = "reflect"


class ReplicationPad2d(ZeroPad2d):
    """Repeats of the outermost pixels around images.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ReplicationPad2d(1)(ln.ones((1, 1, 4, 4))).shape
    (1, 1, 6, 6)
    """

    mode = "replicate"
