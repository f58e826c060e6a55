"""NumPy's inner loops in compiled code: the same bits as NumPy, wherever a block begins."""

import numpy as np
import pytest

from labnet.kernels import numpy_loops
from labnet.kernels.machine_code import cache

KERNEL = """
from numba import int64, njit

from labnet.kernels.cpu.arrays import OPTIONS, item, word
from labnet.kernels.cpu.ufunc_calls import ufunc_call
from labnet.kernels.machine_code.array_layout import DATA

loop = ufunc_call({name!r}, {types!r})


@njit(**OPTIONS)
def blocks(arrays, size, block):
    start = 0
    while size - start > block:
        loop({places}, block)
        start += block
    loop({places}, size - start)
    return 1


kernel = blocks, int64(int64, int64, int64)
"""
VALUES = [0.0, -0.0, 1.0, -1.0, 0.5, -0.3, 20.0, -20.0, 100.0, -100.0, 1e-30, 1e-42, np.inf, -np.inf, np.nan]
UFUNCS = ("exp", "log", "tanh", "sin", "cos", "expm1", "log1p", "log2", "log10", "sqrt", "arctan", "sinh", "logaddexp")


def kernel_of(name, types):
    widths = [np.dtype(one).itemsize for one in types]
    places = ", ".join(f"word(item(arrays, {i}) + DATA) + {width} * start" for i, width in enumerate(widths))
    return cache.load(KERNEL.format(name=name, types=types, places=places))


@pytest.mark.parametrize("dtype", ["f", "d"])
@pytest.mark.parametrize("name", UFUNCS)
def test_blocks_have_the_bits_of_the_whole_array(name, dtype):
    ufunc, rng = getattr(np, name), np.random.default_rng(0)
    kernel = kernel_of(name, dtype * ufunc.nargs)
    numbers = np.concatenate([VALUES, rng.standard_normal(3000) * 8]).astype(dtype)
    with np.errstate(all="ignore"):
        for size, offset, block in [(0, 0, 1), (1, 3, 1), (7, 1, 3), (129, 5, 128), (3000, 0, 1000), (3000, 9, 77)]:
            inputs = [rng.permutation(numbers)[offset : offset + size] for _ in range(ufunc.nin)]
            out = np.empty(size, dtype)
            assert kernel(arrays := (*inputs, out), size, block)
            assert arrays[-1].tobytes() == ufunc(*inputs).tobytes()


@pytest.mark.parametrize("symbol", ["no_such", "exp", "array", "e"])
def test_a_loop_that_numpy_lacks_is_not_defined(symbol):
    assert numpy_loops._loop(symbol, "fd") is None


def test_code_that_needs_a_loop_that_numpy_lacks_is_refused():
    with pytest.raises(ImportError, match="labnet_loop_fd_exp"):
        kernel_of("exp", "fd")
