"""Pooling as modules."""

from collections.abc import Callable
from typing import Any, ClassVar

from labnet.nn.functions import pooling
from labnet.nn.layers.function import FunctionModule
from labnet.nn.modules import Module
from labnet.nn.sizes import window
from labnet.tensor import Tensor


class _Pool(FunctionModule):
    """The base class of pooling with windows of a fixed size."""

    #: Number of dimensions of the windows.
    dims: ClassVar[int] = 2
    kernel_size: Any
    stride: Any
    padding: Any = 0
    dilation: Any
    ceil_mode: bool

    def __init__(self, kernel_size: Any, stride: Any = None, *given: Any, **named: Any):
        super().__init__(kernel_size, stride, *given, **named)
        for name in ("kernel_size", "stride", "padding", "dilation"):
            if name in self._names and (name != "stride" or self.stride is not None):
                value, least = getattr(self, name), int(name != "padding")
                setattr(self, name, window(type(self).__name__, name, value, least=least, dims=self.dims))
        widths, kernel = self._each(self.padding), self._each(self.kernel_size)
        if any(2 * w > k for w, k in zip(widths, kernel, strict=True)):
            layer = type(self).__name__
            raise ValueError(
                f"{layer}: expected padding of at most half of kernel_size={self.kernel_size}, got {self.padding}"
            )

    def _each(self, value: Any) -> tuple[int, ...]:
        return value if isinstance(value, tuple) else (value,) * self.dims

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

    dims = 1
    function = pooling.max_pool1d


class AvgPool1d(_Pool):
    """`labnet.nn.functional.avg_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AvgPool1d(2)(ln.ones((1, 3, 8))).shape
    (1, 3, 4)
    """

    dims = 1
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


class MaxPool3d(_Pool):
    """`labnet.nn.functional.max_pool3d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.MaxPool3d(2)(ln.ones((1, 3, 4, 6, 8))).shape
    (1, 3, 2, 3, 4)
    """

    dims = 3
    function = pooling.max_pool3d


class AvgPool3d(_Pool):
    """`labnet.nn.functional.avg_pool3d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AvgPool3d(2)(ln.ones((1, 3, 4, 6, 8))).shape
    (1, 3, 2, 3, 4)
    """

    dims = 3
    function = pooling.avg_pool3d


class AdaptiveAvgPool3d(FunctionModule):
    """`labnet.nn.functional.adaptive_avg_pool3d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveAvgPool3d(2)(ln.ones((1, 3, 4, 6, 7))).shape
    (1, 3, 2, 2, 2)
    """

    function = pooling.adaptive_avg_pool3d


class AdaptiveMaxPool3d(FunctionModule):
    """`labnet.nn.functional.adaptive_max_pool3d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.AdaptiveMaxPool3d(2)(ln.ones((1, 3, 4, 6, 7))).shape
    (1, 3, 2, 2, 2)
    """

    function = pooling.adaptive_max_pool3d


class LPPool1d(FunctionModule):
    """`labnet.nn.functional.lp_pool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LPPool1d(2, 3)(ln.ones((1, 3, 9))).shape
    (1, 3, 3)
    """

    function = pooling.lp_pool1d


class LPPool2d(FunctionModule):
    """`labnet.nn.functional.lp_pool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nn.LPPool2d(2, 3)(ln.ones((1, 3, 9, 9))).shape
    (1, 3, 3, 3)
    """

    function = pooling.lp_pool2d


class _Unpool(Module):
    """The base class of the inverses of max pooling; subclasses define the function."""

    function: ClassVar[Callable[..., Tensor]]

    def __init__(self, kernel_size: Any, stride: Any = None, padding: Any = 0):
        super().__init__()
        self.kernel_size, self.stride, self.padding = kernel_size, stride, padding

    def forward(self, x: Tensor, indices: Tensor, output_size: Any = None) -> Tensor:
        """Map elements and their positions to a larger tensor."""
        return type(self).function(x, indices, self.kernel_size, self.stride, self.padding, output_size)

    def _describe(self) -> str:
        return f"{self.kernel_size}, stride={self.stride or self.kernel_size}, padding={self.padding}"


class MaxUnpool1d(_Unpool):
    """`labnet.nn.functional.max_unpool1d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> pooled = ln.nn.MaxPool1d(2, return_indices=True)(ln.ones((1, 3, 4)))
    >>> ln.nn.MaxUnpool1d(2)(*pooled).shape
    (1, 3, 4)
    """

    function = pooling.max_unpool1d


class MaxUnpool2d(_Unpool):
    """`labnet.nn.functional.max_unpool2d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> pooled = ln.nn.MaxPool2d(2, return_indices=True)(ln.ones((1, 3, 4, 4)))
    >>> ln.nn.MaxUnpool2d(2)(*pooled).shape
    (1, 3, 4, 4)
    """

    function = pooling.max_unpool2d


class MaxUnpool3d(_Unpool):
    """`labnet.nn.functional.max_unpool3d` as a module.

    Examples
    --------
    >>> import labnet as ln
    >>> pooled = ln.nn.MaxPool3d(2, return_indices=True)(ln.ones((1, 3, 4, 4, 4)))
    >>> ln.nn.MaxUnpool3d(2)(*pooled).shape
    (1, 3, 4, 4, 4)
    """

    function = pooling.max_unpool3d
