"""Elementwise kernels: one generated kernel computes an expression of arrays of any strides.

Which arrays are read with strides is part of the kernel; lengths and strides are its arguments.
"""

import itertools
from typing import Any, NamedTuple, Protocol

import numpy as np

from labnet.kernels.cuda.codegen import transpose
from labnet.kernels.cuda.codegen.expressions import Graph, Node, cast, identity_pattern
from labnet.kernels.cuda.codegen.iteration import (
    Space,
    arguments_of,
    grid_for,
    index_source,
    offset_source,
    strides_in,
    with_index_width,
)
from labnet.kernels.cuda.codegen.scalars import store_source
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer, scalar

#: Elements that a thread reads before it computes, so that memory is never idle.
UNROLLED = 4
#: Maximum number of nodes of an expression that is unrolled fully with strides too.
_SHORT = 12
_NARROW = 1 << 31


def _indent(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def kernel_source(
    graph: Graph, out: Dtype, kinds: tuple[str, ...], dims: int, *, narrow: bool
) -> tuple[str, list[str]]:
    """Return the source of the kernel of an expression, and the types of its arguments.

    Parameters
    ----------
    graph : Graph
    out : dtype
        Dtype of the result and of the root.
    kinds : tuple of str
        Access to each leaf and, last, to the result; see `Space.kinds`.
    dims : int
        Number of dimensions.
    narrow : bool
        Every index fits into 32 bits.
    """
    moving = [kind not in ("flat", "one") for kind in kinds]
    lengths = [f"n{axis}" for axis in range(1, dims)] if any(moving) else []
    strides = [
        f"s{which}_{axis}"
        for which, kind in enumerate(kinds)
        if moving[which]
        for axis, moves in enumerate(kind)
        if moves == "1"
    ]
    pointers = [f"p{position}" for position in range(len(graph.leaves))]
    constants = [f"c{position}" for position in range(len(graph.constants))]
    types = ["i8"] * (1 + len(lengths) + len(strides))
    types += [pointer(leaf.dtype) for leaf in graph.leaves]
    types += [scalar(constant.dtype) for constant in graph.constants]
    types.append(pointer(out))

    def element(index: str, suffix: str) -> tuple[list[str], list[str], str]:
        """Return statements that read the leaves at an index, that compute, and the one that writes."""
        prefix = f"k{suffix}_"
        lines = with_index_width(index_source(index, dims, prefix=prefix), narrow=narrow) if any(moving) else []
        offsets = [offset_source(kind, which, index, prefix) for which, kind in enumerate(kinds)]
        loads = [f"p{position}[{where}]" for position, where in enumerate(offsets[:-1])]
        computed, (value,) = graph.source(loads, suffix)
        count = len(graph.leaves)
        return [*lines, *computed[:count]], computed[count:], f"out[{offsets[-1]}] = {store_source(value, out)}"

    lines = [f"def kernel({', '.join(['n', *lengths, *strides, *pointers, *constants, 'out'])}):"]
    lines += _indent(["step = i8(cuda.gridsize(1))", "i = i8(cuda.grid(1))"], 1)
    # all elements are read before the first is computed, since computing may branch
    ahead = UNROLLED if not any(moving) or len(graph.key) <= _SHORT else 2
    lines += _indent([f"last = n - {ahead - 1} * step", "while i < last:"], 1)
    indices = ["i", *[f"at{position}" for position in range(1, ahead)]]
    lines += _indent([f"{now} = {before} + step" for before, now in itertools.pairwise(indices)], 2)
    elements = [element(index, f"_{position}") for position, index in enumerate(indices)]
    lines += _indent([line for reading, _, _ in elements for line in reading], 2)
    lines += _indent([line for _, computing, _ in elements for line in computing], 2)
    lines += _indent([write for _, _, write in elements], 2)
    lines += _indent([f"i = {indices[-1]} + step"], 2)
    reading, computing, write = element("i", "")
    body = [*reading, *computing]
    lines += _indent(["while i < n:"], 1)
    lines += _indent([*body, write, "i += step"], 2)
    return "\n".join(lines) + "\n", types


_kernels: dict[Any, Launch] = {}


def number(value: Any, dtype: Dtype) -> Any:
    """Return a constant as an argument of a kernel."""
    if dtype.kind == "f":
        return float(value)
    if dtype.kind == "b":
        return bool(value)
    low = int(np.iinfo(dtype).min)
    return (int(value) - low) % (1 << 8 * dtype.itemsize) + low  # wraps around, as casts do


class Target(Protocol):
    """An array of the GPU whose memory an expression is computed into."""

    shape: tuple[int, ...]
    dtype: Dtype
    form: Any
    allocated_address: int


class Plan(NamedTuple):
    """The launch for an expression of arrays of certain forms; only their addresses are missing.

    Attributes
    ----------
    launch : Launch or None
        None if there is nothing to compute.
    grid, block : tuple of int
    sizes : tuple of int
        First arguments of the kernel: lengths and strides.
    leaves, constants : tuple of int
        Positions in the expression of the arguments that follow.
    """

    launch: Launch | None
    grid: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()
    constants: tuple[int, ...] = ()


_plans: dict[Any, Plan] = {}
#: Maximum number of plans; all are dropped when it is reached.
_MOST = 8192


def run(root: Node, out: Target) -> None:
    """Compute an expression, broadcast to the shape of `out`, into the memory of `out`."""
    if root.dtype is not out.dtype:
        root = cast(root, out.dtype)
    launch, grid, block, sizes, read, used = plan_of(root, out)
    if launch is not None:
        leaves, constants = root.leaves, root.constants
        launch(
            grid,
            block,
            *sizes,
            *[leaves[position].address for position in read],
            *[number(*constants[position]) for position in used],
            out.allocated_address,
        )


def plan_of(root: Node, out: Target) -> Plan:
    """Return the plan of an expression of the dtype of `out`."""
    leaves = root.leaves
    key = (
        root.number,
        out.form,
        tuple([leaf.form for leaf in leaves]),
        identity_pattern(leaves),
        identity_pattern(root.constants),
    )
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST:
            _plans.clear()
        plan = _plans[key] = _make_plan(root, out)
    return plan


def distinct_operands(root: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return the positions of the distinct leaves and constants of an expression, which its graph has."""

    def firsts(values: tuple[Any, ...]) -> tuple[int, ...]:
        first: dict[int, int] = {}
        for position, value in enumerate(values):
            first.setdefault(id(value), position)
        return tuple(first.values())

    return firsts(root.leaves), firsts(root.constants)


def _make_plan(root: Node, out: Any) -> Plan:
    """Make the plan of an expression."""
    layout, shape = out.allocated_layout(), out.shape
    size = layout.size
    if not size:
        return Plan(None)
    graph = Graph(root)
    layouts = [leaf.payload.layout for leaf in graph.leaves]
    space = Space.of(shape, (*[strides_in(each, shape) for each in layouts], strides_in(layout, shape)))
    kinds = space.kinds()
    gpu = current_gpu()
    read, used = distinct_operands(root)
    if kinds[-1] == "flat":
        transposition = transpose.find_transposition(graph, space.lengths, space.strides[:-1], gpu.tile)
        found = transposition and transpose.plan(graph, out.dtype, transposition, space.lengths, space.strides)
        if found:
            return Plan(*found, read, used)
    narrow = size < _NARROW
    key = graph.key, kinds, len(space.lengths), narrow, out.dtype.char
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(
            *kernel_source(graph, out.dtype, kinds, max(1, len(space.lengths)), narrow=narrow)
        )
    grid = grid_for(-(-size // UNROLLED), gpu.threads)
    return Plan(launch, (grid,), (gpu.threads,), (size, *arguments_of(space, kinds)), read, used)


def address(layout: np.ndarray[Any, Any]) -> int:
    """Return the address of the first element."""
    found: int = layout.__array_interface__["data"][0]
    return found
