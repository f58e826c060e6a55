"""Functions and methods with the arguments of torch, each a few lines of ops.

`labnet.ops.core.names` lists which of them are functions of the namespace too.
"""

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Literal

import numpy as np

from labnet import memory
from labnet.autograd import no_grad
from labnet.device import CPU, CUDA
from labnet.errors import ShapeError
from labnet.ops.aggregation.linalg import matmul
from labnet.ops.aggregation.reduction import all
from labnet.ops.aggregation.reduction import max as maximum_of
from labnet.ops.aggregation.sampling import bernoulli, multinomial, normal, uniform
from labnet.ops.aggregation.statistics import vector_norm
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.creation import asarray, empty, full, ones, zeros
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.core.forms import form
from labnet.ops.core.names import DTYPES
from labnet.ops.elementwise.arithmetic import floor_divide, trunc
from labnet.ops.elementwise.elementary import add, divide, subtract, where
from labnet.ops.elementwise.formulas import isclose, lerp
from labnet.ops.layout.joining import stack
from labnet.ops.layout.shape import astype, broadcast_to, expand_dims, permute_dims, reshape
from labnet.ops.selection.indexing import getitem, setitem, take
from labnet.ops.selection.indexing import scatter_add as added_at
from labnet.ops.selection.rearrangement import pad as surround
from labnet.ops.selection.rearrangement import repeat
from labnet.ops.selection.scatter import written
from labnet.ops.selection.sorting import nonzero, searchsorted, sort
from labnet.ops.selection.writing import in_place, write
from labnet.tensor import DTypeLike, Tensor

Sizes = int | Sequence[int]


def _one(sizes: tuple[Any, ...]) -> tuple[int, ...]:
    """Return lengths that are given one by one, or as one sequence, as a tuple."""
    return tuple(sizes[0]) if len(sizes) == 1 and isinstance(sizes[0], list | tuple) else sizes


# Shapes


@form
def view(x: Tensor, /, *shape: Any) -> Tensor:
    """Return the elements with another shape, as `reshape`; or in another dtype, as `astype`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.arange(6).view(2, -1).shape
    (2, 3)
    """
    if len(shape) == 1 and not isinstance(shape[0], int | list | tuple):
        return astype(x, shape[0])
    return reshape(x, _one(shape))


@form
def flatten(x: Tensor, /, start_axis: int = 0, end_axis: int = -1) -> Tensor:
    """Merge the dimensions from one to another into one.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.flatten(ln.zeros((2, 3, 4)), 1).shape
    (2, 12)
    """
    if not x.ndim:
        return reshape(x, (1,))
    first, last = (normalize_axis("flatten", axis, x.shape) for axis in (start_axis, end_axis))
    return reshape(x, (*x.shape[:first], math.prod(x.shape[first : last + 1]), *x.shape[last + 1 :]))


@form
def ravel(x: Tensor, /) -> Tensor:
    """Return the elements as one dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ravel(ln.asarray([[1, 2]])).tolist()
    [1, 2]
    """
    return reshape(x, (-1,))


