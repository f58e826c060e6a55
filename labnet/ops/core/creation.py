"""Creation of tensors: constants, ranges and random numbers."""

import math
from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.device import CPU, check_device
from labnet.kernels.device_dispatch import finished, moved
from labnet.ops.core import dispatch
from labnet.ops.core.axes import Shape
from labnet.tensor import DTypeLike, Tensor, as_array, as_dtype

_generator = np.random.default_rng()
#: DLPack's device type of an NVIDIA GPU.
_DLPACK_CUDA = 2


def _dtype(dtype: DTypeLike | None) -> np.dtype[Any]:
    return as_dtype("float32" if dtype is None else dtype)


def _made(value: Any, shape: Shape, dtype: Any, device: str | None, requires_grad: bool) -> Tensor:
    """Make a tensor of one value on a device, uninitialised for None."""
    device = check_device(device)
    like = None if device == CPU else moved(np.zeros((), dtype), device)
    if value is None:
        array = np.empty(shape, dtype, like=like)
    elif like is None and not np.any(value):
        array = np.zeros(shape, dtype)
    else:
        array = np.full(shape, value, dtype, like=like)
    return Tensor(array, device=device, requires_grad=requires_grad)


def _all(shape: Shape, lengths: tuple[int, ...]) -> Shape:
    """Return a shape that is given as one argument, or one length after the other."""
    return (shape, *lengths) if lengths else shape  # type: ignore[arg-type]


