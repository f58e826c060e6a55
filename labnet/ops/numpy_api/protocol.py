"""NumPy's protocols for tensors: its functions run as ops, which keep gradients and devices.

Without an op, NumPy computes on the elements, unless a gradient would be lost: that is an error.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from labnet.autograd import is_recording
from labnet.errors import DTypeError, GradientError
from labnet.ops.numpy_api import elements, indices, products, reductions, shapes
from labnet.ops.numpy_api.table import FUNCTIONS, Elsewhere
from labnet.ops.numpy_api.ufuncs import UFUNCS, carried_out
from labnet.tensor import DTYPES, Tensor

#: Modules that fill the table.
PARTS = (elements, indices, products, reductions, shapes)
#: Operands that ops accept directly.
_PLAIN = {Tensor, np.ndarray, bool, int, float}
_SUPPORTED = frozenset(DTYPES.values())
#: Functions that write into their first argument.
_WRITING = {np.copyto, np.put, np.place, np.putmask, np.put_along_axis, np.fill_diagonal}


def array_ufunc(self: Tensor, ufunc: Any, method: str, *inputs: Any, **named: Any) -> Any:
    """Run a universal function of NumPy, or one of its methods.

    Raises
    ------
    GradientError
        If there is no op for it and a gradient would be lost.
    TypeError
        If ``out=`` is a tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> np.exp(ln.zeros(2))
    Tensor([1., 1.], dtype=float32)
    """
    if (
        method == "__call__" and not named and type(inputs[0]) in _PLAIN and type(inputs[-1]) in _PLAIN
    ):  # for example an array times a tensor
        try:
            return UFUNCS[ufunc](*inputs)
        except (KeyError, DTypeError):
            pass
    name = f"np.{ufunc.__name__}" + ("" if method == "__call__" else f".{method}")
    _refuse_tensor_as_out(name, named.get("out"))
    if any(map(_decides, inputs)):
        return NotImplemented
    function = ufunc if method == "__call__" else getattr(ufunc, method)
    if method == "at":
        _refuse_tensor_as_target(name, inputs)
    if method == "at" or named.get("out") is not None or any(map(_is_foreign, inputs)):
        return _on_elements(name, function, inputs, named, writes=True)
    named.pop("out", None)
    try:
        if not named and method == "__call__" and ufunc in UFUNCS:
            return UFUNCS[ufunc](*inputs)
        return carried_out(ufunc, method, inputs, dict(named))
    except (Elsewhere, DTypeError):  # NumPy may accept other values, such as None or a string
        return _on_elements(name, function, inputs, named)


def array_function(self: Tensor, function: Any, types: Any, args: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Run a function of NumPy that is no universal function; see `array_ufunc`.

    Examples
    --------
    >>> import labnet as ln
    >>> np.concatenate([ln.zeros(1), np.ones(1, "float32")])
    Tensor([0., 1.], dtype=float32)
    """
    if not all(issubclass(kind, Tensor | np.ndarray) for kind in types):
        return NotImplemented
    name = f"{function.__module__}.{function.__name__}".replace("numpy", "np", 1)
    _refuse_tensor_as_out(name, named.get("out"))
    if function in _WRITING:
        _refuse_tensor_as_target(name, args)
    own = FUNCTIONS.get(function)
    if own is not None and not any(map(_is_foreign, _leaves(args))):
        try:
            return own(*args, **named)
        except (Elsewhere, DTypeError):
            pass
    return _on_elements(name, function, args, named, writes=function in _WRITING or named.get("out") is not None)


def _on_elements(name: str, function: Any, args: Any, named: Any, *, writes: bool = False) -> Any:
    """Let NumPy compute on the elements, unless a gradient would be lost."""
    trained = is_recording() and any(isinstance(x, Tensor) and x.requires_grad for x in _leaves((args, named)))
    if trained and writes:
        raise _loss(name)
    found = function(*_arrays(args), **_arrays(named))
    if trained and any(_is_floating(x) for x in _leaves(found)):
        raise _loss(name)
    return found


def _loss(name: str) -> GradientError:
    return GradientError(
        f"{name}: labnet has no op for it with these arguments, so a gradient would be lost: "
        "use x.detach() or x.numpy() if none is needed, or an op of labnet"
    )


def _refuse_tensor_as_out(name: str, out: Any) -> None:
    if any(isinstance(x, Tensor) for x in _leaves(out)):
        raise TypeError(f"{name}: out= must not be a tensor: use what is returned, or write x[...] = {name}(...)")


def _refuse_tensor_as_target(name: str, args: Sequence[Any]) -> None:
    if args and isinstance(args[0], Tensor):
        raise TypeError(f"{name}: NumPy does not write into a tensor: use x[...] = values, or an op of labnet")


def _decides(x: Any) -> bool:
    """Return whether an operand of another library handles universal functions itself."""
    return not isinstance(x, Tensor | np.ndarray | np.generic) and hasattr(type(x), "__array_ufunc__")


def _is_foreign(x: Any) -> bool:
    """Return whether an array has an unsupported dtype, such as complex numbers or strings."""
    if isinstance(x, Tensor):
        return False
    if isinstance(x, np.ndarray | np.generic):
        return x.dtype not in _SUPPORTED
    return isinstance(x, complex)


def _is_floating(x: Any) -> bool:
    return isinstance(x, float | complex) or (isinstance(x, np.ndarray | np.generic) and x.dtype.kind in "fcO")


def _leaves(value: Any) -> Iterator[Any]:
    """Yield the leaves of nested tuples, lists and dicts."""
    if isinstance(value, list | tuple):
        for part in value:
            yield from _leaves(part)
    elif isinstance(value, dict):
        yield from _leaves(list(value.values()))
    else:
        yield value


def _arrays(value: Any) -> Any:
    """Return nested tuples, lists and dicts with every tensor replaced by its array."""
    if isinstance(value, Tensor):
        return value.numpy()
    if isinstance(value, dict):
        return {key: _arrays(part) for key, part in value.items()}
    if type(value) in (list, tuple):
        return type(value)(_arrays(part) for part in value)
    return value
