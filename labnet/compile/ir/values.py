"""The intermediate representation: values, each computed from others by one small operation.

There are few kinds of operations, so that each pass is short:

``source``   an argument, a held tensor, a constant array or a number of the call
``splat``    one number in every element
``view``     elements of another value at an offset and strides, without a computation
``map``      one scalar function of each element, operands broadcast as in NumPy
``reduce``   sum, product, maximum or minimum over some dimensions, which are removed
``matmul``   matrix products over the last two dimensions
``put``      zeros with elements added at an offset and strides: the adjoint of a view
``take``     elements of one value at the positions in another one
``scatter``  zeros with elements added at the positions in another value: the adjoint of ``take``
``call``     a function of `labnet.compile.intrinsics` on whole arrays

Positions count elements in memory; where only they are known, ``within`` adds the strides of the last dimensions.
"""

import functools
import math
from collections.abc import Hashable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int, ...]
DType = np.dtype[Any]


@dataclass(eq=False, slots=True)
class Value:
    """One value of a program.

    Attributes
    ----------
    kind : str
        One of the kinds above.
    inputs : tuple of Value
    attributes : dict
        Parameters of the operation; hashable values.
    shape, dtype
        Of the elements.
    number : int
        Greater than the numbers of the inputs.
    """

    kind: str
    inputs: tuple["Value", ...]
    attributes: Mapping[str, Any]
    shape: Shape
    dtype: DType
    number: int

    @property
    def size(self) -> int:
        """Number of elements."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """Bytes of the elements."""
        return self.size * self.dtype.itemsize

    def __repr__(self) -> str:
        details = ", ".join(f"{key}={value}" for key, value in self.attributes.items() if key != "array")
        operands = ", ".join(f"v{value.number}" for value in self.inputs)
        between = ", " if operands and details else ""
        return f"v{self.number}: {self.dtype}{list(self.shape)} = {self.kind}({operands}{between}{details})"


@dataclass(frozen=True)
class Store:
    """A result of a program: a value that is written into a source, or into a new output.

    Attributes
    ----------
    value : Value
    target : Value or int
        A held source of the same shape, or the position of an output.
    """

    value: Value
    target: Value | int


@dataclass(frozen=True)
class Check:
    """A check at run time that elements are not negative and below an upper bound; a violation raises an error."""

    value: Value
    bound: int
    message: str
    error: type[Exception] = IndexError

    def failure(self) -> Exception:
        """Return the error of a violation."""
        return self.error(self.message)


@dataclass
class Program:
    """Values, the stores at the end, and the checks at the start."""

    stores: list[Store] = field(default_factory=list)
    checks: list[Check] = field(default_factory=list)

    def values(self) -> list[Value]:
        """Return the values that the stores need, in topological order."""
        seen: dict[int, Value] = {}
        pending = [store.value for store in self.stores]
        pending += [store.target for store in self.stores if isinstance(store.target, Value)]
        pending += [check.value for check in self.checks]
        while pending:
            value = pending.pop()
            if value.number not in seen:
                seen[value.number] = value
                pending += value.inputs
        return [seen[number] for number in sorted(seen)]

    @functools.cached_property
    def uses(self) -> dict[int, int]:
        """Number of uses of each value, by its number; only for a complete program."""
        found: dict[int, int] = {}
        for operand in (*[x for value in self.values() for x in value.inputs], *[store.value for store in self.stores]):
            found[operand.number] = found.get(operand.number, 0) + 1
        return found

    def __str__(self) -> str:
        lines = [repr(value) for value in self.values()]
        for store in self.stores:
            target = f"v{store.target.number}" if isinstance(store.target, Value) else f"output {store.target}"
            lines.append(f"{target} <- v{store.value.number}")
        return "\n".join(lines)


def _key(attribute: tuple[str, Any]) -> Hashable:
    """Return what distinguishes an attribute from others: `0.0` from `-0.0`, 1 from True, NaN from nothing."""
    name, value = attribute
    if name == "array":
        return None
    return name, type(value), value if type(value) is str or isinstance(value, np.dtype) else repr(value)


class Builder:
    """Creates values; equal operations on the same inputs give one value."""

    def __init__(self) -> None:
        self._known: dict[Any, Value] = {}

    def make(self, kind: str, inputs: Iterable[Value] = (), *, shape: Shape, dtype: DType, **attributes: Any) -> Value:
        """Return the value of an operation."""
        operands = tuple(inputs)
        array, typed = attributes.get("array"), tuple(map(_key, sorted(attributes.items()))) if attributes else ()
        key = (kind, tuple(value.number for value in operands), shape, dtype, typed, id(array))
        found = self._known.get(key)
        if found is None:
            found = self._known[key] = Value(kind, operands, attributes, shape, dtype, len(self._known))
        return found

    def splat(self, number: Any, shape: Shape, dtype: DType) -> Value:
        """Return a value with one number in every element."""
        return self.make("splat", shape=shape, dtype=dtype, number=dtype.type(number).item())


@functools.lru_cache(1024)
def contiguous(shape: Shape) -> Shape:
    """Return the strides, in elements, of a row-major array.

    Examples
    --------
    >>> contiguous((2, 3, 4))
    (12, 4, 1)
    """
    strides, step = [], 1
    for length in reversed(shape):
        strides.append(step)
        step *= length
    return tuple(reversed(strides))


def storage(value: Value) -> Value:
    """Return the base of a view; any other value itself."""
    return value.inputs[0] if value.kind == "view" else value


def placed(value: Value) -> tuple[Value, int, Shape]:
    """Return the base of a value, with its offset and strides there."""
    if value.kind == "view":
        return value.inputs[0], value.attributes["offset"], value.attributes["strides"]
    return value, 0, contiguous(value.shape)


def leading(value: Value) -> tuple[bool, int] | None:
    """Return whether matrices are transposed in memory, and their leading dimension; None if BLAS accepts neither.

    BLAS accepts leading dimensions of at least the stored row length, and at least one.
    """
    (rows, columns), (down, right) = value.shape[-2:], placed(value)[2][-2:]
    for turned, length, count, near, far in ((False, columns, rows, right, down), (True, rows, columns, down, right)):
        step = far if count > 1 else max(length, 1)
        if (near == 1 or length <= 1) and step >= max(length, 1):
            return turned, step
    return None


def broadcast_strides(shape: Shape, strides: Shape, wanted: Shape) -> Shape:
    """Return the strides that broadcast an array of `shape` to `wanted`.

    Examples
    --------
    >>> broadcast_strides((3, 1), (1, 1), (2, 3, 4))
    (0, 1, 0)
    """
    added = len(wanted) - len(shape)
    inner = [0 if length == 1 else step for length, step in zip(shape, strides, strict=True)]
    return (0,) * added + tuple(inner)


def is_workspace(value: Value) -> bool:
    """Return whether a value is working memory of an intrinsic, which nothing else reads."""
    return value.kind == "call" and value.attributes["name"] == "workspace"


def is_number(value: Value) -> bool:
    """Return whether a value is a scalar argument of the call."""
    return value.kind == "source" and value.attributes["origin"] == "number"
