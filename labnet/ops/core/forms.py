"""Functions and methods with torch's order of arguments, which the registry of ops does not hold."""

import functools
from collections.abc import Callable
from typing import Any, ParamSpec, TypeVar, cast

from labnet.ops.core.axes import rename
from labnet.tensor import Tensor

P = ParamSpec("P")
R = TypeVar("R")

#: The functions by name, each of them a method of `Tensor`.
FORMS: dict[str, Callable[..., Any]] = {}


def form(function: Callable[P, R]) -> Callable[P, R]:
    """Register a function of a tensor, which then takes torch's keywords and any input of `Tensor` too."""
    name, call = function.__name__, cast("Callable[..., R]", function)

    @functools.wraps(function)
    def method(x: Any, /, *args: Any, **static: Any) -> R:
        if static:
            rename(name, static)
        return call(x if isinstance(x, Tensor) else Tensor(x), *args, **static)

    FORMS[name] = method
    return cast("Callable[P, R]", method)
