"""How an op is declared: one block with its values, its gradients and its test samples.

The decorated function works on arrays; what it turns into works on tensors, records itself for a backward,
and is listed in `REGISTRY`, over which the tests, the methods and the documentation are generated. Gradient
rules are written in ops again, so the same rule serves eager backward and higher orders.
"""

import functools
import inspect
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from labnet.ops.axes import Kind, kinds, make_plain
from labnet.ops.dispatch import Array as Array
from labnet.ops.dispatch import Recorded as Recorded
from labnet.ops.dispatch import binary_function, general_function, make_python, static_function, unary_function
from labnet.ops.halves import widened
from labnet.tensor import Tensor

#: Pulls the gradient of an output back to one input: ``rule(g, out, *inputs, **static)``.
Rule = Callable[..., Tensor]
P = ParamSpec("P")
R = TypeVar("R")

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int32", "int64", "uint8")
NUMBERS = (*INTEGERS, *FLOATS)
EVERY = ("bool", *NUMBERS)


@dataclass(frozen=True)
class Sample:
    """Arguments that the tests call an op with: shapes of the inputs, and static arguments."""

    shapes: tuple[tuple[int, ...], ...]
    static: dict[str, Any] = field(default_factory=dict)


@dataclass(eq=False)
class Op:
    """One declared op.

    Attributes
    ----------
    name : str
        Name in the array API standard, or torch's where the standard has none.
    forward : callable
        Implementation on arrays; for an op that is composed of others, the function itself.
    vjps : tuple of Rule or None
        One vector-Jacobian rule per input; empty if the op has no gradient or is composed.
    dtypes : tuple of str
        dtypes that the inputs may have in tests; gradients are tested on the floating ones.
    domain : (float, float)
        Range that test values are drawn from.
    samples : tuple of Sample
        Shapes and static arguments that the tests use.
    gradients : tuple of bool
        For each input, whether a gradient reaches it.
    variadic : bool
        The first argument is a sequence of tensors; one rule with a `position` serves them all.
    view : bool
        The output shares the memory of the first input where NumPy's does.
    flops : callable or None
        Floating-point operations of one call, from ``(out, *inputs, **static)``; None where there is one per
        element.
    wide : bool
        It computes in float32 where its arrays are float16.
    is_composed : bool
        It is written in other ops.
    axes : dict of str to Kind
        Arguments that name dimensions.
    numbers : tuple of str
        Arguments that are numbers of Python; those of NumPy would decide the dtype of the result.
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
        """Whether a gradient reaches any input."""
        return any(self.gradients)

    def count_flops(self, out: Any, *inputs: Any, **static: Any) -> int:
        """Return the floating-point operations of one call: by the op's own rule, or one per element."""
        if self.flops is not None:
            return int(self.flops(out, *inputs, **static))
        return 0 if self.view else max(np.size(array) for array in (out, *inputs))


def no_flops(*_: Any, **__: Any) -> int:
    """Count nothing: the op moves values and computes none."""
    return 0


REGISTRY: dict[str, Op] = {}

#: Operands that keep their weak type, and the one that is left out.
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
        One rule per input, or none at all.
    ufunc : callable, optional
        NumPy's function where the op is nothing else; the decorated function is its signature then.
    wide : bool
        The body adds up, squares or counts, so it computes in float32 where its arrays are float16.
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
    """List a function of tensors that is written in other ops, which bring its gradients.

    Its first arguments, as many as `gradients`, may be anything that `Tensor` takes.

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
