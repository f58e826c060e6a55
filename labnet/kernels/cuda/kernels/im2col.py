"""Images as a matrix of windows, and the adjoint, each in one kernel; the rest of a convolution is a matmul.

Each thread gathers what one element of the result needs, so nothing is padded, cleared or added atomically.
"""

from typing import Any

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.iteration import grid_for
from labnet.kernels.cuda.codegen.scalars import load_source, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

_kernels: dict[Any, Launch] = {}
_SIZES = ("height", "width", "rows", "columns", "high", "wide", "down", "right", "apart0", "apart1", "top", "left")


def im2col(x: DeviceArray, sizes: tuple[int, ...]) -> DeviceArray:
    """Return the windows of images (N, C, H, W) as an array (N, C, rows, columns, high, wide).

    Parameters
    ----------
    x : array of shape (N, C, H, W)
    sizes : tuple of int
        Height and width of the image, of the window and of the result, steps between windows and inside one (rows,
        then columns), and the padding above and to the left.
    """
    return _run("im2col", x, (*x.shape[:2], *sizes[2:6]), sizes)


def col2im(parts: DeviceArray, sizes: tuple[int, ...]) -> DeviceArray:
    """Add windows (N, C, rows, columns, high, wide) up to images (N, C, H, W): the adjoint of `im2col`."""
    return _run("col2im", parts, (*parts.shape[:2], *sizes[:2]), sizes)


def _run(name: str, x: DeviceArray, shape: tuple[int, ...], sizes: tuple[int, ...]) -> DeviceArray:
    x = x.materialize()
    x = x.contiguous()
    out = DeviceArray.empty(shape, x.dtype)
    if not out.size:
        return out
    if not x.size:
        return DeviceArray.filled(shape, 0, x.dtype)
    gpu = current_gpu()
    key = name, x.dtype
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(name, x.dtype))
    launch((grid_for(out.size, gpu.threads),), (gpu.threads,), out.size, *sizes, x.address, out.address)
    return out


def kernel_source(name: str, dtype: Dtype) -> tuple[str, list[str]]:
    """Return the source of the kernel, and the types of its arguments."""
    work = CASTS[working(dtype)]
    lines = [
        f"def kernel(n, {', '.join(_SIZES)}, x, out):",
        "    step = i8(cuda.gridsize(1))",
        "    at = i8(cuda.grid(1))",
        "    while at < n:",
    ]
    if name == "im2col":
        inner = [
            *("ox = at % wide", "rest = at // wide", "oy = rest % high", "rest = rest // high"),
            *("j = rest % columns", "rest = rest // columns", "i = rest % rows", "image = rest // rows"),
            "y = oy * down - top + i * apart0",
            "z = ox * right - left + j * apart1",
            f"value = {work}(0)",
            "if y >= 0 and y < height and z >= 0 and z < width:",
            f"    value = {load_source('x[(image * height + y) * width + z]', dtype)}",
        ]
    else:
        inner = [
            *("z = at % width", "rest = at // width", "y = rest % height", "image = rest // height"),
            f"value = {work}(0)",
            "i = i8(0)",
            "while i < rows:",
            "    oy = y + top - i * apart0",
            "    if oy >= 0 and oy % down == 0 and oy // down < high:",
            "        j = i8(0)",
            "        while j < columns:",
            "            ox = z + left - j * apart1",
            "            if ox >= 0 and ox % right == 0 and ox // right < wide:",
            "                where = ((image * rows + i) * columns + j) * high + oy // down",
            f"                value = {work}(value + {load_source('x[where * wide + ox // right]', dtype)})",
            "            j += 1",
            "    i += 1",
        ]
    inner += [f"out[at] = {store_source('value', dtype)}", "at += step"]
    lines += ["        " + line for line in inner]
    return "\n".join(lines) + "\n", ["i8"] * (1 + len(_SIZES)) + [pointer(dtype)] * 2
