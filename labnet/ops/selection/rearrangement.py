"""Ops that reorder, repeat or blank out elements."""

from collections.abc import Sequence

import numpy as np

from labnet.errors import DTypeError, ShapeError
from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Array, Sample, no_flops
from labnet.ops.core.registry import EVERY, composed, op
from labnet.ops.layout.shape import Axes, astype, broadcast_to, reshape
from labnet.ops.selection.indexing import take
from labnet.tensor import Tensor, on_host

Width = int | tuple[int, int] | Sequence[tuple[int, int]]


def _flip_back(g: Tensor, out: Tensor, x: Tensor, *, axis: Axes | None = None) -> Tensor:
    return flip(g, axis=axis)


@op(
    _flip_back,
    samples=(
        Sample(((2, 3),)),
        Sample(((2, 3),), {"axis": -1}),
        Sample(((2, 3, 2),), {"axis": (0, -1)}),
        Sample(((),)),
    ),
    dtypes=EVERY,
    view=True,
)
def flip(x: Array, /, axis: Axes | None = None) -> Array:
    """Reverse the order of the elements along `axis`, or along all dimensions, without a copy.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.flip(ln.asarray([1, 2, 3])).tolist()
    [3, 2, 1]
    """
    return np.flip(x, axis)


def _roll_back(g: Tensor, out: Tensor, x: Tensor, *, shift: Axes, axis: Axes | None = None) -> Tensor:
    return roll(g, -shift if isinstance(shift, int) else tuple(-s for s in shift), axis=axis)


@op(
    _roll_back,
    samples=(
        Sample(((2, 3),), {"shift": 2}),
        Sample(((2, 3),), {"shift": -1, "axis": -1}),
        Sample(((2, 3),), {"shift": (1, 2), "axis": (0, 1)}),
    ),
    dtypes=EVERY,
    flops=no_flops,
    reads="",
)
def roll(x: Array, /, shift: Axes, axis: Axes | None = None) -> Array:
    """Move the elements by `shift` along `axis`, those that fall off the end to the front.

    Parameters
    ----------
    x : tensor
    shift : int or tuple of int
        Number of places, one per dimension in `axis`.
    axis : int, tuple of int or None
        Dimensions; None for the flattened tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.roll(ln.asarray([1, 2, 3]), 1).tolist()
    [3, 1, 2]
    """
    return np.roll(x, shift, axis)


@composed(
    samples=(
        Sample(((2, 3),), {"repetitions": (2, 2)}),
        Sample(((3,),), {"repetitions": (2, 1)}),
        Sample(((2, 3),), {"repetitions": (2,)}),
        Sample(((2, 3),), {"repetitions": (0, 1)}),
    ),
    dtypes=EVERY,
)
def tile(x: Tensor, /, repetitions: int | tuple[int, ...], *more: int) -> Tensor:
    """Put copies of the tensor side by side, `repetitions` of them along each dimension.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tile(ln.asarray([1, 2]), (2,)).tolist()
    [1, 2, 1, 2]
    """
    repetitions = (repetitions, *more) if isinstance(repetitions, int) else tuple(repetitions)
    ndim = max(x.ndim, len(repetitions))
    lengths = (1,) * (ndim - x.ndim) + x.shape
    times = (1,) * (ndim - len(repetitions)) + repetitions
    apart = reshape(astype(x, x.dtype), tuple(n for length in lengths for n in (1, length)))  # no view of `x`
    spread = broadcast_to(apart, tuple(n for pair in zip(times, lengths, strict=True) for n in pair))
    return reshape(spread, tuple(t * n for t, n in zip(times, lengths, strict=True)))


