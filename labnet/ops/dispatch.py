"""How a declared op runs on tensors: unwrap, compute, and record itself for a backward.

Three shapes of call, so that the common ones carry no argument packing: one tensor, two tensors, anything.
"""

import contextlib
import functools
import threading
from collections.abc import Callable, Iterator, Sequence
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from labnet import memory
from labnet.autograd import Node, Run, is_recording, next_number
from labnet.errors import AxisError, DTypeError, ShapeError
from labnet.kernels.device_dispatch import Deferred, execute_body, finished, is_on_gpu, materialize
from labnet.ops.axes import make_plain
from labnet.ops.halves import HALF, widened_rule
from labnet.tensor import Tensor, as_array, witness, wrap

if TYPE_CHECKING:
    from labnet.ops.registry import Op

#: What the body of an op sees for a tensor, and its caller may pass for one.
Array = Any
Values = np.ndarray[Any, Any]

_ndarray = np.ndarray
_new = object.__new__
_asarray = finished
_REFUSALS = (ValueError, TypeError, OverflowError)
_NO_STATIC: dict[str, Any] = {}
#: Python's numbers, which have no dtype of their own; and None for an operand that is left out.
PYTHON = (bool, int, float)
_WEAK = (*PYTHON, type(None))


#: The class whose tensors are computed at once. None while some thread traces: then every op takes the long way, where
#: it asks whether it is its own thread that does.
Plain: type[Tensor] | None = Tensor


class Tracer(Protocol):
    """What writes ops down instead of carrying them out."""

    def apply(self, op: "Op", inputs: Sequence[Any], static: dict[str, Any]) -> Tensor:
        """Return a stand-in for the output of an op."""

    def update(self, optimizer: Any, found: list[tuple[Tensor, Any]]) -> None:
        """Write down the step of an optimizer with these parameters and gradients."""

    def random(self, draw: Callable[[str], Values]) -> Tensor:
        """Return a stand-in for random numbers that every call draws anew, on the device that it names."""

    def lift(self, x: Any) -> Any:
        """Return the stand-in for a tensor."""

    def original(self, x: Tensor) -> Tensor:
        """Return the tensor that a stand-in for an argument stands for."""

    def base_of(self, x: Tensor) -> Tensor:
        """Return the tensor whose elements a view shows."""

    def write(self, x: Tensor, key: Any, value: Any) -> None:
        """Write down ``x[key] = value``."""

    def replace(self, x: Tensor, new: Any) -> None:
        """Write down that a tensor has new elements."""

    def witness(self, what: str, tensor: Tensor, *given: Any) -> Any:
        """Refuse that elements of a tensor leave it as numbers, or are written; share them as a stand-in."""

    def check_within(self, x: Tensor, bound: int, message: str) -> None:
        """Have every call raise `IndexError` where an element is negative or not below a bound."""


_tracer: ContextVar[Tracer | None] = ContextVar("labnet_tracer", default=None)
#: The tracer of this context, if there is one.
current_tracer = _tracer.get
_tracing: list[Tracer] = []
_tracing_lock = threading.Lock()


