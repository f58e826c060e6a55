"""What the modules of this package share: the table of functions, and what arguments mean."""

from collections.abc import Callable
from typing import Any

import numpy as np

from labnet.tensor import Tensor

Function = Callable[..., Any]
#: What NumPy takes for an argument that is left out.
MISSING: Any = getattr(np, "_NoValue")  # noqa: B009
#: Functions of NumPy, universal ones aside, and what stands for each: its names of arguments, tensors in and out.
FUNCTIONS: dict[Any, Function] = {}


class Elsewhere(Exception):
    """The arguments of a function of NumPy ask for what no op does."""


def need(possible: bool) -> None:
    """Raise `Elsewhere` unless ops can do what the arguments of a function ask for."""
    if not possible:
        raise Elsewhere


def of(*functions: Any) -> Callable[[Function], Function]:
    """Declare what stands for functions of NumPy."""

    def declare(own: Function) -> Function:
        FUNCTIONS.update(dict.fromkeys(functions, own))
        return own

    return declare


def as_tensor(x: Any) -> Tensor:
    """Return an argument as a tensor."""
    return x if isinstance(x, Tensor) else Tensor(x)


def kept(keepdims: Any) -> bool:
    """Return whether a reduction keeps its dimensions."""
    return keepdims is not MISSING and bool(keepdims)
