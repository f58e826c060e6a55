"""Uniform random numbers: the stream of a NumPy generator, which each thread enters at its own position.

PCG64 (O'Neill, 2014) has a state of 128 bits, ``s -> A s + c``, and makes 64 random bits of each. So k steps lead from
``s`` to ``s + R(k) (A s + c - s)`` with ``R(k) = 1 + A + ... + A**(k - 1)``, all modulo 2**128: no seed is in ``R``, of
which one table serves all draws. The host advances its generator past a segment of the stream without computing it; a
kernel computes the numbers that NumPy would have drawn.

The GPU draws for small sizes too: advancing the generator costs 6 us, in which NumPy draws some 2,000 numbers, which
would still have to be copied.
"""

import functools
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.codegen.scalars import store_source
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer

_MULTIPLIER = 0x2360ED051FC65DA44385DF649FCCF645
_BITS = 128
_MASK, _WORD = (1 << _BITS) - 1, (1 << 64) - 1
#: Blocks per multiprocessor, which fill it. More of them would enter the stream for a few numbers each.
_BLOCKS = 8
_SINGLE, _DOUBLE = np.dtype("float32"), np.dtype("float64")


@dataclass(frozen=True)
class Segment:
    """A segment of a stream.

    Attributes
    ----------
    state, increment : int
        State and increment of the generator before the segment.
    words : int
        Number of steps, each of 64 bits.
    first : float or None
        A number before the first step, from 32 bits that were left of the word before.
    """

    state: int
    increment: int
    words: int
    first: float | None = None


@functools.lru_cache(4096)
def _reach(steps: int) -> int:
    """Return ``1 + A + ... + A**(steps - 1)``, by a division by ``A - 1`` of a wider power."""
    less = _MULTIPLIER - 1
    return (pow(_MULTIPLIER, steps, less << _BITS) - 1) // less & _MASK


def _power(steps: int) -> int:
    return 1 + (_MULTIPLIER - 1) * _reach(steps) & _MASK


def _after(state: int, increment: int, steps: int) -> int:
    """Return the state so many steps later."""
    return _power(steps) * state + _reach(steps) * increment & _MASK


def _word(state: int) -> int:
    """Return the 64 bits of a state: the exclusive or of its halves, rotated by its upper six bits."""
    mixed, turn = (state >> 64 ^ state) & _WORD, state >> 122
    return (mixed >> turn | mixed << 64 - turn) & _WORD