@composed(
    samples=(
        Sample(((2, 3),), {"repeats": 2}),
        Sample(((2, 3),), {"repeats": 2, "axis": -1}),
        Sample(((2, 3),), {"repeats": [2, 0, 1], "axis": 1}),
    ),
    dtypes=EVERY,
)
def repeat(x: Tensor, /, repeats: int | Sequence[int] | Tensor, *more: int, axis: int | None = None) -> Tensor:
    """Repeat each element along `axis`, or of the flattened tensor; torch's `repeat` is `tile`.

    Parameters
    ----------
    x : tensor
    repeats : int, or integers, one per element along `axis`
    axis : int or None

    Raises
    ------
    DTypeError, ShapeError
        If `repeats` are no integers, or not as many, or negative.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.repeat(ln.asarray([1, 2]), 2).tolist()
    [1, 1, 2, 2]
    """
    if more:
        raise TypeError(
            f"repeat: got {(repeats, *more)}: to repeat the whole tensor, as torch's repeat does, write "
            f"x.tile({(repeats, *more)}); to repeat each element along a dimension, x.repeat({repeats}, axis={more[0]})"
        )
    flat, along = (reshape(x, (-1,)), 0) if axis is None else (x, normalize_axis("repeat", axis, x.shape))
    try:
        times = np.asarray(on_host(repeats) if isinstance(repeats, Tensor) else repeats)
    except ValueError:  # lists of several lengths
        raise ShapeError(f"repeat: repeats must be integers, got {repeats!r:.80}") from None
    if times.size and times.dtype.kind not in "iub":
        raise DTypeError(f"repeat: repeats must be integers, got {times.dtype}")
    if times.ndim > 1 or times.shape not in ((), (1,), (flat.shape[along],)):
        raise ShapeError(
            f"repeat: expected one number of repeats, or {flat.shape[along]} for axis {along} of shape {flat.shape}, "
            f"got shape {times.shape}"
        )
    if times.size and not 0 <= (least := times.min()) <= (most := times.max()) < 1 << 62:
        raise ShapeError(f"repeat: repeats must be from 0 to 2**62, got {least if least < 0 else most}")
    return take(flat, np.repeat(np.arange(flat.shape[along]), times.astype(np.int64)), axis=along)


def _pairs(pad_width: Width, ndim: int) -> list[tuple[int, int]]:
    """Return (before, after) for each dimension."""
    return [(int(before), int(after)) for before, after in np.broadcast_to(np.asarray(pad_width), (ndim, 2))]


def _unpad(g: Tensor, out: Tensor, x: Tensor, *, pad_width: Width, constant_values: float = 0) -> Tensor:
    pairs = zip(_pairs(pad_width, x.ndim), x.shape, strict=True)
    inner: Tensor = g[tuple(slice(before, before + length) for (before, _), length in pairs)]
    return inner


@op(
    _unpad,
    samples=(
        Sample(((2, 3),), {"pad_width": 1}),
        Sample(((2, 3),), {"pad_width": (0, 2), "constant_values": 7}),
        Sample(((2, 3),), {"pad_width": ((1, 0), (0, 2))}),
    ),
    flops=no_flops,
    reads="",
)
def pad(x: Array, /, pad_width: Width, *, constant_values: float = 0) -> Array:
    """Surround the tensor with a constant.

    Parameters
    ----------
    x : tensor
    pad_width : int, (before, after), or one (before, after) per dimension
    constant_values : number

    Examples
    --------
    >>> import labnet as ln
    >>> ln.pad(ln.asarray([1, 2]), (1, 2)).tolist()
    [0, 1, 2, 0, 0]
    """
    return np.pad(x, _pairs(pad_width, x.ndim), constant_values=constant_values)


_TRIANGLES = (Sample(((3, 4),)), Sample(((2, 3, 3),), {"k": 1}), Sample(((3, 2),), {"k": -1}))


def _matrices(x: Array) -> Array:
    if x.ndim < 2:
        raise ValueError("expected at least two dimensions")
    return x


def _pull_lower(g: Tensor, out: Tensor, x: Tensor, *, k: int = 0) -> Tensor:
    return tril(g, k=k)


@op(_pull_lower, samples=_TRIANGLES, dtypes=EVERY, flops=no_flops, reads="")
def tril(x: Array, /, k: int = 0) -> Array:
    """Keep the elements on and below diagonal `k` of the last two dimensions; the others are zero.

    Raises
    ------
    ShapeError
        If there are fewer than two dimensions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.tril(ln.ones((2, 2))).tolist()
    [[1.0, 0.0], [1.0, 1.0]]
    """
    return np.tril(_matrices(x), k)


def _pull_upper(g: Tensor, out: Tensor, x: Tensor, *, k: int = 0) -> Tensor:
    return triu(g, k=k)


@op(_pull_upper, samples=_TRIANGLES, dtypes=EVERY, flops=no_flops, reads="")
def triu(x: Array, /, k: int = 0) -> Array:
    """Keep the elements on and above diagonal `k` of the last two dimensions; the others are zero.

    Raises
    ------
    ShapeError
        If there are fewer than two dimensions.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.triu(ln.ones((2, 2))).tolist()
    [[1.0, 1.0], [0.0, 1.0]]
    """
    return np.triu(_matrices(x), k)
