"""Declaration of ops: one block with values, gradients and test samples.

The decorated function works on arrays. The resulting function works on tensors, records a node for the backward, and is
listed in `REGISTRY`, from which tests, methods and documentation are generated. Gradient rules are written in ops, so
one rule serves eager backwards and higher orders.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from labnet.ops.core.axes import Kind, kinds, make_plain
from labnet.ops.core.dispatch import Array as Array
from labnet.ops.core.dispatch import Recorded as Recorded
from labnet.ops.core.dispatch import binary_function, general_function, make_python, static_function, unary_function
from labnet.ops.core.half_precision import widened
from labnet.tensor import Tensor

#: The vector-Jacobian product for one input: ``rule(g, out, *inputs, **static)``.
Rule = Callable[..., Tensor]
P = ParamSpec("P")
R = TypeVar("R")

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int32", "int64", "uint8")
NUMBERS = (*INTEGERS, *FLOATS)
EVERY = ("bool", *NUMBERS)


@dataclass(frozen=True)
class Sample:
    """Test arguments of an op: shapes of the inputs, and static arguments."""

    shapes: tuple[tuple[int, ...], ...]
    static: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Op:
    """A declared op.

    Attributes
    ----------
    name : str
        Name in the array API standard, or else in torch.
    forward : callable
        Implementation on arrays; for a composed op, the function itself.
    vjps : tuple of Rule or None
        One vector-Jacobian rule per input; empty if the op has no gradient or is composed.
    dtypes : tuple of str
        dtypes of inputs in tests; gradients are tested on the floating ones.
    domain : (float, float)
        Range of random test values.
    samples : tuple of Sample
        Shapes and static arguments for tests.
    gradients : tuple of bool
        For each input, whether it has a gradient.
    variadic : bool
        Whether the first argument is a sequence of tensors; one rule with a `position` serves all.
    view : bool
        Whether the output shares memory with the first input where NumPy's does.
    flops : callable or None
        Floating-point operations of one call, from ``(out, *inputs, **static)``; None for one per element.
    wide : bool
        Whether it computes in float32 for float16 arrays.
    is_composed : bool
        Whether it is written in other ops.
    axes : dict of str to Kind
        Arguments that name dimensions.
    numbers : tuple of str
        Numeric arguments that are converted to Python numbers; NumPy scalars would decide the dtype of the result.
    function : callable
        The op on tensors.
    """

    name: str
    forward: Callable[..., Array]
    vjps: tuple[Rule | None, ...]
    dtypes: tuple[str, ...]
    domain: tuple[float, float]
    samples: tuple[Sample, ...]
    gradients: tuple[bool, ...]
    variadic: bool = False
    view: bool = False
    flops: Callable[..., int] | None = None
    is_composed: bool = False
    wide: bool = False
    axes: dict[str, Kind] = field(default_factory=dict)
    numbers: tuple[str, ...] = ()
    function: Callable[..., Any] = field(init=False)

    @property
    def differentiable(self) -> bool:
        """Whether any input has a gradient."""
        return any(self.gradients)

    def count_flops(self, out: Any, *inputs: Any, **static: Any) -> int:
        """Return the floating-point operations of one call, by the op's rule or one per element."""
        if self.flops is not None:
            return int(self.flops(out, *inputs, **static))
        return 0 if self.view else max(np.size(array) for array in (out, *inputs))


def no_flops(*_: Any, **__: Any) -> int:
    """Return 0, for ops that only move values."""
    return 0


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
