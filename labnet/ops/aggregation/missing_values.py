"""Reductions that skip NaN."""

import math
from collections.abc import Callable

from labnet.ops.aggregation.reduction import SAMPLES, Axis, all, argmax, argmin, max, min, sum
from labnet.ops.core.declaration import Sample
from labnet.ops.core.registry import FLOATS, composed
from labnet.ops.elementwise.elementary import where
from labnet.ops.elementwise.logic import isnan, logical_not
from labnet.ops.layout.shape import astype
from labnet.tensor import Tensor

_PLACES = (Sample(((3, 4),)), Sample(((3, 4),), {"axis": -1}))


@composed(samples=SAMPLES, dtypes=FLOATS)
def nansum(x: Tensor, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Return the sum of the elements that are not NaN, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nansum(ln.asarray([1.0, ln.nan, 2.0])).item()
    3.0
    """
    return sum(where(isnan(x), 0, x), axis=axis, keepdims=keepdims)


@composed(samples=SAMPLES, dtypes=FLOATS)
def nanmean(x: Tensor, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Return the mean of the elements that are not NaN, over all dimensions or those in `axis`.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nanmean(ln.asarray([1.0, ln.nan, 2.0])).item()
    1.5
    """
    count = sum(astype(logical_not(isnan(x)), x.dtype), axis=axis, keepdims=keepdims)
    return nansum(x, axis=axis, keepdims=keepdims) / count


def _extreme(x: Tensor, axis: Axis, keepdims: bool, fill: float, reduce: Callable[..., Tensor]) -> Tensor:
    missing = isnan(x)
    out = reduce(where(missing, fill, x), axis=axis, keepdims=keepdims)
    return where(all(missing, axis=axis, keepdims=keepdims), math.nan, out)


@composed(samples=SAMPLES, dtypes=FLOATS)
def nanmax(x: Tensor, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Return the greatest element that is not NaN, over all dimensions or those in `axis`; NaN if there is none.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nanmax(ln.asarray([1.0, ln.nan, 2.0])).item()
    2.0
    """
    return _extreme(x, axis, keepdims, -math.inf, max)


@composed(samples=SAMPLES, dtypes=FLOATS)
def nanmin(x: Tensor, /, axis: Axis = None, *, keepdims: bool = False) -> Tensor:
    """Return the smallest element that is not NaN, over all dimensions or those in `axis`; NaN if there is none.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nanmin(ln.asarray([1.0, ln.nan, 2.0])).item()
    1.0
    """
    return _extreme(x, axis, keepdims, math.inf, min)


@composed(samples=_PLACES, gradients=(False,), dtypes=FLOATS)
def nanargmax(x: Tensor, /, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Return the position of the greatest element that is not NaN, along `axis` or in the flattened tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nanargmax(ln.asarray([1.0, ln.nan, 2.0])).item()
    2
    """
    return argmax(where(isnan(x), -math.inf, x), axis=axis, keepdims=keepdims)


@composed(samples=_PLACES, gradients=(False,), dtypes=FLOATS)
def nanargmin(x: Tensor, /, axis: int | None = None, *, keepdims: bool = False) -> Tensor:
    """Return the position of the smallest element that is not NaN, along `axis` or in the flattened tensor.

    Examples
    --------
    >>> import labnet as ln
    >>> ln.nanargmin(ln.asarray([ln.nan, 1.0, 2.0])).item()
    1
    """
    return argmin(where(isnan(x), math.inf, x), axis=axis, keepdims=keepdims)
