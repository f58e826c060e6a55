"""Simplification: constants are folded, and operations without effect are removed.

Dead values need no pass of their own, since a program lists only what its stores need.
"""

import functools
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from labnet.compile.ir.values import Builder, Program, Store, Value, leading, storage
from labnet.ops.core.registry import REGISTRY


def simplify(program: Program) -> Program:
    """Return an equivalent program with fewer operations."""
    builder, known = Builder(), dict[int, Value]()
    for value in program.values():
        inputs = tuple(known[operand.number] for operand in value.inputs)
        known[value.number] = _simpler(builder, value, inputs)
    stores = [
        Store(known[s.value.number], known[s.target.number] if isinstance(s.target, Value) else s.target)
        for s in program.stores
    ]
    targets = {id(store.target) for store in stores}
    stores = [_apart(builder, store, targets) for store in stores]
    checks = [replace(c, value=_in_memory(builder, known[c.value.number])) for c in program.checks]
    return Program(stores, checks)


def _simpler(builder: Builder, value: Value, inputs: tuple[Value, ...]) -> Value:
    if value.kind == "map":
        simple = _MAPS.get(value.attributes["name"], _same)(builder, value, inputs)
        if simple is not None:
            return simple
        if all(operand.kind == "splat" for operand in inputs):
            return builder.splat(_number(value, inputs), value.shape, value.dtype)
    if value.kind == "view":
        if inputs[0].kind == "splat":
            return builder.splat(inputs[0].attributes["number"], value.shape, value.dtype)
        inputs = (_as_base(builder, inputs[0]),)
    if value.kind in ("take", "call"):
        count = 1 if value.kind == "take" else len(inputs)
        inputs = (*(_in_memory(builder, x) for x in inputs[:count]), *inputs[count:])
    if value.kind == "matmul":
        inputs = tuple(x if x.kind != "splat" and leading(x) else _copied(builder, x) for x in inputs)
    return builder.make(value.kind, inputs, shape=value.shape, dtype=value.dtype, **value.attributes)


def _apart(builder: Builder, store: Store, targets: set[int]) -> Store:
    """Return a store that reads no target of a store, so that all stores act as if simultaneous."""
    moves = isinstance(store.target, Value) and store.value is not store.target
    copied = moves and id(storage(store.value)) in targets
    return Store(_copied(builder, store.value), store.target) if copied else store


def _as_base(builder: Builder, operand: Value) -> Value:
    """Return a value that may be the base of a view: copies an operand that has become a view."""
    return _copied(builder, operand) if operand.kind == "view" else operand


def _in_memory(builder: Builder, operand: Value) -> Value:
    """Return a contiguous value: copies an operand that has become a view or a number."""
    return _copied(builder, operand) if operand.kind in ("view", "splat") else operand


def _copied(builder: Builder, operand: Value) -> Value:
    return builder.make("map", [operand], shape=operand.shape, dtype=operand.dtype, name="copy", work=operand.dtype)


def _number(value: Value, inputs: tuple[Value, ...]) -> object:
    """Evaluate an elementwise op on numbers."""
    numbers = [np.asarray(operand.attributes["number"], operand.dtype) for operand in inputs]
    if value.attributes["name"] == "copy":
        return numbers[0]
    with np.errstate(all="ignore"):
        arrays = [number.astype(value.attributes["work"]) for number in numbers]
        if value.attributes["name"] == "where":
            arrays[0] = numbers[0]
        return REGISTRY[value.attributes["name"]].forward(*arrays)


def _is(operand: Value, number: float) -> bool:
    return operand.kind == "splat" and operand.attributes["number"] == number


def _unchanged(value: Value, operand: Value) -> bool:
    return operand.shape == value.shape and operand.dtype == value.dtype


def _same(builder: Builder, value: Value, inputs: tuple[Value, ...]) -> Value | None:
    return None


def _product(builder: Builder, value: Value, inputs: tuple[Value, ...]) -> Value | None:
    for operand, other in (inputs, inputs[::-1]):
        if _is(other, 1) and _unchanged(value, operand):
            return operand
    return None


def _quotient(builder: Builder, value: Value, inputs: tuple[Value, ...]) -> Value | None:
    operand, other = inputs
    if other.kind != "splat" or value.dtype.kind != "f":
        return None
    number = other.attributes["number"]
    if number == 1 and _unchanged(value, operand):
        return operand
    if number and np.frexp(number)[0] in (0.5, -0.5):  # a power of two: its reciprocal is exact, unless it overflows
        factor = builder.splat(1 / number, other.shape, value.dtype)
        if np.isfinite(factor.attributes["number"]):
            return _map(builder, value, "multiply", (operand, factor))
    return None


def _power(builder: Builder, value: Value, inputs: tuple[Value, ...]) -> Value | None:
    base, exponent = inputs
    if exponent.kind != "splat" or value.dtype.kind != "f" or np.broadcast_shapes(base.shape) != value.shape:
        return None
    number = exponent.attributes["number"]
    if number == 1:
        return base if _unchanged(value, base) else None
    if number == 2:
        return _map(builder, value, "square", (base,))
    if number == 3:
        return _map(builder, value, "multiply", (_map(builder, value, "square", (base,)), base))
    if number == 0.5 and exponent.shape == () and _takes_roots():
        return _map(builder, value, "sqrt", (base,))
    return _map(builder, value, "reciprocal", (base,)) if number == -1 else None


@functools.cache
def _takes_roots() -> bool:
    """Return whether NumPy computes a power of one half as a square root, which differs at -inf and -0."""
    with np.errstate(invalid="ignore"):
        return bool(np.isnan(np.power(np.full(1, -np.inf), 0.5)[0]))


def _map(builder: Builder, value: Value, name: str, inputs: tuple[Value, ...]) -> Value:
    return builder.make("map", inputs, shape=value.shape, dtype=value.dtype, name=name, work=value.attributes["work"])


_MAPS: dict[str, Callable[[Builder, Value, tuple[Value, ...]], Value | None]] = {
    "multiply": _product,
    "divide": _quotient,
    "pow": _power,
}
