"""Convolutions and their transposes as modules."""

import math
from typing import Any, ClassVar

from labnet.errors import ShapeError
from labnet.nn import init
from labnet.nn.functions.convolution import (
    conv1d,
    conv2d,
    conv3d,
    conv_transpose1d,
    conv_transpose2d,
    conv_transpose3d,
)
from labnet.nn.functions.padding import pad
from labnet.nn.modules import Module
from labnet.nn.sizes import padding as padding_of
from labnet.nn.sizes import size, window
from labnet.tensor import Tensor


class _Convolution(Module):
    """The parameters and checks that convolutions and their transposes share; subclasses define the dimensions."""

    #: Number of dimensions of the windows, and the notation of the shape behind the channels.
    dims: ClassVar[int]
    image: ClassVar[str]
    is_transposed: ClassVar[bool] = False

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        dilation: Any = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
    ):
        super().__init__()
        layer = type(self).__name__
        self.in_channels = size(layer, "in_channels", in_channels)
        self.out_channels = size(layer, "out_channels", out_channels)
        self.kernel_size = self._window("kernel_size", kernel_size)
        self.stride = self._window("stride", stride)
        self.padding = self._padding(padding)
        self.dilation = self._window("dilation", dilation)
        self.groups = size(layer, "groups", groups)
        if in_channels % groups or out_channels % groups:
            raise ValueError(f"{layer}: groups={groups} must divide {in_channels} and {out_channels} channels")
        if padding_mode not in _PADDING_MODES or (padding_mode != "zeros" and isinstance(self.padding, str)):
            raise ValueError(f"{layer}: expected padding_mode {', '.join(_PADDING_MODES)}, got {padding_mode!r:.40}")
        self.padding_mode = padding_mode
        kernel = self._each(self.kernel_size)
        first, second = (in_channels, out_channels) if self.is_transposed else (out_channels, in_channels)
        shape = (int(first), int(second) // self.groups, *kernel)
        fan_in = math.prod(shape[1:])
        self.weight = init.fan_in_uniform(shape, fan_in=fan_in)
        self.bias = init.fan_in_uniform((self.out_channels,), fan_in=fan_in) if bias else None

    def _window(self, name: str, value: Any, *, least: int = 1) -> Any:
        layer = type(self).__name__
        if self.dims > 1:
            found = window(layer, name, value, least=least, dims=self.dims)
            return self._each(found) if name == "kernel_size" else found
        single = isinstance(value, list | tuple) and len(value) == 1
        return size(layer, name, value[0] if single else value, least=least)

    def _each(self, value: Any) -> tuple[int, ...]:
        """Return one size per dimension."""
        return value if isinstance(value, tuple) else (value,) * self.dims

    def _padding(self, value: Any) -> Any:
        if isinstance(value, str):
            return padding_of(type(self).__name__, value, stride=self.stride)
        return self._window("padding", value, least=0)

    def _checked(self, x: Tensor) -> Tensor:
        """Check an input; pad it where the padding is not zeros."""
        if x.ndim not in (self.dims + 1, self.dims + 2) or x.shape[-self.dims - 1] != self.in_channels:
            raise ShapeError(
                f"{type(self).__name__}({self._describe()}): expected an input of shape (N, {self.in_channels}, "
                f"{self.image}) or ({self.in_channels}, {self.image}), got {x.shape}"
            )
        self.check_dtype(x, self.weight)
        if self.padding_mode == "zeros":
            return x
        margins = reversed(self._each(self.padding))
        return pad(x, [width for width in margins for _ in range(2)], mode=self.padding_mode)

    def _margin(self) -> Any:
        """Return the zeros around the input."""
        return self.padding if self.padding_mode == "zeros" else 0

    def _describe(self) -> str:
        named = {"stride": 1, "padding": 0, "dilation": 1, "groups": 1, "padding_mode": "zeros"}
        given = [f"{key}={getattr(self, key)!r}" for key, usual in named.items() if getattr(self, key) != usual]
        bias = ["bias=False"] if self.bias is None else []
        return ", ".join([f"{self.in_channels}, {self.out_channels}, {self.kernel_size}", *given, *bias])


#: Kinds of padding of a convolution.
_PADDING_MODES = ("zeros", "reflect", "replicate", "circular")


class Conv2d(_Convolution):
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
    padding_mode : "zeros", "reflect", "replicate" or "circular"

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

    dims, image = 2, "H, W"

    def forward(self, x: Tensor) -> Tensor:
        """Map images of shape (N, C, H, W) or (C, H, W) to (N, K, H', W') or (K, H', W')."""
        x = self._checked(x)
        return conv2d(x, self.weight, self.bias, self.stride, self._margin(), self.dilation, self.groups)


class Conv1d(_Convolution):
    """Cross-correlation of signals with learned filters; parameters are as for `Conv2d`, each one number.

    Attributes
    ----------
    weight : tensor of shape (K, C / groups, width), float32
    bias : tensor of shape (K,), float32, or None

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Conv1d(2, 4, 3, padding=1)(ln.ones((8, 2, 10))).shape
    (8, 4, 10)
    """

    dims, image = 1, "L"

    def forward(self, x: Tensor) -> Tensor:
        """Map signals of shape (N, C, L) or (C, L) to (N, K, L') or (K, L')."""
        x = self._checked(x)
        return conv1d(x, self.weight, self.bias, self.stride, self._margin(), self.dilation, self.groups)


class ConvTranspose2d(_Convolution):
    """The transpose of a `Conv2d`, which enlarges images.

    Parameters
    ----------
    in_channels, out_channels : int
        Channels C of the images, and K of the results.
    kernel_size, stride, padding, dilation, groups
        Those of the convolution whose transpose this is.
    output_padding : int or (int, int)
        Rows and columns added to the result at one side, fewer than the stride.
    bias : bool
        Whether there is a bias per channel of the result.

    Attributes
    ----------
    weight : tensor of shape (C, K / groups, rows, columns), float32
    bias : tensor of shape (K,), float32, or None

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConvTranspose2d(4, 2, 2, stride=2)(ln.ones((1, 4, 7, 7))).shape
    (1, 2, 14, 14)
    """

    dims, image, is_transposed = 2, "H, W", True

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Any,
        stride: Any = 1,
        padding: Any = 0,
        output_padding: Any = 0,
        groups: int = 1,
        bias: bool = True,
        dilation: Any = 1,
    ):
        super().__init__(in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias)
        self.output_padding = self._window("output_padding", output_padding, least=0)

    def forward(self, x: Tensor) -> Tensor:
        """Map (N, C, H, W) or (C, H, W) to (N, K, H', W') or (K, H', W')."""
        sizes = (self.stride, self.padding, self.output_padding, self.groups, self.dilation)
        transposed: Any = (conv_transpose1d, conv_transpose2d, conv_transpose3d)[self.dims - 1]
        return transposed(self._checked(x), self.weight, self.bias, *sizes)  # type: ignore[no-any-return]


