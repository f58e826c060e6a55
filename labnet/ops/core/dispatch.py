"""Dispatch of ops on tensors: unwrap arguments, compute, and record a node for the backward.

Three forms of call, so that the common ones need no argument packing: one tensor, two tensors, general.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import Any, Protocol

import numpy as np

from labnet import memory
from labnet.autograd import Node, Run, is_recording, next_number
from labnet.errors import AxisError, DTypeError, ShapeError
from labnet.kernels.device_dispatch import Deferred, execute_body, finished, is_on_gpu, materialize
from labnet.kernels.threads import LEAST
from labnet.ops.core.axes import make_plain
from labnet.ops.core.declaration import Array, Op
from labnet.ops.core.half_precision import HALF, widened_rule
from labnet.ops.core.single_pass import in_one_pass
from labnet.tensor import Tensor, as_array, witness, wrap

Values = np.ndarray[Any, Any]

_ndarray = np.ndarray
_new = object.__new__
_asarray = finished
_REFUSALS = (ValueError, TypeError, OverflowError)
_NO_STATIC: dict[str, Any] = {}
#: Python numbers, which have no dtype, and None for an omitted operand.
PYTHON = (bool, int, float)
_WEAK = (*PYTHON, type(None))


#: Bytes of an array from which on a graph drops it if no rule reads it; below, this takes longer than it saves.
_LARGE = 1 << 16
#: Memory of the arrays in place of dropped ones that owned theirs, and of those that were views.
_DROPPED, _DROPPED_VIEW = np.full(16, 255, np.uint8), np.full(16, 255, np.uint8)
_DROPPED.flags.writeable = _DROPPED_VIEW.flags.writeable = False


#: The class of tensors that are computed eagerly. None while any thread traces: ops then take the slow path, which
#: checks whether their own thread traces.
Plain: type[Tensor] | None = Tensor


class Tracer(Protocol):
    """A tracer, which records ops instead of running them."""

    def apply(self, op: Op, inputs: Sequence[Any], static: dict[str, Any]) -> Tensor:
        """Record an op; return a stand-in for its output."""

    def update(self, optimizer: Any, found: list[tuple[Tensor, Any]]) -> None:
        """Record an optimizer step with these parameters and gradients."""

    def random(self, draw: Callable[[str], Values]) -> Tensor:
        """Return a stand-in for random numbers that each call draws on the named device."""

    def lift(self, x: Any) -> Any:
        """Return the stand-in for a tensor."""

    def original(self, x: Tensor) -> Tensor:
        """Return the tensor behind the stand-in of an argument."""

    def base_of(self, x: Tensor) -> Tensor:
        """Return the base tensor of a view."""

    def write(self, x: Tensor, key: Any, value: Any) -> None:
        """Record ``x[key] = value``."""

    def replace(self, x: Tensor, new: Any) -> None:
        """Record new elements of a tensor."""

    def witness(self, what: str, tensor: Tensor, *given: Any) -> Any:
        """Refuse to read a tensor's elements as numbers or to write them; share them as a stand-in."""

    def check_within(self, x: Tensor, bound: int, message: str) -> None:
        """Make every call raise `IndexError` for elements outside of [0, bound)."""


_tracer: ContextVar[Tracer | None] = ContextVar("labnet_tracer", default=None)
#: The tracer of this context, if any.
current_tracer = _tracer.get
_tracing: list[Tracer] = []
_tracing_lock = threading.Lock()


@contextlib.contextmanager
def traced_by(tracer: Tracer) -> Iterator[None]:
    """Send the ops of this context to a tracer; other threads compute as usual, slightly slower."""
    global Plain
    with _tracing_lock:
        _tracing.append(tracer)
        Plain = None
    token, witnessed = _tracer.set(tracer), witness.set(tracer.witness)
    try:
        yield
    finally:
        _tracer.reset(token)
        witness.reset(witnessed)
        with _tracing_lock:
            _tracing.remove(tracer)
            Plain = None if _tracing else Tensor


