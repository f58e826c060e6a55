"""Ops of users: `op` declares one anywhere, such as in a cell; `custom_vjp` gives a function another gradient.

They are `Op` objects like those of the registry, so gradients, statistics, compiled code and GPUs treat them alike. The
registry does not list them. A cell that runs again makes a new op, and the old one goes with the old function.
"""

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from labnet.errors import GradientError, ShapeError
from labnet.kernels.device_dispatch import is_on_gpu
from labnet.ops.core.declaration import Op, Rule
from labnet.ops.core.dispatch import PYTHON, as_tensors
from labnet.ops.core.registry import FLOATS, REGISTRY, build_function, compute_scalar, is_empty, scalar_tree
from labnet.ops.core.single_pass import in_one_pass
from labnet.ops.elementwise.elementary import where
from labnet.ops.layout.shape import fit
from labnet.tensor import Tensor, wrap

Rules = Rule | Sequence[Rule | None]
_OWN = "labnet_op"


def op(
    *,
    vjp: Rules | None = None,
    scalar: str | None = None,
    jvp: Rules | None = None,
    samples: Sequence[Any] | None = None,
    method: bool = False,
    name: str | None = None,
) -> Callable[[Callable[..., Any]], Callable[..., Tensor]]:
    """Declare a differentiable op, such as in a notebook cell.

    The arguments of the function without a default are tensors, the others are static. Its body gets arrays, and may
    call NumPy, ops or any other library. With `scalar` it may be empty.

    Parameters
    ----------
    vjp : rule, or sequence of rules or None
        ``rule(g, out, *inputs, **static)`` returns the gradient of an input from the gradient `g` of the output. Give
        one rule per input (None: no gradient), or one that returns the gradients of all inputs as a tuple. Rules
        written with operators and ops are differentiable themselves. By default the gradient is that of the ops in the
        expression or in the body.
    scalar : str, optional
        What the op computes from one element of each input, such as ``"2 * tanh(x)"``: numbers, arguments, operators,
        comparisons, ``a if c else b``, and elementwise ops. Compiled code and GPU kernels are made from it.
    jvp : rule, or sequence of rules, optional
        ``rule(t, out, *inputs, **static)`` returns the change of the output from the change `t` of an input.
    samples : sequence, optional
        Arguments for `labnet.testing.check`.
    method : bool
        Whether it is a method of `Tensor` too.
    name : str, optional
        By default that of the function.

    Raises
    ------
    ValueError
        If `scalar` contains anything else.
    TypeError
        If the rules do not fit the arguments.

    Examples
    --------
    >>> import labnet as ln
    >>> @ln.op(vjp=lambda g, out, x: g * 2 * (1 - out * out / 4), scalar="2 * tanh(x)")
    ... def tanh2(x): ...
    >>> x = ln.asarray([0.0, 100.0], requires_grad=True)
    >>> tanh2(x).tolist(), ln.grad(tanh2(x).sum(), x).tolist()
    ([0.0, 2.0], [2.0, 0.0])
    """

    def declare(body: Callable[..., Any]) -> Callable[..., Tensor]:
        return _declare(body, vjp, scalar=scalar, jvp=jvp, samples=samples, method=method, name=name)

    return declare


def custom_vjp(function: Callable[..., Any] | Sequence[Any], vjp: Rules | None = None) -> Callable[..., Any]:
    """Give a function another gradient: ``custom_vjp(function, vjp)``, or ``@custom_vjp(vjp)`` above a function.

    For straight-through estimators, and for functions of other libraries. Tensors that the function finds elsewhere,
    such as the parameters of a module, get no gradient.

    Parameters
    ----------
    function : callable
        Of arrays, with any body.
    vjp : rule, or sequence of rules or None
        See `op`.

    Examples
    --------
    >>> import labnet as ln
    >>> quantize = ln.custom_vjp(ln.round, lambda g, out, x: g)
    >>> x = ln.asarray([0.2, 0.7], requires_grad=True)
    >>> quantize(x).tolist(), ln.grad(quantize(x).sum(), x).tolist()
    ([0.0, 1.0], [1.0, 1.0])
    """
    if vjp is None:
        rules: Any = function
        return lambda body: _declare(body, rules)
    if not callable(function):
        raise TypeError(f"custom_vjp: expected a function, got {function!r:.80}")
    return _declare(function, vjp)


