"""Random numbers of kernels as Numba compiles them, here for the CPU: its types are not those of the simulator."""

import numba
import numpy as np
import pytest

from labnet.kernels.cuda.kernels import random

THREADS, BLOCKS = 8, 3
PLACES = {"cuda.grid(1)": "place", "cuda.gridsize(1)": "size", "cuda.threadIdx.x": "lane", "cuda.blockIdx.x": "block"}
CASTS = {"u4": numba.uint32, "u8": numba.uint64, "i8": numba.int64, "f4": numba.float32, "f8": numba.float64}
#: The types of numbers that the driver passes.
PASSED = {"i8": np.int64, "f4": np.float32, "u8": np.uint64}


class Machine:
    """Runs the threads of a grid one after the other."""

    threads, multiprocessors = THREADS, 1

    def kernel(self, text, types):
        for word, place in PLACES.items():
            text = text.replace(word, place)
        words = dict(CASTS)
        exec(text.replace("kernel(", f"kernel({', '.join(PLACES.values())}, "), words)
        kernel = numba.njit(words["kernel"])

        def launch(grid, block, *args):
            given = [PASSED[kind](x) if kind in PASSED else x for kind, x in zip(types, args, strict=True)]
            for place in range(grid[0] * block[0]):
                kernel(place, grid[0] * block[0], place % block[0], place // block[0], *given)

        return launch


class Memory:
    """Stands for an array on the GPU; where it lies is a NumPy array."""

    def __init__(self, values):
        self.address, self.size, self.dtype = values, values.size, values.dtype


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_what_numba_compiles_draws_what_numpy_does(monkeypatch, dtype):
    monkeypatch.setattr(random, "current_gpu", Machine)
    monkeypatch.setattr(random, "_BLOCKS", BLOCKS)
    monkeypatch.setattr(random, "_kernels", {})
    monkeypatch.setattr(random, "_table", lambda *shape: Memory(random.rows_of(*shape)))
    for seed in range(5):
        ours, theirs = np.random.default_rng(seed), np.random.default_rng(seed)
        for size in (1, 2, 7, THREADS * BLOCKS, 10 * THREADS * BLOCKS + 1):
            out = np.empty(size, dtype)
            random.fill(Memory(out), random.take_segment(ours, size, out.dtype))
            np.testing.assert_array_equal(out, theirs.random(size, dtype=dtype))
            assert ours.bit_generator.state == theirs.bit_generator.state