class Recorded(Node):
    """The node of an op, with its saved values."""

    __slots__ = ("arrays", "op", "out")
    op: Op
    arrays: tuple[Array, ...]
    out: Values | None
    #: Arguments besides the tensors; `RecordedStatic` has some.
    static: dict[str, Any] = _NO_STATIC

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Apply the vjp rules of the op, one per parent that needs a gradient.

        Rules use the common interface of arrays and tensors, and ops, which accept both. So they run on the saved
        arrays, and on tensors only for higher derivatives.
        """
        parents, out, op = self.parents, self.out, self.op
        assert parents is not None, "check_kept() refuses freed nodes"
        assert out is not None
        inputs: Sequence[Any] = self.arrays
        for array in inputs:
            if type(array) is not _ndarray:
                inputs = [
                    a if a is None or type(a) is _ndarray or is_on_gpu(a) else np.asarray(a, out.dtype) for a in inputs
                ]
                break
        rules: Sequence[Any] = op.vjps
        if op.variadic:
            rules = [functools.partial(op.vjps[0] or _no_rule, position=i) for i in range(len(parents))]
        if op.is_joint:
            rules = separate_rules(op.vjps[0], len(parents))
        if out.dtype == HALF and not op.view:
            rules = [None if rule is None else widened_rule(rule, i) for i, rule in enumerate(rules)]
        if run.create_graph:
            return self._vjp_tensors(gradient, inputs, rules)
        if type(gradient) is _ndarray:
            return self._vjp_arrays(gradient, inputs, rules)
        gradient = _as_array(gradient)
        with Deferred():  # all rules together are one kernel
            parts = self._vjp_arrays(gradient, inputs, rules)
        materialize(*parts)
        return parts

    def _vjp_arrays(self, gradient: Array, inputs: Sequence[Any], rules: Sequence[Any]) -> list[Any]:
        """Apply the rules to arrays."""
        assert self.parents is not None
        out, static = self.out, self.static
        parts: list[Any] = []
        for rule, parent in zip(rules, self.parents, strict=True):
            if parent is None or rule is None:
                parts.append(None)
                continue
            value = rule(gradient, out, *inputs, **static)
            parts.append(value if type(value) is _ndarray else _as_array(value))
        return parts

    def _vjp_tensors(self, gradient: Any, inputs: Sequence[Any], rules: Sequence[Any]) -> list[Tensor | None]:
        """Apply the rules to tensors, so that they are recorded."""
        assert self.parents is not None
        assert self.out is not None
        g = gradient if isinstance(gradient, Tensor) else wrap(finished(gradient))
        output = wrap(self.out, self)
        tensors = [a if a is None else wrap(a, p) for a, p in zip(inputs, self.parents, strict=True)]
        return [
            None if parent is None or rule is None else _as_tensor(rule(g, output, *tensors, **self.static))
            for rule, parent in zip(rules, self.parents, strict=True)
        ]

    def release(self) -> None:
        """Drop the saved values."""
        self.parents = self.out = None
        self.arrays = ()

    @property
    def saved(self) -> Sequence[Any]:
        """Inputs and output, as far as they are kept."""
        return [each for each in (*self.arrays, self.out) if not is_dropped(each)]


def separate_rules(rule: Any, count: int) -> list[Callable[..., Any]]:
    """Return one rule per input for a single backward, from a rule that returns all gradients and runs once."""
    found: list[Any] = []

    def part(position: int, g: Any, out: Any, *inputs: Any, **static: Any) -> Any:
        if not found:
            found.append(rule(g, out, *inputs, **static))
        return found[0][position]

    return [functools.partial(part, position) for position in range(count)]


def _as_array(value: Any) -> Any:
    """Return the result of a rule as an array; it is a tensor if the last operation was an op."""
    if value is None:
        return None
    return value.array if isinstance(value, Tensor) else finished(value)


def _as_tensor(value: Any) -> Any:
    """Return the result of a rule as a tensor; it already is one if the last operation was an op."""
    if type(value) is Tensor or value is None:
        return value
    return wrap(value if type(value) is _ndarray else finished(value))


def _no_rule(*_: Any, **__: Any) -> None:
    """Act as the missing rule of a variadic op without a gradient."""


class RecordedUnary(Recorded):
    """The node of an op of one tensor, with `Recorded.vjp` specialised."""

    __slots__ = ()

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Apply the rule of the op."""
        array = self.arrays[0]
        if type(gradient) is not _ndarray or run.create_graph or type(array) is not _ndarray or gradient.dtype is HALF:
            return super().vjp(gradient, run)
        return (self.op.vjps[0](gradient, self.out, array),)  # type: ignore[misc]


