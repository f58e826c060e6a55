"""Carries out expressions: one generated kernel computes every element of a result, from arrays of any strides.

Which arrays are read with strides is part of the kernel; lengths and strides are its arguments.
"""

import itertools
from typing import Any, NamedTuple, Protocol

import numpy as np

from labnet.kernels.cuda.codegen import transpose
from labnet.kernels.cuda.codegen.expressions import Graph, Node, cast, pattern
from labnet.kernels.cuda.codegen.iteration import (
    Space,
    arguments_of,
    grid_for,
    parts_text,
    place_text,
    strides_in,
    without_branches,
)
from labnet.kernels.cuda.codegen.scalars import stored
from labnet.kernels.cuda.driver.gpu import machine
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer, scalar

#: Elements that a thread has under way at a time, so that memory is never idle.
UNROLLED = 4
#: Nodes of an expression that is short enough for that even where places have to be worked out.
_SHORT = 12
_NARROW = 1 << 31


def _indent(lines: list[str], depth: int) -> list[str]:
    return ["    " * depth + line for line in lines]


def text_of(graph: Graph, out: Dtype, kinds: tuple[str, ...], dims: int, *, narrow: bool) -> tuple[str, list[str]]:
    """Return the text of a kernel for an expression, and the types of its arguments.

    Parameters
    ----------
    graph : Graph
    out : dtype
        Of the result, and of the root.
    kinds : tuple of str
        How each leaf is read, and last how the result is written; see `Space.kinds`.
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
    pointers = [f"p{place}" for place in range(len(graph.leaves))]
    constants = [f"c{place}" for place in range(len(graph.constants))]
    types = ["i8"] * (1 + len(lengths) + len(strides))
    types += [pointer(leaf.dtype) for leaf in graph.leaves]
    types += [scalar(constant.dtype) for constant in graph.constants]
    types.append(pointer(out))

    def element(index: str, suffix: str) -> tuple[list[str], list[str], str]:
        """Return the statements that read the leaves at a place, those that compute, and the one that writes."""
        prefix = f"k{suffix}_"
        lines = without_branches(parts_text(index, dims, prefix=prefix), narrow=narrow) if any(moving) else []
        places = [place_text(kind, which, index, prefix) for which, kind in enumerate(kinds)]
        loads = [f"p{place}[{where}]" for place, where in enumerate(places[:-1])]
        computed, (value,) = graph.text(loads, suffix)
        count = len(graph.leaves)
        return [*lines, *computed[:count]], computed[count:], f"out[{places[-1]}] = {stored(value, out)}"

    lines = [f"def kernel({', '.join(['n', *lengths, *strides, *pointers, *constants, 'out'])}):"]
    lines += _indent(["step = i8(cuda.gridsize(1))", "i = i8(cuda.grid(1))"], 1)
    # all elements are read before any is computed, which may branch, so that memory is never idle
    ahead = UNROLLED if not any(moving) or len(graph.key) <= _SHORT else 2
    lines += _indent([f"last = n - {ahead - 1} * step", "while i < last:"], 1)
    indices = ["i", *[f"at{place}" for place in range(1, ahead)]]
    lines += _indent([f"{now} = {before} + step" for before, now in itertools.pairwise(indices)], 2)
    elements = [element(index, f"_{place}") for place, index in enumerate(indices)]
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
    """Return a constant as a kernel gets it."""
    if dtype.kind == "f":
        return float(value)
    if dtype.kind == "b":
        return bool(value)
    low = int(np.iinfo(dtype).min)
    return (int(value) - low) % (1 << 8 * dtype.itemsize) + low  # around at the ends, as conversions go


class Target(Protocol):
    """Memory that an expression is computed into: an array of the GPU."""

    shape: tuple[int, ...]
    dtype: Dtype
    form: Any
    _address: int


class Plan(NamedTuple):
    """What there is to do for an expression of arrays of certain forms; all but where they lie.

    Attributes
    ----------
    launch : Launch or None
        None where there is nothing to compute.
    grid, block : tuple of int
    sizes : tuple of int
        What the kernel is given first: lengths and strides.
    leaves, constants : tuple of int
        Which of those of the expression the kernel is given then.
    """

    launch: Launch | None
    grid: tuple[int, ...] = ()
    block: tuple[int, ...] = ()
    sizes: tuple[int, ...] = ()
    leaves: tuple[int, ...] = ()
    constants: tuple[int, ...] = ()


_plans: dict[Any, Plan] = {}
#: Plans that are kept; a program that has more forms makes them again.
_MOST = 8192


def run(root: Node, out: Target) -> None:
    """Compute an expression, broadcast to the shape of `out`, into the memory of `out`, which is not pending."""
    if root.dtype is not out.dtype:
        root = cast(root, out.dtype)
    launch, grid, block, sizes, read, used = plan_of(root, out)
    if launch is not None:
        leaves, constants = root.leaves, root.constants
        launch(
            grid,
            block,
            *sizes,
            *[leaves[place].address for place in read],
            *[number(*constants[place]) for place in used],
            out._address,
        )


def plan_of(root: Node, out: Target) -> Plan:
    """Return what there is to do for an expression of the dtype of `out`."""
    leaves = root.leaves
    key = root.number, out.form, tuple([leaf.form for leaf in leaves]), pattern(leaves), pattern(root.constants)
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST:
            _plans.clear()
        plan = _plans[key] = _planned(root, out)
    return plan


def places(root: Node) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Return which leaves and which constants of an expression its graph has, which has each of them once."""

    def firsts(values: tuple[Any, ...]) -> tuple[int, ...]:
        first: dict[int, int] = {}
        for place, value in enumerate(values):
            first.setdefault(id(value), place)
        return tuple(first.values())

    return firsts(root.leaves), firsts(root.constants)


def _planned(root: Node, out: Any) -> Plan:
    """Find out how to compute an expression."""
    layout, shape = out.layout_of(), out.shape
    size = layout.size
    if not size:
        return Plan(None)
    graph = Graph(root)
    layouts = [leaf.payload.layout for leaf in graph.leaves]
    space = Space.of(shape, (*[strides_in(each, shape) for each in layouts], strides_in(layout, shape)))
    kinds = space.kinds()
    gpu = machine()
    read, used = places(root)
    if kinds[-1] == "flat":
        turn = transpose.turn_of(graph, space.lengths, space.strides[:-1], gpu.tile)
        found = turn and transpose.planned(graph, out.dtype, turn, space.lengths, space.strides)
        if found:
            return Plan(*found, read, used)
    narrow = size < _NARROW
    key = graph.key, kinds, len(space.lengths), narrow, out.dtype.char
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(
            *text_of(graph, out.dtype, kinds, max(1, len(space.lengths)), narrow=narrow)
        )
    grid = grid_for(-(-size // UNROLLED), gpu.threads)
    return Plan(launch, (grid,), (gpu.threads,), (size, *arguments_of(space, kinds)), read, used)


def address(layout: np.ndarray[Any, Any]) -> int:
    """Return where the first element lies."""
    found: int = layout.__array_interface__["data"][0]
    return found
