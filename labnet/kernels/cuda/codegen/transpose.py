"""Expressions of transposed arrays, tile by tile through shared memory.

Neighbouring threads read and write neighbouring elements; without tiles each thread would fetch 32 bytes per element.
After Ruetsch and Micikevicius, Optimizing Matrix Transpose in CUDA, 2009.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from labnet.kernels.cuda.codegen.expressions import Graph
from labnet.kernels.cuda.codegen.scalars import store_source
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer, scalar

_HALF = np.dtype("float16")


@dataclass(frozen=True)
class Transposition:
    """Arrays that are contiguous along another dimension than the result.

    Attributes
    ----------
    axis : int
        Dimension along which those arrays are contiguous.
    leaves : tuple of int
        Positions of those arrays.
    """

    axis: int
    leaves: tuple[int, ...]


def find_transposition(
    graph: Graph, lengths: Sequence[int], strides: Sequence[Sequence[int]], tile: int
) -> Transposition | None:
    """Return the arrays to read through tiles, if there are any.

    Parameters
    ----------
    graph : Graph
    lengths : sequence of int
        Lengths of the dimensions; the result is contiguous along the last one.
    strides : sequence of sequence of int
        Strides of each leaf, in elements.
    tile : int
        Side of a tile.
    """
    if len(lengths) < 2 or lengths[-1] < tile:
        return None
    found: dict[int, list[int]] = {}
    for number, (leaf, own) in enumerate(zip(graph.leaves, strides, strict=True)):
        if own[-1] in (0, 1) or leaf.dtype == _HALF:
            continue
        axis = next((a for a, step in enumerate(own[:-1]) if step == 1 and lengths[a] >= tile), None)
        if axis is not None:
            found.setdefault(axis, []).append(number)
    if not found:
        return None
    axis = max(found, key=lambda a: len(found[a]))
    return Transposition(axis, tuple(found[axis][:4]))


def kernel_source(
    graph: Graph, out: Dtype, transposition: Transposition, dims: int, tile: int
) -> tuple[str, list[str]]:
    """Return the source of a kernel, and the types of its arguments; a block computes one tile of the result."""
    axis, last, count = transposition.axis, dims - 1, len(graph.leaves)
    others = [d for d in range(dims) if d not in (axis, last)]
    sizes = ["height", "width", "high", "wide", *[f"n{d}" for d in others[1:]]]
    strides = [f"s{number}_{d}" for number in range(count + 1) for d in range(dims)]
    pointers = [f"p{number}" for number in range(count)]
    constants = [f"c{number}" for number in range(len(graph.constants))]
    types = ["i8"] * (len(sizes) + len(strides)) + [pointer(leaf.dtype) for leaf in graph.leaves]
    types += [*[scalar(constant.dtype) for constant in graph.constants], pointer(out)]

    def offset(number: int, row: str, column: str) -> str:
        return f"b{number} + ({row}) * s{number}_{axis} + ({column}) * s{number}_{last}"

    lines = [f"def kernel({', '.join([*sizes, *strides, *pointers, *constants, 'out'])}):"]
    for number in transposition.leaves:
        kind = pointer(graph.leaves[number].dtype).removeprefix("p")
        lines.append(f"    t{number} = cuda.shared.array(({tile}, {tile + 1}), {kind}_)")
    lines += [
        "    x, y, rest = i8(cuda.threadIdx.x), i8(cuda.threadIdx.y), i8(cuda.blockIdx.x)",
        f"    left, rest = (rest % wide) * {tile}, rest // wide",
        f"    top, rest = (rest % high) * {tile}, rest // high",
    ]
    for d in reversed(others[1:]):
        lines.append(f"    k{d}, rest = rest % n{d}, rest // n{d}")
    if others:
        lines.append(f"    k{others[0]} = rest")
    for number in range(count + 1):
        lines.append(f"    b{number} = " + (" + ".join(f"k{d} * s{number}_{d}" for d in others) or "0"))
    lines.append("    if top + x < height and left + y < width:")
    lines += [
        f"        t{number}[y, x] = p{number}[{offset(number, 'top + x', 'left + y')}]"
        for number in transposition.leaves
    ]
    lines += ["    cuda.syncthreads()", "    if top + y < height and left + x < width:"]
    loads = [
        f"t{number}[x, y]" if number in transposition.leaves else f"p{number}[{offset(number, 'top + y', 'left + x')}]"
        for number in range(count)
    ]
    computed, (value,) = graph.source(loads, "")
    lines += [f"        {line}" for line in computed]
    lines.append(f"        out[{offset(count, 'top + y', 'left + x')}] = {store_source(value, out)}")
    return "\n".join(lines) + "\n", types


_kernels: dict[Any, Launch] = {}


def plan(
    graph: Graph, out: Dtype, transposition: Transposition, lengths: Sequence[int], strides: Sequence[Sequence[int]]
) -> tuple[Launch, tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Return the kernel that computes an expression by tiles, its grid, block and sizes, or None with too many tiles.

    Parameters
    ----------
    strides : sequence of sequence of int
        Strides of each leaf and, last, of the result, in elements.
    """
    gpu = current_gpu()
    tile, dims = gpu.tile, len(lengths)
    height, width = lengths[transposition.axis], lengths[-1]
    high, wide = -(-height // tile), -(-width // tile)
    others = [length for d, length in enumerate(lengths) if d not in (transposition.axis, dims - 1)]
    blocks = high * wide * int(np.prod(others, dtype=np.int64))
    if blocks >= 1 << 31:
        return None
    key = graph.key, transposition, dims, out.char
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(graph, out, transposition, dims, tile))
    steps = [step for own in strides for step in own]
    return launch, (blocks,), (tile, tile), (height, width, high, wide, *others[1:], *steps)