class RecordedBinary(Recorded):
    """The node of an op of two tensors, with `Recorded.vjp` specialised."""

    __slots__ = ()

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Apply the rules of the op."""
        array1, array2 = self.arrays
        if type(gradient) is not _ndarray or run.create_graph or gradient.dtype is HALF:
            return super().vjp(gradient, run)
        if type(array1) is not _ndarray or type(array2) is not _ndarray:
            return super().vjp(gradient, run)
        (parent1, parent2), (rule1, rule2), out = self.parents, self.op.vjps, self.out  # type: ignore[misc]
        return (
            None if parent1 is None or rule1 is None else rule1(gradient, out, array1, array2),
            None if parent2 is None or rule2 is None else rule2(gradient, out, array1, array2),
        )


@functools.lru_cache(maxsize=1024)
def stand_in(shape: tuple[int, ...], dtype: np.dtype[Any], is_view: bool = False) -> Values:
    """Return a read-only array without elements of its own, which are NaN if the dtype has one."""
    return np.ndarray(shape, dtype, _DROPPED_VIEW if is_view else _DROPPED, 0, (0,) * len(shape))


def is_dropped(value: Any) -> bool:
    """Return whether an array stands in for one that was dropped."""
    return type(value) is _ndarray and (value.base is _DROPPED or value.base is _DROPPED_VIEW)


def is_view(value: Any) -> bool:
    """Return whether an array is a view of another one, or stands in for a view."""
    base = getattr(value, "base", None)
    return base is not None and base is not _DROPPED


def drop_unread(node: Recorded, wanted: tuple[bool, ...]) -> None:
    """Keep only the shape and dtype of saved arrays that no rule of a wanted gradient reads."""
    op, out = node.op, node.out
    if type(out) is not _ndarray:  # arrays of a GPU are kept
        return
    kept = list(node.arrays)
    for place in op.unread(wanted):
        if place < 0:
            node.out = stand_in(out.shape, out.dtype, op.view and out.base is not None)
        elif type(array := kept[place]) is _ndarray:
            kept[place] = stand_in(array.shape, array.dtype)
    node.arrays = tuple(kept)


class RecordedStatic(Recorded):
    """The node of an op with static arguments."""

    __slots__ = ("static",)
    static: dict[str, Any]


def _recorded(
    op: Op, parents: tuple[Node | None, ...], arrays: tuple[Array, ...], out: Values, static: dict[str, Any]
) -> Recorded:
    node: RecordedStatic = _new(RecordedStatic)
    node.number = next_number()
    node.parents = parents
    node.op = op
    node.arrays = arrays
    node.out = out
    node.static = static
    if op.reads is not None:
        first = arrays[0] if arrays else None
        if out.nbytes > _LARGE or (type(first) is _ndarray and first.nbytes > _LARGE):
            drop_unread(node, tuple([parent is not None for parent in parents]))
    return node


def operand(value: Any) -> Array:
    """Return the argument for the array function; Python numbers keep their weak type."""
    if isinstance(value, Tensor):
        return value.array
    if isinstance(value, _WEAK):
        return value
    return as_array(value)


def as_tensors(values: Sequence[Any]) -> tuple[Any, ...]:
    """Convert Python numbers to tensors, with the dtype of the other values or else the default dtype.

    Raises
    ------
    DTypeError
        If that dtype cannot hold a number.
    """
    kinds = [x if type(x) in PYTHON else x.dtype if isinstance(x, Tensor) else as_array(x).dtype for x in values]
    numbers = [kind for kind in kinds if type(kind) in PYTHON]
    if not numbers:
        return tuple(values)
    dtype = as_array(numbers).dtype if len(numbers) == len(kinds) else np.result_type(*kinds)
    try:
        return tuple([wrap(np.asarray(x, dtype)) if type(x) in PYTHON else x for x in values])
    except OverflowError as error:
        raise DTypeError(f"{numbers} do not fit {dtype}: {error}") from None


def _node_of(value: Any) -> Node | None:
    return value.node if isinstance(value, Tensor) else None


def unary_function(op: Op) -> Callable[..., Tensor]:
    """Return the function of one tensor that runs `op`."""
    name, forward, differentiable, drops = op.name, op.forward, op.differentiable, op.reads is not None
    in_threads = in_one_pass(forward, in_threads=True) if isinstance(forward, np.ufunc) else None

    def function(x: Any, /) -> Tensor:
        if type(x) is Plain:
            array, parent = x.array, x.node
        else:
            if Plain is None and (tracer := current_tracer()) is not None:
                return tracer.apply(op, (x,), _NO_STATIC)
            array, parent = as_array(x), _node_of(x)
        try:
            if type(array) is _ndarray or forward is not op.forward:
                if in_threads is not None and array.size >= LEAST and forward is op.forward:
                    result = in_threads(array)
                else:
                    result = forward(array)
            else:
                result = execute_body(forward, array)
        except _REFUSALS as error:
            raise failure(name, (array,), _NO_STATIC, error) from None
        if type(result) is not _ndarray:
            result = _asarray(result)
        out: Tensor = _new(Tensor)
        out.array = result
        out.family = out.node = None
        if parent is not None and differentiable and is_recording():
            node: RecordedUnary = _new(RecordedUnary)
            node.number = next_number()
            node.parents = (parent,)
            node.op = op
            node.arrays = (array,)
            node.out = result
            out.node = node
            if drops and result.nbytes > _LARGE:
                drop_unread(node, (True,))
        return out

    return function


def binary_function(op: Op) -> Callable[..., Tensor]:
    """Return the function of two tensors that runs `op`."""
    name, forward, differentiable, drops = op.name, op.forward, op.differentiable, op.reads is not None
    on_halves = in_one_pass(forward)

    def function(x1: Any, x2: Any, /) -> Tensor:
        if type(x1) is Plain:
            array1, parent1 = x1.array, x1.node
        else:
            if Plain is None and (tracer := current_tracer()) is not None:
                return tracer.apply(op, (x1, x2), _NO_STATIC)
            array1, parent1 = operand(x1), _node_of(x1)
        if type(x2) is Plain:
            array2, parent2 = x2.array, x2.node
        else:
            array2, parent2 = operand(x2), _node_of(x2)
            if type(array2) is not _ndarray and type(array1) is not _ndarray and not is_on_gpu(array1):
                array1, array2 = [x.array for x in as_tensors((x1, x2))]
        try:
            if type(array1) is _ndarray or forward is not op.forward:
                if forward is op.forward and array1.dtype is HALF:
                    result = on_halves(array1, array2)
                else:
                    result = forward(array1, array2)
            else:
                result = execute_body(forward, array1, array2)
        except _REFUSALS as error:
            raise failure(name, (array1, array2), _NO_STATIC, error) from None
        if type(result) is not _ndarray:
            result = _asarray(result)
        out: Tensor = _new(Tensor)
        out.array = result
        out.family = out.node = None
        if (parent1 is not None or parent2 is not None) and differentiable and is_recording():
            node: RecordedBinary = _new(RecordedBinary)
            node.number = next_number()
            node.parents = (parent1, parent2)
            node.op = op
            node.arrays = (array1, array2)
            node.out = result
            out.node = node
            if drops and result.nbytes > _LARGE:
                drop_unread(node, (parent1 is not None, parent2 is not None))
        return out

    return function


def check_names(op: str, static: dict[str, Any], names: Sequence[str], required: Sequence[str]) -> None:
    """Raise Python's error for an unknown or missing argument."""
    for key in static:
        if key not in names:
            raise TypeError(f"{op}() got an unexpected keyword argument {key!r}")
    for key in required:
        if key not in static:
            raise TypeError(f"{op}() missing required argument: {key!r}")


