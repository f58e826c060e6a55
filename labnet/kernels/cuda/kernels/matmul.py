"""Matrix products: cuBLAS if it is installed, else a tiled kernel."""

import ctypes
import functools
import math
from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.errors import DeviceError
from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.operands import mixed
from labnet.kernels.cuda.codegen.scalars import load_source, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

_kernels: dict[Any, Launch] = {}
#: Shape and launch of a product, by forms and dtypes of factors that need no copy.
_known: dict[Any, tuple[tuple[int, ...], Callable[[int, int, int], None]]] = {}
_REMEMBERED = 4096
_N, _T = 0, 1
_SINGLE, _DOUBLE = np.dtype("float32"), np.dtype("float64")


def matmul(x1: Any, x2: Any) -> DeviceArray:
    """Return what ``np.matmul`` does."""
    for value in (x1, x2):
        if not isinstance(value, DeviceArray):
            raise mixed(value)
    key = x1.form, x2.form, x1.dtype.char, x2.dtype.char
    known = _known.get(key)
    if known is not None:
        shape, multiply = known
        out = DeviceArray.empty(shape, x1.dtype)
        multiply(x1.address, x2.address, out.allocated_address)
        return out
    if not x1.ndim or not x2.ndim:
        raise ValueError("matmul: Input operand does not have enough dimensions")
    dtype = np.result_type(x1.dtype, x2.dtype)
    left = x1.reshape((1, -1)) if x1.ndim == 1 else x1
    right = x2.reshape((-1, 1)) if x2.ndim == 1 else x2
    if left.shape[-1] != right.shape[-2]:
        raise ValueError(f"matmul: Input operand 1 has a mismatch in its core dimension 0 ({x1.shape} @ {x2.shape})")
    batch = np.broadcast_shapes(left.shape[:-2], right.shape[:-2])
    rows, inner, columns = left.shape[-2], left.shape[-1], right.shape[-1]
    shape = (*batch, rows, columns)
    if not inner:
        out = DeviceArray.filled(shape, 0, dtype)
    else:
        out = DeviceArray.empty(shape, dtype)
        if out.size:
            one, other = _matrices(left, batch, dtype), _matrices(right, batch, dtype)
            multiply = _multiplier(one[1:], other[1:], shape, left.shape[-1], dtype)
            if one[0] is x1 and other[0] is x2:
                if len(_known) >= _REMEMBERED:
                    _known.clear()
                _known[key] = shape, multiply
            multiply(one[0].address, other[0].address, out.address)
    result = tuple(
        length for i, length in enumerate(shape) if not (i == len(shape) - 2 and x1.ndim == 1)
        and not (i == len(shape) - 1 and x2.ndim == 1)
    )  # fmt: skip
    return out if result == shape else out.reshape(result)


