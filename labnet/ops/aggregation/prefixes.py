"""Scans that no array library has as one operation, in a logarithmic number of steps (Hillis and Steele, 1986)."""

from collections.abc import Callable

import numpy as np

from labnet.ops.core.axes import normalize_axis
from labnet.ops.core.declaration import Sample
from labnet.ops.core.registry import FLOATS, NUMBERS, composed
from labnet.ops.elementwise.elementary import where
from labnet.ops.elementwise.exponential import logaddexp
from labnet.ops.elementwise.logic import greater_equal, isnan, less_equal, logical_or
from labnet.ops.layout.joining import concat
from labnet.ops.layout.shape import broadcast_to
from labnet.ops.selection.indexing import take_along_axis
from labnet.ops.selection.sorting import Chosen
from labnet.tensor import Tensor

_SAMPLES = (Sample(((5,),), {"axis": 0}), Sample(((3, 4),), {"axis": -1}), Sample(((3, 4),), {"axis": 0}))


def _steps(length: int) -> list[int]:
    return [1 << step for step in range(max(length - 1, 0).bit_length())]


def _extremes(op: str, x: Tensor, axis: int, is_beyond: Callable[[Tensor, Tensor], Tensor]) -> Chosen:
    """Return the greatest or smallest element so far; of equal ones the last, and NaN once there is one."""
    along = normalize_axis(op, axis, x.shape)
    values: Tensor = x.detach()
    positions = np.arange(x.shape[along]).reshape([-1 if i == along else 1 for i in range(x.ndim)])
    indices = broadcast_to(Tensor(positions, device=x.device), x.shape)
    before = (slice(None),) * along
    for step in _steps(x.shape[along]):
        first, late, early = (*before, slice(step)), (*before, slice(step, None)), (*before, slice(-step))
        keeps = logical_or(is_beyond(values[late], values[early]), isnan(values[late]))
        indices = concat([indices[first], where(keeps, indices[late], indices[early])], axis=along)
        values = concat([values[first], where(keeps, values[late], values[early])], axis=along)
    return Chosen(take_along_axis(x, indices, axis=along), indices)


@composed(samples=_SAMPLES, dtypes=NUMBERS)
def cummax(x: Tensor, /, axis: int) -> Chosen:
    """Return the greatest element along `axis` up to each one, and its position.

    Examples
    --------
    >>> import labnet as ln
    >>> values, indices = ln.cummax(ln.asarray([1.0, 3.0, 2.0]), 0)
    >>> values.tolist(), indices.tolist()
    ([1.0, 3.0, 3.0], [0, 1, 1])
    """
    return _extremes("cummax", x, axis, greater_equal)


@composed(samples=_SAMPLES, dtypes=NUMBERS)
def cummin(x: Tensor, /, axis: int) -> Chosen:
    """Return the smallest element along `axis` up to each one, and its position.

    Examples
    --------
    >>> import labnet as ln
    >>> values, indices = ln.cummin(ln.asarray([2.0, 3.0, 1.0]), 0)
    >>> values.tolist(), indices.tolist()
    ([2.0, 2.0, 1.0], [0, 0, 2])
    """
    return _extremes("cummin", x, axis, less_equal)


@composed(samples=_SAMPLES, dtypes=FLOATS)
def logcumsumexp(x: Tensor, /, axis: int) -> Tensor:
    """Return the logarithm of the sum of exponentials along `axis` up to each element, without overflow.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.logcumsumexp(ln.asarray([1000.0, 1000.0]), 0).tolist()
    [1000.0, 1000.6931762695312]
    """
    along = normalize_axis("logcumsumexp", axis, x.shape)
    before, out = (slice(None),) * along, x
    for step in _steps(x.shape[along]):
        late = logaddexp(out[(*before, slice(step, None))], out[(*before, slice(-step))])
        out = concat([out[(*before, slice(step))], late], axis=along)
    return out