def _take_positional(op: str, names: Sequence[str], given: tuple[Any, ...], static: dict[str, Any]) -> None:
    """Assign names to positional static arguments."""
    for key, value in zip(names, given, strict=False):
        if key in static:
            raise TypeError(f"{op}() got multiple values for argument {key!r}")
        static[key] = value


def _grouped(
    op: str, names: Sequence[str], positional: int, args: tuple[Any, ...], static: dict[str, Any]
) -> tuple[Any, ...]:
    """Return positional arguments in labnet's form: torch spreads lengths and dimensions, and adds a bool to keep them.

    Raises
    ------
    TypeError
        If there are too many.
    """
    if positional == 1 and (names[0] == "shape" or tuple(names) in (("axes",), ("axis",))):
        return (args,)
    if len(args) == 2 and type(args[1]) is bool and "keepdims" in names and "keepdims" not in static:
        static["keepdims"] = args[1]
        return args[:1]
    raise TypeError(f"{op}() takes {1 + positional} positional arguments but {1 + len(args)} were given")


def make_python(numbers: Sequence[str], static: dict[str, Any]) -> None:
    """Convert NumPy scalars among arguments to Python numbers, so that tensors decide the dtype."""
    for key in numbers:
        value = static.get(key)
        if isinstance(value, np.generic) or (type(value) is _ndarray and not value.ndim):
            static[key] = value.item()