def asarray(
    obj: Any,
    /,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    copy: bool | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor from numbers, nested sequences, NumPy arrays or tensors.

    Python floats become float32, integers int64; NumPy arrays keep their dtype and share memory. A tensor that needs no
    conversion is returned itself.

    Parameters
    ----------
    obj : array-like
    dtype : dtype, optional
    device : str, optional
        ``"cpu"`` or ``"cuda"``; by default where a tensor is, or for anything else the one of `set_device`.
    copy : bool, optional
        True for a copy, False for an error if memory cannot be shared.
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
    if device is not None:
        device = check_device(device)
    same = dtype is None or as_dtype(dtype) == getattr(obj, "dtype", None)
    if isinstance(obj, Tensor) and same and not copy and not (requires_grad and not obj.requires_grad):
        if device is None or device == obj.device:
            return obj
        if copy is None and not requires_grad:
            return obj.to_device(device)
    if isinstance(obj, Tensor) and dispatch.current_tracer() is not None:
        traced = obj.detach() if same else obj.detach().astype(dtype)
        traced.requires_grad = requires_grad
        return traced
    array = as_array(obj, dtype=dtype)
    tensor = Tensor(array.copy() if copy else array, device=device)
    given = obj.array if isinstance(obj, Tensor) else obj
    if copy is False and tensor.array is not given and not hasattr(obj, "__cuda_array_interface__"):
        raise ValueError(
            f"asarray: {type(obj).__name__} cannot become a tensor of {array.dtype} on {tensor.device!r} without a copy"
        )
    tensor.requires_grad = requires_grad
    return tensor


def tensor(
    data: Any, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor from a copy of numbers, nested sequences, NumPy arrays or tensors; `asarray` shares memory.

    Parameters
    ----------
    data : array-like
    dtype, device, requires_grad
        As for `asarray`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tensor([[1.0, 2.0]]).shape
    (1, 2)
    """
    source = data.detach() if isinstance(data, Tensor) else data
    return asarray(source, dtype=dtype, device=device, copy=True, requires_grad=requires_grad)


def from_dlpack(x: Any, /, *, device: str | None = None, copy: bool | None = None) -> Tensor:
    """Make a tensor from another library's array, without a copy if possible.

    Examples
    --------
    >>> import labnet as ln, numpy as np
    >>> ln.from_dlpack(np.arange(3)).tolist()
    [0, 1, 2]
    """
    if x.__dlpack_device__()[0] == _DLPACK_CUDA:
        from labnet.kernels.cuda.array.interchange import from_dlpack as from_gpu

        return Tensor(from_gpu(x), device=device)
    return Tensor(np.from_dlpack(x, copy=copy), device=device or CPU)


def empty(
    shape: Shape = (),
    *lengths: int,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor with uninitialised elements.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.empty(2).shape
    (2,)
    """
    return _made(None, _all(shape, lengths), _dtype(dtype), device, requires_grad)


def empty_like(
    x: Tensor, /, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make an uninitialised tensor with the shape of `x`, and its dtype unless given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.empty_like(ln.ones(2)).shape
    (2,)
    """
    return empty(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def zeros(
    shape: Shape = (),
    *lengths: int,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of zeros; the shape may be given as a tuple or one length after the other.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros(2).tolist(), ln.zeros(2, 3).shape
    ([0.0, 0.0], (2, 3))
    """
    return _made(0, _all(shape, lengths), _dtype(dtype), device, requires_grad)


def ones(
    shape: Shape = (),
    *lengths: int,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of ones.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones((1, 2)).tolist()
    [[1.0, 1.0]]
    """
    return _made(1, _all(shape, lengths), _dtype(dtype), device, requires_grad)


def full(
    shape: Shape,
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of one value.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.full(2, 0.5).tolist()
    [0.5, 0.5]
    """
    value = as_array(fill_value, dtype=dtype)
    if isinstance(fill_value, Tensor):
        device = device or fill_value.device
        value = moved(value, CPU)
    return _made(value, shape, value.dtype, device, requires_grad)


def full_like(
    x: Tensor,
    /,
    fill_value: Any,
    *,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Make a tensor of one value with the shape of `x`, and its dtype unless given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.full_like(ln.ones(2), 7).tolist()
    [7.0, 7.0]
    """
    return full(x.shape, fill_value, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


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
    """Make a tensor of zeros with the shape of `x`, and its dtype unless given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.zeros_like(ln.ones(2)).tolist()
    [0.0, 0.0]
    """
    return zeros(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


def ones_like(
    x: Tensor, /, *, dtype: DTypeLike | None = None, device: str | None = None, requires_grad: bool = False
) -> Tensor:
    """Make a tensor of ones with the shape of `x`, and its dtype unless given.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.ones_like(ln.zeros(2)).tolist()
    [1.0, 1.0]
    """
    return ones(x.shape, dtype=dtype or x.dtype, device=device or x.device, requires_grad=requires_grad)


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
    """Make a one-dimensional tensor of evenly spaced numbers; rounding never includes the end.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.arange(1, 7, 2).tolist()
    [1, 3, 5]
    """
    first, last = (0, start) if stop is None else (start, stop)
    first, last, step = (value.item() if hasattr(value, "item") else value for value in (first, last, step))
    floating = any(isinstance(value, float) for value in (first, last, step))
    kind = as_dtype(("float32" if floating else "int64") if dtype is None else dtype)
    if floating or kind.kind == "f":
        return Tensor(_spaced(first, last, step, kind), device=device, requires_grad=requires_grad)
    return Tensor(np.arange(first, last, step, dtype=kind), device=device, requires_grad=requires_grad)


def _spaced(first: float, last: float, step: float, dtype: np.dtype[Any]) -> np.ndarray[Any, Any]:
    """Return evenly spaced numbers, computed in float64 and rounded below `last`."""
    if not math.isfinite((last - first) / step):
        raise ValueError(f"arange: cannot count from {first} to {last} in steps of {step}")
    exact = first + step * np.arange(max(math.ceil((last - first) / step), 0))
    with np.errstate(over="ignore"):
        values, end = exact.astype(dtype), np.asarray(last).astype(dtype)
    stop, beyond = np.float64(last), np.greater_equal if step > 0 else np.less_equal
    if beyond(end, stop):
        end = np.nextafter(end, dtype.type(first)) if dtype.kind == "f" else end - np.sign(step).astype(dtype)
    return np.where(beyond(values, stop), end, values) if np.isfinite(end) else values


def linspace(
    start: float,
    stop: float,
    /,
    num: int | None = None,
    *,
    steps: int | None = None,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    endpoint: bool = True,
    requires_grad: bool = False,
) -> Tensor:
    """Make a one-dimensional tensor of `num` evenly spaced numbers, including the end unless `endpoint` is False.

    `steps` is torch's name of `num`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.linspace(0, 1, 3).tolist()
    [0.0, 0.5, 1.0]
    """
    count = steps if num is None else num
    if count is None:
        raise TypeError("linspace() missing the number of elements: num, or steps")
    values = np.linspace(start, stop, count, endpoint=endpoint, dtype=_dtype(dtype))
    return Tensor(values, device=device, requires_grad=requires_grad)


def manual_seed(seed: int) -> None:
    """Seed the random numbers of `rand`, `randn` and parameter initialisation, identical on every device.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.manual_seed(0); first = ln.rand(3)
    >>> ln.manual_seed(0); (first == ln.rand(3)).tolist()
    [True, True, True]
    """
    restart_at(np.random.PCG64(seed).state)


def random_state() -> Any:
    """Return the state of the random number generator, for `restart_at`."""
    with _generator.bit_generator.lock:
        return _generator.bit_generator.state


def restart_at(state: Any) -> None:
    """Restore a state of the random number generator."""
    with _generator.bit_generator.lock:  # not during a draw of another thread
        _generator.bit_generator.state = state


def rand(
    shape: Shape = (),
    *lengths: int,
    generator: "Generator | None" = None,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Draw from the uniform distribution over [0, 1).

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rand((2, 3)).shape
    (2, 3)
    """
    lengths = _all(shape, lengths)  # type: ignore[assignment]
    return drawn(_uniform, lengths, _dtype(dtype), device=device, requires_grad=requires_grad, generator=generator)


def randn(
    shape: Shape = (),
    *lengths: int,
    generator: "Generator | None" = None,
    dtype: DTypeLike | None = None,
    device: str | None = None,
    requires_grad: bool = False,
) -> Tensor:
    """Draw from the normal distribution with mean 0 and variance 1.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.randn(2, 3).shape
    (2, 3)
    """
    lengths = _all(shape, lengths)  # type: ignore[assignment]
    return drawn(_normal, lengths, _dtype(dtype), device=device, requires_grad=requires_grad, generator=generator)


def _uniform(shape: Shape, dtype: Any, device: str, source: np.random.Generator) -> Any:
    """Draw uniform numbers on their device, identical on every device."""
    if device == CPU:
        return source.random(shape, dtype=_precision(dtype))
    from labnet.kernels.cuda.kernels.random import uniform as draw

    return draw(source, shape, dtype)


def _normal(shape: Shape, dtype: Any, _: str, source: np.random.Generator) -> Any:
    """Draw normal numbers on the host, because each consumes a variable part of the stream."""
    return source.standard_normal(shape, dtype=_precision(dtype))


def _precision(dtype: Any) -> Any:
    return np.float64 if dtype == np.float64 else np.float32


def drawn(
    generate: Callable[..., Any],
    shape: Shape,
    dtype: Any,
    *,
    device: str | None,
    requires_grad: bool,
    generator: "Generator | None" = None,
) -> Tensor:
    """Draw in the precision of the dtype; under tracing, once per call of the compiled function."""
    source = _generator if generator is None else generator.source

    def draw(where: str) -> Any:
        return finished(generate(shape, dtype, where, source)).astype(dtype, copy=False)

    tracer = dispatch.current_tracer()
    if tracer is not None and not requires_grad:
        return tracer.random(draw)
    device = check_device(device)
    return Tensor(draw(device), dtype=dtype, device=device, requires_grad=requires_grad)


class Generator:
    """A source of random numbers of its own, for the ``generator=`` of `rand`, `randint` and others.

    Parameters
    ----------
    device : str, optional
        Accepted for torch's sake: the numbers are the same on every device.

    Examples
    --------
    >>> import labnet as ln
    >>> first, second = (ln.rand(2, generator=ln.Generator().manual_seed(1)) for _ in range(2))
    >>> (first == second).tolist()
    [True, True]
    """

    def __init__(self, device: str | None = None):
        self.source = np.random.default_rng()

    def manual_seed(self, seed: int) -> "Generator":
        """Restart at a seed, and return the generator."""
        self.source.bit_generator.state = np.random.PCG64(seed).state
        return self