def op_of(function: Any) -> Op:
    """Return the op behind a function of the registry, or one that `op` or `custom_vjp` made.

    Raises
    ------
    TypeError
        If it is another function.
    """
    name = getattr(function, "__name__", None)
    found = getattr(function, _OWN, REGISTRY.get(name or ""))
    if not isinstance(found, Op) or found.function is not function:
        raise TypeError(f"{name or function!r:.80} is not an op: declare it with ln.op")
    return found


def _declare(
    body: Callable[..., Any],
    vjp: Rules | None,
    *,
    scalar: str | None = None,
    jvp: Rules | None = None,
    samples: Sequence[Any] | None = None,
    method: bool = False,
    name: str | None = None,
) -> Callable[..., Tensor]:
    title = name or getattr(body, "__name__", type(body).__name__).replace("<lambda>", "function")
    inputs = _count_inputs(title, body, None if vjp is None or callable(vjp) else len(vjp))
    rules, is_joint = _rules(title, vjp, inputs)
    declared = Op(title, body, rules, FLOATS, (-2.0, 2.0), (), tuple(rule is not None for rule in rules))
    declared.is_custom, declared.is_joint, declared.scalar, declared.samples = True, is_joint, scalar, samples or ()
    declared.jvps = _rules(title, jvp, inputs)[0]
    declared.gradients = (True,) * inputs if is_joint or vjp is None else declared.gradients
    declared.is_composed, declared.is_method = vjp is None, method
    if method and not hasattr(getattr(Tensor, title, None), _OWN) and hasattr(Tensor, title):
        raise TypeError(f"{title}: Tensor has an attribute of this name; give another name=")
    declared.forward = _composition(declared, body) if vjp is None else _forward(declared, body)
    if scalar is not None and vjp is not None and is_empty(body):
        declared.forward = in_one_pass(declared.forward)
    build_function(declared, body, inputs)
    setattr(declared.function, _OWN, declared)
    if scalar is not None:
        scalar_tree(declared)
    return declared.function


