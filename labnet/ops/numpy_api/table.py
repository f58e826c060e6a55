"""The table of NumPy's functions, and helpers for their arguments."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.tensor import Tensor

Function = Callable[..., Any]
#: NumPy's marker of an omitted argument.
MISSING: Any = getattr(np, "_NoValue")  # noqa: B009
#: NumPy's functions other than universal ones, with their implementations, which take tensors and NumPy's argument
#: names.
FUNCTIONS: dict[Any, Function] = {}


class Elsewhere(Exception):
    """No op supports the arguments of a NumPy function."""


def need(possible: bool) -> None:
    """Raise `Elsewhere` unless ops support the arguments of a function."""
    if not possible:
        raise Elsewhere


def of(*functions: Any) -> Callable[[Function], Function]:
    """Register an implementation of NumPy functions."""

    def declare(own: Function) -> Function:
        FUNCTIONS.update(dict.fromkeys(functions, own))
        return own

    return declare


def as_tensor(x: Any) -> Tensor:
    """Convert an argument to a tensor."""
    return x if isinstance(x, Tensor) else Tensor(x)


def kept(keepdims: Any) -> bool:
    """Return whether a reduction keeps its dimensions."""
    return keepdims is not MISSING and bool(keepdims)
