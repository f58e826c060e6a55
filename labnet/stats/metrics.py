"""Curves by name, which users log themselves."""

import math
from collections.abc import Mapping
from typing import Any

from labnet.stats.curve import Curve

_MOST = 64
_LONGEST = 64


class Metrics:
    """Curves by name, at most 64.

    Examples
    --------
    >>> metrics = Metrics()
    >>> metrics.log(3, {"accuracy": 0.9})
    {'accuracy': 0.9}
    >>> metrics.summary()
    {'accuracy': {'steps': [3], 'values': [0.9]}}
    """

    def __init__(self) -> None:
        self._curves: dict[str, Curve] = {}

    def log(self, step: int, values: Mapping[str, Any]) -> dict[str, float]:
        """Add a point to each named curve, and return the values as numbers.

        Raises
        ------
        TypeError, ValueError
            If a value is no number, or a name is too long or one too many; nothing is logged then.
        """
        numbers = {name: _number(name, value) for name, value in values.items()}
        new = numbers.keys() - self._curves.keys()
        if len(self._curves) + len(new) > _MOST:
            raise ValueError(f"log: at most {_MOST} names are kept, got {sorted(new)[0]!r} as a further one")
        for name, value in numbers.items():
            self._curves.setdefault(name, Curve()).add(step, value)
        return numbers

    @property
    def last(self) -> dict[str, float]:
        """The latest finite value of each curve."""
        return {name: curve.last for name, curve in self._curves.copy().items() if curve.last is not None}

    def summary(self) -> dict[str, dict[str, list[Any]]]:
        """Return the points of all curves."""
        curves = self._curves.copy().items()
        return {name: dict(zip(("steps", "values"), curve.points(), strict=True)) for name, curve in curves}


def _number(name: Any, value: Any) -> float:
    if not isinstance(name, str) or not 0 < len(name) <= _LONGEST or not name.isprintable():
        raise ValueError(f"log: a name has 1 to {_LONGEST} printable characters, got {name!r:.80}")
    if value is None:  # JSON has no NaN
        return math.nan
    try:
        return float(value)
    except (TypeError, ValueError):
        raise TypeError(f"log: {name} must be a number, got {value!r:.60}") from None