def _matrices(x: DeviceArray, batch: tuple[int, ...], dtype: Dtype) -> tuple[DeviceArray, int, int, int]:
    """Return an array with the strides between matrices, rows and columns; one of the last two is 1."""
    x = x.astype(dtype, copy=False).materialize()
    layout = x.layout
    row, column = layout.strides[-2] // layout.itemsize, layout.strides[-1] // layout.itemsize
    rows, columns = layout.shape[-2:]
    proper = (column == 1 and row >= columns) or (row == 1 and column >= rows)
    if rows == 1 and column == 1:
        row, proper = columns, True
    elif columns == 1 and row == 1:
        column, proper = rows, True
    if not proper:
        x = x.copy()
        layout, row, column = x.layout, columns, 1
    between = 0
    if batch and layout.shape[:-2] != (1,) * (layout.ndim - 2):
        whole = np.broadcast_to(layout, (*batch, *layout.shape[-2:]))
        joined = _joined(list(batch), [s // layout.itemsize for s in whole.strides[:-2]])
        if joined is None:
            x = x.view_of(whole).copy()
            row, column, joined = columns, 1, rows * columns
        between = joined
    return x, between, row, column


def _joined(lengths: list[int], strides: list[int]) -> int | None:
    """Return the stride of several dimensions joined to one, or None if they cannot be joined."""
    found = None
    reach = 0
    for length, stride in zip(reversed(lengths), reversed(strides), strict=True):
        if length == 1:
            continue
        if found is None:
            found, reach = stride, stride * length
        elif stride != reach:
            return None
        else:
            reach = stride * length
    return found or 0


def _multiplier(
    left: tuple[int, int, int], right: tuple[int, int, int], shape: tuple[int, ...], inner: int, dtype: Dtype
) -> Callable[[int, int, int], None]:
    """Return a function that multiplies, given the addresses of both factors and of the product."""
    rows, columns = shape[-2:]
    count = math.prod(shape[:-2])
    (between1, row1, column1), (between2, row2, column2) = left, right
    blas = _cublas() if dtype in (_SINGLE, _DOUBLE) else None
    if blas is not None:
        # cuBLAS stores by columns, so it multiplies the transposes in opposite order
        first = (_N if column2 == 1 else _T, row2 if column2 == 1 else column2, between2)
        second = (_N if column1 == 1 else _T, row1 if column1 == 1 else column1, between1)
        in_order = blas.multiplier(first, second, (columns, rows, inner), count, dtype)
        return lambda x1, x2, out: in_order(x2, x1, out)
    gpu = current_gpu()
    key = dtype, gpu.tile
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(dtype, gpu.tile))
    side, size = gpu.tile * PER_THREAD, dtype.itemsize
    # the second and third dimensions of a grid are limited, so larger products are computed in parts
    parts = [
        (
            (-(-columns // side), -(-min(rows - top, _MOST * side) // side), min(count - done, _MOST)),
            min(rows - top, _MOST * side),
            [size * start for start in (done * between1 + top * row1, done * between2, (done * rows + top) * columns)],
        )
        for done in range(0, count, _MOST)
        for top in range(0, rows, _MOST * side)
    ]
    known = launch

    def multiply(*addresses: int) -> None:
        for grid, part, starts in parts:
            shifted = [at + start for at, start in zip(addresses, starts, strict=True)]
            known(grid, (gpu.tile, gpu.tile), rows, part, columns, inner, *left, *right, *shifted)

    return multiply


#: Limit of blocks in the second and third dimensions of a grid.
_MOST = 65_535
#: Rows, and columns, of the result that each thread computes.
PER_THREAD = 4


def kernel_source(dtype: Dtype, tile: int) -> tuple[str, list[str]]:
    """Return the source of the tiled product, and the types of its arguments.

    A block of ``tile * tile`` threads computes a square of the result, each thread `PER_THREAD` squared elements of it.
    Strips of both factors go through shared memory, so each element is read from global memory once per square.
    """
    work = working(dtype)
    name = "u1" if work.kind == "b" else CASTS[work]
    zero = f"{name}(0)"
    side, per = tile * PER_THREAD, PER_THREAD
    lines = [
        "def kernel(height, rows, columns, inner, between1, row1, column1, between2, row2, column2, p1, p2, out):",
        f"    left = cuda.shared.array(({tile}, {side + 1}), {name}_)",
        f"    right = cuda.shared.array(({tile}, {side + 1}), {name}_)",
        "    x, y = i8(cuda.threadIdx.x), i8(cuda.threadIdx.y)",
        f"    here = y * {tile} + x",
        f"    top, start = i8(cuda.blockIdx.y) * {side}, i8(cuda.blockIdx.x) * {side}",
        "    which = i8(cuda.blockIdx.z)",
        "    first1, first2 = which * between1, which * between2",
        *[f"    t{i}_{j} = {zero}" for i in range(per) for j in range(per)],
        "    strip = i8(0)",
        "    while strip < inner:",
    ]
    threads = tile * tile
    for part in range(per):
        # neighbouring threads read neighbours, whether the factor is stored by rows or by columns
        lines += [
            f"        place = here + {part * threads}",
            "        if column1 == 1:",
            f"            k, r = place % {tile}, place // {tile}",
            "        else:",
            f"            k, r = place // {side}, place % {side}",
            "        if top + r < rows and strip + k < inner:",
            f"            left[k, r] = {_read('p1[first1 + (top + r) * row1 + (strip + k) * column1]', dtype)}",
            "        else:",
            f"            left[k, r] = {zero}",
            "        if column2 == 1:",
            f"            k, r = place // {side}, place % {side}",
            "        else:",
            f"            k, r = place % {tile}, place // {tile}",
            "        if start + r < columns and strip + k < inner:",
            f"            right[k, r] = {_read('p2[first2 + (strip + k) * row2 + (start + r) * column2]', dtype)}",
            "        else:",
            f"            right[k, r] = {zero}",
        ]
    lines += ["        cuda.syncthreads()", f"        for k in range({tile}):"]
    lines += [f"            l{i} = left[k, y + {i * tile}]" for i in range(per)]
    lines += [f"            r{j} = right[k, x + {j * tile}]" for j in range(per)]
    step = "t{0}_{1} | l{0} & r{1}" if work.kind == "b" else "t{0}_{1} + l{0} * r{1}"
    lines += [f"            t{i}_{j} = {name}({step.format(i, j)})" for i in range(per) for j in range(per)]
    lines += ["        cuda.syncthreads()", f"        strip += {tile}"]
    for i in range(per):
        for j in range(per):
            lines += [
                f"    if top + y + {i * tile} < rows and start + x + {j * tile} < columns:",
                f"        out[which * height * columns + (top + y + {i * tile}) * columns + start + x + {j * tile}] = "
                + (f"u1(t{i}_{j} != {zero})" if dtype.kind == "b" else store_source(f"t{i}_{j}", dtype)),
            ]
    types = ["i8"] * 10 + [pointer(dtype)] * 3
    return "\n".join(lines) + "\n", types


def _read(text: str, dtype: Dtype) -> str:
    return text if dtype.kind == "b" else load_source(text, dtype)


class Cublas:
    """The functions of cuBLAS that `matmul` calls."""

    def __init__(self, library: ctypes.CDLL, stream: ctypes.c_void_p):
        self._library = library
        self._handle = ctypes.c_void_p()
        self._check(library.cublasCreate_v2(ctypes.byref(self._handle)))
        self._check(library.cublasSetStream_v2(self._handle, stream))
        self._one = {}
        self._many = {}
        self._numbers = {}
        pointer_, whole, long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
        for letter, dtype, number in (("S", _SINGLE, ctypes.c_float), ("D", _DOUBLE, ctypes.c_double)):
            many = getattr(library, f"cublas{letter}gemmStridedBatched")
            many.argtypes = [
                pointer_, whole, whole, whole, whole, whole, pointer_, pointer_, whole, long, pointer_, whole, long,
                pointer_, pointer_, whole, long, whole,
            ]  # fmt: skip
            one = getattr(library, f"cublas{letter}gemm_v2")
            one.argtypes = [
                pointer_, whole, whole, whole, whole, whole, pointer_, pointer_, whole, pointer_, whole,
                pointer_, pointer_, whole,
            ]  # fmt: skip
            self._one[dtype], self._many[dtype] = one, many
            self._numbers[dtype] = number(1.0), number(0.0)

    @staticmethod
    def _check(code: int) -> None:
        if code:
            raise DeviceError(f"device 'cuda': cuBLAS failed with status {code}")

    def multiplier(
        self,
        first: tuple[int, int, int],
        second: tuple[int, int, int],
        sizes: tuple[int, int, int],
        count: int,
        dtype: Dtype,
    ) -> Callable[[int, int, int], None]:
        """Return a function that multiplies column-major matrices, each (transposed, leading dimension, stride)."""
        (ta, la, sa), (tb, lb, sb) = first, second
        m, n, k = sizes
        issue, handle, check = current_gpu().issue, self._handle.value, self._check
        one, zero = map(ctypes.addressof, self._numbers[dtype])
        if count == 1:
            single = self._one[dtype]

            def multiply(a: int, b: int, out: int) -> None:
                check(issue(single, handle, ta, tb, m, n, k, one, a, la, b, lb, zero, out, m))

        else:
            batched = self._many[dtype]

            def multiply(a: int, b: int, out: int) -> None:
                check(issue(batched, handle, ta, tb, m, n, k, one, a, la, sa, b, lb, sb, zero, out, m, m * n, count))

        return multiply


@functools.cache
def _cublas() -> Cublas | None:
    """Return cuBLAS, or None without a GPU or the library."""
    gpu = current_gpu()
    if gpu.simulated:
        return None
    gpu.enter()
    for path in _paths():
        try:
            return Cublas(ctypes.CDLL(path), gpu.stream)
        except (OSError, AttributeError, DeviceError):  # not installed, or for another version of the driver
            continue
    return None


def _paths() -> list[str]:
    """Return candidate paths of cuBLAS: as pip installs it, and on the path of the linker."""
    from importlib.util import find_spec
    from pathlib import Path

    found: list[str] = []
    try:
        spec = find_spec("nvidia")
    except (ImportError, ValueError):
        spec = None
    for folder in (spec.submodule_search_locations or []) if spec else []:
        there = Path(folder).glob("*/lib/libcublas.so.*")
        found += [str(path) for path in sorted(there, key=lambda path: path.suffix, reverse=True)]
    return [*found, "libcublas.so.13", "libcublas.so.12", "libcublas.so"]