def static_function(op: Op, *, names: Sequence[str], positional: int, required: Sequence[str]) -> Callable[..., Tensor]:
    """Return the function of one tensor and static arguments that runs `op`.

    Parameters
    ----------
    op : Op
    names : sequence of str
        Names of the static arguments.
    positional : int
        How many of them may be positional.
    required : sequence of str
        Names without a default.
    """
    name, forward, differentiable, view, axes = op.name, op.forward, op.differentiable, op.view, op.axes
    numbers = op.numbers

    def function(x: Any, /, *args: Any, **static: Any) -> Tensor:
        if op.torch_form is not None and (args or "dim" in static):
            return op.torch_form(x, *args, **static)  # type: ignore[no-any-return]
        if args:
            if len(args) == 1 and positional and not static:
                static[names[0]] = args[0]
            else:
                if len(args) > positional:
                    args = _grouped(name, names, positional, args, static)
                _take_positional(name, names, args, static)
        if axes and static:
            make_plain(name, axes, static)
        if numbers and static:
            make_python(numbers, static)
        if type(x) is not Plain:
            if Plain is None and (tracer := current_tracer()) is not None:
                check_names(name, static, names, required)
                return tracer.apply(op, (x,), static)
            x = x if isinstance(x, Tensor) else Tensor(x)
        array, parent = x.array, x.node
        try:
            if type(array) is _ndarray or forward is not op.forward:
                result = forward(array, **static)
            else:
                result = execute_body(forward, array, **static)
        except _REFUSALS as error:
            check_names(name, static, names, required)
            raise failure(name, (array,), static, error) from None
        if type(result) is not _ndarray:
            result = finished(result)
        out: Tensor = _new(Tensor)
        out.array = result
        out.family = None
        if parent is not None and differentiable and is_recording() and result.dtype.kind == "f":
            out.node = _recorded(op, (parent,), (array,), result, static)
        else:
            out.node = None
        if view:
            memory.link(out, x)
        return out

    return function


def general_function(
    op: Op, *, inputs: int, names: Sequence[str], positional: int, required: Sequence[str]
) -> Callable[..., Tensor]:
    """Return the function of several tensors, or a sequence, and static arguments that runs `op`.

    Parameters
    ----------
    op : Op
    inputs : int
        Number of leading tensor arguments.
    names, positional, required
        As for `static_function`.
    """
    name, forward, variadic, axes = op.name, op.forward, op.variadic, op.axes
    refusals = () if op.is_custom else _REFUSALS

    def function(*args: Any, **static: Any) -> Tensor:
        tensors = as_tensors(args[0]) if variadic else args[:inputs]
        if len(args) > inputs:
            if len(args) > inputs + positional:
                raise TypeError(f"{name}() takes {inputs + positional} positional arguments but {len(args)} were given")
            _take_positional(name, names, args[inputs:], static)
        if axes and static:
            make_plain(name, axes, static)
        if len(args) < inputs:
            raise TypeError(f"{name}() takes {inputs} tensors but {len(args)} were given")
        if Plain is None and (tracer := current_tracer()) is not None:
            check_names(name, static, names, required)
            return tracer.apply(op, tensors, static)
        arrays = tuple([operand(x) for x in tensors])
        try:
            result = forward(arrays, **static) if variadic else forward(*arrays, **static)
        except refusals as error:
            check_names(name, static, names, required)
            raise failure(name, arrays, static, error) from None
        out = wrap(result if type(result) is _ndarray else finished(result))
        if op.differentiable and out.array.dtype.kind == "f":
            parents = tuple([_node_of(x) for x in tensors])
            if any(parents) and is_recording():
                out.node = _recorded(op, parents, arrays, out.array, static)
        return out

    return function


def failure(name: str, arrays: tuple[Array, ...], static: dict[str, Any], error: Exception) -> Exception:
    """Convert NumPy's error into labnet's, with all shapes or dtypes."""
    given = [a if isinstance(a, _ndarray) or is_on_gpu(a) else np.asarray(a) for a in arrays if a is not None]
    extra = "".join(f", {key}={value!r:.40}" for key, value in static.items())
    if isinstance(error, TypeError | OverflowError) or (name == "pow" and _broadcast(given)):
        return DTypeError(f"{name}: not possible for dtypes {', '.join(str(a.dtype) for a in given)}{extra}: {error}")
    if isinstance(error, IndexError):
        return AxisError(f"{name}: not possible for shape {', '.join(str(a.shape) for a in given)}{extra}: {error}")
    if name == "matmul" and all(a.ndim for a in given):
        shapes = " @ ".join(str(a.shape) for a in given)
        return ShapeError(f"matmul: inner dimensions differ, or batch dimensions do not broadcast: {shapes}")
    if len(given) > 1:
        return ShapeError(f"{name}: shapes do not fit: {' and '.join(str(a.shape) for a in given)}{extra}: {error}")
    return ShapeError(f"{name}: not possible for shape {', '.join(str(a.shape) for a in given)}{extra}: {error}")


def _broadcast(arrays: list[Values]) -> bool:
    """Return whether the shapes broadcast, so that the error is about values."""
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return False
    return True
