"""Functions with ``dim=`` whose names mean something else in NumPy: values with positions, and the unbiased spread.

``axis=`` has the meaning of the array API standard. A dimension by position is refused, since it could be either.
"""

import inspect
from collections.abc import Callable
from typing import Any

from labnet.errors import DTypeError
from labnet.ops.aggregation.reduction import any as any_of
from labnet.ops.aggregation.reduction import argmax, argmin, max, mean, min, sum
from labnet.ops.aggregation.statistics import median, std, var
from labnet.ops.core.axes import normalize_axis, rename
from labnet.ops.core.forms import form
from labnet.ops.core.registry import REGISTRY
from labnet.ops.elementwise.arithmetic import minimum
from labnet.ops.elementwise.elementary import maximum, where
from labnet.ops.elementwise.logic import equal, isnan
from labnet.ops.layout.shape import astype, expand_dims, squeeze
from labnet.ops.selection.indexing import take_along_axis
from labnet.ops.selection.order_statistics import argselect
from labnet.ops.selection.sorting import Chosen, argsort, sort
from labnet.tensor import Tensor

Axis = int | tuple[int, ...] | None
_VALUES = ("the values alone", "values and positions")
_DIVISORS = ("a division by n", "by n - 1")


def set_torch_form(op: Any, function: Callable[..., Any], meanings: tuple[str, str], elementwise: Any = None) -> None:
    """Make a function that of an op for calls with ``dim=``, and `elementwise` for those with two tensors.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asarray([[1.0, 3.0]]).max(dim=1).indices.tolist(), ln.asarray([[1.0, 3.0]]).max(axis=1).tolist()
    ([1], [3.0])
    """
    name = op.__name__
    accepted = inspect.signature(function).parameters

    def call(x: Any, *args: Any, **static: Any) -> Any:
        if elementwise is not None and len(args) == 1 and isinstance(args[0], Tensor):
            return elementwise(x, args[0], **static)
        if len(args) == 1 and not static.keys().isdisjoint(("correction", "unbiased", "ddof")):
            return op(x, axis=args[0], **static)
        if args:
            raise TypeError(
                f"{name}: a dimension by position means one thing in NumPy and another in torch: write "
                f"axis={args[0]!r:.20} for {meanings[0]}, dim={args[0]!r:.20} for {meanings[1]}"
            )
        dim = static.pop("dim")
        if "axis" in static:
            raise TypeError(f"{name}() got both 'dim' and 'axis', which are one argument")
        rename(name, static)
        for key in static.keys() - accepted.keys():
            raise TypeError(f"{name}() got an unexpected keyword argument {key!r}")
        return function(x if isinstance(x, Tensor) else Tensor(x), dim, **static)

    REGISTRY[name].torch_form = call


def _one(name: str, x: Tensor, dim: Any) -> int:
    """Return the normalised dimension; 0 for a tensor without dimensions."""
    if not isinstance(dim, int):
        raise DTypeError(
            f"{name}: dim must be one integer, got {dim!r:.40}; axis= takes several and gives values alone"
        )
    return 0 if not x.ndim and dim in (0, -1) else normalize_axis(name, dim, x.shape)


def _chosen(x: Tensor, indices: Tensor, axis: int, keepdims: bool) -> Chosen:
    """Return the elements at one position along a dimension, and the position."""
    found = Chosen(take_along_axis(x, indices, axis=axis), indices)
    return found if keepdims else Chosen(*(squeeze(part, axis=axis) for part in found))


def _along(name: str, place: Callable[[Tensor, int], Tensor]) -> Callable[..., Chosen]:
    """Return the function of one element per slice, from that of its positions, which keep the dimension."""

    def function(x: Tensor, dim: Any, keepdims: bool = False) -> Chosen:
        axis = _one(name, x, dim)
        if not x.ndim:
            found = function(expand_dims(x, axis=0), 0)
            return Chosen(*found)
        return _chosen(x, place(x, axis), axis, keepdims)

    return function


def _middle(x: Tensor, axis: int) -> Tensor:
    place = (x.shape[axis] - 1) // 2
    middle = argselect(x, place, place + 1, axis=axis)
    if x.dtype.kind != "f":
        return middle
    missing = isnan(x)
    return where(
        any_of(missing, axis=axis, keepdims=True), argmax(astype(missing, "int8"), axis=axis, keepdims=True), middle
    )


def _sorted(x: Tensor, dim: Any, descending: bool = False, stable: bool = True) -> Chosen:
    axis = _one("sort", x, dim)
    if not x.ndim:
        return Chosen(x, argmax(x))
    indices = argsort(x, axis=axis, descending=descending, stable=stable)
    return Chosen(take_along_axis(x, indices, axis=axis), indices)


