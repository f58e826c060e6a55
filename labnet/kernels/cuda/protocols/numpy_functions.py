"""NumPy's other functions on arrays of the GPU: one entry for each that the bodies of ops call.

NumPy raises TypeError for a function without an entry. Functions without a kernel, such as medians, run on the host.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.kernels.cuda.array.array import DeviceArray
from labnet.kernels.cuda.array.hazards import write
from labnet.kernels.cuda.array.operands import as_operand
from labnet.kernels.cuda.codegen.expressions import Node, cast
from labnet.kernels.cuda.codegen.scalars import BOOL
from labnet.kernels.cuda.kernels import gather, reduce, scan, select, sort
from labnet.kernels.cuda.protocols.host_fallback import on_host

_TABLE: dict[Any, Callable[..., Any]] = {}


def call(function: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Answer ``__array_function__``."""
    found = _TABLE.get(function)
    if found is None:
        return NotImplemented
    return found(*args, **named)


def _for(*functions: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    def declare(own: Callable[..., Any]) -> Callable[..., Any]:
        for function in functions:
            _TABLE[function] = own
        return own

    return declare


# Views: NumPy computes the layout of the result

for _function in (np.transpose, np.swapaxes, np.expand_dims, np.squeeze, np.moveaxis, np.broadcast_to):

    def _view(x: DeviceArray, *args: Any, _function: Any = _function, **named: Any) -> DeviceArray:
        return x.view_of(_function(x.layout, *args, **named))

    _TABLE[_function] = _view


@_for(np.flip)
def _flip(x: DeviceArray, axis: Any = None) -> DeviceArray:
    axes = range(x.ndim) if axis is None else axis if isinstance(axis, tuple | list) else (axis,)
    flipped = np.lib.array_utils.normalize_axis_tuple(tuple(axes), x.ndim)
    backwards: Any = tuple(slice(None, None, -1 if i in flipped else 1) for i in range(x.ndim))
    return x.view_of(x.layout[(*backwards, ...)])


@_for(np.split, np.array_split)
def _split(x: DeviceArray, sections: Any, axis: int = 0) -> list[DeviceArray]:
    return [x.view_of(part) for part in np.array_split(x.layout, sections, axis)]


@_for(np.reshape)
def _reshape(x: DeviceArray, /, shape: Any, order: str = "C", *, copy: bool | None = None) -> DeviceArray:
    return x.reshape(shape, copy=copy)


@_for(np.ravel)
def _ravel(x: DeviceArray) -> DeviceArray:
    return x.reshape(-1)


# Attributes

_TABLE[np.shape] = lambda x: x.shape
_TABLE[np.ndim] = lambda x: x.ndim
_TABLE[np.size] = lambda x, axis=None: x.size if axis is None else x.shape[axis]
_TABLE[np.result_type] = lambda *values: np.result_type(
    *(value.dtype if isinstance(value, DeviceArray) else value for value in values)
)
_TABLE[np.can_cast] = lambda source, target, casting="safe": np.can_cast(source.dtype, target, casting)
_TABLE[np.may_share_memory] = lambda x, y, **_: _share(x, y)
_TABLE[np.shares_memory] = _TABLE[np.may_share_memory]


def _share(x: Any, y: Any) -> bool:
    return bool(np.may_share_memory(x.layout, y.layout))


@_for(np.array_equal)
def _array_equal(x: DeviceArray, y: DeviceArray, **_: Any) -> bool:
    return x.shape == y.shape and bool(np.all(x == y))


# Creation, with ``like=`` an array of the GPU


@_for(np.empty)
def _empty(shape: Any, dtype: Any = float, **_: Any) -> DeviceArray:
    return DeviceArray.empty(shape, np.dtype(dtype))


@_for(np.zeros)
def _zeros(shape: Any, dtype: Any = float, **_: Any) -> DeviceArray:
    return DeviceArray.filled(shape, 0, np.dtype(dtype))


@_for(np.ones)
def _ones(shape: Any, dtype: Any = None, **_: Any) -> DeviceArray:
    return DeviceArray.filled(shape, 1, np.dtype(dtype or float))


@_for(np.full)
def _full(shape: Any, fill_value: Any, dtype: Any = None, **_: Any) -> DeviceArray:
    if isinstance(fill_value, DeviceArray):
        out = DeviceArray.empty(shape, np.dtype(dtype or fill_value.dtype))
        write(out, fill_value.materialize().node())
        return out
    return DeviceArray.filled(shape, fill_value, np.dtype(dtype or np.asarray(fill_value).dtype))


def _blank(value: Any) -> Callable[..., DeviceArray]:
    def like(x: DeviceArray, dtype: Any = None, shape: Any = None, **_: Any) -> DeviceArray:
        chosen = np.dtype(dtype or x.dtype)
        where = x.shape if shape is None else shape
        return DeviceArray.empty(where, chosen) if value is None else DeviceArray.filled(where, value, chosen)

    return like


_TABLE[np.empty_like], _TABLE[np.zeros_like], _TABLE[np.ones_like] = _blank(None), _blank(0), _blank(1)


@_for(np.full_like)
def _full_like(x: DeviceArray, fill_value: Any, dtype: Any = None, **_: Any) -> DeviceArray:
    found: DeviceArray = _full(x.shape, fill_value, np.dtype(dtype or x.dtype))
    return found


@_for(np.arange)
def _arange(*args: Any, **named: Any) -> DeviceArray:
    named.pop("like", None)
    return DeviceArray.upload(np.arange(*args, **named))


@_for(np.array, np.asarray, np.ascontiguousarray)
def _array(x: Any, dtype: Any = None, *, copy: bool | None = True, like: Any = None, **_: Any) -> DeviceArray:
    if not isinstance(x, DeviceArray):
        return DeviceArray.upload(np.asarray(x, dtype))
    return x.astype(dtype or x.dtype, copy=bool(copy))


@_for(np.copy)
def _copy(x: DeviceArray, **_: Any) -> DeviceArray:
    return x.copy()


# Element by element


@_for(np.where)
def _where(condition: Any, x: Any, y: Any) -> Any:
    shape = np.broadcast_shapes(*(getattr(value, "shape", ()) for value in (condition, x, y)))
    dtypes = [value if isinstance(value, bool | int | float) else value.dtype for value in (x, y)]
    dtype = np.result_type(*dtypes)
    if dtype == np.float64 and all(isinstance(value, bool | int | float) for value in (x, y)):
        dtype = np.dtype("float64")
    nodes = [as_operand(value, shape) for value in (condition, x, y)]
    test = nodes[0] if nodes[0].dtype == BOOL else cast(nodes[0], BOOL)
    return DeviceArray.pending(Node("where", dtype, (test, cast(nodes[1], dtype), cast(nodes[2], dtype))), shape)


@_for(np.clip)
def _clip(x: Any, low: Any = None, high: Any = None, **_: Any) -> Any:
    out = x if low is None else np.maximum(x, low)
    return out if high is None else np.minimum(out, high)


@_for(np.round, np.around)
def _round(x: DeviceArray, decimals: int = 0, **_: Any) -> Any:
    if x.dtype.kind != "f" and not decimals:
        return x.copy()
    return np.rint(x) if not decimals else on_host(np.round, (x, decimals), {})


@_for(np.copyto)
def _copyto(target: DeviceArray, source: Any, casting: str = "same_kind", where: Any = True) -> None:
    value = source if where is True else np.where(where, source, target)
    node = as_operand(value, target.shape)
    write(target, cast(node, target.dtype))


def error_function(x: DeviceArray) -> DeviceArray:
    """Return the error function of each element."""
    dtype = x.dtype if x.dtype.kind == "f" else np.dtype("float64")
    return DeviceArray.pending(Node("erf", dtype, (cast(x.operand(x.shape), dtype),)), x.shape)


# Reductions


@_for(np.sum)
def _sum(x: DeviceArray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return reduce.reduce(np.add, x, axis, dtype, out, bool(keepdims is True))


@_for(np.prod)
def _prod(x: DeviceArray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    return reduce.reduce(np.multiply, x, axis, dtype, out, bool(keepdims is True))


def _reducing(ufunc: Any) -> Callable[..., Any]:
    def function(x: DeviceArray, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        return reduce.reduce(ufunc, x, axis, None, out, keepdims is True)

    return function


_TABLE[np.max], _TABLE[np.min] = _reducing(np.maximum), _reducing(np.minimum)


def _reducing_booleans(ufunc: Any) -> Callable[..., Any]:
    def function(x: DeviceArray, axis: Any = None, out: Any = None, keepdims: Any = False) -> Any:
        return reduce.reduce(ufunc, x.astype(bool, copy=False), axis, None, out, keepdims is True)

    return function


_TABLE[np.all], _TABLE[np.any] = _reducing_booleans(np.logical_and), _reducing_booleans(np.logical_or)


@_for(np.count_nonzero)
def _count_nonzero(x: DeviceArray, axis: Any = None, *, keepdims: bool = False) -> Any:
    return reduce.reduce(np.add, x.astype(bool, copy=False), axis, np.int64, keepdims=keepdims)


def _mean_dtype(x: DeviceArray) -> Any:
    return x.dtype if x.dtype.kind == "f" else np.dtype("float64")


@_for(np.mean)
def _mean(x: DeviceArray, axis: Any = None, dtype: Any = None, out: Any = None, keepdims: Any = False) -> Any:
    kept = _mean_dtype(x)
    return reduce.mean(x, axis, kept, keepdims=keepdims is True)


@_for(np.var)
def _var(
    x: DeviceArray, axis: Any = None, dtype: Any = None, out: Any = None, ddof: float = 0, keepdims: Any = False
) -> Any:
    centred = x - _mean(x, axis, keepdims=True)
    total = reduce.reduce(np.add, centred * centred, axis, _mean_dtype(x), keepdims=keepdims is True)
    count = x.size // max(1, total.size) if total.size else 0
    return total / max(count - ddof, 0) if count - ddof > 0 else total * float("nan")


@_for(np.std)
def _std(x: DeviceArray, axis: Any = None, **named: Any) -> Any:
    return np.sqrt(_var(x, axis, **named))


_TABLE[np.argmax] = lambda x, axis=None, out=None, *, keepdims=False: reduce.arg_extreme(
    "argmax", x, axis, keepdims=keepdims is True
)
_TABLE[np.argmin] = lambda x, axis=None, out=None, *, keepdims=False: reduce.arg_extreme(
    "argmin", x, axis, keepdims=keepdims is True
)
_TABLE[np.cumsum] = lambda x, axis=None, dtype=None, out=None: scan.scan(
    "add", x if axis is not None else x.reshape(-1), axis or 0, dtype
)
_TABLE[np.cumprod] = lambda x, axis=None, dtype=None, out=None: scan.scan(
    "multiply", x if axis is not None else x.reshape(-1), axis or 0, dtype
)


@_for(np.vdot)
def _vdot(x: DeviceArray, y: DeviceArray) -> Any:
    return reduce.reduce(np.add, x.reshape(-1) * y.reshape(-1), None)


# Moving elements


@_for(np.concatenate)
def _concatenate(parts: Sequence[Any], axis: int | None = 0, **_: Any) -> DeviceArray:
    arrays = [part if isinstance(part, DeviceArray) else DeviceArray.upload(np.asarray(part)) for part in parts]
    if axis is None:
        arrays, axis = [part.reshape(-1) for part in arrays], 0
    # NumPy checks the shapes and computes that of the result, on arrays without memory
    blanks = [np.broadcast_to(np.zeros((), part.dtype), part.shape) for part in arrays]
    axis = np.lib.array_utils.normalize_axis_index(axis, blanks[0].ndim)
    edges = [blank[tuple(slice(0, 0) if i == axis else slice(None) for i in range(blank.ndim))] for blank in blanks]
    shape = list(np.concatenate(edges, axis).shape)
    shape[axis] = sum(part.shape[axis] for part in arrays)
    out = DeviceArray.empty(shape, np.result_type(*(part.dtype for part in arrays)))
    start = 0
    for part in arrays:
        where = (slice(None),) * axis + (slice(start, start + part.shape[axis]),)
        out[where] = part
        start += part.shape[axis]
    return out


@_for(np.stack)
def _stack(parts: Sequence[DeviceArray], axis: int = 0, **_: Any) -> DeviceArray:
    shapes = {part.shape for part in parts}
    if len(shapes) != 1:
        raise ValueError("all input arrays must have the same shape")
    axis = np.lib.array_utils.normalize_axis_index(axis, parts[0].ndim + 1)
    found: DeviceArray = _concatenate([np.expand_dims(part, axis) for part in parts], axis)
    return found


@_for(np.pad)
def _pad(x: DeviceArray, widths: Any, mode: str = "constant", *, constant_values: Any = 0) -> DeviceArray:
    pairs = [(int(a), int(b)) for a, b in np.broadcast_to(np.asarray(widths), (x.ndim, 2))]
    if any(min(pair) < 0 for pair in pairs):
        raise ValueError("index can't contain negative values")
    shape = [a + n + b for (a, b), n in zip(pairs, x.shape, strict=True)]
    out = DeviceArray.filled(shape, constant_values, x.dtype)
    out[tuple(slice(a, a + n) for (a, _), n in zip(pairs, x.shape, strict=True))] = x
    return out


@_for(np.roll)
def _roll(x: DeviceArray, shift: Any, axis: Any = None) -> DeviceArray:
    if axis is None:
        flat: DeviceArray = _roll(x.reshape(-1), shift, 0)
        return flat.reshape(x.shape)
    for by, one in np.broadcast(np.asarray(shift, int), np.asarray(axis, int)):
        along = np.lib.array_utils.normalize_axis_index(int(one), x.ndim)
        length = x.shape[along]
        if length:
            cut = length - int(by) % length
            before = (slice(None),) * along
            x = _concatenate([x[(*before, slice(cut, None))], x[(*before, slice(None, cut))]], along)
    return x


@_for(np.tile)
def _tile(x: DeviceArray, repetitions: Any) -> DeviceArray:
    return on_host(np.tile, (x, repetitions), {})  # type: ignore[no-any-return]


def _triangle(mask: Callable[..., Any]) -> Callable[..., DeviceArray]:
    def function(x: DeviceArray, k: int = 0) -> DeviceArray:
        if x.ndim < 2:
            raise ValueError("expected at least two dimensions")
        kept = DeviceArray.upload(mask(np.ones(x.shape[-2:], bool), k))
        return np.where(kept, x, np.zeros((), x.dtype))  # type: ignore[return-value]

    return function


_TABLE[np.tril], _TABLE[np.triu] = _triangle(np.tril), _triangle(np.triu)


@_for(np.take)
def _take(x: DeviceArray, indices: Any, axis: int | None = None, **_: Any) -> DeviceArray:
    if axis is None:
        return x.reshape(-1)[indices]
    axis = np.lib.array_utils.normalize_axis_index(axis, x.ndim)
    return x[(slice(None),) * axis + (indices,)]


_TABLE[np.take_along_axis], _TABLE[np.put_along_axis] = gather.take_along_axis, gather.put_along_axis
_TABLE[np.searchsorted] = sort.searchsorted


def _define_sort(function: Any, own: Callable[..., DeviceArray]) -> None:
    def function_of(x: DeviceArray, axis: int | None = -1, **named: Any) -> DeviceArray:
        found: DeviceArray = own(x, axis) if x.ndim else on_host(function, (x, axis), named)
        return found

    _TABLE[function] = function_of


_define_sort(np.sort, sort.sort)
_define_sort(np.argsort, sort.argsort)


# Selection by value

_TABLE[np.nonzero] = select.nonzero
_TABLE[np.unique_all] = select.unique
_TABLE[np.unique_values] = lambda x: select.unique(x)[0]
_TABLE[np.unique_counts] = lambda x: select.unique(x)[::3]
_TABLE[np.unique_inverse] = lambda x: select.unique(x)[:3:2]


# Functions without a kernel

_ON_HOST: tuple[Any, ...] = (
    np.unique, np.repeat, np.median, np.isin, np.diff, np.trace, np.diagonal, np.einsum, np.linalg.norm,
)  # fmt: skip
for _there in _ON_HOST:

    def _through(*args: Any, _function: Any = _there, **named: Any) -> Any:
        return on_host(_function, args, named)

    _TABLE[_there] = _through
