"""The geometry of the windows of convolution and pooling."""

from collections.abc import Iterator, Sequence
from copy import copy
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.ir.values import Shape, contiguous
from labnet.compile.trace.rules.elementwise import Static
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.nn.windows import margins, pair


class Geometry:
    """The layout of the windows of a convolution or pooling in padded images.

    Attributes
    ----------
    kernel, stride, dilation, out, padded : (int, int)
        Sizes of a window, steps between and inside windows, number of windows, size of the padded image.
    sides : ((int, int), (int, int))
        Padding above and below, to the left and to the right.
    """

    def __init__(self, image: Shape, kernel: Shape, *, stride: Any = 1, padding: Any = 0, dilation: Any = 1):
        self.kernel, self.stride, self.dilation = kernel, pair(stride), pair(dilation)
        self.image = image
        self.sides = tuple(margins(padding, kernel, self.stride, self.dilation))
        self._measure()

    def _measure(self) -> None:
        image, kernel = self.image, self.kernel
        self.padded = tuple(size + sum(side) for size, side in zip(image, self.sides, strict=True))
        reach = [d * (k - 1) + 1 for k, d in zip(kernel, self.dilation, strict=True)]
        if min(*self.stride, *self.dilation, *kernel) < 1 or min(map(min, self.sides)) < 0:
            raise ValueError("kernel, stride and dilation must be at least 1, and padding not negative")
        if any(size < needed for size, needed in zip(self.padded, reach, strict=True)):
            raise ValueError(f"the window covers {tuple(reach)}, the padded image is only {self.padded}")
        self.out = tuple((p - r) // s + 1 for p, r, s in zip(self.padded, reach, self.stride, strict=True))

    def adjoint(self) -> "Geometry | None":
        """Return the geometry of the adjoint convolution; None unless neighbouring windows overlap enough."""
        reach = [d * (k - 1) for k, d in zip(self.kernel, self.dilation, strict=True)]
        sides = tuple((r - before, r - after) for r, (before, after) in zip(reach, self.sides, strict=True))
        if self.stride != (1, 1) or min(map(min, sides)) < 0:
            return None
        found = copy(self)
        found.image, found.sides = self.out, sides
        found._measure()
        return found

    def pad(self, x: Any, value: float = 0.0) -> Any:
        """Pad images."""
        if not any(map(any, self.sides)):
            return x
        widths = ((0, 0),) * (x.ndim - 2) + self.sides
        whole = ops.pad(x, widths)
        if value == 0:
            return whole
        inside = np.pad(np.ones(x.shape[-2:], bool), self.sides)
        return ops.where(inside, whole, value)

    def inside(self, padded: Any) -> Any:
        """Remove the padding of images."""
        (top, bottom), (left, right) = self.sides
        rows, columns = padded.shape[-2:]
        return padded[..., top : rows - bottom, left : columns - right]

    def places(self) -> Iterator[tuple[Any, ...]]:
        """Yield, for each position in the window in row-major order, the index of its element in all windows."""
        for start in np.ndindex(self.kernel):
            yield (
                ...,
                *(
                    slice(i * d, i * d + (n - 1) * s + 1, s)
                    for i, d, s, n in zip(start, self.dilation, self.stride, self.out, strict=True)
                ),
            )

    def strides(self, shape: Shape) -> Shape:
        """Return the strides of windows (N, groups, C, *kernel, *out) in padded images (N, groups, C, H, W)."""
        *leading, row, column = contiguous(shape)
        return (
            *leading,
            *(row * self.dilation[0], column * self.dilation[1]),
            *(row * self.stride[0], column * self.stride[1]),
        )


def geometry_of(op: Op, image: Shape, kernel: Any, static: Static, operands: Sequence[Any]) -> Geometry:
    """Return the geometry of an op, or raise the error of eager code."""
    known = {key: static[key] for key in ("stride", "padding", "dilation") if key in static}
    try:
        return Geometry(image, tuple(kernel), **known)
    except ValueError as error:
        raise failure(op.name, tuple(np.broadcast_to(np.zeros(()), x.shape) for x in operands), static, error) from None