class ConvTranspose1d(ConvTranspose2d):
    """The transpose of a `Conv1d`; parameters are as for `ConvTranspose2d`, each one number.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConvTranspose1d(4, 2, 2, stride=2)(ln.ones((1, 4, 7))).shape
    (1, 2, 14)
    """

    dims, image = 1, "L"


class Conv3d(_Convolution):
    """Cross-correlation of volumes with learned filters; parameters are as for `Conv2d`, for three dimensions.

    Attributes
    ----------
    weight : tensor of shape (K, C / groups, depth, rows, columns), float32
    bias : tensor of shape (K,), float32, or None

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.Conv3d(1, 4, 3)(ln.ones((2, 1, 5, 6, 7))).shape
    (2, 4, 3, 4, 5)
    """

    dims, image = 3, "D, H, W"

    def forward(self, x: Tensor) -> Tensor:
        """Map volumes of shape (N, C, D, H, W) or (C, D, H, W) to (N, K, D', H', W') or (K, D', H', W')."""
        x = self._checked(x)
        return conv3d(x, self.weight, self.bias, self.stride, self._margin(), self.dilation, self.groups)


class ConvTranspose3d(ConvTranspose2d):
    """The transpose of a `Conv3d`; parameters are as for `ConvTranspose2d`, for three dimensions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.ConvTranspose3d(4, 2, 2, stride=2)(ln.ones((1, 4, 3, 4, 5))).shape
    (1, 2, 6, 8, 10)
    """

    dims, image = 3, "D, H, W"
