"""Compile rules of ops that are compositions of other ops.

Eager code computes these in as few NumPy passes as possible. Compiled code composes them of other ops, since fusion
makes passes free.
"""

import inspect
import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet import ops
from labnet.compile.trace.rules.elementwise import Rule, Static
from labnet.compile.trace.trace import Trace
from labnet.compile.trace.traced_tensor import Traced
from labnet.errors import TraceError
from labnet.ops.aggregation.reduction import of_number
from labnet.ops.core.declaration import Op
from labnet.ops.core.dispatch import failure
from labnet.ops.core.dtypes import in_floats
from labnet.ops.core.half_precision import wider
from labnet.ops.nn.likelihood import one_of


def compose(function: Callable[..., Any]) -> Rule:
    """Return the rule of an op from a function that composes it."""

    def rule(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
        found: Traced = function(*operands, **static)
        return found

    return rule


def body(trace: Trace, op: Op, operands: Sequence[Any], static: Static) -> Traced:
    """Trace the body of an op, made of ops and of NumPy's functions that are ops."""
    function = inspect.unwrap(op.forward)
    try:
        found: Traced = trace.lift(function(*operands, **static))
    except (TraceError, RecursionError) as error:  # the latter if NumPy's function leads back to the op
        detail = str(error).removeprefix("jit: cannot compile ")
        is_own = str(function.__module__).startswith("labnet.")  # such as those of ln.linalg
        advice = f"{'' if is_own else 'give it scalar=, or '}call it outside of the compiled function"
        trace.refusal = TraceError(f"jit: cannot compile {op.name}: its body is not made of ops: {advice} ({detail})")
        raise trace.refusal from None
    return found


def _linear(x: Any, weight: Any, bias: Any) -> Any:
    if weight.ndim != 2 or (bias is not None and bias.shape != weight.shape[:1]):
        error = ValueError("expected weight of shape (out_features, in_features) and bias of shape (out_features,)")
        raise failure("linear", tuple(np.empty(v.shape) for v in (x, weight, bias) if v is not None), {}, error)
    out = x @ weight.T
    return out if bias is None else out + bias


def _in_sum_dtype(x: Any) -> Any:
    """Convert to the dtype in which NumPy sums for a mean, so that neither integers nor float16 overflow."""
    return ops.astype(x, {"f": "float32"}.get(x.dtype.kind, "float64")) if x.dtype.char not in "fd" else x


def _mean(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    total = ops.sum(_in_sum_dtype(x), axis=axis, keepdims=keepdims)
    out = total / (x.size // (total.size or 1))
    return ops.astype(out, x.dtype) if x.dtype.kind == "f" else out


def _mean_squared_error(x1: Any, x2: Any) -> Any:
    difference = (x1 if x1.dtype.kind == "f" else x1.astype("float64")) - x2
    (wide,) = wider([difference])
    found = _mean(wide * wide)
    return found if wide is difference else found.astype(difference.dtype)


def _minus_maximum(x: Any, axis: int) -> Any:
    x = in_floats(x)
    return x - (ops.max if x.size else ops.sum)(x, axis=axis, keepdims=True)


def _softmax(x: Any, *, axis: int = -1) -> Any:
    out = ops.exp(_minus_maximum(x, axis))
    return out / ops.sum(out, axis=axis, keepdims=True)


def _log_softmax(x: Any, *, axis: int = -1) -> Any:
    shifted = _minus_maximum(x, axis)
    return shifted - ops.log(ops.sum(ops.exp(shifted), axis=axis, keepdims=True))


def _cross_entropy(x: Any, *, labels: Any, axis: int = -1) -> Any:
    if isinstance(labels, np.ndarray):  # negative labels count from the end
        labels = np.arange(x.shape[axis])[labels]
    labels = x.tracer.lift(labels)  # an array is a constant
    chosen = ops.sum(ops.where(one_of(labels, x.shape, axis), x, np.zeros((), x.dtype)), axis=axis, dtype=x.dtype)
    greatest = ops.max(x, axis=axis, keepdims=True)
    total = ops.sum(ops.exp(x - greatest), axis=axis)
    return ops.log(total) - (chosen - greatest.reshape(chosen.shape))


def _binary_cross_entropy(z: Any, y: Any) -> Any:
    z, y = in_floats(z), in_floats(y)
    return ops.maximum(z, 0) - z * y + ops.log1p(ops.exp(-abs(z)))


def _standardize(x: Any, *, dims: int = 1, eps: float = 1e-5) -> Any:
    axes = tuple(range(-dims, 0))
    out = x - ops.mean(x, axis=axes, keepdims=True)
    return out / ops.sqrt(ops.mean(out * out, axis=axes, keepdims=True) + eps)


def _var(x: Any, *, axis: Any = None, correction: float = 0.0, keepdims: bool = False) -> Any:
    x = x if x.dtype.kind == "f" else _in_sum_dtype(x)
    total = ops.sum(x, axis=axis, keepdims=True)
    count = x.size // (total.size or 1)
    centered = x - total / count
    return ops.sum(centered * centered, axis=axis, keepdims=keepdims) / max(count - correction, 0)


def _gelu(x: Any, *, approximate: str = "none") -> Any:
    if approximate == "none":
        return x * (0.5 * (1 + ops.erf(x * math.sqrt(0.5))))
    return 0.5 * x * (1 + ops.tanh(math.sqrt(2 / math.pi) * (x + 0.044715 * x * x * x)))


def _arg_extreme(join: Callable[..., Any]) -> Callable[..., Any]:
    def function(x: Any, *, axis: int | None = None, keepdims: bool = False) -> Any:
        """Return the first position of the extreme element, or of NaN if there is one."""
        axis = of_number(x, axis)
        rows = x.reshape((-1,)) if axis is None else ops.moveaxis(x, axis, -1)
        hit = ops.logical_or(rows == join(rows, axis=-1, keepdims=True), rows != rows)
        found = ops.min(ops.where(hit, np.arange(rows.shape[-1]), rows.shape[-1]), axis=-1)
        if not keepdims:
            return found
        return found.reshape((1,) * x.ndim) if axis is None else ops.expand_dims(found, axis=axis)

    return function


def _any(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return ops.sum(ops.astype(x != 0, "int64"), axis=axis, keepdims=keepdims) != 0


def _all(x: Any, *, axis: Any = None, keepdims: bool = False) -> Any:
    return ops.sum(ops.astype(x == 0, "int64"), axis=axis, keepdims=keepdims) == 0


COMPOSED: dict[str, Callable[..., Any]] = {
    "sum_of_squares": lambda x: ops.sum(x * x),
    "linear": _linear,
    "mean": _mean,
    "mean_squared_error": _mean_squared_error,
    "binary_cross_entropy_with_logits": _binary_cross_entropy,
    "softmax": _softmax,
    "log_softmax": _log_softmax,
    "cross_entropy_with_logits": _cross_entropy,
    "standardize": _standardize,
    "gelu": _gelu,
    "var": _var,
    "std": lambda x, **static: ops.sqrt(_var(x, **static)),
    "all": _all,
    "argmax": _arg_extreme(ops.max),
    "argmin": _arg_extreme(ops.min),
    "any": _any,
    "count_nonzero": lambda x, **static: ops.sum(ops.astype(x != 0, "int64"), **static),
}
