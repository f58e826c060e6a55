"""Steps of optimizers, for many arrays in one launch.

The formula is traced once with stand-ins, and its expression becomes the source of a kernel. Each block finds its part
of an array in tables of addresses, so a hundred small arrays cost no more than one large one.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import materialize_readers
from labnet.kernels.cuda.codegen.elementwise import number
from labnet.kernels.cuda.codegen.expressions import Graph, Node, cast
from labnet.kernels.cuda.codegen.scalars import store_source
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import Dtype, Launch, pointer, scalar

#: Elements per thread in a block.
_PER_THREAD = 8
_kernels: dict[Any, Launch] = {}
Formula = Callable[[Any, Any, dict[str, Any], Sequence[float]], Any]


def are_supported(values: Sequence[Any], gradients: Sequence[Any]) -> bool:
    """Return whether all arrays are on the GPU, of one floating dtype; states of float16 are kept in float32."""
    arrays = [*values, *gradients]
    return all(isinstance(x, DeviceArray) and x.dtype.char in "fd" and x.dtype == arrays[0].dtype for x in arrays)


def update(
    formula: Formula,
    numbers: Sequence[float],
    values: Sequence[DeviceArray],
    gradients: Sequence[DeviceArray],
    slots: Sequence[str],
    states: Sequence[Sequence[DeviceArray | None]],
) -> tuple[list[DeviceArray], list[list[DeviceArray | None]]] | None:
    """Return the new values, in new memory, and the states, which are overwritten; None if the formula is too long.

    Parameters
    ----------
    formula : callable
        ``formula(value, gradient, state, numbers)`` returns the new value and puts new states into the dict `state`.
    numbers : sequence of float
        Further arguments of the formula at this step.
    values, gradients : sequences of arrays of one dtype
    slots : sequence of str
        Names of the states.
    states : sequence of sequences of arrays
        For each value one array per slot; None stands for zeros.
    """
    dtype = values[0].dtype
    try:
        graph, written = _traced(formula, numbers, slots, dtype)
    except _TooLong:
        return None
    kept = [
        [_or_zeros(state, value) if i in written else None for i, state in enumerate(own)]
        for value, own in zip(values, states, strict=True)
    ]
    news = [DeviceArray.empty(value.shape, dtype) for value in values]
    read = [[_flat(value) for value in values], [_flat(gradient) for gradient in gradients]]
    changed = [[own[i] for own in kept] for i in written]
    for arrays in changed:
        for array in arrays:
            assert array is not None
            materialize_readers(array.block)
    columns: list[list[Any]] = [*read, *changed, news]
    addresses = np.array([[array.address for array in column] for column in columns], np.int64)
    tables = DeviceArray.upload(addresses)
    sizes, which, starts = _chunks(tuple(value.size for value in values), current_gpu().threads * _PER_THREAD)
    if not which.size:
        return news, kept
    gpu = current_gpu()
    key = graph.key, dtype, len(written)
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(*kernel_source(graph, dtype, len(written), gpu.threads * _PER_THREAD))
    launch(
        (which.size,),
        (gpu.threads,),
        *(sizes.address, which.address, starts.address),
        *[tables.address + 8 * len(values) * i for i in range(len(columns))],
        *[number(node.payload, node.dtype) for node in graph.constants],
    )
    return news, kept


def _or_zeros(state: DeviceArray | None, like: DeviceArray) -> DeviceArray:
    return DeviceArray.filled(like.shape, 0, like.dtype) if state is None else _flat(state)


def _flat(x: DeviceArray) -> DeviceArray:
    x = x.materialize()
    return x.contiguous()


class _TooLong(Exception):
    """The expression of a formula exceeds the length of one kernel."""


class _StandIn:
    """A stand-in for the array of a leaf, at an address outside the memory of the GPU."""

    layout = np.empty(1)

    @property
    def form(self) -> object:
        """Refuse to be read, which an expression is computed for when it becomes too long."""
        raise _TooLong


def _traced(formula: Formula, numbers: Sequence[float], slots: Sequence[str], dtype: Dtype) -> tuple[Graph, list[int]]:
    """Return the expressions of the formula, new value first, and the slots that it writes."""

    def stand() -> DeviceArray:
        return DeviceArray.pending(Node("leaf", dtype, payload=_StandIn()), (1,))

    value, gradient, state = stand(), stand(), {slot: stand() for slot in slots}
    before = dict(state)
    new = formula(value, gradient, state, numbers)
    written = [i for i, slot in enumerate(slots) if state[slot] is not before[slot]]
    roots = [_node(new, dtype), *[_node(state[slots[i]], dtype) for i in written]]
    leaves = [_node(x, dtype) for x in (value, gradient, *[before[slots[i]] for i in written])]
    # the leaves first, so that their order does not depend on the formula
    return Graph(*leaves, *roots), written


def _node(x: DeviceArray, dtype: Dtype) -> Node:
    assert x.expression is not None
    return cast(x.expression, dtype)


@functools.lru_cache(64)
def _chunks(sizes: tuple[int, ...], each: int) -> tuple[DeviceArray, DeviceArray, DeviceArray]:
    """Return the sizes, and for each part its array and where it starts."""
    parts = [(i, start) for i, size in enumerate(sizes) for start in range(0, size, each)]
    which = np.array([i for i, _ in parts], np.int64)
    starts = np.array([start for _, start in parts], np.int64)
    return DeviceArray.upload(np.array(sizes, np.int64)), DeviceArray.upload(which), DeviceArray.upload(starts)


def kernel_source(graph: Graph, dtype: Dtype, written: int, each: int) -> tuple[str, list[str]]:
    """Return the source of the kernel, and the types of its arguments."""
    inputs = 2 + written
    tables = [f"t{i}" for i in range(inputs + 1)]
    constants = [f"c{i}" for i in range(len(graph.constants))]
    computed, names = graph.source([f"p{i}[i]" for i in range(inputs)])
    new, *states = names[inputs:]
    lines = [
        f"def kernel({', '.join(['sizes', 'which', 'starts', *tables, *constants])}):",
        "    part = i8(cuda.blockIdx.x)",
        "    array = which[part]",
        *[f"    p{i} = t{i}[array]" for i in range(inputs + 1)],
        f"    end = min(starts[part] + {each}, sizes[array])",
        "    i = starts[part] + i8(cuda.threadIdx.x)",
        "    step = i8(cuda.blockDim.x)",
        "    while i < end:",
        *["        " + line for line in computed],
        f"        p{inputs}[i] = {store_source(new, dtype)}",
        *[f"        p{2 + i}[i] = {store_source(state, dtype)}" for i, state in enumerate(states)],
        "        i += step",
    ]
    types = ["pi8"] * 3 + ["p" + pointer(dtype)] * len(tables) + [scalar(node.dtype) for node in graph.constants]
    return "\n".join(lines) + "\n", types