@contextlib.contextmanager
def traced_by(tracer: Tracer) -> Iterator[None]:
    """Hand the ops of this context to a tracer; other threads compute as ever, a little slower."""
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
    """An op that was carried out, with the values that it saw."""

    __slots__ = ("arrays", "op", "out")
    op: "Op"
    arrays: tuple[Array, ...]
    out: Values | None
    #: Arguments besides the tensors; `RecordedStatic` has some.
    static: dict[str, Any] = _NO_STATIC

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Apply the rules of the op, one per parent that needs a gradient.

        Rules are written in what arrays and tensors have in common, and in ops, which take both. So they run
        on the saved arrays as they are, and on tensors only where their own gradient is wanted.
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
        if out.dtype == HALF and not op.view:
            rules = [None if rule is None else widened_rule(rule, i) for i, rule in enumerate(rules)]
        if run.create_graph:
            return self._pull_tensors(gradient, inputs, rules)
        if type(gradient) is _ndarray:
            return self._vjp_arrays(gradient, inputs, rules)
        gradient = _as_array(gradient)
        with Deferred():  # what rules do between them is one kernel
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

    def _pull_tensors(self, gradient: Any, inputs: Sequence[Any], rules: Sequence[Any]) -> list[Tensor | None]:
        """Apply the rules so that what they do is recorded."""
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
        """Let go of the saved values."""
        self.parents = self.out = None
        self.arrays = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the output; inputs are outputs of other nodes, or leaves, and views take none."""
        return 0 if self.out is None or self.out.base is not None else self.out.nbytes


def _as_array(value: Any) -> Values:
    """Return the array of what a rule returned; it is a tensor where an op had the last word."""
    return value._array if isinstance(value, Tensor) else finished(value)


def _as_tensor(value: Any) -> Tensor:
    """Wrap what a rule returned; it is a tensor already where an op had the last word."""
    if type(value) is Tensor:
        return value
    return wrap(value if type(value) is _ndarray else finished(value))


def _no_rule(*_: Any, **__: Any) -> None:
    """Stand for the missing rule of an op of many tensors that has no gradient."""


class RecordedUnary(Recorded):
    """An op of one tensor and nothing else: `Recorded.vjp`, written out."""

    __slots__ = ()

    def vjp(self, gradient: Any, run: Run) -> Sequence[Any]:
        """Apply the rule of the op."""
        array = self.arrays[0]
        if type(gradient) is not _ndarray or run.create_graph or type(array) is not _ndarray or gradient.dtype is HALF:
            return super().vjp(gradient, run)
        return (self.op.vjps[0](gradient, self.out, array),)  # type: ignore[misc]


class RecordedBinary(Recorded):
    """An op of two tensors and nothing else: `Recorded.vjp`, written out."""

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


class RecordedStatic(Recorded):
    """An op that was carried out with static arguments."""

    __slots__ = ("static",)
    static: dict[str, Any]


def _recorded(
    op: "Op", parents: tuple[Node | None, ...], arrays: tuple[Array, ...], out: Values, static: dict[str, Any]
) -> Recorded:
    node: RecordedStatic = _new(RecordedStatic)
    node.number = next_number()
    node.parents = parents
    node.op = op
    node.arrays = arrays
    node.out = out
    node.static = static
    return node


def operand(value: Any) -> Array:
    """Return what the array function gets for an argument; Python numbers keep their weak type."""
    if isinstance(value, Tensor):
        return value._array
    if isinstance(value, _WEAK):
        return value
    return as_array(value)


def as_tensors(values: Sequence[Any]) -> tuple[Any, ...]:
    """Return values with Python's numbers as tensors: of the dtype of the others, or alone of the default one.

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
    return value._node if isinstance(value, Tensor) else None


def unary_function(op: "Op") -> Callable[..., Tensor]:
    """Return the function of one tensor that carries out `op`."""
    name, forward, differentiable = op.name, op.forward, op.differentiable

    def function(x: Any, /) -> Tensor:
        if type(x) is Plain:
            array, parent = x._array, x._node
        else:
            if Plain is None and (tracer := current_tracer()) is not None:
                return tracer.apply(op, (x,), _NO_STATIC)
            array, parent = as_array(x), _node_of(x)
        try:
            if type(array) is _ndarray or forward is not op.forward:
                result = forward(array)
            else:
                result = execute_body(forward, array)
        except _REFUSALS as error:
            raise failure(name, (array,), _NO_STATIC, error) from None
        out: Tensor = _new(Tensor)
        out._array = result if type(result) is _ndarray else _asarray(result)
        out._family = out._node = None
        if parent is not None and differentiable and is_recording():
            node: RecordedUnary = _new(RecordedUnary)
            node.number = next_number()
            node.parents = (parent,)
            node.op = op
            node.arrays = (array,)
            node.out = out._array
            out._node = node
        return out

    return function


