"""Convolution and pooling as modules."""

import math

from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functional import conv2d
from labnet.nn.modules import Module
from labnet.nn.sizes import padding as padding_of
from labnet.nn.sizes import size, window
from labnet.ops import avg_pool2d, max_pool2d
from labnet.ops.nn.windows import Padding, Pair, pair
from labnet.tensor import Tensor


class Conv2d(Module):
    """Cross-correlation of images with learned filters.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels C of the images, and number K of filters.
    kernel_size : int or (int, int)
        Size of the filters.
    stride, padding, dilation, groups
        As for `labnet.nn.conv2d`.
    bias : bool
        Whether there is a bias per filter.

    Attributes
    ----------
    weight : tensor of shape (K, C / groups, rows, columns), float32
    bias : tensor of shape (K,), float32, or None

    Raises
    ------
    TypeError, ValueError
        If a size is no integer or too small, or `groups` does not divide both numbers of channels.
    ShapeError, DTypeError
        When called with other channels, or another dtype than the weight's.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Conv2d(1, 16, 3)(ln.ones((32, 1, 28, 28))).shape
    (32, 16, 26, 26)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Padding = 0,
        dilation: Pair = 1,
        groups: int = 1,
        *,
        bias: bool = True,
    ):
        super().__init__()
        self.in_channels = size("Conv2d", "in_channels", in_channels)
        self.out_channels = size("Conv2d", "out_channels", out_channels)
        self.kernel_size = pair(window("Conv2d", "kernel_size", kernel_size))
        self.stride = window("Conv2d", "stride", stride)
        self.padding = padding_of("Conv2d", padding, stride=self.stride)
        self.dilation = window("Conv2d", "dilation", dilation)
        self.groups = size("Conv2d", "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"Conv2d: groups={groups} must divide {in_channels} and {out_channels} channels")
        shape = (self.out_channels, self.in_channels // self.groups, *self.kernel_size)
        fan_in = math.prod(shape[1:])
        self.weight = init.fan_in_uniform(shape, fan_in=fan_in)
        self.bias = init.fan_in_uniform((self.out_channels,), fan_in=fan_in) if bias else None

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (N, C, H, W) or (C, H, W) to (N, K, H', W') or (K, H', W')."""
        if x.ndim not in (3, 4) or x.shape[-3] != self.in_channels:
            raise ShapeError(
                f"Conv2d({self._describe()}): expected an input of shape (N, {self.in_channels}, H, W) "
                f"or ({self.in_channels}, H, W), got {x.shape}"
            )
        self.check_dtype(x, self.weight)
        return conv2d(x, self.weight, self.bias, self.stride, self.padding, self.dilation, self.groups)

    def _describe(self) -> str:
        named = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1}
        given = [f"{key}={getattr(self, key)!r}" for key, usual in named.items() if getattr(self, key) != usual]
        bias = ["bias=False"] if self.bias is None else []
        return ", ".join([f"{self.in_channels}, {self.out_channels}, {self.kernel_size}", *given, *bias])


def _pooling(layer: str, kernel_size: Pair, stride: Pair | None, padding: Pair) -> tuple[Pair, Pair | None, Pair]:
    """Check the sizes of a pooling layer, and return them."""
    kernel, width = window(layer, "kernel_size", kernel_size), window(layer, "padding", padding, least=0)
    if any(2 * w > k for w, k in zip(pair(width), pair(kernel), strict=True)):
        raise ValueError(f"{layer}: expected padding of at most half of kernel_size={kernel}, got {width}")
    return kernel, None if stride is None else window(layer, "stride", stride), width


class MaxPool2d(Module):
    """`labnet.nn.max_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MaxPool2d(2)(ln.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    def __init__(self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, dilation: Pair = 1):
        super().__init__()
        self.kernel_size, self.stride, self.padding = _pooling("MaxPool2d", kernel_size, stride, padding)
        self.dilation = window("MaxPool2d", "dilation", dilation)

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (..., H, W) to (..., H', W')."""
        return max_pool2d(x, self.kernel_size, self.stride, self.padding, self.dilation)

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"


class AvgPool2d(Module):
    """`labnet.nn.avg_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AvgPool2d(2)(ln.ones((1, 3, 8, 8))).shape
    (1, 3, 4, 4)
    """

    def __init__(
        self, kernel_size: Pair, stride: Pair | None = None, padding: Pair = 0, *, count_include_pad: bool = True
    ):
        super().__init__()
        self.kernel_size, self.stride, self.padding = _pooling("AvgPool2d", kernel_size, stride, padding)
        self.count_include_pad = count_include_pad

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (..., H, W) to (..., H', W')."""
        return avg_pool2d(x, self.kernel_size, self.stride, self.padding, count_include_pad=self.count_include_pad)

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"
