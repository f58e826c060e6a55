"""Norms of gradients and weights over the updates, for the panel; measured at negligible cost."""

import math
import time
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np

from labnet.autograd import Gradients
from labnet.stats import Curve
from labnet.tensor import on_host

_LEAST_SECONDS = 0.1
#: Maximum share of the time spent on measuring.
_SHARE = 0.02


class Norms:
    """The curves of both norms over versions of the weights.

    Parameters
    ----------
    clock : callable
        Returns seconds.

    Attributes
    ----------
    gradient, weights : Curve
        Root of the sum of squares over all parameters.
    """

    def __init__(self, *, clock: Callable[[], float] = time.perf_counter):
        self.gradient = Curve(256)
        self.weights = Curve(256)
        self._clock = clock
        self._due = -math.inf

    def measure(self, version: int, gradients: Gradients) -> None:
        """Measure the gradients and weights of a version unless the last measurement is too recent."""
        began = self._clock()
        if began < self._due:
            return
        pairs = list(gradients.items())
        if pairs:
            self.gradient.add(version, norm(on_host(gradient) for _, gradient in pairs))
            self.weights.add(version, norm(on_host(parameter) for parameter, _ in pairs))
        ended = self._clock()
        self._due = ended + max(_LEAST_SECONDS, (ended - began) / _SHARE)

    def summary(self) -> dict[str, dict[str, list[Any]]]:
        """Return the points of both curves."""
        curves = {"gradient": self.gradient, "weights": self.weights}
        return {name: dict(zip(("steps", "values"), curve.points(), strict=True)) for name, curve in curves.items()}


def norm(arrays: Iterable[Any]) -> float:
    """Return the Euclidean norm over several arrays.

    Examples
    --------
    >>> norm([np.ones((2, 2)), np.full(3, 2.0)])
    4.0
    """
    total = 0.0
    for array in arrays:
        flat = array.ravel()
        if flat.dtype.itemsize < 4:
            flat = flat.astype(np.float32)
        total += float(np.vdot(flat, flat))
    return math.sqrt(total)
