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

from labnet.autograd import Node, Run, is_recording
from labnet.errors import DTypeError, ShapeError
from labnet.tensor import Tensor, as_array, wrap

#: What the body of an op sees for a tensor, and its caller may pass for one.
Array = Any
#: Pulls the gradient of an output back to one input: ``rule(g, out, *inputs, **static)``.
Rule = Callable[..., Tensor]
P = ParamSpec("P")
Function = TypeVar("Function", bound=Callable[..., Any])

FLOATS = ("float32", "float64")
NUMBERS = ("int8", "int32", "int64", "uint8", "float32", "float64")
EVERY = ("bool", *NUMBERS)


@dataclass(frozen=True)
class Sample:
    """Arguments that the tests call an op with: shapes of the inputs, and static arguments."""

    shapes: tuple[tuple[int, ...], ...]
    static: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Op:
    """One declared op.

    Attributes
    ----------
    name : str
        Name in the array API standard, or torch's where the standard has none.
    forward : callable
        NumPy implementation on arrays.
    vjps : tuple of Rule or None
        One vector-Jacobian rule per input; empty if the op has no gradient.
    dtypes : tuple of str
        dtypes that the inputs may have in tests; gradients are tested on the floating ones.
    domain : (float, float)
        Range that test values are drawn from.
    samples : tuple of Sample
        Shapes and static arguments that the tests use.
    """

    name: str
    forward: Callable[..., Array]
    vjps: tuple[Rule | None, ...]
    dtypes: tuple[str, ...]
    domain: tuple[float, float]
    samples: tuple[Sample, ...]
    function: Callable[..., Tensor]

    @property
    def differentiable(self) -> bool:
        """Whether any input has a gradient rule."""
        return bool(self.vjps)


REGISTRY: dict[str, Op] = {}


class Recorded(Node):
    """An op that was carried out, with the values that it saw."""

    __slots__ = ("arrays", "op", "out", "static")

    def __init__(
        self,
        op: Op,
        parents: tuple[Node | None, ...],
        arrays: tuple[Array, ...],
        out: np.ndarray[Any, Any],
        static: dict[str, Any],
    ):
        self.parents = parents
        self.op = op
        self.arrays: tuple[Array, ...] = arrays
        self.out: np.ndarray[Any, Any] | None = out
        self.static = static

    def pull(self, gradient: Tensor, run: Run) -> list[Tensor | None]:
        """Apply the rules of the op, one per parent that needs a gradient."""
        parents, out = self.parents, self.out
        assert parents is not None, "reachable() refuses freed nodes"
        assert out is not None
        dtype = out.dtype
        arrays = [a if isinstance(a, np.ndarray) else np.asarray(a, dtype) for a in self.arrays]
        if run.create_graph:
            inputs, output = [wrap(a, p) for a, p in zip(arrays, parents, strict=True)], wrap(out, self)
        else:
            inputs, output = [wrap(a) for a in arrays], wrap(out)
        return [
            None if parent is None or rule is None else rule(gradient, output, *inputs, **self.static)
            for rule, parent in zip(self.op.vjps, parents, strict=True)
        ]

    def release(self) -> None:
        """Let go of the saved values."""
        self.parents = self.out = None
        self.arrays = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the output; inputs are outputs of other nodes, or leaves, and views take none."""
        return 0 if self.out is None or self.out.base is not None else self.out.nbytes


def _operand(value: Any) -> Array:
    """Return what the array function gets for an argument; Python numbers keep their weak type."""
    if isinstance(value, Tensor):
        return value._array
    if isinstance(value, bool | int | float):
        return value
    return as_array(value)


def _record(op: Op, inputs: tuple[Any, ...], arrays: tuple[Array, ...], result: Any, static: dict[str, Any]) -> Tensor:
    """Wrap the result, with a node if an input requires gradients."""
    out = result if type(result) is np.ndarray else np.asarray(result)
    if not op.vjps or out.dtype.kind != "f":
        return wrap(out)
    parents = tuple([x._node if isinstance(x, Tensor) else None for x in inputs])
    if not any(parents) or not is_recording():
        return wrap(out)
    return wrap(out, Recorded(op, parents, arrays, out, static))


def _failure(name: str, arrays: tuple[Array, ...], static: dict[str, Any], error: Exception) -> Exception:
    """Turn NumPy's complaint into ours, with every shape or dtype that took part."""
    given = [a if isinstance(a, np.ndarray) else np.asarray(a) for a in arrays]
    extra = "".join(f", {key}={value!r:.40}" for key, value in static.items())
    if isinstance(error, TypeError):
        return DTypeError(f"{name}: not possible for dtypes {', '.join(str(a.dtype) for a in given)}{extra}: {error}")
    if name == "matmul" and all(a.ndim for a in given):
        shapes = " @ ".join(str(a.shape) for a in given)
        return ShapeError(f"matmul: inner dimensions differ, or batch dimensions do not broadcast: {shapes}")
    if len(given) > 1:
        return ShapeError(f"{name}: shapes do not fit: {' and '.join(str(a.shape) for a in given)}{extra}")
    return ShapeError(f"{name}: not possible for shape {given[0].shape}{extra}: {error}")


def op(
    *vjps: Rule | None,
    samples: tuple[Sample, ...],
    inputs: int = 1,
    dtypes: tuple[str, ...] = NUMBERS,
    domain: tuple[float, float] = (-2.0, 2.0),
) -> Callable[[Callable[P, Array]], Callable[P, Tensor]]:
    """Declare an op whose first `inputs` arguments are tensors; the others are static.

    Parameters
    ----------
    *vjps : Rule or None
        One rule per input, or none at all.
    samples, dtypes, domain
        What the tests of every op draw from; see `Op`.
    """

    def declare(forward: Callable[P, Array]) -> Callable[P, Tensor]:
        name = forward.__name__
        static_names = list(inspect.signature(forward).parameters)[inputs:]

        @functools.wraps(forward)
        def function(*args: Any, **static: Any) -> Tensor:
            tensors = args[:inputs]
            if len(args) > inputs:
                static.update(zip(static_names, args[inputs:], strict=False))
            arrays = tuple([_operand(x) for x in tensors])
            try:
                result = forward(*arrays, **static)
            except (ValueError, TypeError) as error:
                if len(tensors) < inputs or any(key not in static_names for key in static):
                    raise
                raise _failure(name, arrays, static, error) from None
            return _record(declared, tensors, arrays, result, static)

        declared = Op(name, forward, vjps, dtypes, domain, samples, function)
        REGISTRY[name] = declared
        return cast("Callable[P, Tensor]", function)

    return declare