def _count_inputs(title: str, body: Callable[..., Any], rules: int | None) -> int:
    """Return the number of leading tensor arguments: those without a default, or as many as there are rules."""
    parameters = list(inspect.signature(body).parameters.values())
    leading = [p for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        raise TypeError(f"{title}: an op takes a fixed number of tensors; *args is not possible")
    required = sum(p.default is p.empty for p in leading) or min(1, len(leading))
    found = required if rules is None else rules
    if not 0 < found <= len(leading):
        raise TypeError(f"{title}: expected one rule per tensor argument, got {found} for {len(leading)} arguments")
    return found


def _rules(title: str, given: Rules | None, inputs: int) -> tuple[tuple[Rule | None, ...], bool]:
    """Return the rules of an op, one per input, and whether they are parts of one rule."""
    if given is None:
        return (), False
    if callable(given):
        if inputs == 1:
            return (_fitted(title, given, 0),), False
        return (_joint(title, given, inputs),), True
    rules = [None if rule is None else _fitted(title, rule, position) for position, rule in enumerate(given)]
    if len(rules) != inputs:
        raise TypeError(f"{title}: expected one rule for each of {inputs} inputs, got {len(rules)}")
    return tuple(rules), False


def _fitted(title: str, rule: Rule, position: int) -> Rule:
    """Wrap a rule so that its result has the shape and dtype of the input."""

    @functools.wraps(rule)
    def fitted(g: Any, out: Any, *inputs: Any, **static: Any) -> Any:
        return _fit(title, position, rule(g, out, *inputs, **static), inputs)

    return fitted


def _joint(title: str, rule: Rule, count: int) -> Rule:
    """Wrap a rule that returns the gradients of all inputs."""

    @functools.wraps(rule)
    def fitted(g: Any, out: Any, *inputs: Any, **static: Any) -> Any:
        found = rule(g, out, *inputs, **static)
        if not isinstance(found, tuple | list) or len(found) != count:
            got = f"{len(found)}" if isinstance(found, tuple | list) else type(found).__name__
            raise GradientError(f"{title}: its rule must return a tuple of {count} gradients, got {got}")
        return tuple([None if part is None else _fit(title, at, part, inputs) for at, part in enumerate(found)])

    return fitted


def _fit(title: str, position: int, found: Any, inputs: Sequence[Any]) -> Any:
    """Reduce a gradient to the shape and dtype of its input, which the op has broadcast."""
    like = inputs[position]
    if type(found) in PYTHON:
        found = where(like == like, found, found)
    if found is None or not hasattr(found, "shape"):
        raise GradientError(f"{title}: the rule of input {position} returned {found!r:.40}, not a tensor or a number")
    if found.shape != like.shape:
        shapes = [x.shape for x in inputs if hasattr(x, "shape")]
        if found.shape != _broadcast(shapes):
            shape = f"a gradient of shape {found.shape} for an input of shape {like.shape}"
            raise ShapeError(f"{title}: the rule of input {position} returned {shape}")
    return found if found.shape == like.shape and found.dtype == like.dtype else fit(found, like)


def _broadcast(shapes: list[tuple[int, ...]]) -> tuple[int, ...] | None:
    try:
        return np.broadcast_shapes(*shapes)
    except ValueError:
        return None


def _forward(declared: Op, body: Callable[..., Any]) -> Callable[..., Any]:
    """Return the implementation of an op on arrays."""
    takes_tensors, has_body = False, declared.scalar is None or not is_empty(body)

    def run(arrays: Sequence[Any], static: dict[str, Any]) -> Any:
        nonlocal takes_tensors
        if not takes_tensors:
            try:
                return body(*arrays, **static)
            except AttributeError as error:  # a function of tensors, which uses methods that arrays lack
                if not any(error.obj is array for array in arrays):
                    raise
                takes_tensors = True
        return body(*[x if type(x) in PYTHON else wrap(x) for x in arrays], **static)

    @functools.wraps(body)
    def forward(*arrays: Any, **static: Any) -> Any:
        uses_body = has_body
        for x in arrays:
            if type(x) is not np.ndarray:
                uses_body = has_body and (declared.scalar is None or not any(map(is_on_gpu, arrays)))
                if all(type(x) in PYTHON for x in arrays):
                    arrays = tuple([x.array for x in as_tensors(arrays)])
                break
        found = None
        if uses_body:
            try:
                found = run(arrays, static)
            except Exception as error:
                error.add_note(f"in the op {declared.name}, called with shapes {[np.shape(x) for x in arrays]}")
                raise
        if found is None:
            found = _scalar(declared, arrays, static, lambda each: each.forward)
        return found.array if isinstance(found, Tensor) else found

    return forward


def _composition(declared: Op, body: Callable[..., Any]) -> Callable[..., Any]:
    """Return an op without rules: the composition of other ops, which have theirs."""

    @functools.wraps(body)
    def forward(*tensors: Any, **static: Any) -> Any:
        found = body(*tensors, **static) if declared.scalar is None else None
        return _scalar(declared, tensors, static, lambda each: each.function) if found is None else found

    return forward


def _scalar(declared: Op, operands: Sequence[Any], static: dict[str, Any], function_of: Callable[[Op], Any]) -> Any:
    if declared.scalar is None:
        raise TypeError(f"{declared.name}: its body returned None, and it has no scalar expression")
    return compute_scalar(declared, operands, static, function_of)