def take_segment(generator: np.random.Generator, count: int, dtype: Dtype) -> Segment:
    """Advance a generator as ``generator.random(count, dtype)`` does, and return the segment that it passed.

    Single precision takes 32 bits for each number, double precision 64. The time does not depend on the count.

    Examples
    --------
    >>> ours, theirs = np.random.default_rng(0), np.random.default_rng(0)
    >>> segment, numbers = take_segment(ours, 1_001, np.dtype("float32")), theirs.random(1_001, "float32")
    >>> segment.words, ours.bit_generator.state == theirs.bit_generator.state
    (501, True)
    """
    bits = generator.bit_generator
    with bits.lock:  # as NumPy does while it draws; reading and setting the state does not lock
        now: Any = bits.state
        state, increment = now["state"]["state"], now["state"]["inc"]
        if dtype == _DOUBLE or not count:
            words, first = count, None
        else:
            first = (now["uinteger"] >> 8) * 2.0**-24 if now["has_uint32"] else None
            rest = count - now["has_uint32"]
            words, now["has_uint32"] = -(-rest // 2), rest % 2
        last = _after(state, increment, words)
        if dtype != _DOUBLE and words:
            now["uinteger"] = _word(last) >> 32
        now["state"]["state"] = last
        bits.state = now
    return Segment(state, increment, words, first)


def uniform(generator: np.random.Generator, shape: Any, dtype: Dtype) -> DeviceArray:
    """Return the numbers of ``generator.random(shape)``, and advance the generator as that does.

    Parameters
    ----------
    generator : Generator
        With NumPy's default bit generator.
    shape : int or tuple of int
    dtype : dtype
        Other dtypes than float64 are drawn in float32 and converted.
    """
    out = DeviceArray.empty(shape, dtype if dtype.kind == "f" else _SINGLE)
    segment = take_segment(generator, out.size, out.dtype)
    if out.size:
        fill(out, segment)
    return out.astype(dtype, copy=False)


_kernels: dict[Dtype, Launch] = {}


def fill(out: DeviceArray, segment: Segment) -> None:
    """Fill an array with the numbers of a segment."""
    gpu = current_gpu()
    launch = _kernels.get(out.dtype)
    if launch is None:
        launch = _kernels[out.dtype] = gpu.kernel(*kernel_source(out.dtype, gpu.threads))
    blocks = max(1, min(-(-segment.words // gpu.threads), gpu.multiprocessors * _BLOCKS))
    stride = gpu.threads * blocks
    first = _after(segment.state, segment.increment, 1)  # each word follows a step
    launch(
        (blocks,),
        (gpu.threads,),
        out.size,
        segment.words,
        int(segment.first is not None),
        segment.first or 0.0,
        *_halves(first),
        *_halves((_MULTIPLIER - 1) * first + segment.increment),
        *_halves(_power(stride)),
        *_halves(_reach(stride) * segment.increment),
        _table(gpu.threads, gpu.multiprocessors * _BLOCKS).address,
        out.address,
    )


def _halves(number: int) -> tuple[int, int]:
    return number >> 64 & _WORD, number & _WORD


@functools.cache
def _table(threads: int, blocks: int) -> DeviceArray:
    return DeviceArray.upload(rows_of(threads, blocks))


def rows_of(threads: int, blocks: int) -> np.ndarray[Any, Any]:
    """Return ``A**k`` and ``R(k)`` for each thread of a block, then for each block: upper and lower halves in turn."""
    steps = [*range(threads), *range(0, threads * blocks, threads)]
    return np.array([(*_halves(_power(k)), *_halves(_reach(k))) for k in steps], np.uint64).ravel()


def _product(name: str, x: str, y: str) -> list[str]:
    """Return statements that multiply two numbers of 128 bits, the lower halves by 32 bits at a time."""
    return [
        f"x0 = {x}_low & low32",
        f"x1 = {x}_low >> half",
        f"y0 = {y}_low & low32",
        f"y1 = {y}_low >> half",
        "p00 = x0 * y0",
        "p10 = x1 * y0 + (p00 >> half)",
        "p01 = x0 * y1 + (p10 & low32)",
        "carried = x1 * y1 + (p10 >> half) + (p01 >> half)",
        f"{name}_high = carried + {x}_high * {y}_low + {x}_low * {y}_high",
        f"{name}_low = (p01 << half) | (p00 & low32)",
    ]


def _sum(name: str, x: str, y: str) -> list[str]:
    """Return statements that add two numbers of 128 bits."""
    return [
        f"total = {x}_low + {y}_low",
        f"{name}_high = {x}_high + {y}_high + (u8(1) if total < {y}_low else u8(0))",
        f"{name}_low = total",
    ]


def kernel_source(dtype: Dtype, threads: int) -> tuple[str, list[str]]:
    """Return the source of the kernel, and the types of its arguments."""
    if dtype == _DOUBLE:
        written = ["out[i] = f8(word >> u8(11)) * f8(1.1102230246251565e-16)"]
    else:
        written = [
            "at = held + 2 * i",
            f"out[at] = {store_source(_single('(word & low32) >> u8(8)'), dtype)}",
            "if at + 1 < n:",
            f"    out[at + 1] = {store_source(_single('word >> u8(40)'), dtype)}",
        ]
    entered = [
        "low32 = u8(4294967295)",
        "half = u8(32)",
        "i = i8(cuda.grid(1))",
        "step = i8(cuda.gridsize(1))",
        "if i == 0 and held > 0:",
        f"    out[0] = {store_source('first', dtype) if dtype != _DOUBLE else 'f8(first)'}",
        "lane_high = table[4 * i8(cuda.threadIdx.x) + 2]",
        "lane_low = table[4 * i8(cuda.threadIdx.x) + 3]",
        f"row = 4 * (i8(cuda.blockIdx.x) + {threads})",
        "power_high = table[row]",
        "power_low = table[row + 1]",
        "reach_high = table[row + 2]",
        "reach_low = table[row + 3]",
        *_product("moved", "power", "lane"),
        *_sum("reach", "moved", "reach"),
        *_product("moved", "reach", "move"),
        *_sum("state", "moved", "start"),
    ]
    loop = [
        "mixed = state_high ^ state_low",
        "turn = state_high >> u8(58)",
        "word = (mixed >> turn) | (mixed << ((u8(64) - turn) & u8(63)))",
        *written,
        *_product("moved", "leap", "state"),
        *_sum("state", "moved", "shift"),
        "i += step",
    ]
    names = [f"{name}_{half}" for name in ("start", "move", "leap", "shift") for half in ("high", "low")]
    lines = [f"def kernel({', '.join(['n', 'words', 'held', 'first', *names, 'table', 'out'])}):"]
    lines += [f"    {line}" for line in entered]
    lines += ["    while i < words:", *[f"        {line}" for line in loop]]
    return "\n".join(lines) + "\n", ["i8", "i8", "i8", "f4", *["u8"] * len(names), "pu8", pointer(dtype)]


def _single(bits: str) -> str:
    """Return the source of a number of single precision from 24 bits."""
    return f"{CASTS[_SINGLE]}(u4({bits})) * f4(5.9604644775390625e-08)"
