"""Tensors from nothing: constants, ranges and random numbers."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.device import check_device
from labnet.ops import dispatch
from labnet.ops.shape import Shape
from labnet.tensor import DTypeLike, Tensor, as_array, as_dtype, tell

_generator = np.random.default_rng()


def _dtype(dtype: DTypeLike | None) -> np.dtype[Any]:
    return as_dtype("float32" if dtype is None else dtype)


def asarray(
    obj: Any,
    /,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of numbers, nested sequences, NumPy arrays or tensors.

    Python floats become float32, integers int64; NumPy arrays keep their dtype and share memory. A tensor
    that needs no change is returned as it is.

    Parameters
    ----------
    obj : array-like
    dtype : dtype, optional
    device : str, optional
    copy : bool, optional
        True for memory of its own, False for an error where memory cannot be shared.
    requires_grad : bool
        Collect a gradient for the tensor.

    Raises
    ------
    ShapeError
        If nested sequences are ragged.
    DTypeError
        If the elements are not numbers or bools.
    ValueError
        If ``copy=False`` is not possible.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asarray([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    check_device(device)
    same_dtype = dtype is None or as_dtype(dtype) == getattr(obj, "dtype", None)
    if isinstance(obj, Tensor) and same_dtype and not copy and not (requires_grad and not obj.requires_grad):
        return obj
    if isinstance(obj, Tensor):
        tell("copy", obj)
    array = as_array(obj, dtype=dtype)
    if copy is False and array is not (obj._array if isinstance(obj, Tensor) else obj):
        raise ValueError(f"asarray: {type(obj).__name__} cannot become a tensor of {array.dtype} without a copy")
    return Tensor(np.array(array) if copy else array, requires_grad=requires_grad)


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Make a tensor of another library's array, without a copy where that is possible.

    Examples
    --------
    >>> import labnet as ln, numpy as np
    >>> ln.from_dlpack(np.arange(3)).tolist()
    [0, 1, 2]
    """
    check_device(device)
    return Tensor(np.from_dlpack(x, copy=copy))


def empty(
    shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor whose elements are whatever was in memory.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.empty(2).shape
    (2,)
    """
    return Tensor(np.empty(shape, _dtype(dtype)), device=device, requires_grad=requires_grad)


def empty_like(
    x: Tensor, /, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor with the shape, and unless given the dtype, of `x`, and any elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.empty_like(ln.ones(2)).shape
    (2,)
    """
    return empty(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def zeros(
    shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of zeros.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(2).tolist()
    [0.0, 0.0]
    """
    return Tensor(np.zeros(shape, _dtype(dtype)), device=device, requires_grad=requires_grad)


def ones(
    shape: Shape, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones((1, 2)).tolist()
    [[1.0, 1.0]]
    """
    return Tensor(np.ones(shape, _dtype(dtype)), device=device, requires_grad=requires_grad)


def full(
    shape: Shape,
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor that holds one value everywhere.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.full(2, 0.5).tolist()
    [0.5, 0.5]
    """
    value = as_array(fill_value.numpy() if isinstance(fill_value, Tensor) else fill_value, dtype=dtype)
    return Tensor(np.full(shape, value, value.dtype), device=device, requires_grad=requires_grad)


def full_like(
    x: Tensor,
    /,
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of one value with the shape, and unless given the dtype, of `x`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.full_like(ln.ones(2), 7).tolist()
    [7.0, 7.0]
    """
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def eye(
    n_rows: int,
    n_cols: int | None = None,
    /,
    *,
    k: int = 0,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a matrix with ones on diagonal `k` and zeros elsewhere.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.eye(2, 3, k=1).tolist()
    [[0.0, 1.0, 0.0], [0.0, 0.0, 1.0]]
    """
    return Tensor(np.eye(n_rows, n_cols, k, _dtype(dtype)), device=device, requires_grad=requires_grad)


def zeros_like(
    x: Tensor, /, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of zeros with the shape, and unless given the dtype, of `x`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros_like(ln.ones(2)).tolist()
    [0.0, 0.0]
    """
    return zeros(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def ones_like(
    x: Tensor, /, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of ones with the shape, and unless given the dtype, of `x`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones_like(ln.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return ones(x.shape, dtype=dtype or x.dtype, device=device, requires_grad=requires_grad)


def arange(
    start: float,
    /,
    stop: float | None = None,
    step: float = 1,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a one-dimensional tensor of evenly spaced numbers, the end excluded.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.arange(1, 7, 2).tolist()
    [1, 3, 5]
    """
    first, last = (0, start) if stop is None else (start, stop)
    if dtype is None:
        dtype = "float32" if any(isinstance(value, float) for value in (first, last, step)) else "int64"
    return Tensor(np.arange(first, last, step, dtype=as_dtype(dtype)), device=device, requires_grad=requires_grad)


def linspace(
    start: float,
    stop: float,
    /,
    num: int,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    endpoint: bool = True,
    requires_grad: bool = False,
) -> Tensor:
    """Make a one-dimensional tensor of `num` evenly spaced numbers, the end included unless `endpoint` is False.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linspace(0, 1, 3).tolist()
    [0.0, 0.5, 1.0]
    """
    values = np.linspace(start, stop, num, endpoint=endpoint, dtype=_dtype(dtype))
    return Tensor(values, device=device, requires_grad=requires_grad)


def manual_seed(seed: int) -> None:
    """Restart the random numbers of `rand`, `randn` and parameter initialisation.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.manual_seed(0); first = ln.rand(3)
    >>> ln.manual_seed(0); (first == ln.rand(3)).tolist()
    [True, True, True]
    """
    _generator.bit_generator.state = np.random.PCG64(seed).state


def random_state() -> Any:
    """Return where the stream of random numbers is, for `restart_at`."""
    return _generator.bit_generator.state


def restart_at(state: Any) -> None:
    """Draw the same random numbers again that came after a state."""
    _generator.bit_generator.state = state


def rand(
    shape: Shape = (), *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Draw from the uniform distribution over [0, 1).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rand((2, 3)).shape
    (2, 3)
    """
    return _drawn(_generator.random, shape, _dtype(dtype), device=device, requires_grad=requires_grad)


def randn(
    shape: Shape = (), *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Draw from the normal distribution with mean 0 and variance 1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.randn((2, 3)).shape
    (2, 3)
    """
    return _drawn(_generator.standard_normal, shape, _dtype(dtype), device=device, requires_grad=requires_grad)


def _drawn(
    generate: Callable[..., Any], shape: Shape, dtype: Any, *, device: str | None, requires_grad: bool
) -> Tensor:
    """Draw in the precision of the dtype; where a function is traced, once per call of the compiled one."""

    def draw() -> Any:
        numbers = np.asarray(generate(shape, dtype=np.float64 if dtype == np.float64 else np.float32))
        return numbers.astype(dtype, copy=False)

    tracer = dispatch.current_tracer()
    if tracer is not None and not requires_grad:
        return tracer.random(draw)
    return Tensor(draw(), dtype=dtype, device=device, requires_grad=requires_grad)
