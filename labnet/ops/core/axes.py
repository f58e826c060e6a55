"""Normalisation of arguments that name or count dimensions, to plain integers."""

import inspect
import operator
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin

import numpy as np

from labnet.errors import AxisError, DTypeError
from labnet.ops.core.names import AXES, KEYWORDS
from labnet.tensor import Tensor

Shape = int | tuple[int, ...]

_NAMES = ("axis", "axes", "source", "destination", "shift", "k", "n")


@dataclass(frozen=True)
class Kind:
    """The accepted forms of an argument: one integer, several, None."""

    one: bool
    several: bool
    optional: bool


def kinds(parameters: Iterable[inspect.Parameter]) -> dict[str, Kind]:
    """Return the parameters that name or count dimensions, with their accepted forms by annotation."""
    found = {}
    for parameter in parameters:
        choices = get_args(parameter.annotation) or (parameter.annotation,)
        if get_origin(parameter.annotation) is Sequence:
            choices = (parameter.annotation,)
        listed = [get_args(choice)[0] for choice in choices if get_origin(choice) in (tuple, Sequence)]
        several = int in listed
        if parameter.name in _NAMES and (several or (int in choices and not listed)):
            found[parameter.name] = Kind(int in choices, several, NoneType in choices)
    return found


def plain(op: str, name: str, value: Any, kind: Kind) -> int | tuple[int, ...] | None:
    """Convert an argument to Python integers, from NumPy integers, 0-d tensors or any sequence of these.

    Raises
    ------
    DTypeError
        If it is of another type.
    """
    if value is None and kind.optional:
        return None
    if kind.several and type(value) is tuple and {type(one) for one in value} <= {int}:
        return value
    ending = " or None" * kind.optional
    if kind.several and (_is_sequence(value) or not kind.one):
        return integers(op, name, value, ending)
    return integer(op, name, value, (" or a tuple of integers" if kind.several else "") + ending)


def rename(op: str, static: dict[str, Any]) -> None:
    """Give keywords of torch and NumPy, such as ``dim``, their names in labnet.

    Raises
    ------
    TypeError
        If an argument is given under both names.
    """
    for key in KEYWORDS.keys() & static.keys():
        name = "axes" if key == "dims" and op in AXES else KEYWORDS[key]
        if name in static:
            raise TypeError(f"{op}() got both {key!r} and {name!r}, which are one argument")
        static[name] = static.pop(key)


def make_plain(op: str, axes: Mapping[str, Kind], static: dict[str, Any]) -> None:
    """Convert the dimension arguments of a call to plain integers, after `rename`; see `plain`."""
    if not KEYWORDS.keys().isdisjoint(static):
        rename(op, static)
    for key, kind in axes.items():
        if key in static and (type(static[key]) is not int or not kind.one):
            static[key] = plain(op, key, static[key], kind)


def integer(op: str, name: str, value: Any, ending: str = "") -> int:
    """Return one integer; `ending` names other accepted forms in the message of a `DTypeError`."""
    try:
        return _index(value)
    except TypeError:
        raise DTypeError(f"{op}: {name} must be an integer{ending}, got {value!r:.80}") from None


def integers(op: str, name: str, value: Any, ending: str = "") -> tuple[int, ...]:
    """Return one or several integers as a tuple; see `integer`."""
    try:
        return tuple([_index(one) for one in (value if _is_sequence(value) else (value,))])
    except TypeError:
        message = f"{op}: {name} must be an integer or a tuple of integers{ending}, got {value!r:.80}"
        raise DTypeError(message) from None


def _is_sequence(value: Any) -> bool:
    if isinstance(value, np.ndarray | Tensor):
        return value.ndim == 1
    return isinstance(value, Sequence) and not isinstance(value, str | bytes)


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def normalize_axis(op: str, axis: int, shape: tuple[int, ...]) -> int:
    """Return a dimension as a non-negative integer.

    Raises
    ------
    AxisError
        If there is no such dimension.
    """
    if not -len(shape) <= axis < len(shape):
        raise AxisError(f"{op}: axis {axis} is out of bounds for shape {shape}")
    return axis % len(shape)
