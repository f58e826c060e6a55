"""NumPy's universal functions on tensors: the op of each, and their methods."""

import builtins
import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from labnet.ops.aggregation.linalg import matmul, vecdot
from labnet.ops.aggregation.reduction import all, any, max, min, sum
from labnet.ops.aggregation.scans import cumulative_prod, cumulative_sum
from labnet.ops.aggregation.statistics import prod
from labnet.ops.core.registry import UFUNCS as UFUNCS
from labnet.ops.elementwise.arithmetic import abs, floor_divide, minimum, positive, remainder, round
from labnet.ops.elementwise.elementary import add, maximum, multiply, pow, where
from labnet.ops.elementwise.logic import isnan, logical_and, logical_or
from labnet.ops.layout.shape import astype, expand_dims, reshape, squeeze
from labnet.ops.numpy_api.table import MISSING, Elsewhere, Function, as_tensor, kept, need
from labnet.tensor import Tensor


def _floating(x: Any) -> Tensor:
    x = as_tensor(x)
    return x if x.dtype.kind == "f" else astype(x, "float64")


def _matvec(x1: Any, x2: Any) -> Tensor:
    return squeeze(matmul(x1, expand_dims(as_tensor(x2), axis=-1)), axis=-1)


def _vecmat(x1: Any, x2: Any) -> Tensor:
    return squeeze(matmul(expand_dims(as_tensor(x1), axis=-2), x2), axis=-2)


#: Of an op with ``ufunc=`` the registry knows the universal function; these are the others.
UFUNCS.update(
    {
        np.float_power: lambda x1, x2: pow(astype(as_tensor(x1), "float64"), astype(as_tensor(x2), "float64")),
        np.floor_divide: floor_divide,
        np.divmod: lambda x1, x2: (floor_divide(x1, x2), remainder(x1, x2)),
        np.fmax: lambda x1, x2: where(isnan(x1), x2, where(isnan(x2), x1, maximum(x1, x2))),
        np.fmin: lambda x1, x2: where(isnan(x1), x2, where(isnan(x2), x1, minimum(x1, x2))),
        np.conjugate: positive,
        np.fabs: lambda x: abs(_floating(x)),
        np.exp2: lambda x: pow(2.0, _floating(x)),
        np.rint: lambda x: round(_floating(x)),
        np.deg2rad: lambda x: _floating(x) * (math.pi / 180),
        np.radians: lambda x: _floating(x) * (math.pi / 180),
        np.rad2deg: lambda x: _floating(x) * (180 / math.pi),
        np.degrees: lambda x: _floating(x) * (180 / math.pi),
        np.vecdot: vecdot,
        np.matvec: _matvec,
        np.vecmat: _vecmat,
    }
)
#: Products of matrices and vectors, which have no outer form.
_PRODUCTS = (np.matmul, np.vecdot, np.matvec, np.vecmat)


def reduction(op: Function, *, empty: Any = None, join: Function | None = None) -> Function:
    """Return a reduction with the arguments of ``ufunc.reduce``.

    Parameters
    ----------
    op : callable
    empty : number, optional
        Replacement for elements that ``where=`` excludes.
    join : callable, optional
        Combines the result with ``initial=``.
    """

    def reduce(
        array: Any,
        axis: Any = 0,
        dtype: Any = None,
        out: Any = None,
        keepdims: Any = False,
        initial: Any = MISSING,
        where: Any = True,
    ) -> Tensor:
        x, given = as_tensor(array), initial is not MISSING and initial is not None
        need(out is None and not (given and join is None))
        if where is not True:
            need(empty is not None or given)
            x = _WHERE(where, x, empty if empty is not None else initial)
        static: dict[str, Any] = {"axis": axis, "keepdims": kept(keepdims)}
        if dtype is not None:
            need(op in (sum, prod))
            static["dtype"] = dtype
        found: Tensor = op(x, **static)
        return found if not given or join is None else join(found, initial)

    return reduce


_WHERE = where
REDUCTIONS = {
    np.add: reduction(sum, empty=0, join=add),
    np.multiply: reduction(prod, empty=1, join=multiply),
    np.maximum: reduction(max, join=maximum),
    np.minimum: reduction(min, join=minimum),
    np.logical_and: reduction(all, empty=True, join=logical_and),
    np.logical_or: reduction(any, empty=False, join=logical_or),
}
_RUNNING = {np.add: cumulative_sum, np.multiply: cumulative_prod}


def _accumulated(ufunc: Any, array: Any, axis: int = 0, dtype: Any = None, out: Any = None) -> Tensor:
    need(ufunc in _RUNNING and out is None)
    found: Tensor = _RUNNING[ufunc](as_tensor(array), axis=axis, dtype=dtype)
    return found


def _outer(ufunc: Any, x1: Any, x2: Any, **named: Any) -> Any:
    need(ufunc not in _PRODUCTS)
    x1, x2 = as_tensor(x1), as_tensor(x2)
    return called(ufunc, (reshape(x1, x1.shape + (1,) * x2.ndim), x2), named)


def called(ufunc: Any, inputs: Sequence[Any], named: dict[str, Any]) -> Any:
    """Call the op of a universal function; ``dtype=`` is the only accepted keyword."""
    op = UFUNCS.get(ufunc)
    if op is None or named.keys() - {"dtype", "axis"} or ("axis" in named and ufunc is not np.vecdot):
        raise Elsewhere
    dtype = named.pop("dtype", None)
    if dtype is None:
        return op(*inputs, **named)
    tensors = [as_tensor(x) for x in inputs]
    need(ufunc.nout == 1 and builtins.all(np.can_cast(x.dtype, dtype, "same_kind") for x in tensors))
    found = op(*(astype(x, dtype) for x in tensors))
    need(found.dtype == dtype)
    return found


def carried_out(ufunc: Any, method: str, inputs: tuple[Any, ...], named: dict[str, Any]) -> Any:
    """Run a universal function, or one of its methods, on tensors.

    Raises
    ------
    Elsewhere
        If there is no op for it.
    """
    if method == "__call__":
        return called(ufunc, inputs, named)
    if method == "reduce" and ufunc in REDUCTIONS:
        return REDUCTIONS[ufunc](*inputs, **named)
    if method == "accumulate":
        return _accumulated(ufunc, *inputs, **named)
    if method == "outer":
        return _outer(ufunc, *inputs, **named)
    raise Elsewhere