@form
def unflatten(x: Tensor, /, axis: int, sizes: Sequence[int]) -> Tensor:
    """Split a dimension into several.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.unflatten(ln.zeros((2, 6)), 1, (3, -1)).shape
    (2, 3, 2)
    """
    along = normalize_axis("unflatten", axis, x.shape)
    known = -math.prod(sizes) or 1
    lengths = tuple(x.shape[along] // known if n == -1 else n for n in sizes)
    return reshape(x, (*x.shape[:along], *lengths, *x.shape[along + 1 :]))


@form
def transpose(x: Tensor, /, *axes: Any) -> Tensor:
    """Swap two dimensions; or reorder all, with none or more of them, or a tuple, as in NumPy.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.transpose(ln.zeros((2, 3, 4)), 0, 1).shape, ln.zeros((2, 3, 4)).transpose().shape
    ((3, 2, 4), (4, 3, 2))
    """
    if len(axes) != 2:
        return permute_dims(x, _one(axes) if axes and axes[0] is not None else tuple(range(x.ndim))[::-1])
    first, second = (normalize_axis("transpose", axis, x.shape) for axis in axes)
    order = list(range(x.ndim))
    order[first], order[second] = second, first
    return permute_dims(x, tuple(order))


@form
def swapaxes(x: Tensor, /, axis0: int, axis1: int) -> Tensor:
    """Swap two dimensions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.swapaxes(ln.zeros((2, 3, 4)), 0, 2).shape
    (4, 3, 2)
    """
    return transpose(x, axis0, axis1)


@form
def t(x: Tensor, /) -> Tensor:
    """Transpose a matrix; a vector is returned as it is.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.t(ln.zeros((2, 3))).shape
    (3, 2)
    """
    if x.ndim > 2:
        raise ShapeError(f"t: expected at most two dimensions, got shape {x.shape}; use mT, transpose or permute")
    return x if x.ndim < 2 else permute_dims(x, (1, 0))


@form
def expand(x: Tensor, /, *sizes: Any) -> Tensor:
    """Broadcast to lengths, -1 for a dimension that stays as it is.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones((2, 1)).expand(-1, 3).shape
    (2, 3)
    """
    wanted = _one(sizes)
    added = len(wanted) - x.ndim
    return broadcast_to(x, tuple(x.shape[i - added] if n == -1 and i >= added else n for i, n in enumerate(wanted)))


# Parts


@form
def split(x: Tensor, /, sizes: Sizes, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a dimension into parts of one length, the last perhaps shorter, or of several lengths; as torch does.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.shape for part in ln.split(ln.zeros(5), 2)], [part.shape for part in ln.split(ln.zeros(5), [1, 4])]
    ([(2,), (2,), (1,)], [(1,), (4,)])
    """
    along = normalize_axis("split", axis, x.shape)
    length = x.shape[along]
    if isinstance(sizes, int):
        if sizes < 1:
            raise ShapeError(f"split: expected parts of at least one element, got {sizes}")
        sizes = [min(sizes, length - start) for start in range(0, length, sizes)] or [0]
    if sum(sizes) != length:
        raise ShapeError(f"split: parts of {list(sizes)} do not fit axis {axis} of shape {x.shape}")
    ends = np.cumsum(sizes).tolist()
    before = (slice(None),) * along
    return tuple(x[(*before, slice(end - size, end))] for size, end in zip(sizes, ends, strict=True))


@form
def chunk(x: Tensor, /, chunks: int, axis: int = 0) -> tuple[Tensor, ...]:
    """Cut a dimension into a number of parts of one length, the last perhaps shorter.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.shape for part in ln.chunk(ln.zeros(5), 2)]
    [(3,), (2,)]
    """
    if chunks < 1:
        raise ShapeError(f"chunk: expected at least one part, got {chunks}")
    length = x.shape[normalize_axis("chunk", axis, x.shape)]
    return split(x, max(-(-length // chunks), 1), axis)


@form
def select(x: Tensor, /, axis: int, index: int) -> Tensor:
    """Return the slice at a position along a dimension, without that dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.select(ln.asarray([[1, 2], [3, 4]]), 1, 0).tolist()
    [1, 3]
    """
    return getitem(x, (slice(None),) * normalize_axis("select", axis, x.shape) + (index,))


@form
def narrow(x: Tensor, /, axis: int, start: int, length: int) -> Tensor:
    """Return a number of slices along a dimension, from a position on.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.narrow(ln.arange(5), 0, 1, 3).tolist()
    [1, 2, 3]
    """
    return getitem(x, (slice(None),) * normalize_axis("narrow", axis, x.shape) + (slice(start, start + length),))


@form
def index_select(x: Tensor, /, axis: int, index: Any) -> Tensor:
    """Return the slices at positions along a dimension, as `take`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.index_select(ln.asarray([[1, 2], [3, 4]]), 1, [1, 1]).tolist()
    [[2, 2], [4, 4]]
    """
    return take(x, index, axis=axis)


@form
def repeat_interleave(x: Tensor, /, repeats: Any, axis: int | None = None) -> Tensor:
    """Repeat each element along a dimension, or of the flattened tensor, as `repeat`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.repeat_interleave(ln.asarray([[1, 2]]), 2, 1).tolist()
    [[1, 1, 2, 2]]
    """
    return repeat(x, repeats, axis=axis)


@form
def pad(
    x: Tensor, /, pad_width: Any, mode: str = "constant", *, constant_values: float = 0, value: float | None = None
) -> Tensor:
    """Surround the tensor, with a constant or with elements of its own.

    Parameters
    ----------
    x : tensor
    pad_width : int, (before, after), or one (before, after) per dimension
        Negative numbers cut elements off.
    mode : {"constant", "reflect", "symmetric", "edge", "replicate", "wrap", "circular"}
        The names of NumPy and torch.
    constant_values, value : number
        The constant.

    Raises
    ------
    ShapeError
        If there are not enough elements to reflect or to cut off.
    ValueError
        If there is no such mode.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.pad(ln.asarray([1, 2, 3]), (1, 2), mode="reflect").tolist()
    [2, 1, 2, 3, 2, 1]
    """
    named = {"replicate": "edge", "circular": "wrap"}.get(mode, mode)
    if named not in ("constant", "reflect", "symmetric", "edge", "wrap"):
        raise ValueError(
            "pad: mode must be 'constant', 'reflect', 'symmetric', 'edge', 'replicate', 'wrap' or 'circular', "
            f"got {mode!r}"
        )
    try:
        widths = np.broadcast_to(np.asarray(pad_width), (x.ndim, 2))
    except ValueError as error:
        raise ShapeError(f"pad: widths {pad_width} for a tensor of shape {x.shape}: {error}") from None
    pairs = [(int(before), int(after)) for before, after in widths]
    if builtins.any(before < 0 or after < 0 for before, after in pairs):
        if builtins.any(min(before, 0) + min(after, 0) < -n for (before, after), n in zip(pairs, x.shape, strict=True)):
            raise ShapeError(f"pad: widths {pairs} cut more off than there is in shape {x.shape}")
        x = x[
            tuple(slice(max(-before, 0), n - max(-after, 0)) for (before, after), n in zip(pairs, x.shape, strict=True))
        ]
        pairs = [(max(before, 0), max(after, 0)) for before, after in pairs]
    if named == "constant":
        return surround(x, tuple(pairs), constant_values=constant_values if value is None else value)
    for axis, pair in enumerate(pairs):
        if max(pair):
            reach = x.shape[axis] - (named == "reflect") if named in ("reflect", "wrap", "symmetric") else max(pair)
            if not x.shape[axis] or max(pair) > reach:
                raise ShapeError(f"pad: {mode} cannot add {pair} to a dimension of length {x.shape[axis]}")
            x = take(x, np.pad(np.arange(x.shape[axis]), pair, mode=named), axis=axis)  # type: ignore[call-overload]
    return x


@form
def index_fill(x: Tensor, /, axis: int, index: Any, value: Any) -> Tensor:
    """Return `x` with a number in the slices at positions along a dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.index_fill(ln.zeros(3), 0, [0, 2], 1.0).tolist()
    [1.0, 0.0, 1.0]
    """
    return written(x, (slice(None),) * normalize_axis("index_fill", axis, x.shape) + (index,), value)


@form
def argwhere(x: Tensor, /) -> Tensor:
    """Return the positions of the elements that are not zero, one row per element; torch's `nonzero`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.argwhere(ln.asarray([[0, 1], [2, 0]])).tolist()
    [[0, 1], [1, 0]]
    """
    return stack(nonzero(x), axis=1)


@form
def bincount(x: Tensor, /, weights: Any = None, minlength: int = 0) -> Tensor:
    """Count how often each integer from 0 on occurs, or add up the weights of its places.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bincount(ln.asarray([1, 3, 1])).tolist()
    [0, 2, 0, 1]
    """
    length = max(minlength, int(maximum_of(x).item()) + 1 if x.size else 0)
    values = ones(x.shape, dtype="int64", device=x.device) if weights is None else weights
    return added_at(values, (x,), (length,))


# Arithmetic


@form
def allclose(x: Tensor, /, other: Any, rtol: float = 1e-05, atol: float = 1e-08, equal_nan: bool = False) -> bool:
    """Return whether all elements are close; see `isclose`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.allclose(ln.ones(2), ln.ones(2) + 1e-9)
    True
    """
    return bool(all(isclose(x, other, rtol=rtol, atol=atol, equal_nan=equal_nan)))


@form
def numel(x: Tensor, /) -> int:
    """Return the number of elements, as ``x.size``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.numel(ln.zeros((2, 3)))
    6
    """
    return math.prod(x.shape)


@form
def div(x: Tensor, /, other: Any, *, rounding_mode: Literal["floor", "trunc"] | None = None) -> Tensor:
    """Return the quotient of each pair of elements, perhaps rounded.

    Parameters
    ----------
    x, other : tensors or numbers
    rounding_mode : {"floor", "trunc"}, optional

    Examples
    --------
    >>> import labnet as ln
    >>> ln.div(ln.asarray([7.0, -7.0]), 2, rounding_mode="trunc").tolist()
    [3.0, -3.0]
    """
    if rounding_mode not in (None, "floor", "trunc"):
        raise ValueError(f"div: rounding_mode must be 'floor', 'trunc' or None, got {rounding_mode!r}")
    if rounding_mode == "floor":
        return floor_divide(x, other)
    if rounding_mode is None:
        return divide(x, other)
    quotient = trunc(divide(x, other))
    is_integral = "f" not in (x.dtype.kind, other.dtype.kind if isinstance(other, Tensor) else type(other).__name__[0])
    return astype(quotient, x.dtype) if is_integral else quotient


@form
def addmm(x: Tensor, /, left: Any, right: Any, *, beta: float = 1.0, alpha: float = 1.0) -> Tensor:
    """Return ``beta * x + alpha * left @ right``.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.addmm(ln.ones((1, 1)), ln.ones((1, 2)), ln.ones((2, 1))).tolist()
    [[3.0]]
    """
    product = matmul(left, right)
    return (x if beta == 1 else beta * x) + (product if alpha == 1 else alpha * product)


@form
def cdist(x: Tensor, /, other: Any, p: float = 2.0) -> Tensor:
    """Return the distance of each row of a matrix from each row of another.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.cdist(ln.asarray([[0.0, 0.0]]), ln.asarray([[3.0, 4.0]])).tolist()
    [[5.0]]
    """
    return vector_norm(expand_dims(x, axis=-2) - expand_dims(other, axis=-3), axis=-1, ord=p)


@form
def dist(x: Tensor, /, other: Any, p: float = 2.0) -> Tensor:
    """Return the length of the difference of two tensors.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.dist(ln.asarray([0.0, 0.0]), ln.asarray([3.0, 4.0])).item()
    5.0
    """
    return vector_norm(x - other, ord=p)


@form
def norm(x: Tensor, /, ord: float | str | None = 2, axis: Any = None, keepdims: bool = False) -> Tensor:
    """Return the length of vectors; `vector_norm` with torch's order of arguments, for which ``"fro"`` is 2.

    Raises
    ------
    ValueError
        For another norm of matrices.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.norm(ln.asarray([[3.0, -4.0]]), 1, -1).tolist()
    [7.0]
    """
    if isinstance(ord, str) and ord != "fro":
        raise ValueError(f"norm: ord must be a number or 'fro', got {ord!r}")
    return vector_norm(x, axis=axis, keepdims=keepdims, ord=2 if ord is None or isinstance(ord, str) else ord)


@form
def quantile(x: Tensor, /, q: float, axis: int | None = None, keepdims: bool = False) -> Tensor:
    """Return the element below which a part `q` of the elements lies, interpolated linearly.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.quantile(ln.asarray([1.0, 2.0, 4.0]), 0.75).item()
    3.0
    """
    if not 0 <= q <= 1:
        raise ValueError(f"quantile: q must be from 0 to 1, got {q}")
    along = None if axis is None else normalize_axis("quantile", axis, x.shape)
    ordered = sort(ravel(x) if along is None else x, axis=-1 if along is None else along)
    last = 0 if along is None else along
    place = q * (ordered.shape[last] - 1)
    low, part = int(place), place - int(place)
    before, high = (slice(None),) * last, min(int(place) + 1, ordered.shape[last] - 1)
    out = lerp(ordered[(*before, low)], ordered[(*before, high)], Tensor(part, dtype=x.dtype, device=x.device))
    return reshape(out, tuple(1 if along in (None, i) else n for i, n in enumerate(x.shape))) if keepdims else out


@form
def kron(x: Tensor, /, other: Any) -> Tensor:
    """Return each element of a matrix times another matrix, as blocks.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.kron(ln.asarray([[1, 2]]), ln.asarray([[1], [1]])).tolist()
    [[1, 2], [1, 2]]
    """
    y = other if isinstance(other, Tensor) else Tensor(other)
    if x.ndim != 2 or y.ndim != 2:
        raise ShapeError(f"kron: expected two matrices, got shapes {x.shape} and {y.shape}")
    blocks = expand_dims(x, axis=(1, 3)) * expand_dims(y, axis=(0, 2))
    return reshape(blocks, (x.shape[0] * y.shape[0], x.shape[1] * y.shape[1]))


@form
def bucketize(x: Tensor, /, boundaries: Any, *, right: bool = False) -> Tensor:
    """Return the bucket of each element between ordered boundaries; `searchsorted` with its operands swapped.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bucketize(ln.asarray([0.5, 2.0]), ln.asarray([1.0, 2.0, 3.0])).tolist()
    [0, 1]
    """
    return searchsorted(boundaries, x, side="right" if right else "left")


def _triangle_indices(triangle: Callable[..., Any]) -> Callable[..., Tensor]:
    def indices(rows: int, columns: int, offset: int = 0, *, device: str | None = None) -> Tensor:
        """Return the rows and the columns of the places in a triangle of a matrix, as two rows."""
        return asarray(np.stack(triangle(rows, offset, columns)), device=device)

    return indices


tril_indices, triu_indices = _triangle_indices(np.tril_indices), _triangle_indices(np.triu_indices)


# State: methods only


def _clone(x: Tensor) -> Tensor:
    """Return a copy with the history of the tensor."""
    return astype(x, x.dtype)


def _conversion(dtype: str) -> Callable[[Tensor], Tensor]:
    def convert(x: Tensor, /) -> Tensor:
        return x.to(dtype)

    return convert


def _type(x: Tensor, /, dtype: DTypeLike | None = None) -> Any:
    return str(x.dtype) if dtype is None else x.to(dtype)


def _new(create: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a method that makes a tensor of the dtype, and on the device, of another."""

    def method(x: Tensor, /, *args: Any, dtype: DTypeLike | None = None, **static: Any) -> Tensor:
        return create(*args, dtype=x.dtype if dtype is None else dtype, **{"device": x.device, **static})

    return method


