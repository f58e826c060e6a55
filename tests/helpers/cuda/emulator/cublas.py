"""The functions of ``libcublas`` that are called, over the emulated GPU.

After https://docs.nvidia.com/cuda/cublas/: matrices are stored by columns.
"""

import ctypes
import functools
from typing import Any

import numpy as np

from tests.helpers.cuda.emulator.libcuda import Library

INVALID_VALUE, NOT_INITIALIZED = 7, 1
_HANDLE = 0xB1A5
_pointer, _int, _long = ctypes.c_void_p, ctypes.c_int, ctypes.c_longlong
_PRODUCT = (
    _pointer, _int, _int, _int, _int, _int, _pointer, _pointer, _int, _long, _pointer, _int, _long, _pointer, _pointer,
    _int, _long, _int,
)  # fmt: skip
_ONE_PRODUCT = (
    _pointer, _int, _int, _int, _int, _int, _pointer, _pointer, _int, _pointer, _int, _pointer, _pointer, _int,
)  # fmt: skip


class Cublas:
    """Stands for ``libcublas.so``."""

    def __init__(self, gpu: Library):
        self._gpu = gpu
        self._stream: int | None = None
        self.calls = 0
        self.cublasCreate_v2 = ctypes.CFUNCTYPE(_int, ctypes.POINTER(_pointer))(self._create)
        self.cublasSetStream_v2 = ctypes.CFUNCTYPE(_int, _pointer, _pointer)(self._set_stream)
        for letter, dtype in (("S", "f4"), ("D", "f8")):
            many = ctypes.CFUNCTYPE(_int, *_PRODUCT)(functools.partial(self._product, dtype))
            one = ctypes.CFUNCTYPE(_int, *_ONE_PRODUCT)(functools.partial(self._one_product, dtype))
            setattr(self, f"cublas{letter}gemmStridedBatched", many)
            setattr(self, f"cublas{letter}gemm_v2", one)

    def _create(self, handle: Any) -> int:
        handle[0] = _HANDLE
        return 0

    def _set_stream(self, handle: int, stream: int) -> int:
        self._stream = stream
        return 0 if handle == _HANDLE else NOT_INITIALIZED

    def _one_product(self, dtype, handle, ta, tb, m, n, k, alpha, a, lda, b, ldb, beta, c, ldc):
        return self._product(dtype, handle, ta, tb, m, n, k, alpha, a, lda, 0, b, ldb, 0, beta, c, ldc, 0, 1)

    def _product(self, dtype, handle, ta, tb, m, n, k, alpha, a, lda, sa, b, ldb, sb, beta, c, ldc, sc, count):
        shapes = (k, m) if ta else (m, k), (n, k) if tb else (k, n), (m, n)
        if handle != _HANDLE or self._stream is None:
            return NOT_INITIALIZED
        leading = lda, ldb, ldc
        if min(m, n, k, count) < 0 or any(at < max(1, rows) for at, (rows, _) in zip(leading, shapes, strict=True)):
            return INVALID_VALUE
        number = ctypes.c_float if dtype == "f4" else ctypes.c_double
        first, last = (number.from_address(at).value for at in (alpha, beta))

        def work() -> None:
            strides = sa, sb, sc
            places = [
                self._places(*each, dtype)
                for each in zip((a, b, c), leading, strides, shapes, (count,) * 3, strict=True)
            ]
            memory = self._gpu.memory.typed(dtype)
            left, right = (memory[place] for place in places[:2])
            left, right = (left.swapaxes(1, 2) if ta else left), (right.swapaxes(1, 2) if tb else right)
            before = memory[places[2]] * last if last else 0
            with np.errstate(all="ignore"):  # infinities are results like any other
                memory[places[2]] = first * (left @ right) + before

        self.calls += 1
        self._gpu._issue(self._stream, work)
        return 0

    def _places(self, address, leading, stride, shape, count, dtype):
        """Return where the elements of all matrices are in memory; every one of them has to be somebody's."""
        rows, columns = shape
        size = np.dtype(dtype).itemsize
        offsets = (
            np.arange(count)[:, None, None] * stride + np.arange(columns) * leading + np.arange(rows)[:, None]
        ) * size
        return self._gpu.memory.places((offsets + address).astype(np.uint64), size) // size
