"""Reductions of arrays or expressions over any dimensions: sums, products, extremes and their positions, all, any.

A block of threads has one side along the kept dimensions and one along the reduced ones. Neighbouring threads read
neighbours in memory: many threads share a row if the last dimension is reduced, and each has a column if it is kept.
Few results of many elements are computed in parts first. The order of additions depends on the shape alone, so the
same values give the same bits.
"""

import functools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import write_out
from labnet.kernels.cuda.codegen.elementwise import distinct_operands, number
from labnet.kernels.cuda.codegen.expressions import Graph, Node, cast, identity_pattern
from labnet.kernels.cuda.codegen.iteration import Space, index_source, strides_in, with_index_width
from labnet.kernels.cuda.codegen.scalars import BOOL, store_source, working
from labnet.kernels.cuda.driver.gpu import current_gpu
from labnet.kernels.cuda.driver.kernel import CASTS, Dtype, Launch, pointer, scalar

#: Source of one step, from the result so far and the next value.
_STEPS = {
    "add": "{0} + {1}",
    "multiply": "{0} * {1}",
    "maximum": "({1} if {1} > {0} or {1} != {1} else {0})",
    "minimum": "({1} if {1} < {0} or {1} != {1} else {0})",
    "logical_and": "({0} and {1})",
    "logical_or": "({0} or {1})",
}
#: Comparison by which the next value is the new extreme.
_BETTER = {"argmax": ">", "argmin": "<"}
_kernels: dict[Any, Launch] = {}
_WIDEST = 1 << 31
#: Elements that a thread reads before it uses the first, and maximum number of nodes of an expression for that.
_AHEAD = 4
_LONG = 24


def _axes(axis: Any, ndim: int) -> tuple[int, ...]:
    """Return the dimensions to reduce, ascending."""
    if axis is None or (ndim == 0 and axis in (0, -1)):  # as NumPy accepts for a scalar
        return tuple(range(ndim))
    given = axis if isinstance(axis, tuple | list) else (axis,)
    found = [np.lib.array_utils.normalize_axis_index(int(a), ndim) for a in given]
    if len(set(found)) != len(found):
        raise ValueError("duplicate value in 'axis'")
    return tuple(sorted(found))


def _identity(name: str, dtype: Dtype) -> Any:
    if name in ("add", "logical_or"):
        return 0
    if name in ("multiply", "logical_and"):
        return 1
    if dtype.kind == "f":
        return -np.inf if name == "maximum" else np.inf
    if dtype.kind == "b":
        return name != "maximum"
    limits = np.iinfo(dtype)
    return limits.min if name == "maximum" else limits.max


def reduce(
    ufunc: Any,
    x: DeviceArray,
    axis: Any = 0,
    dtype: Any = None,
    out: Any = None,
    keepdims: bool = False,
    **_: Any,
) -> DeviceArray:
    """Return the reduction of a universal function, as ``ufunc.reduce`` of NumPy does."""
    name = ufunc.__name__
    if name.startswith("logical"):
        kept: Dtype = BOOL
    elif name in ("maximum", "minimum"):
        kept = x.dtype
    else:
        kept = np.dtype(dtype) if dtype is not None else np.add.reduce(np.empty(0, x.dtype)).dtype
    if name in ("maximum", "minimum") and x.dtype.kind == "b":
        name = "logical_or" if name == "maximum" else "logical_and"
    found = reduce_axes(name, x, _axes(axis, x.ndim), kept, keepdims=keepdims)
    if out is None:
        return found
    target: DeviceArray = write_out(out[0] if isinstance(out, tuple) else out, found.operand(found.shape), found.shape)
    return target


def mean(x: DeviceArray, axis: Any, kept: Dtype, *, keepdims: bool) -> DeviceArray:
    """Return the arithmetic mean, in a dtype."""
    axes = _axes(axis, x.ndim)
    return reduce_axes("add", x, axes, kept, keepdims=keepdims, divisor=float(_shapes(x.shape, axes, keepdims)[1]))


def arg_extreme(name: str, x: DeviceArray, axis: int | None, *, keepdims: bool) -> DeviceArray:
    """Return the position of an extreme, ``"argmax"`` or ``"argmin"``."""
    axes = _axes(axis, x.ndim)
    if not all(x.shape[each] for each in axes):
        raise ValueError(f"attempt to get {name} of an empty sequence")
    if axis is None or not x.ndim:
        flat = reduce_axes(name, x.reshape(-1), (0,), np.dtype("int64"), keepdims=False)
        return flat.reshape((1,) * x.ndim) if keepdims else flat
    return reduce_axes(name, x, axes, np.dtype("int64"), keepdims=keepdims)