def _copy_into(x: Tensor, /, source: Any) -> Tensor:
    write(x, ..., astype(source, x.dtype) if isinstance(source, Tensor) else source)
    return x


def _scaled(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the form of a sum or difference whose second term may have a factor."""

    def method(x: Tensor, other: Any, /, *, alpha: float = 1) -> Tensor:
        return function(x, other if alpha == 1 else other * alpha)

    return method


def _zero(x: Tensor, /) -> Tensor:
    return _copy_into(x, 0)


def _require_grad(x: Tensor, /, requires_grad: bool = True) -> Tensor:
    x.requires_grad = requires_grad
    return x


def _drawn(draw: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a method that writes random numbers into the tensor."""

    def method(x: Tensor, /, *args: Any, **static: Any) -> Tensor:
        return _copy_into(x, draw(*args, size=x.shape, device=x.device, **static))

    return method


def _bernoulli_into(x: Tensor, /, p: Any = 0.5, **static: Any) -> Tensor:
    return _copy_into(x, bernoulli(broadcast_to(Tensor(p, device=x.device), x.shape), **static))


#: Methods with torch's names, and properties, that read or change the state of a tensor.
STATE: dict[str, Callable[..., Any]] = {
    "bernoulli": bernoulli,
    "bernoulli_": _bernoulli_into,
    "clone": _clone,
    "contiguous": lambda x, /: x,
    "copy_": _copy_into,
    "cpu": lambda x, /: x.to_device(CPU),
    "add": _scaled(add),
    "sub": _scaled(subtract),
    "cuda": lambda x, device=CUDA, /, non_blocking=False: x.to_device(CUDA if device is None else device),
    "dim": lambda x, /: x.ndim,
    "element_size": lambda x, /: x.dtype.itemsize,
    "expand_as": lambda x, other, /: broadcast_to(x, other.shape),
    "fill_": _copy_into,
    "index_put": lambda x, key, value, /: setitem(x, value, tuple(key)),
    "is_contiguous": lambda x, /: True,
    "is_floating_point": lambda x, /: x.dtype.kind == "f",
    "multinomial": multinomial,
    "ndimension": lambda x, /: x.ndim,
    "nelement": numel,
    "new_empty": _new(empty),
    "new_full": _new(full),
    "new_ones": _new(ones),
    "new_tensor": _new(asarray),
    "new_zeros": _new(zeros),
    "normal_": _drawn(normal),
    "requires_grad_": _require_grad,
    "reshape_as": lambda x, other, /: reshape(x, other.shape),
    "type": _type,
    "type_as": lambda x, other, /: x.to(other.dtype),
    "uniform_": _drawn(uniform),
    "view_as": lambda x, other, /: reshape(x, other.shape),
    "where": lambda x, condition, other, /: where(condition, x, other),
    "zero_": _zero,
    **{name: _conversion(dtype) for name, dtype in DTYPES.items()},
}


def in_place_method(function: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return the form of a function that writes its result into its first argument."""

    def method(x: Tensor, /, *args: Any, **static: Any) -> Tensor:
        return in_place(lambda first, _: function(first, *args, **static))(x, None)

    return method


# Unrecorded writes


class Data(Tensor):
    """The elements of a tensor without its history, as torch's ``x.data``: a view whose writes are not recorded."""

    __slots__ = ()


#: The class of a view whose writes are not recorded, by the class of the view.
UNRECORDED: dict[type[Tensor], type[Tensor]] = {Tensor: Data}
#: Methods of `Data` that give such views of it.
VIEWS = (
    *("__getitem__", "diagonal", "flatten", "narrow", "permute", "reshape", "select", "squeeze", "t", "transpose"),
    *("unsqueeze", "view", "view_as"),
)


def unrecorded_view(method: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """Return a method whose result is a view of the kind of `Data`, where it is a view."""

    @functools.wraps(method)
    def run(x: Any, /, *args: Any, **static: Any) -> Tensor:
        with no_grad():
            view = method(x, *args, **static)
        if view.family is not None:
            view.__class__ = UNRECORDED.get(type(view), type(view))
        return view

    return run


@unrecorded_view
def _data(x: Tensor) -> Tensor:
    return getitem(x, ...)


def _set_data(x: Tensor, value: Any) -> None:
    tracer = current_tracer()
    base_of = memory.base_of if tracer is None else tracer.base_of
    if isinstance(value, Data) and base_of(value) is base_of(x):
        return  # after an operator in place, such as ``x.data += 1``
    x.assign(value)


def _absent(name: str) -> property:
    def read(x: Tensor) -> Any:
        raise AttributeError(
            f"a tensor has no attribute {name!r}: max, min, median and sort return values and positions, as torch's, "
            "under dim=: write x.sort(dim=-1), x.max(dim=0)"
        )

    return property(read)


#: Attributes with torch's names.
ATTRIBUTES = {
    "data": property(_data, _set_data),
    "indices": _absent("indices"),
    "is_cuda": property(lambda x: x.device == CUDA),
    "itemsize": property(lambda x: x.dtype.itemsize),
    "values": _absent("values"),
}


def unrecorded(method: Callable[..., Any]) -> Callable[..., Any]:
    """Return a method of `Data` that runs without recording."""

    @functools.wraps(method)
    def run(x: Any, /, *args: Any, **static: Any) -> Any:
        with no_grad():
            return method(x, *args, **static)

    return run
