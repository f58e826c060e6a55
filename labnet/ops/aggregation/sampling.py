"""Random numbers of several distributions, all from uniform, normal and integer draws."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.errors import ShapeError
from labnet.ops.aggregation.reduction import sum
from labnet.ops.aggregation.scans import cumulative_sum
from labnet.ops.core.axes import Shape
from labnet.ops.core.creation import Generator, drawn, rand, randn
from labnet.ops.core.dispatch import current_tracer
from labnet.ops.elementwise.elementary import log, where
from labnet.ops.elementwise.logic import greater_equal, less
from labnet.ops.layout.shape import astype, expand_dims
from labnet.ops.selection.sorting import argsort
from labnet.tensor import DTypeLike, Tensor, as_dtype


def randint(
    low: int,
    high: int | Sequence[int] | None = None,
    size: Shape | None = None,
    *,
    generator: Generator | None = None,
    dtype: DTypeLike = "int64",
    device: str | None = None,
) -> Tensor:
    """Draw integers from `low`, or 0 if it is the only bound, up to but without `high`.

    Parameters
    ----------
    low, high : int
    size : int or tuple of int
    generator : Generator, optional
        Source of the numbers instead of the one that `manual_seed` seeds.
    dtype, device
        As for `zeros`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.randint(0, 10, (2, 3)).shape, ln.randint(10, (4,)).shape
    ((2, 3), (4,))
    """
    if size is None and high is not None:
        low, high, size = 0, low, tuple(high) if isinstance(high, Sequence) else high
    first, last = (0, low) if high is None else (low, high)
    if not isinstance(last, int):
        raise TypeError(f"randint: high must be an integer, got {last!r}")
    shape = (size,) if isinstance(size, int) else tuple(size or ())
    if first >= last:
        raise ValueError(f"randint: expected low < high, got {first} and {last}")

    def integers(shape: Any, dtype: Any, device: str, source: Any) -> Any:
        return source.integers(first, last, shape)

    return drawn(integers, shape, as_dtype(dtype), device=device, requires_grad=False, generator=generator)


def randperm(n: int, *, generator: Generator | None = None, device: str | None = None) -> Tensor:
    """Draw a random order of the integers from 0 to `n` - 1.

    Examples
    --------
    >>> import labnet as ln
    >>> sorted(ln.randperm(4).tolist())
    [0, 1, 2, 3]
    """

    def order(shape: Any, dtype: Any, device: str, source: Any) -> Any:
        return source.permutation(n)

    return drawn(order, (n,), as_dtype("int64"), device=device, requires_grad=False, generator=generator)


def _size_of(size: Any, *parameters: Any) -> tuple[int, ...]:
    """Return the shape to draw: a given one, or that of the parameters of a distribution."""
    if size is not None:
        return (size,) if isinstance(size, int) else tuple(size)
    return np.broadcast_shapes(*(p.shape for p in parameters if isinstance(p, Tensor)))


def normal(mean: Any = 0.0, std: Any = 1.0, size: Shape | None = None, **static: Any) -> Tensor:
    """Draw from the normal distribution.

    Parameters
    ----------
    mean, std : tensors or numbers
    size : int or tuple of int, optional
        By default the common shape of `mean` and `std`.
    **static
        Keywords of `randn`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.normal(0.0, 2.0, (2, 3)).shape
    (2, 3)
    """
    return mean + std * randn(_size_of(size, mean, std), **static)  # type: ignore[no-any-return]


def uniform(low: Any = 0.0, high: Any = 1.0, size: Shape | None = None, **static: Any) -> Tensor:
    """Draw from the uniform distribution over [low, high); the parameters are those of `normal`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.uniform(-1.0, 1.0, 3).shape
    (3,)
    """
    return low + (high - low) * rand(_size_of(size, low, high), **static)  # type: ignore[no-any-return]


def bernoulli(p: Tensor, *, generator: Generator | None = None) -> Tensor:
    """Draw ones with the given probabilities, else zeros.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.bernoulli(ln.asarray([0.0, 1.0])).tolist()
    [0.0, 1.0]
    """
    return astype(less(rand(p.shape, dtype=p.dtype, device=p.device, generator=generator), p), p.dtype)


def multinomial(
    probabilities: Tensor, num_samples: int, replacement: bool = False, *, generator: Generator | None = None
) -> Tensor:
    """Draw positions along the last dimension with probabilities that need not add up to one.

    Parameters
    ----------
    probabilities : tensor of shape (n,) or (rows, n)
    num_samples : int
    replacement : bool
        Whether a position may be drawn several times.
    generator : Generator, optional
        As for `randint`.

    Raises
    ------
    ShapeError
        If more positions are drawn than there are.
    ValueError
        If a probability is negative, or all of a row are 0.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.multinomial(ln.asarray([0.0, 1.0, 0.0]), 2, replacement=True).tolist()
    [1, 1]
    """
    p, count = probabilities.detach(), probabilities.shape[-1]
    if current_tracer() is None and not bool((p >= 0).all() and (sum(p, axis=-1) > 0).all()):
        raise ValueError("multinomial: expected probabilities of at least 0, and one above 0 in each row")
    if not replacement and num_samples > count:
        raise ShapeError(f"multinomial: cannot draw {num_samples} of {count} positions without replacement")
    if replacement:
        ends = cumulative_sum(p, axis=-1)
        draws = rand((*p.shape[:-1], num_samples), dtype=p.dtype, device=p.device, generator=generator)
        beyond = greater_equal(expand_dims(draws * ends[..., -1:], axis=-1), expand_dims(ends, axis=-2))
        return sum(astype(beyond, "int64"), axis=-1)
    # the smallest of exponential numbers with these rates has these probabilities
    waits = -log(1 - rand(p.shape, dtype=p.dtype, device=p.device, generator=generator)) / where(p > 0, p, 1)
    return argsort(where(p > 0, waits, math.inf), axis=-1)[..., :num_samples]


def rand_like(x: Tensor, /, **static: Any) -> Tensor:
    """Draw from the uniform distribution over [0, 1), with the shape, dtype and device of `x`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.rand_like(ln.zeros((2, 3))).shape
    (2, 3)
    """
    return rand(x.shape, **{"dtype": x.dtype, "device": x.device, **static})


def randn_like(x: Tensor, /, **static: Any) -> Tensor:
    """Draw from the normal distribution, with the shape, dtype and device of `x`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.randn_like(ln.zeros((2, 3))).shape
    (2, 3)
    """
    return randn(x.shape, **{"dtype": x.dtype, "device": x.device, **static})
