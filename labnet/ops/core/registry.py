"""Declaration of ops: one block with values, gradients and test samples.

The decorated function works on arrays. The resulting function works on tensors, records a node for the backward, and is
listed in `REGISTRY`, from which tests, methods and documentation are generated. Gradient rules are written in ops, so
one rule serves eager backwards and higher orders.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any, ParamSpec, TypeVar, cast

import numpy as np

from labnet._methods import Methods
from labnet.kernels.scalar_expression import OPERATIONS, SCALARS, Operation, Tree, evaluate, parse
from labnet.ops.core.axes import kinds, make_plain
from labnet.ops.core.declaration import Array, Op, Rule, Sample
from labnet.ops.core.dispatch import (
    PYTHON,
    binary_function,
    general_function,
    make_python,
    static_function,
    unary_function,
)
from labnet.ops.core.dispatch import Recorded as Recorded
from labnet.ops.core.half_precision import widened
from labnet.ops.core.single_pass import in_one_pass, rules_in_one_pass
from labnet.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

FLOATS = ("float32", "float64")
INTEGERS = ("int8", "int32", "int64", "uint8")
NUMBERS = (*INTEGERS, *FLOATS)
EVERY = ("bool", *NUMBERS)

REGISTRY: dict[str, Op] = {}
#: The function of the op that each of NumPy's universal functions implements.
UFUNCS: dict[Any, Callable[..., Any]] = {}

#: Called with each op that is declared.
on_declare: list[Callable[[Op], None]] = []

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
    scalar: str | None = None,
    elementwise: bool | None = None,
    reads: str | tuple[str, ...] | None = None,
    method: bool = False,
    public: bool = True,
) -> Callable[[Callable[P, Array]], Callable[P, Tensor]]:
    """Declare an op whose first `inputs` arguments are tensors; the others are static.

    Parameters
    ----------
    *vjps : Rule or None
        One rule per input, or no rules.
    ufunc : callable, optional
        NumPy's function that implements the op if the body is empty; the decorated function then only defines the
        signature. The body may be empty too if there is a scalar expression.
    wide : bool
        Compute in float32 for float16 arrays, because the body sums, squares or counts.
    elementwise : bool, optional
        Whether kernels compute the body and the rules in one pass. By default if there is a scalar expression, and no
        function of NumPy for the body.
    reads : str, or tuple of str, optional
        For each rule, the names of the arguments whose elements it reads, separated by spaces, ``out`` for the output;
        the shape and dtype of others may be read too. By default a rule reads everything, that of a view nothing.
    method, public : bool
        Whether it is a method of `Tensor` too, and whether the top level exports it.
    samples, dtypes, domain, variadic, view, flops, scalar
        See `Op`.
    """

    def declare(body: Callable[P, Array]) -> Callable[P, Tensor]:
        gradients = tuple(rule is not None for rule in vjps)
        declared = Op(body.__name__, body, vjps, dtypes, domain, samples, gradients, variadic, view, flops)
        declared.wide, declared.scalar, declared.is_method, declared.is_public = wide, scalar, method, public
        implementation = scalar_function(declared) if scalar is not None and is_empty(body) else body
        declared.ufunc = ufunc
        if vjps and (reads is not None or view):
            declared.reads = (reads or "",) * len(vjps) if isinstance(reads, str | None) else reads
        if (ufunc is None and scalar is not None) if elementwise is None else elementwise:
            computed = widened(implementation) if wide else implementation
            implementation = in_one_pass(computed, in_threads=ufunc is not None)
        elif wide:
            implementation = widened(implementation)
        declared.forward = ufunc if ufunc is not None and is_empty(body) else implementation
        if scalar is not None or elementwise:
            rules_in_one_pass(declared)
        build_function(declared, body, inputs)
        if scalar is not None:
            own = ufunc is not None or declared.name in OPERATIONS
            declared.is_primitive = own or scalar.startswith((f"{declared.name}(", "math."))
            if declared.is_primitive:
                for name in {declared.name, getattr(ufunc, "__name__", declared.name)}:
                    SCALARS[name] = scalar, tuple(declared.parameters)
        REGISTRY[body.__name__] = declared
        if isinstance(ufunc, np.ufunc):
            UFUNCS[ufunc] = declared.function
        return cast("Callable[P, Tensor]", declared.function)

    return declare


def build_function(declared: Op, body: Callable[..., Any], inputs: int) -> None:
    """Make the function of an op on tensors, with the signature of its body."""
    signature = inspect.signature(body)
    declared.parameters = {p.name: p.default for p in signature.parameters.values()}
    parameters = list(signature.parameters.values())[inputs:]
    declared.axes = kinds(parameters)
    declared.numbers = tuple(p.name for p in parameters if p.annotation is float)
    names = tuple(parameter.name for parameter in parameters)
    positional = sum(parameter.kind is not parameter.KEYWORD_ONLY for parameter in parameters)
    required = tuple(parameter.name for parameter in parameters if parameter.default is parameter.empty)
    if declared.is_composed:
        function = _composed_function(declared, inputs)
    elif inputs == 2 and not names and not declared.is_custom:
        function = binary_function(declared)
    elif inputs > 1 or declared.variadic or declared.is_custom:
        function = general_function(declared, inputs=inputs, names=names, positional=positional, required=required)
    elif names or declared.view:
        function = static_function(declared, names=names, positional=positional, required=required)
    else:
        function = unary_function(declared)
    declared.function = functools.wraps(body)(function)
    if declared.is_method:
        setattr(Methods, declared.name, declared.function)
    for follow in on_declare:
        follow(declared)


def is_empty(body: Callable[..., Any]) -> bool:
    """Return whether a function has no body besides a docstring.

    Examples
    --------
    >>> is_empty(lambda x: None), is_empty(lambda x: x)
    (True, False)
    """
    code = getattr(body, "__code__", None)
    return code is not None and code.co_code in _EMPTY


def _described() -> None:
    """Be a function with a docstring only."""


_EMPTY = {_described.__code__.co_code, (lambda: None).__code__.co_code}


def scalar_function(declared: Op) -> Callable[..., Any]:
    """Return the implementation of an op on arrays of any device, from its scalar expression."""

    def forward(*arrays: Array, **static: Any) -> Array:
        return compute_scalar(declared, arrays, static, lambda each: each.forward)

    return forward


def scalar_functions() -> frozenset[str]:
    """Return the names of the ops that a scalar expression may call."""
    return frozenset(name for name, declared in REGISTRY.items() if declared.scalar is not None)


def scalar_tree(declared: Op) -> Tree:
    """Return the scalar expression of an op that is composed of others.

    Raises
    ------
    ValueError
        If it is not an expression of its arguments and of elementwise ops.
    """
    assert declared.scalar is not None
    if declared.tree is None:
        declared.tree = parse(declared.scalar, tuple(declared.parameters), scalar_functions())
        _check_counts(declared.tree)
    return declared.tree


def _check_counts(tree: Tree) -> None:
    """Raise `ValueError` for a function with too few or too many arguments."""
    if not isinstance(tree, Operation):
        return
    defaults = list(REGISTRY[tree.name].parameters.values())
    least = sum(default is inspect.Parameter.empty for default in defaults)
    if not least <= len(tree.parts) <= len(defaults):
        raise ValueError(f"scalar: {tree.name} takes {least} arguments, got {len(tree.parts)}")
    for part in tree.parts:
        _check_counts(part)


def compute_scalar(
    declared: Op, operands: Sequence[Any], static: dict[str, Any], function_of: Callable[[Op], Callable[..., Any]]
) -> Any:
    """Compute the scalar expression of an op; `function_of` chooses a function of each op that it calls.

    Examples
    --------
    >>> compute_scalar(REGISTRY["silu"], [np.zeros(2)], {}, lambda op: op.forward)
    array([0., 0.])
    """
    values = declared.parameters | dict(zip(declared.parameters, operands, strict=False)) | static

    def apply(name: str, *parts: Any) -> Any:
        for part in parts:
            if type(part) not in PYTHON:
                return function_of(REGISTRY[name])(*parts)
        return _fold(name, parts)

    return evaluate(scalar_tree(declared), values, apply)


def _fold(name: str, numbers: Sequence[Any]) -> bool | int | float:
    """Compute an operation of Python numbers, which stays one, so that tensors decide the dtype."""
    arrays = [np.asarray(float(x) if name == "pow" else x) for x in numbers]
    with np.errstate(all="ignore"):
        found: bool | int | float = np.asarray(REGISTRY[name].forward(*arrays)).item()
    return found


def composed(
    *,
    samples: tuple[Sample, ...],
    gradients: tuple[bool, ...] = (True,),
    dtypes: tuple[str, ...] = NUMBERS,
    domain: tuple[float, float] = (-2.0, 2.0),
    variadic: bool = False,
    method: bool = False,
) -> Callable[[Callable[P, R]], Callable[P, R]]:
    """Register a function of tensors that is composed of other ops, which provide its gradients.

    Its first arguments, as many as `gradients`, accept any input of `Tensor`.

    Parameters
    ----------
    method : bool
        Whether it is a method of `Tensor` too.
    samples, gradients, dtypes, domain, variadic
        See `Op`.
    """

    def declare(body: Callable[P, R]) -> Callable[P, R]:
        declared = Op(body.__name__, body, (), dtypes, domain, samples, gradients, variadic, is_composed=True)
        declared.is_method = method
        build_function(declared, body, 0 if variadic else len(gradients))
        REGISTRY[declared.name] = declared
        return cast("Callable[P, R]", declared.function)

    return declare


def _composed_function(declared: Op, inputs: int) -> Callable[..., Any]:
    """Return the function of tensors that runs a composition of ops."""
    name, axes, numbers, call = declared.name, declared.axes, declared.numbers, declared.forward

    def function(*args: Any, **static: Any) -> Any:
        if declared.torch_form is not None and (len(args) > inputs or "dim" in static):
            return declared.torch_form(*args, **static)
        tensors = [x if isinstance(x, Tensor | _PLAIN) else Tensor(x) for x in args[:inputs]]
        make_plain(name, axes, static)
        if numbers and static:
            make_python(numbers, static)
        return call(*tensors, *args[inputs:], **static)

    return function
