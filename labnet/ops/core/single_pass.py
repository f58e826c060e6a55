"""Elementwise ops in one pass over memory: kernels of the CPU for bodies and rules for which NumPy needs several.

NumPy computes until the kernel is loaded, and arrays of different shapes or with gaps in memory. The bits are the same.
A single function of NumPy has a kernel for large arrays only, which several threads run.
"""

import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from labnet import kernels
from labnet.kernels.device_dispatch import Deferred
from labnet.kernels.scalar_program import HALF, Program, record
from labnet.kernels.threads import LEAST, THREADS
from labnet.ops.core.declaration import Op
from labnet.stats.collecting import suspended
from labnet.tensor import Tensor

_ndarray = np.ndarray
_empty_like = np.empty_like
#: Plans per function; a static argument, such as a slope, may change from step to step.
_MOST = 64
_FLOATS = frozenset(map(np.dtype, ("float32", "float64")))
#: Operations on an element that take as long as to read and write it.
_PASSES = 10
#: Functions of one array that are instructions of processors, and read and write memory most of the time.
_QUICK = frozenset(
    (
        *("negative", "positive", "square", "reciprocal", "absolute", "fabs", "floor", "ceil", "trunc", "rint", "sign"),
        *("isnan", "isinf", "isfinite", "signbit", "logical_not", "invert", "cast"),
    )
)


class _Plan(NamedTuple):
    """A kernel, and what a call of it needs."""

    kernel: kernels.ScalarKernel
    inputs: tuple[int, ...]
    #: Arrays that it does not read; a gradient has the shape of its input.
    unread: tuple[int, ...]
    numbers: Any
    dtype: np.dtype[Any]
    #: Whether the program is a single function of NumPy, for which the kernel pays in several threads only.
    is_single: bool
    #: How many times as long an element takes as in the quickest programs.
    weight: int

    def run(self, operands: tuple[Any, ...]) -> Any:
        """Return the result for these operands; None if NumPy has to compute it."""
        kernel, inputs, unread, numbers, dtype, is_single, weight = self
        first = operands[inputs[0]]
        work = first.size * weight
        compiled = kernel.compiled if work < LEAST and not is_single else None
        for position in unread:
            if operands[position].shape != first.shape:
                return None
        if compiled is None:
            if is_single and (work < LEAST or THREADS.number == 1 or np.geterr()["under"] != "ignore"):
                return None
            compiled = kernel.ready(first.dtype, work)
            if compiled is None:
                return None
        out = _empty_like(first, dtype)
        together = (first, out, numbers) if len(inputs) == 1 else (*[operands[i] for i in inputs], out, numbers)
        if compiled(together):
            return out
        return None if is_single else self._run_in_order(compiled, together[:-2])

    def _run_in_order(self, compiled: Callable[..., int], arrays: tuple[Any, ...]) -> Any:
        """Return the result for arrays of one shape with one order of dimensions in memory; None for others.

        Those with gaps are copied. The result has the order of dimensions that NumPy gives it.
        """
        first, views = arrays[0], []
        order = sorted(range(first.ndim), key=lambda axis: -abs(first.strides[axis]))
        for array in arrays:
            if type(array) is not _ndarray or array.shape != first.shape:
                return None
            view = array.transpose(order)
            steps = [abs(step) for step, length in zip(view.strides, view.shape, strict=True) if length != 1]
            if 0 in steps or steps != sorted(steps, reverse=True):
                return None
            views.append(np.require(view, requirements=("C", "A")))
        out = np.empty(views[0].shape, self.dtype)
        return out.transpose(np.argsort(order)) if compiled((*views, out, self.numbers)) else None


def _key(value: Any) -> Any:
    """Return a number as a part of a key, in which 0.0 and -0.0 differ."""
    return value if type(value) is not float or value else repr(value)


