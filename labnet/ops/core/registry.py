"""Declaration of ops: one block with values, gradients and test samples.

The decorated function works on arrays. The resulting function works on tensors, records a node for the backward, and is
listed in `REGISTRY`, from which tests, methods and documentation are generated. Gradient rules are written in ops, so
one rule serves eager backwards and higher orders.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from labnet.ops.core.axes import kinds, make_plain
from labnet.ops.core.declaration import Array, Op, Rule, Sample
from labnet.ops.core.dispatch import Recorded as Recorded
from labnet.ops.core.dispatch import binary_function, general_function, make_python, static_function, unary_function
from labnet.ops.core.half_precision import widened
from labnet.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int32", "int64", "uint8")
NUMBERS = (*INTEGERS, *FLOATS)
EVERY = ("bool", *NUMBERS)

REGISTRY: dict[str, Op] = {}

#: Operands with a weak type, and None for an omitted operand.
_PLAIN = bool | int | float | None


def op(
    *vjps: Rule | None,
    samples: tuple[Sample, ...],
    inputs: int = 1,
    dtypes: tuple[str, ...] = NUMBERS,
    domain: tuple[float, float] = (-2.0, 2.0),
    variadic: bool = False,
    view: bool = False,
    ufunc: Callable[..., Array] | None = None,
    flops: Callable[..., int] | None = None,
    wide: bool = False,
) -> Callable[[Callable[P, Array]], Callable[P, Tensor]]:
    """Declare an op whose first `inputs` arguments are tensors; the others are static.

    Parameters
    ----------
    *vjps : Rule or None
        One rule per input, or no rules.
    ufunc : callable, optional
        NumPy's function that implements the op; the decorated function then only defines the signature.
    wide : bool
        Compute in float32 for float16 arrays, because the body sums, squares or counts.
    samples, dtypes, domain, variadic, view, flops
        See `Op`.
    """

    def declare(body: Callable[P, Array]) -> Callable[P, Tensor]:
        name = body.__name__
        parameters = list(inspect.signature(body).parameters.values())[inputs:]
        gradients = tuple(rule is not None for rule in vjps)
        forward = ufunc or (widened(body) if wide else body)
        declared = Op(name, forward, vjps, dtypes, domain, samples, gradients, variadic, view, flops)
        declared.axes, declared.wide = kinds(parameters), wide
        declared.numbers = tuple(p.name for p in parameters if p.annotation is float)
        names = tuple(parameter.name for parameter in parameters)
        positional = sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
        required = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
        if inputs == 2 and not names:
            function = binary_function(declared)
        elif inputs > 1 or variadic:
            function = general_function(declared, inputs=inputs, names=names, positional=positional, required=required)
        elif names or view:
            function = static_function(declared, names=names, positional=positional, required=required)
        else:
            function = unary_function(declared)
        declared.function = functools.wraps(body)(function)
        REGISTRY[name] = declared
        return cast("Callable[P, Tensor]", declared.function)

    return declare


def composed(
    *,
    samples: tuple[Sample, ...],
    gradients: tuple[bool, ...] = (True,),
    dtypes: tuple[str, ...] = NUMBERS,
    domain: tuple[float, float] = (-2.0, 2.0),
    variadic: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function of tensors that is composed of other ops, which provide its gradients.

    Its first arguments, as many as `gradients`, accept any input of `Tensor`.

    Parameters
    ----------
    samples, gradients, dtypes, domain, variadic
        See `Op`.
    """

    def declare(body: Callable[P, R]) -> Callable[P, R]:
        inputs = 0 if variadic else len(gradients)
        call: Callable[..., R] = body
        parameters = inspect.signature(body).parameters.values()
        axes, numbers = kinds(parameters), [p.name for p in parameters if p.annotation is float]

        @functools.wraps(body)
        def function(*args: Any, **static: Any) -> R:
            tensors = [x if isinstance(x, Tensor | _PLAIN) else Tensor(x) for x in args[:inputs]]
            make_plain(body.__name__, axes, static)
            if numbers and static:
                make_python(numbers, static)
            return call(*tensors, *args[inputs:], **static)

        declared = Op(body.__name__, body, (), dtypes, domain, samples, gradients, variadic, is_composed=True)
        declared.axes = axes
        declared.function = function
        REGISTRY[declared.name] = declared
        return cast("Callable[P, R]", function)

    return declare