def reduce_axes(
    name: str, x: DeviceArray, axes: tuple[int, ...], kept: Dtype, *, keepdims: bool, divisor: float | None = None
) -> DeviceArray:
    """Reduce the dimensions `axes` of an array, pending or not, to a dtype, and divide by the divisor, if any."""
    result, inner = _shapes(x.shape, axes, keepdims)
    if not inner and name in ("maximum", "minimum"):
        raise ValueError(f"zero-size array to reduction operation {name} which has no identity")
    if not inner and 0 not in result:
        return DeviceArray.filled(result, _identity(name, kept) if divisor is None else np.nan, kept)
    root = x.operand(x.shape)
    out = DeviceArray.empty(result, kept)
    if out.size:
        _into(name, root, x.shape, axes, out, divisor)
    return out


@functools.lru_cache(4096)
def _shapes(shape: tuple[int, ...], axes: tuple[int, ...], keepdims: bool) -> tuple[tuple[int, ...], int]:
    """Return the shape of the result, and the number of elements that each element of it reduces."""
    inner = 1
    for axis in axes:
        inner *= shape[axis]
    if keepdims:
        return tuple([1 if i in axes else n for i, n in enumerate(shape)]), inner
    return tuple([n for i, n in enumerate(shape) if i not in axes]), inner


class Plan(NamedTuple):
    """The launch that reduces an expression of arrays of certain forms; only their addresses are missing.

    Attributes
    ----------
    launch : Launch
    grid, block : tuple of int
    sizes : tuple of int
        First arguments of the kernel: lengths and strides.
    leaves, constants : tuple of int
        Positions in the expression of the arguments that follow.
    partial : dtype or None
        Dtype of the partial results, if there are any.
    splits : int
        Number of partial results per result.
    """

    launch: Launch
    grid: tuple[int, ...]
    block: tuple[int, ...]
    sizes: tuple[int, ...]
    leaves: tuple[int, ...]
    constants: tuple[int, ...]
    partial: Dtype | None
    splits: int


_plans: dict[Any, Plan] = {}
#: Maximum number of plans; all are dropped when it is reached.
_MOST = 4096


def _into(
    name: str, root: Node, shape: tuple[int, ...], axes: tuple[int, ...], out: DeviceArray, divisor: float | None
) -> None:
    """Reduce an expression of a shape into an array."""
    if name not in _BETTER:
        root = cast(root, out.dtype)
    leaves, constants = root.leaves, root.constants
    forms = tuple([leaf.form for leaf in leaves])
    key = (
        name,
        root.number,
        shape,
        axes,
        out.dtype.char,
        divisor is None,
        forms,
        identity_pattern(leaves),
        identity_pattern(constants),
    )
    plan = _plans.get(key)
    if plan is None:
        if len(_plans) >= _MOST:
            _plans.clear()
        plan = _plans[key] = _make_plan(name, root, shape, axes, out, divided=divisor is not None)
    target, is_last = out, plan.partial is None
    if plan.partial is not None:
        target = DeviceArray.empty((plan.splits, out.size), plan.partial)
    plan.launch(
        plan.grid,
        plan.block,
        *plan.sizes,
        *[leaves[position].address for position in plan.leaves],
        *[number(*constants[position]) for position in plan.constants],
        *([divisor] if is_last and divisor is not None else []),
        target.address,
    )
    if not is_last:
        _into(name, target.node(), target.shape, (0,), out, divisor)


