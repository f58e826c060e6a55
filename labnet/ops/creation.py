"""Tensors from nothing: constants, ranges and random numbers."""

from typing import Any

import numpy as np

from labnet.ops.shape import Shape
from labnet.tensor import DTypeLike, Tensor, as_dtype

_generator = np.random.default_rng()


def asarray(
    data: Any, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of numbers, nested sequences, NumPy arrays or tensors.

    Python floats become float32, integers int64; NumPy arrays keep their dtype and share memory.

    Raises
    ------
    ShapeError
        If nested sequences are ragged.
    DTypeError
        If the elements are not numbers or bools.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.asarray([[1, 2], [3, 4]]).shape
    (2, 2)
    """
    return Tensor(data, dtype=dtype, device=device, requires_grad=requires_grad)


def zeros(
    shape: Shape, *, dtype: DTypeLike = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of zeros.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(2).tolist()
    [0.0, 0.0]
    """
    return Tensor(np.zeros(shape, as_dtype(dtype)), device=device, requires_grad=requires_grad)


def ones(
    shape: Shape, *, dtype: DTypeLike = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones((1, 2)).tolist()
    [[1.0, 1.0]]
    """
    return Tensor(np.ones(shape, as_dtype(dtype)), device=device, requires_grad=requires_grad)


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
    value = Tensor(fill_value, dtype=dtype)
    return Tensor(np.full(shape, value.numpy(), value.dtype), device=device, requires_grad=requires_grad)


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


def rand(
    shape: Shape = (), *, dtype: DTypeLike = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Draw from the uniform distribution over [0, 1).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rand((2, 3)).shape
    (2, 3)
    """
    drawn = _generator.random(shape, dtype=_drawable(dtype))
    return Tensor(drawn, dtype=dtype, device=device, requires_grad=requires_grad)


def randn(
    shape: Shape = (), *, dtype: DTypeLike = "float32", device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Draw from the normal distribution with mean 0 and variance 1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.randn((2, 3)).shape
    (2, 3)
    """
    drawn = _generator.standard_normal(shape, dtype=_drawable(dtype))
    return Tensor(drawn, dtype=dtype, device=device, requires_grad=requires_grad)


def _drawable(dtype: DTypeLike) -> Any:
    return np.float64 if as_dtype(dtype) == np.float64 else np.float32