def binary_function(op: "Op") -> Callable[..., Tensor]:
    """Return the function of two tensors that carries out `op`."""
    name, forward, differentiable = op.name, op.forward, op.differentiable

    def function(x1: Any, x2: Any, /) -> Tensor:
        if type(x1) is Plain:
            array1, parent1 = x1._array, x1._node
        else:
            if Plain is None and (tracer := current_tracer()) is not None:
                return tracer.apply(op, (x1, x2), _NO_STATIC)
            array1, parent1 = operand(x1), _node_of(x1)
        if type(x2) is Plain:
            array2, parent2 = x2._array, x2._node
        else:
            array2, parent2 = operand(x2), _node_of(x2)
            if type(array2) is not _ndarray and type(array1) is not _ndarray and not is_on_gpu(array1):
                array1, array2 = [x._array for x in as_tensors((x1, x2))]
        try:
            if type(array1) is _ndarray or forward is not op.forward:
                result = forward(array1, array2)
            else:
                result = execute_body(forward, array1, array2)
        except _REFUSALS as error:
            raise failure(name, (array1, array2), _NO_STATIC, error) from None
        out: Tensor = _new(Tensor)
        out._array = result if type(result) is _ndarray else _asarray(result)
        out._family = out._node = None
        if (parent1 is not None or parent2 is not None) and differentiable and is_recording():
            node: RecordedBinary = _new(RecordedBinary)
            node.number = next_number()
            node.parents = (parent1, parent2)
            node.op = op
            node.arrays = (array1, array2)
            node.out = out._array
            out._node = node
        return out

    return function


def check_names(op: str, static: dict[str, Any], names: Sequence[str], required: Sequence[str]) -> None:
    """Raise what Python raises where an argument is not known, or is missing."""
    for key in static:
        if key not in names:
            raise TypeError(f"{op}() got an unexpected keyword argument {key!r}")
    for key in required:
        if key not in static:
            raise TypeError(f"{op}() missing required argument: {key!r}")


def _take_positional(op: str, names: Sequence[str], given: tuple[Any, ...], static: dict[str, Any]) -> None:
    """Give static arguments that came by position their names."""
    for key, value in zip(names, given, strict=False):
        if key in static:
            raise TypeError(f"{op}() got multiple values for argument {key!r}")
        static[key] = value


def make_python(numbers: Sequence[str], static: dict[str, Any]) -> None:
    """Replace NumPy's numbers among the arguments of a call by Python's, which leave the dtype to the tensor."""
    for key in numbers:
        value = static.get(key)
        if isinstance(value, np.generic) or (type(value) is _ndarray and not value.ndim):
            static[key] = value.item()


def static_function(
    op: "Op", *, names: Sequence[str], positional: int, required: Sequence[str]
) -> Callable[..., Tensor]:
    """Return the function of one tensor and static arguments that carries out `op`.

    Parameters
    ----------
    op : Op
    names : sequence of str
        Names of the static arguments.
    positional : int
        How many of them may be given by position.
    required : sequence of str
        Those that have no default.
    """
    name, forward, differentiable, view, axes = op.name, op.forward, op.differentiable, op.view, op.axes
    numbers = op.numbers

    def function(x: Any, /, *args: Any, **static: Any) -> Tensor:
        if args:
            if len(args) > positional:
                raise TypeError(f"{name}() takes {1 + positional} positional arguments but {1 + len(args)} were given")
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
        array, parent = x._array, x._node
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
        out._array = result
        out._family = None
        if parent is not None and differentiable and is_recording() and result.dtype.kind == "f":
            out._node = _recorded(op, (parent,), (array,), result, static)
        else:
            out._node = None
        if view:
            memory.link(out, x)
        return out

    return function


def general_function(
    op: "Op", *, inputs: int, names: Sequence[str], positional: int, required: Sequence[str]
) -> Callable[..., Tensor]:
    """Return the function that carries out `op` on several tensors, or a sequence, and static arguments.

    Parameters
    ----------
    op : Op
    inputs : int
        Number of tensors, the first arguments.
    names, positional, required
        As for `static_function`.
    """
    name, forward, variadic, axes = op.name, op.forward, op.variadic, op.axes

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
        except _REFUSALS as error:
            check_names(name, static, names, required)
            raise failure(name, arrays, static, error) from None
        out = wrap(result if type(result) is _ndarray else finished(result))
        if op.differentiable and out._array.dtype.kind == "f":
            parents = tuple([_node_of(x) for x in tensors])
            if any(parents) and is_recording():
                out._node = _recorded(op, parents, arrays, out._array, static)
        return out

    return function


def failure(name: str, arrays: tuple[Array, ...], static: dict[str, Any], error: Exception) -> Exception:
    """Turn NumPy's complaint into ours, with every shape or dtype that took part."""
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
    """Tell whether the shapes fit together, so that the values are to blame."""
    try:
        np.broadcast_shapes(*(a.shape for a in arrays))
    except ValueError:
        return False
    return True