def _plan(
    function: Callable[..., Any], operands: tuple[Any, ...], static: dict[str, Any], *, in_threads: bool
) -> _Plan | None:
    """Return the plan of a function for operands of these dtypes; None if NumPy is as fast, or there is no kernel.

    Parameters
    ----------
    in_threads : bool
        Whether a single function that takes long has a plan too.
    """

    def on_arrays(*given: Any, **named: Any) -> Any:
        found = function(*given, **named)
        return found.array if isinstance(found, Tensor) else found

    given = [x.dtype if type(x) is _ndarray else x for x in operands]
    try:
        with Deferred(), suspended(), np.errstate(all="ignore"):
            program = record(on_arrays, given, static)
    except (TypeError, ValueError, AttributeError):  # not elementwise, or arguments that the call itself refuses
        return None
    if not program.inputs or not (_pays(program) or (in_threads and _takes_long(program))):
        return None
    arrays = [position for position, x in enumerate(operands) if type(x) is _ndarray]
    unread = tuple([position for position in arrays if position not in program.inputs])
    kernel, numbers = kernels.scalar_kernel(program.steps), np.array(program.numbers, float)
    dtype = np.dtype(program.steps[-1].dtype)
    weight = 1 + program.passes // _PASSES
    return _Plan(kernel, program.inputs, unread, numbers, dtype, not _pays(program), weight)


def _pays(program: Program) -> bool:
    """Return whether a kernel is faster than NumPy: for several functions, in float16, and for three slow ones."""
    slow = any(step.dtype == HALF.char or step.kind in ("maximum", "minimum", "where") for step in program.steps)
    return program.passes > 1 or (program.passes == 1 and slow)


def _takes_long(program: Program) -> bool:
    """Return whether a program is a function that takes longer than to read and write memory."""
    return program.passes == 1 and program.steps[-1].kind not in _QUICK


def in_one_pass(
    function: Callable[..., Any], *, in_threads: bool = False, on_none: Callable[[], None] | None = None
) -> Callable[..., Any]:
    """Have a kernel compute an elementwise function of arrays.

    Parameters
    ----------
    function : callable
        Without side effects, and determined by its arguments.
    in_threads : bool
        Whether a kernel also computes large arrays, in several threads, if the function is a single one of NumPy that
        takes longer than memory.
    on_none : callable, optional
        Called when it turns out, for floating arrays and no static arguments, that no kernel pays.

    Examples
    --------
    >>> double = in_one_pass(lambda x: x + x)
    >>> double(np.ones(2))
    array([2., 2.])
    """
    plans: dict[Any, _Plan | None] = {}

    @functools.wraps(function)
    def run(*operands: Any, **static: Any) -> Any:
        first = operands[0]
        if type(first) is not _ndarray:
            return function(*operands, **static)
        key: Any = (first.dtype,)
        if len(operands) > 1 or static:
            key = (
                *[x.dtype if type(x) is _ndarray else (type(x), _key(x)) for x in operands],
                *[(name, type(x), _key(x)) for name, x in static.items()],
            )
        try:
            plan = plans[key]
        except KeyError:
            if len(plans) >= _MOST:
                plans.clear()
            plan = plans[key] = _plan(function, operands, static, in_threads=in_threads)
            if plan is None and on_none is not None and not static and set(key) <= _FLOATS:
                on_none()
        except TypeError:  # an argument without a hash, such as an array on a GPU
            plan = None
        if plan is not None and (found := plan.run(operands)) is not None:
            return found
        return function(*operands, **static)

    return run


def rules_in_one_pass(op: Op) -> None:
    """Have kernels compute the gradient rules of an elementwise op; rules of one pass get none, and no overhead.

    Only for rules of labnet: one of a user may read a variable or a shape, which a recording would not see change.
    """

    def wrapped(rule: Any, position: int) -> Any:
        def restore() -> None:
            op.vjps = (*op.vjps[:position], rule, *op.vjps[position + 1 :])

        return None if rule is None else in_one_pass(rule, on_none=restore)

    op.vjps = tuple([wrapped(rule, position) for position, rule in enumerate(op.vjps)])