def _make_plan(
    name: str, root: Node, shape: tuple[int, ...], axes: tuple[int, ...], out: DeviceArray, *, divided: bool
) -> Plan:
    """Make the plan of a reduction."""
    gpu = current_gpu()
    graph = Graph(root)
    strides = [strides_in(leaf.payload.layout, shape) for leaf in graph.leaves]
    stay = [i for i in range(len(shape)) if i not in axes]
    rows = Space.of([shape[i] for i in stay], [[own[i] for i in stay] for own in strides])
    columns = Space.of([shape[i] for i in axes], [[own[i] for i in axes] for own in strides])
    across = _is_across(rows, columns, [leaf.payload.size for leaf in graph.leaves])
    results, inner = out.size, _shapes(shape, axes, False)[1]
    splits = _splits(results, inner, across=across) if name not in _BETTER else 1
    work = working(root.dtype if name in _BETTER else out.dtype)
    kept = work if splits > 1 else out.dtype
    together = [a + b for a, b in zip(rows.strides, columns.strides, strict=True)]
    kinds = tuple("".join("01"[step != 0] for step in own) for own in together)
    dims = len(rows.lengths), len(columns.lengths)
    narrow = results * inner < _WIDEST
    block = _block(inner, across=across)
    grid = (-(-results // (block[0] if across else block[1])), splits)
    divided = divided and splits == 1
    key = name, graph.key, kinds, dims, narrow, across, block, work.char, kept.char, divided
    launch = _kernels.get(key)
    if launch is None:
        launch = _kernels[key] = gpu.kernel(
            *kernel_source(
                name, graph, kinds, dims, work, kept, across=across, narrow=narrow, block=block, divided=divided
            )
        )
    steps = [
        step
        for own, kind in zip(together, kinds, strict=True)
        for step, moves in zip(own, kind, strict=True)
        if moves == "1"
    ]
    sizes = (results, inner, -(-inner // splits), *rows.lengths[1:], *columns.lengths[1:], *steps)
    return Plan(launch, grid, block, sizes, *distinct_operands(root), work if splits > 1 else None, splits)


def _block(inner: int, *, across: bool) -> tuple[int, int]:
    """Return the number of threads of a block that are neighbours in memory, and of such groups."""
    threads: int = current_gpu().threads
    if across:
        wide = max(1, threads // 8)
    else:
        wide = threads
        while wide > 32 and wide // 2 >= inner:
            wide //= 2
    return wide, max(1, threads // wide)


def _is_across(rows: Space, columns: Space, sizes: Sequence[int]) -> bool:
    """Return whether most of the elements read have neighbours in memory that belong to other results."""

    def step(strides: tuple[int, ...]) -> int:
        return abs(strides[-1]) if strides and strides[-1] else _WIDEST

    more = 0
    for stay, go, size in zip(rows.strides, columns.strides, sizes, strict=True):
        one, other = step(stay), step(go)
        more += size if one < other else -size if other < one else 0
    return more > 0


def _splits(results: int, inner: int, *, across: bool) -> int:
    """Return the number of blocks that share each result."""
    gpu = current_gpu()
    if inner < 4 * gpu.threads:
        return 1
    blocks = -(-results // (gpu.threads // 8 or 1)) if across else results
    wanted: int = -(-gpu.multiprocessors * 4 // max(1, blocks))
    most: int = inner // (4 * gpu.threads)
    return max(1, min(wanted, most, 1024))


def kernel_source(
    name: str,
    graph: Graph,
    kinds: tuple[str, ...],
    dims: tuple[int, int],
    work: Dtype,
    out: Dtype,
    *,
    across: bool,
    narrow: bool,
    block: tuple[int, int],
    divided: bool = False,
) -> tuple[str, list[str]]:
    """Return the source of the kernel, and the types of its arguments.

    Parameters
    ----------
    name : str
        A universal function, or ``"argmax"`` or ``"argmin"``.
    graph : Graph
        The expression whose values are reduced.
    kinds : tuple of str
        Dimensions in which each leaf has a stride, the kept ones first.
    dims : (int, int)
        Number of kept and of reduced dimensions.
    work, out : dtype
        Dtypes of the accumulator and of the results.
    across : bool
        Neighbouring threads have different results.
    narrow : bool
        Indices fit into 32 bits.
    block : (int, int)
        Threads of a block.
    divided : bool
        Results are divided by an argument.
    """
    stay, go = dims
    lengths = [f"n{axis}" for axis in range(1, stay)] + [f"m{axis}" for axis in range(1, go)]
    strides = [f"s{i}_{axis}" for i, kind in enumerate(kinds) for axis, moves in enumerate(kind) if moves == "1"]
    pointers = [f"p{i}" for i in range(len(graph.leaves))]
    constants = [f"c{i}" for i in range(len(graph.constants))]
    types = ["i8"] * (3 + len(lengths) + len(strides))
    types += [pointer(leaf.dtype) for leaf in graph.leaves]
    types += [scalar(node.dtype) for node in graph.constants]
    types += [scalar(work)] * divided
    types.append(pointer(out))
    boolean = work.kind == "b"
    cast_name = "u1" if boolean else CASTS[work]

    def element(index: str, suffix: str) -> tuple[list[str], list[str], str]:
        """Return statements that read at an index along the reduced dimensions, that compute, and the value's name."""
        loads = []
        for i, kind in enumerate(kinds):
            terms = [f"k{a}" if a < stay else f"j{suffix}{a - stay}" for a in range(len(kind))]
            where = [f"{terms[a]} * s{i}_{a}" for a, moves in enumerate(kind) if moves == "1"]
            loads.append(f"p{i}[{' + '.join(where) or '0'}]")
        values, (value,) = graph.source(loads, suffix)
        count = len(graph.leaves)
        where_at = with_index_width(index_source(index, go, "m", f"j{suffix}"), narrow=narrow)
        return [*where_at, *values[:count]], values[count:], value

    finds_position = name in _BETTER
    given = ["results", "inner", "span", *lengths, *strides, *pointers, *constants, *["divisor"] * divided, "out"]
    lines = [f"def kernel({', '.join(given)}):"]
    body = [f"shared = cuda.shared.array({block[0] * block[1]}, {cast_name}_)"]
    if finds_position:
        body.append(f"spots = cuda.shared.array({block[0] * block[1]}, i8_)")
    body += ["x = i8(cuda.threadIdx.x)", "y = i8(cuda.threadIdx.y)"]
    mine, size, other = ("x", block[0], "y") if across else ("y", block[1], "x")
    together = block[1] if across else block[0]
    body += [f"row = i8(cuda.blockIdx.x) * {size} + {mine}", "first = i8(cuda.blockIdx.y) * span"]
    body += [f"here = y * {block[0]} + x", "end = min(first + span, inner)"]
    identity = _identity({"argmax": "maximum", "argmin": "minimum"}.get(name, name), work)
    if boolean:
        body.append(f"so_far = {bool(identity)}")
    elif work.kind == "f" and not np.isfinite(identity):
        body.append(f"so_far = {cast_name}({'-' if identity < 0 else ''}math.inf)")
    else:
        body.append(f"so_far = {cast_name}({identity})")
    if finds_position:
        body.append("spot = i8(-1)")
    body.append("if row < results:")
    inside = with_index_width(index_source("row", stay, "n", "k"), narrow=narrow)
    inside.append(f"at = first + {other}")
    ahead = 1 if finds_position or len(graph.key) > _LONG else _AHEAD
    if (
        ahead > 1
    ):  # reads several before the first is used, so that memory is never idle; in the same order of additions
        indices = ["at", *[f"at{i}" for i in range(1, ahead)]]
        inside += [f"last = end - {(ahead - 1) * together}", "while at < last:"]
        inside += [f"    {index} = at + {i * together}" for i, index in enumerate(indices) if i]
        elements = [element(index, f"_{i}_") for i, index in enumerate(indices)]
        inside += ["    " + line for reading, _, _ in elements for line in reading]
        inside += ["    " + line for _, computing, _ in elements for line in computing]
        inside += [f"    so_far = {_step(name, 'so_far', value, work)}" for _, _, value in elements]
        inside.append(f"    at += {ahead * together}")
    reading, computing, value = element("at", "")
    loop = [*reading, *computing]
    if finds_position:
        better = _better(name, value, "so_far", "at", "spot", work)
        loop += [f"if {better}:", f"    so_far = {value}", "    spot = at"]
    else:
        loop.append(f"so_far = {_step(name, 'so_far', value, work)}")
    loop.append(f"at += {together}")
    inside += ["while at < end:", *["    " + line for line in loop]]
    body += ["    " + line for line in inside]
    body.append(f"shared[here] = {store_source('so_far', BOOL) if boolean else 'so_far'}")
    if finds_position:
        body.append("spots[here] = spot")
    body.append("cuda.syncthreads()")
    distance = together // 2
    step = block[0] if across else 1
    while distance:
        body.append(f"if {other} < {distance}:")
        theirs = f"shared[here + {distance * step}]"
        if finds_position:
            body += [f"    that = {theirs}", f"    there = spots[here + {distance * step}]"]
            better = _better(name, "that", "so_far", "there", "spot", work)
            body += [f"    if there >= 0 and ({better}):", "        so_far = that", "        spot = there"]
            body += ["    shared[here] = so_far", "    spots[here] = spot"]
        else:
            body.append(f"    that = {theirs} != 0" if boolean else f"    that = {theirs}")
            body.append(f"    so_far = {_step(name, 'so_far', 'that', work)}")
            body.append(f"    shared[here] = {store_source('so_far', BOOL) if boolean else 'so_far'}")
        body.append("cuda.syncthreads()")
        distance //= 2
    body.append(f"if {other} == 0 and row < results:")
    total = f"{CASTS[work]}(so_far / divisor)" if divided else "so_far"
    written = "spot" if finds_position else store_source(total, out)
    body.append(f"    out[i8(cuda.blockIdx.y) * results + row] = {written}")
    lines += ["    " + line for line in body]
    return "\n".join(lines) + "\n", types


def _step(name: str, so_far: str, value: str, work: Dtype) -> str:
    text = _STEPS[name].format(so_far, value)
    if work.kind == "b":
        return text
    return f"{CASTS[work]}({text})"


def _better(name: str, value: str, so_far: str, at: str, spot: str, work: Dtype) -> str:
    sign = _BETTER[name]
    if work.kind == "b":
        ahead = f"({value} and not {so_far})" if name == "argmax" else f"({so_far} and not {value})"
        return f"{spot} < 0 or {ahead} or ({value} == {so_far} and {at} < {spot})"
    if work.kind != "f":
        return f"{spot} < 0 or {value} {sign} {so_far} or ({value} == {so_far} and {at} < {spot})"
    nan, known = f"{value} != {value}", f"{so_far} != {so_far}"
    return (
        f"{spot} < 0 or (not {known} and ({nan} or {value} {sign} {so_far} or ({value} == {so_far} and {at} < {spot})))"
        f" or ({nan} and {known} and {at} < {spot})"
    )