def _unbiased(op: Callable[..., Tensor]) -> Callable[..., Tensor]:
    def function(x: Tensor, dim: Axis, correction: float = 1, keepdims: bool = False) -> Tensor:
        return op(x, axis=dim, correction=correction, keepdims=keepdims)

    return function


set_torch_form(max, _along("max", lambda x, axis: argmax(x, axis=axis, keepdims=True)), _VALUES, maximum)
set_torch_form(min, _along("min", lambda x, axis: argmin(x, axis=axis, keepdims=True)), _VALUES, minimum)
set_torch_form(median, _along("median", _middle), _VALUES)
set_torch_form(sort, _sorted, _VALUES)
set_torch_form(std, _unbiased(std), _DIVISORS)
set_torch_form(var, _unbiased(var), _DIVISORS)


@form
def amax(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the greatest element, over all dimensions or those in `axis`, as `max`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.amax(ln.asarray([[1.0, 3.0]]), dim=1).tolist()
    [3.0]
    """
    return max(x, axis=axis, keepdims=keepdims)


@form
def amin(x: Tensor, /, axis: Axis = None, keepdims: bool = False) -> Tensor:
    """Return the smallest element, over all dimensions or those in `axis`, as `min`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.amin(ln.asarray([[1.0, 3.0]]), dim=1).tolist()
    [1.0]
    """
    return min(x, axis=axis, keepdims=keepdims)


@form
def aminmax(x: Tensor, /, *, axis: int | None = None, keepdims: bool = False) -> tuple[Tensor, Tensor]:
    """Return the smallest and the greatest element, of all or along `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.item() for part in ln.aminmax(ln.asarray([1.0, 3.0]))]
    [1.0, 3.0]
    """
    return min(x, axis=axis, keepdims=keepdims), max(x, axis=axis, keepdims=keepdims)


@form
def kthvalue(x: Tensor, /, k: int, axis: int = -1, keepdims: bool = False) -> Chosen:
    """Return the `k`-th smallest element along `axis`, counted from 1, and its position.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.kthvalue(ln.asarray([3.0, 1.0, 2.0]), 2).values.item()
    2.0
    """
    along = normalize_axis("kthvalue", axis, x.shape)
    if not 1 <= k <= x.shape[along]:
        raise ValueError(f"kthvalue: k must be from 1 to {x.shape[along]}, got {k}")
    return _chosen(x, argselect(x, k - 1, k, axis=along), along, keepdims)


@form
def mode(x: Tensor, /, axis: int = -1, keepdims: bool = False) -> Chosen:
    """Return the most frequent element along `axis`, the smallest of several, and the last position of it.

    Examples
    --------
    >>> import labnet as ln
    >>> values, indices = ln.mode(ln.asarray([3, 1, 3]))
    >>> values.item(), indices.item()
    (3, 2)
    """
    along = normalize_axis("mode", axis, x.shape)
    indices = argsort(x, axis=along)
    ordered = take_along_axis(x, indices, axis=along)
    equals = equal(expand_dims(ordered, axis=along), expand_dims(ordered, axis=along + 1))
    counts = sum(astype(equals, "int64"), axis=along)
    first = argmax(counts, axis=along, keepdims=True)
    last = first + take_along_axis(counts, first, axis=along) - 1
    return _chosen(x, take_along_axis(indices, last, axis=along), along, keepdims)


@form
def var_mean(x: Tensor, /, axis: Axis = None, correction: float = 1, keepdims: bool = False) -> tuple[Tensor, Tensor]:
    """Return the variance, by default the unbiased one, and the mean, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.item() for part in ln.var_mean(ln.asarray([1.0, 3.0]))]
    [2.0, 2.0]
    """
    return var(x, axis=axis, correction=correction, keepdims=keepdims), mean(x, axis=axis, keepdims=keepdims)


@form
def std_mean(x: Tensor, /, axis: Axis = None, correction: float = 1, keepdims: bool = False) -> tuple[Tensor, Tensor]:
    """Return the standard deviation, by default the unbiased one, and the mean, as `var_mean`.

    Examples
    --------
    >>> import labnet as ln
    >>> [part.item() for part in ln.std_mean(ln.asarray([1.0, 5.0]), correction=0)]
    [2.0, 3.0]
    """
    return std(x, axis=axis, correction=correction, keepdims=keepdims), mean(x, axis=axis, keepdims=keepdims)
