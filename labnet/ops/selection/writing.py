"""In-place writes: ``x[key] = value``, ``x += y``.

A write is an op. If gradients pass through it, the tensor becomes the output of `setitem`, its views are read from that
output, and recorded graphs keep the old values. Otherwise it writes to memory, after `labnet.memory` has ensured
exclusive access.
"""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet import memory
from labnet.autograd import Leaf, is_recording
from labnet.device import CPU
from labnet.errors import DeviceError, DTypeError, GradientError, ShapeError
from labnet.kernels.device_dispatch import device_of, moved
from labnet.ops.core import dispatch
from labnet.ops.core.dispatch import failure, operand
from labnet.ops.core.registry import REGISTRY
from labnet.ops.layout.shape import astype, reshape
from labnet.ops.selection.indexing import getitem, plain_key, setitem
from labnet.stats.collecting import active
from labnet.tensor import Tensor


def write(x: Tensor, key: Any, value: Any) -> None:
    """Run ``x[key] = value``.

    Raises
    ------
    GradientError
        If `x` is, or is a view of, a leaf that requires gradients, while operations are recorded.
    ShapeError, DTypeError, DeviceError
        If the value has a wrong shape, cannot be cast to the dtype of `x`, or is on another device.

    Examples
    --------
    >>> import labnet as ln
    >>> x = ln.zeros((2, 2))
    >>> row = x[0]
    >>> row[...] = 5
    >>> x.tolist()
    [[5.0, 5.0], [0.0, 0.0]]
    """
    if dispatch.Plain is None and (tracer := dispatch.current_tracer()) is not None:
        _check_leaf(tracer.base_of(x))
        _check_dtype("setitem", x, value if isinstance(value, Tensor) else operand(value))
        tracer.write(x, key, value)
        return
    base = memory.base_of(x)
    _check_leaf(base)
    values = operand(value)
    if isinstance(value, Tensor) and value.ndim and value.device != x.device:
        raise DeviceError(
            f"setitem: expected values on {x.device!r}, got a tensor of shape {value.shape} on {value.device!r}: "
            f"move it with .to({x.device!r})"
        )
    _check_dtype("setitem", x, values)
    needs_gradient = isinstance(value, Tensor) and value.requires_grad
    if is_recording() and (base.requires_grad or x.requires_grad or needs_gradient):
        _write_recorded(x, base, key, value)
        return
    if isinstance(value, Tensor):  # perhaps a view of `x`: a reference to its array would force a copy
        del values
        memory.prepare_write(x)
        values = operand(value)
        if device_of(x.array) == device_of(values) == CPU and np.may_share_memory(x.array, values):
            if _is_there(x.array, key, values):
                return
            values = values.copy()  # NumPy may read elements that it has already written
    else:
        memory.prepare_write(x)
    try:
        x.array[plain_key(key)] = values
    except TypeError as error:  # NumPy's error for multi-dimensional values at a mask
        raise failure("setitem", (x.array, values), {"key": key}, ValueError(*error.args)) from None
    except (ValueError, OverflowError) as error:
        raise failure("setitem", (x.array, values), {"key": key}, error) from None


def _write_recorded(x: Tensor, base: Tensor, key: Any, value: Any) -> None:
    """Replace `base` by the output of `setitem`, and its views by views of that output."""
    views = memory.views_of(base)
    places = [memory.positions(view.array, base.array) for view in views]
    if x is base:
        written = setitem(x, value, key)
    else:
        place = memory.positions(x.array, base.array)[_on_host(plain_key(key))]
        written = reshape(setitem(reshape(base, (-1,)), value, place), base.shape)
    if views:
        memory.move(base, views)
        base.array[...] = written.array
    else:
        base.array = written.array
    base.node = written.node
    for view, place in zip(views, places, strict=True):
        view.node = getitem(reshape(written, (-1,)), place).node


def _is_there(array: np.ndarray[Any, Any], key: Any, values: np.ndarray[Any, Any]) -> bool:
    """Return whether values are the same memory that an index selects."""
    try:
        target = array[plain_key(key)]
    except (IndexError, TypeError, ValueError):  # the write raises the error
        return False
    if not isinstance(target, np.ndarray) or target.dtype != values.dtype:
        return False
    one, other = target.__array_interface__, values.__array_interface__
    return target.shape == values.shape and target.strides == values.strides and one["data"] == other["data"]


def _on_host(key: Any) -> Any:
    return tuple(_on_host(part) for part in key) if isinstance(key, tuple) else moved(key, CPU)


def in_place(function: Callable[[Any, Any], Tensor]) -> Callable[[Tensor, Any], Tensor]:
    """Return the in-place form of an operator, which writes into its first operand."""
    forward = getattr(REGISTRY.get(function.__name__), "forward", None)
    ufunc = forward if isinstance(forward, np.ufunc) else None

    def operator(x: Tensor, other: Any, /) -> Tensor:
        if ufunc is not None and type(x) is dispatch.Plain and _fits_in_place(x, other) and memory.is_alone(x):
            array: Any = x.array
            ufunc(array, other.array if isinstance(other, Tensor) else other, out=array)
            return x
        tracer = dispatch.current_tracer() if dispatch.Plain is None else None
        base: Tensor = memory.base_of(x) if tracer is None else tracer.base_of(x)
        _check_leaf(base)
        result: Tensor = function(x, other)
        if result.shape != x.shape:
            raise ShapeError(f"in-place operator: the result has shape {result.shape}, the tensor has shape {x.shape}")
        _check_dtype("in-place operator", x, result)
        if tracer is not None:
            tracer.replace(x, astype(result, x.dtype))
            return x
        if base is not x or memory.views_of(x):
            write(x, ..., result)
            return x
        written = astype(result, x.dtype)
        x.array = written.array
        if is_recording():
            x.node = written.node
        return x

    return operator


def _fits_in_place(x: Tensor, other: Any) -> bool:
    """Return whether NumPy may write the result of an operator into its first operand: none of it is recorded."""
    array: Any = x.array
    if (
        type(array) is not np.ndarray
        or array.dtype.char not in "fd"
        or (x.node is not None and is_recording())
        or active()
    ):
        return False
    if type(other) in dispatch.PYTHON:
        return True
    if type(other) is not dispatch.Plain or (other.node is not None and is_recording()):
        return False
    given: Any = other.array
    return type(given) is np.ndarray and given.dtype is array.dtype and given.shape == array.shape


def _check_leaf(base: Tensor) -> None:
    if is_recording() and isinstance(base.node, Leaf):
        raise GradientError(
            f"a leaf of shape {base.shape} that requires gradients cannot be modified in place while operations are "
            "recorded: compute a new tensor, or update it with assign() or inside no_grad()"
        )


def _check_dtype(name: str, x: Tensor, values: Any) -> None:
    """Refuse values that cannot be cast to the dtype of `x`, such as floats for an integer tensor."""
    kind = values.dtype if hasattr(values, "dtype") else np.min_scalar_type(values)
    fits = np.can_cast(kind, x.dtype, "same_kind") or (x.dtype.kind == "u" and kind.kind == "i")
    if not fits:
        raise DTypeError(
            f"{name}: values of dtype {kind} do not fit a tensor of dtype {x.dtype}; "
            f"convert them with astype({x.dtype.name!r})"
        )
