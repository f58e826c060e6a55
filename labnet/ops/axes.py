"""Arguments that name dimensions, or count places along them: made plain integers before anything uses them."""

import inspect
import operator
from collections.abc import Iterable
from dataclasses import dataclass
from types import NoneType
from typing import Any, get_args, get_origin

from labnet.errors import AxisError, DTypeError

_NAMES = ("axis", "source", "destination", "shift")


@dataclass(frozen=True)
class Kind:
    """What an argument may be: several integers as well as one, and None."""

    several: bool
    optional: bool


def kinds(parameters: Iterable[inspect.Parameter]) -> dict[str, Kind]:
    """Return which parameters name dimensions, and what each may be by its annotation."""
    found = {}
    for parameter in parameters:
        if parameter.name in _NAMES:
            choices = get_args(parameter.annotation) or (parameter.annotation,)
            several = any(get_origin(choice) is tuple for choice in choices)
            found[parameter.name] = Kind(several, NoneType in choices)
    return found


def plain(op: str, name: str, value: Any, kind: Kind) -> int | tuple[int, ...] | None:
    """Return an argument as integers of Python's: NumPy's and tensors of one are fine, and lists for tuples.

    Raises
    ------
    DTypeError
        If it is something else.
    """
    if value is None and kind.optional:
        return None
    ending = " or None" * kind.optional
    if not kind.several:
        return integer(op, name, value, ending)
    found = integers(op, name, value, ending)
    return found if isinstance(value, tuple | list) else found[0]


def integer(op: str, name: str, value: Any, ending: str = "") -> int:
    """Return one integer; `ending` is what else the argument may be, for the message of a `DTypeError`."""
    try:
        return _index(value)
    except TypeError:
        raise DTypeError(f"{op}: {name} must be an integer{ending}, got {value!r:.80}") from None


def integers(op: str, name: str, value: Any, ending: str = "") -> tuple[int, ...]:
    """Return one integer, or several, as a tuple; see `integer`."""
    try:
        return tuple([_index(one) for one in (value if isinstance(value, tuple | list) else (value,))])
    except TypeError:
        raise DTypeError(f"{op}: {name} must be an integer or a tuple of integers{ending}, got {value!r:.80}") from None


def _index(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError
    return operator.index(value)


def normalize_axis(op: str, axis: int, shape: tuple[int, ...]) -> int:
    """Return a dimension counted from the first one.

    Raises
    ------
    AxisError
        If there is no such dimension.
    """
    if not -len(shape) <= axis < len(shape):
        raise AxisError(f"{op}: axis {axis} is out of bounds for shape {shape}")
    return axis % len(shape)
